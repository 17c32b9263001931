"""What `make bench` prints, from invented figures: every call, every goal, and why one is missed."""

from __future__ import annotations

from typing import Any

import pytest

from bench import __main__ as bench
from bench import calls, goals, recording
from dirac_perfpatch.bench import cases
from lab.arms import ALL, PATCHED, PLUGGED, STOCK


def figures(patched: float, sizes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Every stock call takes 1000 us."""
    us = {arm: {"us": patched if arm in PLUGGED else 1000.0} for arm in ALL}
    starts = {name: {STOCK: {"ms": 100.0}, PATCHED: {"ms": 100.0 + patched}} for name in ("dirac-version", "import")}
    cost = {"plain": 100.0, "recorded": 100.0 + patched / 10}
    return {
        "calls": {case: dict.fromkeys(at, us) for case, at in sizes.items()},
        "calls of the oldest release": {case: dict.fromkeys(at, us) for case, at in calls.ON_OLDEST.items()},
        "starts": starts,
        "own part": {part: {"ms": patched} for part in ("load", "hooks", "both")},
        "recording": dict.fromkeys(recording.CALLS, cost),
        "recording of outcomes": dict.fromkeys((recording.REQUEST, recording.STATEMENT), cost),
        "releases": dict.fromkeys(ALL, "9.1.8"),
    }


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("patched", [0.1, 900.0])
def test_each_call_and_each_goal_has_a_row(quick: bool, patched: float, capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(patched, calls.sizes(quick))
    bench._report(found)
    output = capsys.readouterr().out
    for _, case in cases():
        for size in found["calls"].get(case.name, ()):
            assert f"\n{case.label(size)} " in output
    for case in calls.ON_OLDEST:
        assert f"\n{case} " in output.partition("DIRAC 8.0")[2]
    per_call = len(goals.WITHIN) + len(goals.WITHIN_ON_OLDEST) + len(PLUGGED) * len(goals.AT_MOST)
    assert len(found["goals"]) == per_call + 3 + 3
    assert {goal["met"] for goal in found["goals"]} <= ({True} if patched < 1 else {True, False})
    for goal in found["goals"]:
        (row,) = [line for line in output.splitlines() if line.startswith(f"{goal['call']} ") and goal["limit"] in line]
        assert row.endswith("met") if goal["met"] else "MISSED by" in row and row.endswith(goal["reason"])


def test_every_goal_is_measured_by_the_quick_form_too() -> None:
    for quick in (True, False):
        measured = {(case, size) for case, sizes in calls.sizes(quick).items() for size in sizes}
        assert measured >= {*goals.WITHIN, *goals.AT_MOST}
    assert {(case, size) for case, sizes in calls.ON_OLDEST.items() for size in sizes} >= {*goals.WITHIN_ON_OLDEST}
    assert set(goals.REASONS) <= {case.name for _, case in cases()} | {"recording", "starts"}
