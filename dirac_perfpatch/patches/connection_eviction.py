"""MySQL._except: a connection that is dead is evicted from the pool at once.

When a query fails because the link is gone, the host leaves the connection in the pool under its thread, and only the
ping of the next checkout finds it. Without that ping the dead connection would fail one query after the other: it would
poison its thread. Here it is dropped when it fails, and the next checkout makes a new one. Only a connection that is
found dead is dropped, and it is looked for in whichever pool it belongs to: when a statement failed on a connection of
the caller's own, the thread's pooled one, perhaps in the middle of a transaction, stays.

**A statement that was not sent is sent again, once.** Between the look at checkout and the sending of a statement lie
some 20 us, in which a connection can be lost; the host has the same gap after its ping, and the statement fails. We
look at the socket once more, right before the first statement after a checkout is sent. If the server has hung up,
the statement is not sent but reported as lost, with an exception of our own, and ``_query``, ``_update`` or
``_updatemany`` is called again on a fresh connection. This is safe, because all of these hold:

- The statement did not reach the server: we had not begun to send it. A statement whose sending was begun is never
  sent again, whatever the error says: the server may have run it.
- Nothing that came before is lost with the connection: the connection was taken from the pool by the method itself for
  this statement (it was not passed in), it is in autocommit, no transaction was begun on it, and no statement was sent
  since. Of a transaction that lost its connection, each later statement fails.
- It is as if the checkout had found the connection dead: the host, too, runs the statement on a fresh one then.

The error that the caller gets is made by the host's own code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from threading import current_thread, local
from typing import Any

from dirac_perfpatch.patches._connections import (
    ASSIGNED,
    MODULE,
    LeftToParent,
    adoption,
    connect,
    discard,
    first,
    forget,
    in_transaction,
    is_alive,
    is_quiet_now,
    wishes,
)
from dirac_perfpatch.patches.connection_checkout import ask_pool
from dirac_perfpatch.patching import Case, Database, Fitting, InTree, Meter, Patch, Target, Timed

# CR_SERVER_GONE_ERROR, CR_SERVER_LOST, CR_SERVER_LOST_EXTENDED and ER_CLIENT_INTERACTION_TIMEOUT (MySQL from 8.0.24;
# MariaDB reports 2006 for it). https://dev.mysql.com/doc/mysql-errors/8.0/en/
_DEAD = frozenset({2006, 2013, 2055, 4031})
_STATEMENTS = ("MySQL._query", "MySQL._update", "MySQL._updatemany")


class _Unsent(local):
    """Whether the statement that this thread has just failed with was never sent."""

    seen = False


_unsent = _Unsent()


class _Eviction:
    """The wrapper of MySQL._except."""

    def __init__(self, fitting: Fitting) -> None:
        self._guard = fitting.guard
        self._pools = fitting.resolve("MySQL")._MySQL__connectionPools
        self._driver = fitting.module.MySQLdb

    def __call__(self, wrapped: Any, db: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        error: Any = args[1] if len(args) > 1 else kwargs.get("x")
        if isinstance(error, NotSent):
            # Not an error that anybody sees, nor a line in the log: the statement is about to be sent.
            discard(db._MySQL__connectionPool)
            _unsent.seen = True
            return {"OK": False, "Errno": 0, "Message": str(error)}
        answer = wrapped(*args, **kwargs)
        if not self._guard.off:
            try:
                if self._is_lost(error):
                    # The statement may have run on a connection of another pool, passed in by the caller.
                    for pool in {db._MySQL__connectionPool, *list(self._pools.values())}:
                        if _evict(pool):
                            self._guard.note("evictions")
            except Exception as failure:
                self._guard.failed(failure)
        return answer

    def _is_lost(self, error: Any) -> bool:
        if isinstance(error, LeftToParent) or not isinstance(error, self._driver.Error):
            return False
        # The driver's own words for a connection that was closed on our side come without a number.
        return (error.args[0] if error.args else None) in _DEAD or "closed" in str(error).lower()


def _evict(pool: Any) -> bool:
    """Drop this thread's connection from the pool if it is dead.

    It is not closed: the caller may still hold it, and DIRAC's own functions call ``close()`` at their end, which would
    raise on a closed one. The driver has closed the socket already, and the rest goes with the last reference.

    Returns:
        Whether it was dropped.
    """
    entry = getattr(pool, ASSIGNED).get(current_thread())
    if entry is None or is_alive(entry[0]):
        return False
    forget(pool)
    return True


class NotSent(Exception):
    """The server was seen to have hung up before a statement was sent. What is raised is also a driver's error."""


def _look_before_sending(fitting: Fitting) -> Any:
    # A class made here, because the driver is there only now.
    not_sent: Any = type("NotSentError", (NotSent, fitting.module.MySQLdb.OperationalError), {})

    def before_first(connection: Any, statement: Any) -> None:
        try:
            # In this order: a connection that has failed a ping no longer knows of its autocommit.
            dead = not is_quiet_now(connection) and not in_transaction(connection) and not is_alive(connection)
        except Exception:
            return  # closed, or a mysqlclient that does not tell the socket: the driver says what is to be said
        if dead:
            raise not_sent(2006, "MySQL server has gone away")

    return before_first


def _make_again_if_unsent(fitting: Fitting, path: str) -> Any:
    """What stands in for a method that takes a connection and runs a statement."""
    original, guard = fitting.unbound(path), fitting.guard

    def statement(self: Any, *args: Any, **kwargs: Any) -> Any:
        if guard.off or kwargs.get("conn"):
            return original(self, *args, **kwargs)
        _unsent.seen, first.expected = False, True
        try:
            answer = original(self, *args, **kwargs)
        finally:
            first.expected = False
        if not _unsent.seen:
            return answer
        _unsent.seen = False
        guard.note("statements sent anew")
        return original(self, *args, **kwargs)

    return statement


def _look(fitting: Fitting) -> None:
    if hasattr(fitting.resolve("ConnectionPool"), "discardCurrentThreadConn"):
        raise InTree("the host evicts dead connections itself")
    fitting.expect("MySQL._except", "_safeCmd", "EMYSQL")
    for path in _STATEMENTS:
        fitting.expect(path, "_getConnection", "_except")


def _put_on(fitting: Fitting) -> None:
    fitting.wrap("MySQL._except", _Eviction(fitting))
    for path in _STATEMENTS:
        fitting.stand_in(path, _make_again_if_unsent(fitting, path))
    adoption.begin(fitting)
    # Last put on and first taken off: it is what makes the others necessary.
    wishes.set(fitting, before_first=_look_before_sending(fitting))


def _query(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    """What it costs to be able to evict, in every query."""
    db = connect(database)
    yield lambda number: timed(partial(db._query, "SELECT 1"), number)


PATCH = Patch(
    name="connection_eviction",
    targets=(Target((MODULE,), "MySQL._except", _look, _put_on),),
    ask=ask_pool,
    cases=(Case('_query("SELECT 1")', _query),),
    calls_stand_alone=False,  # as in connection_checkout
)
