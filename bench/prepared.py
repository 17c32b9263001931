"""The call that an arm repeats, in the arm's worker; one call is prepared at a time."""

from __future__ import annotations

import contextlib
from typing import Any

from dirac_perfpatch.bench import cases, timed, warm_up
from dirac_perfpatch.patching import Case, Database, Meter
from lab import inside

_prepared = contextlib.ExitStack()
_case: Case
_size = 0
_measure: Meter


def prepare(name: str, size: int, database: list[Any]) -> bool:
    """Prepare what a call needs. Returns: whether the plugin's patch of it is on.

    name: of a patch's case; database: the arguments of dirac_perfpatch.patching.Database.
    """
    global _case, _size, _measure
    ((patch, _case),) = (found for found in cases() if found[1].name == name)
    _size = size
    _measure = _prepared.enter_context(contextlib.contextmanager(_case.prepare)(size, Database(*database), timed))
    return inside.plugin_states().get(patch.name) == "applied"


def warm() -> int:
    """Make calls until the caches are filled. Returns: how many calls make one repetition."""
    return warm_up(_case, _size, _measure)


def measure(calls: int) -> float:
    """Make this many calls. Returns: microseconds per call."""
    return _measure(calls)


def close() -> None:
    """Release what prepare() set up."""
    _prepared.close()
