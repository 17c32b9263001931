"""Synthetic snapshots of processes, for tests and measurements that need a spool but no DIRAC."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ddsketch import DDSketch

from dirac_perfpatch.patches import CATALOGUE

from .arms import PATCHED, STOCK
from .hosts import COMPARED

# Every target that is recorded, and invented seconds per call in the two arms: each target is a bit slower in stock
# than the one before, and is sped up a bit more.
_RECORDED = dict.fromkeys((p.name, t.attribute) for p in CATALOGUE for t in p.targets if "__" not in t.attribute)
TARGETS = {target: (2e-5 * 2**number, 2e-5 * 1.4**number) for number, target in enumerate(_RECORDED)}
PATCHES = tuple(dict.fromkeys(patch for patch, _ in TARGETS))
ARMS = (STOCK, PATCHED)
BLOCKS = 1000


class Process:
    """A process of a DIRAC host that records and writes snapshots into a spool.

    spool: the folder; component, host, pid: its identity; started: seconds since the epoch, now if None.
    `times` holds the seconds of the timed calls.
    """

    def __init__(
        self, spool: Path, component: str, *, host: str = "h1.example.org", pid: int = 1, started: float | None = None
    ) -> None:
        self.started = time.time() if started is None else started
        self.path = spool / f"{host}.{pid}.{round(self.started * 1e9)}.json"
        self._random = random.Random(f"{host} {component} {pid}")
        self.times: dict[tuple[str, str, str], list[float]] = {}
        self._sketches: dict[tuple[str, str, str], DDSketch] = {}
        self.snapshot: dict[str, Any] = {
            "format": 1,
            "host": host,
            "component": component,
            "release": COMPARED,
            "plugin": "0.1.0",
            "pid": pid,
            "started": self.started,
            "written": self.started,
            "ended": False,
            "cpu_seconds": 0.0,
            "resident_bytes": 150_000_000,
            "patches": {patch: _patch() for patch in PATCHES},
            "series": [],
            "blocks": [],
            "events": {},
        }

    def record(
        self, patch: str, target: str, arm: str, calls: int, *, errors: int = 0, one_in: int = 16, spread: float = 0.3
    ) -> None:
        """Add calls of a target in an arm; every `one_in`th is timed, and the times are log-normal."""
        series = self._series(patch, target, arm)
        middle = TARGETS[patch, target][ARMS.index(arm)]
        times = [middle * self._random.lognormvariate(0, spread) for _ in range(calls // one_in)]
        sketch = self._sketches.setdefault((patch, target, arm), DDSketch(0.01))
        for seconds in times:
            sketch.add(seconds)
        self.times.setdefault((patch, target, arm), []).extend(times)
        series["calls"] += calls
        series["errors"] += errors
        series["timed"] += len(times)
        series["seconds"] += sum(times)
        bins = enumerate(sketch._store.bins, sketch._store.offset)
        series["sketch"]["bins"] = {str(index): round(count) for index, count in bins if count}

    def event(self, patch: str, name: str, count: int) -> None:
        """Add events of a patch."""
        events = self.snapshot["events"].setdefault(patch, {})
        events[name] = events.get(name, 0) + count

    def fill(self, patches: Collection[str] = PATCHES, calls: int = 40_000) -> None:
        """Make the snapshot as large as it can get with these patches set to `ab`: wide sketches, and all blocks."""
        for patch in set(PATCHES).difference(patches):
            self.snapshot["patches"][patch] = {"state": "applied", "reason": "", "failures": 0, "mode": "on"}
        targets = [target for target in TARGETS if target[0] in patches]
        for patch, target in targets:
            for arm in ARMS:
                self.record(patch, target, arm, calls, errors=calls // 1000, spread=0.5)
            self.event(patch, "hits", calls)
            self.event(patch, "misses", calls // 100)
        self.snapshot["blocks"] = [self._block(number, targets) for number in range(BLOCKS)]

    def write(self, *, ended: bool = False, written: float | None = None) -> None:
        """Replace the process's file, as a real process does."""
        self.snapshot.update(written=time.time() if written is None else written, ended=ended)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_text(json.dumps(self.snapshot, separators=(",", ":")))
        os.replace(temporary, self.path)

    def _series(self, patch: str, target: str, arm: str) -> dict[str, Any]:
        for series in self.snapshot["series"]:
            if (series["patch"], series["target"], series["arm"]) == (patch, target, arm):
                found: dict[str, Any] = series
                return found
        series = {"patch": patch, "target": target, "arm": arm, "calls": 0, "errors": 0, "timed": 0, "seconds": 0.0}
        series["sketch"] = {"accuracy": 0.01, "zero": 0, "bins": {}}
        self.snapshot["series"].append(series)
        return series

    def _block(self, number: int, targets: Sequence[tuple[str, str]]) -> dict[str, Any]:
        window, place = divmod(number, len(targets))
        patch, target = targets[place]
        middle = TARGETS[patch, target][window % 2] * self._random.lognormvariate(0, 0.1)
        return {
            "patch": patch,
            "target": target,
            "arm": ARMS[window % 2],
            "block": window,
            "pair": window // 2,
            "start": self.started + 60.0 * window,
            "seconds": 60.0,
            "calls": 4000,
            "errors": 4,
            "timed": 250,
            "mean": middle,
            "median": middle * 0.98,
        }


def _patch() -> dict[str, Any]:
    return {
        "state": "applied",
        "reason": "",
        "mode": "ab",
        "by": "time",
        "share": 0.5,
        "window_seconds": 60.0,
        "arm": PATCHED,
        "failures": 0,
        "checked": 0,
        "differences": 0,
    }
