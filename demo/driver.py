"""A client of one arm, with DIRAC's own client code. Runs in the host's Python: `python driver.py user|agent`.

One line of JSON on stdin is an order, one on stdout its answer: ["fill"], ["round", NUMBER] and ["counts"]. It ends
with its input. The process lives through all rounds, as a real client or agent does.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from demo import probe
from lab import workload

FOLDERS = 10
FILES_PER_FOLDER = 100
LOOKS = 20  # at the proxy, the storage elements and the extensions, in each round


def user() -> dict[str, Callable[..., Any]]:
    """The orders of a user's client: catalogue and accounting through the services, the rest in this process."""
    from DIRAC.ConfigurationSystem.Client.Helpers.CSGlobals import getCSExtensions
    from DIRAC.Core.Security.ProxyInfo import getProxyInfo
    from DIRAC.Core.Utilities import Extensions
    from DIRAC.DataManagementSystem.Utilities.DMSHelpers import DMSHelpers
    from DIRAC.Resources.Catalog.FileCatalogClient import FileCatalogClient

    probe.install()
    catalog = FileCatalogClient("DataManagement/FileCatalog")

    def fill() -> dict[str, Any]:
        report: dict[str, Any] = {}
        for number in range(FOLDERS):
            folder = f"/fakevo/full/{number:03}"
            files = workload.files(folder, FILES_PER_FOLDER)
            workload.count(report, "createDirectory", partial(catalog.createDirectory, folder))
            workload.count(report, "addFile", partial(catalog.addFile, files))
        return report

    def one_round(number: int) -> dict[str, Any]:
        report = workload.work(1, f"round{number:03}")
        folders = [f"/fakevo/full/{folder:03}" for folder in range(FOLDERS)]
        workload.count(report, "getDirectorySize", lambda: catalog.getDirectorySize(folders, longOut=True))
        # Not a type that MySQL has: the one request that is meant to fail.
        workload.count(report, "addMetadataField (refused)", lambda: _refused(catalog.addMetadataField("demo", "NONE")))
        for _ in range(LOOKS):
            workload.count(report, "getProxyInfo", getProxyInfo)
            workload.count(report, "DMSHelpers", lambda: DMSHelpers().getSiteSEMapping())
            getCSExtensions()
            Extensions.getExtensionMetadata("DIRAC")
        return report

    return {"fill": fill, "round": one_round}


def agent() -> dict[str, Callable[..., Any]]:
    """The orders of an agent: one cycle of the real PilotStatusAgent in each round."""
    from DIRAC.WorkloadManagementSystem.Agent.PilotStatusAgent import PilotStatusAgent

    # Before the agent is made: it binds its execute() then.
    probe.install()
    name = "WorkloadManagement/PilotStatusAgent"
    module = PilotStatusAgent(name, name)
    initialised = module.am_initialize()
    if not initialised["OK"]:
        raise RuntimeError(initialised["Message"])

    def one_round(number: int) -> dict[str, Any]:
        report: dict[str, Any] = {}
        workload.count(report, "PilotStatusAgent cycle", module.am_go)
        return report

    return {"round": one_round}


def _refused(result: Any) -> Any:
    """Turn the answer round: a request that is meant to fail and does not is the failure."""
    if result["OK"]:
        return {"OK": False, "Message": "was not refused"}
    return {"OK": True, "Value": None}


def main() -> None:
    # DIRAC logs to stdout, which is ours to answer on: keep that for ourselves and send the log to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    import DIRAC

    DIRAC.initialize()
    orders = {"user": user, "agent": agent}[sys.argv[1]]()
    orders["counts"] = probe.counts
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(orders[name](*arguments)), file=answers, flush=True)


if __name__ == "__main__":
    main()
