"""The goals for the patched arm, and whether one run meets them.

Ratios, wherever an arm is there to compare with: absolute figures differ from machine to machine. The others are
microseconds or milliseconds on a machine where the stock extensionsByPriority() takes 6000 us.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lab.arms import IN_TREE, PATCHED, STOCK

# The goals of the measured calls: at most so many microseconds, by case and size ...
WITHIN = {
    ("extensionsByPriority()", 1): 0.8,
    ('getExtensionMetadata("DIRAC")', 1): 0.9,
    # In-tree hands out the shared map itself; ours are copies.
    ("getSiteSEMapping()", 120): 60.0,
}
# ... or at most so many times in-tree, at the same size or at another one.
AT_MOST = {
    **{('S_ERROR("x")', frames): (0.5, frames) for frames in (5, 20, 40)},
    ("loadProxyFromFile", 1): (1.2, 1),
    ("loadProxyFromFile", 64): (1.2, 1),
    ("ConnectionPool.get", 1): (1.3, 1),
    ("ConnectionPool.get", 100): (1.3, 1),
}
# The sizes that they need, by case.
SIZES = {case: tuple(at for name, at in (*WITHIN, *AT_MOST) if name == case) for case, _ in (*WITHIN, *AT_MOST)}
# Of two equal commands that are started in turn one is the faster by this much, by chance.
START_FACTOR = 1.03


@dataclass(frozen=True)
class Goal:
    """The patched figure must not exceed a limit.

    call: a row of the table, with its size; limit: how it is put in words; figure, most: both in the unit of the row.
    """

    call: str
    limit: str
    figure: float
    most: float

    @property
    def met(self) -> bool:
        return self.figure <= self.most


def of_calls(calls: dict[str, Any], labels: dict[tuple[str, int], str]) -> list[Goal]:
    """The goals of the measured calls.

    calls: see bench.calls.Figures; labels: of each case and size, as in the table.
    """

    def figure(case: str, size: int, arm: str) -> float:
        return float(calls[case][size][arm]["us"])

    goals = [Goal(labels[at], f"{most} us", figure(*at, PATCHED), most) for at, most in WITHIN.items()]
    for (case, size), (factor, other) in AT_MOST.items():
        limit = f"{factor} x in-tree" + (f" at {other}" if other != size else "")
        most = factor * figure(case, other, IN_TREE)
        goals.append(Goal(labels[case, size], limit, figure(case, size, PATCHED), most))
    return goals


def of_starts(starts: dict[str, Any], own_part: dict[str, Any]) -> list[Goal]:
    """The goals of a start; arguments as bench.startup measured them."""
    limit = f"{START_FACTOR} x stock"
    goals = [
        Goal(name, limit, found[PATCHED]["ms"], START_FACTOR * found[STOCK]["ms"]) for name, found in starts.items()
    ]
    return [*goals, Goal("the plugin's own part", "25 ms", own_part["both"]["ms"], 25.0)]


def of_recording(recording: dict[str, dict[str, float]]) -> list[Goal]:
    """The goals of being recorded; argument as bench.recording measured it."""
    cost = {arm: found["recorded"] - found["plain"] for arm, found in recording.items()}
    stock = recording[STOCK]["plain"]
    return [
        Goal("recording of a cached call", "0.3 us", cost[PATCHED], 0.3),
        Goal("recording of a stock call", "1 % of it", cost[STOCK], 0.01 * stock),
    ]
