"""What a start costs: whole commands with and without the plugin, and the plugin's own part of a start."""

from __future__ import annotations

import subprocess
import time

from lab.arms import PATCHED, STOCK, Arms

from .arms import Arm
from .calls import figure
from .own_part import CLIENT, own_part

LOOK_UP = "from DIRAC.Core.Utilities.Extensions import extensionsByPriority; extensionsByPriority()"
SERVICE = "DIRAC.DataManagementSystem.Service.FileCatalogHandler"
# By name in the table: a program of the environment, and its arguments.
COMMANDS: dict[str, list[str]] = {
    "import DIRAC, first look-up": ["python", "-c", f"import DIRAC; {LOOK_UP}"],
    "dirac-version": ["dirac-version"],
    "import of a client (the API)": ["python", "-c", f"import {CLIENT}"],
    "import of a service (FileCatalog)": ["python", "-c", f"import DIRAC.Core.DISET.ServiceReactor, {SERVICE}"],
}
# The number of starts of each; the imports take longer.
ROUNDS = dict(zip(COMMANDS, (20, 20, 8, 8)))
QUICK = dict(zip(COMMANDS, (3, 3, 0, 0)))

# Command, arm -> {"ms": the minimum, "median": ...}, in milliseconds from start to end.
Figures = dict[str, dict[str, dict[str, float]]]


def measure(arms: Arms[Arm], rounds: dict[str, int]) -> Figures:
    """Start every command with and without the plugin, in turn.

    rounds: number of starts, by command; a command with 0 is left out.
    """
    pair = Arms(arm for arm in arms if arm.name in (STOCK, PATCHED))
    found = {}
    for name, wanted in rounds.items():
        times: dict[str, list[float]] = {arm.name: [] for arm in pair}
        for number in range(wanted and wanted + 1):
            for arm in pair.rotated(number):
                program, *arguments = COMMANDS[name]
                times[arm.name].append(_start([str(arm.host.bin / program), *arguments], arm.env))
        if wanted:
            # The first does not count: it may have written bytecode.
            found[name] = {arm: figure(values[1:], "ms") for arm, values in times.items()}
    return found


def measure_own_part(patched: Arm, rounds: int) -> dict[str, dict[str, float]]:
    """The plugin's own part of a start: {"load": figure, "hooks": figure, "both": figure}, in milliseconds.

    rounds: number of starts.
    """
    answers = [patched.ask_anew(own_part) for _ in range(rounds)]
    return {part: figure([answer[part] for answer in answers], "ms") for part in answers[0]}


def _start(command: list[str], environment: dict[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, cwd="/")
    return (time.perf_counter() - start) * 1000
