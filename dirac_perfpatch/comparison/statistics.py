"""Whether two arms differ, how sure that is, and how much more data it takes to know.

What is compared is blocks and processes, never calls: the calls of one window share its load, so a thousand of them
may tell no more than one does, and an interval over calls would be far too narrow.

- By time: the unit is a pair of neighbouring windows of one process, equally long, one of each arm in random order.
- By call: the unit is a window, in which both arms ran at once, and equally many calls of each are compared.
- By process: the unit is what got its arm together (see ``report.process_units``), with Student's interval.

So if the patch does nothing, the sides of a unit could be exchanged, whatever the share is, and however skewed, sparse
or drifting the times are: a difference is as likely as its opposite. Sides of different size would not do: the median
of few calls lies above that of many where some calls are much slower.

A report is looked at again and again while data come in, and each look is one more chance to be wrong. Intervals and
verdicts therefore hold for all looks together: of 100 comparisons of equal arms at most 5 are ever called different.

Times are compared as logarithms, since drift and patches both multiply. Of a block it is the median that is compared:
few of its calls are timed, and one that met a pause of the machine would be all that the mean shows. What calls take in
total is worked out beside it, because a patch may speed up most calls and still lose by the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

# Not scipy.stats, which takes a second to import; these are what it calls.
from scipy.special import betaincinv, ndtri

CONFIDENCE = 0.95
# A smaller difference is not worth waiting for.
RELEVANT = 0.05
# How likely a relevant difference is to be seen after the time that we say it takes.
POWER = 0.8
# Below, the spread that was seen may be a piece of luck: eight coins fall alike in 1 of 128 cases.
FEWEST = {"time": 8, "call": 8, "process": 3}
# How many times as likely the patched arm may make an error, or the stock arm: what is looked for.
_ERROR_RATIOS = (2.0, 8.0, 64.0)
_SURE = 100
MORE, FEWER = "more", "fewer"

FASTER, SLOWER, NO_DIFFERENCE, TOO_LITTLE, NOT_COMPARED = (
    "faster",
    "slower",
    "no difference",
    "too little data yet",
    "not compared",
)


@dataclass(frozen=True)
class Interval:
    """A figure and the interval that holds it, with 95 % confidence; that of a ratio holds it at all looks together."""

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

    def bounds(self) -> tuple[float, float]:
        """The interval that holds the difference, at all looks together; without an end if there are too few units."""
        reach = _reach(self.freedom)
        reach = reach * self.error if math.isfinite(reach) else reach
        return self.mean - reach, self.mean + reach


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
    return Estimate(fmean(differences), math.sqrt(_variance(differences) / units), units - 1, units)


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
    mean, error = math.log(first) - math.log(second), math.sqrt(units * _variance(residuals)) / first
    # One pair that outweighs all others looks like a large ratio that is well known; it is one large difference.
    plain = paired([one - other for one, other in pairs])
    if plain and plain.mean:
        error = max(error, abs(mean * plain.error / plain.mean))
    # A damaged file may have numbers that are too far apart.
    return Estimate(mean, error, units - 1, units) if math.isfinite(error) else None


def between(groups: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Estimate | None:
    """The mean difference, first minus second, between units that ran in one arm each.

    Args:
        groups: The values of both arms, for each group of units that can be compared with each other: a catalogue and
            a matcher take different times whatever the arm is.

    Returns:
        Student's estimate; of several groups the weighted mean. None if no group has two units in each arm.
    """
    weights = total = error = spread = 0.0
    units = 0
    for first, second in groups.values():
        if min(len(first), len(second)) < 2:
            continue
        weight = 1 / (1 / len(first) + 1 / len(second))
        weights += weight
        total += weight * (fmean(first) - fmean(second))
        # One spread for both arms: that of three units alone may be small by luck, however many the other arm has.
        freedom = len(first) + len(second) - 2
        squared = weight * sum(_variance(values) * (len(values) - 1) for values in (first, second)) / freedom
        error += squared
        spread += squared**2 / freedom
        units += min(len(first), len(second))
    if not units:
        return None
    # Satterthwaite; values without any spread leave nothing to divide by.
    return Estimate(total / weights, math.sqrt(error) / weights, error**2 / spread if spread else 2.0 * units, units)


def _variance(values: Sequence[float]) -> float:
    # That of the standard library is exact, and thirty times as slow.
    mean = fmean(values)
    return sum((value - mean) * (value - mean) for value in values) / (len(values) - 1)


def _reach(freedom: float) -> float:
    """How many standard errors an interval reaches to either side.

    Farther than Student's, so as to hold at all looks together: it leaves out what is 20 times less likely than means
    that are normally distributed about it, with the spread of one unit. See Wang and Ramdas, "Anytime-valid t-tests and
    confidence sequences for Gaussian means with unknown variance" (2025), after Lai (1976). Symmetric differences with
    longer tails than a Gaussian's make it err less often (Efron, "Student's t-test under symmetry conditions", 1969).
    """
    units = freedom + 1
    bound = 1 - ((1 - CONFIDENCE) ** 2 / (units + 1)) ** (1 / units)
    left = units - bound * (units + 1)
    return math.sqrt(bound * (units + 1) * freedom / left) if left > 0 else math.inf


def errors_differ(shares: Iterable[tuple[float, float]]) -> str:
    """Whether errors fall on the patched arm more or less often than chance has it, at all looks together.

    Few errors, and errors that come in bursts, make a normal approximation cry wolf. So we bet: each unit multiplies a
    stake by what is 1 on average if the arms are alike, as the likelihood of an arm that makes so many times as many
    errors would. The stake ever reaches 100 with a probability of one hundredth at most, in either direction: Ville's
    inequality; see Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (2024).

    Args:
        shares: For each unit that has an error the part of its errors that fell on the patched arm, and the mean of
            that part if the arms are alike.

    Returns:
        ``more``, ``fewer`` or an empty text.
    """
    found = list(shares)
    for word, power in ((MORE, 1), (FEWER, -1)):
        odds = [ratio**power - 1 for ratio in _ERROR_RATIOS]
        stakes = (math.fsum(math.log((1 + part * one) / (1 + mean * one)) for part, mean in found) for one in odds)
        if fmean(map(_exp, stakes)) >= _SURE:
            return word
    return ""


def error_shares(groups: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> list[tuple[float, float]]:
    """Units for :func:`errors_differ` of rates of errors; groups as for :func:`between`.

    Each unit of the arm that has fewer is put together with as many of the other as there are for each.
    """
    found = []
    for stock, patched in groups.values():
        number = min(len(stock), len(patched))
        for first in range(number):
            sides = stock[first::number], patched[first::number]
            errors = sum(map(sum, sides))
            if errors:
                found.append((sum(sides[1]) / errors, len(sides[1]) / sum(map(len, sides))))
    return found


def ratio(estimate: Estimate | None) -> Interval | None:
    """How many times faster the patched arm is, of an estimate of stock minus patched in logarithms.

    Returns:
        None if there are too few units for an interval that has an end.
    """
    if estimate is None or not math.isfinite(estimate.bounds()[0]):
        return None
    return Interval(*map(_exp, (estimate.mean, *estimate.bounds())))


def _exp(value: float) -> float:
    # Few units may leave the interval without any end that can be told.
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
    low, high = estimate.bounds()
    if not low <= 0 <= high:
        return Verdict(FASTER if estimate.mean > 0 else SLOWER, estimate.units)
    if max(-low, high) <= math.log1p(RELEVANT):
        return Verdict(NO_DIFFERENCE, estimate.units)
    return Verdict(TOO_LITTLE, estimate.units, units_needed(estimate, kind) - estimate.units)


def units_needed(estimate: Estimate, kind: str) -> int:
    """About how many units it takes, those that are there among them, to see a relevant difference if there is one.

    Always more than there are: where that many should do but did not, as many as see half of it.
    """
    needed = max(FEWEST[kind], _units_for(estimate, math.log1p(RELEVANT)))
    return (
        needed if needed > estimate.units else max(estimate.units + 1, _units_for(estimate, math.log1p(RELEVANT) / 2))
    )


def _units_for(estimate: Estimate, difference: float) -> int:
    # What one more unit adds is taken to be like what the others did: the error shrinks with their square root, the
    # degrees of freedom grow in proportion. These in turn decide the number, which settles within a few rounds.
    needed, squared = float(estimate.units), estimate.error**2 * estimate.units
    for _ in range(8):
        freedom = max(4.0, estimate.freedom * needed / estimate.units)  # with fewer no interval has an end
        reach = _reach(freedom) + float(ndtri(POWER))
        needed = max(2.0, squared * reach**2 / difference**2)
    return math.ceil(needed)
