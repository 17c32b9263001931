"""What is recorded of the calls of one target: how many, how many failed, and how long some of them took.

The recorder is called for every call of a hot function, so it does next to nothing there: it counts, and it takes the
time of one call in sixteen, or of each where a call takes so long that taking its time is nothing. What is measured
waits in a queue until the journal's thread comes for it, once in a while; sketches and blocks are its business alone.

Thread safety: callers share nothing but an ``itertools.count``, whose ``next`` is one operation, and a ``deque``, whose
``append`` is one, too. Everything else is touched by the journal's thread only.
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

# Calls of which one is timed, less one: a power of two, less one, so that it serves as a mask.
_SELDOM = 15
# A call that takes at least so many seconds is timed each time: that costs 0.3 us.
_SLOW = 100e-6
# Times that may wait for the journal. At a hundred thousand calls a second these are ten seconds.
_MOST_WAITING = 65536
# Half the relative width of a bin of the sketch.
ACCURACY = 0.01


@functools.lru_cache(maxsize=1)
def _mapping() -> Any:
    from ddsketch.mapping import LogarithmicMapping  # only where something is recorded

    return LogarithmicMapping(ACCURACY)


def _median(values: Sequence[float]) -> float:
    # Not that of statistics, which imports decimal and fractions into the host.
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


class ArmRecord:
    """The calls of one target in one arm.

    Args:
        function: What is called in this arm.
        check: Called for a sample of calls, after they were timed; see :class:`Recorder`. None in the stock arm.
    """

    def __init__(self, function: Callable[..., Any], check: Callable[..., Any] | None) -> None:
        self.function = function
        self.tick = itertools.count().__next__
        self.failed = itertools.count().__next__
        self.waiting: deque[float] = deque(maxlen=_MOST_WAITING)
        self.mask = _SELDOM
        self.next_check = 0 if check else -1
        self._check = check
        self._looks = 0  # how often tick and failed were called to read them
        self.calls = self.errors = self.timed = 0
        self.seconds = 0.0
        self._bins: Counter[int] = Counter()  # of the sketch: two are merged by adding their bins
        self._zero = 0

    def timed_call(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call, take its time, and perhaps have its answer compared with stock's."""
        start = perf_counter()
        answer = self.function(*args, **kwargs)
        self.waiting.append(perf_counter() - start)
        if self._check is not None and 0 <= self.next_check <= number:
            return self._check(self, number, answer, args, kwargs)
        return answer

    def settle(self) -> list[float]:
        """Count up to now, and put what waits into the sketch. In the journal's thread.

        Returns:
            The times that were waiting, in seconds.
        """
        self.calls, self.errors = self.tick() - self._looks, self.failed() - self._looks
        self._looks += 1
        times = [self.waiting.popleft() for _ in range(len(self.waiting))]
        self.timed += len(times)
        self.seconds += sum(times)
        if times:
            key = _mapping().key
            self._bins.update(key(seconds) for seconds in times if seconds > 0)
            self._zero += times.count(0.0)
            self.mask = 0 if _median(times) >= _SLOW else _SELDOM
        return times

    def series(self, patch: str, target: str, arm: str) -> Series:
        """The totals. After :meth:`settle`."""
        sketch = Sketch(ACCURACY, self._zero, dict(sorted(self._bins.items())))
        return Series(patch, target, arm, self.calls, self.errors, self.timed, self.seconds, sketch)


class Recorder:
    """One target under comparison: its two arms, and what stands in for it.

    Args:
        patch: The name of the patch.
        target: What is called, as it is shown.
        ours: The patched function.
        original: The host's function.
        check: Called with (record, number of the call, answer, arguments, keyword arguments) for a sample of the calls
            in the patched arm; returns what the caller gets. None: nothing is compared.
    """

    def __init__(
        self,
        patch: str,
        target: str,
        ours: Callable[..., Any],
        original: Callable[..., Any],
        check: Callable[..., Any] | None = None,
    ) -> None:
        self.patch, self.target = patch, target
        self._functions = {PATCHED: (ours, check), STOCK: (original, None)}
        self.blocks: deque[Block] = deque(maxlen=MOST_BLOCKS)
        self._by_call = False
        self.renew()

    def renew(self) -> None:
        """Begin at zero, as in a child of a fork."""
        # In windows that are not compared calls have records of their own: one that begins there and ends in a compared
        # window must not be found in that, since the other arm's windows never follow windows of their own.
        self.arms, self.rests = ({arm: ArmRecord(*self._functions[arm]) for arm in ARMS} for _ in range(2))
        self.now = self.arms[STOCK]
        self._before = dict.fromkeys(ARMS, (0, 0))
        self._block_times: dict[str, list[float]] = {arm: [] for arm in ARMS}
        self.blocks.clear()

    def stand_in(self, pick: Callable[[], bool] | None) -> Callable[..., Any]:
        """What is called instead of the target.

        Args:
            pick: Says for each call whether it runs patched; None if all calls run in the arm of the moment.
        """

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
        """Collect what was recorded since the last time. In the journal's thread."""
        for arm in ARMS:
            self._block_times[arm] += self.arms[arm].settle()
            self.rests[arm].settle()

    def end_block(self, block: int, pair: int, start: float, seconds: float) -> None:
        """Close a block of time, in the journal's thread: a row for each arm that had calls in it.

        Args:
            block: Its number.
            pair: The number of the pair of neighbours that it belongs to.
            start: When it began, as ``time.time()``.
            seconds: How long it was.
        """
        self.settle()
        if self._by_call:  # compare equally many: the median of few is not that of many
            fewest = min(map(len, self._block_times.values()))
            self._block_times = {arm: random.sample(times, fewest) for arm, times in self._block_times.items()}
        for arm, record in self.arms.items():
            calls, errors = (now - before for now, before in zip((record.calls, record.errors), self._before[arm]))
            times, self._block_times[arm] = self._block_times[arm], []
            self._before[arm] = (record.calls, record.errors)
            if calls:
                self.blocks.append(
                    Block(
                        patch=self.patch,
                        target=self.target,
                        arm=arm,
                        block=block,
                        pair=pair,
                        start=start,
                        seconds=seconds,
                        calls=calls,
                        errors=errors,
                        timed=len(times),
                        mean=fsum(times) / len(times) if times else 0.0,
                        median=_median(times) if times else 0.0,
                    )
                )

    def series(self) -> list[Series]:
        """The totals of both arms, in one or two parts. After :meth:`settle`."""
        return [
            record.series(self.patch, self.target, arm)
            for records in (self.arms, self.rests)
            for arm, record in records.items()
            if record.calls
        ]
