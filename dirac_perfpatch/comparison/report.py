"""The figures of a report: for each patch and target the calls, times and errors of both arms, ratio and verdict."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ddsketch import DDSketch
from ddsketch.mapping import LogarithmicMapping

from dirac_perfpatch.comparison import statistics
from dirac_perfpatch.comparison.effects import Effects
from dirac_perfpatch.comparison.rows import ALIKE, Arm, Pair, Row, by_of, of_pairs, process_units, seconds_per_unit
from dirac_perfpatch.comparison.snapshot import (
    ARMS,
    BY_PROCESS,
    BY_TIME,
    PATCHED,
    STOCK,
    Block,
    Series,
    Snapshot,
    printable,
)
from dirac_perfpatch.comparison.spool_reading import Gathered
from dirac_perfpatch.comparison.statistics import Estimate, Interval, Verdict
from dirac_perfpatch.patching import FAILED, TRIPPED

# States of a patch that the operator does not want.
TROUBLES = (TRIPPED, FAILED)


@dataclass(frozen=True)
class Usage:
    """What a process of one arm uses on average."""

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
    """One patch."""

    patch: str
    states: Mapping[str, int]  # number of processes
    troubles: tuple[Trouble, ...]
    failures: int  # of the patch's own code
    checked: int  # answers that were compared with those of the stock host
    differences: int  # those that were not the same
    events: Mapping[str, int]  # what the patch itself counts
    usage: Mapping[str, Usage]  # by arm, if processes are compared
    cpu_ratio: Interval | None  # stock over patched
    memory_ratio: Interval | None
    rows: tuple[Row, ...]
    felt: tuple[Row, ...]  # what the patch does to requests, SQL statements and cycles of agents


@dataclass(frozen=True)
class Report:
    """The whole report; times in seconds since 1970."""

    folders: tuple[str, ...]
    processes: int
    hosts: tuple[str, ...]
    components: tuple[str, ...]
    releases: tuple[str, ...]
    began: float
    ended: float
    complaints: tuple[str, ...]
    patches: tuple[PatchReport, ...]
    felt: tuple[Row, ...]  # what all patches together do to requests, SQL statements and cycles of agents
    mixed: Mapping[str, int]  # by method, if many: outcomes that lasted beyond their window, so are not compared


# A process and its blocks of a target.
_OfProcess = tuple[Snapshot, list[Block]]


def build(folders: Sequence[str], gathered: Gathered) -> Report:
    """Work out the report.

    Args:
        folders: Where the snapshots were read; only shown.
        gathered: The snapshots.
    """
    snapshots = gathered.snapshots

    def distinct(key: str) -> tuple[str, ...]:
        return tuple(sorted({getattr(one, key) for one in snapshots}))

    effects = Effects(snapshots)
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
        tuple(_patch(name, snapshots, effects) for name in sorted(names)),
        effects.of_all(),
        effects.mixed,
    )


def _patch(name: str, snapshots: Sequence[Snapshot], effects: Effects) -> PatchReport:
    having = [one for one in snapshots if name in one.patches]
    states = [one.patches[name] for one in having]
    events: Counter[str] = Counter()
    for one in snapshots:
        events.update(one.events.get(name, {}))
    processes = [one for one in having if by_of(one, name) == BY_PROCESS]
    arms = {arm: [one for one in processes if one.patches[name].arm == arm] for arm in ARMS}
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
        {arm: _usage(those) for arm, those in arms.items() if those},
        _processes_ratio(name, [(one, _cores(one)) for one in processes]),
        _processes_ratio(name, [(one, one.resident_bytes) for one in processes]),
        tuple(_rows(name, snapshots)),
        effects.of_patch(name),
    )


def _cores(snapshot: Snapshot) -> float:
    return snapshot.cpu_seconds / max(snapshot.written - snapshot.started, 1.0)


def _usage(processes: Sequence[Snapshot]) -> Usage:
    cpu_seconds, memory = (fmean(getattr(one, key) for one in processes) for key in ("cpu_seconds", "resident_bytes"))
    return Usage(len(processes), cpu_seconds, fmean(map(_cores, processes)), memory)


def _processes_ratio(patch: str, values: Iterable[tuple[Snapshot, float]]) -> Interval | None:
    units = process_units(patch, [(one, math.log(value)) for one, value in values if value > 0])
    return statistics.ratio(statistics.between(units))


def _rows(patch: str, snapshots: Sequence[Snapshot]) -> Iterable[Row]:
    # Blocks are sorted by target once: there may be a thousand in each of thousands of processes.
    series: dict[tuple[str, str], list[Series]] = defaultdict(list)
    blocks: dict[tuple[str, str], list[_OfProcess]] = defaultdict(list)
    windows: dict[str, float] = {"": 0.0}
    for snapshot in snapshots:
        by = by_of(snapshot, patch)
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
    patch: str, target: str, by: str, series: Sequence[Series], blocks: Sequence[_OfProcess], window: float
) -> Row:
    arms = {arm: _arm(those) for arm in ARMS if (those := [one for one in series if one.arm == arm])}
    if not by:
        nothing = Verdict(statistics.NOT_COMPARED)
        return Row(patch, target, by, arms, None, None, nothing, nothing, None, "", ())
    pairs = [pair for _, those in blocks for pair in pairs_of(those, by)]
    pairs.sort(key=lambda pair: pair.start)
    median, mean, errors = _of_processes(patch, blocks) if by == BY_PROCESS else of_pairs(pairs)
    verdict = statistics.judge(median, by)
    return Row(
        patch,
        target,
        by,
        arms,
        statistics.ratio(median),
        statistics.ratio(mean),
        verdict,
        statistics.judge(mean, by),
        verdict.more * seconds_per_unit(by, pairs, window) if verdict.more and by != BY_PROCESS else None,
        errors,
        tuple((p.start, math.exp(p.median)) for p in pairs if p.median is not None),
    )


def pairs_of(blocks: Iterable[Block], by: str) -> list[Pair]:
    """The pairs among the blocks of a target in one process; a block without a counterpart is left out."""
    if by == BY_PROCESS:
        return []
    groups: dict[int, dict[str, Block]] = defaultdict(dict)
    for block in blocks:
        group = groups[block.pair if by == BY_TIME else block.block]
        # A call at the very end of a window may have a block of its own in the next.
        if block.arm not in group or group[block.arm].calls < block.calls:
            group[block.arm] = block
    pairs = (_pair(arms[STOCK], arms[PATCHED], by) for arms in groups.values() if len(arms) == 2)
    return [pair for pair in pairs if pair]


def _pair(stock: Block, patched: Block, by: str) -> Pair | None:
    """None if the windows are not equally long: then equal arms may differ."""
    both = (stock, patched)
    lengths = [one.seconds for one in both]
    if min(lengths) < ALIKE * max(lengths) or not all(one.calls for one in both):
        return None
    # For the same reason: by call, earlier versions timed more calls in the arm with the larger share.
    timed = (stock.timed == patched.timed or by == BY_TIME) and all(one.timed for one in both)
    # The weight of Mantel and Haenszel: windows with few calls say little.
    weight = stock.timed * patched.timed / (stock.timed + patched.timed) if timed else 0.0
    # What could be exchanged is the windows by time, and each call by call.
    failed = [one.errors / one.calls if by == BY_TIME else one.errors for one in both]
    expected = 0.5 if by == BY_TIME else patched.calls / (stock.calls + patched.calls)
    return Pair(
        min(one.start for one in both),
        max(one.start + one.seconds for one in both),
        math.log(stock.median) - math.log(patched.median) if timed and stock.median and patched.median else None,
        (weight * stock.mean, weight * patched.mean) if timed else None,
        (failed[1] / sum(failed), expected) if any(failed) else None,
    )


def _of_processes(patch: str, blocks: Sequence[_OfProcess]) -> tuple[Estimate | None, Estimate | None, str]:
    """As :func:`of_pairs`, but by process."""
    values: dict[str, list[tuple[Snapshot, float]]] = {"median": [], "mean": [], "errors": []}
    for snapshot, those in blocks:
        # If its toggles changed, a process may also have blocks of the other arm.
        own = [one for one in those if one.arm == snapshot.patches[patch].arm]
        for key in ("median", "mean"):
            times = [getattr(one, key) for one in own if one.timed]
            if logarithms := [math.log(seconds) for seconds in times if seconds > 0]:
                values[key].append((snapshot, fmean(logarithms)))
        if calls := sum(one.calls for one in own):
            values["errors"].append((snapshot, sum(one.errors for one in own) / calls))
    median, mean, errors = (process_units(patch, found) for found in values.values())
    return (
        statistics.between(median),
        statistics.between(mean),
        statistics.errors_differ(statistics.error_shares(errors)),
    )


def _arm(series: Sequence[Series]) -> Arm:
    calls, errors, timed = (sum(getattr(one, key) for one in series) for key in ("calls", "errors", "timed"))
    sketch = merged(series)
    quantiles = (sketch.get_quantile_value(quantile) for quantile in (0.5, 0.95, 0.99))
    # A damaged file may have more errors than calls.
    return Arm(calls, errors, timed, statistics.rate(min(errors, calls), calls), *quantiles)


def merged(series: Iterable[Series]) -> DDSketch:
    """The merged sketches, with the accuracy of the least accurate one."""
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
