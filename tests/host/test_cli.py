"""The command dirac-perfpatch on a real host: what it prints, writes and exits with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from conftest import release, run, script

from dirac_perfpatch import cli, loading, toggles
from dirac_perfpatch.patches import CATALOGUE
from lab.hosts import IN_TREE, state
from lab.mariadb import MariaDB

NAMES = [patch.name for patch in CATALOGUE]
# What they change is imported with DIRAC.
IN_EVERY_PROCESS = {"extension_lookup", "error_stack", "configuration_options", "log_records"}
IN_EVERY_PROCESS |= {"configuration_parsing", "local_options"}


COMMAND = Path(sys.executable).parent / "dirac-perfpatch"


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(script(COMMAND, *arguments), **environment)


def test_status_for_people_and_for_machines() -> None:
    wanted = {name: state(release(), name) for name in NAMES}
    for name in NAMES:
        if wanted[name] == "applied" and name not in IN_EVERY_PROCESS:
            wanted[name] = "armed"
    answer = command("status")
    assert answer.returncode == 0, answer.stderr
    assert release() in answer.stdout.splitlines()[0]
    for name in NAMES:
        (line,) = (line for line in answer.stdout.splitlines() if line.startswith(name))
        assert wanted[name] in line
        assert (" is imported" in line) is (wanted[name] == "armed")
    answer = command("status", "--json")
    assert answer.returncode == 0
    told = json.loads(answer.stdout)
    assert told["dirac"] == release()
    assert [(patch["name"], patch["state"]) for patch in told["patches"]] == list(wanted.items())


def test_status_says_so_when_the_toggles_are_bad(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("patches:\n  eror_stack: off\n")
    answer = command("status", DIRAC_PERFPATCH_CONFIG=str(tmp_path / "bad.yaml"))
    assert answer.returncode == 2
    assert "did you mean error_stack?" in answer.stdout


@pytest.mark.once
@pytest.mark.patched
def test_check_says_so_when_a_patch_failed(tmp_path: Path) -> None:
    (tmp_path / "wrapt").mkdir()
    (tmp_path / "wrapt" / "__init__.py").write_text("raise RuntimeError('broken on purpose')\n")
    answer = command("check", PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    assert answer.returncode == 1
    assert "failed" in answer.stdout


def test_init_writes_the_documented_file_once(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "patches.yaml"
    answer = command("init", DIRAC_ROOT_PATH=str(tmp_path))
    assert (answer.returncode, answer.stdout) == (0, f"wrote {path}\n"), answer.stderr
    assert path.read_text() == Path(toggles.SHIPPED).read_text()
    path.write_text("enabled: false\n")
    answer = command("init", DIRAC_ROOT_PATH=str(tmp_path))
    assert answer.returncode == 1
    assert str(path) in answer.stderr
    assert path.read_text() == "enabled: false\n"
    assert " off " in command("status", DIRAC_ROOT_PATH=str(tmp_path)).stdout


def test_set_changes_the_file_that_dirac_reads(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "patches.yaml"
    answer = command("set", "error_stack=off", "connection_checkout.idle_ping_seconds=7", DIRAC_ROOT_PATH=str(tmp_path))
    said = "error_stack=off, connection_checkout.idle_ping_seconds=7"
    assert (answer.returncode, answer.stdout) == (0, f"wrote {path}: {said}\n"), answer.stderr
    named = command("set", "dms_helpers=off", DIRAC_PERFPATCH_CONFIG=str(path))
    assert (named.returncode, named.stdout) == (0, f"changed {path}: dms_helpers=off\n"), named.stderr
    found = toggles.read(str(path)).patches
    assert [name for name in NAMES if not found[name].on] == ["error_stack", "dms_helpers"]
    assert found["connection_checkout"].options["idle_ping_seconds"] == 7
    refused = command("set", "error_stack=of", "--file", str(path))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("dirac-perfpatch: enabled of error_stack must be on, off or ab; it is 'of'; ")
    assert toggles.read(str(path)).patches == found


def test_check_compares_every_patch_with_stock(mariadb: MariaDB, tmp_path: Path) -> None:
    file = tmp_path / "my.cnf"
    account = ("host", "port", "user", "password")
    lines = [f"{name} = {getattr(mariadb, name)}" for name in account]
    file.write_text("\n".join(["[client]", *lines, "database = mysql"]))
    answer = command("check", "--db", str(file))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    rows = {line.split()[0]: line for line in answer.stdout.splitlines() if line.split()[:1]}
    for name in NAMES:
        assert ("stood down" if state(release(), name) == "stood down" else "same as stock") in rows[name]


def test_check_of_a_dirac_without_a_configuration(tmp_path: Path) -> None:
    """Just installed. Some of the host's functions raise then."""
    missing = {"DIRACSYSCONFIG": str(tmp_path / "none.cfg"), "DIRAC_ROOT_PATH": str(tmp_path)}
    answer = command("check", **missing)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert set(NAMES) < {line.partition(" ")[0] for line in answer.stdout.splitlines()}
    assert ("DIRAC itself fails here, too: KeyError" in answer.stdout) is (release() == IN_TREE)


@pytest.mark.parametrize("database", ["Accounting/NoSuchDB", "NoSuchSystem/DB", "localhost:3306:user:secret:mysql"])
def test_check_says_what_is_wrong_with_a_database(database: str) -> None:
    answer = command("check", "--db", database)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith("dirac-perfpatch: --db")
    assert answer.stderr.count("\n") == 1
    assert "secret" not in answer.stderr


def test_it_tells_its_version() -> None:
    answer = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (0, f"dirac-perfpatch {version('dirac-perfpatch')}\n")


def test_without_a_host_it_says_so(tmp_path: Path) -> None:
    """A DIRAC that cannot be imported is none."""
    (tmp_path / "DIRAC").mkdir()
    (tmp_path / "DIRAC" / "__init__.py").write_text("raise ImportError('broken on purpose')\n")
    answer = command("status", PYTHONPATH=str(tmp_path))
    assert answer.returncode == 2
    assert "no DIRAC can be imported" in answer.stderr


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        ("aaa", "same as stock"),
        ("aab" + "aab", "differs"),
        ("aba" + "baa", "differs"),
        ("aab" + "aaa", "same as stock"),  # a call that failed once, as on a busy machine
    ],
)
def test_check_reports_a_difference_that_comes_again(answers: str, verdict: str) -> None:
    given = iter(answers)
    patch = next(patch for patch in CATALOGUE if patch.name == "error_stack")
    assert cli._compare(patch._replace(ask=lambda database: next(given)), None)[0] == verdict
    assert not list(given)


def test_check_reports_a_failure_of_a_patch_that_comes_again() -> None:
    switch = loading.plugin.switches["error_stack"]

    def failing(calls: set[int]) -> Any:
        number = iter(range(6))

        def ask(database: Any) -> str:
            if next(number) in calls:
                switch.guard.failed(ValueError())
            return "a"

        return switch.patch._replace(ask=ask)

    try:
        assert cli._compare(failing({0}), None) == ("same as stock", "")
        switch.guard.begin_anew()
        assert cli._compare(failing({0, 3}), None) == ("differs", "failures of the patch's own code: 1")
    finally:
        switch.guard.begin_anew()


@pytest.mark.once
def test_check_says_why_a_patch_was_not_asked(tmp_path: Path) -> None:
    """Its module cannot be imported here, as where mysqlclient is broken."""
    (tmp_path / "MySQLdb").mkdir()
    (tmp_path / "MySQLdb" / "__init__.py").write_text("raise ImportError('broken on purpose')\n")
    # A process of its own: others are forked from one that has imported MySQLdb.
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    answer = subprocess.run([COMMAND, "check"], capture_output=True, text=True, check=False, env=environment)
    (row,) = [line for line in answer.stdout.splitlines() if line.startswith("connection_checkout ")]
    assert "not asked" in row and "cannot be imported here: ImportError: broken on purpose" in row
