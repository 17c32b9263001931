"""Real services: FileCatalog and Accounting under load from several clients while their connections are killed."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from chaos.arms import Arm, Arms
from chaos.killing import Killer
from chaos.result import Row, as_stock, chance, none
from lab import clients, inside
from lab.arms import IN_TREE, PATCHED, PLUGGED, REPLACED, STOCK
from lab.installation import Installation
from lab.worker import Worker

CLIENTS = 3
SECONDS = 40.0
FILES = 2  # per round
RECORDS = 2
EVERY = 0.05
DATABASE = "Accounting/AccountingDB"


def run(arms: Arms, short: bool) -> list[Row]:
    """3 clients write files and accounting records; a third of the connections is killed every 50 ms, busy or not."""
    if short:
        return []  # starting two installations takes longer than all the rest; `make test` has its own service tests
    outcomes: dict[str, _Outcome] = {}
    for pair in ((STOCK, PATCHED), (IN_TREE, REPLACED)):  # more services at once would only wait for the CPU
        outcomes.update(Arms(arm for arm in arms if arm.name in pair).together(lambda arm: _one(arm, SECONDS)))

    def figures(name: str) -> dict[str, int]:
        return {arm: getattr(outcome, name) for arm, outcome in outcomes.items()}

    twice = figures("records_twice")
    counts = "; ".join(f"{name} {outcome.requests} / {outcome.kills}" for name, outcome in outcomes.items())
    return [
        as_stock(
            "of 1,000 requests, reported as failed",
            {name: round(1000 * outcome.failed / outcome.requests) for name, outcome in outcomes.items()},
            _chance_of_shares(outcomes),
            f"requests / kills: {counts}",
            **{name: dict(outcome.messages) for name, outcome in outcomes.items()},
        ),
        none("files reported as done, not in the catalogue", figures("files_lost")),
        none("files twice in the catalogue", figures("files_twice")),
        none("accounting records reported as done, lost", figures("records_lost")),
        as_stock(
            "accounting records inserted twice",
            twice,
            chance(twice),
            "a fault of the host: it commits a record before its buckets, and inserts it again if the buckets fail",
        ),
    ]


@dataclass
class _Outcome:
    requests: int = 0
    failed: int = 0
    kills: int = 0
    files_lost: int = 0
    files_twice: int = 0
    records_lost: int = 0
    records_twice: int = 0
    messages: Counter[str] = field(default_factory=Counter)


def _chance_of_shares(outcomes: Mapping[str, _Outcome]) -> int:
    """As chance(), for failures of 1,000 requests: with the plugin, there are more requests in the same time."""
    variances = {name: one.failed / one.requests**2 for name, one in outcomes.items()}
    return max(2, math.ceil(3000 * math.sqrt(variances[STOCK] + max(variances[name] for name in PLUGGED))))


def _one(arm: Arm, seconds: float) -> _Outcome:
    with _running(arm) as (installation, workers):
        killer = Killer(arm.server, arm.server.user, idle=False, share=0.3)
        with ThreadPoolExecutor(len(workers)) as pool:
            begun = [
                pool.submit(worker.call, work, f"client{number}", seconds) for number, worker in enumerate(workers)
            ]
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                killer.keep_on(EVERY, seconds=1)
                _insert_pending(installation)
            reports = [future.result() for future in begun]
        _drain(installation)
        return _check(installation, reports, killer.killed)


@contextlib.contextmanager
def _running(arm: Arm) -> Iterator[tuple[Installation, list[Worker]]]:
    """The arm's services, on the arm's server, and client processes."""
    installation = Installation(arm.host, arm.server, arm.folder / "installation", arm.library, env=arm.env)
    with installation, contextlib.ExitStack() as stack:
        yield installation, [stack.enter_context(installation.client()) for _ in range(CLIENTS)]


def _insert_pending(installation: Installation) -> None:
    installation.call("Accounting/DataStore", inside.insert_pending_records)


def _drain(installation: Installation, timeout: float = 20.0) -> None:
    """Make the DataStore insert what it will: records that it marked as taken and then lost stay for a day."""
    end = time.monotonic() + timeout
    before = -1
    while time.monotonic() < end:
        _insert_pending(installation)
        time.sleep(0.5)
        left, waiting = installation.rows(DATABASE, "SELECT COUNT(*), SUM(taken = 0) FROM ac_in_Job")[0]
        if waiting in ("0", "NULL") and int(left) == before:
            return
        before = int(left)


def _check(installation: Installation, reports: list[dict[str, Any]], kills: int) -> _Outcome:
    outcome = _Outcome(kills=kills)
    for report in reports:
        outcome.requests += report["requests"]
        outcome.failed += sum(report["messages"].values())
        outcome.messages.update(report["messages"])
    names = "SELECT CONCAT(DirName, '/', FileName), COUNT(*) FROM FC_Files JOIN FC_DirectoryLevelTree USING (DirID)"
    files = _times(installation.rows("DataManagement/FileCatalogDB", f"{names} GROUP BY 1"))
    outcome.files_twice = sum(count > 1 for count in files.values())
    outcome.files_lost = sum(name not in files for report in reports for name in report["files"])
    inserted = "SELECT k.value, COUNT(*) FROM ac_type_Job t JOIN ac_key_Job_JobGroup k ON k.id = t.JobGroup GROUP BY 1"
    records = _times(installation.rows(DATABASE, inserted))
    waiting = _times(installation.rows(DATABASE, "SELECT JobGroup, COUNT(*) FROM ac_in_Job GROUP BY 1"))
    outcome.records_twice = sum(count > 1 for count in records.values())
    outcome.records_lost = sum(
        name not in records and name not in waiting for report in reports for name in report["records"]
    )
    return outcome


def _times(rows: list[list[str]]) -> dict[str, int]:
    return {name: int(count) for name, count in rows}


def work(tag: str, seconds: float) -> dict[str, Any]:
    """In a client's process: create directories, files and accounting records for this many seconds.

    Returns: the number of requests, the messages of the failed ones, counted, and the names of the files and records
    that were reported as done.
    """
    clients.initialize()
    from DIRAC.Resources.Catalog.FileCatalogClient import FileCatalogClient

    catalog = FileCatalogClient("DataManagement/FileCatalog")
    requests, messages = 0, Counter[str]()
    done: dict[str, list[str]] = {"files": [], "records": []}

    def ask(name: str, call: Callable[[], Any]) -> Any:
        nonlocal requests
        requests += 1
        answer = call()
        problem = clients.problem(answer)
        if problem:
            messages[f"{name}: {problem}"[:200]] += 1
        return answer.get("Value") if answer["OK"] else None

    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        folder = f"/fakevo/{tag}/{number:05}"
        ask("createDirectory", partial(catalog.createDirectory, folder))
        added = ask("addFile", partial(catalog.addFile, clients.files(folder, FILES)))
        done["files"] += (added or {}).get("Successful", {})
        ask("getDirectorySize", partial(catalog.getDirectorySize, folder, longOut=True))
        names = [f"{tag}-{number}-{which}" for which in range(RECORDS)]
        now = datetime.utcnow().replace(microsecond=0)
        if ask("commit", partial(clients.commit, [clients.job_record(now, 1, JobGroup=name) for name in names])):
            done["records"] += names
        number += 1
    return {"requests": requests, "messages": messages, **done}
