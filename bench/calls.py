"""Microseconds per call: every arm in turn, many times over."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lab.mariadb import MariaDB

from .arms import Arm

# The sizes that are measured, by case of dirac_perfpatch.bench; the quick ones are what the table and the goals need.
SIZES: dict[str, list[int]] = {
    "extensionsByPriority()": [1],
    'getExtensionMetadata("DIRAC")': [1],
    'S_ERROR("x")': [1, 2, 5, 10, 20, 40, 80],
    "loadProxyFromFile": [1, 4, 8, 16, 64, 256],
    "getSiteSEMapping()": [10, 30, 120, 500],
    "ConnectionPool.get": [1, 10, 50, 100, 200],
}
QUICK: dict[str, list[int]] = {
    "extensionsByPriority()": [1],
    'getExtensionMetadata("DIRAC")': [1],
    'S_ERROR("x")': [5, 20, 40],
    "loadProxyFromFile": [1, 64],
    "getSiteSEMapping()": [120],
    "ConnectionPool.get": [1, 100],
}
ROUNDS, QUICK_ROUNDS = 45, 20
# Where one repetition takes long, as with hundreds of slow calls, it is repeated for so many seconds at the most.
_SLOW_SECONDS = 1.0

# Case, size, arm -> {"us": the minimum, "median": ...}, in microseconds per call.
Figures = dict[str, dict[int, dict[str, dict[str, float]]]]


def measure(
    arms: list[Arm], database: MariaDB, sizes: dict[str, list[int]], rounds: int, say: Callable[[str], None]
) -> Figures:
    """Measure everything.

    sizes: by case; rounds: repetitions of each call in each arm; say: shows progress.
    """
    found: Figures = {}
    for case, wanted in sizes.items():
        say(f"{case}: {', '.join(map(str, wanted))}")
        found[case] = {size: _point(arms, database, case, size, rounds) for size in wanted}
    return found


def _point(arms: list[Arm], database: MariaDB, case: str, size: int, rounds: int) -> dict[str, dict[str, float]]:
    def prepare(arm: Arm) -> int:
        arm.open(case, size, database)
        return int(arm.ask("warm"))

    with ThreadPoolExecutor(len(arms)) as pool:
        calls = dict(zip((arm.name for arm in arms), pool.map(prepare, arms)))
    times: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for number in range(rounds):
        # Each goes first as often as the others: what one leaves behind must not always hit the same arm.
        for arm in arms[number % len(arms) :] + arms[: number % len(arms)]:
            spent = sum(times[arm.name]) * calls[arm.name] / 1e6
            if len(times[arm.name]) < 3 or spent < _SLOW_SECONDS:
                times[arm.name].append(arm.ask("measure", calls[arm.name]))
    for arm in arms:
        arm.ask("close")
    return {name: _figure(values) for name, values in times.items()}


def _figure(values: list[float]) -> dict[str, Any]:
    return {"us": min(values), "median": statistics.median(values), "repetitions": len(values)}
