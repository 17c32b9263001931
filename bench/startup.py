"""What a start costs: whole commands with the plugin and without, and the plugin's own part of one.

As a script, in the patched host's Python, it answers the latter: `python startup.py` prints milliseconds as JSON.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STOCK, PATCHED = "stock", "patched"  # not from bench.arms: as a script this runs without our packages
LOOK_UP = "from DIRAC.Core.Utilities.Extensions import extensionsByPriority; extensionsByPriority()"
CLIENT = "DIRAC.Interfaces.API.Dirac"
SERVICE = "DIRAC.DataManagementSystem.Service.FileCatalogHandler"
# What is started, as the table names it: a program of the environment, and its arguments.
COMMANDS: dict[str, list[str]] = {
    "import DIRAC, first look-up": ["python", "-c", f"import DIRAC; {LOOK_UP}"],
    "dirac-version": ["dirac-version"],
    "import of a client (the API)": ["python", "-c", f"import {CLIENT}"],
    "import of a service (FileCatalog)": ["python", "-c", f"import DIRAC.Core.DISET.ServiceReactor, {SERVICE}"],
}
# Starts of each that count; the imports take longer.
ROUNDS = dict(zip(COMMANDS, (20, 20, 8, 8)))
QUICK = dict(zip(COMMANDS, (3, 3, 0, 0)))

# Command, arm -> {"ms": the minimum, "median": ...}, in milliseconds from start to end.
Figures = dict[str, dict[str, dict[str, float]]]


def measure(arms: list[Any], rounds: dict[str, int]) -> Figures:
    """Start every command with the plugin and without, in turn.

    arms: of bench.arms.Arm; rounds: starts that count, by command; one with none is left out.
    """
    pair = [arm for arm in arms if arm.name in (STOCK, PATCHED)]
    found = {}
    for name, wanted in rounds.items():
        times: dict[str, list[float]] = {arm.name: [] for arm in pair}
        for number in range(wanted and wanted + 1):
            for arm in pair if number % 2 else reversed(pair):
                program, *arguments = COMMANDS[name]
                times[arm.name].append(_start([str(arm.host.bin / program), *arguments], arm.environment()))
        if wanted:
            # The first is not counted: it may have written bytecode.
            found[name] = {arm: figure(values[1:]) for arm, values in times.items()}
    return found


def measure_own_part(arms: list[Any], rounds: int) -> dict[str, dict[str, float]]:
    """The plugin's own part of a start: {"load": figure, "hooks": figure, "both": figure}, in milliseconds.

    arms: of bench.arms.Arm; rounds: starts.
    """
    (arm,) = (arm for arm in arms if arm.name == PATCHED)
    command = [str(arm.host.python), str(Path(__file__))]
    answers = []
    for _ in range(rounds):
        answer = subprocess.run(command, env=arm.environment(), stdout=subprocess.PIPE, check=True)
        answers.append(json.loads(answer.stdout))
    return {part: figure([answer[part] for answer in answers]) for part in answers[0]}


def figure(values: list[float]) -> dict[str, float]:
    """The figures of one command, in the unit of the values."""
    return {"ms": min(values), "median": statistics.median(values), "repetitions": len(values)}


def _start(command: list[str], environment: dict[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, cwd="/")
    return (time.perf_counter() - start) * 1000


class _Stopwatch:
    """Adds up the time spent in some functions; one that is called inside another counts once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    def time(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - start

        return timed


def main() -> None:
    """Import what a client and the services import, and print what of that time was the plugin's."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # By name, as attributes of theirs are replaced.
    entry_point_class: Any = importlib.import_module("importlib_metadata").EntryPoint
    watch = _Stopwatch()
    after_load: list[float] = []
    original: Callable[..., Any] = entry_point_class.load

    def load_plugin(entry_point: Any) -> Any:
        function = original(entry_point)
        # The function itself must not be wrapped: it looks at who calls it. All that it does is import and start these.
        loading: Any = importlib.import_module("dirac_perfpatch.loading")
        switch = importlib.import_module("dirac_perfpatch.patching").Switch
        start = watch.time(loading.plugin.start)

        def start_and_note() -> None:
            start()
            after_load.append(watch.seconds)

        loading.plugin.start = start_and_note
        # Patches are imported and armed when their modules come, and put on.
        loading.plugin._load = watch.time(loading.plugin._load)
        switch._put_on = watch.time(switch._put_on)
        return function

    def load_entry_point(entry_point: Any) -> Any:
        ours = entry_point.value.startswith("dirac_perfpatch:") and "dirac_perfpatch" not in sys.modules
        return watch.time(load_plugin)(entry_point) if ours else original(entry_point)

    entry_point_class.load = load_entry_point
    importlib.import_module(CLIENT)
    catalogue = importlib.import_module("dirac_perfpatch.patches").CATALOGUE
    for target in (target for patch in catalogue for target in patch.targets):
        importlib.import_module(target.modules[0])
    both, load = watch.seconds * 1000, after_load[0] * 1000
    parts = {"load": load, "hooks": both - load, "both": both}
    print(json.dumps(parts), file=answers)


if __name__ == "__main__":
    main()
