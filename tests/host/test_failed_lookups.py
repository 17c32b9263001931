"""The number of a text in a database: a failure is forgotten, everything else is as the uncached code answers."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import stock
from DIRAC.AccountingSystem.DB.AccountingDB import AccountingDB
from DIRAC.Core.Utilities.MySQL import MySQL
from DIRAC.DataManagementSystem.DB.FileCatalogComponents.FileManager.FileManagerBase import FileManagerBase
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dirac_perfpatch.patching import without_stacks
from lab.mariadb import MariaDB

pytestmark = pytest.mark.patched("failed_lookups")

NAME = "failed_lookups"
KEY = "_AccountingDB__addKeyValue"
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def files(mariadb: MariaDB) -> Any:
    database = MySQL(mariadb.host, mariadb.user, mariadb.password, "FileCatalogDB", port=mariadb.port)
    return FileManagerBase(database)


@pytest.fixture
def accounting(mariadb: MariaDB) -> AccountingDB:
    return AccountingDB()


def table_of(accounting: Any) -> str:
    return str(accounting._getTableName("key", "Job", "Site"))


def keyed(accounting: Any, value: Any) -> Any:
    return without_stacks(getattr(accounting, KEY)("Job", "Site", value))


def uncached_key(accounting: Any, value: Any) -> Any:
    return without_stacks(getattr(AccountingDB, KEY).__wrapped__(accounting, "Job", "Site", value))


def numbered(files: Any, status: Any) -> Any:
    return without_stacks(files._getStatusInt(status))


def uncached_number(files: Any, status: Any) -> Any:
    return without_stacks(FileManagerBase._getStatusInt.__wrapped__(files, status))


@contextlib.contextmanager
def away(mariadb: MariaDB, database: str, table: str) -> Iterator[None]:
    """Every statement about a table fails meanwhile."""
    mariadb.execute(f"RENAME TABLE `{table}` TO `{table}_away`", database)
    try:
        yield
    finally:
        mariadb.execute(f"RENAME TABLE `{table}_away` TO `{table}`", database)


# What is asked, and whether the database fails then.
STEPS = st.lists(st.tuples(st.sampled_from(["AprioriGood", "Trash", "trash", "", "ü", "1"]), st.booleans()), max_size=8)


@few
@given(steps=STEPS)
def test_a_status_is_that_of_the_uncached_code(steps: list[tuple[str, bool]], mariadb: MariaDB, files: Any) -> None:
    """The example's objects share the database, so an example may find what an earlier one has inserted."""
    files, known = FileManagerBase(files.db), {}
    for status, fails in steps:
        with away(mariadb, "FileCatalogDB", "FC_Statuses") if fails else contextlib.nullcontext():
            answer, fresh = numbered(files, status), uncached_number(files, status)
            assert answer == known.get(status, fresh)
            if answer["OK"]:
                known[status] = answer


VALUES = st.sampled_from(["LCG.CERN.ch", "lcg.cern.ch", "x" * 64, "x" * 65, "1", 1, 1.0, True, None])


@few
@given(steps=st.lists(st.tuples(VALUES, st.booleans()), max_size=6))
def test_a_key_is_that_of_the_uncached_code(
    steps: list[tuple[Any, bool]], mariadb: MariaDB, accounting: AccountingDB
) -> None:
    for value, fails in steps:
        accounting._AccountingDB__keysCache.clear()  # what the function below the host's cache keeps
        with away(mariadb, "AccountingDB", table_of(accounting)) if fails else contextlib.nullcontext():
            answer = keyed(accounting, value)
            assert answer == uncached_key(accounting, value)
            assert answer["OK"] is not fails


def test_a_failure_is_not_kept(mariadb: MariaDB, files: Any, accounting: AccountingDB) -> None:
    with away(mariadb, "FileCatalogDB", "FC_Statuses"):
        assert not numbered(files, "NotYet")["OK"]
    with away(mariadb, "AccountingDB", table_of(accounting)):
        assert not keyed(accounting, "Not.Yet.ch")["OK"]
    assert numbered(files, "NotYet")["OK"] and keyed(accounting, "Not.Yet.ch")["OK"]
    with stock(NAME):  # the host's own keeps it
        with away(mariadb, "FileCatalogDB", "FC_Statuses"):
            assert not numbered(files, "Never")["OK"]
        assert not numbered(files, "Never")["OK"]
    assert numbered(files, "Never")["OK"]


def test_a_number_is_kept_for_its_object_only(mariadb: MariaDB, files: Any, accounting: AccountingDB) -> None:
    """Two objects may be of two databases."""
    status, key = numbered(files, "Kept"), keyed(accounting, "Kept.ch")
    other = FileManagerBase(files.db)
    with away(mariadb, "FileCatalogDB", "FC_Statuses"):
        assert numbered(files, "Kept") == status
        assert not numbered(other, "Kept")["OK"]
    with away(mariadb, "AccountingDB", table_of(accounting)):
        assert keyed(accounting, "Kept.ch") == key


def test_an_answer_is_the_callers_own(files: Any, accounting: AccountingDB) -> None:
    for ask in (lambda: numbered_raw(files), lambda: getattr(accounting, KEY)("Job", "Site", "Own.ch")):
        first = ask()["Value"]
        ask().update(OK=False, Value="mine")
        assert ask() == {"OK": True, "Value": first}


def numbered_raw(files: Any) -> Any:
    return files._getStatusInt("Own")


def test_an_object_that_was_asked_can_go(files: Any) -> None:
    other = FileManagerBase(files.db)
    numbered(other, "AprioriGood")
    gone = weakref.ref(other)
    del other
    gc.collect()
    assert gone() is None


def test_a_child_needs_no_lock_of_its_parent(files: Any, accounting: AccountingDB) -> None:
    """A thread may hold the host's locks when another one forks."""
    status, key = numbered(files, "AprioriGood"), keyed(accounting, "Child.ch")
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with files.statusIntCacheLock, accounting._addkeyvalue_lock:
            held.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    child = os.fork()
    if not child:
        signal.alarm(20)
        os._exit(0 if (numbered(files, "AprioriGood"), keyed(accounting, "Child.ch")) == (status, key) else 1)
    done.set()
    holder.join()
    assert os.waitpid(child, 0)[1] == 0


def test_threads_get_their_own_numbers(files: Any) -> None:
    names = [f"T{number}" for number in range(5)]
    wanted = {name: uncached_number(files, name) for name in names}
    wrong = []

    def ask(first: int) -> None:
        for number in range(200):
            name = names[(first + number) % len(names)]
            if numbered(files, name) != wanted[name]:
                wrong.append(name)

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_taken_off_nothing_stale_is_left(mariadb: MariaDB, files: Any) -> None:
    """Neither in the host's cache, which had answers from before, nor in ours when the patch is back."""
    patched = vars(FileManagerBase)["_getStatusInt"]
    for number in (10**5, 10**6, 10**7):
        with stock(NAME) if number == 10**6 else contextlib.nullcontext():
            answer = numbered(files, "Moved")
            found = mariadb.execute("SELECT StatusID FROM FC_Statuses WHERE Status = 'Moved'", "FileCatalogDB")
            assert str(answer["Value"]) == found[0][0]
            if number == 10**6:
                assert vars(FileManagerBase)["_getStatusInt"] is not patched
                assert not isinstance(vars(FileManagerBase)["_getStatusInt"], type(patched))
        mariadb.execute(f"UPDATE FC_Statuses SET StatusID = {number} WHERE Status = 'Moved'", "FileCatalogDB")


def test_the_hosts_own_object_is_left() -> None:
    found = []
    for _ in range(2):
        with stock(NAME):
            found.append((vars(FileManagerBase)["_getStatusInt"], vars(AccountingDB)[KEY]))
    assert found[0][0] is found[1][0] and found[0][1] is found[1][1]
    assert vars(FileManagerBase)["_getStatusInt"] is not found[0][0]


def test_the_cache_of_the_hosts_is_there_for_who_asks(mariadb: MariaDB, accounting: AccountingDB) -> None:
    """The host logs its size when a service starts. Our answers are given afterwards, too."""
    accounting.loadPendingRecords()
    assert getattr(accounting, KEY).cache.maxsize > 0
    with away(mariadb, "AccountingDB", table_of(accounting)):
        assert not keyed(accounting, "Logged.ch")["OK"]
    assert keyed(accounting, "Logged.ch")["OK"]


def test_what_others_put_into_an_object_is_found_there(files: Any) -> None:
    files._getStatusInt = lambda status: "mine"
    assert files._getStatusInt("AprioriGood") == "mine"
    with stock(NAME):
        assert files._getStatusInt("AprioriGood") == "mine"
    del files._getStatusInt
    assert numbered(files, "AprioriGood")["OK"]
    with pytest.raises(AttributeError):
        del FileManagerBase(files.db)._getStatusInt
