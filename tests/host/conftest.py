"""These tests run inside a real DIRAC's environment that has the plugin installed, once per release.

The process of the tests is itself a DIRAC process: it has a configuration of its own, and a real MariaDB that is
started by the first test that needs it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import configuration
from lab.hosts import IN_TREE
from lab.mariadb import MariaDB

_FOLDER = Path(tempfile.mkdtemp(prefix="perfpatch-host-"))
_DATABASE = MariaDB(_FOLDER / "mariadb")
_DATABASES = ("Accounting/AccountingDB", "DataManagement/FileCatalogDB", "WorkloadManagement/PilotAgentsDB")
SITES = 30


def _write_configuration() -> None:
    from importlib.metadata import version

    layout = configuration.Layout(
        ports={},
        database_names={name: name.split("/")[1] for name in _DATABASES},
        database_host=_DATABASE.host,
        database_port=_DATABASE.port,
        database_user=_DATABASE.user,
        database_password=_DATABASE.password,
        certificates=_FOLDER,
        levels=version("DIRAC").startswith("8."),
        sites=SITES,
        users=1,
    )
    tree = configuration.published(layout)
    common: configuration.Section = {"Security": {"SkipCAChecks": "yes"}}
    if layout.levels:
        systems = dict.fromkeys((name.split("/")[0] for name in _DATABASES), configuration.INSTANCE)
        common.update({"Setup": configuration.SETUP, "Setups": {configuration.SETUP: systems}})
    tree["DIRAC"] = common
    server = {"User": _DATABASE.user, "Password": _DATABASE.password, "Host": _DATABASE.host}
    configuration.put(tree, ["Systems", "Databases"], {**server, "Port": str(_DATABASE.port)})
    (_FOLDER / "etc").mkdir()
    (_FOLDER / "etc" / "dirac.cfg").write_text(configuration.text(tree))


def pytest_configure() -> None:
    _write_configuration()
    os.environ.update(
        DIRAC_ROOT_PATH=str(_FOLDER), DIRACSYSCONFIG=str(_FOLDER / "etc" / "dirac.cfg"), X509_CERT_DIR=str(_FOLDER)
    )
    for variable in ("DIRAC_PERFPATCH", "DIRAC_PERFPATCH_CONFIG"):
        os.environ.pop(variable, None)
    from DIRAC.Core.Utilities.Extensions import extensionsByPriority

    extensionsByPriority()
    import dirac_perfpatch

    # Wakes the patches that no module of the host has woken yet, so that a test can take each one off.
    dirac_perfpatch.status()


def pytest_unconfigure() -> None:
    shutil.rmtree(_FOLDER, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Not skipped but not asked for: on a host that has the changes in-tree there is no patch to exercise.
    if release() == IN_TREE:
        items[:] = [item for item in items if item.get_closest_marker("patched") is None]


def release() -> str:
    import DIRAC

    return str(DIRAC.version)


def in_tree() -> bool:
    return release() == IN_TREE


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    import DIRAC

    with _DATABASE as database:
        for name in _DATABASES:
            system, short = name.split("/")
            sql = Path(DIRAC.__file__).parent / f"{system}System" / "DB" / f"{short}.sql"
            lines = [line for line in sql.read_text().splitlines() if not line.lower().startswith("use ")]
            database.execute(f"CREATE DATABASE {short}")
            database.execute("\n".join(lines), short)
        yield database


@pytest.fixture(autouse=True)
def every_patch_on() -> Iterator[None]:
    """Whatever a test does to a patch, the next one finds it on and untripped."""
    from dirac_perfpatch import loading

    yield
    for switch in loading.switches.values():
        switch.guard.failures = 0
        switch._tripped = ""
        switch.arm()


@contextlib.contextmanager
def stock(*names: str) -> Iterator[None]:
    """Take patches off for a while; all of them if none is named."""
    from dirac_perfpatch import loading

    switches = [loading.switches[name] for name in names or loading.switches]
    for switch in switches:
        switch.take_off()
    try:
        yield
    finally:
        for switch in switches:
            switch.arm()


def run(code: str, *through: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, with this host and no toggles but those in the environment given.

    Args:
        code: Python.
        through: A command that runs the command that follows it.
        environment: What to add to ours.
    """
    return subprocess.run(
        [*through, sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd="/",
    )
