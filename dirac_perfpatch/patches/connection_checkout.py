"""ConnectionPool.get: no ping for a warm connection.

At every checkout, that is before every query, the host pings the server, which is a network round trip, and walks the
entries of all threads to find those that have ended.

We look at the connection's socket instead: if nothing waits to be read, the server has not hung up. Otherwise the
host's own code runs, which pings, and replaces a connection that does not answer. So a connection that died while it
was idle is found as before, and no query fails that would not have failed without us.

The host's code also runs if the thread has no connection yet, if it was on another database, and if the connection was
not used for ``idle_ping_seconds``: a peer that vanished without a word makes no socket readable. Because of such peers
we also have the kernel probe idle connections, every ``keepalive_seconds``.

Thread safety: a thread reads and writes only its own entry of the pool's dictionary, as in the host. The walk over all
threads is left to the host's ``clean``, which runs when a thread that has used the pool has ended, instead of at every
checkout, and always when a thread has no connection yet. So the pool never holds what the host's would not.

DIRAC 9.1.9 and later leave out the ping themselves, for 5 s after the last use, and look at nothing instead: a
connection that dies meanwhile fails the next statement, and a child of a fork shares its parent's. There our checkout
takes the place of the host's, and has the host's ping whenever the socket says anything. Only a connection that died
within a transaction is handed out as the host does, so that the next statement fails: on a new connection it would be
stored alone.

Fork: a child starts with empty pools, and what it closes is not its parent's; a statement of a transaction that began
before the fork fails there. See :mod:`._connections`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from threading import Barrier, Event, Thread, current_thread
from time import time
from typing import Any

from dirac_perfpatch.patches._connections import (
    ADOPTING,
    ASSIGNED,
    MODULE,
    PING,
    adopt_all,
    connect,
    has_ended_threads,
    is_in_tree,
    is_quiet,
    note_thread,
    tells_socket,
    wishes,
)
from dirac_perfpatch.patching import (
    Case,
    Database,
    Fitting,
    InTree,
    Meter,
    NotAsked,
    Patch,
    Target,
    Timed,
    without_stacks,
)

# Where mysqlclient does not expose the socket: seconds after its last use for which a connection is taken to be alive.
_BLIND_SECONDS = 5.0


def _make_get(fitting: Fitting) -> Callable[..., Any]:
    """What stands in for ConnectionPool.get; one function, because it runs before every query."""
    original, s_ok, guard = fitting.unbound("ConnectionPool.get"), fitting.resolve("S_OK"), fitting.guard
    idle_seconds, in_tree = fitting.options["idle_ping_seconds"], is_in_tree(fitting)

    def get(self: Any, dbName: Any, *args: Any, **kwargs: Any) -> Any:
        if guard.off:
            return original(self, dbName, *args, **kwargs)
        entry = None
        try:
            entry = getattr(self, ASSIGNED).get(current_thread())
            if entry is not None and entry[1] == dbName:
                connection, now = entry[0], time()
                rested = now - entry[2]
                # Negative if the clock was set back, which must not stretch the time.
                if 0 <= rested < idle_seconds:
                    try:
                        warm = is_quiet(connection)
                    except Exception:
                        # Closed; or this mysqlclient does not expose the socket, and there is only the time to go by.
                        warm = not tells_socket(connection) and rested < _BLIND_SECONDS
                    if not warm and in_tree:
                        warm = getattr(connection, "_perfpatch_transaction", False)  # lost with its connection
                    if warm:
                        if has_ended_threads(self):
                            self.clean()
                        entry[2] = now
                        return s_ok(connection)
            if entry is not None:
                entry[2] = 0.0  # 9.1.9 and later ping only what was not used for a while
        except Exception as error:
            guard.failed(error)
        answer = original(self, dbName, *args, **kwargs)
        try:
            note_thread(self)
            guard.note("pings")
            if entry is not None and answer["OK"] and answer["Value"] is not entry[0]:
                guard.note("dead connections found")
        except Exception as error:
            guard.failed(error)
        return answer

    return get


def _ping(answer: Any, original: Callable[..., Any], args: Any, kwargs: Any) -> str:
    """The check against stock: pings a connection that was taken to be alive."""
    if answer["OK"]:
        try:
            answer["Value"].ping()
        except Exception as error:
            return f"the connection does not answer a ping: {type(error).__name__}"
    return ""


def _look(fitting: Fitting) -> None:
    fitting.expect("ConnectionPool.get", "clean", "_ConnectionPool__getWithRetry")
    fitting.expect(f"ConnectionPool.{PING}", "ping")
    fitting.resolve("S_OK")
    if is_in_tree(fitting):
        wrong = "hands out dead connections, and a parent's connections to its children"
        raise InTree("the host itself does without the ping", wrong, _put_on)


def _put_on(fitting: Fitting) -> None:
    if not tells_socket(fitting.module.MySQLdb._mysql.connection):
        fitting.warn(
            "this mysqlclient does not expose a connection's socket (2.2 and later do): if a connection dies within "
            f"{_BLIND_SECONDS:.0f} s of its last use, one statement fails that would not fail without this patch"
        )
    wishes.set(fitting, keepalive_seconds=fitting.options["keepalive_seconds"] or None, leave_to_parent=True)
    adopt_all(fitting)
    fitting.stand_in("ConnectionPool.get", _make_get(fitting), _ping)


def ask_pool(database: Database | None) -> Any:
    """Use a real pool as the host does: check out, query, die while idle, check out again."""
    db = connect(database)
    answers = [db._query("SELECT 1"), db._query("SELECT 2")]
    db._getConnection()["Value"].close()
    return without_stacks([*answers, db._query("SELECT 3"), db._query("SELECT nonsense FROM nowhere")])


def _held(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    """A pool of which ``size`` threads hold a connection, the measuring one among them."""
    db = connect(database)
    pool, name = db._MySQL__connectionPool, db._MySQL__dbName
    ready, release = Barrier(size), Event()
    refused: list[Any] = []

    def hold() -> None:
        answer = pool.get(name)
        if not answer["OK"]:
            refused.append(answer["Message"])
        ready.wait(60)
        release.wait()

    threads = [Thread(target=hold, daemon=True) for _ in range(size - 1)]
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


PATCH = Patch(
    name="connection_checkout",
    targets=(Target((MODULE,), "ConnectionPool.get", _look, _put_on, changes=("ConnectionPool.get", *ADOPTING)),),
    ask=ask_pool,
    # Ten at most where ``dirac-perfpatch bench`` may run on a database in use.
    cases=(Case("ConnectionPool.get", _held, (1, 10), (1, 10, 50, 100, 200), "threads"),),
    # Each call meets the connection that the last one left, so calls of both arms would influence each other.
    calls_stand_alone=False,
    spares=("pings saved", "pings"),
)
