"""Measure DIRAC without and with the plugin, and without and with the changes in-tree, side by side in one run: per
call, with growth, and at start-up.

The first run installs what is missing. Compare ratios, not figures, between runs or machines.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dirac_perfpatch.bench import cases
from lab import hosts
from lab.arms import IN_TREE, PATCHED, REPLACED, environments
from lab.command import end_when_told, save, say
from lab.folder import CHECKOUT, make, temporary_folder
from lab.machine import ensure_packages
from lab.mariadb import MariaDB

from . import arms, calls, goals, recording, result, startup
from .drawing import draw


def main() -> None:
    options = _options()
    end_when_told()
    ensure_packages()
    with temporary_folder("perfpatch-bench-") as folder:
        figures = _measure(folder, options.quick)
    _report(figures)
    print()
    save(options.json, figures)
    if options.figures:
        draw("bench.plots", options.json, options.figures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="without growth, with fewer repetitions")
    parser.add_argument("--json", type=Path, help="file for the figures (default: bench.json in the cache folder)")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="draw the growth curves there, as PNG and SVG")
    options = parser.parse_args()
    if options.quick and options.figures:
        parser.error("--quick measures no growth, so there are no figures to draw")
    options.json = options.json or hosts.cache_folder() / "bench.json"
    return options


def _measure(folder: Path, quick: bool) -> dict[str, Any]:
    """Measure everything. Returns: the figures, as plain data for JSON."""
    say("installing DIRAC and the plugin (the first time takes a minute)")
    replaced = hosts.environment(hosts.IN_TREE, label="bench")
    hosts.install_plugin(replaced, CHECKOUT, "ab")
    installed = {**environments("bench", "ab"), IN_TREE: hosts.environment(hosts.IN_TREE), REPLACED: replaced}
    oldest = environments("bench", "ab", release=hosts.RELEASES[0])
    with MariaDB(folder / "mariadb") as database, arms.started(installed, folder) as running:
        # Each arm holds up to 200 connections at a time.
        database.execute("SET GLOBAL max_connections = 1000; CREATE DATABASE bench")
        rounds = calls.QUICK_ROUNDS if quick else calls.ROUNDS
        per_call = calls.measure(running, database, calls.sizes(quick), rounds)
        say("start-up")
        starts = startup.measure(running, startup.QUICK if quick else startup.ROUNDS)
        patched = running.named(PATCHED)
        own_part = startup.measure_own_part(patched, 2 if quick else 6)
        recorded = patched.ask_anew(recording.compare)
        felt = patched.ask_anew(recording.compare_outcomes)
        with arms.started(oldest, make("perfpatch-bench-")) as pair:
            on_oldest = calls.measure(pair, database, calls.ON_OLDEST, rounds)
    say("done")
    return {
        "releases": {name: host.release for name, host in installed.items()},
        "calls": per_call,
        "calls of the oldest release": on_oldest,
        "starts": starts,
        "own part": own_part,
        "recording": recorded,
        "recording of outcomes": felt,
    }


def _report(figures: dict[str, Any]) -> None:
    measured = [case for _, case in cases() if case.name in figures["calls"]]
    labels = {(case.name, size): case.label(size) for case in measured for size in figures["calls"][case.name]}
    wanted = goals.of_calls(figures["calls"], labels) + goals.of_oldest(figures["calls of the oldest release"])
    wanted += goals.of_starts(figures["starts"], figures["own part"])
    wanted += goals.of_recording(figures["recording"], figures["recording of outcomes"])
    figures["goals"] = [{**asdict(goal), "met": goal.met} for goal in wanted]
    print("\n" + result.calls_table(figures["calls"], labels))
    print("\n" + result.pairs_table(figures["calls of the oldest release"], hosts.RELEASES[0]))
    print("\n" + result.starts_table(figures["starts"], figures["own part"]))
    print("\n" + result.recording_table(figures["recording"], figures["recording of outcomes"]))
    print("\n" + result.goals_table(wanted))
    arms_are = ", ".join(f"{name} is DIRAC {release}" for name, release in figures["releases"].items())
    print(f"\n{arms_are}. Each figure is the minimum of its repetitions; the arms take turns on the same machine.")


if __name__ == "__main__":
    main()
