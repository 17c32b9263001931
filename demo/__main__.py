"""Do the same work on a stock and on a patched DIRAC, side by side, and end with one table of what differs.

Everything is real: released DIRAC, MariaDB, services, agent and clients. A first run installs what is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from lab import hosts
from lab.folder import temporary_folder
from lab.machine import ensure_packages
from lab.mariadb import MariaDB

from . import production
from .arms import Arm
from .result import Tally, notes, summary, table

RELEASE = "9.1.8"
CHECKOUT = Path(__file__).resolve().parents[1]
WARM_UP = 2  # rounds that are not counted: first imports, first connections, first entries of a cache
Result = TypeVar("Result")

_began = time.monotonic()


def main() -> None:
    options = _options()
    # So that everything is stopped when we are told to end, and not only at Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    say(f"DIRAC {RELEASE}, stock against {'stock' if options.null else 'patched'}; {options.rounds} rounds each")
    ensure_packages()
    say("installing DIRAC and the plugin (the first time takes a minute)")
    arms = _hosts(options.null)
    with temporary_folder("perfpatch-demo-") as folder, MariaDB(folder / "mariadb") as database:
        say(f"MariaDB is up on port {database.port}; starting the Configuration server, FileCatalog, DataStore ...")
        with _started(arms, database, folder) as (first, second):
            tallies = _measure(first, second, database, options.rounds)
        compared = [] if options.null else _compare(arms, database, folder, options, tallies)
    say("everything is stopped")
    print("\n" + table(tallies))
    print("\nPer call: the median. Two arms on one machine, one database and in alternation; the idle arm is halted.")
    for note in notes(tallies):
        print("note:", note)
    print("\n".join(compared))
    _save(options.json, options.rounds, tallies)
    if any(tally.failures for tally in tallies.values()):
        sys.exit(1)


def say(text: str) -> None:
    """Show progress, with the seconds since the start."""
    print(f"[{time.monotonic() - _began:5.0f} s] {text}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m demo", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds that count, per arm (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where the figures go (default: demo.json in the cache folder)")
    parser.add_argument("--seconds", type=int, default=60, help="of A/B afterwards (default: %(default)s)")
    parser.add_argument("--html", type=Path, help="where the page goes (default: demo.html in the cache folder)")
    parser.add_argument("--null", action="store_true", help="stock against stock: what the measurement itself adds")
    options = parser.parse_args()
    options.json = options.json or hosts.cache_folder() / "demo.json"
    options.html = options.html or hosts.cache_folder() / "demo.html"
    return options


def _hosts(null: bool) -> dict[str, hosts.Host]:
    """The arms' environments by name. The stock one has never had the plugin in it."""
    stock = hosts.environment(RELEASE)
    if null:
        return {"stock": stock, "stock too": stock}
    patched = hosts.environment(RELEASE, label="demo")
    hosts.install_plugin(patched, CHECKOUT, "ab", "report")
    return {"stock": stock, "patched": patched}


def _compare(
    arms: dict[str, hosts.Host], database: MariaDB, folder: Path, options: argparse.Namespace, tallies: dict[str, Tally]
) -> list[str]:
    """The same work on one installation whose patches are `ab`. Returns: what is to be printed."""
    say(f"the same services, every patch `ab`, windows of {production.WINDOW_SECONDS} s, {options.seconds} s ...")
    return production.compare(arms["patched"], database, folder, options.seconds, options.html, tallies)


@contextlib.contextmanager
def _started(environments: dict[str, hosts.Host], database: MariaDB, folder: Path) -> Iterator[tuple[Arm, Arm]]:
    """Both arms, running; stopped at the end."""
    library = folder / "library"
    library.mkdir()
    for package in ("demo", "lab"):
        os.symlink(CHECKOUT / package, library / package)
    first, second = (Arm(name, host, database, folder / name, library) for name, host in environments.items())
    try:
        _both(Arm.start, first, second)
        say("all services answer; filling the catalogues")
        _both(_fill, first, second)
        yield first, second
    finally:
        _both(Arm.stop, first, second)


def _both(action: Callable[[Arm], Result], first: Arm, second: Arm) -> list[Result]:
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(action, (first, second)))


def _fill(arm: Arm) -> None:
    report = arm.ask("user", "fill")
    problems = [problem for entry in report.values() for problem in entry["failures"]]
    if problems:
        raise RuntimeError(f"{arm.name}: the catalogue could not be filled: {problems[0]}")


def _measure(first: Arm, second: Arm, database: MariaDB, rounds: int) -> dict[str, Tally]:
    """Do the rounds in alternation. Returns: each arm's tally by its name, the first arm first."""
    for number in range(WARM_UP):
        _both(lambda arm, number=number: _round(arm, database, number, Tally()), first, second)  # type: ignore[misc]
    tallies = {arm.name: Tally() for arm in (first, second)}
    before = {arm.name: arm.counts() for arm in (first, second)}
    for arm in (first, second):
        arm.pause()
    for number in range(rounds):
        # Each goes first in every other round: what the first leaves behind must not always hit the same arm.
        order = (first, second) if number % 2 == 0 else (second, first)
        seconds = {}
        for arm in order:
            start = time.monotonic()
            arm.resume()
            _round(arm, database, WARM_UP + number, tallies[arm.name])
            arm.pause()
            seconds[arm.name] = time.monotonic() - start
        took = ", ".join(f"{arm.name} {seconds[arm.name]:.2f} s" for arm in (first, second))
        say(f"round {number + 1} of {rounds}: {took}")
    for arm in (first, second):
        arm.resume()
        tallies[arm.name].add_counts(before[arm.name], arm.counts())
    return tallies


def _round(arm: Arm, database: MariaDB, number: int, tally: Tally) -> None:
    pings, connections = database.pings(), database.connections()
    for role in ("user", "agent"):
        tally.add_report(arm.ask(role, "round", number))
    arm.insert_pending_records()
    tally.pings += database.pings() - pings
    tally.connections += database.connections() - connections


def _save(path: Path, rounds: int, tallies: dict[str, Tally]) -> None:
    figures = {
        "release": RELEASE,
        "rounds": rounds,
        "python": hosts.DEFAULT_PYTHON,
        "cores": os.cpu_count(),
        "machine": platform.platform(),
        "arms": summary(tallies),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1))
    print(f"\nfigures: {path}")


if __name__ == "__main__":
    main()
