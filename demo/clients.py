"""The clients of one arm, using DIRAC's own client code. Runs in the host's Python.

Each is a process that runs through all rounds, as a real client or agent does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from demo import probe
from lab import clients
from lab.clients import Report, count

FOLDERS = 10
FILES_PER_FOLDER = 100
LOOKS = 20  # look-ups of proxy, storage elements and extensions in each round


def do(role: str, order: str, *arguments: Any) -> Any:
    """Run an order of one of the clients; the first order makes this process that client.

    role: user or agent; order: fill (user only) or round.
    """
    return {"user": _user, "agent": _agent}[role]()[order](*arguments)


@cache
def _user() -> dict[str, Callable[..., Any]]:
    """The orders of a user's client: catalogue and accounting through the services, the rest in this process."""
    clients.initialize()
    from DIRAC.ConfigurationSystem.Client.Helpers.CSGlobals import getCSExtensions
    from DIRAC.Core.Security.ProxyInfo import getProxyInfo
    from DIRAC.Core.Utilities import Extensions
    from DIRAC.DataManagementSystem.Utilities.DMSHelpers import DMSHelpers
    from DIRAC.Resources.Catalog.FileCatalogClient import FileCatalogClient

    probe.install()
    catalog = FileCatalogClient("DataManagement/FileCatalog")

    def fill() -> Report:
        report: Report = {}
        for number in range(FOLDERS):
            folder = f"/fakevo/full/{number:03}"
            files = clients.files(folder, FILES_PER_FOLDER)
            count(report, "createDirectory", partial(catalog.createDirectory, folder))
            count(report, "addFile", partial(catalog.addFile, files))
        return report

    def one_round(number: int) -> Report:
        report = clients.work(1, f"round{number:03}")
        folders = [f"/fakevo/full/{folder:03}" for folder in range(FOLDERS)]
        count(report, "getDirectorySize", lambda: catalog.getDirectorySize(folders, longOut=True))
        # MySQL has no such type: this is the only request that is meant to fail.
        count(report, "addMetadataField (refused)", lambda: _refused(catalog.addMetadataField("demo", "NONE")))
        for _ in range(LOOKS):
            count(report, "getProxyInfo", getProxyInfo)
            count(report, "DMSHelpers", lambda: DMSHelpers().getSiteSEMapping())
            getCSExtensions()
            Extensions.getExtensionMetadata("DIRAC")
        return report

    return {"fill": fill, "round": one_round}


@cache
def _agent() -> dict[str, Callable[..., Any]]:
    """The orders of an agent: one cycle of the real PilotStatusAgent in each round."""
    clients.initialize()
    from DIRAC.WorkloadManagementSystem.Agent.PilotStatusAgent import PilotStatusAgent

    # Before the agent is created, since that binds its execute().
    probe.install()
    name = "WorkloadManagement/PilotStatusAgent"
    module = PilotStatusAgent(name, name)
    initialised = module.am_initialize()
    if not initialised["OK"]:
        raise RuntimeError(initialised["Message"])

    def one_round(number: int) -> Report:
        report: Report = {}
        count(report, "PilotStatusAgent cycle", module.am_go)
        return report

    return {"round": one_round}


def _refused(result: Any) -> Any:
    """Invert the answer: if a request that is meant to fail succeeds, that is the failure."""
    if result["OK"]:
        return {"OK": False, "Message": "was not refused"}
    return {"OK": True, "Value": None}
