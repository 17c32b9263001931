"""Ends windows and writes snapshots in the background, in each process with a patch that is ``ab``.

Only one thread reads what was recorded. It also writes the last snapshot: at a normal exit or, in a child of
``multiprocessing``, which skips ``atexit``, through a finalizer. So there is no lock, and no call of the host waits for
a file. If a process is killed, or ends while the file system hangs, what came after its last snapshot is lost.

Fork: a child begins at zero with its own file, so nothing is counted twice.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from dirac_perfpatch.background import Background
from dirac_perfpatch.comparison.arms import Comparison
from dirac_perfpatch.comparison.clock import Clock
from dirac_perfpatch.comparison.outcomes import Outcomes
from dirac_perfpatch.comparison.snapshot import MOST_BLOCKS, Block, Series
from dirac_perfpatch.comparison.spool import Spool
from dirac_perfpatch.notices import say_once

_SNAPSHOT_SECONDS = 10.0
_CLEANING_SECONDS = 3600.0
# How often to look for comparisons that have begun or ended.
_LOOK_SECONDS = 1.0


class Journal:
    """Keeps the comparisons of this process going.

    Args:
        folder: The spool; may be changed at any time.
        describe: Returns the fields ``release``, ``plugin``, ``patches`` and ``events`` of a snapshot.
        look: Called every second by the background thread.

    Attributes:
        comparisons: Those of this process, also some that have just ended, each with its clock.
        outcomes: What was recorded of requests.
    """

    def __init__(
        self, folder: str, describe: Callable[[], dict[str, Any]], look: Callable[[], None] = lambda: None
    ) -> None:
        self.folder = folder
        self.outcomes = Outcomes()
        self._look_too = look
        self._describe = describe
        # Other threads add to this; all other attributes belong to the background thread.
        self.comparisons: dict[Comparison, Clock] = {}
        self._renew()
        # Before the thread registers its own hook: a child's thread starts after this one has run.
        os.register_at_fork(after_in_child=self._begin_in_child)
        self._background = Background(self._look, 0.0, self._finish)

    def _renew(self) -> None:
        self._spool = Spool()
        self._has_written = False
        self._past = _Recorded()
        self._next_snapshot = time.monotonic() + _SNAPSHOT_SECONDS
        self._next_cleaning = 0.0

    def add(self, comparison: Comparison, clock: Clock) -> None:
        """Keep a comparison going, in the windows of a clock, until its patch is taken off."""
        self.comparisons[comparison] = clock
        clock.add(comparison)
        self._background.start()

    def show(self, last: bool = False) -> None:
        """Write a snapshot soon, and from then on.

        Args:
            last: The process ends: write it now, unless the background thread will.
        """
        self._next_snapshot = 0.0
        if last and not self._background.started:
            self._finish()
        elif not last:
            self._background.start()

    def _look(self) -> float:
        """What the background thread does. Returns the seconds until the next time. Never raises."""
        try:
            now = time.monotonic()
            self._look_too()
            self._let_go()
            clocks = self._clocks()
            due = [clock.tick(now, time.time()) for clock in clocks]
            self.outcomes.follow(clocks)
            # A fork may come at any moment: a child begins anew.
            if now >= min(self._next_snapshot, self._next_cleaning) and self._background.step_aside():
                if now >= self._next_snapshot:
                    self._next_snapshot = now + _SNAPSHOT_SECONDS
                    self._write(self._content(), ended=False)
                if now >= self._next_cleaning:
                    self._next_cleaning = now + _CLEANING_SECONDS
                    self._spool.clean(self.folder)
            return max(0.0, min([now + _LOOK_SECONDS, *due]) - time.monotonic())
        except Exception as error:  # the windows go on
            say_once(f"comparison: {type(error).__name__}: {error}")
            return _LOOK_SECONDS

    def _clocks(self) -> list[Clock]:
        return list(dict.fromkeys(list(self.comparisons.values())))

    def _let_go(self) -> None:
        """Remove comparisons that have ended; what they recorded stays in the snapshots."""
        for comparison, clock in list(self.comparisons.items()):
            if comparison.ended is not None:
                del self.comparisons[comparison]
                clock.remove(comparison)
                if clock.is_idle:
                    # Nobody else ends its last window.
                    clock.end(comparison.ended)
                    self.outcomes.follow([clock])
                comparison.end_block(comparison.ended)
                self._past.take(comparison)
                self._next_snapshot = 0.0

    def _content(self) -> dict[str, Any]:
        """The fields of a snapshot that do not come from the spool."""
        content = self._describe()
        patches, events = content["patches"], content["events"]
        recorded = self._past.copy()
        for comparison in list(self.comparisons):
            patches[comparison.patch] = comparison.described(patches[comparison.patch])
            for recorder in comparison.recorders:
                recorder.settle()
            recorded.take(comparison)
        for patch, checked in recorded.checked.items():
            patches[patch] = patches[patch]._replace(checked=checked, differences=recorded.differences[patch])
        for (patch, name), count in recorded.spared.items():
            events[patch] = {**events.get(patch, {}), name: count}
        return {
            **content,
            "series": [*recorded.series.values()],
            "blocks": [*recorded.blocks],
            "outcomes": self.outcomes.recorded(),
        }

    def _write(self, content: dict[str, Any], ended: bool) -> None:
        try:
            self._has_written |= self._spool.write(self.folder, content, ended)
        except OSError as error:
            # Not the text of the error: it has a different file name each time.
            say_once(f"comparison: {self.folder}: {error.strerror}; no snapshot was written")

    def _finish(self) -> None:
        """End the windows and write the last snapshot. Never raises."""
        try:
            self._look_too()
            self._let_go()
            clocks = self._clocks()
            for clock in clocks:
                clock.end(time.monotonic())
            self.outcomes.follow(clocks)
            if self.comparisons or self._past.blocks or self._has_written or not self._next_snapshot:
                self._write(self._content(), ended=True)
        except Exception as error:
            say_once(f"comparison: {type(error).__name__}: {error}")

    def _begin_in_child(self) -> None:
        """Never raises: Python prints an exception in a fork hook at every fork of the host."""
        try:
            self._renew()
            self.comparisons = {one: clock for one, clock in self.comparisons.items() if one.ended is None}
            self.outcomes.renew()
            for clock in self._clocks():
                own = [one for one, its in self.comparisons.items() if its is clock]
                clock.begin_in_child(own, time.monotonic(), time.time())
            util = sys.modules.get("multiprocessing.util")
            if util is not None:
                # Its children clear all finalizers before they run this hook.
                util.register_after_fork(self, Journal._finish_with_child)
        except Exception as error:
            say_once(f"comparison: {type(error).__name__}: {error}")

    def _finish_with_child(self) -> None:
        from multiprocessing import util

        util.Finalize(None, self._background.finish, exitpriority=0)


class _Recorded:
    """The sum of what comparisons have recorded; a patch that was off for a while has had several."""

    def __init__(self) -> None:
        self.series: dict[tuple[str, str, str], Series] = {}
        self.blocks: deque[Block] = deque(maxlen=MOST_BLOCKS)
        self.checked: Counter[str] = Counter()
        self.differences: Counter[str] = Counter()
        self.spared: Counter[tuple[str, str]] = Counter()

    def copy(self) -> _Recorded:
        found = _Recorded()
        for name, value in vars(self).items():
            setattr(found, name, value.copy())
        return found

    def take(self, comparison: Comparison) -> None:
        """Add a comparison whose recorders have settled."""
        for recorder in comparison.recorders:
            for one in recorder.series():
                place = (one.patch, one.target, one.arm)
                self.series[place] = self.series[place].plus(one) if place in self.series else one
            self.blocks.extend(recorder.blocks)
        self.checked[comparison.patch] += comparison.checked
        self.differences[comparison.patch] += comparison.differences
        for name, count in comparison.spared().items():
            self.spared[comparison.patch, name] += count
