"""Tables of the figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lab.arms import ALL, PATCHED, STOCK
from lab.table import Row, aligned

from .goals import Goal
from .recording import CALLS

_HEADER = (*ALL, "stock/patched", "patched/in-tree", "replaced/in-tree")


def calls_table(calls: dict[str, Any], labels: dict[tuple[str, int], str]) -> str:
    """Microseconds per call, and ratios. Arguments: as in bench.goals.of_calls()."""
    rows: list[Row] = [("microseconds per call", *_HEADER)]
    for case, points in calls.items():
        rows += [[labels[case, size], *_figures(found)] for size, found in points.items()]
    return aligned(rows)


def pairs_table(calls: dict[str, Any], release: str) -> str:
    """Microseconds per call on a release that is measured without and with the plugin only.

    calls: as in bench.calls.Figures, with one size each; release: of DIRAC.
    """
    rows: list[Row] = [(f"microseconds per call, DIRAC {release}", STOCK, PATCHED, "stock/patched")]
    for case, points in calls.items():
        ((_, found),) = points.items()
        stock, patched = found[STOCK]["us"], found[PATCHED]["us"]
        rows.append((case, number(stock), number(patched), f"{number(stock / patched)} x"))
    return aligned(rows)


def starts_table(starts: dict[str, Any], own_part: dict[str, Any]) -> str:
    """Milliseconds from the start of a command to its end, and the plugin's own part of a start."""
    rows: list[Row] = [("milliseconds per start", STOCK, PATCHED, "patched/stock")]
    for name, found in starts.items():
        stock, patched = found[STOCK]["ms"], found[PATCHED]["ms"]
        rows.append([name, number(stock), number(patched), f"{patched / stock:.2f} x"])
    parts = {name: f"{found['ms']:.1f}" for name, found in own_part.items()}
    words = f"{parts['load']} ms in the first look-up, {parts['hooks']} ms in hooks, {parts['both']} ms in all"
    return f"{aligned(rows)}\nthe plugin's own part of a start: {words}"


def recording_table(recording: dict[str, dict[str, float]], outcomes: dict[str, dict[str, float]]) -> str:
    """Microseconds per call without and with recording, and what recording adds to what users feel."""
    rows: list[Row] = [("microseconds per call", "on or off", "recorded (ab)", "cost")]
    for arm, found in recording.items():
        plain, recorded = found["plain"], found["recorded"]
        rows.append((f"{CALLS[arm]}, {arm}", number(plain), number(recorded), f"{recorded - plain:.2f} us"))
    for name, found in outcomes.items():
        rows.append((name, "", "", f"{found['recorded'] - found['plain']:.2f} us"))
    return aligned(rows)


def goals_table(goals: Sequence[Goal]) -> str:
    """The goals and what was reached."""
    rows: list[Row] = [("goal for the patched arm", "reached", "limit", "which is", "")]
    for goal in goals:
        missed = f"MISSED by {(goal.figure / goal.most - 1) * 100:.0f} %" + (f": {goal.reason}" if goal.reason else "")
        verdict = "met" if goal.met else missed
        rows.append((goal.call, number(goal.figure), number(goal.most), goal.limit, verdict))
    return aligned(rows)


def number(value: float) -> str:
    """A figure with three significant digits, or with all digits before the decimal point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.1 else f"{value:.3f}"


def _figures(found: dict[str, Any]) -> list[str]:
    stock, patched, in_tree, replaced = figures = [found[arm]["us"] for arm in ALL]
    ratios = (f"{number(stock / patched)} x", f"{patched / in_tree:.2f} x", f"{replaced / in_tree:.2f} x")
    return [*map(number, figures), *ratios]
