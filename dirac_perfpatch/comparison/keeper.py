"""The thread that ends windows and writes snapshots, one per process, while a patch is ``ab``.

Nothing is lost at a normal exit: the last snapshot is written by ``atexit``, or in a child of ``multiprocessing``,
which ends without it, by a finalizer of its own. A process that is killed loses what it has recorded since its last
snapshot.

Fork: a child begins at zero, with a file of its own, so nothing is counted twice; its thread is started by the first
call that is timed there, so a child that runs another program at once starts none.
"""

from __future__ import annotations

import atexit
import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from dirac_perfpatch.comparison.arms import Comparison
from dirac_perfpatch.comparison.spool import Spool
from dirac_perfpatch.notices import say_once

_SNAPSHOT_SECONDS = 10.0
_CLEANING_SECONDS = 3600.0


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
        # What was recorded by comparisons that have ended.
        self._past: list[Comparison] = []
        # Held by whoever looks at the records: the thread, and the end of the process.
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._write_now = self._has_written = False
        self._spool = Spool(folder)
        atexit.register(self.finish)
        os.register_at_fork(after_in_child=self._begin_in_child)

    def add(self, comparison: Comparison) -> None:
        """Keep a comparison going, from now on and until its patch is taken off."""
        comparison.begin(time.monotonic(), time.time())
        comparison.on_leaving = functools.partial(self._remove, comparison)
        with self._lock:
            self._comparisons[comparison.patch] = comparison
        self.start()

    def _remove(self, comparison: Comparison) -> None:
        """What it has recorded stays in the snapshots. Never raises."""
        try:
            with self._lock:
                self._comparisons.pop(comparison.patch, None)
                comparison.end_block(time.monotonic())
                self._past.append(comparison)
        except Exception as error:
            say_once(f"comparison: {type(error).__name__}: {error}")
        # By the thread: whoever takes a patch off holds its lock, and a snapshot asks for those of all.
        self._write_now = True
        self._wake.set()

    def start(self) -> None:
        """Start the thread, if it does not run; never raises."""
        try:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="perfpatch-keeper", daemon=True)
                self._thread.start()
            self._wake.set()  # a window may be over sooner than what it waits for
        except Exception as error:  # no more threads to be had, or the interpreter ends
            self._thread = None
            say_once(f"comparison: {type(error).__name__}: {error}; the arms do not change in this process")

    def write(self, ended: bool = False) -> None:
        """Write a snapshot now. Never raises."""
        try:
            # Before our lock is taken: it asks the switches, and one of those may wait for us, with its own lock held.
            content = self._describe()
            with self._lock:
                everything = [*self._past, *self._comparisons.values()]
                recorders = [recorder for comparison in everything for recorder in comparison.recorders]
                for recorder in recorders:
                    recorder.settle()
                for name, comparison in self._comparisons.items():
                    content["patches"].setdefault(name, {}).update(comparison.as_dict())
                    content["events"][name] = comparison.events()
                content["series"] = _added_up([row for recorder in recorders for row in recorder.series()])
                content["blocks"] = [row for recorder in recorders for row in recorder.blocks][-1000:]
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
        if self._comparisons or self._past or self._has_written:
            self.write(ended=True)

    def _run(self) -> None:
        next_snapshot = time.monotonic() + _SNAPSHOT_SECONDS
        next_cleaning = 0.0
        while True:
            try:
                now = time.monotonic()
                with self._lock:
                    due = [comparison.tick(now, time.time()) for comparison in self._comparisons.values()]
                if now >= next_snapshot or self._write_now:
                    self._write_now = False
                    next_snapshot = now + _SNAPSHOT_SECONDS
                    self.write()
                if now >= next_cleaning:
                    next_cleaning = now + _CLEANING_SECONDS
                    self._spool.clean()
                self._wake.wait(max(0.01, min([next_snapshot, *due]) - time.monotonic()))
                self._wake.clear()
            except Exception as error:  # the windows go on
                say_once(f"comparison: {type(error).__name__}: {error}")
                time.sleep(1.0)

    def _begin_in_child(self) -> None:
        """Never raises: an exception in a hook of a fork is printed for every fork of the host."""
        try:
            self._lock, self._wake, self._thread = threading.Lock(), threading.Event(), None
            self._past.clear()
            self._has_written = False
            self._spool = Spool(self._folder)
            for comparison in self._comparisons.values():
                comparison.begin_in_child(time.monotonic(), time.time(), self.start)
            util = sys.modules.get("multiprocessing.util")
            if util is not None:
                # Its children clear the finalizers first and run these hooks then.
                util.register_after_fork(self, Keeper._finish_with_child)
        except Exception as error:
            say_once(f"comparison: {type(error).__name__}: {error}")

    def _finish_with_child(self) -> None:
        from multiprocessing import util

        util.Finalize(None, self.finish, exitpriority=0)


def _added_up(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each patch, target and arm: a patch that was off for a while has one from before."""
    totals: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        key = (row["patch"], row["target"], row["arm"])
        if key not in totals:
            totals[key] = row
            continue
        total = totals[key]
        for name in ("calls", "errors", "timed", "seconds"):
            total[name] += row[name]
        total["sketch"]["zero"] += row["sketch"]["zero"]
        bins = total["sketch"]["bins"]
        for place, count in row["sketch"]["bins"].items():
            bins[place] = bins.get(place, 0) + count
    return list(totals.values())
