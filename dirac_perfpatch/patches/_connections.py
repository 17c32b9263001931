"""What the three patches of the MySQL pool know about its connections. Not a patch itself.

A pooled connection is *adopted* when the pool opens it, or, if it is older than the patch, when it answers the pool's
next ping: its class becomes a subclass of the driver's that looks at the socket before a statement is sent, and that
cleans instead of closing, each only while a patch wants that. Changing the class of the object reaches everybody who
holds it; a proxy would not, and costs time at each call.

Thread safety: a connection is used only by the thread that the pool has assigned it to, in the host as here. Threads
share the register of adopted connections, and each step on it is one operation on a dictionary. Adoption begins and
ends while a patch is put on or taken off, under the one lock of that.

Two tricks, and what they buy:

- ``_perfpatch_proven``: without it, each checkout after a statement that has no result would ask for the socket's inode
  (``fstat``) again, and take 3.9 us instead of 2.2.
- ``poll`` through ctypes right before a statement is sent: it keeps the interpreter's lock, so no other thread runs in
  between. With ``select.poll`` 31 of 413 killed connections failed a statement instead of 13 of 405 with a busy thread
  beside it, and 145 of 610 instead of 106 of 602 without one (``python3 -m chaos --only killed``).
"""

from __future__ import annotations

import ctypes
import functools
import os
import select
import socket
import struct
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import current_thread
from typing import Any

from dirac_perfpatch.patching import Database, Fitting, NotAsked

MODULE = "DIRAC.Core.Utilities.MySQL"
ASSIGNED = "_ConnectionPool__assigned"  # {thread: [connection, name of its database, time of last use]}
_SPARES = "_ConnectionPool__spares"
NEW = "_ConnectionPool__newConn"
PING = "_ConnectionPool__ping"
DISCARD = "discardCurrentThreadConn"  # from 9.1.9 on
# What adopt_all() changes.
ADOPTING = (f"ConnectionPool.{NEW}", f"ConnectionPool.{PING}")
_ENDED = "_perfpatch_ended"

# A readable socket, or one whose peer has closed at least its own half. Errors are reported without being asked for.
_SIGNS_OF_DEATH = select.POLLIN | select.POLLPRI | getattr(select, "POLLRDHUP", 0)
# CR_COMMANDS_OUT_OF_SYNC: somebody is in the middle of reading a result.
_OUT_OF_SYNC = 2014
# Probes of a peer that does not answer before the kernel gives it up: minutes, because a query may wait on that peer.
_KEEPALIVE_PROBES = 60


def tells_socket(connection: Any) -> bool:
    """Whether this mysqlclient exposes a connection's socket: ``Connection.fileno`` came with 2.2."""
    return hasattr(connection, "fileno")


@functools.lru_cache(maxsize=1)
def _libc() -> Any:
    # Not CDLL: a call through PyDLL keeps the interpreter's lock.
    return ctypes.PyDLL(None)


class _Socket:
    """The socket of an adopted connection.

    libmariadb still tells the number of a socket that it has closed after a network error, and the next file that is
    opened may get that number. So the inode is kept, too: each socket has its own.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._inode = os.fstat(number).st_ino
        poller = select.poll()  # unlike select(), not limited to file descriptors below 1024
        poller.register(number, _SIGNS_OF_DEATH)
        self.poll = poller.poll
        pollfd = ctypes.create_string_buffer(struct.pack("ihh", number, _SIGNS_OF_DEATH, 0))
        self.poll_with_lock = functools.partial(_libc().poll, pollfd, 1, 0)

    def is_open(self) -> bool:
        """Whether the number is still this socket's."""
        try:
            return os.fstat(self.number).st_ino == self._inode
        except OSError:
            return False


def is_quiet(connection: Any) -> bool:
    """Whether nothing waits to be read on an idle connection, which means that the server has not hung up.

    One ``poll()`` that does not wait. A server that closes a connection, for whatever reason, sends its end of file,
    perhaps after an error packet; neither can be missed. Not seen: a peer that vanished without a word, such as a
    firewall that forgot the connection. With TLS, a record without data, such as a session ticket, makes the socket
    readable, too; then the caller must ping.

    Args:
        connection: An adopted connection of which no result is outstanding.

    Raises:
        Exception: The connection is closed, or it is not adopted, or this mysqlclient does not expose its socket.
    """
    return not _socket_of(connection).poll(0)


def is_quiet_now(connection: Any) -> bool:
    """As :func:`is_quiet`, but no other thread can run between the look at the socket and the return."""
    return not _socket_of(connection).poll_with_lock()


def _socket_of(connection: Any) -> _Socket:
    """The socket of an adopted connection; raises if the connection has lost it.

    The number need only be checked if the socket may have been closed since. Only a call of the library's closes it,
    which then forgets the fields of the last result, too (``end_server`` and ``free_old_query``, in libmariadb as in
    libmysqlclient).
    """
    known: _Socket = connection._perfpatch_socket
    # On a connection that its user has closed, field_count() raises.
    if not (connection.field_count() or connection._perfpatch_proven):
        if not known.is_open():
            raise ConnectionError("closed")
        connection._perfpatch_proven = True
    return known


def is_alive(connection: Any) -> bool:
    """Whether the server answers on this connection; costs a round trip only if the socket does not say enough."""
    with suppress(Exception):  # closed on our side, or not adopted
        if is_quiet(connection):
            return True
    try:
        connection.ping()
    except Exception as error:
        return error.args[:1] == (_OUT_OF_SYNC,)
    return True


def is_in_tree(fitting: Fitting) -> bool:
    """Whether the host's pool does without pings and drops lost connections itself, as from 9.1.9 on."""
    return not vars(fitting.resolve("ConnectionPool")).keys().isdisjoint(("PING_IDLE_THRESHOLD", DISCARD))


def forget(pool: Any) -> Any:
    """Drop this thread's connection from the pool, so that the next checkout makes a new one.

    Returns:
        The connection, which a caller may still hold; None if there was none.
    """
    entry = getattr(pool, ASSIGNED).pop(current_thread(), None)
    return None if entry is None else entry[0]


def discard(pool: Any) -> None:
    """Close this thread's connection and drop it from the pool."""
    connection = forget(pool)
    if connection is not None:
        with suppress(Exception):  # it may be closed already
            really_close(connection)


def bare(connection: Any) -> Any:
    """The driver's connection in what stands for it, such as OpenTelemetry's proxies. They pass attributes on to it."""
    while not hasattr(type(connection), "query") and hasattr(connection, "__wrapped__"):
        connection = connection.__wrapped__
    return connection


def really_close(connection: Any) -> None:
    """Close an adopted connection as the driver does."""
    connection = bare(connection)
    _own_class(connection).close(connection)


class _Wishes:
    """What the patches that are on want of adopted connections. The defaults stand for patches that are off."""

    before_first: Callable[[Any, Any], None] | None = None  # called before a checked out connection's first statement
    instead_of_close: Callable[[Any, Any], bool] | None = None  # returns False if the connection is to be closed
    keepalive_seconds: float | None = None
    leave_to_parent = False  # after a fork

    def set(self, fitting: Fitting, **values: Any) -> None:
        """Set attributes until the fitting is undone."""
        for name, value in values.items():
            setattr(self, name, value)
            fitting.undoing.append(functools.partial(setattr, self, name, getattr(type(self), name)))


wishes = _Wishes()


class _ThisThread(threading.local):
    """What is known of the calling thread."""

    expects_first = False  # its next statement is the first since it took its connection from the pool
    unsent = False  # its last statement failed because it was not sent

    def __init__(self) -> None:
        self.ends: dict[int, _End] = {}  # by pool


this_thread = _ThisThread()


def _close(self: Any) -> None:
    pool = self._perfpatch_pool()
    if wishes.instead_of_close is None or pool is None or not wishes.instead_of_close(self, pool):
        really_close(self)


# Statements that begin so change nothing about a transaction; the last three: SAVEPOINT, RELEASE SAVEPOINT, REPLACE.
_NO_TRANSACTION = frozenset([b"SELECT", b"INSERT", b"UPDATE", b"DELETE", b"SAVEPO", b"RELEAS", b"REPLAC"])
_BEGINS = (b"START TRANS", b"BEGIN")
# These may begin one, too: in a comment or a procedure, or as XA START, COMMIT AND CHAIN, ROLLBACK TO.
_MAY_BEGIN = (b"/*", b"--", b"#", b"CALL", b"EXEC", b"XA", b"COMMIT", b"ROLLBACK")


def _start(statement: Any) -> bytes:
    """The beginning of a statement, in capitals."""
    # Not always text or bytes: executemany() sends a bytearray.
    start = statement[:40]
    return (start.encode("latin1", "replace") if isinstance(start, str) else bytes(start)).strip(b"; \t\r\n").upper()


def _note_transaction(connection: Any, statement: Any) -> None:
    """Note whether a transaction is open, by the statements: mysqlclient does not tell the server's flag.

    None if unknown: any other word may end a transaction, as CREATE TABLE does.
    """
    try:
        word = _start(statement)
    except Exception:  # no statement: the driver raises what it always raises
        connection._perfpatch_transaction = None
        return
    if word[:6] in _NO_TRANSACTION:
        return
    if word.startswith(_BEGINS):
        connection._perfpatch_transaction = True
    elif word in (b"COMMIT", b"ROLLBACK"):
        connection._perfpatch_transaction = False
    elif connection._perfpatch_transaction or word.startswith(_MAY_BEGIN):
        connection._perfpatch_transaction = None


def in_transaction(connection: Any) -> bool:
    """Whether a transaction may be open on this connection."""
    return connection._perfpatch_transaction is not False or not connection.get_autocommit()


# The driver's methods that talk to the server, besides ``query``, and so may lose the socket. Results are only read
# after one of these.
_ENDING = ("change_user", "commit", "rollback")  # a transaction
_STEPS = ("send_query", "read_query_result", "next_result", "discard_result")  # of a query
_SETTING = ("autocommit", "select_db", "set_character_set", "set_server_option")
_ASKING = ("dump_debug_info", "kill", "ping", "shutdown", "stat")


def _make_pooled_class(kind: Any) -> type:
    """The class of adopted connections, made from the driver's."""
    calls = [name for name in (*_ENDING, *_STEPS, *_SETTING, *_ASKING) if hasattr(kind, name)]
    methods = {name: _calling(getattr(kind, name), name in _ENDING) for name in calls}
    driver_query = kind.query

    def query(self: Any, statement: Any) -> Any:
        if this_thread.expects_first:
            this_thread.expects_first = False
            if wishes.before_first is not None:
                wishes.before_first(self, statement)
        _note_transaction(self, statement)
        self._perfpatch_proven = False
        return driver_query(self, statement)

    ours = {"query": query, "close": _close, "_perfpatch_driver": kind}
    return type(kind.__name__, (kind,), {**methods, **ours})


def _calling(driver_method: Callable[..., Any], ends_transaction: bool) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._perfpatch_proven = False
        answer = driver_method(self, *args, **kwargs)
        if ends_transaction:
            self._perfpatch_transaction = False
        return answer

    return method


class LeftToParent(Exception):
    """A statement of a transaction that stayed with the parent at a fork. What is raised is also a driver's error."""


def _make_left_class(kind: Any) -> type:
    """The class of a child's connection whose transaction stayed with the parent at the fork.

    Each of the child's statements fails until one has tried to end the transaction. A fresh connection would answer
    COMMIT with OK, and nothing would be committed.
    """
    lost: Any = type("LeftToParentError", (LeftToParent, kind.OperationalError), {})

    def end(self: Any) -> None:
        self._perfpatch_transaction = False
        pool = self._perfpatch_pool()
        if pool is not None:
            forget(pool)

    def refuse(self: Any) -> None:
        text = "this process was forked in the middle of a transaction, which stays with its parent: begin it again"
        raise lost(2013, text)  # CR_SERVER_LOST, after which a caller has to do the same

    def query(self: Any, statement: Any) -> None:
        word = _start(statement)
        if word in (b"COMMIT", b"ROLLBACK") or word.startswith(_BEGINS):
            end(self)
        if word != b"ROLLBACK":  # which has what it wants: nothing of the transaction is left here
            refuse(self)

    def commit(self: Any) -> None:
        if self._perfpatch_transaction:  # the host commits after a ROLLBACK, too
            end(self)
            refuse(self)

    def close(self: Any) -> None:
        end(self)
        kind.close(self)

    def nothing(self: Any, *args: Any, **kwargs: Any) -> None:
        """A checkout pings and selects its database; neither belongs to the transaction."""

    methods = {"query": query, "commit": commit, "rollback": end, "close": close, "ping": nothing, "select_db": nothing}
    return type(kind.__name__, (kind,), {**methods, "_perfpatch_driver": kind})


_pooled_class = functools.cache(_make_pooled_class)
_left_class = functools.cache(_make_left_class)
_adopted: dict[int, weakref.ref[Any]] = {}


def _own_class(connection: Any) -> Any:
    """The driver's class of a connection, adopted or not."""
    return getattr(type(connection), "_perfpatch_driver", type(connection))


def _adopt(connection: Any, pool: Any, transaction: bool | None) -> None:
    connection = bare(connection)
    connection._perfpatch_pool = weakref.ref(pool)
    connection._perfpatch_transaction = transaction
    connection._perfpatch_proven = False
    connection._perfpatch_socket = None
    with suppress(Exception):  # closed already, or this mysqlclient does not tell the socket
        connection._perfpatch_socket = _Socket(connection.fileno())
    connection.__class__ = _pooled_class(_own_class(connection))
    number = id(connection)
    _adopted[number] = weakref.ref(connection, lambda _: _adopted.pop(number, None))
    if wishes.keepalive_seconds:
        _keep_alive(connection, wishes.keepalive_seconds)


def _release(connection: Any) -> None:
    _adopted.pop(id(connection), None)
    connection.__class__ = _own_class(connection)
    connection._perfpatch_socket = None  # from now on nothing notes that the connection may have lost it


def _keep_alive(connection: Any, seconds: float) -> None:
    """Have the kernel probe the peer while the connection is idle.

    So a firewall has no reason to forget the connection, and a peer that has forgotten it answers a probe with a reset,
    which the next look at the socket sees. A connection that waits for an answer is not given up because of the probes.
    """
    if connection._perfpatch_socket is None:
        return
    whole = max(1, round(seconds))
    for level, option, value in (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, whole),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, whole),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES),
    ):
        # Not with a socket object: where the process has a default timeout, that would make the socket non-blocking.
        # Refused for a unix socket, which needs none of it.
        _libc().setsockopt(connection._perfpatch_socket.number, level, option, struct.pack("i", value), 4)


class _End:
    """Is dropped when its thread ends, and then notes that the pool has an entry of a thread that has ended."""

    def __init__(self, ended: deque[threading.Thread]) -> None:
        self._thread = current_thread()
        self._ended = ended

    def __del__(self) -> None:
        self._ended.append(self._thread)


def note_thread(pool: Any) -> None:
    """Have :func:`has_ended_threads` know when this thread, which uses the pool, has ended."""
    # The end of a dummy thread is not noted: it says that it is alive for ever, so the host never finds it ended.
    if id(pool) not in this_thread.ends and not isinstance(current_thread(), threading._DummyThread):
        this_thread.ends[id(pool)] = _End(vars(pool).setdefault(_ENDED, deque()))


def has_ended_threads(pool: Any) -> bool:
    """Whether a thread that has used the pool has ended since the pool's ``clean()`` could have found that."""
    ended = vars(pool).get(_ENDED)
    if not ended:
        return False
    # Its end is noted a moment before is_alive() says so; until then it is reported again.
    for thread in list(ended):
        if not thread.is_alive():
            with suppress(ValueError):  # another thread has been faster
                ended.remove(thread)
    return True


# By the class of the pools: how many patches want its connections adopted, and the fitting that does it.
_wanted: dict[type, tuple[int, Fitting]] = {}


def adopt_all(fitting: Fitting) -> None:
    """Adopt every connection of every pool, those there are and those to come, until the fitting is undone.

    When the last patch that wants it has undone it, the connections are the driver's again.
    """
    guard, pools = fitting.guard, fitting.resolve("ConnectionPool")

    def new_connection(wrapped: Any, pool: Any, args: Any, kwargs: Any) -> Any:
        connection = wrapped(*args, **kwargs)
        try:
            _adopt(connection, pool, transaction=False)
        except Exception as error:  # the caller gets the connection all the same
            guard.failed(error)
        return connection

    def ping(wrapped: Any, pool: Any, args: Any, kwargs: Any) -> Any:
        answer = wrapped(*args, **kwargs)
        # Connections that are older than the patch are adopted by their own thread, once they have answered: before
        # that, the number that they tell need not be their socket's. Whether they have begun a transaction is unknown.
        try:
            if answer and not _is_adopted(args[0]):
                _adopt(args[0], pool, transaction=None)
        except Exception as error:
            guard.failed(error)
        return answer

    # On a fitting of its own: the patch that began may end before the others.
    users, ours = _wanted.get(pools, (0, Fitting(fitting.module, {}, guard)))
    _wanted[pools] = (users + 1, ours)
    fitting.undoing.append(functools.partial(_adopt_no_more, pools))
    if users == 0:
        ours.wrap(f"ConnectionPool.{NEW}", new_connection)
        ours.wrap(f"ConnectionPool.{PING}", ping)


def _adopt_no_more(pools: type) -> None:
    users, ours = _wanted.pop(pools)
    if users > 1:
        _wanted[pools] = (users - 1, ours)
        return
    ours.undo()
    for reference in list(_adopted.values()):
        connection = reference()
        if connection is not None and type(connection._perfpatch_pool()) in (pools, type(None)):
            _release(connection)


def _is_adopted(connection: Any) -> bool:
    return hasattr(type(bare(connection)), "_perfpatch_driver")


def _leave_to_parent() -> None:
    """In a child of a fork: neither use nor close the parent's connections.

    If both use a connection, their answers get mixed up. If the child closes one, also by the collector at its end, the
    server hangs up on the parent; so the child's descriptors are made to lead elsewhere. If this thread was in a
    transaction, that is the parent's now, and its next statements fail here. If that is unknown, all stays as in stock.
    """
    if not wishes.leave_to_parent:
        return
    with suppress(Exception):
        # All are held until all descriptors lead elsewhere: emptying a pool closes what nobody else holds.
        connections = [connection for reference in list(_adopted.values()) if (connection := reference()) is not None]
        inherited = [connection for connection in connections if _is_known(connection)]
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for connection in inherited:
            if connection._perfpatch_socket is not None and connection._perfpatch_socket.is_open():
                os.dup2(nowhere, connection._perfpatch_socket.number, inheritable=False)
        os.close(nowhere)
        for connection in inherited:
            if in_transaction(connection):
                connection._perfpatch_transaction = True  # also where it is open because autocommit is off
                connection.__class__ = _left_class(_own_class(connection))
            pool = connection._perfpatch_pool()
            if pool is not None:
                _empty(pool)


def _is_known(connection: Any) -> bool:
    """Whether a connection is adopted, and is known to have a transaction open or not."""
    return _is_adopted(connection) and connection._perfpatch_transaction is not None


def _empty(pool: Any) -> None:
    """Drop the connections of a pool, except one on which this thread was in a transaction at the fork."""
    assigned: Any = getattr(pool, ASSIGNED)
    for thread, (connection, *_) in list(assigned.items()):
        if _is_known(connection) and not (thread is current_thread() and in_transaction(connection)):
            del assigned[thread]
    spares = getattr(pool, _SPARES)
    for spare in list(spares):
        if _is_known(spare[0]):
            spares.remove(spare)


os.register_at_fork(after_in_child=_leave_to_parent)


def connect(database: Database | None) -> Any:
    """The host's object for a database, for ``ask`` and the benchmarks.

    Raises:
        NotAsked: No database is given, or it cannot be reached.
    """
    if database is None:
        raise NotAsked("needs a database, such as --db Accounting/AccountingDB")
    from DIRAC.Core.Utilities.MySQL import MySQL, MySQLdb

    account = (database.host, database.user, database.password, database.name)
    try:
        # The host would try for minutes.
        MySQLdb.connect(*account, port=database.port, connect_timeout=10).close()
    except MySQLdb.MySQLError as error:
        raise NotAsked(f"no connection to {database.host}:{database.port}: {error}") from None
    return MySQL(*account, port=database.port)


@contextmanager
def no_connecting() -> Iterator[None]:
    """Let database objects be made without connecting: some modules of the host make one when they are imported.

    Only for the command line, which imports the modules of all targets to look at them: if the database is down, the
    host would try for 275 s.
    """
    from DIRAC import S_OK
    from DIRAC.Core.Utilities.MySQL import MySQL

    def connect(self: Any) -> Any:
        self._connected = True
        return S_OK()

    original = vars(MySQL)["_connect"]
    MySQL._connect = connect
    try:
        yield
    finally:
        MySQL._connect = original
