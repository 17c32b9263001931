"""What a patched call costs here, and what it costs with the patch taken off: the command ``dirac-perfpatch bench``.

The calls are declared by the patches, and are measured in any process that has a DIRAC, with the plugin or without:
``make bench`` imports this module in three of them. So nothing of the plugin is started by importing it.
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
# How long one repetition takes. Short, so that many fall between the pauses of a busy machine.
_REPETITION_MICROSECONDS = 4000
_MOST_CALLS = 100_000


def cases() -> Iterator[tuple[Patch, Case]]:
    """Every call that a patch declares, with the patch."""
    return ((patch, case) for patch in CATALOGUE for case in patch.cases)


def timed(call: Callable[[], Any], number: int) -> float:
    """Make so many calls, with the garbage collector off. Returns: microseconds per call."""
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
    """Have a call made until whatever is kept of it is kept.

    Args:
        case: The one that is measured.
        size: The one that it was prepared for.
        measure: As prepared.

    Returns:
        How many calls take about 4 ms, rounded to whole turns.
    """
    turn = size if case.in_turn else 1
    for _ in range(_WARM_UPS):
        number = turn
        microseconds = measure(number)
        time.sleep(case.settle_seconds)
    for _ in range(3):  # the first time tells no more than the order of magnitude
        number = max(1, int(min(_MOST_CALLS, _REPETITION_MICROSECONDS / microseconds)) // turn) * turn
        microseconds = measure(number)
    return number


@dataclass(frozen=True)
class Compared:
    """The figures of one call.

    Args:
        patch: The name of the patch.
        call: The call with its size.
        stock: Microseconds per call with the patch taken off, the minimum over the repetitions; None if not measured.
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
        """For JSON."""
        return {**asdict(self), "ratio": self.ratio}

    def as_row(self) -> tuple[str, ...]:
        """For a table: patch, call, stock, patched, ratio, reason."""
        if not self.ratio:
            return (self.patch, self.call, "", "", "", self.reason)
        ratio = f"{self.ratio:.0f} x" if self.ratio >= 10 else f"{self.ratio:.2f} x"
        return (self.patch, self.call, f"{self.stock:.2f}", f"{self.patched:.2f}", ratio, "")


def compare(reasons: Mapping[str, str], database: Database | None, rounds: int) -> Iterator[Compared]:
    """Measure every call with its patch on and taken off, in alternation; the other patches stay as they are.

    Args:
        reasons: By name of patch, why it cannot be measured; empty for one that is applied.
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
    """The minimum in microseconds with the patch taken off, and with the patch on."""
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
