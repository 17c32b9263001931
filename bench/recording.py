"""What it costs a call to be recorded while its patch is `ab`. A script for the patched host's Python: prints JSON."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

FRAMES = 20
ROUNDS = 40
# Arm -> {"plain": us, "recorded": us}: the patched arm's is a cached call, the stock arm's one of the fastest there is.
CALLS = {"patched": "extensionsByPriority()", "stock": f'S_ERROR("x"), {FRAMES} frames'}
_REPETITION_SECONDS = 0.004


def measure(arms: list[Any]) -> dict[str, dict[str, float]]:
    """Microseconds per call, not recorded and recorded, by arm.

    arms: of bench.arms.Arm.
    """
    (arm,) = (arm for arm in arms if arm.name == "patched")
    command = [str(arm.host.python), str(Path(__file__))]
    answer = subprocess.run(command, env=arm.environment(), stdout=subprocess.PIPE, check=True)
    return dict(json.loads(answer.stdout))


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    extensions: Any = importlib.import_module("DIRAC.Core.Utilities.Extensions")
    extensions.extensionsByPriority()
    error = importlib.import_module("DIRAC").S_ERROR
    found = {
        "patched": _compare("extension_lookup", True, extensions.extensionsByPriority),
        "stock": _compare("error_stack", False, lambda: _deep(FRAMES - 2, error)),
    }
    print(json.dumps(found), file=answers)


def _deep(frames: int, error: Callable[[str], Any]) -> Any:
    return _deep(frames - 1, error) if frames else error("x")


def _compare(patch: str, patched: bool, call: Callable[[], Any]) -> dict[str, float]:
    """The minimum of both, in turn: with the patch on or off, and compared with stock in the same arm."""
    loading: Any = importlib.import_module("dirac_perfpatch.loading")
    arms: Any = importlib.import_module("dirac_perfpatch.comparison.arms")
    trial = importlib.import_module("dirac_perfpatch.toggles").Trial("process", 0.5, 3600)
    timed = importlib.import_module("dirac_perfpatch.bench").timed
    switch = loading.plugin.switches[patch]
    best = {"plain": float("inf"), "recorded": float("inf")}
    for _ in range(ROUNDS):
        for name in best:
            switch.take_off()
            if name == "recorded":
                comparison = arms.Comparison(switch.patch, switch.guard, trial, 10_000, patched)
                switch.arm(comparison)
                timed(call, 200)
                # What the keeper does every ten seconds: from here on as many calls are timed as in a running service.
                for recorder in comparison.recorders:
                    recorder.settle()
            elif patched:
                switch.arm()
            number = max(1, int(_REPETITION_SECONDS / timed(call, 10) * 1e6))
            best[name] = min(best[name], timed(call, number), timed(call, number))
    return best


if __name__ == "__main__":
    main()
