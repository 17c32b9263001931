"""The table of the starts, and the goals."""

from __future__ import annotations

from typing import Any

from bench.goals import Goal
from bench.result import number
from lab.arms import PATCHED, STOCK
from lab.table import Row, aligned

# At most this multiple of stock, by start and release.
_COMMAND, _ALONE = "import of the API, as in a command", "import of the API alone"
AT_MOST = {
    (_COMMAND, "8.0.86"): 0.8,
    (_COMMAND, "9.0.28"): 0.6,
    (_COMMAND, "9.1.8"): 0.6,
    ("dirac-proxy-info", "9.0.28"): 0.65,
    ("dirac-proxy-info", "9.1.8"): 0.65,
}
# What is not faster must not be slower by more.
NOT_SLOWER = 1.01
_SMALL = "the entry point and five small modules, some 2 ms; all beyond that is the noise of the machine"
_LATE = "DIRAC has imported everything before it looks for extensions, which loads the plugin"
REASONS = {
    "import DIRAC, first look-up": _SMALL,
    "dirac-version": _SMALL,
    _ALONE: _LATE,
    "job wrapper, until it has a job": _LATE,
    "service, until it listens": _LATE,
}
REMARKS = (
    "Milliseconds of CPU time, the minimum of interleaved starts (median). A command looks for extensions before its "
    "main; the API alone is imported by a script that never does. The agent runs an empty cycle."
)


def table(figures: dict[str, Any]) -> str:
    """CPU time of each start and release in both arms, with the medians."""
    rows: list[Row] = [("milliseconds of CPU per start", "release", STOCK, PATCHED, "patched/stock", "of medians")]
    for release, found in figures.items():
        for name, arms in found.items():
            stock, patched = arms[STOCK], arms[PATCHED]
            shown = (f"{number(one['ms'])} ({number(one['median'])})" for one in (stock, patched))
            ratios = (f"{patched[key] / stock[key]:.3f} x" for key in ("ms", "median"))
            rows.append([name, release, *shown, *ratios])
    return aligned(rows)


def goals(figures: dict[str, Any]) -> list[Goal]:
    """The goals: of the issue, and that nothing gets slower."""
    found = []
    for release, starts in figures.items():
        for name, arms in starts.items():
            factor = AT_MOST.get((name, release), NOT_SLOWER)
            limit = f"{factor} x stock"
            most = factor * arms[STOCK]["ms"]
            found.append(Goal(f"{name}, {release}", limit, arms[PATCHED]["ms"], most, REASONS.get(name, "")))
    return found


def goals_table(found: list[Goal]) -> str:
    """The goals and what was reached."""
    from bench.result import goals_table as all_goals

    return all_goals(found)
