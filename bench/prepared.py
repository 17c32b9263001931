"""The call that an arm repeats, in the arm's worker; one call is prepared at a time."""

from __future__ import annotations

import contextlib
from typing import Any

from dirac_perfpatch.bench import cases, timed, warm_up
from dirac_perfpatch.patching import Database, Meter
from lab import inside

_prepared = contextlib.ExitStack()
_measure: Meter


def prepare(name: str, size: int, database: list[Any]) -> tuple[bool, int]:
    """Prepare a call, and make it until the caches are filled.

    name: of a patch's case; database: the arguments of dirac_perfpatch.patching.Database.
    Returns: whether the plugin's patch of it is on by then, and how many calls make one repetition.
    """
    global _measure
    ((patch, case),) = (found for found in cases() if found[1].name == name)
    _measure = _prepared.enter_context(contextlib.contextmanager(case.prepare)(size, Database(*database), timed))
    calls = warm_up(case, size, _measure)
    return inside.plugin_states().get(patch.name) == "applied", calls


def measure(calls: int) -> float:
    """Make this many calls. Returns: microseconds per call."""
    return _measure(calls)


def close() -> None:
    """Release what prepare() set up."""
    _prepared.close()
