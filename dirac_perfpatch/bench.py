"""What a patched call costs here, and what it costs with the patch taken off: the command ``dirac-perfpatch bench``.

The calls are described once, as :data:`CASES`, and are measured in any process that has a DIRAC, with the plugin or
without: ``make bench`` imports this module in three of them. So nothing of the plugin is started by importing it.
"""

from __future__ import annotations

import _thread
import collections
import contextlib
import gc
import itertools
import math
import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from dirac_perfpatch.patching import Database, NotAsked

# Given a number of calls, makes them and returns the microseconds that each took. What is called is looked up anew
# each time, because a patch may have been put on or taken off in the meantime.
Measure = Callable[[int], float]

_VO = "fakevo"
_WARM_UPS = 3
# Before a proxy is kept, its file must have been seen unchanged for longer than a tick of the file system's clock.
_SETTLE_SECONDS = 0.1
# Call chains of real services pass through three or four functions of each file.
_STEPS_PER_FILE = 4
# How long one repetition takes. Short, so that many fall between the pauses of a busy machine.
_REPETITION_MICROSECONDS = 4000
_MOST_CALLS = 100_000


@dataclass(frozen=True)
class Case:
    """One call of the host that a patch is about.

    Args:
        name: The call, as it is shown.
        patch: The name of the patch.
        sizes: Those that ``dirac-perfpatch bench`` measures.
        unit: What a size counts, in the plural; empty if the call has no size.
        prepare: Given a size and perhaps a database, makes ready what the call needs, for as long as it is measured.
            Raises :class:`NotAsked` when that cannot be had on this machine.
        in_turn: Whether so many calls in a row, one for each of the size, are needed to touch everything once.
        settle_seconds: Without calls, during the warm-up, until what the patch keeps is kept.
    """

    name: str
    patch: str
    sizes: tuple[int, ...]
    unit: str
    prepare: Callable[[int, Database | None], AbstractContextManager[Measure]]
    in_turn: bool = False
    settle_seconds: float = 0.0

    def label(self, size: int) -> str:
        """The call with its size, for a table."""
        if not self.unit:
            return self.name
        return f"{self.name}, {size} {self.unit if size > 1 else self.unit[:-1]}"


def timed(call: Callable[[], Any], number: int) -> float:
    """Make so many calls, with the garbage collector off. Returns: microseconds per call."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter_ns()
        for _ in itertools.repeat(None, number):
            call()
        return (time.perf_counter_ns() - start) / number / 1000
    finally:
        if collecting:
            gc.enable()


def warm_up(case: Case, size: int, measure: Measure) -> int:
    """Have a call made until whatever is kept of it is kept.

    Args:
        case: The one that is measured.
        size: The one that it was prepared for.
        measure: As prepared.

    Returns:
        How many calls take about 4 ms, rounded to whole turns.
    """
    turn = size if case.in_turn else 1
    for _ in range(_WARM_UPS):
        number = turn
        microseconds = measure(number)
        time.sleep(case.settle_seconds)
    for _ in range(3):  # the first time tells no more than the order of magnitude
        number = max(1, int(min(_MOST_CALLS, _REPETITION_MICROSECONDS / microseconds)) // turn) * turn
        microseconds = measure(number)
    return number


@contextlib.contextmanager
def _extension_list(size: int, database: Database | None) -> Iterator[Measure]:
    from DIRAC.Core.Utilities import Extensions

    yield lambda number: timed(Extensions.extensionsByPriority, number)


@contextlib.contextmanager
def _extension_metadata(size: int, database: Database | None) -> Iterator[Measure]:
    from DIRAC.Core.Utilities import Extensions

    yield lambda number: timed(partial(Extensions.getExtensionMetadata, "DIRAC"), number)


@contextlib.contextmanager
def _error(size: int, database: Database | None) -> Iterator[Measure]:
    import DIRAC

    with tempfile.TemporaryDirectory(prefix="perfpatch-") as folder:
        steps = _steps(folder, size - 1)  # and the frame of timed()

        def measure(number: int) -> float:
            chain: list[Callable[..., Any]] = [*steps, timed, partial(DIRAC.S_ERROR, "x")]
            run = partial(chain[0], *chain[1:])
            answers: queue.SimpleQueue[float] = queue.SimpleQueue()
            # In a thread whose stack is empty but for what we put on it: all that is around the steps is written in C.
            _thread.start_new_thread(collections.deque, (map(answers.put, map(run, [number])), 0))
            return answers.get(timeout=60)

        yield measure


def _steps(folder: str, number: int) -> list[Callable[..., Any]]:
    """Functions that each call their first argument with the others, no two on the same line of the same file."""
    steps: list[Callable[..., Any]] = []
    for file in range(math.ceil(number / _STEPS_PER_FILE)):
        path = os.path.join(folder, f"steps_{file}.py")
        names = [f"step_{file}_{place}" for place in range(_STEPS_PER_FILE)]
        source = "".join(f"def {name}(inner, *arguments):\n    return inner(*arguments)\n\n" for name in names)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(source)
        namespace: dict[str, Any] = {}
        exec(compile(source, path, "exec"), namespace)
        steps += [namespace[name] for name in names]
    return steps[:number]


@contextlib.contextmanager
def _proxy(size: int, database: Database | None) -> Iterator[Measure]:
    """So many copies of the host's test proxy, loaded in turn by one chain."""
    import DIRAC
    from DIRAC.Core.Security.X509Chain import X509Chain

    proxy = os.path.join(os.path.dirname(DIRAC.__file__), "Core", "Security", "test", "certs", "voms", "proxy.pem")
    if not os.path.exists(proxy):
        raise NotAsked("this host came without its test proxy")
    with tempfile.TemporaryDirectory(prefix="perfpatch-") as folder:
        paths = [os.path.join(folder, f"proxy_{number}.pem") for number in range(size)]
        for path in paths:
            shutil.copyfile(proxy, path)
            os.chmod(path, 0o600)
        chain = X509Chain()
        yield lambda number: timed(map(chain.loadProxyFromFile, itertools.cycle(paths)).__next__, number)


@contextlib.contextmanager
def _site_mapping(size: int, database: Database | None) -> Iterator[Measure]:
    """A configuration of so many made-up sites, in this process only."""
    from DIRAC.ConfigurationSystem.Client.ConfigurationData import gConfigurationData
    from DIRAC.ConfigurationSystem.private.Refresher import gRefresher
    from DIRAC.DataManagementSystem.Utilities import DMSHelpers as module

    gRefresher.disable()  # for good: nothing is to be fetched in between
    before = gConfigurationData.mergedCFG
    gConfigurationData.mergedCFG = type(before)().loadFromDict(_configuration(size))
    try:
        if not module.DMSHelpers(vo=_VO).getSiteSEMapping()["OK"]:
            raise NotAsked("this host does not take a configuration of made-up sites")
        yield lambda number: timed(lambda: module.DMSHelpers(vo=_VO).getSiteSEMapping(), number)
    finally:
        gConfigurationData.mergedCFG = before


def _configuration(sites: int) -> dict[str, Any]:
    """Sites with two SEs each; every tenth disk SE has an alias, every tenth tape SE a derived SE."""
    elements: dict[str, Any] = {}
    places: dict[str, Any] = {}
    for number in range(sites):
        disk, tape = f"SITE{number:03}-disk", f"SITE{number:03}-tape"
        elements[disk] = {"BackendType": "Test"}
        elements[tape] = {"BackendType": "Test"}
        if number % 10 == 0:
            elements[f"{disk}-alias"] = {"Alias": disk}
            elements[f"{tape}-user"] = {"BaseSE": tape}
        places[f"LCG.Site{number:03}.ch"] = {"SE": f"{disk}, {tape}"}
    groups = {"Tier1-disk": ", ".join(f"SITE{number:03}-disk" for number in range(0, sites, 3))}
    by_protocol = {"LCG.Site000.ch": "Tier1-disk", "LCG.Site001.ch": "LCG.Site000.ch"}
    return {
        "DIRAC": {"Configuration": {"Version": f"{sites} sites"}},
        "Resources": {"StorageElements": elements, "StorageElementGroups": groups, "Sites": {"LCG": places}},
        "Operations": {"Defaults": {"SiteSEMappingByProtocol": by_protocol}},
    }


@contextlib.contextmanager
def _checkout(size: int, database: Database | None) -> Iterator[Measure]:
    """A pool that so many threads hold a connection of, the one that measures among them."""
    db, name = _connect(database)
    pool = db._MySQL__connectionPool
    ready, release = threading.Barrier(size), threading.Event()
    refused: list[Any] = []

    def hold() -> None:
        answer = pool.get(name)
        if not answer["OK"]:
            refused.append(answer["Message"])
        ready.wait(60)
        release.wait()

    threads = [threading.Thread(target=hold, daemon=True) for _ in range(size - 1)]
    for thread in threads:
        thread.start()
    try:
        ready.wait(60)
        if refused:
            raise NotAsked(f"{len(refused)} connections were refused: {refused[0]}")
        yield lambda number: timed(partial(pool.get, name), number)
    finally:
        release.set()
        for thread in threads:
            thread.join()


@contextlib.contextmanager
def _query(size: int, database: Database | None) -> Iterator[Measure]:
    db, _ = _connect(database)
    yield lambda number: timed(partial(db._query, "SELECT 1"), number)


@contextlib.contextmanager
def _closed_by_caller(size: int, database: Database | None) -> Iterator[Measure]:
    db, name = _connect(database)
    pool = db._MySQL__connectionPool

    def get_and_close() -> None:
        pool.get(name)["Value"].close()

    yield lambda number: timed(get_and_close, number)


def _connect(database: Database | None) -> tuple[Any, str]:
    """The host's object for a database, and the database's name."""
    if database is None:
        raise NotAsked("needs a database, such as --db Accounting/AccountingDB")
    from DIRAC.Core.Utilities.MySQL import MySQL, MySQLdb

    account = (database.host, database.user, database.password, database.name)
    try:
        # The host would try for minutes.
        MySQLdb.connect(*account, port=database.port, connect_timeout=10).close()
    except MySQLdb.MySQLError as error:
        raise NotAsked(f"no connection to {database.host}:{database.port}: {error}") from None
    return MySQL(*account, port=database.port), database.name


CASES = (
    Case("extensionsByPriority()", "extension_lookup", (1,), "", _extension_list),
    Case('getExtensionMetadata("DIRAC")', "extension_lookup", (1,), "", _extension_metadata),
    Case('S_ERROR("x")', "error_stack", (5, 20, 40), "frames", _error),
    Case("loadProxyFromFile", "proxy_loading", (1, 64), "files", _proxy, in_turn=True, settle_seconds=_SETTLE_SECONDS),
    Case("getSiteSEMapping()", "dms_helpers", (120,), "sites", _site_mapping),
    # Not more connections than a database in use can spare.
    Case("ConnectionPool.get", "connection_checkout", (1, 10), "threads", _checkout),
    # What it costs to be able to evict, in every query.
    Case('_query("SELECT 1")', "connection_eviction", (1,), "", _query),
    Case("get() and close()", "connection_close", (1,), "", _closed_by_caller),
)


@dataclass(frozen=True)
class Compared:
    """The figures of one call.

    Args:
        patch: The name of the patch.
        call: The call with its size.
        stock: Microseconds per call with the patch taken off, the minimum over the repetitions; None if not measured.
        patched: The same with the patch on.
        reason: Why it was not measured.
    """

    patch: str
    call: str
    stock: float | None = None
    patched: float | None = None
    reason: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times faster the call is with the patch."""
        return self.stock / self.patched if self.stock and self.patched else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "ratio": self.ratio}

    def as_row(self) -> tuple[str, ...]:
        """For a table: patch, call, stock, patched, ratio, reason."""
        if not self.stock or not self.patched:
            return (self.patch, self.call, "", "", "", self.reason)
        ratio = self.stock / self.patched
        return (
            self.patch,
            self.call,
            f"{self.stock:.2f}",
            f"{self.patched:.2f}",
            f"{ratio:.0f} x" if ratio >= 10 else f"{ratio:.2f} x",
            "",
        )


def compare(reasons: Mapping[str, str], database: Database | None, rounds: int) -> Iterator[Compared]:
    """Measure every call with its patch on and taken off, in alternation; the other patches stay as they are.

    Args:
        reasons: By name of patch, why it cannot be measured; empty for one that is applied.
        database: For the patches of the MySQL pool.
        rounds: Repetitions of each.
    """
    for case in CASES:
        for size in case.sizes:
            label = case.label(size)
            if reasons[case.patch]:
                yield Compared(case.patch, label, reason=reasons[case.patch])
                continue
            try:
                with case.prepare(size, database) as measure:
                    yield Compared(case.patch, label, *_alternate(case, size, measure, rounds))
            except NotAsked as error:
                yield Compared(case.patch, label, reason=str(error))


def _alternate(case: Case, size: int, measure: Measure, rounds: int) -> tuple[float, float]:
    """The minimum in microseconds with the patch taken off, and with the patch on."""
    from dirac_perfpatch import loading

    switch = loading.plugin.switches[case.patch]
    fastest = {False: math.inf, True: math.inf}
    try:
        for _ in range(rounds):
            for on in fastest:
                switch.arm() if on else switch.take_off()
                number = warm_up(case, size, measure)
                fastest[on] = min(fastest[on], measure(number), measure(number), measure(number))
    finally:
        switch.arm()
    return fastest[False], fastest[True]
