"""A client's work on an installation: runs inside the host's Python and uses DIRAC's own client only.

As a script: `python workload.py ROUNDS [TAG]` prints a JSON object, operation -> {"count", "failures", "seconds"}.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from datetime import datetime, timedelta
from typing import Any, Callable

FILES = 10  # per round and directory

Operation = tuple[str, Callable[[], Any]]
Report = dict[str, dict[str, Any]]


def work(rounds: int, tag: str = "work") -> Report:
    """Do the rounds one after the other.

    tag: the directory that everything is written under; a tag used before means files that are there already.
    Returns: per operation how many calls there were, the messages of those that failed, and the seconds they took.
    """
    from DIRAC.Resources.Catalog.FileCatalogClient import FileCatalogClient

    catalog = FileCatalogClient("DataManagement/FileCatalog")
    report: Report = {}
    for number in range(rounds):
        for name, call in _catalog_round(catalog, f"/fakevo/{tag}/{number:05}") + _accounting_round(number):
            count(report, name, call)
    return report


def files(folder: str, number: int) -> dict[str, dict[str, Any]]:
    """That many files below the folder, as addFile wants them."""
    lfns = [f"{folder}/file{index:04}" for index in range(number)]
    return {
        lfn: {
            "PFN": f"root://se000.example.org{lfn}",
            "Size": 1024,
            "SE": "SITE000-disk",
            "GUID": str(uuid.uuid5(uuid.NAMESPACE_URL, lfn)).upper(),
            "Checksum": "0badcafe",
        }
        for lfn in lfns
    }


def count(report: Report, name: str, call: Callable[[], Any]) -> None:
    """Make the call, and add its time and what went wrong to the report."""
    entry = report.setdefault(name, {"count": 0, "failures": [], "seconds": 0.0})
    start = time.perf_counter()
    result = call()
    entry["seconds"] += time.perf_counter() - start
    entry["count"] += 1
    problem = _problem(result)
    if problem:
        entry["failures"].append(problem)


def _catalog_round(catalog: Any, folder: str) -> list[Operation]:
    entries = files(folder, FILES)
    return [
        ("createDirectory", lambda: catalog.createDirectory(folder)),
        ("addFile", lambda: catalog.addFile(entries)),
        ("exists", lambda: catalog.exists(list(entries))),
        ("exists (missing)", lambda: catalog.exists(f"{folder}/nothing")),
        ("getReplicas", lambda: catalog.getReplicas(list(entries))),
        ("listDirectory", lambda: catalog.listDirectory(folder)),
        ("getDirectorySize", lambda: catalog.getDirectorySize(folder)),
        ("getDirectorySize (long)", lambda: catalog.getDirectorySize(folder, longOut=True)),
        ("getDirectorySize (files)", lambda: catalog.getDirectorySize(folder, longOut=True, fromFiles=True)),
    ]


def _accounting_round(number: int) -> list[Operation]:
    from DIRAC.AccountingSystem.Client.DataStoreClient import DataStoreClient

    client = DataStoreClient()
    # A failed commit must be seen as one, not be put away for later.
    client.disableFailover()
    for job in range(FILES):
        client.addRegister(_job_record(number, job))
    return [("commit (accounting)", client.commit)]


def _job_record(number: int, job: int) -> Any:
    from DIRAC.AccountingSystem.Client.Types.Job import Job

    record = Job()
    end = datetime.utcnow().replace(microsecond=0) - timedelta(minutes=job)
    record.setStartTime(end - timedelta(hours=1))
    record.setEndTime(end)
    # The fields differ a little between releases: fill what this one has.
    for name, _ in record.definitionKeyFields:
        record.setValueByKey(name, f"{name}{(number + job) % 3}")
    for name, _ in record.definitionAccountingFields:
        record.setValueByKey(name, job)
    return record


def _problem(result: Any) -> str:
    """What went wrong, from the whole request or from one LFN of a bulk request; empty when nothing did."""
    if not result["OK"]:
        return str(result["Message"])
    value = result.get("Value")
    failed = value.get("Failed") if isinstance(value, dict) else None
    return str(failed) if failed else ""


def main() -> None:
    import DIRAC

    DIRAC.initialize()
    print(json.dumps(work(int(sys.argv[1]), *sys.argv[2:])))


if __name__ == "__main__":
    main()
