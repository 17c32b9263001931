"""The windows that the comparisons of a process share.

All patches with the same share and length of a window change their arms at the same moments. So a window has one arm
for each patch, and what happens in it, such as a request, counts for every patch at once. Each patch draws its own
order for a pair of windows, independently of the others: over many pairs, each arm of a patch meets both arms of every
other patch equally often. *Together*, one draw decides for all, which measures the patches as a whole.

A window is cut short, and new pairs begin, when a comparison joins or leaves. A cut window has no counterpart of its
length, so the report does not compare it.

Only the journal's thread ends and begins windows. Other threads add comparisons, and read ``window``.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterable
from typing import Any

from dirac_perfpatch.comparison.arms import Comparison, new_pair
from dirac_perfpatch.comparison.snapshot import BY_TIME, PATCHED, STOCK
from dirac_perfpatch.toggles import Toggle

# Outcomes that may wait for the journal, which looks every second; if more come in a second, the first are lost.
_MOST_WAITING = 16384


class Window:
    """A compared window, as outcomes see it.

    Attributes:
        arms: The arm of each patch that has one and was applied before the window began, by name.
        open: False once the window is over: an outcome that ends later has seen more than one window.
        waiting: What ended in the window, until the journal's thread takes it.
        counted: What the journal's thread has taken; see :class:`~dirac_perfpatch.comparison.outcomes.Outcomes`.
    """

    def __init__(self, block: int, start: float, together: bool, arms: dict[str, str]) -> None:
        self.block, self.start, self.together, self.arms = block, start, together, arms
        self.seconds = 0.0
        self.open = True
        self.waiting: deque[Any] = deque(maxlen=_MOST_WAITING)
        self.counted: dict[int, Any] = {}


class Clock:
    """Windows in pairs, equally long, and the arms of its comparisons in them.

    Args:
        share: The part of the time that is patched. If it is not a half, a third window follows that is not compared,
            in the arm with the larger share.
        seconds: The length of a window; with another share than a half, the mean.
        together: Whether one draw decides the order for all comparisons.
    """

    def __init__(self, share: float, seconds: float, together: bool = False) -> None:
        self.share, self.seconds, self.together = share, seconds, together
        self.window: Window | None = None  # the present one; None while nothing is compared
        self.ended: deque[Window] = deque()  # for the outcomes
        self._comparisons: deque[Comparison] = deque()
        self._changed = False
        self._random = random.Random()
        self._left: list[tuple[int, float]] = []  # windows to come: the place in the pair, 2 if in none, and seconds
        self._pair = 0
        self._began = 0.0
        self._due = math.inf

    @staticmethod
    def key(toggle: Toggle, together: bool) -> tuple[float, float, bool]:
        """The arguments for the clock of a patch. By process and by call, the share does not divide the time."""
        return toggle.share if toggle.by == BY_TIME else 0.5, float(toggle.window_seconds), together

    def add(self, comparison: Comparison) -> None:
        """Have a comparison join at the next tick. In any thread."""
        if comparison not in self._comparisons:  # a child of a fork may have it already
            self._comparisons.append(comparison)
        self._changed = True  # after it is there: tick() looks in the opposite order

    def remove(self, comparison: Comparison) -> None:
        """Leave a comparison alone from the next tick on."""
        self._comparisons.remove(comparison)
        self._changed = True

    @property
    def is_idle(self) -> bool:
        """Whether no comparison is left."""
        return not self._comparisons

    def tick(self, now: float, clock: float) -> float:
        """If the window is over or the comparisons have changed, begin the next one.

        Args:
            now: ``time.monotonic()``.
            clock: ``time.time()``.

        Returns:
            When the window ends; infinity if there is nothing to compare.
        """
        if now >= self._due or self._changed:
            if self._changed:
                self._changed = False
                self._left.clear()
            self.end(now)
            self._begin(now, clock)
        return self._due

    def end(self, now: float) -> None:
        """End the window now."""
        window, self.window = self.window, None
        if window is not None:
            window.open, window.seconds = False, now - self._began
            # A patch that was taken off in the window has not been in its arm to the end.
            present = {one.patch for one in list(self._comparisons) if one.ended is None}
            window.arms = {patch: arm for patch, arm in window.arms.items() if patch in present}
            self.ended.append(window)
        for comparison in list(self._comparisons):
            comparison.end_block(now)

    def begin_in_child(self, comparisons: Iterable[Comparison], now: float, clock: float) -> None:
        """Begin anew after a fork: the windows before are the parent's.

        Args:
            comparisons: Those that run on this clock.
            now, clock: As for :meth:`tick`.
        """
        self._comparisons = deque(comparisons)
        self.window, self._changed = None, True
        self.ended.clear()
        self._random = random.Random()  # another order than the parent's
        for comparison in self._comparisons:
            comparison.begin_in_child(now, clock)

    def _begin(self, now: float, clock: float) -> None:
        comparisons = list(self._comparisons)
        self._began, self._due = now, math.inf
        if not comparisons:
            return
        if not self._left:
            self._draw(comparisons)
        place, seconds = self._left.pop()
        self._due = now + seconds
        block, compared = 2 * self._pair + place % 2, place < 2
        arms: dict[str, str] = {}
        for one in comparisons:
            patched = one.patched_first == (place == 0) if compared else self.share > 0.5
            one.enter(patched, compared, block, now, clock)
            if one.has_arm and one.applied and one.ended is None:
                arms[one.patch] = PATCHED if one.patched else STOCK
        if compared and arms:
            self.window = Window(block, clock, self.together, arms)

    def _draw(self, comparisons: list[Comparison]) -> None:
        self._pair = new_pair()
        length = 2 * self.seconds * min(self.share, 1 - self.share)
        turn = [(2, 2 * (self.seconds - length)), (1, length), (0, length)]
        self._left = [window for window in turn if window[1] > 0]
        for_all = self._random.random() < 0.5
        for comparison in comparisons:
            comparison.patched_first = for_all if self.together else self._random.random() < 0.5
