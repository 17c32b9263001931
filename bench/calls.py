"""Microseconds per call: the arms take turns, many times over."""

from __future__ import annotations

import statistics

from dirac_perfpatch.bench import cases
from lab.arms import Arms
from lab.command import say
from lab.mariadb import MariaDB

from . import goals, prepared
from .arms import Arm

ROUNDS, QUICK_ROUNDS = 45, 20
# What only the oldest line of releases lacks in-tree, and what costs more there.
ON_OLDEST: dict[str, tuple[int, ...]] = {
    "getProxyInfo": (1,),
    "getUsernameForDN, the last": (1500,),
    "checkSanity": (1,),
}
# If one repetition takes long, as with hundreds of slow calls, repetitions stop after this many seconds.
_SLOW_SECONDS = 1.0

# Case, size, arm -> {"us": the minimum, "median": ...}, in microseconds per call.
Figures = dict[str, dict[int, dict[str, dict[str, float]]]]


def sizes(quick: bool) -> dict[str, tuple[int, ...]]:
    """The sizes to measure, by case name; `quick` leaves only those that the goals need."""
    grown = {case.name: case for _, case in cases() if case.growth}
    return {name: goals.SIZES.get(name, case.sizes) if quick else case.growth for name, case in grown.items()}


def measure(arms: Arms[Arm], database: MariaDB, sizes: dict[str, tuple[int, ...]], rounds: int) -> Figures:
    """Measure everything.

    sizes: by case; rounds: repetitions of each call in each arm.
    """
    found: Figures = {}
    for case, wanted in sizes.items():
        say(f"{case}: {', '.join(map(str, wanted))}")
        found[case] = {size: _point(arms, database, case, size, rounds) for size in wanted}
    return found


def _point(arms: Arms[Arm], database: MariaDB, case: str, size: int, rounds: int) -> dict[str, dict[str, float]]:
    calls = arms.together(lambda arm: arm.prepare(case, size, database))
    times: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for number in range(rounds):
        for arm in arms.rotated(number):
            spent = sum(times[arm.name]) * calls[arm.name] / 1e6
            if len(times[arm.name]) < 3 or spent < _SLOW_SECONDS:
                times[arm.name].append(arm.worker.call(prepared.measure, calls[arm.name]))
    arms.in_turn(lambda arm: arm.worker.call(prepared.close))
    return {name: figure(values) for name, values in times.items()}


def figure(values: list[float], unit: str = "us") -> dict[str, float]:
    """Summarise the repetitions of one measurement."""
    return {unit: min(values), "median": statistics.median(values), "repetitions": len(values)}
