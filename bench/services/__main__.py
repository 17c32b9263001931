"""Measure what users feel: requests of real clients to real services, in stock and patched DIRAC, side by side.

Each round measures every side in every condition, in turn; as many rounds as fit into nine minutes. Compare ratios, not
figures, between runs or machines.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from lab import hosts
from lab.arms import Arms
from lab.command import end_when_told, save, say, seconds
from lab.folder import CHECKOUT, library, temporary_folder
from lab.hosts import Host
from lab.machine import ensure_packages
from lab.mariadb import MariaDB
from lab.proxy import Proxy

from . import figures, sides
from .figures import LOOPBACK, Cell

# Milliseconds of a round trip to a database on another machine.
DELAY = 0.5
# Seconds for everything: as many rounds are made as fit, but at least some.
BUDGET, SHORT_BUDGET = 560.0, 115.0
LEAST_ROUNDS, MOST_ROUNDS = 2, 6
# By number of clients: seconds for which they make requests, per round, side and condition.
SECONDS = {1: 0.7, 4: 0.5, 16: 0.6}
DATABASE_REQUESTS = ("exists", "getDirectorySize")


def main() -> None:
    options = _options()
    end_when_told()
    ensure_packages()
    with temporary_folder("perfpatch-services-") as folder:
        slots = _measure(folder, options.short)
    measured = {cell: {side: figures.summarize(found) for side, found in by.items()} for cell, by in slots.items()}
    goals = figures.judged(measured)
    print("\n" + figures.table(measured) + "\n")
    print(figures.goals_table(goals) + "\n")
    rounds = sorted({len(by[sides.STOCK]) for by in slots.values()})
    print(f"Requests per second: the median of {' or '.join(map(str, rounds))} rounds. Ratios are to {sides.STOCK}.\n")
    found = [{**cell._asdict(), "sides": by} for cell, by in measured.items()]
    reached = [
        {"call": goal.cell.label(), "goal": goal.words(), "ratio": ratio, "met": goal.is_met(ratio)}
        for goal, ratio in goals
    ]
    save(options.json, {"cells": found, "goals": reached})
    if options.figures:
        tools = hosts.plain_environment("bench", ["matplotlib"])
        arguments = [str(path.resolve()) for path in (options.json, options.figures)]
        subprocess.run([str(tools / "python"), "-m", "bench.services.plots", *arguments], check=True, cwd=CHECKOUT)
        print(f"plots: {options.figures}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m bench.services", description=__doc__)
    parser.add_argument("--short", action="store_true", help="keys of 2048 bits, 1 and 4 clients, database on loopback")
    parser.add_argument("--json", type=Path, help="file for the figures (default: services.json in the cache folder)")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="draw requests per second there, as PNG and SVG")
    options = parser.parse_args()
    options.json = options.json or hosts.cache_folder() / "services.json"
    return options


def cells(short: bool) -> Iterator[Cell]:
    """The conditions, those with the same installations one after the other."""
    if short:
        for clients, request in product((1, 4), ("ping", *DATABASE_REQUESTS)):
            yield Cell(2048, LOOPBACK, clients, request)
        return
    for key_bits in (4096, 2048):
        for clients, request in product(SECONDS, ("ping", *DATABASE_REQUESTS)):
            yield Cell(key_bits, LOOPBACK, clients, request)
        yield Cell(key_bits, LOOPBACK, 4, "configuration")
    for clients, request in product(SECONDS, DATABASE_REQUESTS):
        yield Cell(2048, DELAY, clients, request)


def _measure(folder: Path, short: bool) -> dict[Cell, dict[str, list[dict[str, Any]]]]:
    """Measure everything. Returns: by condition and side, what each round gave."""
    say("installing DIRAC and the plugin (the first time takes a minute)")
    installed = sides.environments()
    modules = library(folder / "library", "lab", "bench")
    slots: dict[Cell, dict[str, list[dict[str, Any]]]] = {
        cell: {name: [] for name in installed} for cell in cells(short)
    }
    budget, left = SHORT_BUDGET if short else BUDGET, len(slots)
    with MariaDB(folder / "mariadb") as database:
        for key_bits, delay in dict.fromkeys((cell.key_bits, cell.delay) for cell in slots):
            chosen = {cell: found for cell, found in slots.items() if (cell.key_bits, cell.delay) == (key_bits, delay)}
            end = seconds() + (budget - seconds()) * len(chosen) / left
            left -= len(chosen)
            say(f"keys of {key_bits} bits, database {delay} ms away: starting the services of {len(installed)} sides")
            files = folder / f"k{key_bits}d{int(delay * 1000)}"
            with _started(installed, database, files, modules, key_bits, delay) as running:
                _measure_some(chosen, running, end)
    return slots


@contextlib.contextmanager
def _started(
    installed: dict[str, Host], database: MariaDB, folder: Path, modules: Path, key_bits: int, delay: float
) -> Iterator[Arms[sides.Side]]:
    with contextlib.ExitStack() as stack:
        port = database.port
        if delay:
            port = stack.enter_context(Proxy((database.host, database.port), delay / 2000)).port
        # The wheel's own certificates have 4096 bits.
        bits = 0 if key_bits == 4096 else key_bits
        yield stack.enter_context(sides.started(installed, database, folder, modules, bits, port))


def _measure_some(slots: dict[Cell, dict[str, list[dict[str, Any]]]], running: Arms[sides.Side], end: float) -> None:
    """Fill in the conditions that share their installations. end: in seconds of this command."""
    for number in range(MOST_ROUNDS):
        began = seconds()
        for cell, found in slots.items():
            for side in running.rotated(number):
                found[side.name].append(side.measure(cell.request, cell.clients, SECONDS[cell.clients]))
        say(f"round {number + 1}: {seconds() - began:.0f} s")
        if number + 1 >= LEAST_ROUNDS and 2 * seconds() - began > end:
            break


if __name__ == "__main__":
    main()
