"""The report's statistics: no false alarms, real differences are found, and too little data is recognized."""

from __future__ import annotations

import json
import math

import numpy
import pytest

from bench import aa
from dirac_perfpatch.comparison import words
from dirac_perfpatch.comparison.report import build
from dirac_perfpatch.comparison.rows import Row
from dirac_perfpatch.comparison.snapshot import parse
from dirac_perfpatch.comparison.spool_reading import Gathered
from dirac_perfpatch.comparison.statistics import (
    FASTER,
    FEWER,
    FEWEST,
    MORE,
    NO_DIFFERENCE,
    SLOWER,
    TOO_LITTLE,
    Estimate,
    between,
    error_shares,
    errors_differ,
    judge,
    of_sums,
    paired,
    rate,
    ratio,
    units_needed,
)
from lab import spools

RUNS = 100


def _row(documents: list[spools.Document]) -> Row:
    snapshots = tuple(parse(json.dumps(one).encode()) for one in documents)
    (patch,) = build([], Gathered(snapshots, ())).patches
    (row,) = patch.rows
    return row


# Both arms are stock


@pytest.mark.simulation
@pytest.mark.parametrize(
    ("kind", "share", "load", "units"),
    [
        ("time", 0.1, "bimodal", 40),
        ("time", 0.95, "sparse", 80),
        ("call", 0.1, "bimodal", 60),
        ("call", 0.9, "very sparse", 100),
        ("process", 0.12, "very sparse", 8),
    ],
)
def test_equal_arms_are_called_different_in_at_most_5_of_100_comparisons(
    kind: str, share: float, load: str, units: int
) -> None:
    """At any look after each unit. `python3 -m bench.aa` has all shares and loads, and more runs."""
    runs = [aa.wrong(kind, share, aa.LOADS[load], units, run) for run in range(60)]
    # 5 of 100, plus what chance may add.
    assert max(map(sum, zip(*runs))) <= 6


@pytest.mark.simulation
def test_errors_that_come_in_bursts_are_no_difference() -> None:
    """At any look, with a tenth of the calls patched: single calls fail, or all for a while."""
    random, wrong = numpy.random.default_rng(3), 0
    for _ in range(RUNS):
        errors = numpy.where(random.random(120) < 0.8, random.integers(0, 2, 120), 200)
        shares = [(random.binomial(number, 0.1) / number, 0.1) for number in errors if number]
        wrong += any(errors_differ(shares[:units]) for units in range(1, len(shares)))
    assert wrong <= RUNS * 0.04


def test_one_component_is_not_measured_by_another() -> None:
    """By process: a slow component with more patched hosts does not make the patch look slow."""
    random, documents = numpy.random.default_rng(5), []
    for number in range(16):
        slow = number < 8
        arm = "patched" if (number % 4 if slow else (number + 1) % 4) else "stock"
        component = {"typical": 1e-1 if slow else 1e-4, "component": "Slow" if slow else "Quick"}
        documents.append(
            spools.alternating(random, "process", 8, arm=arm, host=f"h{number}", timed_per_window=20.0, **component)
        )
    row = _row(documents)
    assert row.ratio is not None
    assert row.ratio.high / row.ratio.low < 10


def test_the_processes_of_a_host_are_one_unit_if_they_share_their_arm() -> None:
    documents = spools.fleet(numpy.random.default_rng(1), 8, 8)
    assert _row(documents).verdict.units == 4  # of 8 processes in each arm
    for one in documents:  # pinned, one of each arm on every host
        arm = "patched" if one["pid"] == 1 else "stock"
        one["patches"]["error_stack"]["arm"] = arm
        for row in one["blocks"]:
            row["arm"] = arm
    assert _row(documents).verdict.units == 8


# The patch does something


@pytest.mark.simulation
@pytest.mark.parametrize(("kind", "windows"), [("time", 400), ("call", 150)])
def test_a_patch_that_takes_a_sixth_of_the_time_off_is_found(kind: str, windows: int) -> None:
    for word, faster in ((FASTER, 1.2), (SLOWER, 1 / 1.2)):
        rows = [_row([spools.alternating(numpy.random.default_rng(seed), kind, windows, faster)]) for seed in range(10)]
        assert sum(row.verdict.word == word for row in rows) >= 9
        assert sum(row.ratio.low <= faster <= row.ratio.high for row in rows if row.ratio) >= 9


@pytest.mark.simulation
@pytest.mark.parametrize(("kind", "share", "units"), [("time", 0.5, 30), ("time", 0.1, 36), ("call", 0.1, 36)])
def test_a_patch_that_takes_half_the_time_is_found_in_an_hour(kind: str, share: float, units: int) -> None:
    found = 0
    for run in range(10):
        *_, (median, _, _) = aa.looks(kind, share, aa.LOADS["bimodal"]._replace(per_minute=60), units, run, faster=2.0)
        found += judge(median, kind).word == FASTER
    assert found >= 9


@pytest.mark.simulation
def test_processes_that_take_half_the_time_are_found() -> None:
    for seed in range(5):
        row = _row(spools.fleet(numpy.random.default_rng(seed), 10, 8, 2.0, timed_per_window=20.0))
        assert row.verdict.word == FASTER


def test_a_few_windows_that_happen_to_agree_are_no_verdict() -> None:
    few = [0.7, 0.7001, 0.7, 0.6999, 0.7, 0.7, 0.7]
    assert judge(paired(few), "time").word == TOO_LITTLE
    assert judge(paired([*few, 0.7]), "time").word == FASTER
    assert judge(between({"": ([0.7, 0.7001], [0.0, 0.0001])}), "process").word == TOO_LITTLE
    assert judge(between({"": ([0.7, 0.7001, 0.7], [0.0, 0.0001, 0.0])}), "process").word == FASTER


@pytest.mark.parametrize("kind", ["time", "call", "process"])
def test_without_data_there_is_too_little(kind: str) -> None:
    for estimate in (paired([]), paired([0.3]), between({}), between({"": ([1.0], [1.0, 2.0])})):
        assert estimate is None
    verdict = judge(None, kind)
    assert (verdict.word, verdict.units, verdict.more) == (TOO_LITTLE, 0, FEWEST[kind])


def test_values_without_any_spread_are_no_trouble() -> None:
    same = between({"": ([1.0] * 3, [1.0] * 3)})
    assert same is not None
    assert judge(same, "process").word == judge(paired([0.0] * 8), "time").word == NO_DIFFERENCE


def test_certain_sameness_is_said() -> None:
    spread = [0.01, -0.01] * 50
    assert judge(paired(spread), "time").word == NO_DIFFERENCE
    assert judge(paired([10 * one for one in spread[:8]]), "time").word == TOO_LITTLE
    # The verdict depends on whether a difference is still possible, not on whether one was seen.
    assert judge(paired([0.03 + 4 * one for one in spread[:30]]), "time").word == FASTER
    assert judge(paired([0.04 + 12 * one for one in spread[:30]]), "time").word == TOO_LITTLE


def test_patched_calls_that_fail_are_found() -> None:
    early = _row([spools.alternating(numpy.random.default_rng(3), "time", 4, error_rates=(0.0, 1.0))])
    assert early.errors == ""
    broken = _row([spools.alternating(numpy.random.default_rng(3), "time", 50, error_rates=(0.002, 0.2))])
    assert broken.errors == MORE
    assert words.verdict(broken).endswith("; more errors with the patch")
    # A share of a tenth with twice as many errors; no patched errors; processes.
    assert errors_differ([(0.0, 0.1)] * 81 + [(1.0, 0.1)] * 19) == ""
    assert errors_differ([(0.0, 0.1)] * 243 + [(1.0, 0.1)] * 57) == MORE
    assert errors_differ([(0.0, 0.5)] * 10) == FEWER
    rates = {"A": ([0.001] * 30, [0.05] * 10), "B": ([0.0] * 5, [0.0] * 5)}
    assert [one for shares in error_shares(rates) for one in shares] == pytest.approx([0.05 / 0.053, 0.25] * 10)
    assert errors_differ(error_shares(rates)) == MORE


# How long to wait


@pytest.mark.simulation
def test_the_wait_is_about_right() -> None:
    """The difference is found with the number of units that the report says it takes."""
    spread, difference = 0.3, math.log(1.05)
    told, found = [], 0
    for seed in range(RUNS):
        random = numpy.random.default_rng(seed)
        differences = list(random.normal(difference, spread, 30))
        estimate = paired(differences)
        assert estimate is not None
        told.append(units_needed(estimate, "time"))
        differences += random.normal(difference, spread, max(0, told[-1] - 30)).tolist()
        found += judge(paired(differences), "time").word == FASTER
    # At 680 pairs an interval reaches to 3.57 standard errors: ((3.57 + 0.84) * 0.3 / 0.0488) ** 2 = 735.
    assert 735 / 1.15 < numpy.median(told) < 735 * 1.15
    assert 0.7 * RUNS < found < 0.9 * RUNS


@pytest.mark.parametrize("kind", ["time", "call", "process"])
@pytest.mark.parametrize("mean", [0.0, 0.03, 0.06, -1.0])
@pytest.mark.parametrize("error", [1e-6, 0.01, 0.02, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("units", [1, 2, 5, 6, 100])
def test_with_too_little_data_more_is_needed(kind: str, mean: float, error: float, units: int) -> None:
    verdict = judge(Estimate(mean, error, max(1, units - 1), units), kind)
    assert (verdict.word == TOO_LITTLE) == (verdict.more is not None)
    if verdict.more is not None:
        assert verdict.more >= max(1, FEWEST[kind] - units)


@pytest.mark.parametrize(("kind", "seconds"), [("time", 120), ("call", 60)])
def test_the_wait_follows_the_pace_of_the_data(kind: str, seconds: int) -> None:
    """With 60 s windows; three processes need a third of the time."""
    random = numpy.random.default_rng(2)
    row = _row([spools.alternating(random, kind, 12, timed_per_window=200.0)])
    assert row.more_seconds is not None and row.verdict.more is not None
    assert row.more_seconds / row.verdict.more == pytest.approx(seconds, rel=0.25)
    three = _row([spools.alternating(random, kind, 6, pid=pid) for pid in (1, 2, 3)])
    assert three.more_seconds is not None and three.verdict.more is not None
    assert three.more_seconds / three.verdict.more == pytest.approx(seconds / 3, rel=0.25)


# Estimates


def test_the_interval_of_pairs_holds_at_all_looks_together() -> None:
    """At its bounds, a difference is 20 times as likely as none."""
    values = [0.1, 0.2, 0.3, 0.4, 0.2, 0.3, 0.25, 0.2]
    estimate = paired(values)
    assert estimate is not None
    for bound in estimate.bounds():
        shifted = [value - bound for value in values]
        explained = sum(shifted) ** 2 / (9 * sum(value**2 for value in shifted))
        assert 9**-0.5 * (1 - explained) ** -4 == pytest.approx(20)
    found = ratio(estimate)
    assert found is not None
    assert (found.low, found.value, found.high) == pytest.approx(
        [math.exp(one) for one in (estimate.bounds()[0], estimate.mean, estimate.bounds()[1])]
    )


def test_the_estimate_of_processes_is_that_of_student() -> None:
    first, second = [27.5, 21.0, 19.0, 23.6, 17.0, 17.9], [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0, 24.8]
    estimate = between({"": (first, second)})
    assert estimate is not None
    # From scipy.stats.ttest_ind.
    assert estimate.mean / estimate.error == pytest.approx(-1.7234616)
    assert estimate.freedom == pytest.approx(13)
    # Two equal groups give the same difference with a smaller error.
    both = between({"": (first, second), "other": ([one + 9 for one in first], [one + 9 for one in second])})
    assert both is not None
    assert both.mean == pytest.approx(estimate.mean)
    assert both.error == pytest.approx(estimate.error / math.sqrt(2))
    assert both.freedom == pytest.approx(2 * estimate.freedom)


# From scipy.stats.binomtest(...).proportion_ci(method="exact").
@pytest.mark.parametrize(
    ("errors", "calls", "low", "high"),
    [
        (0, 10, 0.0, 0.30849710781876294),
        (10, 10, 0.6915028921812371, 1.0),
        (3, 1000, 0.0006190999316499173, 0.008742023238657654),
        (1, 1, 0.025, 1.0),
        (50_000, 10**9, 4.9562697406027965e-05, 5.044020080650077e-05),
    ],
)
def test_the_interval_of_errors_is_the_exact_one(errors: int, calls: int, low: float, high: float) -> None:
    found = rate(errors, calls)
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((errors / calls, low, high), rel=1e-6)


def test_the_ratio_of_sums_has_the_interval_of_its_pairs() -> None:
    """The standard error is the spread of a thousand draws."""
    random, found = numpy.random.default_rng(6), []
    for _ in range(1000):
        common = random.lognormal(0, 0.1, 50)
        pairs = list(zip(1.1 * common * random.lognormal(0, 0.2, 50), common * random.lognormal(0, 0.2, 50)))
        found.append(of_sums(pairs))
    means = [one.mean for one in found if one]
    assert numpy.mean(means) == pytest.approx(math.log(1.1), abs=0.01)
    assert numpy.mean([one.error for one in found if one]) == pytest.approx(numpy.std(means), rel=0.1)
    assert of_sums([(1.0, 1.0)]) is of_sums([(0.0, 1.0)] * 3) is None
    assert judge(of_sums([*[(1.0, 1.0)] * 20, (1e4, 1.0)]), "time").word == TOO_LITTLE


def test_without_calls_there_is_no_rate() -> None:
    assert rate(0, 0) is None


def test_intervals_without_end_are_none() -> None:
    """A few pairs exclude nothing, and JSON has no infinity."""
    assert ratio(None) is ratio(paired([-0.1, 0.1])) is ratio(paired([0.1] * 3)) is None
    found = ratio(paired([-300.0, 300.0] * 3))
    assert found is not None and math.isfinite(found.high) and found.low > 0
