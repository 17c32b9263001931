"""Do the same work on a stock and a patched DIRAC, side by side, and print one table of the differences.

Everything is real: released DIRAC, MariaDB, services, agent and clients. The first run installs what is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lab import hosts
from lab.arms import PATCHED, STOCK, Arms, environments
from lab.command import end_when_told, save, say
from lab.folder import library, temporary_folder
from lab.machine import ensure_packages
from lab.mariadb import MariaDB

from . import production
from .arms import ROLES, Arm
from .result import Tally, notes, summary, table

WARM_UP = 2  # rounds that do not count: first imports, first connections, first cache entries


def main() -> None:
    options = _options()
    end_when_told()
    say(f"DIRAC {hosts.COMPARED}, {STOCK} against {STOCK if options.null else PATCHED}; {options.rounds} rounds each")
    ensure_packages()
    say("installing DIRAC and the plugin (the first time takes a minute)")
    installed = _installed(options.null)
    with temporary_folder("perfpatch-demo-") as folder, MariaDB(folder / "mariadb") as database:
        say(f"MariaDB is up on port {database.port}; starting the Configuration server, FileCatalog, DataStore ...")
        modules = library(folder / "library", "demo", "lab")
        arms = Arms(Arm(name, host, database, folder / name, modules) for name, host in installed.items())
        with _started(arms):
            tallies = _measure(arms, database, options.rounds)
        compared = []
        if not options.null:
            windows = f"windows of {production.WINDOW_SECONDS} s"
            say(f"the same services, every patch `ab`, {windows}, {options.seconds} s ...")
            compared = production.compare(
                installed[PATCHED], database, folder / "compared", modules, options.seconds, options.html, tallies
            )
    say("everything is stopped")
    print("\n" + table(tallies))
    print("\nPer call: the median. The arms take turns on one machine and one database; the idle arm is halted.")
    for note in notes(tallies):
        print("note:", note)
    print("\n".join(compared) + "\n")
    figures = {"release": hosts.COMPARED, "rounds": options.rounds, "arms": summary(tallies)}
    save(options.json, figures)
    if any(tally.failures for tally in tallies.values()):
        sys.exit(1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m demo", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds that count, per arm (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the figures (default: demo.json in the cache folder)")
    parser.add_argument("--seconds", type=int, default=60, help="of A/B comparison afterwards (default: %(default)s)")
    parser.add_argument("--html", type=Path, help="file for the report page (default: demo.html in the cache folder)")
    parser.add_argument("--null", action="store_true", help="stock against stock: what the measurement itself adds")
    options = parser.parse_args()
    options.json = options.json or hosts.cache_folder() / "demo.json"
    options.html = options.html or hosts.cache_folder() / "demo.html"
    return options


def _installed(null: bool) -> dict[str, hosts.Host]:
    """The arms' environments by name."""
    if null:
        stock = hosts.environment(hosts.COMPARED)
        return {STOCK: stock, "stock too": stock}
    return environments("demo", "ab", "report")


@contextlib.contextmanager
def _started(arms: Arms[Arm]) -> Iterator[None]:
    """Start both arms and fill their catalogues; stop them at the end."""
    try:
        arms.together(Arm.start)
        say("all services answer; filling the catalogues")
        arms.together(_fill)
        yield
    finally:
        arms.together(Arm.stop)


def _fill(arm: Arm) -> None:
    report = arm.ask("user", "fill")
    problems = [problem for entry in report.values() for problem in entry["failures"]]
    if problems:
        raise RuntimeError(f"{arm.name}: the catalogue could not be filled: {problems[0]}")


def _measure(arms: Arms[Arm], database: MariaDB, rounds: int) -> dict[str, Tally]:
    """Run the rounds, the arms in turn. Returns: each arm's tally by its name, in the order of the arms."""
    for number in range(WARM_UP):
        arms.together(partial(_round, database, number, Tally()))
    tallies = {arm.name: Tally() for arm in arms}
    before = arms.in_turn(Arm.counts)
    arms.in_turn(Arm.pause)
    for number in range(rounds):
        seconds = {}
        for arm in arms.rotated(number):
            start = time.monotonic()
            arm.resume()
            _round(database, WARM_UP + number, tallies[arm.name], arm)
            arm.pause()
            seconds[arm.name] = time.monotonic() - start
        say(f"round {number + 1} of {rounds}: {', '.join(f'{arm.name} {seconds[arm.name]:.2f} s' for arm in arms)}")
    for arm in arms:
        arm.resume()
        tallies[arm.name].add_counts(before[arm.name], arm.counts())
    return tallies


def _round(database: MariaDB, number: int, tally: Tally, arm: Arm) -> None:
    pings, connections = database.pings(), database.connections()
    for role in ROLES:
        tally.add_report(arm.ask(role, "round", number))
    arm.insert_pending_records()
    tally.pings += database.pings() - pings
    tally.connections += database.connections() - connections


if __name__ == "__main__":
    main()
