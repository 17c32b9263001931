"""The clients of one side, each a process of its own. Runs in the host's Python and uses DIRAC's own client code.

The worker is the first client; it has made each request once. The others are forked from it when they are needed, so
that 16 of them take neither the memory nor the time of 16 starts.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from lab import clients
from lab.configuration import VO

FOLDERS = [f"/fakevo/bench/{number}" for number in range(5)]
LFNS = 10
RECORDS = 10
CATALOG, HTTPS_CATALOG = "DataManagement/FileCatalog", "DataManagement/TornadoFileCatalog"
DATA_STORE, REPORTS = "Accounting/DataStore", "Accounting/ReportGenerator"
CONFIGURATION = "Configuration/Server"
PILOTS = "WorkloadManagement/PilotManager"
# By name of the request: the service that answers it.
SERVICE_OF = {
    "ping": CATALOG,
    "exists": CATALOG,
    "getDirectorySize": CATALOG,
    "configuration": CONFIGURATION,
    "https ping": HTTPS_CATALOG,
    "https exists": HTTPS_CATALOG,
    "accounting commit": DATA_STORE,
    "accounting report": REPORTS,
}
# The profile's requests: these and more.
PROFILED = {**SERVICE_OF, "pilot summary": PILOTS}
# Seconds from the order until the clients begin, in which they are forked and make one request each.
_HEAD_START = 0.15
# The records that reports are about: one per hour, over some days.
_REPORTED = 100
# The pilots that a summary counts.
_PILOTS = 100
_Request = Callable[[], Any]


def prepare(urls: dict[str, str]) -> None:
    """Fill the catalogue, the accounting and the pilots.

    urls: of the services. Errors: RuntimeError if a request fails.
    """
    clients.initialize()
    _urls.update(urls)
    from DIRAC.Core.Base.Client import Client
    from DIRAC.Resources.Catalog.FileCatalogClient import FileCatalogClient

    catalog = FileCatalogClient(CATALOG)
    for folder in FOLDERS:
        _require(catalog.createDirectory(folder))
        _require(catalog.addFile(clients.files(folder, LFNS)))
    if DATA_STORE in urls:
        _require(clients.commit(_records(_REPORTED)))
    if PILOTS in urls:
        references = [f"htcondorce://ce.example.org/{number}" for number in range(_PILOTS)]
        _require(Client(url=urls[PILOTS]).addPilotReferences(references, VO))


def warm_up() -> None:
    """Make each request a few times. Errors: RuntimeError if one fails."""
    for request in _requests().values():
        for _ in range(3):
            _require(request())


def run(name: str, number: int, seconds: float) -> list[dict[str, Any]]:
    """Make a request again and again, with a number of clients, for some seconds.

    Returns: for each client its latencies and their sum, the CPU time of its process (all in seconds), and failures.
    """
    request = _requests()[name]
    start = time.monotonic() + _HEAD_START * (1 + number / 8)
    children = [_fork(partial(_client, request, start, seconds)) for _ in range(number)]
    return [_result(*child) for child in children]


_urls: dict[str, str] = {}


@functools.cache
def _requests() -> dict[str, _Request]:
    """By name, those whose service is there."""
    from DIRAC.ConfigurationSystem.Client.ConfigurationClient import ConfigurationClient
    from DIRAC.Core.Base.Client import Client
    from DIRAC.Resources.Catalog.FileCatalogClient import FileCatalogClient

    catalog = FileCatalogClient(CATALOG)
    service = Client(url=_urls[CATALOG])
    configuration = ConfigurationClient(url=_urls[CONFIGURATION])
    lfns = list(clients.files(FOLDERS[0], LFNS))
    # What scripts do: a client object per request, which trusts the server only if its certificate is right.
    https = {"url": _urls.get(HTTPS_CATALOG, ""), "skipCACheck": False}
    found: dict[str, _Request] = {
        "ping": service.ping,
        "exists": lambda: catalog.exists(lfns),
        "getDirectorySize": lambda: catalog.getDirectorySize(FOLDERS),
        "configuration": configuration.getCompressedData,
        "https ping": lambda: Client(**https).ping(),
        "https exists": lambda: FileCatalogClient(**https).exists(lfns),
        "accounting commit": partial(clients.commit, _records(RECORDS)),
        "accounting report": _report,
        "pilot summary": Client(url=_urls.get(PILOTS, "")).getPilotSummary,
    }
    return {name: request for name, request in found.items() if PROFILED[name] in _urls}


def _records(number: int) -> list[Any]:
    """Accounting records of the jobs of the test user, one per hour, the newest first."""
    now = datetime.utcnow().replace(microsecond=0)
    return [
        clients.job_record(now - timedelta(hours=hour), 3600, str(hour % 7), User="MrUser", UserGroup="fakevo_user")
        for hour in range(number)
    ]


def _report() -> Any:
    from DIRAC.AccountingSystem.Client.ReportsClient import ReportsClient

    end = datetime.utcnow()
    # The service keeps what it has read from the database, by all arguments.
    unlike = {"request": os.urandom(8).hex()}
    answer = ReportsClient().getReport("Job", "CPUUsed", end - timedelta(days=2), end, {}, "Site", unlike)
    if answer["OK"] and not answer["Value"]["data"]:
        raise RuntimeError("a report without data")
    return answer


def _client(request: Callable[[], Any], start: float, seconds: float) -> dict[str, Any]:
    failures = [clients.problem(request())]
    time.sleep(max(0.0, start - time.monotonic()))
    latencies: list[float] = []
    cpu, began = time.process_time(), time.perf_counter()
    while (before := time.perf_counter()) < began + seconds:
        failures.append(clients.problem(request()))
        latencies.append(time.perf_counter() - before)
    took = time.perf_counter() - began
    return {
        "latencies": latencies,
        "seconds": took,
        "cpu": time.process_time() - cpu,
        "failures": [failure for failure in failures if failure],
    }


def _fork(function: Callable[[], Any]) -> tuple[int, int]:
    """Call the function in a child. Returns: the child and the pipe with what it returns, or with its error."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    try:
        os.close(read)
        try:
            answer = function()
        except Exception as error:
            answer = {"error": repr(error)}
        with open(write, "w") as pipe:
            json.dump(answer, pipe)
    finally:
        os._exit(0)


def _result(pid: int, read: int) -> dict[str, Any]:
    with open(read) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    answer: dict[str, Any] = json.loads(text or '{"error": "the client died"}')
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer


def _require(answer: Any) -> None:
    problem = clients.problem(answer)
    if problem:
        raise RuntimeError(problem)
