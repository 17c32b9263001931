"""What users feel: how long requests, statements and cycles take, recorded with the arms of all patches.

An *outcome* is one request, one SQL statement or one cycle of an agent: its time, the CPU time of its thread, and
whether it failed. It belongs to the window in which it begins and ends (``clock``). One that lasts longer than its
window has met more than one arm: it is counted as *mixed*, and not compared.

Windows times methods times patches would be too many series for a snapshot. So a window has one row per method, and the
arm of each patch once. The number of methods is bounded, and the others are summed up; so is the number of rows of a
process, of which the oldest are dropped. For the exporter there are also totals by patch, arm and method, of all
windows.

Thread safety: whoever makes a request reads one attribute and appends to one ``deque``. Everything else belongs to the
journal's thread. After a fork, a child begins at zero; an outcome that began in the parent is mixed.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterable
from time import perf_counter, thread_time
from typing import Any

from dirac_perfpatch.comparison.clock import Clock, Window
from dirac_perfpatch.comparison.recording import median
from dirac_perfpatch.comparison.snapshot import Method, Outcome, OutcomeTotal, OutcomeWindow, RecordedOutcomes

# Methods with rows of their own, besides one "other" of each kind.
MOST_METHODS = 40
OTHER = "other"
# Rows that a snapshot may hold: up to 0.46 MB, as of ten methods in eight hours of minutes.
MOST_ROWS = 5000
# The median of a window is that of a random sample of at most this many outcomes.
_SAMPLE = 2048
_MOST_MIXED = 1000

# What begin() returns: the windows, the CPU time of the thread and the time.
Begun = tuple[tuple[Window, ...], float, float]


class Outcomes:
    """The outcomes of this process."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin at zero."""
        self.windows: tuple[Window, ...] = ()  # the present one of each clock; replaced as a whole
        self._mixed: deque[tuple[str, str]] = deque(maxlen=_MOST_MIXED)
        self._methods: dict[tuple[str, str], int] = {}
        self._mixed_by_method: Counter[int] = Counter()
        self._ended: deque[OutcomeWindow] = deque()
        self._rows = 0
        self._totals: dict[tuple[str, str, int], _Counted] = {}

    def begin(self) -> Begun:
        """Note the beginning of an outcome. In the thread that makes it."""
        return self.windows, thread_time(), perf_counter()

    def end(self, begun: Begun, kind: str, name: str, failed: bool) -> None:
        """Record an outcome. In the thread in which it began.

        Args:
            begun: What :meth:`begin` returned.
            kind: ``REQUEST``, ``STATEMENT`` or ``CYCLE``.
            name: The method, such as ``DataManagement/FileCatalog addFile``.
            failed: Whether it raised or answered with an error.
        """
        windows, cpu, start = begun
        seconds, cpu = perf_counter() - start, thread_time() - cpu
        for window in windows:
            if window.open:
                window.waiting.append((kind, name, failed, seconds, cpu))
            else:
                self._mixed.append((kind, name))

    def follow(self, clocks: Iterable[Clock]) -> None:
        """Take what the clocks' windows have collected, and go on with their present windows.

        In the journal's thread, after the clocks have ticked.
        """
        clocks = list(clocks)
        self.windows = tuple(clock.window for clock in clocks if clock.window is not None)
        for clock in clocks:
            while clock.ended:
                self._finish(clock.ended.popleft())
        for window in self.windows:
            self._count(window)
        for _ in range(len(self._mixed)):
            self._mixed_by_method[self._method(*self._mixed.popleft())] += 1

    def recorded(self) -> RecordedOutcomes:
        """For a snapshot. In the journal's thread."""
        methods = [Method(kind, name, self._mixed_by_method[place]) for (kind, name), place in self._methods.items()]
        return RecordedOutcomes(methods, list(self._ended), [one.total(*key) for key, one in self._totals.items()])

    def _method(self, kind: str, name: str) -> int:
        found = self._methods.get((kind, name))
        if found is None:
            own = len(self._methods) < MOST_METHODS
            found = self._methods.setdefault((kind, name if own else OTHER), len(self._methods))
        return found

    def _count(self, window: Window) -> None:
        for _ in range(len(window.waiting)):
            kind, name, failed, seconds, cpu = window.waiting.popleft()
            place = self._method(kind, name)
            counted = window.counted.get(place)
            if counted is None:
                counted = window.counted[place] = _Counted()
            counted.add(failed, seconds, cpu)

    def _finish(self, window: Window) -> None:
        self._count(window)
        rows = [counted.row(place) for place, counted in window.counted.items()]
        if not rows or not window.arms:
            return
        pair, seconds = window.block // 2, _short(window.seconds)
        self._ended.append(OutcomeWindow(window.block, pair, window.start, seconds, window.together, window.arms, rows))
        for patch, arm in window.arms.items():
            for place, counted in window.counted.items():
                self._totals.setdefault((patch, arm, place), _Counted()).add_all(counted)
        self._rows += len(rows)
        while self._rows > MOST_ROWS:
            self._rows -= len(self._ended.popleft().rows)


class _Counted:
    """Outcomes of a method."""

    def __init__(self) -> None:
        self.count = self.errors = 0
        self._seconds = self._cpu = 0.0
        self._sample: list[tuple[float, float]] = []

    def add(self, failed: bool, seconds: float, cpu: float) -> None:
        self.count += 1
        self.errors += failed
        self._seconds += seconds
        self._cpu += cpu
        if len(self._sample) < _SAMPLE:
            self._sample.append((seconds, cpu))
        elif (place := random.randrange(self.count)) < _SAMPLE:
            self._sample[place] = (seconds, cpu)

    def add_all(self, other: _Counted) -> None:
        """Add others, but not to the sample."""
        self.count += other.count
        self.errors += other.errors
        self._seconds += other._seconds
        self._cpu += other._cpu

    def total(self, patch: str, arm: str, method: int) -> OutcomeTotal:
        # In whole microseconds, which is half the text.
        return OutcomeTotal(patch, arm, method, self.count, self.errors, round(self._seconds, 6), round(self._cpu, 6))

    def row(self, method: int) -> Outcome:
        seconds, cpu = (self._seconds / self.count, self._cpu / self.count)
        medians: Any = (median(times) for times in zip(*self._sample))
        return Outcome(method, self.count, self.errors, *map(_short, (seconds, cpu, *medians)))


def _short(value: float) -> float:
    """Five significant digits: a third of the text."""
    return float(f"{value:.5g}")
