"""Three functions no longer close the pool's connection; nor does anybody else.

``AccountingDB.insertRecordDirectly``, ``DirectoryTreeBase.getDirectorySize`` and ``PilotStatusAgent.execute`` take the
thread's connection from the pool and close it at their end. The pool does not know: it hands the closed object out
again, finds out by a ping that fails, and opens a new connection, one per call. So does code of downstream extensions.

While one of the three functions runs, ``close()`` on its connection does nothing; the functions themselves are
unchanged. If other code closes the connection that the pool has assigned to its thread, the connection is cleaned
instead, which takes one round trip.

Why the answer is the same: closing a connection rolls back what was not committed and ends the session with its
variables, temporary tables and locks. The three functions leave nothing behind when they succeed; if one fails or
raises, we roll back. For other callers a new session is begun (``COM_CHANGE_USER``), which drops all of that, too. If
that fails, for example because a result is unread, the connection is really closed, and dropped from the pool.

DIRAC 9.1.9 and later no longer close the connection in these three functions, which are left alone there. The rest
applies: their pool does not ping for 5 s, so a connection that other code has closed fails the next statement.

Thread safety: a pooled connection is used only by its own thread, which is also the one that marks it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import current_thread
from typing import Any

from dirac_perfpatch.patches._connections import (
    ADOPTING,
    ASSIGNED,
    MODULE,
    NEW,
    adopt_all,
    bare,
    connect,
    discard,
    is_alive,
    is_in_tree,
    wishes,
)
from dirac_perfpatch.patches.connection_checkout import ask_pool
from dirac_perfpatch.patching import Case, Database, Fitting, Guard, InTree, Meter, Patch, Target, Timed, Wrapper

_POOL = "_MySQL__connectionPool"
_NAME = "_MySQL__dbName"
_USER = "_ConnectionPool__user"
_PASSWORD = "_ConnectionPool__passwd"


def _pooled(db: Any) -> tuple[Any, Any]:
    """The pool of a database object, and this thread's connection in it; the connection is None if there is none."""
    pool: Any = getattr(db, _POOL, None)
    if type(pool).__module__ != MODULE:
        return pool, None
    entry = getattr(pool, ASSIGNED).get(current_thread())
    if entry is not None and not is_alive(entry[0]):
        discard(pool)  # it died while it was idle
    # Without retries, which sleep: the function itself retries as ever.
    answer = pool.get(getattr(db, _NAME), 0)
    return pool, bare(answer["Value"]) if answer["OK"] else None


def _hold_open(guard: Guard, find_db: Callable[[Any], Any]) -> Wrapper:
    """The wrapper of a function that closes the pool's connection."""

    def call(wrapped: Any, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if guard.off:
            return wrapped(*args, **kwargs)
        try:
            pool, connection = _pooled(find_db(instance))
        except Exception as error:
            guard.failed(error)
            connection = None
        if connection is None:
            return wrapped(*args, **kwargs)
        answer: Any = None
        # The functions may call each other with the same connection.
        held = vars(connection).get("_perfpatch_held", False)
        try:
            connection._perfpatch_held = True
            answer = wrapped(*args, **kwargs)
        finally:
            connection._perfpatch_held = held  # first: at a call a signal handler may raise
            if not (isinstance(answer, dict) and answer.get("OK")):
                _roll_back(pool, connection)
        return answer

    return call


def _roll_back(pool: Any, connection: Any) -> None:
    try:
        connection.rollback()
    except Exception:  # it must not be used again
        discard(pool)


def _clean(guard: Guard, connection: Any, pool: Any) -> bool:
    """Stands in for ``close()`` of a pooled connection.

    Returns:
        False if the connection is to be closed after all: the patch is off, or the pool has not assigned the connection
        to this thread, as when the pool itself closes one that it does not need.
    """
    if guard.off:
        return False
    if vars(connection).get("_perfpatch_held"):
        return True
    entry = getattr(pool, ASSIGNED).get(current_thread())
    if entry is None or bare(entry[0]) is not connection:
        return False
    try:
        # Without a name no database is selected; the pool writes that as "".
        name = {"db": entry[1]} if entry[1] else {}
        connection.change_user(user=getattr(pool, _USER), passwd=getattr(pool, _PASSWORD), **name)
        # As the pool does for each connection that it opens; the server's default may differ.
        connection.autocommit(True)
    except Exception:
        discard(pool)
    else:
        guard.note("connections kept open")
    return True


def _look(path: str) -> Callable[[Fitting], None]:
    def look(fitting: Fitting) -> None:
        owner, _, name = path.rpartition(".")
        if name not in vars(fitting.resolve(owner)):
            raise InTree("this release of the host has no such function")
        fitting.expect(path, "_getConnection")
        if "close" not in fitting.names_in(path):
            raise InTree("the host leaves the connection open itself")

    return look


def _look_at_pool(fitting: Fitting) -> None:
    fitting.expect(f"ConnectionPool.{NEW}", "MySQLdb", "connect", _USER, _PASSWORD)
    if is_in_tree(fitting):
        wrong = "lets the statement fail that follows any other caller's close()"
        raise InTree("the host's own functions leave the pool's connections open", wrong, _put_on_pool)


def _put_on_pool(fitting: Fitting) -> None:
    adopt_all(fitting)
    wishes.set(fitting, instead_of_close=functools.partial(_clean, fitting.guard))


def _target(module: str, path: str, find_db: Callable[[Any], Any]) -> Target:
    def put_on(fitting: Fitting) -> None:
        fitting.wrap(path, _hold_open(fitting.guard, find_db))

    return Target((module,), path, _look(path), put_on)


def _closed_by_caller(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    db = connect(database)
    pool, name = getattr(db, _POOL), getattr(db, _NAME)

    def get_and_close() -> None:
        pool.get(name)["Value"].close()

    yield lambda number: timed(get_and_close, number)


PATCH = Patch(
    name="connection_close",
    targets=(
        _target("DIRAC.AccountingSystem.DB.AccountingDB", "AccountingDB.insertRecordDirectly", lambda self: self),
        _target(
            "DIRAC.DataManagementSystem.DB.FileCatalogComponents.DirectoryManager.DirectoryTreeBase",
            "DirectoryTreeBase.getDirectorySize",
            lambda self: self.db,
        ),
        _target(
            "DIRAC.WorkloadManagementSystem.Agent.PilotStatusAgent",
            "PilotStatusAgent.execute",
            lambda self: self.pilotDB,
        ),
        Target((MODULE,), f"ConnectionPool.{NEW}", _look_at_pool, _put_on_pool, changes=ADOPTING),
    ),
    ask=ask_pool,
    cases=(Case("get() and close()", _closed_by_caller),),
    calls_stand_alone=False,  # as in connection_checkout
    wants=("connection_checkout",),
)
