"""What the spools say of each patch: calls, times and errors of both arms, the ratio, and a verdict."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from ddsketch import DDSketch
from ddsketch.mapping import LogarithmicMapping

from dirac_perfpatch.comparison.snapshot import ARMS, PATCHED, STOCK, Block, Series, Snapshot, printable
from dirac_perfpatch.comparison.spool_reading import Gathered
from dirac_perfpatch.comparison.statistics import (
    NOT_COMPARED,
    Estimate,
    Interval,
    Verdict,
    between,
    error_shares,
    errors_differ,
    judge,
    of_sums,
    paired,
    rate,
    ratio,
)

# States in which a patch is not what the operator wanted it to be.
TROUBLES = ("tripped", "failed")
# Windows are of one length if the shorter has at least so much of the longer; the journal's thread may be late.
_ALIKE = 0.9


@dataclass(frozen=True)
class Arm:
    """The calls of a target in one arm; the quantiles in seconds, of the calls that were timed, None if none was."""

    calls: int
    errors: int
    timed: int
    error_rate: Interval | None
    median: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True)
class Point:
    """The ratio in one pair of windows, or in one window; the start in seconds since 1970."""

    start: float
    ratio: float


@dataclass(frozen=True)
class Row:
    """One target.

    Args:
        patch: The patch's name.
        target: The target's name.
        by: How calls got their arm: time, call or process; empty where nothing was compared.
        arms: By name of the arm; one without calls is not there.
        ratio: How many times faster a typical call (the median) is with the patch.
        mean_ratio: The same of the mean, which shows what is won in total.
        verdict: On the typical call.
        total: On the mean.
        more_seconds: About how long it takes until there are data enough, if there are not and if waiting helps.
        errors: ``more`` or ``fewer`` if the patched arm has certainly more or fewer errors, else empty.
        points: The ratio over time.
    """

    patch: str
    target: str
    by: str
    arms: Mapping[str, Arm]
    ratio: Interval | None
    mean_ratio: Interval | None
    verdict: Verdict
    total: Verdict
    more_seconds: float | None
    errors: str
    points: tuple[Point, ...] = field(repr=False)


@dataclass(frozen=True)
class Usage:
    """What processes of one arm took, on average: CPU seconds, the share of a core while they ran, and memory."""

    processes: int
    cpu_seconds: float
    cores: float
    resident_bytes: float


@dataclass(frozen=True)
class Trouble:
    """A process in which the patch tripped, failed, or answered differently."""

    host: str
    component: str
    pid: int
    state: str
    reason: str


@dataclass(frozen=True)
class PatchReport:
    """One patch.

    Args:
        patch: Its name.
        states: How many processes have it in which state.
        troubles: The processes that need to be looked at.
        failures: How often its own code failed.
        checked: Answers that were compared with those of the stock host.
        differences: Those that were not the same.
        events: What the patch itself counts.
        usage: Of the processes of each arm, where processes are arms.
        cpu_ratio: How many times less CPU time the patched processes take, where processes are arms.
        memory_ratio: How many times less memory they take.
        rows: Its targets.
    """

    patch: str
    states: Mapping[str, int]
    troubles: tuple[Trouble, ...]
    failures: int
    checked: int
    differences: int
    events: Mapping[str, int]
    usage: Mapping[str, Usage]
    cpu_ratio: Interval | None
    memory_ratio: Interval | None
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Report:
    """All of it; the times in seconds since 1970."""

    folders: tuple[str, ...]
    processes: int
    hosts: tuple[str, ...]
    components: tuple[str, ...]
    releases: tuple[str, ...]
    began: float
    ended: float
    complaints: tuple[str, ...]
    patches: tuple[PatchReport, ...]


class _Pair(NamedTuple):
    """Stock and patched in what belongs together.

    Args:
        start: When it began.
        end: When it was over.
        median: The difference of the logarithms of the medians; None if it cannot be told.
        mean: Both means, with the weight that the pair has; None if an arm has no timed call.
        errors: The patched arm's part of the errors, and its mean if arms are alike; None without errors.
    """

    start: float
    end: float
    median: float | None
    mean: tuple[float, float] | None
    errors: tuple[float, float] | None


class _Estimates(NamedTuple):
    median: Estimate | None
    mean: Estimate | None
    errors: str


def build(folders: Sequence[str], gathered: Gathered) -> Report:
    """Work out the report.

    Args:
        folders: Where the snapshots were read, to be shown.
        gathered: The snapshots.
    """
    snapshots = gathered.snapshots

    def distinct(key: str) -> tuple[str, ...]:
        return tuple(sorted({getattr(one, key) for one in snapshots}))

    names = {name for one in snapshots for name in one.patches} | {s.patch for one in snapshots for s in one.series}
    return Report(
        tuple(map(printable, folders)),
        len(snapshots),
        distinct("host"),
        distinct("component"),
        distinct("release"),
        min((one.started for one in snapshots), default=0.0),
        max((one.written for one in snapshots), default=0.0),
        gathered.complaints,
        tuple(_patch(name, snapshots) for name in sorted(names)),
    )


def _patch(name: str, snapshots: Sequence[Snapshot]) -> PatchReport:
    having = [one for one in snapshots if name in one.patches]
    states = [one.patches[name] for one in having]
    events: Counter[str] = Counter()
    for one in snapshots:
        events.update(one.events.get(name, {}))
    processes = [one for one in having if _by(one, name) == "process"]
    return PatchReport(
        name,
        dict(Counter(state.state for state in states).most_common()),
        tuple(
            Trouble(one.host, one.component, one.pid, state.state, state.reason)
            for one, state in zip(having, states)
            if state.state in TROUBLES or state.differences
        ),
        sum(state.failures for state in states),
        sum(state.checked for state in states),
        sum(state.differences for state in states),
        dict(sorted(events.items())),
        {arm: usage for arm in ARMS if (usage := _usage([p for p in processes if p.patches[name].arm == arm]))},
        _processes_ratio(name, {p.key: cores for p in processes if (cores := _cores(p)) > 0}, processes),
        _processes_ratio(name, {p.key: float(p.resident_bytes) for p in processes}, processes),
        tuple(_rows(name, snapshots)),
    )


def _by(snapshot: Snapshot, patch: str) -> str:
    state = snapshot.patches.get(patch)
    return state.by if state and state.mode == "ab" else ""


def _cores(snapshot: Snapshot) -> float:
    return snapshot.cpu_seconds / max(snapshot.written - snapshot.started, 1.0)


def _usage(processes: Sequence[Snapshot]) -> Usage | None:
    if not processes:
        return None
    return Usage(
        len(processes),
        fmean(one.cpu_seconds for one in processes),
        fmean(map(_cores, processes)),
        fmean(one.resident_bytes for one in processes),
    )


def _processes_ratio(
    patch: str, values: Mapping[tuple[str, int, float], float], processes: Sequence[Snapshot]
) -> Interval | None:
    logarithms = {process: math.log(value) for process, value in values.items() if value > 0}
    return ratio(between(process_units(patch, processes, logarithms)))


def process_units(
    patch: str, processes: Iterable[Snapshot], values: Mapping[tuple[str, int, float], float]
) -> dict[str, tuple[list[float], list[float]]]:
    """What can be compared where each process is in one arm.

    The arm follows from host and component, so that all processes of a component on a host share it, and share that
    host's hardware and load, too: together they are one unit, their mean. Only where both arms are found within a
    component of a host were they given process by process, and each process is a unit.

    Args:
        patch: The patch's name.
        processes: Those in which it is compared by process.
        values: By process, those that have one.

    Returns:
        The values of the units in stock and in patched, by component.
    """
    places: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in processes:
        value = values.get(one.key)
        if value is not None and one.patches[patch].arm in ARMS:
            places[one.host, one.component][one.patches[patch].arm].append(value)
    units: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for (_, component), arms in places.items():
        for side, arm in enumerate((STOCK, PATCHED)):
            found = arms.get(arm, [])
            units[component][side].extend(found if len(arms) == 2 else [fmean(found)] if found else [])
    return dict(units)


def _rows(patch: str, snapshots: Sequence[Snapshot]) -> Iterable[Row]:
    # The rows of a process are sorted by target once: there may be a thousand in each of thousands of processes.
    series: dict[tuple[str, str], list[Series]] = defaultdict(list)
    blocks: dict[tuple[str, str], list[tuple[Snapshot, list[Block]]]] = defaultdict(list)
    windows: dict[str, float] = {"": 0.0}
    for snapshot in snapshots:
        by = _by(snapshot, patch)
        if by:
            windows[by] = snapshot.patches[patch].window_seconds
        for one in snapshot.series:
            if one.patch == patch:
                series[one.target, by].append(one)
        found: dict[str, list[Block]] = defaultdict(list)
        for block in snapshot.blocks:
            if block.patch == patch:
                found[block.target].append(block)
        for target, those in found.items():
            blocks[target, by].append((snapshot, those))
    for target, by in sorted(series):
        yield _row(patch, target, by, series[target, by], blocks[target, by], windows[by])


def _row(
    patch: str,
    target: str,
    by: str,
    series: Sequence[Series],
    blocks: Sequence[tuple[Snapshot, list[Block]]],
    window: float,
) -> Row:
    arms = {arm: _arm(those) for arm in ARMS if (those := [one for one in series if one.arm == arm])}
    if not by:
        nothing = Verdict(NOT_COMPARED)
        return Row(patch, target, by, arms, None, None, nothing, nothing, None, "", ())
    pairs = [pair for _, those in blocks for pair in pairs_of(those, by)]
    pairs.sort(key=lambda pair: pair.start)
    estimates = _of_processes(patch, blocks) if by == "process" else _of_pairs(pairs)
    verdict = judge(estimates.median, by)
    return Row(
        patch,
        target,
        by,
        arms,
        ratio(estimates.median),
        ratio(estimates.mean),
        verdict,
        judge(estimates.mean, by),
        verdict.more * _seconds_per_unit(by, pairs, window) if verdict.more and by != "process" else None,
        estimates.errors,
        tuple(Point(p.start, math.exp(p.median)) for p in pairs if p.median is not None),
    )


def pairs_of(blocks: Iterable[Block], by: str) -> list[_Pair]:
    """What belongs together among the blocks of a target in one process: the windows of a pair, or both arms' calls
    in a window. What has only one arm, because the other had no calls, is left out."""
    if by == "process":
        return []
    groups: dict[int, dict[str, Block]] = defaultdict(dict)
    for block in blocks:
        group = groups[block.pair if by == "time" else block.block]
        # A call that comes as its window ends may be a row of its own in the next.
        if block.arm not in group or group[block.arm].calls < block.calls:
            group[block.arm] = block
    pairs = (_pair(arms[STOCK], arms[PATCHED], by) for arms in groups.values() if len(arms) == 2)
    return [pair for pair in pairs if pair]


def _pair(stock: Block, patched: Block, by: str) -> _Pair | None:
    """None if the windows are not of one length: then even arms that are alike may differ."""
    both = (stock, patched)
    lengths = [one.seconds for one in both]
    if min(lengths) < _ALIKE * max(lengths) or not all(one.calls for one in both):
        return None
    # For the same reason: by call, one arm may have fewer calls than the other by design.
    timed = (stock.timed == patched.timed or by == "time") and all(one.timed for one in both)
    # The weight of Mantel and Haenszel, because windows with few calls say little.
    weight = stock.timed * patched.timed / (stock.timed + patched.timed) if timed else 0.0
    # By time it is the windows that could be exchanged, by call it is each call.
    failed = [one.errors / one.calls if by == "time" else one.errors for one in both]
    expected = 0.5 if by == "time" else patched.calls / (stock.calls + patched.calls)
    return _Pair(
        min(one.start for one in both),
        max(one.start + one.seconds for one in both),
        math.log(stock.median) - math.log(patched.median) if timed and stock.median and patched.median else None,
        (weight * stock.mean, weight * patched.mean) if timed else None,
        (failed[1] / sum(failed), expected) if any(failed) else None,
    )


def _logarithms(blocks: Iterable[Block], key: str) -> list[float]:
    values = (getattr(one, key) for one in blocks if one.timed)
    return [math.log(value) for value in values if value > 0]


def _of_pairs(pairs: Sequence[_Pair]) -> _Estimates:
    return _Estimates(
        paired([pair.median for pair in pairs if pair.median is not None]),
        of_sums([pair.mean for pair in pairs if pair.mean is not None]),
        errors_differ(pair.errors for pair in pairs if pair.errors is not None),
    )


def _of_processes(patch: str, blocks: Sequence[tuple[Snapshot, list[Block]]]) -> _Estimates:
    processes = [snapshot for snapshot, _ in blocks]
    values: dict[str, dict[tuple[str, int, float], float]] = {"median": {}, "mean": {}, "errors": {}}
    for snapshot, those in blocks:
        # A process that was pinned to the other arm by an earlier toggle may have blocks of it, too.
        own = [one for one in those if one.arm == snapshot.patches[patch].arm]
        for key in ("median", "mean"):
            if logarithms := _logarithms(own, key):
                values[key][snapshot.key] = fmean(logarithms)
        calls = sum(one.calls for one in own)
        if calls:
            values["errors"][snapshot.key] = sum(one.errors for one in own) / calls
    median, mean, errors = (process_units(patch, processes, found) for found in values.values())
    return _Estimates(between(median), between(mean), errors_differ(error_shares(errors)))


def _arm(series: Sequence[Series]) -> Arm:
    calls, errors, timed = (sum(getattr(one, key) for one in series) for key in ("calls", "errors", "timed"))
    sketch = merged(series)
    quantiles = (sketch.get_quantile_value(quantile) for quantile in (0.5, 0.95, 0.99))
    # A process may be read while it counts: an error is never counted before its call, but a file may be damaged.
    return Arm(calls, errors, timed, rate(min(errors, calls), calls), *quantiles)


def merged(series: Iterable[Series]) -> DDSketch:
    """One sketch of all calls that the sketches were made of, with the accuracy of the least accurate."""
    bins: dict[float, Counter[int]] = defaultdict(Counter)
    zero = 0.0
    for one in series:
        zero += one.sketch.zero
        # As bins, which are few, before they are put into a sketch: there may be thousands of processes.
        bins[one.sketch.accuracy].update(one.sketch.bins)
    sketch = DDSketch(max(bins, default=None))
    if zero:
        sketch.add(0.0, zero)
    for accuracy, counts in bins.items():
        mapping = LogarithmicMapping(accuracy)
        for key, count in counts.items():
            if count:
                sketch.add(mapping.value(key), count)
    return sketch


def _seconds_per_unit(by: str, pairs: Sequence[_Pair], window: float) -> float:
    """How long it takes all processes together to get one more."""
    usable = [pair for pair in pairs if pair.median is not None]
    if not usable:
        return 2 * window if by == "time" else window
    return (max(pair.end for pair in usable) - usable[0].start) / len(usable)
