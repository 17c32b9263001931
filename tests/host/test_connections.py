"""The three patches of the MySQL pool, on a real MariaDB, through DIRAC's own classes."""

from __future__ import annotations

import functools
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import DIRAC
import MySQLdb
import MySQLdb.cursors
import pytest
from conftest import forced, in_tree, run, stock
from DIRAC.Core.Utilities import MySQL as module
from forking import in_a_child

from dirac_perfpatch import loading
from dirac_perfpatch.patching import without_stacks
from lab.mariadb import MariaDB

pytestmark = pytest.mark.patched

POOL = ("connection_checkout", "connection_eviction", "connection_close")


@pytest.fixture
def db(mariadb: MariaDB) -> Iterator[Any]:
    """A database object with a pool of its own: pools are shared by account, so each test has another one."""
    user = f"u{time.monotonic_ns() % 10**12}"
    mariadb.execute(f"CREATE USER '{user}'@'%' IDENTIFIED BY 'pw'; GRANT ALL ON *.* TO '{user}'@'%'")
    mariadb.execute("CREATE DATABASE IF NOT EXISTS work; CREATE TABLE IF NOT EXISTS work.rows_of (n INT)")
    made = module.MySQL(mariadb.host, user, "pw", "work", port=mariadb.port)
    assert made._update("DELETE FROM rows_of")["OK"]
    yield made
    for entry in list(pool(made)._ConnectionPool__assigned.values()):
        with suppress(MySQLdb.Error):  # closed already, in a test that ends with stock
            entry[0].close()
    mariadb.execute(f"DROP USER '{user}'@'%'")


def pool(db: Any) -> Any:
    return db._MySQL__connectionPool


def connection_id(db: Any) -> int:
    return int(db._query("SELECT CONNECTION_ID()")["Value"][0][0])


@contextmanager
def another_file_at(number: int) -> Iterator[None]:
    """A quiet socket that has the number of a connection's, which its library has closed."""
    quiet, other = (end.detach() for end in socket.socketpair())
    os.dup2(quiet, number)
    yield
    for open_number in {quiet, other, number}:
        os.close(open_number)


def kill(mariadb: MariaDB, number: int) -> None:
    mariadb.execute(f"KILL {number}")
    while mariadb.execute(f"SELECT 1 FROM information_schema.processlist WHERE id = {number}"):
        time.sleep(0.005)


def test_no_ping_for_a_warm_connection(db: Any, mariadb: MariaDB) -> None:
    def pings() -> int:
        before = mariadb.pings()
        for number in range(50):
            assert db._update(f"INSERT INTO rows_of VALUES ({number})")["OK"]
        return mariadb.pings() - before

    patched = pings()
    with stock("connection_checkout"):
        assert pings() == (0 if in_tree() else 50)
    assert patched == 0


def test_a_connection_that_died_while_idle_costs_no_query(db: Any, mariadb: MariaDB) -> None:
    for _ in range(10):
        number = connection_id(db)
        kill(mariadb, number)
        assert connection_id(db) != number


def test_a_connection_that_the_caller_closed_costs_no_query(db: Any) -> None:
    for _ in range(10):
        db._getConnection()["Value"].close()
        assert db._query("SELECT 1")["OK"]


def test_a_connection_that_the_server_gave_up_costs_no_query(db: Any) -> None:
    assert db._query("SELECT 1")["OK"]
    assert db._update("SET SESSION wait_timeout = 1")["OK"]
    number = connection_id(db)
    time.sleep(1.6)
    assert connection_id(db) != number


def test_a_connection_that_rested_long_is_pinged(db: Any, mariadb: MariaDB) -> None:
    db._query("SELECT 1")
    entry = pool(db)._ConnectionPool__assigned[threading.current_thread()]
    for last_use in (time.time() - 31, time.time() + 3600):  # a rest, and a clock that was set back
        entry[2] = last_use
        before = mariadb.pings()
        assert db._query("SELECT 1")["OK"]
        assert mariadb.pings() == before + 1


def test_a_server_that_restarts(db: Any, mariadb: MariaDB) -> None:
    assert db._query("SELECT 1")["OK"]
    mariadb.restart()
    assert db._query("SELECT 1")["OK"]


def test_another_database_in_the_same_pool(db: Any) -> None:
    other = module.MySQL(db._MySQL__hostName, db._MySQL__userName, "pw", "mysql", port=db._MySQL__port)
    assert pool(other) is pool(db)
    for _ in range(3):
        assert other._query("SELECT DATABASE()")["Value"] == (("mysql",),)
        assert db._query("SELECT DATABASE()")["Value"] == (("work",),)


def test_threads_that_end_give_their_connections_back(db: Any) -> None:
    """No more connections than stock holds: threads that come after others use theirs."""

    def churn() -> int:
        seen = set()
        for _ in range(60):
            thread = threading.Thread(target=lambda: seen.add(connection_id(db)))
            thread.start()
            thread.join()
            db._query("SELECT 1")
        assigned, spares = pool(db)._ConnectionPool__assigned, pool(db)._ConnectionPool__spares
        assert len(assigned) + len(spares) <= 3
        return len(seen)

    patched = churn()
    with stock(*POOL):
        assert churn() <= patched + 1
    assert patched <= 3


def test_a_dead_connection_is_evicted_when_it_fails(db: Any, mariadb: MariaDB) -> None:
    number = connection_id(db)
    connection = db._getConnection()["Value"]
    kill(mariadb, number)
    answer = db._query("SELECT 1", conn=connection)
    assert not answer["OK"]
    assert re.search(r"\(\(? ?20(06|13)[:,]", answer["Message"])
    assert threading.current_thread() not in pool(db)._ConnectionPool__assigned
    assert connection_id(db) != number


def test_a_living_connection_stays_when_another_one_fails(db: Any, mariadb: MariaDB) -> None:
    """A transaction is open on the pool's connection; the one that fails is the caller's own."""
    assert db._update("START TRANSACTION")["OK"]
    number = connection_id(db)
    assert db._update("INSERT INTO rows_of VALUES (1)")["OK"]
    own = MySQLdb.connect(host=mariadb.host, port=mariadb.port, user="dirac", passwd="password")
    kill(mariadb, own.thread_id())
    assert not db._query("SELECT 1", conn=own)["OK"]
    assert connection_id(db) == number
    assert db._update("ROLLBACK")["OK"]
    assert db._query("SELECT COUNT(*) FROM rows_of")["Value"] == ((0,),)


def test_a_caller_may_close_the_connection_that_it_lost(db: Any, mariadb: MariaDB) -> None:
    """DIRAC's own functions do at their end, after a statement of theirs has failed; stock raises nothing then."""

    def lose_and_close() -> bool:
        connection = db._getConnection()["Value"]
        kill(mariadb, connection.thread_id())
        failed = not db._query("SELECT 1", conn=connection)["OK"]
        connection.close()
        return failed

    assert lose_and_close()
    assert db._query("SELECT 1")["OK"]
    if not in_tree():  # whose pool has closed the connection already, so that close() raises
        with stock(*POOL):
            assert lose_and_close()


def test_a_function_that_closes_survives_a_connection_that_died_while_idle(mariadb: MariaDB) -> None:
    db = catalogue()
    for _ in range(5):
        kill(mariadb, connection_id(db))
        answer = db.dtree.getDirectorySize(["/fakevo"])
        assert answer["OK"]
        number = connection_id(db)
        db.dtree.getDirectorySize(["/fakevo"])
        assert connection_id(db) == number


def test_an_ordinary_error_evicts_nothing(db: Any) -> None:
    number = connection_id(db)

    def ask() -> Any:
        return without_stacks(db._query("SELECT nonsense"))

    answer = ask()
    assert not answer["OK"]
    assert connection_id(db) == number
    with stock(*POOL):
        assert ask() == answer


def accounting() -> tuple[Any, str]:
    """The database object and the name that it knows the job records by: 8.0 puts the setup in front."""
    from DIRAC.AccountingSystem.DB.AccountingDB import AccountingDB

    db = AccountingDB()
    return db, next(name for name in db.dbCatalog if name in ("Job", "Lab_Job"))


def job_record(db: Any, kind: str, number: int) -> list[Any]:
    keys, values = db.dbCatalog[kind]["keys"], db.dbCatalog[kind]["values"]
    return [f"{key}-{number % 3}" for key in keys] + [number] * len(values)


def count(mariadb: MariaDB, table: str) -> int:
    return int(mariadb.execute(f"SELECT COUNT(*) FROM `{table}`", "AccountingDB")[0][0])


@pytest.mark.patched("connection_close", "AccountingDB.insertRecordDirectly")
def test_accounting_inserts_without_closing(mariadb: MariaDB) -> None:
    db, kind = accounting()
    before = count(mariadb, f"ac_type_{kind}")
    numbers = set()
    for number in range(5):
        answer = db.insertRecordDirectly(kind, 1000.0 * number, 1000.0 * number + 60, job_record(db, kind, number))
        assert answer["OK"], answer
        numbers.add(connection_id(db))
    assert len(numbers) == 1
    assert count(mariadb, f"ac_type_{kind}") == before + 5
    with stock("connection_close"):
        for number in range(5):
            db.insertRecordDirectly(kind, 1000.0 * number, 1000.0 * number + 60, job_record(db, kind, number))
            numbers.add(connection_id(db))
    assert len(numbers) == 6
    assert count(mariadb, f"ac_type_{kind}") == before + 10


@pytest.mark.patched("connection_close", "AccountingDB.insertRecordDirectly")
@pytest.mark.parametrize("how", ["returns an error", "raises"])
def test_accounting_leaves_no_transaction_open_when_it_fails(how: str, mariadb: MariaDB) -> None:
    """The buckets fail after the transaction has begun: nothing may stay locked or be committed later."""
    db, kind = accounting()
    number = connection_id(db)
    before = count(mariadb, f"ac_bucket_{kind}")

    def fail(*args: Any, **kwargs: Any) -> Any:
        db._update(f"INSERT INTO `ac_bucket_{kind}` (startTime, bucketLength) VALUES (1, 1)", conn=kwargs["connObj"])
        if how == "raises":
            raise RuntimeError("on purpose")
        return {"OK": False, "Message": "on purpose"}

    # The rollback of the host's own is taken out, too, to see ours.
    db._AccountingDB__splitInBuckets = fail
    db._AccountingDB__rollbackTransaction = lambda connection: None
    try:
        answer = db.insertRecordDirectly(kind, 1.0, 2.0, job_record(db, kind, 1))
        assert not answer["OK"]
    except RuntimeError:
        assert how == "raises"
    assert connection_id(db) == number
    transactions = mariadb.execute(
        f"SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = {number}"
    )
    assert transactions == [["0"]]
    assert db._query("SELECT 1")["OK"]
    assert count(mariadb, f"ac_bucket_{kind}") == before


def catalogue() -> Any:
    from DIRAC.DataManagementSystem.DB.FileCatalogDB import FileCatalogDB

    db = FileCatalogDB()
    managers = {
        "UserGroupManager": "UserAndGroupManagerDB",
        "SEManager": "SEManagerDB",
        "SecurityManager": "NoSecurityManager",
        "DirectoryManager": "DirectoryLevelTree",
        "FileManager": "FileManager",
        "DirectoryMetadata": "DirectoryMetadata",
        "FileMetadata": "FileMetadata",
        "DatasetManager": "DatasetManager",
    }
    options = {
        "UniqueGUID": False,
        "GlobalReadAccess": True,
        "LFNPFNConvention": "Strong",
        "ResolvePFN": True,
        "DefaultUmask": 0o775,
        "ValidFileStatus": ["AprioriGood"],
        "ValidReplicaStatus": ["AprioriGood"],
        "VisibleFileStatus": ["AprioriGood"],
        "VisibleReplicaStatus": ["AprioriGood"],
    }
    configured = db.setConfig({**managers, **options})
    assert configured["OK"], configured
    return db


@pytest.mark.patched("connection_close", "DirectoryTreeBase.getDirectorySize")
def test_directory_sizes_without_closing(mariadb: MariaDB) -> None:
    db = catalogue()
    made = db.dtree.makeDirectories("/fakevo/a/b", {"username": "MrUser", "group": "fakevo_user"})
    assert made["OK"], made

    def ask() -> list[Any]:
        answers = []
        for paths in (["/fakevo/a"], ["/fakevo/a", "/no/such"], ["/no/such"], []):
            for long, raw, recursive in ((False, False, True), (True, False, True), (True, True, True), (0, 0, False)):
                answer = without_stacks(db.dtree.getDirectorySize(paths, long, raw, recursive))
                if answer["OK"]:
                    answer["Value"].pop("QueryTime", None)
                answers.append(answer)
                numbers.add(connection_id(db))
        return answers

    numbers: set[int] = set()
    patched = ask()
    assert len(numbers) == 1
    assert patched[0]["Value"]["Successful"]
    with stock("connection_close"):
        assert ask() == patched
    assert len(numbers) > 10


@pytest.mark.patched("connection_close", "DirectoryTreeBase.getDirectorySize")
def test_a_signal_handler_that_raises_leaves_no_connection_held(mariadb: MariaDB) -> None:
    """Handlers run where something is called. A connection that stayed held could not be closed any more."""
    db = catalogue()
    assert db.dtree.getDirectorySize(["/fakevo"])["OK"]
    place = 0

    class Raised(BaseException):
        pass

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal left
        if event in ("call", "c_call") and frame.f_code.co_filename.endswith("connection_close.py"):
            left -= 1
            if not left:
                raise Raised

    left = 0
    while left <= 0:
        place += 1
        left = place
        sys.setprofile(profile)
        try:
            db.dtree.getDirectorySize(["/fakevo"])
        except Raised:
            pass
        finally:
            sys.setprofile(None)
        connection = db._getConnection()["Value"]
        assert not vars(connection).get("_perfpatch_held"), place
    assert place > 5


@pytest.mark.patched("connection_close", "PilotStatusAgent.execute")
def test_the_pilot_agent_without_closing(mariadb: MariaDB) -> None:
    from DIRAC.WorkloadManagementSystem.Agent.PilotStatusAgent import PilotStatusAgent
    from DIRAC.WorkloadManagementSystem.DB.PilotAgentsDB import PilotAgentsDB

    # The framework around an agent needs a Configuration server; what runs in the cycle is the agent's own.
    agent = object.__new__(PilotStatusAgent)
    agent.pilotDB = PilotAgentsDB()
    agent.am_getOption = lambda name, default="": default
    agent.clearPilotsDelay = agent.clearAbortedDelay = 30
    agent.pilots = SimpleNamespace(clearPilots=agent.pilotDB.clearPilots)
    agent.log = agent.pilotDB.log

    def cycle() -> int:
        answer = agent.execute()
        assert answer["OK"], answer
        return connection_id(agent.pilotDB)

    first = connection_id(agent.pilotDB)
    assert [cycle(), cycle()] == [first, first]
    with stock("connection_close"):
        assert cycle() != first


def test_anybody_who_closes_the_pools_connection_gets_it_cleaned(db: Any, mariadb: MariaDB) -> None:
    number = connection_id(db)
    for _ in range(3):
        connection = db._getConnection()["Value"]
        session = (
            "SET @mine = 1; SET SESSION sql_mode = ''; SELECT GET_LOCK('mine', 0); CREATE TEMPORARY TABLE mine (n INT)"
        )
        for statement in session.split("; "):
            assert db._query(statement, conn=connection)["OK"]
        assert db._update("START TRANSACTION", conn=connection)["OK"]
        assert db._update("INSERT INTO rows_of VALUES (1)", conn=connection)["OK"]
        connection.close()
        assert connection_id(db) == number
        assert db._query("SELECT @mine, @@autocommit, DATABASE(), IS_FREE_LOCK('mine'), @@sql_mode = ''")["Value"] == (
            (None, 1, "work", 1, 0),
        )
        assert not db._query("SELECT * FROM mine", debug=False)["OK"]
        assert db._query("SELECT COUNT(*) FROM rows_of")["Value"] == ((0,),)


def test_a_connection_that_cannot_be_cleaned_is_closed_and_dropped(db: Any) -> None:
    from MySQLdb.cursors import SSCursor

    number = connection_id(db)
    connection = db._getConnection()["Value"]
    cursor = connection.cursor(SSCursor)
    cursor.execute("SELECT 1 UNION SELECT 2")
    connection.close()
    assert threading.current_thread() not in pool(db)._ConnectionPool__assigned
    assert connection_id(db) != number


def test_the_pool_itself_closes_for_good(db: Any, mariadb: MariaDB) -> None:
    """More threads end than the pool keeps spare connections for: the others are closed, as in stock."""
    barrier = threading.Barrier(15)

    def use() -> None:
        assert db._query("SELECT 1")["OK"]
        barrier.wait()

    threads = [threading.Thread(target=use) for _ in range(15)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool(db).clean()
    assert len(pool(db)._ConnectionPool__spares) == 10
    sql = f"SELECT COUNT(*) FROM information_schema.processlist WHERE user = '{db._MySQL__userName}'"
    deadline = time.monotonic() + 5
    while mariadb.execute(sql) != [["11"]]:
        assert time.monotonic() < deadline, mariadb.execute(sql)
        time.sleep(0.02)


def test_close_is_the_drivers_again_when_the_patch_is_off(db: Any) -> None:
    with stock(*POOL):
        connection = db._getConnection()["Value"]
        assert type(connection).__module__ == "MySQLdb.connections"
        connection.close()
        with pytest.raises(MySQLdb.Error):
            connection.ping()
    assert db._query("SELECT 1")["OK"]


def kill_before_sending(db: Any, mariadb: MariaDB, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have the connection killed after it was checked out and before the statement is sent, once."""
    killed: list[int] = []
    real = module.MySQLdb.connections.Connection.cursor

    def cursor(self: Any, *args: Any) -> Any:
        if not killed:
            killed.append(self.thread_id())
            kill(mariadb, killed[0])
        return real(self, *args)

    monkeypatch.setattr(module.MySQLdb.connections.Connection, "cursor", cursor)
    return killed


def test_a_statement_that_was_not_sent_is_sent_again(
    db: Any, mariadb: MariaDB, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for statement in (
        db._update,
        db._query,
        lambda sql: db._updatemany("INSERT INTO rows_of VALUES (%s)", [(1,), (2,)]),
    ):
        db._query("SELECT 1")
        with monkeypatch.context() as patch:
            killed = kill_before_sending(db, mariadb, patch)
            assert statement("INSERT INTO rows_of VALUES (3)")["OK"]
        assert killed
        assert connection_id(db) != killed[0]
    assert sorted(db._query("SELECT n FROM rows_of")["Value"]) == [(1,), (2,), (3,), (3,)]
    assert "ERROR" not in capsys.readouterr().out


@pytest.mark.parametrize("how", ["begun before", "passed in", "no autocommit", "savepoint", "before the patch"])
def test_a_statement_of_a_transaction_is_never_sent_again(
    how: str, db: Any, mariadb: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would run alone: what the transaction did before it is lost with the connection."""
    if how == "no autocommit":
        assert db._update("SET autocommit = 0")["OK"]
        assert db._update("INSERT INTO rows_of VALUES (1)")["OK"]
    else:
        _begin(db, how)
    conn = {"conn": db._getConnection()["Value"]} if how == "passed in" else {}
    with monkeypatch.context() as patch:
        kill_before_sending(db, mariadb, patch)
        assert not db._update("INSERT INTO rows_of VALUES (2)", **conn)["OK"]
    assert db._query("SELECT n FROM rows_of")["Value"] == ()


def test_a_statement_that_was_sent_is_never_sent_again(db: Any, mariadb: MariaDB) -> None:
    """The connection is killed while the server works on it: it may have been done, so the caller is told."""
    number = connection_id(db)

    def killer() -> None:
        running = f"SELECT 1 FROM information_schema.processlist WHERE id = {number} AND command = 'Query'"
        while not mariadb.execute(running):
            time.sleep(0.01)
        kill(mariadb, number)

    thread = threading.Thread(target=killer)
    thread.start()
    answer = db._update("INSERT INTO rows_of SELECT SLEEP(5)")
    thread.join()
    assert not answer["OK"]
    assert db._query("SELECT COUNT(*) FROM rows_of")["Value"] == ((0,),)


@pytest.mark.parametrize("ending", ["sys.exit()", "os._exit(0)"])
def test_a_child_of_a_fork_leaves_the_parents_connections_alone(ending: str, db: Any, mariadb: MariaDB) -> None:
    from conftest import run

    account = (db._MySQL__hostName, db._MySQL__userName, "pw", "work", db._MySQL__port)
    answer = run(
        "import os, sys, threading\n"
        "from DIRAC.Core.Utilities.Extensions import extensionsByPriority\n"
        "extensionsByPriority()\n"
        "from DIRAC.Core.Utilities.MySQL import MySQL\n"
        f"db = MySQL(*{account!r})\n"
        "def number(): return db._query('SELECT CONNECTION_ID()')['Value'][0][0]\n"
        "mine = number()\n"
        "children = []\n"
        "for _ in range(5):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        theirs = {number() for _ in range(3)}\n"
        "        os.write(1, f'child {mine not in theirs} {len(theirs)}\\n'.encode())\n"
        f"        {ending}\n"
        "    children.append(child)\n"
        "    assert number() == mine\n"
        "for child in children: os.waitpid(child, 0)\n"
        "print('parent', number() == mine)",
        DIRACSYSCONFIG="/no/such/file",
    )
    lines = [line for line in answer.stdout.splitlines() if line.startswith(("child", "parent"))]
    assert lines == ["child True 1"] * 5 + ["parent True"], (answer.stdout, answer.stderr)


ENDINGS = {
    "COMMIT": lambda db: db._update("COMMIT"),
    "commit": lambda db: pool(db).transactionCommit("work"),
    "ROLLBACK": lambda db: db._update("ROLLBACK"),
    "rollback": lambda db: pool(db).transactionRollback("work"),
    "another one": lambda db: db._update("START TRANSACTION"),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_transaction_that_was_under_way_at_a_fork_is_the_parents(ending: str, db: Any, mariadb: MariaDB) -> None:
    """The child's statements of it fail, and say why; COMMIT above all, which has nothing to commit."""
    assert db._update("START TRANSACTION")["OK"]
    assert db._update("INSERT INTO rows_of VALUES (1)")["OK"]

    def child() -> list[Any]:
        insert = db._update("INSERT INTO rows_of VALUES (2)")
        end = ENDINGS[ending](db)
        # What comes after the end is its own business, on a connection of its own.
        return [insert["OK"], insert["Message"], end["OK"], db._update("INSERT INTO rows_of VALUES (3)")["OK"]]

    inserted, why, ended, after = in_a_child(child)
    assert not inserted
    assert "forked in the middle of a transaction" in why
    assert ended == (ending.lower() == "rollback")
    assert after
    assert db._update("COMMIT")["OK"]
    assert sorted(db._query("SELECT n FROM rows_of")["Value"]) == [(1,), (3,)]


def test_a_commit_alone_fails_in_the_child_that_has_nothing_to_commit(db: Any, mariadb: MariaDB) -> None:
    assert db._update("START TRANSACTION")["OK"]
    assert db._update("INSERT INTO rows_of VALUES (1)")["OK"]
    ended, why, after = in_a_child(
        lambda: [(end := db._update("COMMIT"))["OK"], end["Message"], db._query("SELECT 1")["OK"]]
    )
    assert (ended, after) == (False, True)
    assert "begin it again" in why
    assert db._update("ROLLBACK")["OK"]
    assert db._query("SELECT COUNT(*) FROM rows_of")["Value"] == ((0,),)


def test_a_child_may_close_the_connection_of_a_transaction(db: Any) -> None:
    assert db._update("START TRANSACTION")["OK"]

    def child() -> list[Any]:
        db._getConnection()["Value"].close()
        return [db._query("SELECT 1")["OK"]]

    assert in_a_child(child) == [True]
    assert db._update("ROLLBACK")["OK"]


@pytest.mark.parametrize("end", ["COMMIT", "commit()", "rollback()"])
def test_a_transaction_that_ended_before_the_fork_does_not_disturb_the_child(end: str, db: Any) -> None:
    assert db._update("START TRANSACTION")["OK"]
    connection = db._getConnection()["Value"]
    assert db._update("COMMIT")["OK"] if end == "COMMIT" else getattr(connection, end[:-2])() is None
    assert in_a_child(lambda: [db._query("SELECT 1")["OK"]]) == [True]


# Begun in a way that the statements do not tell, or ended in one.
UNCLEAR = {
    "savepoint": ["START TRANSACTION", "SAVEPOINT a", "ROLLBACK TO SAVEPOINT a"],
    "comment": ["/* a remark */ START TRANSACTION"],
    "chain": ["START TRANSACTION", "COMMIT AND CHAIN"],
    "DDL": ["START TRANSACTION", "CREATE OR REPLACE TABLE another (n INT)"],
    "before the patch": ["START TRANSACTION"],
}


def _begin(db: Any, how: str) -> None:
    with stock(*POOL if how == "before the patch" else ["dms_helpers"]):
        for statement in UNCLEAR.get(how, ["START TRANSACTION"]):
            assert db._update(statement)["OK"]
    assert db._update("INSERT INTO rows_of VALUES (1)")["OK"]


@pytest.mark.parametrize("how", UNCLEAR)
def test_a_transaction_that_nobody_has_seen_begin_is_in_a_child_as_in_stock(how: str, db: Any) -> None:
    """A child has its parent's connection: what it commits is committed."""
    _begin(db, how)
    assert in_a_child(lambda: [db._query("SELECT 1")["OK"], db._update("COMMIT")["OK"]]) == [True, True]
    assert db._update("ROLLBACK")["OK"]
    assert db._query("SELECT n FROM rows_of")["Value"] == ((1,),)


def test_a_child_cannot_go_back_in_its_parents_transaction(db: Any) -> None:
    for statement in ("START TRANSACTION", "SAVEPOINT a"):
        assert db._update(statement)["OK"]
    back, end = in_a_child(lambda: [db._update("ROLLBACK TO SAVEPOINT a")["OK"], db._update("COMMIT")["OK"]])
    assert not back
    assert not end


def test_a_result_that_is_being_read_is_no_sign_of_death(db: Any, mariadb: MariaDB) -> None:
    """When a connection of another pool is lost, this one stays in its transaction."""
    assert db._update("START TRANSACTION")["OK"]
    connection = db._getConnection()["Value"]
    cursor = connection.cursor(MySQLdb.cursors.SSCursor)
    cursor.execute("SELECT 1 UNION SELECT 2")
    other = module.MySQL(mariadb.host, mariadb.user, mariadb.password, "work", port=mariadb.port)
    lost = other._getConnection()["Value"]
    kill(mariadb, lost.thread_id())
    assert not other._query("SELECT 1", conn=lost)["OK"]
    assert len(cursor.fetchall()) == 2
    cursor.close()
    assert db._getConnection()["Value"] is connection


def test_a_dead_connection_of_before_the_patch_whose_number_another_file_has_got(db: Any, mariadb: MariaDB) -> None:
    with ExitStack() as other_file:
        with stock(*POOL):
            connection = db._getConnection()["Value"]
            kill(mariadb, connection.thread_id())
            with pytest.raises(MySQLdb.Error):
                connection.query("SELECT 1")
            other_file.enter_context(another_file_at(connection.fileno()))
        assert db._query("SELECT 1")["OK"]


def test_a_living_connection_of_before_the_patch_stays(mariadb: MariaDB) -> None:
    """Also where it is looked at before anybody has checked it out."""
    db = catalogue()
    with stock(*POOL):
        number = connection_id(db)
    assert db.dtree.getDirectorySize(["/fakevo"])["OK"]
    assert connection_id(db) == number


def test_a_default_timeout_of_the_process_leaves_the_sockets_as_they_are(mariadb: MariaDB) -> None:
    code = (
        "import fcntl, os, socket\n"
        "socket.setdefaulttimeout(30)\n"
        "from DIRAC.Core.Utilities.Extensions import extensionsByPriority\n"
        "extensionsByPriority()\n"
        "from DIRAC.Core.Utilities.MySQL import MySQL\n"
        f"db = MySQL('{mariadb.host}', 'dirac', 'password', 'mysql', port={mariadb.port})\n"
        "assert db._query('SELECT 1')['OK']\n"
        "number = db._getConnection()['Value'].fileno()\n"
        "blocking = not fcntl.fcntl(number, fcntl.F_GETFL) & os.O_NONBLOCK\n"
        "kept = socket.fromfd(number, socket.AF_INET, socket.SOCK_STREAM)\n"
        "print(blocking, [kept.getsockopt(*option) for option in ((socket.SOL_SOCKET, socket.SO_KEEPALIVE),\n"
        "    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL))])\n"
        # A statement that takes a while and an answer of some size: on a socket that does not block both would fail.
        "print(db._query('SELECT SLEEP(0.2), REPEAT(\"x\", 3000000)')['OK'])\n"
    )
    answer = run(code)
    assert answer.stdout.split("\n")[:2] == ["True [1, 5, 5]", "True"], answer.stderr


def test_statements_and_answers_of_megabytes_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With TLS the socket may be readable without an answer, and a record may be half there."""
    certificates = Path(DIRAC.__file__).parent / "Core" / "Security" / "test" / "certs"
    certificate, key = (certificates / "host" / f"host{part}.pem" for part in ("cert", "key"))
    options = [f"--ssl-cert={certificate}", f"--ssl-key={key}", "--max-allowed-packet=64M"]
    with MariaDB(tmp_path / "tls", options=options) as server:
        server.execute("CREATE DATABASE work; CREATE TABLE work.texts (t LONGTEXT)")
        connect = functools.partial(MySQLdb.connect, ssl={"ca": str(certificates / "ca" / "ca.cert.pem")})
        monkeypatch.setattr(module.MySQLdb, "connect", connect)
        db = module.MySQL(server.host, server.user, server.password, "work", port=server.port)
        assert db._query("SHOW STATUS LIKE 'Ssl_cipher'")["Value"][0][1]
        before = server.pings()
        text = "x" * 12_000_000
        for _ in range(3):
            assert db._update(f"INSERT INTO texts VALUES ('{text}')")["OK"]
            assert db._query("SELECT t FROM texts LIMIT 1")["Value"] == ((text,),)
        assert server.pings() - before <= 3  # a session ticket makes the socket readable once, and is pinged for
        number = connection_id(db)
        kill(server, number)
        assert connection_id(db) != number
        assert loading.plugin.switches["connection_checkout"].guard.failures == 0


@pytest.mark.parametrize("path", ["ConnectionPool.get", "MySQL._query", "MySQL._update", "MySQL._except"])
def test_a_wrapper_that_was_there_first_gets_the_instance(path: str, db: Any) -> None:
    """Somebody's wrapt wrapper beneath ours, as instrumentation puts it on."""
    import wrapt

    owner: Any = getattr(module, path.split(".")[0])
    name, seen = path.split(".")[1], []

    def theirs(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        seen.append(instance)
        return wrapped(*args, **kwargs)

    with forced(*POOL), stock(*POOL):
        original = vars(owner)[name]
        setattr(owner, name, wrapt.FunctionWrapper(original, theirs))
    assert {loading.plugin.switches[name].status()["state"] for name in POOL} == {"applied"}
    try:
        db._getConnection()["Value"].close()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "sleep", lambda _: None)
            db._getConnection()
        assert db._query("SELECT 1")["OK"]
        assert db._update("DO 1")["OK"]
        assert not db._query("nonsense")["OK"]
        entry = pool(db)._ConnectionPool__assigned[threading.current_thread()]
        entry[2] = 0  # not used for long: stock's own code answers
        assert db._query("SELECT 1")["OK"]
    finally:
        with stock(*POOL):
            setattr(owner, name, original)
    assert seen
    assert all(isinstance(instance, owner) for instance in seen)


def test_many_threads_under_kills(db: Any, mariadb: MariaDB) -> None:
    """Idle connections are killed all the time: what the callers were told is in the table, and nothing twice."""
    stop = threading.Event()
    told: list[list[int]] = [[] for _ in range(6)]

    def insert(which: int) -> None:
        for number in range(which * 1000, which * 1000 + 300):
            if db._update(f"INSERT INTO rows_of VALUES ({number})")["OK"]:
                told[which].append(number)
            time.sleep(0.001)

    def killer() -> None:
        while not stop.wait(0.05):
            mariadb.kill_idle(db._MySQL__userName)

    workers = [threading.Thread(target=insert, args=(which,)) for which in range(6)]
    killing = threading.Thread(target=killer)
    for thread in [*workers, killing]:
        thread.start()
    for thread in workers:
        thread.join()
    stop.set()
    killing.join()
    done = sorted(number for numbers in told for number in numbers)
    # A statement whose connection was killed between checkout and sending fails, as in stock; see docs.
    assert len(done) > 1700
    rows = sorted(int(row[0]) for row in mariadb.execute("SELECT n FROM rows_of", "work"))
    assert set(done) <= set(rows)
    assert len(rows) == len(set(rows))


def test_a_socket_number_that_another_file_has_got_is_not_taken_for_the_connections(db: Any, mariadb: MariaDB) -> None:
    """libmariadb closes the socket of a connection that is lost, and goes on telling its number."""
    for lose in (
        lambda connection: connection.query("SELECT 1"),
        lambda connection: connection.ping(),
        lambda connection: connection.commit(),
        lambda connection: connection.select_db("work"),
    ):
        number = connection_id(db)
        connection = db._getConnection()["Value"]
        assert db._update("UPDATE rows_of SET n = 0")["OK"]
        db._getConnection()
        kill(mariadb, number)
        with pytest.raises(MySQLdb.Error):
            lose(connection)
        with another_file_at(connection.fileno()):
            assert db._query("SELECT 1")["OK"]


def test_an_unbuffered_result_that_breaks_off_poisons_nothing(db: Any, mariadb: MariaDB) -> None:
    connection = db._getConnection()["Value"]
    cursor = connection.cursor(MySQLdb.cursors.SSCursor)
    cursor.execute("SELECT a.* FROM information_schema.columns a, information_schema.columns b")
    cursor.fetchone()
    db._getConnection()
    kill(mariadb, connection.thread_id())
    with pytest.raises(MySQLdb.Error):
        cursor.fetchall()
    ends = socket.socketpair()  # one of them gets the number
    assert db._query("SELECT 1")["OK"]
    for end in ends:
        end.close()


def test_a_closed_connection_whose_number_another_file_has_got_costs_no_query(db: Any) -> None:
    with stock("connection_close"):
        assert db._update("UPDATE rows_of SET n = 0")["OK"]
        for _ in range(3):
            connection = db._getConnection()["Value"]
            told = connection.fileno()
            connection.close()
            with another_file_at(told):
                assert db._query("SELECT 1")["OK"]
