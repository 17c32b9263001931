"""What recording adds to a call whose patch is `ab`. Runs in the patched host."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from lab.arms import PATCHED, STOCK

FRAMES = 20
ROUNDS = 40
# By arm: a cached call in the patched arm, and one of the fastest calls in stock.
CALLS = {PATCHED: "extensionsByPriority()", STOCK: f'S_ERROR("x"), {FRAMES} frames'}
_FRAMES_BELOW = 8  # the stack of the worker and of this module, which counts among FRAMES
_REPETITION_SECONDS = 0.004


def compare() -> dict[str, dict[str, float]]:
    """In a worker of the patched host. Returns: by arm, {"plain": us per call, "recorded": us per call}."""
    extensions: Any = importlib.import_module("DIRAC.Core.Utilities.Extensions")
    extensions.extensionsByPriority()
    error = importlib.import_module("DIRAC").S_ERROR
    return {
        PATCHED: _compare("extension_lookup", True, extensions.extensionsByPriority),
        STOCK: _compare("error_stack", False, lambda: _deep(FRAMES - _FRAMES_BELOW, error)),
    }


def _deep(frames: int, error: Callable[[str], Any]) -> Any:
    return _deep(frames - 1, error) if frames else error("x")


def _compare(patch: str, patched: bool, call: Callable[[], Any]) -> dict[str, float]:
    """The minimum of each, in turn: with the patch just on or off, and recorded in the same arm."""
    loading: Any = importlib.import_module("dirac_perfpatch.loading")
    arms: Any = importlib.import_module("dirac_perfpatch.comparison.arms")
    toggle = importlib.import_module("dirac_perfpatch.toggles").Toggle("ab", {}, "process", 0.5, 3600)
    timed = importlib.import_module("dirac_perfpatch.bench").timed
    switch = loading.plugin.switches[patch]
    best = {"plain": float("inf"), "recorded": float("inf")}
    for _ in range(ROUNDS):
        for name in best:
            switch.take_off()
            if name == "recorded":
                comparison = arms.Comparison(switch.patch, switch.guard, toggle, 10_000, patched)
                switch.put_on(comparison)
                timed(call, 200)
                # As the journal does every ten seconds: from now on as many calls are timed as in a running service.
                for recorder in comparison.recorders:
                    recorder.settle()
            elif patched:
                switch.put_on()
            number = max(1, int(_REPETITION_SECONDS / timed(call, 10) * 1e6))
            best[name] = min(best[name], timed(call, number), timed(call, number))
    return best
