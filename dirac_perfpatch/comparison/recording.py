"""Recording the calls of one target: how many, how many failed, and how long some of them took.

The recorder runs in every call of a hot function, so it does little there: it counts, and times one call in sixteen, or
each call if calls are slow enough to make that cheap. Times wait in a queue until the journal's thread puts them into
sketches and blocks.

Thread safety: callers share only an ``itertools.count`` and a ``deque``, whose ``next`` and ``append`` are one
operation each. Everything else belongs to the journal's thread.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from math import fsum
from time import perf_counter
from typing import Any

from dirac_perfpatch.comparison.snapshot import ARMS, MOST_BLOCKS, PATCHED, STOCK, Block, Series, Sketch

# One call in sixteen is timed: the mask of the call's number that must be 0.
_SELDOM = 15
# Seconds; slower calls are timed each time. Among other code, counting a call takes 1 us and timing it 0.8 us more:
# together 1 % of these.
_SLOW = 200e-6
# Times that may wait for the journal: ten seconds of a hundred thousand calls a second.
_MOST_WAITING = 65536
# Half the relative width of a bin of the sketch.
ACCURACY = 0.01

Function = Callable[..., Any]


@functools.lru_cache(maxsize=1)
def _mapping() -> Any:
    from ddsketch.mapping import LogarithmicMapping  # only where something is recorded

    return LogarithmicMapping(ACCURACY)


def median(values: Sequence[float]) -> float:
    """The median of at least one value."""
    # Not that of statistics, which imports decimal and fractions into the host.
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


class ArmRecord:
    """The calls of one target in one arm; arguments as in :class:`Recorder`."""

    def __init__(self, function: Function, check: Function | None) -> None:
        self.function = function
        self.tick = itertools.count().__next__
        self.failed = itertools.count().__next__
        self.waiting: deque[float] = deque(maxlen=_MOST_WAITING)
        self.mask = _SELDOM
        self.next_check = 0 if check else -1
        self._check = check
        self._looks = 0  # calls of tick and failed that only read them
        self.calls = self.errors = self.timed = 0
        self.seconds = 0.0
        self._bins: Counter[int] = Counter()
        self._zero = 0

    def timed_call(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call, time it, and perhaps check its answer against stock."""
        start = perf_counter()
        answer = self.function(*args, **kwargs)
        self.waiting.append(perf_counter() - start)
        if self._check is not None and 0 <= self.next_check <= number:
            return self._check(self, number, answer, args, kwargs)
        return answer

    def settle(self) -> list[float]:
        """Bring counts and sketch up to date; returns the new times, in seconds. In the journal's thread."""
        self.calls, self.errors = self.tick() - self._looks, self.failed() - self._looks
        self._looks += 1
        times = [self.waiting.popleft() for _ in range(len(self.waiting))]
        self.timed += len(times)
        self.seconds += sum(times)
        if times:
            key = _mapping().key
            self._bins.update(key(seconds) for seconds in times if seconds > 0)
            self._zero += times.count(0.0)
            self.mask = 0 if median(times) >= _SLOW else _SELDOM
        return times

    def series(self, patch: str, target: str, arm: str) -> Series:
        """The totals. After :meth:`settle`."""
        sketch = Sketch(ACCURACY, self._zero, dict(sorted(self._bins.items())))
        return Series(patch, target, arm, self.calls, self.errors, self.timed, self.seconds, sketch)


class Recorder:
    """One target under comparison: the records of both arms, and what is called instead of it.

    Args:
        patch: The name of the patch.
        target: The name of the target.
        ours: The patched function.
        original: The host's function.
        check: Called for a sample of the patched calls with (record, number of the call, answer, arguments, keyword
            arguments); returns what the caller gets. None: nothing is checked.
    """

    def __init__(self, patch: str, target: str, ours: Function, original: Function, check: Function | None = None):
        self.patch, self.target = patch, target
        self._functions = {PATCHED: (ours, check), STOCK: (original, None)}
        self.blocks: deque[Block] = deque(maxlen=MOST_BLOCKS)
        self._by_call = False
        self.renew()

    def renew(self) -> None:
        """Begin at zero."""
        # Windows that are not compared have their own records (rests). A call may begin there and end in a compared
        # window; if that window counted it, only one arm would get such calls.
        self.arms, self.rests = ({arm: ArmRecord(*self._functions[arm]) for arm in ARMS} for _ in range(2))
        self.now = self.arms[STOCK]
        self._before = dict.fromkeys(ARMS, (0, 0))
        self._block_times: dict[str, list[float]] = {arm: [] for arm in ARMS}
        self.blocks.clear()

    def stand_in(self, pick: Callable[[], bool] | None) -> Function:
        """What is called instead of the target. ``pick`` decides if a call runs patched; None: in the current arm."""
        self._by_call = pick is not None

        def recorded(*args: Any, **kwargs: Any) -> Any:
            record = self.now if pick is None else self.arms[PATCHED if pick() else STOCK]
            number = record.tick()
            try:
                if number & record.mask:
                    answer = record.function(*args, **kwargs)
                else:
                    answer = record.timed_call(number, args, kwargs)
            except Exception:
                record.failed()
                raise
            if answer.__class__ is dict and not answer.get("OK", True):
                record.failed()
            return answer

        return recorded

    def settle(self) -> None:
        """Bring counts and times up to date. In the journal's thread."""
        for arm in ARMS:
            self._block_times[arm] += self.arms[arm].settle()
            self.rests[arm].settle()

    def end_block(self, block: int, pair: int, start: float, seconds: float) -> None:
        """End a window: a block for each arm with calls; arguments as in :class:`Block`. In the journal's thread."""
        self.settle()
        if self._by_call:  # compare equally many: if times are skewed, the median of few is biased
            fewest = min(map(len, self._block_times.values()))
            self._block_times = {arm: random.sample(times, fewest) for arm, times in self._block_times.items()}
        for arm, record in self.arms.items():
            calls, errors = (now - before for now, before in zip((record.calls, record.errors), self._before[arm]))
            times, self._block_times[arm] = self._block_times[arm], []
            self._before[arm] = (record.calls, record.errors)
            if calls:
                window = (self.patch, self.target, arm, block, pair, start, seconds)
                mean, middle = (fsum(times) / len(times), median(times)) if times else (0.0, 0.0)
                self.blocks.append(Block(*window, calls, errors, len(times), mean, middle))

    def series(self) -> list[Series]:
        """The totals of both arms, in one or two parts. After :meth:`settle`."""
        return [
            record.series(self.patch, self.target, arm)
            for records in (self.arms, self.rests)
            for arm, record in records.items()
            if record.calls
        ]
