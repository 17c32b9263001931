"""Whether two arms differ, how sure that is, and how much more data it takes to know.

The units are windows and processes, never calls: the calls of a window share its load, so a thousand of them may say no
more than one, and an interval over calls would be far too narrow.

- By time: a unit is a pair of neighbouring windows of a process, equally long, one of each arm in random order.
- By call: a unit is a window in which both arms ran at once; equally many calls of each are compared.
- By process: a unit is what got its arm together (see ``rows.process_units``).

If the patch does nothing, the two sides of a unit could be exchanged, whatever the share is and however skewed, sparse
or drifting the times are: a difference is as likely as its opposite. The sides must be equally large, because the
median of few skewed times is biased.

A report is read again and again while data come in, and each time is one more chance to be wrong. So intervals and
verdicts hold for all looks together: of 100 comparisons of equal arms at most 5 are ever called different.

Times are compared as logarithms, because drift and patches both multiply. The typical call is the median of a block:
few calls are timed, and one that met a pause of the machine would dominate the mean. The mean is compared as well,
because a patch may speed up most calls and still lose by the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

# Not scipy.stats, which calls these but takes a second to import.
from scipy.special import betaincinv, ndtri

CONFIDENCE = 0.95
# A smaller difference is not worth waiting for.
RELEVANT = 0.05
# The probability of seeing a relevant difference after the time that we say it takes.
POWER = 0.8
# The fewest units for a verdict. With fewer a small spread may be luck: eight coins fall alike in 1 of 128 cases.
FEWEST = {"time": 8, "call": 8, "process": 3}
# What is looked for: how many times as many errors one arm makes.
_ERROR_RATIOS = (2.0, 8.0, 64.0)
_SURE = 100
MORE, FEWER = "more", "fewer"

FASTER, SLOWER, NO_DIFFERENCE = "faster", "slower", "no difference"
TOO_LITTLE, NOT_COMPARED = "too little data yet", "not compared"


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % confidence interval; that of a ratio holds for all looks together."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """The mean difference between the arms, and how well it is known."""

    mean: float
    error: float  # the standard error of the mean
    freedom: float  # its degrees of freedom
    units: int  # pairs, windows, or processes of the arm that has fewer

    def bounds(self) -> tuple[float, float]:
        """The interval of the difference, for all looks together; infinite if there are too few units."""
        reach = _reach(self.freedom)
        reach = reach * self.error if math.isfinite(reach) else reach
        return self.mean - reach, self.mean + reach


@dataclass(frozen=True)
class Verdict:
    """What can be said of a target."""

    word: str  # one of the five above
    units: int = 0
    more: int | None = None  # about how many more units are needed, if there is too little data


def paired(differences: Sequence[float]) -> Estimate | None:
    """The mean of differences within pairs; None if there are fewer than two."""
    units = len(differences)
    if units < 2:
        return None
    return Estimate(fmean(differences), math.sqrt(_variance(differences) / units), units - 1, units)


def of_sums(pairs: Sequence[tuple[float, float]]) -> Estimate | None:
    """The logarithm of the ratio of the two sums; None if there are fewer than two pairs or a sum is 0.

    For means: the logarithm of each would be biased, as that of the mean of few calls is too low.
    """
    units = len(pairs)
    first, second = (sum(pair[side] for pair in pairs) for side in (0, 1))
    if units < 2 or not first or not second:
        return None
    # The deviation of each pair from the ratio of all, to first order.
    residuals = [one - first / second * other for one, other in pairs]
    mean, error = math.log(first) - math.log(second), math.sqrt(units * _variance(residuals)) / first
    # One pair that outweighs all others would look like a well-known large ratio; it is one large difference.
    plain = paired([one - other for one, other in pairs])
    if plain and plain.mean:
        error = max(error, abs(mean * plain.error / plain.mean))
    # The numbers of a damaged file may be too far apart.
    return Estimate(mean, error, units - 1, units) if math.isfinite(error) else None


def between(groups: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Estimate | None:
    """The mean difference, first minus second, between units that ran in one arm each.

    Args:
        groups: Both arms' values for each group of comparable units: a catalogue and a matcher take different times in
            either arm.

    Returns:
        Student's estimate, or the weighted mean of those of several groups. None if no group has two units in each arm.
    """
    weights = total = error = spread = 0.0
    units = 0
    for first, second in groups.values():
        if min(len(first), len(second)) < 2:
            continue
        weight = 1 / (1 / len(first) + 1 / len(second))
        weights += weight
        total += weight * (fmean(first) - fmean(second))
        # One spread for both arms: that of three units may be small by luck, however many the other arm has.
        freedom = len(first) + len(second) - 2
        squared = weight * sum(_variance(values) * (len(values) - 1) for values in (first, second)) / freedom
        error += squared
        spread += squared**2 / freedom
        units += min(len(first), len(second))
    if not units:
        return None
    # Satterthwaite's degrees of freedom, unless there is no spread to divide by.
    return Estimate(total / weights, math.sqrt(error) / weights, error**2 / spread if spread else 2.0 * units, units)


def _variance(values: Sequence[float]) -> float:
    # The standard library's is exact, and thirty times as slow.
    mean = fmean(values)
    return sum((value - mean) * (value - mean) for value in values) / (len(values) - 1)


def _reach(freedom: float) -> float:
    """How many standard errors an interval reaches to either side.

    More than Student's, to hold for all looks together: it excludes what is 20 times less likely than a mean that is
    normally distributed about it with the spread of one unit. See Wang and Ramdas, "Anytime-valid t-tests and
    confidence sequences for Gaussian means with unknown variance" (2025), after Lai (1976). With symmetric differences
    of longer tails than a Gaussian's it errs less often (Efron, "Student's t-test under symmetry conditions", 1969).
    """
    units = freedom + 1
    bound = 1 - ((1 - CONFIDENCE) ** 2 / (units + 1)) ** (1 / units)
    left = units - bound * (units + 1)
    return math.sqrt(bound * (units + 1) * freedom / left) if left > 0 else math.inf


def errors_differ(shares: Iterable[tuple[float, float]]) -> str:
    """Whether the patched arm has more or fewer errors than by chance, for all looks together.

    With few errors, or errors in bursts, a normal approximation gives false alarms. So we bet: each unit multiplies a
    stake by a factor that is 1 on average if the arms are alike: the likelihood ratio for an arm with so many times as
    many errors. The probability that the stake ever reaches 100 is at most one hundredth, in either direction (Ville's
    inequality; see Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2024).

    Args:
        shares: For each unit with errors, the patched arm's part of them, and the mean of that part if arms are alike.

    Returns:
        ``MORE``, ``FEWER`` or an empty text.
    """
    found = list(shares)
    for word, power in ((MORE, 1), (FEWER, -1)):
        odds = [ratio**power - 1 for ratio in _ERROR_RATIOS]
        stakes = (math.fsum(math.log((1 + part * one) / (1 + mean * one)) for part, mean in found) for one in odds)
        if fmean(map(_exp, stakes)) >= _SURE:
            return word
    return ""


def error_shares(groups: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> list[tuple[float, float]]:
    """Units for :func:`errors_differ`, made of error rates in groups as for :func:`between`.

    Each unit of the arm with fewer units is joined with an equal part of the other arm's.
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
    """How many times as fast the patched arm is, from an estimate of stock minus patched in logarithms.

    Returns:
        None if there are too few units for a finite interval.
    """
    if estimate is None or not math.isfinite(estimate.bounds()[0]):
        return None
    return Interval(*map(_exp, (estimate.mean, *estimate.bounds())))


def _exp(value: float) -> float:
    # With few units the interval may be too wide for a float.
    return math.exp(min(max(value, -700.0), 700.0))


def rate(errors: int, calls: int) -> Interval | None:
    """The rate of errors with the exact interval of Clopper and Pearson; None without calls.

    The interval assumes independent calls, so it is the narrowest possible: it does not tell whether the arms differ.
    """
    if not calls:
        return None
    tail = (1 - CONFIDENCE) / 2
    low = float(betaincinv(errors, calls - errors + 1, tail)) if errors else 0.0
    high = float(betaincinv(errors + 1, calls - errors, 1 - tail)) if errors < calls else 1.0
    return Interval(errors / calls, low, high)


def judge(estimate: Estimate | None, kind: str) -> Verdict:
    """The verdict on an estimate of stock minus patched in logarithms.

    Args:
        estimate: None if there are fewer than two units.
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
    """About how many units, including the present ones, it takes to see a relevant difference if there is one.

    Always more than there are: if the present ones should be enough but were not, as many as it takes for half of it.
    """
    relevant = math.log1p(RELEVANT)
    needed = max(FEWEST[kind], _units_for(estimate, relevant))
    return needed if needed > estimate.units else max(estimate.units + 1, _units_for(estimate, relevant / 2))


def _units_for(estimate: Estimate, difference: float) -> int:
    # Assumes that more units are like the present ones: the error falls with the square root of their number, and the
    # degrees of freedom grow in proportion. The number depends on these in turn; it settles within a few rounds.
    needed, squared = float(estimate.units), estimate.error**2 * estimate.units
    for _ in range(8):
        freedom = max(4.0, estimate.freedom * needed / estimate.units)  # with fewer no interval has an end
        reach = _reach(freedom) + float(ndtri(POWER))
        needed = max(2.0, squared * reach**2 / difference**2)
    return math.ceil(needed)
