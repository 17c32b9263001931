"""Measure what people start: commands, a job wrapper, an agent and a service, stock and patched in turn.

For each line of releases, one real installation answers both. A figure is CPU time of the process and its children,
because other work on the machine disturbs it less than the time on the clock. The first run installs what is missing.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.drawing import draw
from lab import hosts
from lab.arms import PATCHED, STOCK
from lab.command import end_when_told, save, say
from lab.folder import CHECKOUT, library, temporary_folder
from lab.hosts import Host
from lab.installation import Installation
from lab.machine import ensure_packages
from lab.mariadb import MariaDB

from . import measuring, result

SERVICES = ("Configuration/Server", "DataManagement/FileCatalog", "WorkloadManagement/JobMonitoring")
# What dirac-wms-job-status 1 finds.
JOB = """
INSERT INTO JobJDLs (JobID, JDL, JobRequirements, OriginalJDL) VALUES (1, '', '', '');
INSERT INTO Jobs (JobID, Status, MinorStatus, Site) VALUES (1, 'Waiting', 'Pilot Agent Submission', 'LCG.Site001.ch');
"""


def main() -> None:
    options = _options()
    end_when_told()
    ensure_packages()
    figures: dict[str, Any] = {}
    with temporary_folder("perfpatch-starts-") as folder, MariaDB(folder / "mariadb") as database:
        for release, python in hosts.matrix():
            if release in options.releases:
                figures[release] = _measure(release, python, folder, database, options.rounds)
                # At once: a release may take ten minutes on a busy machine, and the next one may fail or be stopped.
                _show(figures, options.json)
    if options.figures:
        draw("bench.starts.plots", options.json, options.figures)


def _show(figures: dict[str, Any], file: Path) -> None:
    goals = result.goals(figures)
    print("\n" + result.table(figures))
    print("\n" + result.goals_table(goals))
    print(f"\n{result.REMARKS}\n", flush=True)
    save(file, {"starts": figures, "goals": [{**asdict(goal), "met": goal.met} for goal in goals]})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m bench.starts", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="starts of each in each arm")
    parser.add_argument("--releases", nargs="*", default=hosts.RELEASES[:3], help="which releases")
    parser.add_argument("--json", type=Path, help="file for the figures (default: starts.json in the cache folder)")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="draw the plot there, as PNG and SVG")
    options = parser.parse_args()
    options.json = options.json or hosts.cache_folder() / "starts.json"
    return options


def _measure(release: str, python: str, folder: Path, database: MariaDB, rounds: int) -> measuring.Figures:
    say(f"installing DIRAC {release} and the plugin")
    patched = hosts.environment(release, python, label="bench")
    hosts.install_plugin(patched, CHECKOUT)
    stock: Host = hosts.environment(release, python)
    modules = library(folder / f"library-{release}", "lab")
    prefix = release.replace(".", "_") + "_"
    own = Installation(stock, database, folder / release, modules, services=SERVICES, prefix=prefix, key_bits=2048)
    with own:
        own.rows("WorkloadManagement/JobDB", JOB)
        say(f"starts with {release}")
        return measuring.measure({STOCK: stock, PATCHED: patched}, own, rounds)


if __name__ == "__main__":
    main()
