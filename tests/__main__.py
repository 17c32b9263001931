"""Run the tests: `python3 -m tests`. Installs what is missing, builds the environments, fast tests first.

Stages: style and types; unit tests on every Python there is, simulations on the default one only; a real Prometheus
that scrapes the exporter; the report's page in a real browser; the distributions, built twice, and the documentation;
then, for each release of DIRAC in an environment of its own, the host tests with a real MariaDB, and beside them the
service tests with real services; the releases between that have forms of their own in-tree; the host's own tests that
concern the patches most, without and with the plugin; what an uninstallation leaves; and last, the chaos suite in its
short form. What has not begun when a stage fails does not begin.

A patch's own tests do not run on a release whose files of the patch's targets are, byte for byte, those of the release
that is compared, on which they do run; the tests of all patches together run on each. `--all` runs everything on each.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import browser, hosts, processes
from lab.command import end_when_told, say
from lab.folder import CHECKOUT, library, make
from lab.interpreters import VERSIONS, python_interpreters
from lab.machine import ensure_packages

STYLE = ["ruff>=0.6", "mypy>=1.11", "types-PyYAML", "wrapt>=1.14", "pytest>=7", "hypothesis>=6"]
STYLE += ["prometheus_client>=0.20"]
UNIT = [
    *("pytest>=7", "hypothesis>=6", "wrapt>=1.14", "PyYAML>=5.4", "importlib_metadata>=4.4"),
    *("scipy>=1.7", "ddsketch>=2", "matplotlib>=3.6"),
]
MONITORING = [*UNIT, "prometheus_client>=0.20"]
PAGE = [*UNIT, browser.LIBRARY]
# The machines that this must pass on have two cores; most tests wait for a third of their time or more.
WORKERS = 4
# About texts, tables and statistics: they run on the default Python, and on the oldest, which has the oldest libraries.
TEXTS = (
    *("test_bench_services.py", "test_bench_tables.py", "test_documentation.py", "test_editing.py"),
    *("test_hosttests.py", "test_report.py", "test_statistics.py", "test_toggles.py", "test_toggles_bytes.py"),
    "test_yamlfile.py",
)
# About files and processes: they run on the newest Python, too.
PROCESSES = ("test_live.py", "test_outcomes.py", "test_spool.py")
OLDEST = (hosts.RELEASES[0], hosts.DEFAULT_PYTHON)
# What may depend on the Python as well as on the release: on the oldest release, with the default Python.
SHORT = ("test_loading.py", "test_seventeen_questions.py", "test_taking_off.py", "test_error_stack.py")


class Stage:
    """One command whose success is asked for, and what it said.

    name: for people; run: gives its exit code and its output; after: another stage, for whose end it waits; if that one
    fails, this one does not run.
    """

    def __init__(self, name: str, run: Callable[[], tuple[int, str]], after: Stage | None = None) -> None:
        self.name = name
        self._run = run
        self._after = after
        self._ended = threading.Event()
        self.passed = self.failed = 0

    def __call__(self) -> None:
        """Run it; print its output if it failed."""
        if self._after:
            self._after._ended.wait()
        try:
            if not (self._after and self._after.failed):
                self._judge()
        finally:
            self._ended.set()

    def _judge(self) -> None:
        start = time.monotonic()
        try:
            code, output = self._run()
        except Exception as error:
            code, output = 1, f"{type(error).__name__}: {error}\n{getattr(error, 'stderr', '') or ''}"
        counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|errors?)\b", output[-400:])}
        self.passed = counts.get("passed", 1 if code == 0 else 0)
        self.failed = counts.get("failed", 0) + counts.get("error", 0) + counts.get("errors", 0)
        if code and not self.failed:
            self.failed = 1
        verdict = f"{self.passed} passed" if code == 0 else "FAILED"
        say(f"{self.name}: {verdict}, {time.monotonic() - start:.0f} s")
        if code:
            print(output, flush=True)


def command(arguments: Sequence[str | Path], environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a command in the checkout. Returns: its exit code, and its output of both kinds."""
    folder = make("perfpatch-stage-")
    # What it leaves there goes with it. Some tests are other users for a while.
    folder.chmod(0o711)
    env = {**(environment or hosts.clean_environment()), "TMPDIR": str(folder)}
    code = processes.start(list(map(str, arguments)), folder / "output", env, folder=CHECKOUT).wait()
    output = (folder / "output").read_text(errors="replace")
    shutil.rmtree(folder, ignore_errors=True)  # now, while others work: at the end it would take half a minute
    return code, output


def _style() -> list[Stage]:
    def tool(*arguments: str) -> Callable[[], tuple[int, str]]:
        folder = hosts.plain_environment("style", STYLE)
        return lambda: command([folder / arguments[0], *arguments[1:]])

    return [
        Stage("ruff check", tool("ruff", "check", "--no-cache")),
        Stage("ruff format", tool("ruff", "format", "--no-cache", "--check")),
        Stage("mypy", tool("mypy", "--cache-dir", os.devnull)),
    ]


def _unit(version: str) -> Stage:
    def run() -> tuple[int, str]:
        python = hosts.plain_environment("unit", UNIT, version) / "python"
        # The checkout itself: these tests are about our code, not about how it is installed.
        chosen = [] if version == hosts.DEFAULT_PYTHON else ["-m", "not simulation"]
        if version not in {VERSIONS[0], hosts.DEFAULT_PYTHON}:
            left_out = TEXTS if version == VERSIONS[-1] else TEXTS + PROCESSES
            chosen += [f"--ignore=tests/unit/{name}" for name in left_out]
        tests = [python, "-m", "pytest", *chosen, "tests/unit"]
        return command(tests, hosts.clean_environment(PYTHONPATH=str(CHECKOUT)))

    return Stage(f"unit tests, Python {version}", run)


def _release() -> Stage:
    """Builds twice: the same bytes, exactly the package."""
    return Stage("release, short form", lambda: command([sys.executable, "-m", "release", "--short"]))


def _documentation() -> Stage:
    """Warnings of the builder fail it, and so does a page that needs another server."""

    def run() -> tuple[int, str]:
        output = make("perfpatch-documentation-") / "site"
        return command([sys.executable, "-m", "release.documentation", "--output", output])

    return Stage("documentation", run)


def _monitoring() -> Stage:
    def run() -> tuple[int, str]:
        python = hosts.plain_environment("monitoring", MONITORING) / "python"
        return command([python, "-m", "pytest", "tests/monitoring"], hosts.clean_environment(PYTHONPATH=str(CHECKOUT)))

    return Stage("monitoring tests, Debian's Prometheus", run)


def _page() -> Stage:
    def run() -> tuple[int, str]:
        python = hosts.plain_environment("page", PAGE) / "python"
        return command([python, "-m", "pytest", "tests/page"], hosts.clean_environment(PYTHONPATH=str(CHECKOUT)))

    return Stage("the report's page, Debian's Chromium", run)


def _with_host(
    kind: str,
    pair: tuple[str, str],
    *,
    modules: Path,
    installed: Stage,
    everything: bool,
    files: Sequence[str] = ("",),
    name: str = "",
) -> Stage:
    """Tests in a host's environment.

    Args:
        kind: "host" or "service".
        pair: The host's release and Python.
        modules: A folder from which they can import, too.
        installed: The stage that makes the environment.
        everything: With each patch's own tests on a release whose targets have the files of the release compared.
        files: Those of the kind; all by default.
        name: Of the stage; "" for one of its kind and host.
    """
    release, version = pair

    def run() -> tuple[int, str]:
        host = hosts.environment(release, version, label="tests")
        # Without the working directory, the checkout, on the path: it would come before the plugin that is installed.
        pytest = "import sys; sys.path.remove(''); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
        arguments = [host.python, "-c", pytest, "--rootdir", CHECKOUT, "-c", CHECKOUT / "pyproject.toml"]
        if release != hosts.COMPARED:
            arguments += ["-m", "not once" if version != hosts.DEFAULT_PYTHON else "not once and not own_lines"]
        arguments += [CHECKOUT / "tests" / kind / file for file in files]
        more = {}
        if release != hosts.COMPARED and version == hosts.DEFAULT_PYTHON and not everything:
            more["PERFPATCH_SAME_FILES"] = str(hosts.environment(hosts.COMPARED, label="tests").site_packages)
        return command(arguments, hosts.clean_environment(PYTHONPATH=str(modules), **more))

    return Stage(name or f"{kind} tests, DIRAC {release}, Python {version}", run, installed)


def _hosts(modules: Path, installed: Stage, everything: bool) -> list[Stage]:
    """The host and service tests of each host, and the releases between; what takes longest begins first."""
    with_host = functools.partial(_with_host, modules=modules, installed=installed, everything=everything)
    compared, in_tree = ((release, hosts.DEFAULT_PYTHON) for release in (hosts.COMPARED, hosts.IN_TREE))
    files = sorted(path.name for path in (CHECKOUT / "tests" / "host").glob("test_*.py"))
    stages = []
    for half in (0, 1):  # or the others would have ended long before it
        name = f"host tests, DIRAC {hosts.COMPARED}, half {half + 1}"
        stages.append(with_host("host", compared, files=files[half::2], name=name))
    others = [pair for pair in hosts.matrix() if pair != compared]
    others.sort(key=lambda pair: (pair[1] == hosts.DEFAULT_PYTHON, pair != in_tree))
    stages += [with_host("host", pair) for pair in others]
    # They wait for half of their time, which what is short fills.
    stages += [with_host("service", pair) for pair in (compared, *others)]
    if OLDEST not in others:
        stages.append(with_host("host", OLDEST, files=SHORT))
    name = f"in-tree forms, over the dependencies of DIRAC {hosts.IN_TREE}"
    stages.append(with_host("host", in_tree, everything=True, files=["in_tree_forms.py"], name=name))
    return stages


def _install(pairs: Sequence[tuple[str, str]]) -> Stage:
    """One after the other: most of it waits for the disk."""

    def run() -> tuple[int, str]:
        for release, version in pairs:
            hosts.install_plugin(hosts.environment(release, version, label="tests"), CHECKOUT, "ab")
        return 0, ""

    return Stage("installations of DIRAC and the plugin", run)


def _uninstall(release: str) -> Stage:
    """What `pip uninstall` leaves: the files and the answers that were there before."""
    ask = "from DIRAC.Core.Utilities.Extensions import extensionsByPriority; print(extensionsByPriority())"

    def look(host: hosts.Host) -> tuple[set[str], tuple[int, str]]:
        return hosts.files(host), command([host.python, "-c", ask])

    def run() -> tuple[int, str]:
        host = hosts.environment(release, label="uninstall")
        before = look(host)
        hosts.install_plugin(host, CHECKOUT)
        between = look(host)
        hosts.remove_plugin(host)
        after = look(host)
        left = after[0] ^ before[0]
        same = between[0] != before[0] and not left and before[1] == between[1] == after[1] == (0, "['DIRAC']\n")
        return (0, "") if same else (1, f"before {before[1]}, between {between[1]}, after {after[1]}, left {left}")

    return Stage(f"uninstall, DIRAC {release}", run)


def _hosts_own() -> Stage:
    arguments = [sys.executable, "-m", "hosttests", "--short", "--releases", hosts.COMPARED]
    return Stage(f"host's own tests, short form, DIRAC {hosts.COMPARED}", lambda: command(arguments))


def _run_all(done: list[Stage], stages: Sequence[Stage], *beside: Stage) -> None:
    """Run stages, several at once; the program ends here if one of them fails.

    Args:
        done: Gets them.
        stages: In the order in which they begin.
        beside: These begin at once, whatever the others do.
    """

    def run(stage: Stage) -> None:
        if not any(one.failed for one in done):
            stage()

    done += [*beside, *stages]
    with ThreadPoolExecutor(WORKERS) as pool, ThreadPoolExecutor(1) as other:
        list(itertools.chain(other.map(Stage.__call__, beside), pool.map(run, stages)))
    if any(one.failed for one in done):
        _close(done)


def _close(done: Sequence[Stage]) -> None:
    passed, failed = sum(stage.passed for stage in done), sum(stage.failed for stage in done)
    print(f"{passed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed else 0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m tests", description=__doc__)
    parser.add_argument("--all", action="store_true", help="all tests of each patch on each release")
    everything = parser.parse_args().all
    end_when_told()
    ensure_packages(browser.PACKAGE)
    done: list[Stage] = []
    # What takes longest begins first. The monitoring tests wait for half of their time.
    pythons = sorted(python_interpreters(), key=(hosts.DEFAULT_PYTHON, VERSIONS[0], VERSIONS[-1], *VERSIONS).index)
    units = [*map(_unit, pythons), _page(), _release(), _documentation()]
    units.insert(1, _monitoring())
    installed = _install(list(dict.fromkeys([*hosts.matrix(), OLDEST])))
    modules = library(make("perfpatch-library-") / "library", "lab")
    others = [_hosts_own(), *map(_uninstall, hosts.RELEASES)]
    _run_all(done, [*_style(), *units, *_hosts(modules, installed, everything), *others], installed)
    # Alone: it counts what a server that is restarted, and a client that is halted, do to each other.
    _run_all(done, [Stage("chaos, short form", lambda: command([sys.executable, "-m", "chaos", "--short"]))])
    _close(done)


if __name__ == "__main__":
    main()
