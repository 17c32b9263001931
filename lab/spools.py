"""Synthetic snapshots, for tests and measurements that need a spool and no DIRAC.

A `Process` goes on recording and writing: for tests of counters, sizes, and files that come and go.
`alternating` makes the windows of a process, for tests of reports. They are unkind: load drifts over hours, each window
has its own pace and number of calls, calls have heavy tails, and pauses hit many calls at once. All of this makes equal
arms look different.

Both build the types of the schema and give the JSON document, which a test may then damage.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy
from ddsketch.mapping import LogarithmicMapping

from dirac_perfpatch.comparison.arms import Comparison
from dirac_perfpatch.comparison.clock import Clock
from dirac_perfpatch.comparison.outcomes import MOST_METHODS, Outcomes
from dirac_perfpatch.comparison.recording import ACCURACY
from dirac_perfpatch.comparison.snapshot import (
    MOST_BLOCKS,
    REQUEST,
    STATEMENT,
    Block,
    Method,
    OutcomeTotal,
    RecordedOutcomes,
    Series,
    Sketch,
    Snapshot,
    State,
)
from dirac_perfpatch.patches import AT_IMPORT, CATALOGUE
from dirac_perfpatch.patching import Guard, Patch
from dirac_perfpatch.toggles import Toggle

from .arms import PATCHED, STOCK
from .hosts import COMPARED

# Every target that is recorded, and invented seconds per call in the two arms: each target is a bit slower in stock
# than the one before, up to 0.3 s, and is sped up a bit more, up to 100 times.
_COMPARED = [patch for patch in CATALOGUE if patch.name not in AT_IMPORT]
_RECORDED = dict.fromkeys((p.name, t.attribute) for p in _COMPARED for t in p.targets if "__" not in t.attribute)
_STEPS = {target: number / (len(_RECORDED) - 1) for number, target in enumerate(_RECORDED)}
TARGETS = {target: (2e-5 * 15_000**step, 2e-5 * 150**step) for target, step in _STEPS.items()}
PATCHES = tuple(dict.fromkeys(patch for patch, _ in TARGETS))
ARMS = (STOCK, PATCHED)
BEGAN = 1_700_000_000.0
CATALOG = "DataManagement/FileCatalog"
Document = dict[str, Any]


def sketched(times: Any) -> Sketch:
    """The sketch of some times."""
    positive = numpy.asarray([time for time in times if time > 0])
    # What LogarithmicMapping.key does, for many at once.
    keys = numpy.ceil(numpy.log(positive) / numpy.log(LogarithmicMapping(ACCURACY).gamma)).astype(int)
    found = zip(*(each.tolist() for each in numpy.unique(keys, return_counts=True)))
    return Sketch(ACCURACY, len(times) - len(positive), dict(found))


def _snapshot(host: str, component: str, pid: int, started: float) -> Snapshot:
    """Of a process that has just started."""
    return Snapshot(host, component, COMPARED, "0.1.0", pid, started, started, False, 0.0, 150_000_000, {}, (), (), {})


def _compared(by: str, share: float = 0.5, window_seconds: float = 60.0, arm: str = PATCHED, checked: int = 0) -> State:
    return State("applied", "", "ab", 0, by, share, window_seconds, arm, checked)


def _path(spool: Path, document: Document) -> Path:
    return spool / f"{document['host']}.{document['pid']}.{round(document['started'] * 1e9)}.json"


class Process:
    """A process of a DIRAC host that records and writes snapshots into a spool.

    spool: the folder; component, host, pid: what it is; started: seconds since the epoch, now if None.
    `snapshot` is what it writes; `times` has the seconds of the timed calls.
    """

    def __init__(
        self, spool: Path, component: str, *, host: str = "h1.example.org", pid: int = 1, started: float | None = None
    ) -> None:
        patches = dict.fromkeys(PATCHES, _compared("time"))
        found = _snapshot(host, component, pid, time.time() if started is None else started)
        self.snapshot: Document = found._replace(patches=patches).data()
        self.path = _path(spool, self.snapshot)
        self.times: dict[tuple[str, str, str], list[float]] = {}
        self._series: dict[tuple[str, str, str], Series] = {}
        self._totals: dict[tuple[str, str, tuple[str, str]], OutcomeTotal] = {}
        self._mixed: dict[tuple[str, str], int] = {}
        self._random = random.Random(f"{host} {component} {pid}")

    def record(
        self, patch: str, target: str, arm: str, calls: int, *, errors: int = 0, one_in: int = 16, spread: float = 0.3
    ) -> None:
        """Calls of a target in an arm, of which every `one_in`th is timed; their times are log-normal."""
        middle = TARGETS[patch, target][ARMS.index(arm)]
        times = [middle * self._random.lognormvariate(0, spread) for _ in range(calls // one_in)]
        found = Series(patch, target, arm, calls, errors, len(times), sum(times), sketched(times))
        place = (patch, target, arm)
        self._series[place] = self._series[place].plus(found) if place in self._series else found
        self.times.setdefault(place, []).extend(times)
        self.snapshot["series"] = [series.data() for series in self._series.values()]

    def outcome(
        self,
        patch: str,
        arm: str,
        method: str,
        number: int,
        seconds: float,
        *,
        kind: str = REQUEST,
        errors: int = 0,
        mixed: int = 0,
    ) -> None:
        """Requests, SQL statements or cycles that took so many seconds each, of which 0.8 are CPU time.

        mixed: as many more that were in no window.
        """
        self._add_outcomes(patch, arm, method, number, seconds, kind, errors, mixed)
        self._show_outcomes()

    def _add_outcomes(
        self, patch: str, arm: str, method: str, number: int, seconds: float, kind: str, errors: int, mixed: int
    ) -> None:
        named = (kind, method)
        self._mixed[named] = self._mixed.get(named, 0) + mixed
        before = self._totals.get((patch, arm, named))
        counts = (number, errors, number * seconds, 0.8 * number * seconds)
        sums = [one + more for one, more in zip(before[3:], counts)] if before else counts
        place = before.method if before else list(self._mixed).index(named)
        self._totals[patch, arm, named] = OutcomeTotal(patch, arm, place, *sums)

    def _show_outcomes(self) -> None:
        methods = [Method(*one, number) for one, number in self._mixed.items()]
        self.snapshot["outcomes"] = RecordedOutcomes(methods, (), list(self._totals.values())).data()

    def event(self, patch: str, name: str, count: int) -> None:
        """Add events of a patch."""
        events = self.snapshot["events"].setdefault(patch, {})
        events[name] = events.get(name, 0) + count

    def fill(self, patches: Collection[str] = PATCHES, calls: int = 40_000) -> None:
        """Make the snapshot large, with these patches set to `ab`: wide sketches, all blocks, and many methods."""
        for patch in set(PATCHES).difference(patches):
            self.snapshot["patches"][patch] = State("applied", "", "on", 0).data()
        targets = [target for target in TARGETS if target[0] in patches]
        for patch, target in targets:
            for arm in ARMS:
                self.record(patch, target, arm, calls, errors=calls // 1000, spread=0.5)
            self.event(patch, "hits", calls)
            self.event(patch, "misses", calls // 100)
        for number, patch in itertools.product(range(MOST_METHODS), patches):
            for arm in ARMS:
                self._add_outcomes(patch, arm, f"{self.snapshot['component']} {number}", 100, 0.01, REQUEST, 1, 0)
        self._show_outcomes()
        self.snapshot["blocks"] = [self._block(number, targets).data() for number in range(MOST_BLOCKS)]

    def write(self, *, ended: bool = False, written: float | None = None) -> None:
        """Replace the process's file, as a real process does."""
        self.snapshot.update(written=time.time() if written is None else written, ended=ended)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_text(json.dumps(self.snapshot, separators=(",", ":")))
        os.replace(temporary, self.path)

    def _block(self, number: int, targets: Sequence[tuple[str, str]]) -> Block:
        window, place = divmod(number, len(targets))
        patch, target = targets[place]
        arm = window % 2
        middle = TARGETS[patch, target][arm] * self._random.lognormvariate(0, 0.1)
        start = self.snapshot["started"] + 60.0 * window
        counts = {"calls": 4000, "errors": 4, "timed": 250}
        return Block(
            patch, target, ARMS[arm], window, window // 2, start, 60.0, **counts, mean=middle, median=middle * 0.98
        )


def alternating(
    random: numpy.random.Generator,
    by: str = "time",
    windows: int = 120,
    faster: float = 1.0,
    *,
    patch: str = "error_stack",
    target: str = "S_ERROR",
    typical: float = 1e-4,
    arm: str = PATCHED,
    share: float = 0.5,
    host: str = "h1.example.org",
    component: str = CATALOG,
    pid: int = 100,
    pace: float = 1.0,
    error_rates: tuple[float, float] = (0.002, 0.002),
    window_seconds: float = 60.0,
    began: float = BEGAN,
    timed_per_window: float = 40.0,
) -> Document:
    """What one process leaves of one target.

    by: time, call or process; windows: how many; faster: how many times as fast a patched call is; typical: seconds of
    a typical stock call; arm: of the process, with by="process"; share: of the calls that are patched, with by="call";
    pace: multiplies all times, as a slow host does; error_rates: of stock and of patched calls, in ordinary windows (in
    one of thirty, a third of all calls fail); timed_per_window: about how many calls are timed in a window.
    """
    drift = [0.0]
    for push in random.normal(0, 0.05, windows - 1):
        drift.append(0.97 * drift[-1] + push)
    hour = numpy.asarray(drift) + 0.2 * numpy.sin(numpy.arange(windows) / 90 + began)
    restless = 0.08 * random.standard_t(3, windows)
    level = numpy.log(typical * pace) + hour + restless
    order = numpy.repeat(random.integers(0, 2, windows // 2 + 1), 2)[:windows]
    blocks: list[Block] = []
    times: dict[str, list[Any]] = defaultdict(list)
    for window in range(windows):
        if by == "time":
            arms = [(PATCHED, STOCK)[(window + order[window]) % 2]]
        else:
            arms = [arm] if by == "process" else [PATCHED, STOCK]
        busy = timed_per_window * random.lognormal(0, 0.8)
        outage = random.random() < 1 / 30
        paused = random.random() < 0.1
        parts = {PATCHED: share, STOCK: 1 - share} if by == "call" else dict.fromkeys(arms, 1.0)
        counts = {name: int(random.poisson(busy * parts[name])) for name in arms}
        compared = min(counts.values())
        for name, timed in counts.items():
            calls = 16 * timed + int(random.integers(0, 16))
            taken = numpy.exp(level[window] + 0.4 * random.standard_t(3, timed).clip(-8, 12))
            taken = taken * numpy.where(random.random(timed) < (0.2 if paused else 0.005), 30, 1)
            taken = taken / faster if name == PATCHED else taken
            rate = 0.3 if outage else error_rates[name == PATCHED]
            errors = int(random.binomial(calls, rate))
            times[name].append(taken)
            blocks.append(
                Block(
                    patch=patch,
                    target=target,
                    arm=name,
                    block=window,
                    pair=window // 2,
                    start=began + window * window_seconds,
                    seconds=window_seconds,
                    calls=calls,
                    errors=errors,
                    timed=compared,
                    mean=float(taken[:compared].mean()) if compared else 0.0,
                    median=float(numpy.median(taken[:compared])) if compared else 0.0,
                )
            )
    series = []
    for name, each in times.items():
        taken = numpy.concatenate(each)
        calls, errors = (sum(getattr(one, key) for one in blocks if one.arm == name) for key in ("calls", "errors"))
        series.append(Series(patch, target, name, calls, errors, len(taken), float(taken.sum()), sketched(taken)))
    lived = windows * window_seconds
    cpu = lived * 0.2 * pace * random.lognormal(0, 0.05) / (faster if by == "process" and arm == PATCHED else 1)
    place = _snapshot(host, component, pid, began)._replace(
        written=began + lived,
        cpu_seconds=cpu,
        resident_bytes=int(2e8 * random.lognormal(0, 0.03)),
        patches={patch: _compared(by, share, window_seconds, "both" if by == "call" else arm, checked=12)},
    )
    return place._replace(series=series, blocks=blocks[-MOST_BLOCKS:]).data()


# Methods of a service, and seconds of a typical request, of which most is CPU time.
_METHODS = {f"{CATALOG} addFile": 2e-2, f"{CATALOG} getReplicas": 5e-3, "SQL": 1e-3}


def felt(
    random: numpy.random.Generator,
    patches: dict[str, float],
    pairs: int = 60,
    *,
    together: bool = False,
    by: str = "time",
    arm: str = PATCHED,
    host: str = "h1.example.org",
    pid: int = 100,
    per_window: float = 40.0,
    error_rate: float = 0.01,
    window_seconds: float = 60.0,
) -> Document:
    """What one process leaves of its requests, recorded by the clock and the outcomes themselves.

    patches: by name, how many times as fast requests are with each; pairs: of windows; together: whether one draw
    decides for all; arm: of the process, with by="process"; per_window: about how many requests a method has in one.
    """
    clock, outcomes = Clock(0.5, window_seconds, together), Outcomes()
    clock._random.seed(int(random.integers(1 << 32)))
    toggle = Toggle("ab", {}, by, 0.5, window_seconds)
    for name in patches:
        patch, guard = Patch(name, (), lambda database: None), Guard(name, lambda reason: None)
        comparison = Comparison(patch, guard, toggle, 0, arm == PATCHED)
        comparison.applied = True
        clock.add(comparison)
    drift, now = 0.0, BEGAN
    for _ in range(2 * pairs):
        due = clock.tick(now, now)
        outcomes.follow([clock])
        (window,) = outcomes.windows
        drift += random.normal(0, 0.05)
        level = math.exp(drift + 0.08 * random.standard_t(3))
        fast = math.prod(factor for name, factor in patches.items() if window.arms[name] == PATCHED)
        for method, typical in _METHODS.items():
            number = random.poisson(per_window * random.lognormal(0, 0.5))
            taken = typical * level * random.lognormal(0, 0.5, number) / fast
            failed = random.random(number) < error_rate
            kind = STATEMENT if method == "SQL" else REQUEST
            window.waiting.extend(
                (kind, method, fails, seconds, 0.8 * seconds) for fails, seconds in zip(failed.tolist(), taken.tolist())
            )
        now = due
    clock.end(now)
    outcomes.follow([clock])
    state = _compared(by, window_seconds=window_seconds, arm=arm)
    found = _snapshot(host, CATALOG, pid, BEGAN)
    return found._replace(written=now, patches=dict.fromkeys(patches, state), outcomes=outcomes.recorded()).data()


def joined(documents: list[Document]) -> Document:
    """One process with the patches of several."""
    first, *others = documents
    for other in others:
        first["patches"].update(other["patches"])
        first["events"].update(other["events"])
        first["series"] += other["series"]
        first["blocks"] += other["blocks"]
    return first


def fleet(
    random: numpy.random.Generator, hosts: int = 12, windows: int = 60, faster: float = 1.0, **more: Any
) -> list[Document]:
    """By process: two processes of a component on each host, in the host's arm; hosts differ in pace."""
    found = []
    arms = random.permutation([PATCHED, STOCK] * (hosts // 2))
    for number in range(hosts):
        pace = float(random.lognormal(0, 0.1))
        for pid in (1, 2):
            host: dict[str, Any] = {
                "host": f"h{number}.example.org",
                "pid": pid,
                "pace": pace,
                "arm": str(arms[number]),
            }
            found.append(alternating(random, "process", windows, faster, **host, **more))
    return found


def write(spool: Path, documents: Iterable[Document]) -> Path:
    """Write each as the file of its process. Returns: the folder."""
    spool.mkdir(parents=True, exist_ok=True)
    for one in documents:
        _path(spool, one).write_text(json.dumps(one))
    return spool


# Patch, target, what has an arm, windows, how many times as fast, seconds of a typical call.
_EXAMPLE = (
    ("error_stack", "S_ERROR", "call", 240, 3.4, 8e-5),
    ("connection_checkout", "ConnectionPool.get", "time", 240, 1.13, 6e-4),
    ("proxy_loading", "loadProxyFromFile", "time", 240, 9.0, 2e-3),
    ("connection_close", "ConnectionPool._close", "call", 240, 1.0, 3e-5),
    ("dms_helpers", "getSiteSEMapping", "time", 8, 1.02, 4e-2),
    ("dms_helpers", "getSEInGroup", "time", 240, 0.8, 4e-4),
)


def example(random: numpy.random.Generator) -> list[Document]:
    """A weekend of a small installation: something of everything that a report can say."""
    found = []
    for number, host in enumerate(("vobox01.example.org", "vobox02.example.org", "vobox03.example.org")):
        for pid, component in enumerate((CATALOG, "WorkloadManagement/JobMonitoring"), 100):
            place: dict[str, Any] = {"host": host, "pid": pid, "component": component}
            parts = [
                alternating(random, by, windows, faster, patch=patch, target=target, typical=typical, **place)
                for patch, target, by, windows, faster, typical in _EXAMPLE
            ]
            parts[2]["events"] = {"proxy_loading": {"hits": 90_000 + 7 * number, "misses": 41}}
            found.append(joined(parts))
    found += fleet(random, 12, 120, 1.3, patch="extension_lookup", target="extensionsByPriority", typical=2e-2)
    # By call, error_stack has no arm for a request.
    found.append(felt(random, {"connection_checkout": 1.0, "proxy_loading": 1.25}, host="vobox04.example.org"))
    found[0]["patches"]["connection_close"].update(
        state="tripped", reason="an answer was not that of the stock host: OK instead of an error", differences=1
    )
    return found
