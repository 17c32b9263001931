"""Many things that a client can ask, and every answer: in a worker in the host's Python."""

from __future__ import annotations

import os
import socket
from typing import Any

from lab import clients

FOLDER = "/fakevo/questions"
# Differ from run to run.
VOLATILE = ("CallStack", "QueryTime", "rpcStub", "ExecInfo")


def ask() -> list[Any]:
    """Ask everything twice. Returns: the answers, without what differs from run to run."""
    clients.initialize()
    from DIRAC.ConfigurationSystem.Client.Helpers.CSGlobals import getCSExtensions
    from DIRAC.Core.Security.ProxyInfo import getProxyInfo
    from DIRAC.Core.Utilities.Extensions import extensionsByPriority
    from DIRAC.DataManagementSystem.Utilities.DMSHelpers import DMSHelpers
    from DIRAC.Resources.Catalog.FileCatalogClient import FileCatalogClient

    catalog = FileCatalogClient("DataManagement/FileCatalog")
    files = clients.files(FOLDER, 3)
    answers: list[Any] = []
    for _ in range(2):
        answers += [
            catalog.createDirectory(FOLDER),
            catalog.addFile(files),
            catalog.exists(list(files)),
            catalog.exists("/no/such"),
            catalog.getReplicas(list(files)),
            catalog.getReplicas("/no/such"),
            catalog.getFileSize(list(files)),
            catalog.getDirectorySize(FOLDER),
            catalog.getDirectorySize("/no/such"),
            catalog.getDirectorySize([FOLDER, "/no/such"], longOut=True),
            catalog.getDirectorySize(FOLDER, longOut=True, fromFiles=True),
            catalog.removeFile(list(files)[2]),
            catalog.addMetadataField("refused", "NONE"),
            extensionsByPriority(),
            getCSExtensions(),
            sorted(DMSHelpers().getStorageElements()),
            DMSHelpers().getSitesForSE("SITE000-disk"),
            getProxyInfo()["Value"]["group"],
        ]
    return [_settled(answer) for answer in answers]


def nodelay(port: int) -> int | None:
    """TCP_NODELAY of this process's connection with that port of a client; None if there is none."""
    for name in os.listdir("/proc/self/fd"):
        try:
            copy = os.dup(int(name))
        except OSError:  # closed meanwhile
            continue
        try:
            with socket.socket(fileno=copy) as found:
                if found.family != socket.AF_UNIX and found.getpeername()[1] == port:
                    return found.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        except OSError:  # not a socket, or not a connected one
            pass
    return None


def _settled(answer: Any) -> Any:
    if isinstance(answer, dict):
        return {str(key): _settled(value) for key, value in answer.items() if key not in VOLATILE}
    return [_settled(value) for value in answer] if isinstance(answer, (list, tuple, set)) else repr(answer)


def are_recorded() -> bool:
    """In a service: whether requests are recorded, so the host's functions are not as they were."""
    from DIRAC.Core.DISET.private.Service import Service
    from DIRAC.Core.DISET.RequestHandler import RequestHandler
    from DIRAC.Core.Utilities.MySQL import MySQL

    response = vars(RequestHandler)["_RequestHandler__logRemoteQueryResponse"]
    found = [Service._processInThread, Service._receiveAndCheckProposal, response, MySQL._query, MySQL._updatemany]
    recorded = {_is_recorded(function) for function in found}
    assert len(recorded) == 1
    return recorded.pop()


def _is_recorded(function: Any) -> bool:
    while function.__code__.co_filename.endswith(("connection_eviction.py", "recording.py")):
        function = function.__wrapped__
    return bool(function.__code__.co_filename.endswith("patching.py"))
