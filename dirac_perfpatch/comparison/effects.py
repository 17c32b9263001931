"""What patches do to what users feel: rows of the report for requests, SQL statements and cycles of agents.

The patches of a process share their windows. So one pair of windows is a unit for each patch that ran stock in one and
patched in the other. Which of the two came first was drawn for each patch by itself: what another patch does in the
pair is as likely for this patch as against it, and only widens the interval.

- A row of several methods compares like with like: the windows' mean and median of each method, weighted as Mantel and
  Haenszel do. If one window has more slow methods than the other, that is not taken for an effect.
- *All patches*: if one draw decided for all, the pairs of windows themselves. Otherwise the sum of what each patch does
  by itself, in logarithms: each pair counts for all patches at once, with the sign of each patch's order. If the
  patches do nothing, that too is as likely as its opposite.
- By process, the units are those of ``process_units``.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from dirac_perfpatch.comparison import statistics
from dirac_perfpatch.comparison.rows import ALIKE, Arm, Pair, Row, by_of, of_pairs, process_units, seconds_per_unit
from dirac_perfpatch.comparison.snapshot import (
    ARMS,
    BY_PROCESS,
    BY_TIME,
    CYCLE,
    PATCHED,
    REQUEST,
    STATEMENT,
    STOCK,
    Outcome,
    OutcomeWindow,
    Snapshot,
)
from dirac_perfpatch.comparison.statistics import Estimate

ALL_PATCHES = "all patches"
REQUESTS, STATEMENTS = "requests", "SQL statements"
# The part of a method's outcomes that may last beyond their window without a word in the report.
_MANY = 0.1

_Key = tuple[str, str]  # kind and name of a method
_Rows = Mapping[_Key, Outcome]


class _Process(NamedTuple):
    snapshot: Snapshot
    windows: Sequence[tuple[OutcomeWindow, _Rows]]


class _TwoWindows(NamedTuple):
    """A pair of windows."""

    start: float
    end: float
    seconds: float
    together: bool
    patched_first: Mapping[str, bool]  # of the patches that ran in both arms
    rows: tuple[_Rows, _Rows]


class _Difference(NamedTuple):
    """The first window against the second, of some methods."""

    median: float | None  # first minus second, in logarithms
    mean: tuple[float, float]
    cpu: tuple[float, float]
    errors: tuple[float, float]  # per outcome


class Effects:
    """The rows of a report about outcomes.

    Args:
        snapshots: All processes.
    """

    def __init__(self, snapshots: Iterable[Snapshot]) -> None:
        self._processes = [_process(one) for one in snapshots if one.outcomes.windows]
        self._pairs = sorted((p for one in self._processes for p in _pairs(one)), key=lambda pair: pair.start)
        self._selections = dict(_selections(self._processes))
        self._differences = {
            name: [_difference(pair, of) for pair in self._pairs] for name, of in self._selections.items()
        }
        # By method, if they are many: outcomes that lasted beyond their window, and so are not compared.
        self.mixed = _mixed(self._processes)

    def of_patch(self, patch: str) -> tuple[Row, ...]:
        """The rows of a patch: requests, SQL statements, cycles, and each method that is requested."""
        return tuple(row for name in self._selections for row in self._rows(patch, name))

    def of_all(self) -> tuple[Row, ...]:
        """The rows of all patches together; empty if not more than one is compared."""
        together = [number for number, pair in enumerate(self._pairs) if pair.together and len(pair.patched_first) > 1]
        if together:
            return tuple(
                row for name in self._selections for row in self._row_by_time(ALL_PATCHES, name, together, _first_of)
            )
        several = Counter(frozenset(p.patched_first) for p in self._pairs if len(p.patched_first) > 1)
        if not several:
            return ()
        ((patches, _),) = several.most_common(1)
        return tuple(row for name in self._selections for row in self._sum(name, patches))

    def _rows(self, patch: str, name: str) -> Iterator[Row]:
        alone = [
            number
            for number, pair in enumerate(self._pairs)
            if patch in pair.patched_first and (not pair.together or len(pair.patched_first) == 1)
        ]
        yield from self._row_by_time(patch, name, alone, lambda pair: pair.patched_first[patch])
        yield from self._row_by_process(patch, name)

    def _row_by_time(
        self, patch: str, name: str, numbers: Sequence[int], is_first: Callable[[_TwoWindows], bool]
    ) -> Iterator[Row]:
        pairs, cpus = list[Pair](), list[tuple[float, float]]()
        collected = {arm: _Collected() for arm in ARMS}
        for number in numbers:
            pair, found = self._pairs[number], self._differences[name][number]
            if found is None:
                continue
            stock_first = not is_first(pair)
            turn: Callable[[tuple[float, float]], tuple[float, float]] = (
                (lambda both: both) if stock_first else (lambda both: both[::-1])
            )
            stock, patched = turn(found.errors)
            median = found.median if found.median is None or stock_first else -found.median
            errors = (patched / (stock + patched), 0.5) if stock or patched else None
            pairs.append(Pair(pair.start, pair.end, median, turn(found.mean), errors))
            cpus.append(turn(found.cpu))
            for arm, rows in zip((STOCK, PATCHED), pair.rows if stock_first else pair.rows[::-1]):
                collected[arm].add(rows, self._selections[name])
        if pairs:
            typical, mean, differ = of_pairs(pairs)
            window = max(self._pairs[number].seconds for number in numbers)
            points = tuple((pair.start, math.exp(pair.median)) for pair in pairs if pair.median is not None)
            row = _row(patch, name, BY_TIME, collected, (typical, mean, statistics.of_sums(cpus)), differ)
            more = row.verdict.more
            wait = more * seconds_per_unit(BY_TIME, pairs, window) if more else None
            yield replace(row, more_seconds=wait, points=points)

    def _sum(self, name: str, patches: frozenset[str]) -> Iterator[Row]:
        found = list[tuple[float, _Difference]]()
        for pair, difference in zip(self._pairs, self._differences[name]):
            if difference is not None and pair.patched_first.keys() == patches:
                # For each patch with stock first, first minus second is stock minus patched.
                found.append((sum(-1.0 if first else 1.0 for first in pair.patched_first.values()), difference))
        if found:
            typical = [sign * one.median for sign, one in found if one.median is not None]
            mean, cpu = (
                [sign * math.log(first / second) for sign, (first, second) in both if first and second]
                for both in ([(sign, one.mean) for sign, one in found], [(sign, one.cpu) for sign, one in found])
            )
            estimates = (statistics.paired(typical), statistics.paired(mean), statistics.paired(cpu))
            row = _row(ALL_PATCHES, name, BY_TIME, {}, estimates, "")
            pairs = [pair for pair in self._pairs if pair.patched_first.keys() == patches]
            length = (pairs[-1].end - pairs[0].start) / len(pairs)
            yield replace(row, more_seconds=row.verdict.more * length if row.verdict.more else None)

    def _row_by_process(self, patch: str, name: str) -> Iterator[Row]:
        values: dict[str, list[tuple[Snapshot, float]]] = {key: [] for key in ("median", "mean", "cpu", "errors")}
        collected = {arm: _Collected() for arm in ARMS}
        for snapshot, windows in self._processes:
            if by_of(snapshot, patch) != BY_PROCESS or not snapshot.has_effect(patch):
                continue
            own = _Collected()
            for window, rows in windows:
                if window.arms.get(patch) == snapshot.patches[patch].arm:
                    own.add(rows, self._selections[name])
                    collected[snapshot.patches[patch].arm].add(rows, self._selections[name])
            arm = own.arm()
            if arm is None:
                continue
            for key in ("median", "mean", "cpu"):
                if value := getattr(arm, key):
                    values[key].append((snapshot, math.log(value)))
            values["errors"].append((snapshot, arm.errors / arm.calls))
        if values["errors"]:
            units = {key: process_units(patch, found) for key, found in values.items()}
            estimates = tuple(statistics.between(units[key]) for key in ("median", "mean", "cpu"))
            differ = statistics.errors_differ(statistics.error_shares(units["errors"]))
            yield _row(patch, name, BY_PROCESS, collected, estimates, differ)


class _Collected:
    """Outcomes of an arm."""

    def __init__(self) -> None:
        self._rows: list[Outcome] = []

    def add(self, rows: _Rows, wanted: Callable[[_Key], bool]) -> None:
        self._rows += [row for key, row in rows.items() if wanted(key)]

    def arm(self) -> Arm | None:
        count, errors = (sum(getattr(row, key) for row in self._rows) for key in ("number", "errors"))
        if not count:
            return None
        mean, cpu = (sum(row.number * getattr(row, key) for row in self._rows) / count for key in ("mean", "cpu_mean"))
        rate = statistics.rate(min(errors, count), count)
        return Arm(count, errors, count, rate, self._median(count), None, None, mean, cpu)

    def _median(self, count: int) -> float:
        """The median of the windows' medians, each as often as there are outcomes."""
        passed, value = 0, 0.0
        for row in sorted(self._rows, key=lambda row: row.median):
            passed, value = passed + row.number, row.median
            if 2 * passed >= count:
                break
        return value


def _row(
    patch: str,
    name: str,
    by: str,
    collected: Mapping[str, _Collected],
    estimates: Sequence[Estimate | None],
    differ: str,
) -> Row:
    arms = {arm: found for arm in ARMS if arm in collected and (found := collected[arm].arm())}
    typical, mean, cpu = estimates
    ratios, verdicts = map(statistics.ratio, (typical, mean, cpu)), [statistics.judge(one, by) for one in estimates]
    ratio, mean_ratio, cpu_ratio = ratios
    return Row(
        patch, name, by, arms, ratio, mean_ratio, verdicts[0], verdicts[1], None, differ, (), cpu_ratio, verdicts[2]
    )


def _first_of(pair: _TwoWindows) -> bool:
    return next(iter(pair.patched_first.values()))


def _process(snapshot: Snapshot) -> _Process:
    keys = [(method.kind, method.name) for method in snapshot.outcomes.methods]
    windows = snapshot.outcomes.windows
    return _Process(snapshot, [(window, {keys[row.method]: row for row in window.rows}) for window in windows])


def _pairs(process: _Process) -> Iterator[_TwoWindows]:
    groups: dict[int, list[tuple[OutcomeWindow, _Rows]]] = defaultdict(list)
    for one in process.windows:
        groups[one[0].pair].append(one)
    for group in groups.values():
        if len(group) != 2:
            continue
        (first, rows), (second, others) = sorted(group, key=lambda one: one[0].block)
        lengths = (first.seconds, second.seconds)
        if min(lengths) < ALIKE * max(lengths):
            continue
        patched_first = {
            patch: arm == PATCHED
            for patch, arm in first.arms.items()
            if second.arms.get(patch, arm) != arm and process.snapshot.has_effect(patch)
        }
        together = first.together and second.together
        yield _TwoWindows(
            first.start, second.start + second.seconds, max(lengths), together, patched_first, (rows, others)
        )


def _difference(pair: _TwoWindows, wanted: Callable[[_Key], bool]) -> _Difference | None:
    first, second = pair.rows
    counts = [[row for key, row in rows.items() if wanted(key)] for rows in pair.rows]
    both = [(first[key], second[key]) for key in first if key in second and wanted(key)]
    if not both:
        return None
    weights = [one.number * other.number / (one.number + other.number) if one.number else 0.0 for one, other in both]
    medians = [
        (weight, math.log(one.median / other.median))
        for weight, (one, other) in zip(weights, both)
        if one.median and other.median
    ]
    total = sum(weight for weight, _ in medians)
    mean, cpu = (
        tuple(sum(w * getattr(side[place], key) for w, side in zip(weights, both)) for place in (0, 1))
        for key in ("mean", "cpu_mean")
    )
    errors = [sum(row.errors for row in rows) / max(1, sum(row.number for row in rows)) for rows in counts]
    return _Difference(
        sum(weight * median for weight, median in medians) / total if total else None,
        (mean[0], mean[1]),
        (cpu[0], cpu[1]),
        (errors[0], errors[1]),
    )


def _selections(processes: Iterable[_Process]) -> Iterator[tuple[str, Callable[[_Key], bool]]]:
    """The rows and the methods of each: what takes the most time comes first."""
    spent: Counter[_Key] = Counter()
    for process in processes:
        for _, rows in process.windows:
            for key, row in rows.items():
                spent[key] += row.number * row.mean  # type: ignore[assignment]  # a Counter of times
    kinds = {kind for kind, _ in spent}
    for name, kind in ((REQUESTS, REQUEST), (STATEMENTS, STATEMENT)):
        if kind in kinds:
            yield name, lambda key, kind=kind: key[0] == kind  # type: ignore[misc]
    for wanted in (CYCLE, REQUEST):
        for key, _ in spent.most_common():
            if key[0] == wanted:
                yield _label(*key), lambda other, key=key: other == key  # type: ignore[misc]


def _mixed(processes: Iterable[_Process]) -> dict[str, int]:
    mixed, compared = Counter[str](), Counter[str]()
    for process in processes:
        for method in process.snapshot.outcomes.methods:
            mixed[_label(method.kind, method.name)] += method.mixed
        for _, rows in process.windows:
            for key, row in rows.items():
                compared[_label(*key)] += row.number
    return {method: number for method, number in mixed.most_common() if number > _MANY * (number + compared[method])}


def _label(kind: str, name: str) -> str:
    if kind == STATEMENT:
        return STATEMENTS
    return f"cycle of {name}" if kind == CYCLE else name
