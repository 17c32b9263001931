"""Expose the MySQL pool to everything that can go wrong, in four arms in one run, and print one table.

stock is DIRAC 9.1.8 with the plugin off, patched is the same with it on, in-tree is DIRAC 9.1.22, whose pool has its
own solution, and replaced is 9.1.22 with the plugin. Everything is real and on loopback: released DIRAC, a MariaDB
server per arm, DIRAC's own `MySQL` class. The exit code is 1 if an arm with the plugin misses a goal.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from lab import hosts
from lab.arms import IN_TREE, PATCHED, PLUGGED, REPLACED, STOCK
from lab.command import end_when_told, save, say, seconds
from lab.folder import CHECKOUT, library, temporary_folder
from lab.machine import ensure_packages
from lab.mariadb import MariaDB

from . import scenarios
from .arms import Arm, Arms
from .result import Row, missed, table

Section = tuple[str, Sequence[Row]]


def main() -> None:
    options = _options()
    end_when_told()
    ensure_packages()
    patched, in_tree = (hosts.environment(release, label="tests") for release in (hosts.COMPARED, hosts.IN_TREE))
    if not options.no_install:
        for host in (patched, in_tree):
            hosts.install_plugin(host, CHECKOUT)
    say(f"DIRAC {patched.release} and {in_tree.release}, each without and with the plugin; a MariaDB server for each")
    with temporary_folder("perfpatch-chaos-") as folder, _started(folder, patched, in_tree) as arms:
        sections = [_section(scenario, arms, options.short) for scenario in _chosen(options.only)]
        sections = [(title, rows) for title, rows in sections if rows]
        sections.append(("the plugin itself", [_plugin_row(arms)]))
    say("everything is stopped")
    print("\n" + table(sections) + "\n")
    if options.json:
        _save(options.json, options.short, sections)
    problems = missed(sections)
    for problem in problems:
        print("goal missed:", problem)
    print(f"{'SOME GOALS MISSED' if problems else 'every goal met'}, {seconds():.0f} s")
    sys.exit(1 if problems else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="fewer repetitions: under a minute")
    parser.add_argument("--json", type=Path, help="write the figures, with more detail, to this file")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"some of: {', '.join(map(_name, scenarios.ALL))}")
    parser.add_argument("--no-install", action="store_true", help="use the plugin that is installed in the environment")
    options = parser.parse_args()
    unknown = set(options.only or ()) - set(map(_name, scenarios.ALL))
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    return options


def _name(scenario: ModuleType) -> str:
    return scenario.__name__.rpartition(".")[2]


def _chosen(names: Sequence[str] | None) -> list[ModuleType]:
    return [scenario for scenario in scenarios.ALL if not names or _name(scenario) in names]


@contextlib.contextmanager
def _started(folder: Path, patched: hosts.Host, in_tree: hosts.Host) -> Iterator[Arms]:
    """Start the arms; stop them at the end."""
    modules = library(folder / "library", "chaos", "lab")
    with MariaDB(folder / "template"):
        pass
    (folder / "template" / "data").rename(folder / "data")
    wanted = ((STOCK, patched, False), (PATCHED, patched, True), (IN_TREE, in_tree, False), (REPLACED, in_tree, True))
    arms = Arms(Arm(name, host, plugin, folder, modules) for name, host, plugin in wanted)
    try:
        arms.together(Arm.start)
        yield arms
    finally:
        arms.together(Arm.stop)


def _section(scenario: ModuleType, arms: Arms, short: bool) -> Section:
    """Run one scenario. If it breaks, that is a missed goal, and the others still run."""
    start = time.monotonic()
    title = (scenario.__doc__ or "").splitlines()[0]
    try:
        rows: list[Row] = scenario.run(arms, short)
    except Exception:
        text = traceback.format_exc()
        say(text)
        rows = [Row("the scenario itself", {PATCHED: "broke"}, "runs", False, text.strip().splitlines()[-1])]
        for arm in arms:
            arm.reset()
    verdict = "a goal was missed" if any(row.met is False for row in rows) else "done"
    say(f"{_name(scenario)}: {verdict}, {time.monotonic() - start:.1f} s")
    return title, rows


def _plugin_row(arms: Arms) -> Row:
    """Whether the patches are still on after all this: a tripped patch would meet many goals, as stock does."""
    off = {
        arm: [f"{name} is {state}" for name, state in arms.named(arm).states().items() if state != "applied"]
        for arm in PLUGGED
    }
    words = {line for arm in PLUGGED for log in arms.named(arm).folder.rglob("*.log") for line in _ours(log)}
    note = "; ".join([*off[PATCHED], *off[REPLACED], *sorted(words)])
    counts = {arm: len(found) for arm, found in off.items()}
    return Row("patches that are no longer applied", counts, "0", not any(counts.values()), note)


def _ours(log: Path) -> list[str]:
    return [line[:200] for line in log.read_text(errors="replace").splitlines() if "dirac-perfpatch: " in line]


def _save(path: Path, short: bool, sections: Sequence[Section]) -> None:
    figures = {
        "release": hosts.COMPARED,
        IN_TREE: hosts.IN_TREE,
        "short": short,
        "seconds": round(seconds()),
        "scenarios": {title: [dataclasses.asdict(row) for row in rows] for title, rows in sections},
    }
    save(path, figures)


if __name__ == "__main__":
    main()
