"""What ends windows and writes snapshots in the background, in each process that has a patch that is ``ab``.

What is recorded is looked at by one thread only, which writes the last snapshot, too: at a normal exit, or in a child
of ``multiprocessing``, which ends without ``atexit``, through a finalizer of its own. So there is no lock, and no call
of the host's waits for a file. A process that is killed loses what it has recorded since its last snapshot, and so does
one that ends while the file system hangs.

Fork: a child begins at zero, with a file of its own, so nothing is counted twice.
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
from dirac_perfpatch.comparison.snapshot import MOST_BLOCKS, Block, Series
from dirac_perfpatch.comparison.spool import Spool
from dirac_perfpatch.notices import say_once

_SNAPSHOT_SECONDS = 10.0
_CLEANING_SECONDS = 3600.0
# Seconds between two looks at what else there is to do: a patch that was taken off, a comparison that has begun.
_LOOK_SECONDS = 1.0


class Journal:
    """Keeps the comparisons of this process going.

    Args:
        folder: The spool. It may be changed at any time.
        describe: Called for each snapshot; returns what it says besides the recorded figures: ``release``, ``plugin``,
            ``patches`` (the state of each) and ``events``.
    """

    def __init__(self, folder: str, describe: Callable[[], dict[str, Any]]) -> None:
        self.folder = folder
        self._describe = describe
        # Others add to it; all else that is here belongs to the thread.
        self._comparisons: deque[Comparison] = deque()
        self._renew()
        # Before the thread is: the child's begins when all is made anew.
        os.register_at_fork(after_in_child=self._begin_in_child)
        self._background = Background(self._look, 0.0, self._finish)

    def _renew(self) -> None:
        self._spool = Spool()
        self._has_written = False
        self._past = _Recorded()
        self._next_snapshot = time.monotonic() + _SNAPSHOT_SECONDS
        self._next_cleaning = 0.0

    def add(self, comparison: Comparison) -> None:
        """Keep a comparison going, from now on and until its patch is taken off."""
        comparison.begin(time.monotonic(), time.time())
        self._comparisons.append(comparison)
        self._background.start()

    def show(self, last: bool = False) -> None:
        """Write a snapshot soon, and from then on.

        Args:
            last: The process ends: write it here and now, if there is no thread that does.
        """
        self._next_snapshot = 0.0
        if last and not self._background.started:
            self._finish()
        elif not last:
            self._background.start()

    def _look(self) -> float:
        """In the background. Returns: after how many seconds to look again. Never raises."""
        try:
            now = time.monotonic()
            self._let_go()
            due = [comparison.tick(now, time.time()) for comparison in list(self._comparisons)]
            # A child begins anew, so a fork may come at any moment of this.
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

    def _let_go(self) -> None:
        """Of a patch that was taken off, what it has recorded stays in the snapshots."""
        for comparison in list(self._comparisons):
            if comparison.ended is not None:
                self._comparisons.remove(comparison)
                comparison.end_block(comparison.ended)
                self._past.take(comparison)
                self._next_snapshot = 0.0

    def _content(self) -> dict[str, Any]:
        """What a snapshot says, besides which process it is of."""
        content = self._describe()
        patches, events = content["patches"], content["events"]
        recorded = self._past.copy()
        for comparison in list(self._comparisons):
            patches[comparison.patch] = comparison.described(patches[comparison.patch])
            for recorder in comparison.recorders:
                recorder.settle()
            recorded.take(comparison)
        for patch, checked in recorded.checked.items():
            patches[patch] = patches[patch]._replace(checked=checked, differences=recorded.differences[patch])
        for (patch, name), count in recorded.spared.items():
            events[patch] = {**events.get(patch, {}), name: count}
        return {**content, "series": [*recorded.series.values()], "blocks": [*recorded.blocks]}

    def _write(self, content: dict[str, Any], ended: bool) -> None:
        try:
            self._has_written |= self._spool.write(self.folder, content, ended)
        except OSError as error:
            # Not the text of the error: the name in it is another one each time.
            say_once(f"comparison: {self.folder}: {error.strerror}; what is recorded is not kept")

    def _finish(self) -> None:
        """End the blocks and write the last snapshot. Never raises."""
        try:
            self._let_go()
            for comparison in list(self._comparisons):
                comparison.end_block(time.monotonic())
            if self._comparisons or self._past.blocks or self._has_written or not self._next_snapshot:
                self._write(self._content(), ended=True)
        except Exception as error:
            say_once(f"comparison: {type(error).__name__}: {error}")

    def _begin_in_child(self) -> None:
        """Never raises: an exception in a hook of a fork is printed for every fork of the host."""
        try:
            self._renew()
            self._comparisons = deque(comparison for comparison in self._comparisons if comparison.ended is None)
            for comparison in self._comparisons:
                comparison.begin_in_child(time.monotonic(), time.time())
            util = sys.modules.get("multiprocessing.util")
            if util is not None:
                # Its children clear the finalizers first and run these hooks then.
                util.register_after_fork(self, Journal._finish_with_child)
        except Exception as error:
            say_once(f"comparison: {type(error).__name__}: {error}")

    def _finish_with_child(self) -> None:
        from multiprocessing import util

        util.Finalize(None, self._background.finish, exitpriority=0)


class _Recorded:
    """What comparisons have recorded, added up: a patch that was off for a while has had several."""

    def __init__(self) -> None:
        self.series: dict[tuple[str, str, str], Series] = {}
        self.blocks: deque[Block] = deque(maxlen=MOST_BLOCKS)
        self.checked: Counter[str] = Counter()
        self.differences: Counter[str] = Counter()
        self.spared: Counter[tuple[str, str]] = Counter()

    def copy(self) -> _Recorded:
        """One that is added to by itself."""
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
