"""Measure what users feel: requests of real clients to real services, in stock and patched DIRAC, side by side.

Each round measures every side in every condition, in turn; as many rounds as fit into ten minutes. Compare ratios, not
figures, between runs or machines.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from bench.drawing import draw
from lab import hosts
from lab.arms import Arms
from lab.command import end_when_told, save, say, seconds
from lab.folder import library, temporary_folder
from lab.hosts import Host
from lab.machine import ensure_packages
from lab.mariadb import MariaDB
from lab.proxy import Proxy

from . import figures, sides
from .crew import CATALOG, CONFIGURATION, SERVICE_OF
from .figures import LOOPBACK, Cell

# Milliseconds of a round trip to a database on another machine.
DELAY = 0.5
# By number of clients: seconds for which they make requests, per round, side and condition.
SECONDS = {1: 0.7, 4: 0.5, 16: 0.6}
DATABASE_REQUESTS = ("exists", "getDirectorySize")


class Plan(NamedTuple):
    """How much is measured.

    sides: their names; cells: the conditions, those with the same installations one after the other; budget: seconds
    for everything, in which as many rounds are made as fit; least_rounds, most_rounds: but at least and at most so
    many; seconds: by number of clients, see SECONDS.
    """

    sides: Sequence[str]
    cells: Sequence[Cell]
    budget: float
    least_rounds: int = 2
    most_rounds: int = 6
    seconds: Mapping[int, float] = SECONDS


def plan(asked: argparse.Namespace) -> Plan:
    """What the options ask for."""
    if asked.quick:
        cells = [Cell(4096, LOOPBACK, 1, request) for request in SERVICE_OF] + [Cell(4096, LOOPBACK, 4, "ping")]
        return Plan((sides.STOCK, sides.PATCHED), cells, 0.0, least_rounds=1, most_rounds=1, seconds={1: 0.1, 4: 0.1})
    if asked.short:
        requests = ("ping", *DATABASE_REQUESTS)
        return Plan(tuple(sides.SIDES), [Cell(2048, LOOPBACK, *one) for one in product((1, 4), requests)], 115.0)
    return Plan(tuple(sides.SIDES), list(_all()), 610.0)


def _all() -> Iterator[Cell]:
    yield from (Cell(4096, LOOPBACK, clients, "ping") for clients in SECONDS)
    yield from (Cell(4096, LOOPBACK, *one) for one in product((1, 4), DATABASE_REQUESTS))
    yield from (Cell(2048, LOOPBACK, *one) for one in product(SECONDS, ("ping", *DATABASE_REQUESTS, "https exists")))
    yield Cell(2048, LOOPBACK, 4, "configuration")
    yield Cell(2048, LOOPBACK, 1, "https ping")
    yield from (Cell(2048, LOOPBACK, *one) for one in product((1, 4), ("accounting commit", "accounting report")))
    yield from (Cell(2048, DELAY, *one) for one in product((1, 4), DATABASE_REQUESTS))


def main() -> None:
    asked = options(sys.argv[1:])
    end_when_told()
    ensure_packages()
    with temporary_folder("perfpatch-services-") as folder:
        slots = _measure(folder, plan(asked), asked.patched)
    measured = {cell: {side: figures.summarize(found) for side, found in by.items()} for cell, by in slots.items()}
    goals = figures.judged(measured)
    print("\n" + figures.table(measured) + "\n")
    print(figures.goals_table(goals) + "\n")
    rounds = " or ".join(map(str, sorted({len(by[sides.STOCK]) for by in slots.values()})))
    print(f"Requests per second: the median of {rounds} rounds. Ratios are to {sides.STOCK}.")
    print("https: a client object per request, as in scripts, which verifies the server. The database is a real one.\n")
    found = [{**cell._asdict(), "sides": by} for cell, by in measured.items()]
    reached = [
        {"call": goal.cell.label(), "goal": goal.words(), "ratio": ratio, "verdict": goal.verdict(ratio)}
        for goal, ratio in goals
    ]
    save(asked.json, {"cells": found, "goals": reached})
    if asked.figures:
        draw("bench.services.plots", asked.json, asked.figures)


def options(words: Sequence[str]) -> argparse.Namespace:
    """The options on a command line."""
    parser = argparse.ArgumentParser(prog="python3 -m bench.services", description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--short", action="store_true", help="the file catalogue, keys of 2048 bits, 1 and 4 clients")
    length.add_argument("--quick", action="store_true", help="a moment of each request to 9.1.8: shows that it works")
    parser.add_argument("--json", type=Path, help="file for the figures (default: services.json in the cache folder)")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="draw requests per second there, as PNG and SVG")
    parser.add_argument(
        "--patched", type=Path, metavar="FOLDER", help="measure this environment of 9.1.8, with the plugin that it has"
    )
    found = parser.parse_args(words)
    found.json = found.json or hosts.cache_folder() / "services.json"
    return found


def _measure(folder: Path, plan: Plan, patched: Path | None) -> dict[Cell, dict[str, list[dict[str, Any]]]]:
    """Measure everything. patched: see sides.environments(). Returns: by condition and side, what each round gave."""
    say("installing DIRAC and the plugin (the first time takes a minute)")
    installed = sides.environments(plan.sides, patched)
    modules = library(folder / "library", "lab", "bench")
    slots: dict[Cell, dict[str, list[dict[str, Any]]]] = {cell: {name: [] for name in installed} for cell in plan.cells}
    left = len(slots)
    with MariaDB(folder / "mariadb") as database:
        for key_bits, delay in dict.fromkeys((cell.key_bits, cell.delay) for cell in slots):
            chosen = {cell: found for cell, found in slots.items() if (cell.key_bits, cell.delay) == (key_bits, delay)}
            end = seconds() + (plan.budget - seconds()) * len(chosen) / left
            left -= len(chosen)
            services = list(dict.fromkeys([CONFIGURATION, CATALOG, *(SERVICE_OF[cell.request] for cell in chosen)]))
            say(f"keys of {key_bits} bits, database {delay} ms away: starting {len(services)} services of each side")
            files = folder / f"k{key_bits}d{int(delay * 1000)}"
            with _started(installed, database, files, modules, services, key_bits, delay) as running:
                _measure_some(chosen, running, plan, end)
    return slots


@contextlib.contextmanager
def _started(
    installed: dict[str, Host],
    database: MariaDB,
    folder: Path,
    modules: Path,
    services: Sequence[str],
    key_bits: int,
    delay: float,
) -> Iterator[Arms[sides.Side]]:
    with contextlib.ExitStack() as stack:
        port = database.port
        if delay:
            port = stack.enter_context(Proxy((database.host, database.port), delay / 2000)).port
        # The wheel's own certificates have 4096 bits.
        bits = 0 if key_bits == 4096 else key_bits
        yield stack.enter_context(sides.started(installed, database, folder, modules, services, bits, port))


def _measure_some(
    slots: dict[Cell, dict[str, list[dict[str, Any]]]], running: Arms[sides.Side], plan: Plan, end: float
) -> None:
    """Fill in the conditions that share their installations. end: in seconds of this command."""
    for number in range(plan.most_rounds):
        began = seconds()
        for cell, found in slots.items():
            for side in running.rotated(number):
                found[side.name].append(side.measure(cell.request, cell.clients, plan.seconds[cell.clients]))
        say(f"round {number + 1}: {seconds() - began:.0f} s")
        if number + 1 >= plan.least_rounds and 2 * seconds() - began > end:
            break


if __name__ == "__main__":
    main()
