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
from functools import partial
from typing import Any

from lab import clients

FOLDERS = [f"/fakevo/bench/{number}" for number in range(5)]
LFNS = 10
# By name of the request: the service that answers it.
SERVICE_OF = {
    "ping": "DataManagement/FileCatalog",
    "exists": "DataManagement/FileCatalog",
    "getDirectorySize": "DataManagement/FileCatalog",
    "configuration": "Configuration/Server",
}
# Seconds from the order until the clients begin, in which they are forked and make one request each.
_HEAD_START = 0.15


def prepare(urls: dict[str, str]) -> None:
    """Fill the catalogue and make each request once. urls: of the services. Errors: RuntimeError if one fails."""
    clients.initialize()
    from DIRAC.Resources.Catalog.FileCatalogClient import FileCatalogClient

    catalog = FileCatalogClient("DataManagement/FileCatalog")
    _urls.update(urls)
    for folder in FOLDERS:
        _require(catalog.createDirectory(folder))
        _require(catalog.addFile(clients.files(folder, LFNS)))
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
def _requests() -> dict[str, Callable[[], Any]]:
    from DIRAC.ConfigurationSystem.Client.ConfigurationClient import ConfigurationClient
    from DIRAC.Core.Base.Client import Client
    from DIRAC.Resources.Catalog.FileCatalogClient import FileCatalogClient

    catalog = FileCatalogClient("DataManagement/FileCatalog")
    service = Client(url=_urls["DataManagement/FileCatalog"])
    configuration = ConfigurationClient(url=_urls["Configuration/Server"])
    lfns = list(clients.files(FOLDERS[0], LFNS))
    return {
        "ping": service.ping,
        "exists": lambda: catalog.exists(lfns),
        "getDirectorySize": lambda: catalog.getDirectorySize(FOLDERS),
        "configuration": configuration.getCompressedData,
    }


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
