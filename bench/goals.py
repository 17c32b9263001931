"""The goals for the arms with the plugin, and whether a run meets them.

Goals are ratios wherever there is an arm to compare with, as absolute figures differ between machines. The others are
microseconds or milliseconds on a machine where stock extensionsByPriority() takes 6000 us.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lab.arms import IN_TREE, PATCHED, PLUGGED, STOCK

from .recording import REQUEST

# Goals for the measured calls, by case and size: at most this many microseconds ...
WITHIN = {
    ("extensionsByPriority()", 1): 0.8,
    ('getExtensionMetadata("DIRAC")', 1): 0.9,
    # In-tree returns the shared map itself; ours are copies.
    ("getSiteSEMapping()", 120): 60.0,
    ("checkSanity", 1): 30.0,
    ("client's TLS context", 1): 150.0,
    ("Tornado client", 1): 2000.0,
    ("getHostnameForDN, the last", 200): 5.0,
    ("CFG.loadFromBuffer", 1000): 60_000.0,
    ("setOptionInCFG", 1000): 200.0,
    ("JEncode.decode, two dates each", 1000): 4000.0,
}
# ... or at most this multiple of in-tree, at the given size.
AT_MOST = {
    **{('S_ERROR("x")', frames): (0.5, frames) for frames in (5, 20, 40)},
    ("loadProxyFromFile", 1): (1.2, 1),
    ("loadProxyFromFile", 64): (1.2, 1),
    ("ConnectionPool.get", 1): (1.3, 1),
    ("ConnectionPool.get", 100): (1.3, 1),
}
# The same for the oldest release.
WITHIN_ON_OLDEST = {("getProxyInfo", 1): 500.0}
# Why a goal is out of reach, shown beside it if it is missed.
REASONS = {
    "checkSanity": "the host's search for the files and a look at their states, at every call, are most of it",
    "getProxyInfo": "for VOMS, the host writes the chain to a file and looks for its own certificate at every call",
    "loadProxyFromFile": "asks the kernel at every call whether this user may read the file; in-tree does not",
    "starts": "each patch is put on when its module is complete; `make bench-starts` has what commands gain",
    "recording": "counting takes two Python calls, about 1 us; few stock calls are as fast as this one",
}
# The sizes that the goals need, by case.
SIZES = {case: tuple(at for name, at in (*WITHIN, *AT_MOST) if name == case) for case, _ in (*WITHIN, *AT_MOST)}
# If two equal commands are started in turn, one is faster by this factor by chance.
START_FACTOR = 1.03


@dataclass(frozen=True)
class Goal:
    """The patched figure must not exceed a limit.

    call: a table row, with its size; limit: in words; figure, most: both in the row's unit; reason: why it is missed.
    """

    call: str
    limit: str
    figure: float
    most: float
    reason: str = ""

    @property
    def met(self) -> bool:
        return self.figure <= self.most


def of_calls(calls: dict[str, Any], labels: dict[tuple[str, int], str]) -> list[Goal]:
    """The goals for the measured calls.

    calls: see bench.calls.Figures; labels: by case and size, as in the table.
    """

    def figure(case: str, size: int, arm: str) -> float:
        return float(calls[case][size][arm]["us"])

    goals = [
        Goal(labels[at], f"{most} us", figure(*at, PATCHED), most, REASONS.get(at[0], ""))
        for at, most in WITHIN.items()
    ]
    for (case, size), (factor, other) in AT_MOST.items():
        limit = f"{factor} x in-tree" + (f" at {other}" if other != size else "")
        most = factor * figure(case, other, IN_TREE)
        reason = REASONS.get(case, "")
        for arm in PLUGGED:
            goals.append(Goal(f"{labels[case, size]}, {arm}", limit, figure(case, size, arm), most, reason))
    return goals


def of_oldest(calls: dict[str, Any]) -> list[Goal]:
    """The goals for the calls on the oldest release; calls: see bench.calls.Figures."""
    return [
        Goal(
            f"{case}, oldest release",
            f"{most} us",
            float(calls[case][size][PATCHED]["us"]),
            most,
            REASONS.get(case, ""),
        )
        for (case, size), most in WITHIN_ON_OLDEST.items()
    ]


def of_starts(starts: dict[str, Any], own_part: dict[str, Any]) -> list[Goal]:
    """The goals for a start; arguments: the figures of bench.startup."""
    limit = f"{START_FACTOR} x stock"
    goals = [
        Goal(name, limit, found[PATCHED]["ms"], START_FACTOR * found[STOCK]["ms"], REASONS["starts"])
        for name, found in starts.items()
    ]
    return [*goals, Goal("the plugin's own part", "25 ms", own_part["both"]["ms"], 25.0, REASONS["starts"])]


# Microseconds of server CPU that the cheapest request takes, a ping by DISET.
_PING = 8000.0


def of_recording(recording: dict[str, dict[str, float]], outcomes: dict[str, dict[str, float]]) -> list[Goal]:
    """The goals for recording; arguments: the figures of bench.recording."""
    cost = {arm: found["recorded"] - found["plain"] for arm, found in recording.items()}
    stock, request = recording[STOCK]["plain"], outcomes[REQUEST]
    return [
        Goal("recording a cached call", "0.3 us", cost[PATCHED], 0.3),
        Goal("recording a stock call", "1 % of it", cost[STOCK], 0.01 * stock, REASONS["recording"]),
        Goal("recording a request", "1 % of a ping", request["recorded"] - request["plain"], 0.01 * _PING),
    ]
