"""Serves the spool of a host to Prometheus.

Processes of DIRAC come and go, and their files with them, so no metric names a process: a counter is a sum over the
processes of a component on a host, and the number of series does not grow with restarts. Nor does it grow with what
clients ask for: of the methods of a component, six have series of their own. A counter never decreases: if the file of
a process has vanished, what the process counted is kept. It begins at zero when the exporter starts, which Prometheus
sees as a reset; if it began with the numbers in the files, Prometheus would take all of them for new.
"""

from __future__ import annotations

import itertools
import math
import os
import signal
import threading
import time
from bisect import bisect_left
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from dirac_perfpatch.comparison.outcomes import OTHER
from dirac_perfpatch.comparison.snapshot import RecordedOutcomes, Snapshot, Unusable
from dirac_perfpatch.comparison.spool_reading import list_files, one_per_process, read_file
from dirac_perfpatch.patching import TRIPPED

# A process writes every 10 s; after this many seconds of silence it is taken for dead,
SILENT_AFTER = 60.0
# and after these it is not expected back. Its file stays in the spool for a week.
FORGOTTEN_AFTER = 86400.0
# How many seconds a scrape waits for the one before.
_PATIENCE = 20.0

# Vanished processes to remember, in case their files come back.
_REMEMBERED = 1000

# Upper bounds of the histogram's buckets, in seconds. Only two per power of ten: each is a series per target and arm.
BOUNDS = tuple(float(f"{digit}e{power}") for power in range(-7, 1) for digit in (1, 3))

# Methods of a component that have their own series; the others are summed up as "other" of their kind.
MOST_METHODS = 6

_PREFIX = "dirac_perfpatch_"
_OF_PATCH = ("host", "component", "patch")
_OF_ARM = (*_OF_PATCH, "target", "arm")
_OF_OUTCOME = (*_OF_PATCH, "arm", "kind", "method")
_COUNTERS = {
    "calls": ("Calls of a patch's target in an arm, since the exporter started.", _OF_ARM),
    "errors": ("Of the calls, those that raised or returned S_ERROR.", _OF_ARM),
    "failures": ("Failures of a patch's own code; the host's code answered instead.", _OF_PATCH),
    "checks": ("Calls whose answer was compared with that of stock.", _OF_PATCH),
    "differences": ("Of the checked calls, those that stock answered differently.", _OF_PATCH),
    "events": ("What a patch itself counts, such as hits and misses.", (*_OF_PATCH, "event")),
    "outcomes": ("Requests, SQL statements and cycles of agents in compared windows of an arm.", _OF_OUTCOME),
    "outcome_errors": ("Of the outcomes, those that raised or answered with an error.", _OF_OUTCOME),
    "outcome_seconds": ("How long the outcomes took, in all.", _OF_OUTCOME),
    "outcome_cpu_seconds": ("CPU time of the threads of the outcomes.", _OF_OUTCOME),
    "mixed_outcomes": (
        "Requests, statements and cycles that lasted beyond their window, so they are in no arm.",
        ("host", "component", "kind", "method"),
    ),
}

_OUTCOMES = {counter for counter, (_, names) in _COUNTERS.items() if names is _OF_OUTCOME}

Labels = tuple[str, ...]
# A counter, its labels, and the bucket if it is a histogram.
_Name = tuple[str, Labels, int]


class Totals:
    """Sums over processes that never decrease, from ``time.time()`` on. Not thread-safe: the caller holds a lock."""

    def __init__(self, since: float) -> None:
        self._since = since
        self._sums: defaultdict[_Name, float] = defaultdict(float)
        self._seen: OrderedDict[tuple[str, int, float], Mapping[_Name, float]] = OrderedDict()
        self._names: dict[_Name, _Name] = {}
        self._methods: defaultdict[Labels, set[Labels]] = defaultdict(set)

    def update(self, changed: Iterable[Snapshot], present: Collection[Snapshot]) -> None:
        """Add what is new.

        Args:
            changed: The snapshots that were written since the last time.
            present: All snapshots.
        """
        for process in one_per_process(changed):
            now = dict[_Name, float]()
            for name, number in itertools.chain(_counted(process), self._outcomes(process)):
                # One object for each name: thousands of ended processes are remembered.
                one = self._names.setdefault(name, name)
                now[one] = now.get(one, 0.0) + number
            before = self._seen.get(process.key)
            if before is None:
                # What it counted before the exporter started does not count.
                before = now if process.started < self._since else {}
            for name, number in now.items():
                if _is_counted(process, name):
                    self._sums[name] += max(number - before.get(name, 0.0), 0.0)
            # An older copy may have been written anew, and the newest file may follow.
            more = {name: number for name, number in before.items() if number > now.get(name, 0.0)}
            self._seen[process.key] = {**now, **more}
        for process in present:
            self._seen.move_to_end(process.key)
        while len(self._seen) > len(present) + _REMEMBERED:
            self._seen.popitem(last=False)

    def _outcomes(self, process: Snapshot) -> Iterator[tuple[_Name, float]]:
        """The requests, statements and cycles that a process has counted since it started."""
        place, found = (process.host, process.component), process.outcomes
        often = Counter[int]()
        for total in found.totals:
            often[total.method] += total.number
        # What is frequent first, while there is room.
        order = sorted(range(len(found.methods)), key=lambda number: -often[number])
        labels = {number: self._method(place, *found.methods[number][:2]) for number in order}
        for number, method in enumerate(found.methods):
            yield ("mixed_outcomes", (*place, *labels[number]), 0), method.mixed
        for total in found.totals:
            own = (*place, total.patch, total.arm, *labels[total.method])
            yield ("outcomes", own, 0), total.number
            yield ("outcome_errors", own, 0), total.errors
            yield ("outcome_seconds", own, 0), total.seconds
            yield ("outcome_cpu_seconds", own, 0), total.cpu_seconds

    def _method(self, place: Labels, kind: str, name: str) -> Labels:
        """The labels of a method, for as long as this exporter runs."""
        known = self._methods[place]
        if (kind, name) in known:
            return kind, name
        if name == OTHER or len(known) >= MOST_METHODS:
            return kind, OTHER
        known.add((kind, name))
        return kind, name

    def of(self, counter: str) -> dict[Labels, dict[int, float]]:
        """The sums of a counter, by labels and bucket."""
        found: defaultdict[Labels, dict[int, float]] = defaultdict(dict)
        for (name, labels, bucket), number in self._sums.items():
            if name == counter:
                found[labels][bucket] = number
        return found


def _is_counted(process: Snapshot, name: _Name) -> bool:
    """Outcomes have an arm only while the patch has an effect; what they were before then is remembered, not added."""
    counter, labels, _ = name
    return counter not in _OUTCOMES or process.has_effect(labels[_OF_OUTCOME.index("patch")])


def _counted(process: Snapshot) -> Iterator[tuple[_Name, float]]:
    """All that a process has counted since it started."""
    place = (process.host, process.component)
    for patch, state in process.patches.items():
        yield ("failures", (*place, patch), 0), state.failures
        yield ("checks", (*place, patch), 0), state.checked
        yield ("differences", (*place, patch), 0), state.differences
    for patch, events in process.events.items():
        for event, number in events.items():
            yield ("events", (*place, patch, event), 0), number
    for series in process.series:
        labels = (*place, series.patch, series.target, series.arm)
        yield ("calls", labels, 0), series.calls
        yield ("errors", labels, 0), series.errors
        yield ("seconds", labels, 0), series.seconds
        buckets = defaultdict(float, {0: series.sketch.zero})
        for index, count in series.sketch.bins.items():
            buckets[_bucket(series.sketch.accuracy, index)] += count
        for bucket, total in buckets.items():
            yield ("timed", labels, bucket), total


@lru_cache(maxsize=10_000)
def _bucket(accuracy: float, index: int) -> int:
    """The bucket of a sketch's bin; ``len(BOUNDS)`` if it is above all bounds."""
    growth = (1 + accuracy) / (1 - accuracy)
    return bisect_left(BOUNDS, growth**index * 2 / (1 + growth))


class SpoolCollector(Collector):
    """Reads the spool at each scrape.

    It always answers, even if the folder is missing: with what could be read, and how much could not.
    """

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        # The server has a thread per scrape, and two Prometheus servers may scrape at once.
        self._lock = threading.Lock()
        self._known: dict[str, tuple[tuple[int, int, int], Snapshot | None]] = {}
        self._totals = Totals(since=time.time())

    def collect(self) -> list[Metric]:
        """All metrics.

        Raises:
            TimeoutError: The scrape before still waits for the file system; more threads must not pile up behind it.
        """
        if not self._lock.acquire(timeout=_PATIENCE):
            raise TimeoutError("the spool is still being read")
        try:
            began = time.perf_counter()
            readable = os.access(self._spool, os.R_OK | os.X_OK)
            snapshots, unreadable = list[Snapshot](), 0
            if readable:
                changed, snapshots, unreadable = self._read()
                self._totals.update(changed, snapshots)
            metrics = [*self._counters(), self._times(), *_states(one_per_process(snapshots), time.time())]
            own = {
                "spool_readable": ("Whether the spool folder exists and can be listed.", readable),
                "spool_files": ("Snapshots that were read.", len(snapshots)),
                "spool_unreadable_files": ("Files and folders that could not be read.", unreadable),
                "spool_reading_seconds": ("How long it took to read the spool.", time.perf_counter() - began),
            }
            return metrics + [_gauge(name, text, {(): number}) for name, (text, number) in own.items()]
        finally:
            self._lock.release()

    def _read(self) -> tuple[list[Snapshot], list[Snapshot], int]:
        """The changed snapshots, all snapshots without counts, and how many files and folders cannot be read."""
        # A file is read again only if it has changed: most are of processes that have ended.
        before, self._known = self._known, {}
        changed, complaints = [], list[str]()
        for path in list_files([str(self._spool)], complaints):
            try:
                # Before reading: if it is replaced in between, it is read again the next time.
                found = os.stat(path)
                signature = (found.st_ino, found.st_mtime_ns, found.st_size)
                known = before.get(path)
                if known is None or known[0] != signature:
                    changed.append(read_file(path, blocks=False))
                    kept = changed[-1]._replace(series=(), events={}, outcomes=RecordedOutcomes())
                    known = (signature, kept)
                self._known[path] = known
            except Unusable:
                self._known[path] = (signature, None)
            except FileNotFoundError:
                continue
            except OSError as error:
                complaints.append(str(error))
        snapshots = [snapshot for _, snapshot in self._known.values()]
        readable = [snapshot for snapshot in snapshots if snapshot is not None]
        return changed, readable, len(snapshots) - len(readable) + len(complaints)

    def _counters(self) -> Iterator[Metric]:
        for counter, (text, names) in _COUNTERS.items():
            family = CounterMetricFamily(_PREFIX + counter, text, labels=names)
            for labels, numbers in self._totals.of(counter).items():
                family.add_metric(labels, numbers[0])
            yield family

    def _times(self) -> Metric:
        text = "Seconds per call, of the calls that were timed, since the exporter started."
        family = HistogramMetricFamily(_PREFIX + "call_seconds", text, labels=_OF_ARM)
        seconds = self._totals.of("seconds")
        for labels, timed in self._totals.of("timed").items():
            buckets, total = [], 0.0
            for bucket, bound in enumerate([*BOUNDS, math.inf]):
                total += timed.get(bucket, 0.0)
                buckets.append(("+Inf" if bound == math.inf else str(bound), total))
            family.add_metric(labels, buckets, seconds[labels][0])
        return family


def _states(processes: Iterable[Snapshot], now: float) -> list[Metric]:
    """What the running processes do now."""
    last: dict[Labels, float] = {}
    releases: Counter[Labels] = Counter()
    states: Counter[Labels] = Counter()
    tripped: Counter[Labels] = Counter()
    for process in processes:
        place = (process.host, process.component)
        if process.ended or process.written < now - FORGOTTEN_AFTER:
            continue
        last[place] = max(last.get(place, 0.0), process.written)
        if process.written < now - SILENT_AFTER:
            continue
        releases.update([(*place, process.release, process.plugin)])
        for name, patch in process.patches.items():
            labels = (*place, name)
            states.update([(*labels, patch.state, patch.mode)])
            tripped[labels] += patch.state == TRIPPED
    text = "When a process that has not ended last wrote a snapshot: the newest of the component."
    return [
        _gauge("last_snapshot_timestamp_seconds", text, last, ("host", "component")),
        _gauge("processes", "Processes that write snapshots.", releases, ("host", "component", "release", "plugin")),
        _gauge("patch_processes", "Processes by state and mode of a patch.", states, (*_OF_PATCH, "state", "mode")),
        _gauge("tripped_processes", "Processes in which a patch has tripped.", tripped, _OF_PATCH),
    ]


def _gauge(name: str, text: str, numbers: Mapping[Labels, float], names: Labels = ()) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, text, labels=names)
    for labels, number in numbers.items():
        family.add_metric(labels, number)
    return family


def serve(spool: Path, address: str, port: int, ready: Callable[[int], None]) -> None:
    """Serve the spool until SIGTERM or SIGINT. Must be called in the main thread before there is any other.

    Args:
        spool: The folder; it need not exist yet.
        address: To listen on.
        port: To listen on; 0 for any free one.
        ready: Called with the port once the server answers.

    Raises:
        OSError: It cannot listen there.
    """
    signals = {signal.SIGTERM, signal.SIGINT}
    # Blocked in this thread and so in all later ones; sigwait below gets them, without a handler and without a race.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    collector = SpoolCollector(spool)
    # Now, not while Prometheus waits: there may be thousands of files of processes that have ended.
    collector.collect()
    registry = CollectorRegistry()
    registry.register(collector)
    server, thread = start_http_server(port, address, registry)
    ready(server.server_port)
    signal.sigwait(signals)
    server.shutdown()
    server.server_close()
    thread.join()
