"""Run DIRAC's own tests on real DIRACs, without and with the plugin, and compare the outcome of each test.

A test that differs runs again, together with those of its folder, up to three times in each arm. If its outcome also
changes on stock it is flaky there, and no difference. The exit code is 1 if a test differs or a patch has tripped.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import hosts
from lab.arms import PATCHED, STOCK
from lab.command import end_when_told, say, seconds
from lab.folder import CHECKOUT, library, make
from lab.machine import ensure_packages

from . import report, running

WORKERS = 2
EXAMPLES, SHORT_EXAMPLES = 10, 1
# What comes nearest to the targets of the patches, without the folders that import every agent or wait.
SHORT = (
    "ConfigurationSystem/Client/",
    "Core/DISET/",
    "Core/Security/test/Test_X509",
    "Core/Utilities/test/Test_(Encode|Extensions|MySQL|ObjectLoader|ReturnValues)",
    "AccountingSystem/DB/",
    "DataManagementSystem/(Utilities|DB/FileCatalogComponents)/",
    "Interfaces/API/",
    "Resources/Catalog/test/Test_F",
    "WorkloadManagementSystem/Utilities/test/Test_Tornado",
)


def main() -> None:
    options = _options()
    end_when_told()
    ensure_packages()
    modules = library(make("perfpatch-library-") / "library", "lab", "hosttests")
    found = {release: _release(release, python, modules, options) for release, python in _chosen(options.releases)}
    print("\n" + report.text(found))
    problems = report.problems(found)
    for problem in problems:
        print(problem)
    tests = sum(len(pair.verdicts()) for pairs in found.values() for pair in pairs)
    print(f"{tests} tests, {len(problems)} failed, {seconds():.0f} s")
    sys.exit(1 if problems or not tests else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m hosttests", description=__doc__)
    parser.add_argument("--releases", nargs="+", choices=hosts.RELEASES, default=hosts.RELEASES, metavar="RELEASE")
    parser.add_argument("--select", nargs="+", default=(), metavar="PATTERN", help="only files whose path matches one")
    parser.add_argument("--examples", type=int, help="per test of hypothesis, which itself takes 100 (default: 10)")
    parser.add_argument("--short", action="store_true", help="the files that concern the patches most, fewer examples")
    options = parser.parse_args()
    options.examples = options.examples or (SHORT_EXAMPLES if options.short else EXAMPLES)
    return options


def _chosen(releases: Sequence[str]) -> list[tuple[str, str]]:
    return [(release, python) for release, python in hosts.matrix() if release in releases]


def _release(release: str, python: str, modules: Path, options: argparse.Namespace) -> list[running.Pair]:
    patched = hosts.environment(release, python, label="hosttests")
    hosts.install_plugin(patched, CHECKOUT)
    arms = {STOCK: hosts.environment(release, python), PATCHED: patched}
    groups = running.groups(patched, options.select or (SHORT if options.short else ()), together=options.short)

    def compare(group: running.Group) -> running.Pair:
        pair = running.compare(arms, group, modules, options.examples)
        counts = Counter(pair.verdicts().values())
        said = [pair.problem, *(f"{number} {word}" for word, number in counts.items())]
        say(f"DIRAC {release}, {group.name}: {', '.join(filter(None, said))}")
        return pair

    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(compare, groups))


if __name__ == "__main__":
    main()
