"""Whether two arms differ, how sure that is, and how much more data it takes to know.

What is compared is blocks and processes, never calls: the calls of one window share its load, so a thousand of them
may tell no more than one does, and an interval over calls would be far too narrow.

- By time: the unit is a pair of neighbouring windows of one process, one of each arm in random order. What drifts
  slowly meets both windows alike, and what is left of it is as often for one arm as for the other.
- By call: the unit is a window, in which both arms ran at once.
- By process: the unit is what got its arm together (see ``report.process_units``), with Welch's interval.

Times are compared as logarithms, since drift and patches both multiply. Of a block it is the median that is compared:
few of its calls are timed, and one that met a pause of the machine would be all that the mean shows. What calls take in
total is worked out beside it, because a patch may speed up most calls and still lose by the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

# Not scipy.stats, which takes a second to import; these are what it calls.
from scipy.special import betaincinv, stdtrit

# What is shown.
CONFIDENCE = 0.95
# What is asked for before the arms are called different. More, because the report is looked at again and again while
# data come in, and each look is one more chance to be wrong.
VERDICT_CONFIDENCE = 0.99
# A smaller difference is not worth waiting for.
RELEVANT = 0.05
# How likely a relevant difference is to be seen after the time that we say it takes.
POWER = 0.8
# Below, the spread that was seen may be a piece of luck.
FEWEST = {"time": 6, "call": 6, "process": 3}

FASTER, SLOWER, NO_DIFFERENCE, TOO_LITTLE, NOT_COMPARED = (
    "faster",
    "slower",
    "no difference",
    "too little data yet",
    "not compared",
)


@dataclass(frozen=True)
class Interval:
    """A figure and the interval that holds it, with 95 % confidence."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """The mean of a difference between the arms, and how well it is known.

    Args:
        mean: Of the difference.
        error: The standard error of the mean.
        freedom: The degrees of freedom of the error.
        units: How many pairs or windows, or processes in the arm that has fewer.
    """

    mean: float
    error: float
    freedom: float
    units: int

    def bounds(self, confidence: float) -> tuple[float, float]:
        """The interval that holds the difference with some confidence."""
        reach = float(stdtrit(self.freedom, 0.5 + confidence / 2)) * self.error
        return self.mean - reach, self.mean + reach

    def excludes_none(self) -> bool:
        """Whether the arms are certainly not alike, by the confidence that a verdict needs."""
        low, high = self.bounds(VERDICT_CONFIDENCE)
        return not low <= 0 <= high


@dataclass(frozen=True)
class Verdict:
    """What can be said of a target.

    Args:
        word: One of the five above.
        units: How many there are to judge by.
        more: About how many more it takes, if there is too little data.
    """

    word: str
    units: int = 0
    more: int | None = None


def paired(differences: Sequence[float]) -> Estimate | None:
    """The mean of differences within pairs; None if there are fewer than two."""
    units = len(differences)
    if units < 2:
        return None
    return Estimate(fmean(differences), math.sqrt(variance(differences) / units), units - 1, units)


def of_sums(pairs: Sequence[tuple[float, float]]) -> Estimate | None:
    """The logarithm of the sum of the first over the sum of the second; None with fewer than two pairs, or sums of 0.

    For means, where the logarithm of each would not do: that of the mean of few calls lies below that of many.
    """
    units = len(pairs)
    first, second = (sum(pair[side] for pair in pairs) for side in (0, 1))
    if units < 2 or not first or not second:
        return None
    # How far each pair is from the ratio of all, to the first order.
    residuals = [one - first / second * other for one, other in pairs]
    return Estimate(math.log(first / second), math.sqrt(units * variance(residuals)) / first, units - 1, units)


def between(groups: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Estimate | None:
    """The mean difference, first minus second, between units that ran in one arm each.

    Args:
        groups: The values of both arms, for each group of units that can be compared with each other: a catalogue and
            a matcher take different times whatever the arm is.

    Returns:
        Welch's estimate; of several groups the weighted mean. None if no group has two units in each arm.
    """
    weights = total = error = spread = 0.0
    units = 0
    for first, second in groups.values():
        if min(len(first), len(second)) < 2:
            continue
        weight = 1 / (1 / len(first) + 1 / len(second))
        weights += weight
        total += weight * (fmean(first) - fmean(second))
        for values in (first, second):
            squared = weight**2 * variance(values) / len(values)
            error += squared
            spread += squared**2 / (len(values) - 1)
        units += min(len(first), len(second))
    if not units:
        return None
    # Welch and Satterthwaite; values without any spread leave nothing to divide by.
    freedom = error**2 / spread if spread else 2.0 * units - 1
    return Estimate(total / weights, math.sqrt(error) / weights, freedom, units)


def ratio(estimate: Estimate) -> Interval:
    """How many times faster the patched arm is, of an estimate of stock minus patched in logarithms."""
    return Interval(*map(_exp, (estimate.mean, *estimate.bounds(CONFIDENCE))))


def _exp(value: float) -> float:
    # Two units may leave the interval without any end that can be told.
    return math.exp(min(max(value, -700.0), 700.0))


def rate(errors: int, calls: int) -> Interval | None:
    """The share of calls that are errors, with the exact interval of Clopper and Pearson; None without calls.

    It takes the calls to be independent, so it is the narrowest that the interval can be. Whether the arms differ is
    therefore not read from it.
    """
    if not calls:
        return None
    tail = (1 - CONFIDENCE) / 2
    low = float(betaincinv(errors, calls - errors + 1, tail)) if errors else 0.0
    high = float(betaincinv(errors + 1, calls - errors, 1 - tail)) if errors < calls else 1.0
    return Interval(errors / calls, low, high)


def judge(estimate: Estimate | None, kind: str) -> Verdict:
    """Put an estimate of stock minus patched, in logarithms, into a word.

    Args:
        estimate: None if there are not even two units.
        kind: time, call or process.
    """
    if estimate is None:
        return Verdict(TOO_LITTLE, 0, FEWEST[kind])
    if estimate.units < FEWEST[kind]:
        return Verdict(TOO_LITTLE, estimate.units, units_needed(estimate, kind) - estimate.units)
    if estimate.excludes_none():
        return Verdict(FASTER if estimate.mean > 0 else SLOWER, estimate.units)
    low, high = estimate.bounds(CONFIDENCE)
    if max(-low, high) <= math.log1p(RELEVANT):
        return Verdict(NO_DIFFERENCE, estimate.units)
    return Verdict(TOO_LITTLE, estimate.units, units_needed(estimate, kind) - estimate.units)


def units_needed(estimate: Estimate, kind: str) -> int:
    """About how many units it takes, those that are there among them, to see a relevant difference if there is one.

    Always more than there are: where that many should do but did not, as many as see half of it.
    """
    needed = max(FEWEST[kind], _units_for(estimate, math.log1p(RELEVANT)))
    return needed if needed > estimate.units else _units_for(estimate, math.log1p(RELEVANT) / 2)


def _units_for(estimate: Estimate, difference: float) -> int:
    # What one more unit adds is taken to be like what the others did: the error shrinks with their square root, the
    # degrees of freedom grow in proportion. These in turn decide the number, which settles within a few rounds.
    needed, squared = float(estimate.units), estimate.error**2 * estimate.units
    for _ in range(20):
        freedom = max(1.0, estimate.freedom * needed / estimate.units)
        reach = float(stdtrit(freedom, 0.5 + VERDICT_CONFIDENCE / 2) + stdtrit(freedom, POWER))
        needed = max(2.0, squared * reach**2 / difference**2)
    return math.ceil(needed)
