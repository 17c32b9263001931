"""What ends windows and writes snapshots in the background, in each process that has a patch that is ``ab``.

Nothing is lost at a normal exit: the last snapshot is written by ``atexit``, or in a child of ``multiprocessing``,
which ends without it, by a finalizer of its own. A process that is killed loses what it has recorded since its last
snapshot.

Fork: a child begins at zero, with a file of its own, so nothing is counted twice.
"""

from __future__ import annotations

import atexit
import functools
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from dirac_perfpatch.background import Background
from dirac_perfpatch.comparison.arms import Comparison
from dirac_perfpatch.comparison.spool import Spool
from dirac_perfpatch.notices import say_once

_SNAPSHOT_SECONDS = 10.0
_CLEANING_SECONDS = 3600.0
# Seconds between two looks at what else there is to do: a patch that was taken off, a comparison that has begun.
_LOOK_SECONDS = 1.0
_MOST_BLOCKS = 1000


class Keeper:
    """Keeps the comparisons of this process going.

    Args:
        folder: The spool.
        describe: Called for each snapshot; returns what it says besides the recorded figures: ``release``, ``plugin``,
            ``patches`` (the state of each) and ``events``.
    """

    def __init__(self, folder: str, describe: Callable[[], dict[str, Any]]) -> None:
        self._describe = describe
        self._folder = folder
        self._comparisons: dict[str, Comparison] = {}
        self._background: Background | None = None
        self._renew()
        atexit.register(self.finish)
        os.register_at_fork(after_in_child=self._begin_in_child)

    def _renew(self) -> None:
        # Held by whoever looks at the records: the background, and the end of the process.
        self._lock = threading.Lock()
        self._spool = Spool(self._folder)
        self._has_written = False
        self._past = _Past()
        self._next_snapshot = time.monotonic() + _SNAPSHOT_SECONDS
        self._next_cleaning = 0.0

    def add(self, comparison: Comparison) -> None:
        """Keep a comparison going, from now on and until its patch is taken off."""
        comparison.begin(time.monotonic(), time.time())
        comparison.on_leaving = functools.partial(self._remove, comparison)
        with self._lock:
            self._comparisons[comparison.patch] = comparison
            if self._background is None:
                self._background = Background(self._look, 0.0)
                self._background.start()

    def _remove(self, comparison: Comparison) -> None:
        """What it has recorded stays in the snapshots; what it calls is let go. Never raises."""
        try:
            with self._lock:
                if self._comparisons.get(comparison.patch) is comparison:
                    del self._comparisons[comparison.patch]
                comparison.end_block(time.monotonic())
                self._past.take(comparison)
        except Exception as error:
            say_once(f"comparison: {type(error).__name__}: {error}")
        # Soon, but not here: whoever takes a patch off holds its lock, and a snapshot asks for those of all.
        self._next_snapshot = 0.0

    def write(self, ended: bool = False) -> None:
        """Write a snapshot now. Never raises."""
        try:
            # Before our lock is taken: it asks the switches, and one of those may wait for us, with its own lock held.
            content = self._describe()
            with self._lock:
                now = _Past()
                for patch, comparison in self._comparisons.items():
                    content["patches"].setdefault(patch, {}).update(comparison.as_dict())
                    for recorder in comparison.recorders:
                        recorder.settle()
                    now.take(comparison)
                _put_together(content, (self._past, now))
                if self._spool.may_write():
                    self._spool.write(content, ended)
                    self._has_written = True
        except Exception as error:
            say_once(f"comparison: {self._folder}: {type(error).__name__}: {error}; what is recorded is not kept")

    def finish(self) -> None:
        """End the blocks and write the last snapshot, at the end of the process. Never raises."""
        try:
            with self._lock:
                for comparison in self._comparisons.values():
                    comparison.end_block(time.monotonic())
        except Exception as error:
            say_once(f"comparison: {type(error).__name__}: {error}")
        if self._comparisons or self._past.blocks or self._has_written:
            self.write(ended=True)

    def _look(self) -> float:
        """In the background. Returns: after how many seconds to look again. Never raises."""
        try:
            now = time.monotonic()
            with self._lock:
                due = [comparison.tick(now, time.time()) for comparison in self._comparisons.values()]
            if now >= self._next_snapshot:
                self._next_snapshot = now + _SNAPSHOT_SECONDS
                self.write()
            if now >= self._next_cleaning:
                self._next_cleaning = now + _CLEANING_SECONDS
                self._spool.clean()
            return max(0.0, min([now + _LOOK_SECONDS, *due]) - time.monotonic())
        except Exception as error:  # the windows go on
            say_once(f"comparison: {type(error).__name__}: {error}")
            return _LOOK_SECONDS

    def _begin_in_child(self) -> None:
        """Never raises: an exception in a hook of a fork is printed for every fork of the host."""
        try:
            self._renew()
            for comparison in self._comparisons.values():
                comparison.begin_in_child(time.monotonic(), time.time())
            util = sys.modules.get("multiprocessing.util")
            if util is not None:
                # Its children clear the finalizers first and run these hooks then.
                util.register_after_fork(self, Keeper._finish_with_child)
        except Exception as error:
            say_once(f"comparison: {type(error).__name__}: {error}")

    def _finish_with_child(self) -> None:
        from multiprocessing import util

        util.Finalize(None, self.finish, exitpriority=0)


class _Past:
    """What comparisons have recorded, as it stands in a snapshot."""

    def __init__(self) -> None:
        self.series: list[dict[str, Any]] = []
        self.blocks: deque[dict[str, Any]] = deque(maxlen=_MOST_BLOCKS)
        self.checks: list[tuple[str, int, int]] = []
        self.spared: list[tuple[str, str, int]] = []

    def take(self, comparison: Comparison) -> None:
        """Add a comparison whose recorders have settled."""
        for recorder in comparison.recorders:
            self.series = _added_up([*self.series, *recorder.series()])
            self.blocks.extend(recorder.blocks)
        self.checks.append((comparison.patch, comparison.checked, comparison.differences))
        self.spared += [(comparison.patch, name, count) for name, count in comparison.spared().items()]


def _put_together(content: dict[str, Any], parts: Iterable[_Past]) -> None:
    """Add what was recorded to what a snapshot says of the process."""
    content["series"] = _added_up([row for part in parts for row in part.series])
    content["blocks"] = [row for part in parts for row in part.blocks][-_MOST_BLOCKS:]
    totals: dict[str, list[int]] = {}
    for part in parts:
        for patch, checked, differences in part.checks:
            total = totals.setdefault(patch, [0, 0])
            total[0] += checked
            total[1] += differences
        for patch, name, count in part.spared:
            events = content["events"].setdefault(patch, {})
            events[name] = events.get(name, 0) + count
    for patch, (checked, differences) in totals.items():
        content["patches"].setdefault(patch, {}).update(checked=checked, differences=differences)


def _added_up(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each patch, target and arm: a patch that was off for a while has one from before."""
    totals: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        key = (row["patch"], row["target"], row["arm"])
        before = totals.get(key)
        if before is None:
            totals[key] = row
            continue
        bins = dict(before["sketch"]["bins"])
        for place, count in row["sketch"]["bins"].items():
            bins[place] = bins.get(place, 0) + count
        total = {name: before[name] + row[name] for name in ("calls", "errors", "timed", "seconds")}
        zero = before["sketch"]["zero"] + row["sketch"]["zero"]
        totals[key] = {**row, **total, "sketch": {**row["sketch"], "zero": zero, "bins": bins}}
    return list(totals.values())
