"""Real services, a real database, DIRAC's own client: the plugin loads in each, and answers are those of stock."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import workload
from lab.hosts import IN_TREE, Host
from lab.installation import Installation
from lab.mariadb import MariaDB

LAUNCHER = Path(__file__).with_name("launcher.py")
FILE_CATALOG = "DataManagement/FileCatalog"
DATA_STORE = "Accounting/DataStore"

# Asks many things of the catalogue and prints every answer, without what differs from run to run.
QUESTIONS = """
import json, sys
import DIRAC
DIRAC.initialize()
from DIRAC.ConfigurationSystem.Client.Helpers.CSGlobals import getCSExtensions
from DIRAC.Core.Security.ProxyInfo import getProxyInfo
from DIRAC.Core.Utilities.Extensions import extensionsByPriority
from DIRAC.DataManagementSystem.Utilities.DMSHelpers import DMSHelpers
from DIRAC.Resources.Catalog.FileCatalogClient import FileCatalogClient

catalog = FileCatalogClient("DataManagement/FileCatalog")
folder = "/fakevo/questions"
files = {f"{folder}/f{n}": {"PFN": "x", "Size": n, "SE": "SITE000-disk", "GUID": str(n), "Checksum": "0badcafe"}
         for n in range(3)}
answers = []
for _ in range(2):
    answers += [
        catalog.createDirectory(folder), catalog.addFile(files), catalog.exists(list(files)),
        catalog.exists("/no/such"), catalog.getReplicas(list(files)), catalog.getReplicas("/no/such"),
        catalog.getFileSize(list(files)), catalog.getDirectorySize(folder), catalog.getDirectorySize("/no/such"),
        catalog.getDirectorySize([folder, "/no/such"], longOut=True),
        catalog.getDirectorySize(folder, longOut=True, fromFiles=True),
        catalog.removeFile(f"{folder}/f2"), catalog.addMetadataField("refused", "NONE"),
        extensionsByPriority(), getCSExtensions(), sorted(DMSHelpers().getStorageElements()),
        DMSHelpers().getSitesForSE("SITE000-disk"), getProxyInfo()["Value"]["group"],
    ]

def settled(answer):
    if isinstance(answer, dict):
        volatile = ("CallStack", "QueryTime", "rpcStub", "ExecInfo")
        return {str(key): settled(value) for key, value in answer.items() if key not in volatile}
    return [settled(value) for value in answer] if isinstance(answer, (list, tuple, set)) else repr(answer)

print(json.dumps(settled(answers), sort_keys=True))
"""


@pytest.fixture(scope="session")
def host() -> Host:
    from importlib.metadata import version

    return Host(version("DIRAC"), "{}.{}".format(*sys.version_info), Path(sys.prefix))


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    with MariaDB(tmp_path_factory.mktemp("mariadb")) as running:
        yield running


@pytest.fixture(scope="session")
def installations(
    host: Host, database: MariaDB, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Installation]]:
    """Two of them in one environment: with the plugin, and with everything switched off."""
    started: dict[str, Installation] = {}
    try:
        for name, word in (("patched", "on"), ("stock", "off")):
            folder = tmp_path_factory.mktemp(name)
            installation = Installation(
                host,
                database,
                folder / "installation",
                env={"DIRAC_PERFPATCH": word, "STATUS_FOLDER": str(folder), "PYTHONPATH": os.environ["PYTHONPATH"]},
                launcher=[str(host.python), str(LAUNCHER)],
                prefix=f"{name}_",
            )
            installation.start()
            started[name] = installation
        yield started
    finally:
        for installation in started.values():
            installation.stop()


def work(installation: Installation, rounds: int, tag: str) -> dict[str, Any]:
    answer = installation.run_client(Path(workload.__file__), str(rounds), tag)
    return dict(json.loads(answer.stdout.splitlines()[-1]))


def failures(report: dict[str, Any]) -> list[str]:
    return [failure for entry in report.values() for failure in entry["failures"]]


def states(installation: Installation, service: str) -> dict[str, str]:
    process = installation.processes[service]
    path = Path(installation.env["STATUS_FOLDER"], f"{process.pid}.json")
    path.unlink(missing_ok=True)
    process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, installation.log(service).read_text()[-2000:]
        time.sleep(0.05)
    return {entry["name"]: entry["state"] for entry in json.loads(path.read_text())}


def test_what_the_plugin_does_in_each_service(installations: dict[str, Installation], host: Host) -> None:
    for service in (FILE_CATALOG, DATA_STORE):
        seen = states(installations["patched"], service)
        wanted = "stood down" if host.release == IN_TREE else "applied"
        needed = {name: state for name, state in seen.items() if state != "armed"}
        assert set(needed.values()) == {wanted}
        assert {"extension_lookup", "error_stack", "proxy_loading", "connection_checkout"} <= set(needed)
        assert {"connection_eviction", "connection_close"} <= set(needed)
        assert set(states(installations["stock"], service).values()) == {"off"}


def test_the_same_work_without_a_failure_and_without_pings(
    installations: dict[str, Installation], database: MariaDB, host: Host
) -> None:
    pings = {}
    for name, installation in installations.items():
        work(installation, 1, "warm")
        before = database.pings()
        assert failures(work(installation, 3, "work")) == []
        pings[name] = database.pings() - before
    if host.release != IN_TREE:
        assert pings["stock"] > 100
    assert pings["patched"] * 10 <= max(pings["stock"], 100)


def test_the_answers_are_those_of_stock(installations: dict[str, Installation]) -> None:
    answers = {}
    for name, installation in installations.items():
        asked = installation.run_client(QUESTIONS)
        assert "dirac-perfpatch: " not in asked.stderr
        answers[name] = json.loads(asked.stdout.splitlines()[-1])
    assert answers["patched"] == answers["stock"]
    assert len(answers["stock"]) == 36


@pytest.mark.patched
def test_connections_that_are_killed_between_requests_cost_nothing(
    installations: dict[str, Installation], database: MariaDB
) -> None:
    for name, installation in installations.items():
        for number in range(4):
            for (connection,) in database.execute(
                "SELECT id FROM information_schema.processlist WHERE user = 'dirac' AND command = 'Sleep'"
            ):
                database.execute(f"KILL {connection}")
            assert failures(work(installation, 1, f"{name}-killed-{number}")) == []


@pytest.mark.patched
def test_a_database_that_restarts(installations: dict[str, Installation], database: MariaDB) -> None:
    database.restart()
    for installation in installations.values():
        assert failures(work(installation, 1, "restarted")) == []


def test_nothing_of_ours_in_the_logs(installations: dict[str, Installation]) -> None:
    for installation in installations.values():
        for service in installation.services:
            log = installation.log(service).read_text()
            assert "dirac-perfpatch: " not in log
            assert "Traceback" not in log
