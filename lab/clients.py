"""Clients of an installation. These functions run in the host's Python and use only DIRAC's own client code."""

from __future__ import annotations

import functools
import uuid
from datetime import datetime, timedelta
from typing import Any, Callable

FILES = 10  # per round and directory

Operation = tuple[str, Callable[[], Any]]
Report = dict[str, dict[str, Any]]


@functools.cache
def initialize() -> None:
    """Read the configuration, once per process, as every DIRAC client must do first."""
    import DIRAC

    DIRAC.initialize()


def ping(*urls: str) -> None:
    """Ping services. Errors: RuntimeError with the message of the first that does not answer."""
    initialize()
    from DIRAC.Core.Base.Client import Client

    for url in urls:
        _check(Client(url=url).ping(timeout=10), url)


def refresh(*urls: str) -> None:
    """Have services re-read the published configuration. Errors: RuntimeError with a service's message."""
    initialize()
    from DIRAC.Core.Base.Client import Client

    for url in urls:
        _check(Client(url=url).refreshConfiguration(True), url)


def make_proxy(certificate: str, key: str, group: str, path: str) -> None:
    """Make a proxy. The one in the wheel has a 1024-bit key, which current OpenSSL refuses.

    certificate, key: files; path: of the proxy. Errors: RuntimeError with the host's message.
    """
    from DIRAC.Core.Security.X509Chain import X509Chain

    chain = X509Chain()
    _check(chain.loadChainFromFile(certificate))
    _check(chain.loadKeyFromFile(key))
    _check(chain.generateProxyToFile(path, 7 * 86400, diracGroup=group, strength=2048))


def set_options(options: dict[str, str]) -> None:
    """Change the published configuration. Arguments and errors: as Installation.set_options()."""
    initialize()
    from DIRAC.ConfigurationSystem.Client.CSAPI import CSAPI

    api = CSAPI()
    for path, value in options.items():
        _check(api.setOption(path, value))
    _check(api.commit())


def work(rounds: int, tag: str = "work") -> Report:
    """Run rounds of client calls, one after the other.

    tag: the directory for everything that is written; if a tag is reused, its files exist already.
    Returns: for each operation the number of calls and the messages of the failed ones.
    """
    initialize()
    from DIRAC.Resources.Catalog.FileCatalogClient import FileCatalogClient

    catalog = FileCatalogClient("DataManagement/FileCatalog")
    report: Report = {}
    for number in range(rounds):
        for name, call in _catalog_round(catalog, f"/fakevo/{tag}/{number:05}") + _accounting_round(number):
            count(report, name, call)
    return report


def files(folder: str, number: int) -> dict[str, dict[str, Any]]:
    """The arguments of addFile for this many files below the folder."""
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
    """Make the call, count it, and add its failure, if any, to the report."""
    entry = report.setdefault(name, {"count": 0, "failures": []})
    failed = problem(call())
    entry["count"] += 1
    if failed:
        entry["failures"].append(failed)


def problem(result: Any) -> str:
    """The failure of the request or of LFNs in a bulk request; empty if there was none."""
    if not result["OK"]:
        return str(result["Message"])
    value = result.get("Value")
    failed = value.get("Failed") if isinstance(value, dict) else None
    return str(failed) if failed else ""


def job_record(end: datetime, value: int, suffix: str = "", **keys: str) -> Any:
    """An accounting record of a one-hour job.

    value: of its accounting fields; suffix: appended to the values of its key fields; keys: replace some of those.
    """
    from DIRAC.AccountingSystem.Client.Types.Job import Job

    record = Job()
    record.setStartTime(end - timedelta(hours=1))
    record.setEndTime(end)
    # The fields differ slightly between releases: fill those that this one has.
    for name, _ in record.definitionKeyFields:
        record.setValueByKey(name, keys.get(name, name + suffix))
    for name, _ in record.definitionAccountingFields:
        record.setValueByKey(name, value)
    return record


def commit(records: list[Any]) -> Any:
    """Send accounting records with a new client: a client keeps what it could not send, and sends it later."""
    from DIRAC.AccountingSystem.Client.DataStoreClient import DataStoreClient

    client = DataStoreClient()
    # A failed commit must be reported, not be stored for later.
    client.disableFailover()
    for record in records:
        client.addRegister(record)
    return client.commit()


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
    now = datetime.utcnow().replace(microsecond=0)
    records = [job_record(now - timedelta(minutes=job), job, str((number + job) % 3)) for job in range(FILES)]
    return [("commit (accounting)", lambda: commit(records))]


def _check(result: Any, who: str = "") -> None:
    if not result["OK"]:
        raise RuntimeError(f"{who}: {result['Message']}" if who else result["Message"])
