"""What the three patches of the MySQL pool know about its connections. Not a patch itself.

A pooled connection is *adopted* when the pool opens it, or, if it was there before the patch, when the pool has pinged
it next: its class becomes a subclass of the driver's that looks at the socket before a statement is sent, and that
cleans instead of closing, each only while the patch that wants it is on.
Changing the class of the one object reaches whoever holds it, under any name; a proxy would not, and costs each call.

Thread safety: a connection is used by the thread that the pool has assigned it to, and by no other, in the host as
here. What is shared is the register of adopted connections; each step on it is one operation on a dictionary. Adopting
begins and ends while a patch is put on or taken off, under the one lock of that.
"""

from __future__ import annotations

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

from dirac_perfpatch.patching import Database, Fitting, Guard, NotAsked

MODULE = "DIRAC.Core.Utilities.MySQL"
ASSIGNED = "_ConnectionPool__assigned"  # {thread: [connection, name of its database, time of last use]}
_SPARES = "_ConnectionPool__spares"
NEW = "_ConnectionPool__newConn"
_PING = "_ConnectionPool__ping"
_ENDED = "_perfpatch_ended"

# A readable socket, or one whose peer has closed at least its own half. Errors are reported without being asked for.
_SIGNS_OF_DEATH = select.POLLIN | select.POLLPRI | getattr(select, "POLLRDHUP", 0)
# CR_COMMANDS_OUT_OF_SYNC: somebody is in the middle of reading a result.
_OUT_OF_SYNC = 2014
# Probes of a peer that does not answer before the kernel gives it up: minutes, because a query may wait on that peer.
_KEEPALIVE_PROBES = 60


def tells_socket(connection: Any) -> bool:
    """Whether this mysqlclient tells a connection's socket: ``Connection.fileno`` came with 2.2."""
    return hasattr(connection, "fileno")


@functools.lru_cache(maxsize=1)
def _libc() -> Any:
    import ctypes  # only in processes that have a connection

    # Not CDLL: a call through PyDLL keeps the interpreter's lock.
    return ctypes.PyDLL(None)


def _pollfd(number: int) -> Any:
    """A ``struct pollfd``: int fd, short events, short revents."""
    import ctypes

    return ctypes.create_string_buffer(struct.pack("ihh", number, _SIGNS_OF_DEATH, 0))


class _Socket:
    """The socket of an adopted connection: its number, what tells it from another one of that number, and a poller.

    libmariadb goes on telling the number of a socket that it has closed after an error of the network, and the next
    connection may get that number. A socket's inode is its own.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.inode = os.fstat(number).st_ino
        self._poller = select.poll()  # unlike select(), not limited to file descriptors below 1024
        self._poller.register(number, _SIGNS_OF_DEATH)
        self.poll = self._poller.poll
        self._poll_with_lock = functools.partial(_libc().poll, _pollfd(number), 1, 0)

    def has_signs_of_death(self) -> bool:
        """The same look as ``poll``, for the moment before a statement is sent.

        ``poll`` lets other threads run, which may take milliseconds in which the server hangs up unseen. This call does
        not: it keeps the interpreter's lock, for the microsecond that a poll without waiting takes.
        """
        return self._poll_with_lock() != 0

    def is_open(self) -> bool:
        """Whether the number still is this socket's."""
        try:
            return os.fstat(self.number).st_ino == self.inode
        except OSError:
            return False


def is_quiet(connection: Any) -> bool:
    """Whether nothing waits to be read on an idle connection, which means that the server has not hung up.

    One ``poll()`` that does not wait, 0.6 us. A server that closes a connection, for whatever reason, sends its end
    of file; one that says why before it does sends that. Neither can be missed. What cannot be seen is a peer that
    vanished without a word, such as a firewall that forgot the connection. With TLS a record that carries no data, such
    as a session ticket, makes the socket readable, too; a ping tells then.

    Args:
        connection: An adopted connection of which no result is outstanding.

    Raises:
        Exception: The connection is closed, or it is not adopted, or this mysqlclient does not tell its socket.
    """
    return not _socket_of(connection).poll(0)


def is_quiet_now(connection: Any) -> bool:
    """As :func:`is_quiet`, and no other thread has run between the look and the return; takes 1.3 us.

    Raises:
        Exception: As :func:`is_quiet` does.
    """
    return not _socket_of(connection).has_signs_of_death()


def _socket_of(connection: Any) -> _Socket:
    """The socket of an adopted connection; raises if the connection has lost it.

    To see that the number still is the socket's takes a system call, so that is asked only if the socket may have been
    closed. Nothing closes it but a call of the library's, and the library then forgets the fields of the last result,
    too (``end_server`` and ``free_old_query``, in libmariadb as in libmysqlclient).
    """
    known: _Socket = connection._perfpatch_socket
    # Of a connection that its user has closed, field_count() raises.
    if not (connection.field_count() or connection._perfpatch_proven):
        if not known.is_open():
            raise ConnectionError("closed")
        connection._perfpatch_proven = True
    return known


def is_alive(connection: Any) -> bool:
    """Whether the server answers on this connection: asked with a round trip only if its socket does not say enough."""
    with suppress(Exception):  # closed on our side, or not adopted
        if is_quiet(connection):
            return True
    try:
        connection.ping()
    except Exception as error:
        return error.args[:1] == (_OUT_OF_SYNC,)
    return True


def forget(pool: Any) -> Any:
    """Drop this thread's connection from the pool, so that the next checkout makes a new one.

    Returns:
        The connection, which somebody may still hold; None if there was none.
    """
    entry = getattr(pool, ASSIGNED).pop(current_thread(), None)
    return None if entry is None else entry[0]


def discard(pool: Any) -> None:
    """Close this thread's connection and drop it from the pool."""
    connection = forget(pool)
    if connection is not None:
        # It may be closed already; all that matters is that nobody gets it again.
        with suppress(Exception):
            really_close(connection)


def really_close(connection: Any) -> None:
    """Close an adopted connection as the driver does."""
    _own_class(connection).close(connection)


class _Wishes:
    """What the patches that are on want of adopted connections: one attribute each, None while the patch is off."""

    before_first: Callable[[Any, Any], None] | None = None  # called before a checked out connection's first statement
    instead_of_close: Callable[[Any, Any], bool] | None = None  # returns False if the connection shall really be closed
    keepalive_seconds: float | None = None
    leave_to_parent = False  # after a fork

    def set(self, fitting: Fitting, **values: Any) -> None:
        """Set attributes until it is undone."""
        for name, value in values.items():
            setattr(self, name, value)
            fitting.undoing.append(functools.partial(setattr, self, name, getattr(type(self), name)))


wishes = _Wishes()


class _First(threading.local):
    """Whether this thread's next statement is the first since it took its connection from the pool."""

    expected = False


first = _First()


def _close(self: Any) -> None:
    pool = self._perfpatch_pool()
    if wishes.instead_of_close is None or pool is None or not wishes.instead_of_close(self, pool):
        really_close(self)


# Statements that begin so leave a transaction as it is; the last three are SAVEPOINT, RELEASE SAVEPOINT and REPLACE.
_NO_TRANSACTION = frozenset([b"SELECT", b"INSERT", b"UPDATE", b"DELETE", b"SAVEPO", b"RELEAS", b"REPLAC"])
_BEGINS = (b"START TRANS", b"BEGIN")
# What may begin one all the same: what is in a comment or a procedure, XA START, COMMIT AND CHAIN, ROLLBACK TO.
_MAY_BEGIN = (b"/*", b"--", b"#", b"CALL", b"EXEC", b"XA", b"COMMIT", b"ROLLBACK")


def _start(statement: Any) -> bytes:
    """The beginning of a statement, in capitals."""
    # Not always text or bytes: executemany() sends a bytearray.
    start = statement[:40]
    return (start.encode("latin1", "replace") if isinstance(start, str) else bytes(start)).strip(b"; \t\r\n").upper()


def _note_transaction(connection: Any, statement: Any) -> None:
    """Keep whether a transaction is open, as far as the statements say; mysqlclient does not tell the server's flag.

    None if they do not say: what is none of the words that are known may end one, as CREATE TABLE does.
    """
    try:
        word = _start(statement)
    except Exception:  # whatever it is, the driver knows what to say
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
    """Whether a statement on this connection may belong to a transaction that has begun before it."""
    return connection._perfpatch_transaction is not False or not connection.get_autocommit()


_ENDING = ("change_user", "commit", "rollback")
# What talks to the server, besides ``query``; results are only read after one of these.
_CALLS = (
    "autocommit",
    "change_user",
    "commit",
    "discard_result",
    "dump_debug_info",
    "kill",
    "next_result",
    "ping",
    "read_query_result",
    "rollback",
    "select_db",
    "send_query",
    "set_character_set",
    "set_server_option",
    "shutdown",
    "stat",
)


def _make_pooled_class(kind: type) -> type:
    """The class of adopted connections, made from the driver's."""
    methods = {name: _calling(getattr(kind, name), name in _ENDING) for name in _CALLS if hasattr(kind, name)}
    driver_query: Callable[[Any, Any], Any] = kind.query  # type: ignore[attr-defined]

    def query(self: Any, statement: Any) -> Any:
        if first.expected:
            first.expected = False
            if wishes.before_first is not None:
                wishes.before_first(self, statement)
        _note_transaction(self, statement)
        self._perfpatch_proven = False
        return driver_query(self, statement)

    ours = {"query": query, "close": _close, "_perfpatch_driver": kind}
    return type(kind.__name__, (kind,), {**methods, **ours})


def _calling(driver_method: Callable[..., Any], ends_transaction: bool) -> Callable[..., Any]:
    """A method of the driver's that talks to the server, and so may lose the socket."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._perfpatch_proven = False
        answer = driver_method(self, *args, **kwargs)
        if ends_transaction:
            self._perfpatch_transaction = False
        return answer

    return method


class LeftToParent(Exception):
    """A statement of a transaction that a child of a fork has left to its parent. Also a driver's error."""


def _make_left_class(kind: Any) -> type:
    """The class of a connection that a child of a fork has left to its parent in the middle of a transaction.

    The transaction is not the child's, so each of its statements fails, until one has tried to end it. A fresh
    connection would answer COMMIT with OK, and nothing would be committed.
    """
    lost: Any = type("LeftToParentError", (LeftToParent, kind.OperationalError), {})

    def end(self: Any) -> None:
        self._perfpatch_transaction = False
        pool = self._perfpatch_pool()
        if pool is not None:
            forget(pool)

    def refuse(self: Any) -> None:
        text = "this process was forked in the middle of a transaction, which stays with its parent: begin it again"
        raise lost(2013, text)  # CR_SERVER_LOST: what to do is the same

    def query(self: Any, statement: Any) -> None:
        word = _start(statement)
        if word in (b"COMMIT", b"ROLLBACK") or word.startswith(_BEGINS):
            end(self)
        if word != b"ROLLBACK":  # nothing of it is left, as the caller wants
            refuse(self)

    def commit(self: Any) -> None:
        if self._perfpatch_transaction:  # the host commits after a ROLLBACK, too
            end(self)
            refuse(self)

    def close(self: Any) -> None:
        end(self)
        kind.close(self)

    def nothing(self: Any, *args: Any, **kwargs: Any) -> None:
        """What a checkout does says nothing of a transaction."""

    methods = {"query": query, "commit": commit, "rollback": end, "close": close, "ping": nothing, "select_db": nothing}
    return type(kind.__name__, (kind,), {**methods, "_perfpatch_driver": kind})


_pooled_class = functools.cache(_make_pooled_class)
_left_class = functools.cache(_make_left_class)
_adopted: dict[int, weakref.ref[Any]] = {}


def _own_class(connection: Any) -> Any:
    """The driver's class of a connection, adopted or not."""
    return getattr(type(connection), "_perfpatch_driver", type(connection))


def _adopt(connection: Any, pool: Any, transaction: bool | None) -> None:
    connection._perfpatch_pool = weakref.ref(pool)
    connection._perfpatch_transaction = transaction
    connection._perfpatch_proven = False
    connection._perfpatch_socket = None
    with suppress(Exception):  # closed already, or a mysqlclient that does not tell the socket
        connection._perfpatch_socket = _Socket(connection.fileno())
    connection.__class__ = _pooled_class(_own_class(connection))
    number = id(connection)
    _adopted[number] = weakref.ref(connection, lambda _: _adopted.pop(number, None))
    if wishes.keepalive_seconds:
        _keep_alive(connection, wishes.keepalive_seconds)


def _release(connection: Any) -> None:
    _adopted.pop(id(connection), None)
    connection.__class__ = _own_class(connection)
    connection._perfpatch_socket = None  # nobody sees any more when the connection loses it


def _keep_alive(connection: Any, seconds: float) -> None:
    """Have the kernel probe the peer while the connection is idle.

    A firewall then has no reason to forget the connection, and a peer that has forgotten it says so to a probe, which
    the next look at the socket sees. A connection that waits for an answer is not given up for that.
    """
    whole = max(1, round(seconds))
    options = {
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): whole,
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): whole,
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): _KEEPALIVE_PROBES,
    }
    if connection._perfpatch_socket is not None:
        # Not with a socket object: where the process has a default timeout, that would make the socket non-blocking.
        for (level, option), value in options.items():
            # Refused for a unix socket, which needs none of it.
            _libc().setsockopt(connection._perfpatch_socket.number, level, option, struct.pack("i", value), 4)


class _ThreadEnds(threading.local):
    """Per thread: by pool, an object that goes when the thread ends."""

    def __init__(self) -> None:
        self.marks: dict[int, _Mark] = {}


class _Mark:
    """Notes at its end, which is that of its thread, that a pool has an entry of a thread that has ended."""

    def __init__(self, ended: deque[threading.Thread]) -> None:
        self._thread = current_thread()
        self._ended = ended

    def __del__(self) -> None:
        self._ended.append(self._thread)


_thread_ends = _ThreadEnds()


def note_thread(pool: Any) -> None:
    """Have :func:`has_ended_threads` know when this thread, which uses the pool, has ended."""
    # The host never finds out that such a thread has ended, either: it says of itself that it is alive.
    if id(pool) not in _thread_ends.marks and not isinstance(current_thread(), threading._DummyThread):
        _thread_ends.marks[id(pool)] = _Mark(vars(pool).setdefault(_ENDED, deque()))


def has_ended_threads(pool: Any) -> bool:
    """Whether a thread that has used the pool has ended since the pool's ``clean()`` could have found that."""
    ended = vars(pool).get(_ENDED)
    if not ended:
        return False
    # A thread is told of a moment before it says so itself; it is told of again until then.
    for thread in list(ended):
        if not thread.is_alive():
            with suppress(ValueError):  # another thread has been faster
                ended.remove(thread)
    return True


class _Adoption:
    """Adopts every connection of every pool, for as long as a patch wants that."""

    def __init__(self) -> None:
        # By the class of the pools: how many want it, and the fitting that it is put on with.
        self._users: dict[type, tuple[int, Fitting]] = {}

    def begin(self, fitting: Fitting) -> None:
        """Adopt the connections that there are and those to come, until it is undone.

        When the last user has undone it, the connections are the driver's again.
        """
        pools = fitting.resolve("ConnectionPool")
        # On a fitting of its own: the patch that began may end before the others.
        users, ours = self._users.get(pools, (0, Fitting(fitting.module, {}, fitting.guard)))
        self._users[pools] = (users + 1, ours)
        fitting.undoing.append(functools.partial(self._end, pools))
        if users == 0:
            ours.wrap(f"ConnectionPool.{NEW}", _adopting(fitting.guard))
            ours.wrap(f"ConnectionPool.{_PING}", _adopting_late(fitting.guard))

    def _end(self, pools: type) -> None:
        users, ours = self._users.pop(pools)
        if users > 1:
            self._users[pools] = (users - 1, ours)
            return
        ours.undo()
        for reference in list(_adopted.values()):
            connection = reference()
            if connection is not None and type(connection._perfpatch_pool()) in (pools, type(None)):
                _release(connection)


adoption = _Adoption()


def _adopting(guard: Guard) -> Callable[..., Any]:
    def new_connection(wrapped: Any, pool: Any, args: Any, kwargs: Any) -> Any:
        connection = wrapped(*args, **kwargs)
        try:
            _adopt(connection, pool, transaction=False)
        except Exception as error:  # it is a connection all the same
            guard.failed(error)
        return connection

    return new_connection


def _adopting_late(guard: Guard) -> Callable[..., Any]:
    """Connections that were there before are adopted by their own thread when they have answered, and not at once.

    Only then do they have the socket of the number that they tell: see :class:`_Socket`. What was done on them before,
    such as begin a transaction, nobody has seen.
    """

    def ping(wrapped: Any, pool: Any, args: Any, kwargs: Any) -> Any:
        answer = wrapped(*args, **kwargs)
        try:
            if answer and not _is_adopted(args[0]):
                _adopt(args[0], pool, transaction=None)
        except Exception as error:
            guard.failed(error)
        return answer

    return ping


def _is_adopted(connection: Any) -> bool:
    return hasattr(type(connection), "_perfpatch_driver")


def _leave_to_parent() -> None:
    """In a child of a fork: the parent's connections are not ours to use, and not ours to close.

    A connection that is used by both mixes their answers up, and closing it, also by the collector at the child's end,
    tells the server to hang up on the parent. So what the child closes must not be the parent's socket. Of a
    transaction that the thread was in, which is the parent's from now on, the next statements fail. Where we cannot say
    if there is one, all stays as in stock.
    """
    if not wishes.leave_to_parent:
        return
    with suppress(Exception):
        # All are held until all sockets are replaced: emptying a pool closes what nobody else holds.
        connections = [connection for reference in list(_adopted.values()) if (connection := reference()) is not None]
        inherited = [connection for connection in connections if _is_known(connection)]
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for connection in inherited:
            if connection._perfpatch_socket is not None and connection._perfpatch_socket.is_open():
                os.dup2(nowhere, connection._perfpatch_socket.number, inheritable=False)
        os.close(nowhere)
        for connection in inherited:
            if in_transaction(connection):
                connection._perfpatch_transaction = True  # also if it is one for want of autocommit
                connection.__class__ = _left_class(_own_class(connection))
            pool = connection._perfpatch_pool()
            if pool is not None:
                _empty(pool)


def _is_known(connection: Any) -> bool:
    """Whether we can say if a transaction is open on a connection."""
    return _is_adopted(connection) and connection._perfpatch_transaction is not None


def _empty(pool: Any) -> None:
    """Drop the connections of a pool, but not one whose transaction this thread was in when the process was forked."""
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
    """The host's object for a database, to be asked and measured; raises NotAsked if there is none to be reached."""
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
    """Let database objects be made without connecting: some modules of the host's make one when they are imported.

    For the command line only, which imports the modules of all targets to look at them: on a machine whose database is
    down the host would try for 275 s.
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
