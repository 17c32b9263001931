"""A row of the report: what was measured of a target, or of what users feel, in both arms; and what a unit is.

The unit of the statistics is a pair of windows, a window by call, or what got its arm together; see ``statistics``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from dirac_perfpatch.comparison import statistics
from dirac_perfpatch.comparison.snapshot import ARMS, BY_TIME, PATCHED, STOCK, Snapshot
from dirac_perfpatch.comparison.statistics import Estimate, Interval, Verdict
from dirac_perfpatch.toggles import AB

# Windows count as equally long if the shorter is at least this part of the longer; the journal's thread may be late.
ALIKE = 0.9


@dataclass(frozen=True)
class Arm:
    """The calls of a target, or the outcomes of a method, in one arm; seconds are None if none was timed."""

    calls: int
    errors: int
    timed: int
    error_rate: Interval | None
    median: float | None
    p95: float | None
    p99: float | None
    mean: float | None = None  # this and the next only of outcomes
    cpu: float | None = None  # CPU seconds of the thread, the mean


@dataclass(frozen=True)
class Row:
    """One target, or what users feel: a method, or several."""

    patch: str
    target: str
    by: str  # what has an arm: time, call or process; empty if nothing was compared
    arms: Mapping[str, Arm]  # an arm without calls is missing
    ratio: Interval | None  # how many times as fast a typical call (the median) is with the patch
    mean_ratio: Interval | None  # the same of the mean, which shows what is saved in total
    verdict: Verdict  # on the typical call
    total: Verdict  # on the mean
    more_seconds: float | None  # about how long to wait for enough data; None if it is enough or waiting does not help
    errors: str  # MORE or FEWER if the patched arm certainly has more or fewer errors, else empty
    points: tuple[tuple[float, float], ...] = field(repr=False)  # start and ratio of each pair
    cpu_ratio: Interval | None = None  # of outcomes: stock over patched, of the mean CPU time
    cpu: Verdict | None = None


class Pair(NamedTuple):
    """Stock and patched side by side: in the two windows of a pair or, by call, in one window."""

    start: float
    end: float
    median: float | None  # logarithm of stock minus that of patched; None if they cannot be compared
    mean: tuple[float, float] | None  # stock and patched, times the weight of the pair
    errors: tuple[float, float] | None  # the patched arm's part, and what it is if the arms are alike


def by_of(snapshot: Snapshot, patch: str) -> str:
    """What has an arm of a patch in a process: time, call or process; empty if it is not compared."""
    state = snapshot.patches.get(patch)
    return state.by if state and state.mode == AB else ""


def process_units(patch: str, values: Iterable[tuple[Snapshot, float]]) -> dict[str, tuple[list[float], list[float]]]:
    """The units of a comparison by process.

    Host and component decide the arm, so all processes of a component on a host share it, and share the host's hardware
    and load: together they are one unit, with the mean as its value. If a component has both arms on one host, they
    were pinned process by process, and each process is a unit.

    Args:
        patch: The patch's name.
        values: Processes that compare it by process, each with its value.

    Returns:
        By component, the values of the units in stock and in patched.
    """
    places: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one, value in values:
        if one.patches[patch].arm in ARMS:
            places[one.host, one.component][one.patches[patch].arm].append(value)
    units: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for (_, component), arms in places.items():
        for side, arm in enumerate((STOCK, PATCHED)):
            found = arms.get(arm, [])
            units[component][side].extend(found if len(arms) == 2 else [fmean(found)] if found else [])
    return dict(units)


def of_pairs(pairs: Sequence[Pair]) -> tuple[Estimate | None, Estimate | None, str]:
    """Estimates of median and mean, and whether errors differ."""
    return (
        statistics.paired([pair.median for pair in pairs if pair.median is not None]),
        statistics.of_sums([pair.mean for pair in pairs if pair.mean is not None]),
        statistics.errors_differ(pair.errors for pair in pairs if pair.errors is not None),
    )


def seconds_per_unit(by: str, pairs: Sequence[Pair], window: float) -> float:
    """How long all processes together take for one more pair."""
    usable = [pair for pair in pairs if pair.median is not None]
    if not usable:
        return 2 * window if by == BY_TIME else window
    return (max(pair.end for pair in usable) - usable[0].start) / len(usable)
