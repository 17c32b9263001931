"""Measure calls with their patch on and off: ``dirac-perfpatch bench``.

The patches declare the calls. ``make bench`` imports this module in three processes, with the plugin and without, so
importing it starts nothing.
"""

from __future__ import annotations

import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from dirac_perfpatch.patches import CATALOGUE
from dirac_perfpatch.patching import Case, Database, Meter, NotAsked, Patch

_WARM_UPS = 3
# The length of a repetition. Short, so that many fit between the pauses of a busy machine.
_REPETITION_MICROSECONDS = 4000
_MOST_CALLS = 100_000


def cases() -> Iterator[tuple[Patch, Case]]:
    """Return every declared call, with its patch."""
    return ((patch, case) for patch in CATALOGUE for case in patch.cases)


def timed(call: Callable[[], Any], number: int) -> float:
    """Make a number of calls without garbage collection. Returns: microseconds per call."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter_ns()
        for _ in itertools.repeat(None, number):
            call()
        return (time.perf_counter_ns() - start) / number / 1000
    finally:
        if collecting:
            gc.enable()


def warm_up(case: Case, size: int, measure: Meter) -> int:
    """Make a call until all caches are filled.

    Args:
        case: The call.
        size: The size that it was prepared for.
        measure: What its preparation returned.

    Returns:
        How many calls take about 4 ms, in whole turns.
    """
    turn = size if case.in_turn else 1
    for _ in range(_WARM_UPS):
        number = turn
        microseconds = measure(number)
        time.sleep(case.settle_seconds)
    for _ in range(3):  # the first time gives only the order of magnitude
        number = max(1, int(min(_MOST_CALLS, _REPETITION_MICROSECONDS / microseconds)) // turn) * turn
        microseconds = measure(number)
    return number


@dataclass(frozen=True)
class Compared:
    """The figures of one call.

    Args:
        patch: The name of the patch.
        call: The call and its size.
        stock: Microseconds with the patch off, the minimum of the repetitions; None if not measured.
        patched: The same with the patch on.
        reason: Why it was not measured.
    """

    patch: str
    call: str
    stock: float | None = None
    patched: float | None = None
    reason: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times faster the call is with the patch."""
        return self.stock / self.patched if self.stock and self.patched else None

    def as_dict(self) -> dict[str, Any]:
        """Return the figures and their ratio."""
        return {**asdict(self), "ratio": self.ratio}

    def as_row(self) -> tuple[str, ...]:
        """Return the cells of a table: patch, call, stock, patched, ratio, reason."""
        if not self.ratio:
            return self.patch, self.call, "", "", "", self.reason
        ratio = f"{self.ratio:.{0 if self.ratio >= 10 else 2}f} x"
        return self.patch, self.call, f"{self.stock:.2f}", f"{self.patched:.2f}", ratio, ""


def compare(reasons: Mapping[str, str], database: Database | None, rounds: int) -> Iterator[Compared]:
    """Measure every call with its patch on and off in turn; the other patches stay on.

    Args:
        reasons: Why a patch cannot be measured, by name; empty if it is applied.
        database: For the patches of the MySQL pool.
        rounds: Repetitions of each.
    """
    for patch, case, size in ((*found, size) for found in cases() for size in found[1].sizes):
        name, label = patch.name, case.label(size)
        if reasons[name]:
            yield Compared(name, label, reason=reasons[name])
            continue
        try:
            with contextmanager(case.prepare)(size, database, timed) as measure:
                yield Compared(name, label, *_alternate(name, case, size, measure, rounds))
        except NotAsked as error:
            yield Compared(name, label, reason=str(error))


def _alternate(name: str, case: Case, size: int, measure: Meter, rounds: int) -> tuple[float, float]:
    """Return the minimum in microseconds with the patch off, and with the patch on."""
    from dirac_perfpatch import loading

    switch = loading.plugin.switches[name]
    fastest = {False: math.inf, True: math.inf}
    try:
        for _ in range(rounds):
            for on in fastest:
                switch.put_on() if on else switch.take_off()
                number = warm_up(case, size, measure)
                fastest[on] = min(fastest[on], measure(number), measure(number), measure(number))
    finally:
        switch.put_on()
    return fastest[False], fastest[True]
