"""Requests, statements and cycles: windows that patches share, what is recorded in them, and what the report says."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from dirac_perfpatch.comparison import outcomes as recording
from dirac_perfpatch.comparison.arms import Comparison
from dirac_perfpatch.comparison.clock import Clock
from dirac_perfpatch.comparison.effects import ALL_PATCHES, REQUESTS, STATEMENTS
from dirac_perfpatch.comparison.outcomes import OTHER, Outcomes
from dirac_perfpatch.comparison.page import as_html
from dirac_perfpatch.comparison.report import Report, build
from dirac_perfpatch.comparison.snapshot import (
    PATCHED,
    REQUEST,
    STATEMENT,
    STOCK,
    Method,
    Outcome,
    OutcomeWindow,
    Snapshot,
    Unusable,
    parse,
)
from dirac_perfpatch.comparison.spool_reading import Gathered
from dirac_perfpatch.comparison.statistics import FASTER, MORE, SLOWER
from dirac_perfpatch.comparison.tables import as_csv, as_json, as_text
from dirac_perfpatch.patching import Guard, Patch, Switch, Target
from dirac_perfpatch.toggles import Toggle
from lab import spools

Child = Callable[..., "subprocess.CompletedProcess[str]"]


def compared(clock: Clock, name: str, by: str = "time", share: float = 0.5, patched: bool = True) -> Comparison:
    patch, guard = Patch(name, (), lambda database: None), Guard(name, lambda reason: None)
    comparison = Comparison(patch, guard, Toggle("ab", {}, by, share, clock.seconds), 0, patched)
    comparison.applied = True
    clock.add(comparison)
    return comparison


def arms(clock: Clock, number: int) -> list[dict[str, str]]:
    """The arms of all patches in the first windows; each lasts as long as the clock says."""
    now, found = 0.0, []
    for _ in range(number):
        now = clock.tick(now, now)
        assert clock.window is not None
        found.append(clock.window.arms)
    return found


def patched_first(clock: Clock, pairs: int) -> dict[str, list[bool]]:
    found = arms(clock, 2 * pairs)
    return {name: [one[name] == PATCHED for one in found[::2]] for name in found[0]}


# Windows


def test_all_patches_change_arms_on_the_same_boundaries_and_each_draws_its_own() -> None:
    clock = Clock(0.5, 10.0)
    names = [f"p{number}" for number in range(4)]
    for name in names:
        compared(clock, name)
    found = arms(clock, 800)
    for first, second in zip(found[::2], found[1::2]):
        assert all({first[name], second[name]} == {PATCHED, STOCK} for name in names)
    # Each combination of arms is about as frequent as any other.
    combinations = Counter(tuple(one.values()) for one in found)
    assert len(combinations) == 16
    assert min(combinations.values()) > 20


def test_together_one_draw_decides_for_all() -> None:
    clock = Clock(0.5, 10.0, together=True)
    for name in "abc":
        compared(clock, name)
    found = arms(clock, 100)
    assert {len(set(one.values())) for one in found} == {1}
    assert 10 < sum(one["a"] == PATCHED for one in found[::2]) < 40


def test_what_runs_by_process_keeps_its_arm_and_by_call_there_is_none() -> None:
    clock = Clock(0.5, 10.0)
    compared(clock, "by time")
    compared(clock, "by process", "process", patched=False)
    compared(clock, "by call", "call")
    found = arms(clock, 20)
    assert {one["by process"] for one in found} == {STOCK}
    assert {one["by time"] for one in found} == {PATCHED, STOCK}
    assert "by call" not in found[0]


def test_another_share_or_length_has_a_clock_of_its_own() -> None:
    def key(by: str, share: float, seconds: float) -> Any:
        return Clock.key(Toggle("ab", {}, by, share, seconds), together=False)

    assert key("time", 0.5, 60) == key("process", 0.1, 60) == key("call", 0.9, 60.0)
    assert len({key("time", 0.5, 60), key("time", 0.1, 60), key("time", 0.5, 30)}) == 3


def test_windows_that_are_not_compared_have_no_outcomes() -> None:
    clock = Clock(0.1, 10.0)
    compared(clock, "p", share=0.1)
    now, there = 0.0, []
    for _ in range(9):
        now = clock.tick(now, now)
        there.append(clock.window is not None)
    assert there == [True, True, False] * 3


def test_who_joins_or_leaves_cuts_the_window_for_all() -> None:
    clock, outcomes = Clock(0.5, 10.0), Outcomes()
    first = compared(clock, "first")
    clock.tick(0.0, 0.0)
    assert clock.tick(4.0, 4.0) == 10.0
    second = compared(clock, "second")
    assert clock.tick(5.0, 5.0) == 15.0
    assert clock.window
    assert clock.window.arms.keys() == {"first", "second"}
    outcomes.follow([clock])
    outcomes.end(outcomes.begin(), REQUEST, "x", False)
    second.leave()
    clock.remove(second)
    assert clock.tick(8.0, 8.0) == 18.0
    outcomes.follow([clock])
    (window,) = outcomes.recorded().windows
    assert (window.arms.keys(), window.seconds) == ({"first"}, 3.0), "it was not in its arm until the end"
    first.leave()
    clock.remove(first)
    assert clock.tick(9.0, 9.0) == math.inf
    assert clock.is_idle
    assert clock.window is None


def test_a_patch_that_waits_for_its_module_has_no_arm_until_it_is_applied(modules: Callable[..., Path]) -> None:
    modules("host", "class Pool:\n    def get(self):\n        return 1\n")
    target = Target(
        ("host",),
        "Pool.get",
        lambda fitting: None,
        lambda fitting: fitting.stand_in("Pool.get", lambda self: 1),
        None,
        (),
    )
    switch = Switch(Patch("late", (target,), lambda database: None), {})
    clock, outcomes = Clock(0.5, 10.0), Outcomes()
    compared(clock, "p")
    late = Comparison(switch.patch, switch.guard, Toggle("ab", {}, "time", 0.5, 10.0), 0, True)
    clock.add(late)
    switch.put_on(late)
    now, states = 0.0, []
    for number in range(4):
        now = clock.tick(now, now)
        outcomes.follow([clock])
        outcomes.end(outcomes.begin(), REQUEST, "x", False)
        if number == 1:
            importlib.import_module("host")
        states.append(switch.status()["state"])
    clock.end(now)
    outcomes.follow([clock])
    switch.take_off()
    assert states == ["armed", "applied", "applied", "applied"]
    found = outcomes.recorded()
    assert [set(window.arms) for window in found.windows] == [{"p"}] * 2 + [{"p", "late"}] * 2
    assert {one.arm: one.number for one in found.totals if one.patch == "late"} == {PATCHED: 1, STOCK: 1}


# Recording


@pytest.fixture
def clock() -> Clock:
    found = Clock(0.5, 10.0)
    compared(found, "p")
    return found


def recorded(clock: Clock, windows: int, *requests: tuple[str, str, bool, float, float]) -> Outcomes:
    """The same requests in each window."""
    outcomes, now = Outcomes(), 0.0
    for _ in range(windows):
        now = clock.tick(now, now)
        outcomes.follow([clock])
        (window,) = outcomes.windows
        window.waiting.extend(requests)
    clock.end(now)
    outcomes.follow([clock])
    return outcomes


def test_what_a_window_has_of_a_method(clock: Clock) -> None:
    a, b = (REQUEST, "A/B a"), (STATEMENT, "SQL")
    found = recorded(
        clock, 2, (*a, False, 1.0, 0.5), (*a, True, 2.0, 0.5), (*a, False, 6.0, 2.0), (*b, True, 3.0, 0.0)
    ).recorded()
    assert found.methods == [Method(*a, 0), Method(*b, 0)]
    assert [window.rows for window in found.windows] == [
        [Outcome(0, 3, 1, 3.0, 1.0, 2.0, 0.5), Outcome(1, 1, 1, 3.0, 0.0, 3.0, 0.0)]
    ] * 2
    assert {window.arms["p"] for window in found.windows} == {PATCHED, STOCK}
    assert len({window.pair for window in found.windows}) == 1


def test_totals_by_patch_arm_and_method_outlive_the_windows(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    compared(clock, "q", "process", patched=False)
    monkeypatch.setattr(recording, "MOST_ROWS", 2)
    requests = [(REQUEST, "x", False, 1.0, 0.5), (REQUEST, "x", True, 2.0, 0.5), (STATEMENT, "SQL", False, 0.25, 0.0)]
    found = recorded(clock, 20, *requests).recorded()
    assert len(found.windows) == 1
    half, whole = [(0, 20, 10, 30.0, 10.0), (1, 10, 0, 2.5, 0.0)], [(0, 40, 20, 60.0, 20.0), (1, 20, 0, 5.0, 0.0)]
    expected = [("p", arm, *one) for arm in (PATCHED, STOCK) for one in half] + [("q", STOCK, *one) for one in whole]
    assert sorted(found.totals) == expected
    assert found.methods == [Method(REQUEST, "x", 0), Method(STATEMENT, "SQL", 0)]


def test_time_and_cpu_time_are_those_of_the_thread(clock: Clock) -> None:
    outcomes = Outcomes()
    clock.tick(0.0, 0.0)
    outcomes.follow([clock])
    busy = threading.Event()
    thread = threading.Thread(target=lambda: [None for _ in iter(busy.is_set, True)])
    thread.start()
    begun = outcomes.begin()
    threading.Event().wait(0.1)
    outcomes.end(begun, REQUEST, "x", False)
    busy.set()
    thread.join()
    clock.end(10.0)
    outcomes.follow([clock])
    ((row,),) = (window.rows for window in outcomes.recorded().windows)
    assert row.mean >= 0.1
    assert row.cpu_mean < 0.05


def test_what_lasts_beyond_its_window_is_mixed(clock: Clock) -> None:
    outcomes = Outcomes()
    clock.tick(0.0, 0.0)
    outcomes.follow([clock])
    begun = outcomes.begin()
    clock.tick(10.0, 10.0)
    outcomes.end(begun, REQUEST, "slow", False)
    outcomes.follow([clock])
    assert outcomes.recorded().methods == [Method(REQUEST, "slow", 1)]
    assert outcomes.recorded().windows == []


def test_nothing_is_recorded_without_a_window() -> None:
    outcomes = Outcomes()
    outcomes.end(outcomes.begin(), REQUEST, "x", False)
    outcomes.follow([])
    assert outcomes.recorded() == ([], [], [])


def test_methods_and_rows_have_bounds(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [(REQUEST, f"method {number}", False, 1.0, 1.0) for number in range(200)]
    found = recorded(clock, 4, *many, (STATEMENT, "SQL", False, 1.0, 1.0)).recorded()
    assert len(found.methods) == recording.MOST_METHODS + 2
    assert {(method.kind, method.name) for method in found.methods[-2:]} == {(REQUEST, OTHER), (STATEMENT, OTHER)}
    for window in found.windows:
        assert sum(row.number for row in window.rows) == 201
    monkeypatch.setattr(recording, "MOST_ROWS", 100)
    another = Clock(0.5, 10.0)
    compared(another, "p")
    found = recorded(another, 12, *many).recorded()
    assert sum(len(window.rows) for window in found.windows) <= 100
    assert found.windows[-1].pair == max(window.pair for window in found.windows), "the newest stay"


def test_a_window_keeps_a_bounded_sample_and_exact_sums(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_SAMPLE", 50)
    requests = [(REQUEST, "x", False, float(number), 1.0) for number in range(1, 1000)]
    (window,) = recorded(clock, 1, *requests).recorded().windows
    (row,) = window.rows
    assert (row.number, row.mean) == (999, 500.0)
    assert 250 < row.median < 750


def test_no_outcome_is_lost_among_threads_and_windows() -> None:
    clock, outcomes = Clock(0.5, 10.0), Outcomes()
    compared(clock, "p")
    clock.tick(0.0, 0.0)
    outcomes.follow([clock])
    enough, made = threading.Event(), list[int]()

    def work() -> None:
        number = 0
        while not enough.wait(0.001):
            for _ in range(50):
                outcomes.end(outcomes.begin(), REQUEST, "x", False)
            number += 50
        made.append(number)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for now in range(1, 200):
        if not now % 50:
            clock.tick(float(now), float(now))
        outcomes.follow([clock])
        time.sleep(0.002)
    enough.set()
    for worker in workers:
        worker.join()
    clock.end(200.0)
    outcomes.follow([clock])
    found = outcomes.recorded()
    counted = sum(row.number for window in found.windows for row in window.rows)
    # At each of the four ends of a window, each thread may be between looking at it and appending.
    assert sum(made) - 3 * 4 <= counted + sum(method.mixed for method in found.methods) <= sum(made)
    assert len(found.windows) == 4


def test_a_child_of_a_fork_begins_at_zero(child: Child, tmp_path: Path) -> None:
    code = f"""
import os, time
from dirac_perfpatch.comparison import journal
from dirac_perfpatch.comparison.arms import Comparison
from dirac_perfpatch.comparison.clock import Clock
from dirac_perfpatch.comparison.journal import Journal
from dirac_perfpatch.comparison.snapshot import State
from dirac_perfpatch.patching import Guard, Patch
from dirac_perfpatch.toggles import Toggle
journal._LOOK_SECONDS = 0.01
ours = Journal({str(tmp_path / "spool")!r}, lambda: {{
    "release": "", "plugin": "", "patches": {{"p": State("applied", "", "ab", 0)}}, "events": {{}}}})
comparison = Comparison(
    Patch("p", (), lambda database: None), Guard("p", lambda reason: None), Toggle("ab", {{}}, "time", 0.5, 5), 0, True)
comparison.applied = True
ours.add(comparison, Clock(0.5, 5))
def until(true):
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
until(lambda: ours.outcomes.windows)
for _ in range(3):
    ours.outcomes.end(ours.outcomes.begin(), "request", "of the parent", False)
inside = ours.outcomes.begin()
pid = os.fork()
if pid:
    assert os.waitpid(pid, 0)[1] == 0
else:
    ours.outcomes.end(inside, "request", "of the parent", False)
    until(lambda: ours.outcomes.windows)
    ours.outcomes.end(ours.outcomes.begin(), "request", "of the child", False)
"""
    answer = child(code)
    assert answer.returncode == 0, answer.stderr
    found = [parse(path.read_bytes()) for path in (tmp_path / "spool").iterdir()]
    counted = [
        {one.outcomes.methods[row.method].name: row.number for window in one.outcomes.windows for row in window.rows}
        for one in found
    ]
    assert sorted(counted, key=str) == [{"of the child": 1}, {"of the parent": 3}]


# The snapshot


def document(**more: Any) -> dict[str, Any]:
    return spools.felt(numpy.random.default_rng(1), {"a": 1.0, "b": 1.0}, pairs=4, **more)


def test_a_snapshot_is_read_as_it_was_written() -> None:
    written = json.loads(json.dumps(document()))
    found = parse(json.dumps(written).encode())
    assert json.loads(json.dumps(found.data())) == written
    assert len(found.outcomes.windows) == 8
    assert found.outcomes.windows[0].arms.keys() == {"a", "b"}
    del written["outcomes"]
    assert parse(json.dumps(written).encode()).outcomes == ((), (), ()), "an older plugin's"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda found: found.update(methods=[]), "an outcome has no method"),
        (lambda found: found.update(methods={}), "methods is not a list"),
        (lambda found: found["methods"].append(["thing", "x", 0]), "kind is none of request, statement, cycle"),
        (lambda found: found["windows"].append([]), "block is not a number"),
        (lambda found: found["windows"][0].update(arms={"a": "both"}), "a is none of patched, stock"),
        (lambda found: found["windows"][0]["rows"].append([0, 1]), "Outcome is not a list of 7 values"),
        (lambda found: found["windows"][0]["rows"].append([0, -1, 0, 1, 1, 1, 1]), "number is not a number from"),
        (lambda found: found["windows"][0]["rows"].append([0, 1, 0, "1", 1, 1, 1]), "mean is not a number"),
        (lambda found: found.update(totals={}), "totals is not a list"),
        (lambda found: found["totals"].append(["a", "both", 0, 1, 0, 1, 1]), "arm is none of patched, stock"),
        (lambda found: found["totals"].append(["a", "stock", 99, 1, 0, 1, 1]), "an outcome has no method"),
    ],
)
def test_what_is_damaged_is_not_used(change: Callable[[Any], Any], complaint: str) -> None:
    found = json.loads(json.dumps(document()))
    change(found["outcomes"])
    with pytest.raises(Unusable, match=complaint):
        parse(json.dumps(found).encode())


def test_without_blocks_only_the_totals_are_read() -> None:
    found = document()
    text = json.dumps(found).encode()
    less, whole = parse(text, blocks=False).outcomes, parse(text).outcomes
    assert (less.methods, less.totals) == (whole.methods, whole.totals)
    assert whole.totals
    assert (less.windows, len(whole.windows)) == ((), 8)
    assert sum(one.number for one in whole.totals) == 2 * sum(r.number for one in whole.windows for r in one.rows)


def test_the_file_of_an_older_plugin_has_no_totals() -> None:
    found = json.loads(json.dumps(document()))
    del found["outcomes"]["totals"]
    outcomes = parse(json.dumps(found).encode()).outcomes
    assert outcomes.totals == ()
    assert outcomes.windows


def test_a_snapshot_stays_small() -> None:
    rows = [Outcome(method, 123, 4, 0.012345, 0.0012345, 0.0054321, 0.00054321) for method in range(42)]
    names = [f"patch_number_{number}" for number in range(12)]
    window = OutcomeWindow(12345, 6789, 1_700_000_000.5, 60.001, False, dict.fromkeys(names, PATCHED), rows)
    text = json.dumps([window._asdict()] * (recording.MOST_ROWS // len(rows)), separators=(",", ":"))
    assert len(text) < 450_000


# The report


def report(*documents: Any) -> Report:
    snapshots: tuple[Snapshot, ...] = tuple(parse(json.dumps(one).encode()) for one in documents)
    return build(["spool"], Gathered(snapshots, ()))


def rows(found: Report, patch: str) -> dict[str, Any]:
    if patch == ALL_PATCHES:
        return {row.target: row for row in found.felt}
    return {row.target: row for one in found.patches if one.patch == patch for row in one.felt}


def test_each_patch_is_told_from_the_others_and_all_are_summed_up() -> None:
    made = {"nothing": 1.0, "fast": 1.5, "slow": 0.8}
    found = report(*(spools.felt(numpy.random.default_rng(number), made, pid=number) for number in range(4)))
    for patch, factor in made.items():
        row = rows(found, patch)[REQUESTS]
        assert row.by == "time"
        for ratio in (row.ratio, row.mean_ratio, row.cpu_ratio):
            assert ratio.low < factor < ratio.high
    assert rows(found, "fast")[REQUESTS].verdict.word == rows(found, "fast")[STATEMENTS].verdict.word == FASTER
    assert rows(found, "fast")["DataManagement/FileCatalog addFile"].cpu.word == FASTER
    assert rows(found, "slow")[REQUESTS].verdict.word == SLOWER
    assert rows(found, "nothing")[REQUESTS].verdict.word not in (FASTER, SLOWER)
    assert list(rows(found, "fast"))[:2] == [REQUESTS, STATEMENTS]
    total = rows(found, ALL_PATCHES)[REQUESTS]
    assert total.ratio.low < 1.2 < total.ratio.high


def test_together_only_all_patches_are_compared() -> None:
    made = {"a": 1.2, "b": 1.25}
    found = report(*(spools.felt(numpy.random.default_rng(n), made, pid=n, together=True) for n in range(2)))
    assert rows(found, "a") == rows(found, "b") == {}
    total = rows(found, ALL_PATCHES)[REQUESTS]
    assert total.ratio.low < 1.5 < total.ratio.high
    assert total.verdict.word == FASTER
    assert total.arms.keys() == {PATCHED, STOCK}
    assert "With all of them together, a typical request takes" in as_text(found)


def test_one_patch_has_no_total_and_together_makes_no_difference_to_it() -> None:
    for together in (False, True):
        found = report(spools.felt(numpy.random.default_rng(1), {"a": 1.5}, together=together))
        assert rows(found, "a")[REQUESTS].verdict.word == FASTER
        assert found.felt == ()


def test_by_process_the_units_are_processes() -> None:
    random = numpy.random.default_rng(1)
    found = report(
        *(
            spools.felt(
                random, {"a": 2.0}, 6, by="process", arm=(PATCHED, STOCK)[number % 2], host=f"h{number}", pid=number
            )
            for number in range(12)
        )
    )
    row = rows(found, "a")[REQUESTS]
    assert (row.by, row.verdict.units) == ("process", 6)
    assert row.ratio.low < 2 < row.ratio.high
    assert row.cpu_ratio.low < 2 < row.cpu_ratio.high


def test_a_patch_that_is_not_in_a_process_has_no_part_in_its_requests() -> None:
    there = spools.felt(numpy.random.default_rng(1), {"a": 1.0, "b": 1.0})
    there["patches"]["a"]["state"] = "armed"
    found = report(there)
    assert rows(found, "a") == {}
    assert REQUESTS in rows(found, "b")
    assert found.felt == ()


def test_more_errors_of_requests_need_a_look() -> None:
    there = spools.felt(numpy.random.default_rng(1), {"a": 1.0})
    for window in there["outcomes"]["windows"]:
        if window["arms"]["a"] == PATCHED:
            window["rows"] = [row._replace(errors=row.number // 2) for row in window["rows"]]
    found = report(there)
    assert rows(found, "a")[REQUESTS].errors == MORE
    assert "Needs a look: patched calls fail more often than stock calls" in as_text(found)


def test_like_is_compared_with_like() -> None:
    """A window with more of the slow method is not slower."""
    there = spools.felt(numpy.random.default_rng(1), {"a": 1.0})
    for window in there["outcomes"]["windows"]:
        slow = window["arms"]["a"] == PATCHED
        window["rows"] = [Outcome(0, 100 if slow else 10, 0, *[1e-1] * 4), Outcome(1, 50, 0, *[1e-3] * 4)]
    row = rows(report(there), "a")[REQUESTS]
    assert row.ratio.value == row.mean_ratio.value == row.cpu_ratio.value == 1.0


def test_what_lasted_beyond_its_window_is_told() -> None:
    there = spools.felt(numpy.random.default_rng(1), {"a": 1.0})
    there["outcomes"]["methods"] += [Method("cycle", "System/Agent", 7)]
    there["outcomes"]["methods"][0] = there["outcomes"]["methods"][0]._replace(mixed=5)
    assert report(there).mixed == {"cycle of System/Agent": 7}, "a few of many are nothing to tell"
    assert "cycle of System/Agent: 7 lasted beyond their window" in as_text(report(there))


def test_every_form_of_the_report_has_what_users_feel() -> None:
    found = report(spools.felt(numpy.random.default_rng(1), {"fast": 1.5, "nothing": 1.0}))
    text, page, table = as_text(found), as_html(found), as_csv(found)
    for form in (text, page.replace("<wbr>", ""), table):
        assert "DataManagement/FileCatalog addFile" in form
    assert "all patches together:" in text
    assert "less CPU time" in text
    assert "All patches together" in page
    patch = next(one for one in json.loads(as_json(found))["patches"] if one["patch"] == "fast")
    assert patch["felt"][0]["cpu_ratio"]["low"] > 1
    assert patch["felt"][0]["arms"]["stock"]["cpu"] > 0
    assert any(line.startswith(f"{ALL_PATCHES},{REQUESTS},time") for line in table.splitlines())


@pytest.mark.simulation
def test_equal_arms_are_seldom_called_different_and_a_known_effect_is_found() -> None:
    """A short form of ``python3 -m bench.aa --outcomes``: one of three patches does something."""
    runs = 40
    wrong, found, covered = Counter[str](), 0, 0
    for run in range(runs):
        made = {"nothing": 1.0, "fast": 1.3, "nothing either": 1.0}
        seen = report(spools.felt(numpy.random.default_rng(run), made, 40, per_window=8.0))
        for patch in ("nothing", "nothing either"):
            row = rows(seen, patch)[REQUESTS]
            wrong.update(key for key in ("verdict", "total", "cpu") if getattr(row, key).word in (FASTER, SLOWER))
            wrong["errors"] += bool(row.errors)
        row = rows(seen, "fast")[REQUESTS]
        found += row.verdict.word == FASTER
        covered += row.ratio.low < 1.3 < row.ratio.high
    assert max(wrong.values()) <= 0.05 * 2 * runs + 2
    assert found >= 0.8 * runs
    assert covered >= 0.95 * runs - 1
