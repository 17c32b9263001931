"""Running tests of a host in the two arms: folder by folder, each in a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lab import hosts, processes
from lab.arms import PATCHED, STOCK
from lab.folder import make

from . import comparing, recording
from .comparing import Outcome, Outcomes

REPETITIONS = 3
SECONDS = 1200.0  # for one folder in one arm
# Not *.py: pytest compiles every module of such a name itself, and lazy_imports stands down where others do that.
_NAMES = ("Test_*.py", "test_*.py")
# A DIRAC process reads no other configuration than this: with the one of a real site, tests would talk to its services.
_CONFIGURATION = "DIRAC\n{\n  Setup = Lab\n}\n"


@dataclass(frozen=True)
class Group:
    """Test files that run in one process, relative to the folder that contains DIRAC. name: for people."""

    name: str
    files: tuple[str, ...]


@dataclass
class Pair:
    """What both arms said about a group, in the first run and in each repetition.

    states: of each patch, at the end of each run of the patched arm; problem: why there are no more runs, if one broke.
    """

    stock: list[Outcomes] = field(default_factory=list)
    patched: list[Outcomes] = field(default_factory=list)
    states: list[dict[str, str]] = field(default_factory=list)
    problem: str = ""

    def verdicts(self) -> dict[str, str]:
        """See comparing.verdicts()."""
        return comparing.verdicts(self.stock, self.patched)


def groups(host: hosts.Host, wanted: Iterable[str], together: bool) -> list[Group]:
    """The test files of a host by folder, the largest folder first.

    wanted: regular expressions; a file is chosen if one of them is found in its path. None: all files; together: makes
    one group of all, which saves imports.
    """
    patterns = [re.compile(one) for one in wanted]
    by_folder: dict[str, list[str]] = {}
    for path in sorted((host.site_packages / "DIRAC").rglob("*.py")):
        name = str(path.relative_to(host.site_packages))
        if any(map(path.match, _NAMES)) and (not patterns or any(one.search(name) for one in patterns)):
            by_folder.setdefault("together" if together else str(Path(name).parent), []).append(name)
    found = [Group(folder, tuple(files)) for folder, files in by_folder.items()]
    return sorted(found, key=lambda group: len(group.files), reverse=True)


def compare(arms: dict[str, hosts.Host], group: Group, modules: Path, examples: int) -> Pair:
    """Run a group in both arms, and again if there is a difference that stock itself does not show. Never raises.

    arms: the host of each; modules: a folder with what the processes import of ours; examples: see recording.
    """
    pair = Pair()
    try:
        _repeat(pair, arms, group, modules, examples)
    except RuntimeError as error:
        pair.problem = str(error)
    return pair


def _repeat(pair: Pair, arms: dict[str, hosts.Host], group: Group, modules: Path, examples: int) -> None:
    for _ in range(1 + REPETITIONS):
        # One arm after the other: some tests listen on fixed ports.
        stock, none = _run(arms[STOCK], group, modules, examples)
        patched, states = _run(arms[PATCHED], group, modules, examples)
        if none or not states:
            raise RuntimeError(f"{group.name}: patches without the plugin are {none}, with the plugin {states}")
        pair.stock.append(stock)
        pair.patched.append(patched)
        pair.states.append(states)
        if comparing.DIFFERENT not in pair.verdicts().values():
            return


def _run(host: hosts.Host, group: Group, modules: Path, examples: int) -> tuple[Outcomes, dict[str, str]]:
    """Run a group once. Returns: the outcomes, and the states of the patches."""
    root = make("perfpatch-hosttests-")
    try:
        return _run_in(root, host, group, modules, examples)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _run_in(
    root: Path, host: hosts.Host, group: Group, modules: Path, examples: int
) -> tuple[Outcomes, dict[str, str]]:
    for name in ("etc", "home", "work"):
        (root / name).mkdir()
    (root / "etc" / "dirac.cfg").write_text(_CONFIGURATION)
    records, log = root / "outcomes", root / "log"
    more = {"HOME": str(root / "home"), recording.FILE: str(records), recording.EXAMPLES: str(examples)}
    command = [host.python, "-m", "pytest", "-c", os.devnull, "--rootdir", host.site_packages, "--tb=short"]
    command += ["-p", "no:cacheprovider", "-p", recording.__name__, "-o", f"python_files={' '.join(_NAMES)}"]
    command += ["--continue-on-collection-errors", *(host.site_packages / file for file in group.files)]
    env = host.process_env(root, modules, **more)
    process = processes.start(list(map(str, command)), log, env, folder=root / "work")
    try:
        how = f"ended with {process.wait(SECONDS)}"
    except subprocess.TimeoutExpired:
        processes.kill(process)
        how = f"was ended after {SECONDS:.0f} s"
    found = _read(records, f"{host.site_packages}/")
    if found is None:
        raise RuntimeError(f"{group.name} {how}:\n{log.read_text(errors='replace')[-3000:]}")
    return found


def _read(records: Path, site_packages: str) -> tuple[Outcomes, dict[str, str]] | None:
    """What recording has written, or None if it did not reach its end.

    site_packages: the arm's own, which is left out of the names of tests whose parameters are files of the host.
    """
    outcomes: Outcomes = {}
    for line in records.read_text().splitlines() if records.exists() else ():
        record = json.loads(line)
        if isinstance(record, dict):
            return outcomes, record
        name, word, text = record
        test = name.replace(site_packages, "")
        before = outcomes.get(test)
        # A test that passed may still fail when what it used is closed.
        if before is None or before.word in (recording.AGAIN, "passed"):
            outcomes[test] = Outcome(word, text)
    return None
