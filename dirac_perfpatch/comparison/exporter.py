"""The spool of a host, served to Prometheus.

Processes of DIRAC come and go, and their files with them. What Prometheus gets has no process in it: counters are sums
over the processes of one component on one host, so that the number of series does not grow with restarts, and they
never go back, because the share of a process whose file has vanished stays in them. They count from the start of the
exporter on. When it restarts they begin at zero again, which Prometheus takes for what it is, a reset; were they to
begin with what the files hold, minus what has vanished, it would take all of that for new.
"""

from __future__ import annotations

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
from typing import NamedTuple

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from dirac_perfpatch.comparison.snapshot import Snapshot, Unusable
from dirac_perfpatch.comparison.spool_reading import list_files, read_file
from dirac_perfpatch.patching import TRIPPED

# Not in 9100 to 9999: Prometheus's list of ports has given all of these away, and DIRAC's services are among them.
PORT = 18524

# A process writes every 10 s; one that has been silent for longer than this is taken for dead.
SILENT_AFTER = 60.0
# And after this, nobody waits for it any more. Its file stays in the spool for a week.
FORGOTTEN_AFTER = 86400.0
# For how many seconds a scrape waits for the one before.
_PATIENCE = 20.0

# Upper ends of the histogram's buckets, in seconds. Two to a power of ten: each is one series per target and arm.
BOUNDS = tuple(float(f"{digit}e{power}") for power in range(-7, 1) for digit in (1, 3))

_PREFIX = "dirac_perfpatch_"
_OF_PATCH = ("host", "component", "patch")
_OF_ARM = (*_OF_PATCH, "target", "arm")
_COUNTERS = {
    "calls": ("Calls of a patch's target in an arm, since the exporter started.", _OF_ARM),
    "errors": ("Of these, those that raised or returned S_ERROR.", _OF_ARM),
    "failures": ("Failures of a patch's own code, each answered by the host's code.", _OF_PATCH),
    "checks": ("Calls whose answer was compared with that of stock.", _OF_PATCH),
    "differences": ("Of these, those where stock answered differently.", _OF_PATCH),
    "events": ("Events of a patch's own, such as hits and misses.", (*_OF_PATCH, "event")),
}

Labels = tuple[str, ...]


class Share(NamedTuple):
    """Which counter a number belongs to."""

    counter: str
    labels: Labels
    bucket: int = 0


class Totals:
    """Sums over processes that never go back. Not for threads: the caller holds a lock."""

    # Vanished processes that are remembered, in case that only their files could not be seen for a while.
    REMEMBERED = 1000

    def __init__(self, since: float) -> None:
        self._since = since
        self._sums: defaultdict[Share, float] = defaultdict(float)
        self._seen: OrderedDict[tuple[str, int, float], Mapping[Share, float]] = OrderedDict()
        self._shares: dict[Share, Share] = {}

    def update(self, changed: Iterable[Snapshot], present: Collection[Snapshot]) -> None:
        """Add what is new.

        Args:
            changed: The processes that have written since the last time.
            present: All processes that have a file.
        """
        for process in changed:
            # One object for each share: thousands of ended processes are remembered.
            now = {self._shares.setdefault(share, share): number for share, number in _shares(process)}
            before = self._seen.get(process.key)
            if before is None:
                # What it did before the exporter started is not ours to count.
                before = now if process.started < self._since else {}
            for share, number in now.items():
                self._sums[share] += max(number - before.get(share, 0.0), 0.0)
            self._seen[process.key] = now
        for process in present:
            self._seen.move_to_end(process.key)
        while len(self._seen) > len(present) + self.REMEMBERED:
            self._seen.popitem(last=False)

    def of(self, counter: str) -> dict[Labels, dict[int, float]]:
        """The sums of a counter, by labels and bucket."""
        found: defaultdict[Labels, dict[int, float]] = defaultdict(dict)
        for share, number in self._sums.items():
            if share.counter == counter:
                found[share.labels][share.bucket] = number
        return found


def _shares(process: Snapshot) -> Iterator[tuple[Share, float]]:
    """All that a process has counted since it started."""
    place = (process.host, process.component)
    for name, patch in process.patches.items():
        for counter in ("failures", "checks", "differences"):
            number = patch.checked if counter == "checks" else getattr(patch, counter)
            yield Share(counter, (*place, name)), number
    for name, events in process.events.items():
        for event, number in events.items():
            yield Share("events", (*place, name, event)), number
    for series in process.series:
        labels = (*place, series.patch, series.target, series.arm)
        yield Share("calls", labels), series.calls
        yield Share("errors", labels), series.errors
        yield Share("seconds", labels), series.seconds
        buckets = defaultdict(float, {0: series.sketch.zero})
        for index, number in series.sketch.bins.items():
            buckets[_bucket(series.sketch.accuracy, index)] += number
        for bucket, number in buckets.items():
            yield Share("timed", labels, bucket), number


@lru_cache(maxsize=10_000)
def _bucket(accuracy: float, index: int) -> int:
    """The bucket that a bin of a sketch falls into; ``len(BOUNDS)`` if it is above all."""
    growth = (1 + accuracy) / (1 - accuracy)
    return bisect_left(BOUNDS, growth**index * 2 / (1 + growth))


class SpoolFiles:
    """The files of a spool, each read again only when it has changed: most are of processes that have ended.

    Args:
        folder: The spool.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._known: dict[str, tuple[tuple[int, int, int], Snapshot | None]] = {}

    def read(self) -> tuple[list[Snapshot], list[Snapshot], int]:
        """The snapshots that are new, all snapshots without what they have counted, and how many cannot be read."""
        before, self._known = self._known, {}
        changed, complaints = [], list[str]()
        for path in list_files([self._folder], complaints):
            try:
                # Before it is read: if it is replaced in between, it is read again the next time.
                found = os.stat(path)
                signature = (found.st_ino, found.st_mtime_ns, found.st_size)
                if path in before and before[path][0] == signature:
                    self._known[path] = before[path]
                    continue
                process = read_file(path, blocks=False)
                changed.append(process)
                self._known[path] = (signature, process._replace(series=(), events={}))
            except Unusable:
                self._known[path] = (signature, None)
            except FileNotFoundError:
                continue
            except OSError as error:
                complaints.append(str(error))
        snapshots = [snapshot for _, snapshot in self._known.values()]
        readable = [snapshot for snapshot in snapshots if snapshot is not None]
        return changed, readable, len(snapshots) - len(readable) + len(complaints)


class SpoolCollector(Collector):
    """Reads the spool folder at each scrape.

    Whatever is in the folder, or if there is none, a scrape is answered: with what could be read, and with how much
    could not.
    """

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        # The server answers each scrape in a thread of its own, and two Prometheus servers may ask at once.
        self._lock = threading.Lock()
        self._files = SpoolFiles(spool)
        self._totals = Totals(since=time.time())

    def collect(self) -> list[Metric]:
        """All metrics, made anew from the folder.

        Raises:
            TimeoutError: The one before still waits for the file system; each would leave a thread that does.
        """
        if not self._lock.acquire(timeout=_PATIENCE):
            raise TimeoutError("the spool is still being read")
        try:
            began = time.perf_counter()
            readable = os.access(self._spool, os.R_OK | os.X_OK)
            snapshots, unreadable = self._read() if readable else ([], 0)
            metrics = [*self._counters(), self._times(), *_states(snapshots, time.time())]
            metrics += [
                _gauge("spool_readable", "Whether the spool folder is there and can be listed.", readable),
                _gauge("spool_files", "Snapshots that were read.", len(snapshots)),
                _gauge("spool_unreadable_files", "Files and folders that could not be read.", unreadable),
                _gauge("spool_reading_seconds", "How long it took to read.", time.perf_counter() - began),
            ]
            return metrics
        finally:
            self._lock.release()

    def _read(self) -> tuple[list[Snapshot], int]:
        changed, snapshots, unreadable = self._files.read()
        self._totals.update(changed, snapshots)
        return snapshots, unreadable

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
    """What the processes that live are doing now."""
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
        states.update((*place, name, patch.state, patch.mode) for name, patch in process.patches.items())
        for name, patch in process.patches.items():
            labels = (*place, name)
            tripped[labels] += patch.state == TRIPPED
    text = "When a process that has not ended last wrote a snapshot: the newest of the component."
    return [
        _gauges("last_snapshot_timestamp_seconds", text, ("host", "component"), last),
        _gauges("processes", "Processes that write.", ("host", "component", "release", "plugin"), releases),
        _gauges("patch_processes", "Processes by what a patch does there.", (*_OF_PATCH, "state", "mode"), states),
        _gauges("tripped_processes", "Processes in which a patch has tripped.", _OF_PATCH, tripped),
    ]


def _gauges(name: str, text: str, names: Labels, numbers: Mapping[Labels, float]) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, text, labels=names)
    for labels, number in numbers.items():
        family.add_metric(labels, number)
    return family


def _gauge(name: str, text: str, number: float) -> Metric:
    return GaugeMetricFamily(_PREFIX + name, text, value=number)


def serve(spool: Path, address: str, port: int, ready: Callable[[int], None]) -> None:
    """Serve the spool until SIGTERM or SIGINT. To be called in the main thread, before it starts any other.

    Args:
        spool: The folder; it need not be there yet.
        address: What to listen on.
        port: 0: one that is free.
        ready: Called with the port once it answers.

    Raises:
        OSError: It cannot listen there.
    """
    signals = {signal.SIGTERM, signal.SIGINT}
    # Blocked in this and so in all threads to come, which leaves them to the wait below: no handler, no race.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    collector = SpoolCollector(spool)
    # Now, and not while a Prometheus waits: there may be thousands of files of processes that have ended.
    collector.collect()
    registry = CollectorRegistry()
    registry.register(collector)
    server, thread = start_http_server(port, address, registry)
    ready(server.server_port)
    signal.sigwait(signals)
    server.shutdown()
    server.server_close()
    thread.join()
