"""MySQL._except: a connection that is dead is evicted from the pool at once.

If a query fails because the link is gone, the host leaves the connection in the pool under its thread, and only the
ping of the next checkout finds it. Without that ping the dead connection would fail one query after the other. Here it
is dropped when it fails, and the next checkout makes a new one. Only a connection that is found dead is dropped, from
whichever pool it is in: if a statement failed on a connection that the caller passed in, the thread's pooled one,
perhaps in the middle of a transaction, stays.

**A statement that was not sent is sent again, once.** Between the look at checkout and the sending of a statement lie
some 20 us, in which a connection can be lost; the host has the same gap after its ping, and the statement fails. We
look at the socket again right before the first statement after a checkout is sent. If the server has hung up, the
statement is not sent but reported as lost, with an exception of our own, and ``_query``, ``_update`` or ``_updatemany``
is called again on a fresh connection. This is safe, because:

- The statement did not reach the server: we had not begun to send it. Once sending has begun, a statement is never sent
  again, whatever the error says: the server may have run it.
- Nothing before it is lost with the connection: the method itself has taken the connection from the pool for this
  statement (it was not passed in), it is in autocommit, no transaction was begun on it, and no statement was sent
  since. If a transaction has lost its connection, each of its later statements fails.
- It is as if the checkout had found the connection dead: then the host, too, runs the statement on a fresh one.

The error that the caller gets is made by the host's own code.

DIRAC 9.1.9 and later drop a connection themselves: whichever the thread has in this pool, dead or alive, even if the
statement was lost on another one that the caller passed in. They also close it, with any transaction that is open on
it. There the pool's ``discardCurrentThreadConn`` gets the same rule: it drops only what is dead, and closes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from threading import current_thread
from typing import Any

from dirac_perfpatch.patches._connections import (
    ADOPTING,
    ASSIGNED,
    DISCARD,
    MODULE,
    LeftToParent,
    adopt_all,
    connect,
    discard,
    forget,
    in_transaction,
    is_alive,
    is_in_tree,
    is_quiet_now,
    this_thread,
    wishes,
)
from dirac_perfpatch.patches.connection_checkout import ask_pool
from dirac_perfpatch.patching import Case, Database, Fitting, InTree, Meter, Patch, Target, Timed, Wrapper

# CR_SERVER_GONE_ERROR, CR_SERVER_LOST, CR_SERVER_LOST_EXTENDED and ER_CLIENT_INTERACTION_TIMEOUT (MySQL from 8.0.24;
# MariaDB reports 2006 for it). https://dev.mysql.com/doc/mysql-errors/8.0/en/
_DEAD = frozenset({2006, 2013, 2055, 4031})
_DISCARDING = f"ConnectionPool.{DISCARD}"
_STATEMENTS = ("MySQL._query", "MySQL._update")
_MANY = "MySQL._updatemany"  # later releases of 8.0, and all after
_CHANGED = ("MySQL._except", _DISCARDING, *_STATEMENTS, _MANY, *ADOPTING)


def _statements(fitting: Fitting) -> list[str]:
    """The methods that send a statement."""
    many = _MANY.partition(".")[2] in vars(fitting.resolve("MySQL"))
    return [*_STATEMENTS, *([_MANY] if many else [])]


def _evicting(fitting: Fitting) -> Wrapper:
    """The wrapper of MySQL._except."""
    guard, pools, driver = fitting.guard, fitting.resolve("MySQL")._MySQL__connectionPools, fitting.module.MySQLdb

    def call(wrapped: Any, db: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        error: Any = args[1] if len(args) > 1 else kwargs.get("x")
        if isinstance(error, NotSent):
            # Without the host's line in the log: nobody sees this error, the statement is about to be sent.
            discard(db._MySQL__connectionPool)
            this_thread.unsent = True
            return {"OK": False, "Errno": 0, "Message": str(error)}
        answer = wrapped(*args, **kwargs)
        if not guard.off:
            try:
                if _is_lost(error, driver):
                    # The statement may have run on a connection of another pool, passed in by the caller.
                    for pool in {db._MySQL__connectionPool, *list(pools.values())}:
                        if _evict(pool):
                            guard.note("evictions")
            except Exception as failure:
                guard.failed(failure)
        return answer

    return call


def _is_lost(error: Any, driver: Any) -> bool:
    if isinstance(error, LeftToParent) or not isinstance(error, driver.Error):
        return False
    # The driver's error for a connection that was closed on our side has no number.
    return (error.args[0] if error.args else None) in _DEAD or "closed" in str(error).lower()


def _evict(pool: Any) -> bool:
    """Drop this thread's connection from the pool if it is dead. Returns: whether it was.

    It is not closed: the caller may still hold it, and DIRAC's own functions call ``close()`` at their end, which would
    raise on a closed one. The driver has closed the socket already.
    """
    entry = getattr(pool, ASSIGNED).get(current_thread())
    if entry is None or is_alive(entry[0]):
        return False
    forget(pool)
    return True


class NotSent(Exception):
    """The server had hung up before a statement was sent. What is raised is also a driver's error."""


def _look_before_sending(fitting: Fitting) -> Any:
    # Made here, because only now is the driver imported.
    not_sent: Any = type("NotSentError", (NotSent, fitting.module.MySQLdb.OperationalError), {})

    def before_first(connection: Any, statement: Any) -> None:
        try:
            # In this order: a connection that has failed a ping no longer knows whether it is in autocommit.
            dead = not is_quiet_now(connection) and not in_transaction(connection) and not is_alive(connection)
        except Exception:
            return  # closed, or this mysqlclient does not expose the socket: the driver raises what it always raises
        if dead:
            raise not_sent(2006, "MySQL server has gone away")

    return before_first


def _make_again_if_unsent(fitting: Fitting, path: str) -> Any:
    """What stands in for a method that takes a connection from the pool and runs a statement."""
    original, guard = fitting.unbound(path), fitting.guard

    def statement(self: Any, *args: Any, **kwargs: Any) -> Any:
        if guard.off or kwargs.get("conn"):
            return original(self, *args, **kwargs)
        this_thread.unsent, this_thread.expects_first = False, True
        try:
            answer = original(self, *args, **kwargs)
        finally:
            this_thread.expects_first = False
        if not this_thread.unsent:
            return answer
        this_thread.unsent = False
        guard.note("statements sent anew")
        return original(self, *args, **kwargs)

    return statement


def _look(fitting: Fitting) -> None:
    fitting.expect("MySQL._except", "_safeCmd", "EMYSQL")
    for path in _statements(fitting):
        fitting.expect(path, "_getConnection", "_except")
    if is_in_tree(fitting):
        fitting.expect("MySQL._except", DISCARD)
        fitting.expect(_DISCARDING, ASSIGNED)
        wrong = "closes connections that are alive, and lets statements fail that were not sent"
        raise InTree("the host evicts connections itself", wrong, _replace)


def _replace(fitting: Fitting) -> None:
    original, guard = fitting.unbound(_DISCARDING), fitting.guard

    def discardCurrentThreadConn(self: Any) -> Any:
        if guard.off:
            return original(self)
        try:
            if _evict(self):
                guard.note("evictions")
        except Exception as error:
            guard.failed(error)
            original(self)
        return None

    fitting.stand_in(_DISCARDING, discardCurrentThreadConn)
    _put_on(fitting)


def _put_on(fitting: Fitting) -> None:
    fitting.wrap("MySQL._except", _evicting(fitting))
    for path in _statements(fitting):
        fitting.stand_in(path, _make_again_if_unsent(fitting, path))
    adopt_all(fitting)
    # Put on last and taken off first: without the others nothing would catch what it raises.
    wishes.set(fitting, before_first=_look_before_sending(fitting))


def _query(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    """A query that succeeds: what the patch costs it."""
    db = connect(database)
    yield lambda number: timed(partial(db._query, "SELECT 1"), number)


PATCH = Patch(
    name="connection_eviction",
    targets=(Target((MODULE,), "MySQL._except", _look, _put_on, changes=_CHANGED),),
    ask=ask_pool,
    cases=(Case('_query("SELECT 1")', _query),),
    calls_stand_alone=False,  # as in connection_checkout
)
