"""TornadoBaseClient: a new HTTPS client does not load the system's CAs again.

Each client makes a TLS context with ``ssl.create_default_context()``, 45 ms: OpenSSL parses every CA of the system (144
here). Most clients make one request. In it urllib3 adds the grid's folder of CAs, the client's certificate and its key
to that context, and opens a socket with it.

We give the session a context that only records what it is to trust and to present, and keeps all other settings like
any context. When a socket is opened, OpenSSL's object for it is made by a complete context. That one is kept and shared
by all sessions that want exactly the same: settings, CAs, certificate and key. It is never changed after it was made:
the certificate and the key are loaded in two steps, so in a context that several sessions change, one could present
another one's. What cannot be kept is made for the session alone, which takes as long as in stock.

The same answer, so that a wrong identity or a stale CA is impossible rather than unlikely:

- The key has every setting of the session's context, and the states of the certificate, the key, the system's file and
  folder of CAs, and the grid's folder (see :mod:`dirac_perfpatch.patches._files`), and the user and groups of the
  process. The kernel is asked at each connection whether the certificate and the key may be read.
- Certificate and key are read from the files whose states are in the key, by descriptor, whatever the paths lead to
  meanwhile. A CA is read from its folder during a handshake, and stays in the context. If the folder has changed since
  it was looked at, so has its state, and nobody gets this context again.
- The settings that DIRAC and urllib3 use are in the key, named one by one. Whatever else is called or set on the
  session's context, including what later versions of Python add, is done to it and to a context that is made for it
  alone. CAs that are given as data, keys with a password, revocation lists and files on network file systems also get
  such a context.
- Sessions of TLS are not resumed: OpenSSL's clients do that only if they are told to.
- If ``ssl.create_default_context`` or ``ssl.SSLContext`` has been replaced (truststore does that), or SSLKEYLOGFILE is
  set, stock answers.

A client that lives on and connects again gets what a new client would get: it trusts the CAs that are there at that
moment. In stock it goes on trusting those that were there when it was made, and in the grid's folder those that it has
used. An error in a certificate or key is raised when the socket is opened, a moment after the call in which stock
raises it, and urllib3 handles both in the same way.

Not seen: SSL_CERT_FILE or SSL_CERT_DIR leading through a link that is switched while a context is made or used, and
switched back; a process that may read fewer CAs than before although its user and groups are the same.

No lock, see :class:`dirac_perfpatch.patches._files.Kept`. Two threads that want the same at once make it twice. A child
of a fork makes its own contexts, and never frees its parent's: a lock of OpenSSL's that another thread held during the
fork stays held in the child.

A kept context takes 0.8 MB and holds a private key. At most 16 are kept. Those that were not used for an hour are
forgotten at the next connection, or when Python's garbage collector runs, at most a minute later. All are forgotten
when the patch is taken off; a session that was made while it was on then makes a context for itself alone. The first
two connections with the same files take as long as in stock: see :mod:`dirac_perfpatch.patches._files` for why.

The seam is the name ``ssl`` in the module of the client, which only ``_create_session`` uses. That function looks it up
at each call, whoever holds the function.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import ssl
import time
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from types import FunctionType, ModuleType
from typing import Any, NamedTuple
from weakref import WeakSet

from dirac_perfpatch.patches import _files
from dirac_perfpatch.patching import (
    Case,
    Database,
    Fitting,
    Guard,
    Meter,
    NotAsked,
    Patch,
    Target,
    Timed,
    UnknownHost,
)

_MODULE = "DIRAC.Core.Tornado.Client.private.TornadoBaseClient"
_MOST_CONTEXTS = 16
# Settings of a context that are values, in an order in which they can be set.
_SETTINGS = (
    "options",
    "verify_flags",
    "minimum_version",
    "maximum_version",
    "post_handshake_auth",
    "hostname_checks_common_name",
)
# What the class below overrides, what only reads, and what does its work by calling something else in this list.
_HANDLED = {
    *_SETTINGS,
    *("check_hostname", "verify_mode", "set_ciphers", "set_alpn_protocols"),
    *("load_default_certs", "set_default_verify_paths", "load_verify_locations", "load_cert_chain"),
    *("wrap_socket", "wrap_bio", "_wrap_socket", "_wrap_bio", "sslsocket_class", "sslobject_class"),
    *("protocol", "get_ciphers", "security_level", "set_servername_callback"),
    *("_encode_hostname", "_host_flags", "_set_alpn_protocols", "_load_windows_store_certs", "_windows_cert_stores"),
}
# What a context says about its CAs and connections.
_ASKED = {"cert_store_stats", "get_ca_certs", "session_stats"}
_PATHS = (str, bytes, os.PathLike)
_Base = ssl.SSLContext  # whatever the name means later

_Location = tuple[Any, Any, Any]  # the arguments of load_verify_locations: file, folder, data


class _Settings(NamedTuple):
    """The settings of a context that DIRAC and urllib3 change."""

    verify_mode: ssl.VerifyMode
    check_hostname: bool
    ciphers: Any
    protocols: tuple[str, ...] | None
    others: tuple[Any, ...]

    def apply(self, context: ssl.SSLContext) -> None:
        """Give them to a new context."""
        # Host names cannot be checked without certificates.
        modes = [("check_hostname", self.check_hostname), ("verify_mode", self.verify_mode)]
        for name, value in (*zip(_SETTINGS, self.others), *(reversed(modes) if self.check_hostname else modes)):
            if getattr(context, name) != value:  # setting some of them again, Python warns that they are deprecated
                setattr(context, name, value)
        if self.ciphers is not None:
            context.set_ciphers(self.ciphers)
        if self.protocols is not None:
            context.set_alpn_protocols(self.protocols)


class _Wanted(NamedTuple):
    """What a session's context is to be when a socket is opened."""

    settings: _Settings
    defaults: bool  # whether to trust the system's CAs
    locations: tuple[_Location, ...]
    identity: Any  # the arguments of load_cert_chain, or None


class SSLContext(_Base):
    """The context of a session. It records what takes long, and lets complete contexts open sockets.

    Named like its base class because errors, such as that of pickling, show the name.
    """

    _defaults = False
    _ciphers: Any = None
    _protocols: Any = None
    _identity: Any = None
    _own: Any = None  # what cannot be kept: what it was made for, and the context

    def __init__(self, protocol: Any, contexts: _Contexts) -> None:
        self._contexts = contexts
        self._locations: dict[_Location, None] = {}
        self._calls: list[tuple[str, Any, Any]] = []  # of what is not known here

    def set_default_verify_paths(self) -> None:
        self._defaults = True

    def load_verify_locations(self, cafile: Any = None, capath: Any = None, cadata: Any = None) -> None:
        if cafile is not None or cadata is not None or not isinstance(capath, _PATHS):
            super().load_verify_locations(cafile, capath, cadata)  # errors belong to this call
        self._locations.setdefault((cafile, capath, bytes(cadata) if isinstance(cadata, bytearray) else cadata))

    def load_cert_chain(self, certfile: Any, keyfile: Any = None, password: Any = None) -> None:
        if not isinstance(certfile, _PATHS) or not (keyfile is None or isinstance(keyfile, _PATHS)):
            super().load_cert_chain(certfile, keyfile, password)  # raises TypeError
        self._identity = (certfile, keyfile, password)

    def set_ciphers(self, cipherlist: Any, /) -> None:
        super().set_ciphers(cipherlist)
        self._ciphers = cipherlist

    def set_alpn_protocols(self, alpn_protocols: Any) -> None:
        protocols = tuple(alpn_protocols)
        super().set_alpn_protocols(protocols)
        self._protocols = protocols

    def _wrap_socket(self, *args: Any, **kwargs: Any) -> Any:
        """What SSLSocket calls for OpenSSL's object; all the rest it asks of its own context, which is this one."""
        return self._complete()._wrap_socket(*args, **kwargs)

    def _wrap_bio(self, *args: Any, **kwargs: Any) -> Any:
        return self._complete()._wrap_bio(*args, **kwargs)

    def _complete(self) -> Any:
        """A context that has all that this one was asked for."""
        wanted = self._wanted()
        kept = self._contexts.get(wanted) if not self._calls else None
        return kept or self._alone(wanted)

    def _wanted(self) -> _Wanted:
        others = tuple(getattr(self, name) for name in _SETTINGS)
        settings = _Settings(self.verify_mode, self.check_hostname, self._ciphers, self._protocols, others)
        return _Wanted(settings, self._defaults, tuple(self._locations), self._identity)

    def _alone(self, wanted: _Wanted) -> ssl.SSLContext:
        """One for this session alone, in which the certificate is loaded for each connection, as in stock."""
        made_for = (wanted._replace(identity=None), len(self._calls))
        own = self._own
        if own is None or own[0] != made_for:
            own = self._own = (made_for, self._make_alone(wanted))
        context: ssl.SSLContext = own[1]
        if wanted.identity is not None:
            context.load_cert_chain(*wanted.identity)
        return context

    def _make_alone(self, wanted: _Wanted) -> ssl.SSLContext:
        context = _Base(self.protocol)
        wanted.settings.apply(context)
        if wanted.defaults:
            context.set_default_verify_paths()
        for location in wanted.locations:
            context.load_verify_locations(*location)
        for name, args, kwargs in self._calls:
            getattr(context, name)(*args, **kwargs)
        return context


def _asked(name: str) -> Any:
    def ask(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._alone(self._wanted()), name)(*args, **kwargs)

    return ask


def _noted(name: str) -> Any:
    """A method or attribute that is not known here: what is done to it is done to the session's own context, too."""
    base = getattr(_Base, name)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        answer = base(self, *args, **kwargs)
        self._calls.append((name, args, kwargs))
        return answer

    def assign(self: Any, value: Any) -> None:
        base.__set__(self, value)
        self._calls.append(("__setattr__", (name, value), {}))

    return call if callable(base) else property(base.__get__, assign)


for _name in set(dir(_Base)).difference(dir(object), _HANDLED):
    if not _name.startswith("__"):
        setattr(SSLContext, _name, _asked(_name) if _name in _ASKED else _noted(_name))


# What this process has made to be kept; and in a child of a fork, what its parent had.
_alive: WeakSet[ssl.SSLContext] = WeakSet()
_parents: list[ssl.SSLContext] = []


def _leave_to_parent() -> None:
    """In a child of a fork: free no context of the parent. Never raises."""
    with contextlib.suppress(Exception):
        _parents[:] = list(_alive)


os.register_at_fork(after_in_child=_leave_to_parent)


class _Contexts:
    """The contexts that are kept."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.kept: _files.Kept[ssl.SSLContext | None] = _files.Kept(_MOST_CONTEXTS)
        self._folders = _files.CAFolder()
        paths = ssl.get_default_verify_paths()
        self._default_file = (paths.openssl_cafile_env, paths.openssl_cafile)
        self._default_folder = (paths.openssl_capath_env, paths.openssl_capath)

    def get(self, wanted: _Wanted) -> ssl.SSLContext | None:
        """The one that is wanted, made now if need be; None if it cannot be kept, or stock has an error to raise."""
        if self._guard.off:
            return None
        try:
            return self.kept.get(partial(self._look, wanted), partial(self._make, wanted))
        except (OSError, ValueError, LookupError):
            return None
        except Exception as error:
            self._guard.failed(error)
            return None

    def _look(self, wanted: _Wanted) -> tuple[Any, ...]:
        """The key: all that a context depends on.

        Raises:
            OSError, ValueError, LookupError: It cannot be kept.
        """
        flags = wanted.settings.others[_SETTINGS.index("verify_flags")]
        if flags & ssl.VERIFY_CRL_CHECK_LEAF:  # VERIFY_CRL_CHECK_CHAIN has that bit, too
            raise LookupError("revocation lists")
        user = (os.getpid(), os.geteuid(), os.getegid(), tuple(os.getgroups()))
        defaults = self._look_at_defaults() if wanted.defaults else None
        locations = tuple(map(self._look_at_location, wanted.locations))
        return wanted.settings, user, defaults, locations, _look_at_identity(wanted.identity)

    def _look_at_defaults(self) -> Hashable:
        file, folder = map(_default, (self._default_file, self._default_folder))
        if os.pathsep in folder:  # several folders
            raise LookupError(folder)
        is_file, is_folder = map(_is_there, (file, folder))
        seen = self._folders.look(folder) if is_folder else None
        return file, is_file and (_files.state(file), _files.may_read(file)), folder, seen

    def _look_at_location(self, location: _Location) -> Hashable:
        file, folder, data = location
        if data is not None or not isinstance(folder, (str, type(None))) or os.pathsep in (folder or ""):
            raise LookupError
        seen = None if file is None else _files.readable_state(file)
        return seen, None if folder is None else self._folders.look(folder)

    def _make(self, wanted: _Wanted, key: tuple[Any, ...] | None) -> ssl.SSLContext | None:
        """A complete context, from the files whose states are in the key; None if there is none.

        Raises:
            OSError, ValueError, LookupError: It cannot be made, or not in this way.
        """
        if key is None:
            return None
        self._guard.note("contexts made")
        _, _, _, locations, identity = key
        context = _Base(ssl.PROTOCOL_TLS_CLIENT)
        wanted.settings.apply(context)
        if wanted.defaults:
            context.set_default_verify_paths()
        for (file, _, _), (file_state, folder) in zip(wanted.locations, locations):
            with _pinned(file, file_state) as path:
                # Without links, which could be switched while a handshake reads a CA, and back.
                context.load_verify_locations(path, folder and folder.path)
        if identity is not None:
            with _pinned(wanted.identity[0], identity[0]) as certificate, _pinned(wanted.identity[1], identity[1]) as k:
                context.load_cert_chain(certificate, k, _no_password)
        _alive.add(context)
        return context


def _pinned(path: Any, seen: _files.State | None) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext() if seen is None else _files.pinned(path, seen)


def _look_at_identity(identity: Any) -> tuple[_files.State, _files.State | None] | None:
    if identity is None:
        return None
    certificate, key, password = identity
    if password is not None:
        raise LookupError
    return _files.readable_state(certificate), None if key is None else _files.readable_state(key)


def _is_there(path: str) -> bool:
    """Whether there is something at a path.

    Raises:
        LookupError: Nothing is there, on a file system which might find it all the same when it is opened.
    """
    if os.path.exists(path):
        return True
    above = os.path.realpath(path)
    while not os.path.exists(above):
        above = os.path.dirname(above)
    _files.state(above)
    return False


def _no_password() -> str:
    raise LookupError("OpenSSL asks the user for it")


def _default(names: tuple[str, str]) -> str:
    """Where OpenSSL looks for CAs: at what a variable says, or else a path of its own.

    Raises:
        LookupError: This C library cannot be asked.
    """
    # As OpenSSL asks: the environment of C, which os.putenv() and libraries change behind the back of os.environ. With
    # PyDLL no other thread of Python changes it meanwhile.
    ask = getattr(ctypes.PyDLL(None), "secure_getenv", None)
    if ask is None:
        raise LookupError("secure_getenv")
    ask.restype = ctypes.c_char_p
    value = ask(names[0].encode())
    return names[1] if value is None else os.fsdecode(value)


class _StandIn(ModuleType):
    """What the host's module has as ``ssl``: that module, but for one function."""

    def __getattr__(self, name: str) -> Any:
        return getattr(ssl, name)


def _look(fitting: Fitting) -> None:
    decorated = hasattr(fitting.resolve("_create_session"), "__wrapped__")
    fitting.expect("_create_session.__wrapped__" if decorated else "_create_session", "ssl", "create_default_context")
    if fitting.resolve("ssl") is not ssl:
        raise UnknownHost("other code has replaced ssl")
    for name in ("_create", "_real_connect"):
        code = getattr(getattr(ssl.SSLSocket, name, None), "__code__", None)
        if "_wrap_socket" not in getattr(code, "co_names", ()):
            raise UnknownHost(f"SSLSocket.{name} is not the function that this patch knows")


def _put_on(fitting: Fitting) -> None:
    guard = fitting.guard
    contexts = _Contexts(guard)
    original = ssl.create_default_context
    make = _with_class(original, lambda protocol: SSLContext(protocol, contexts))

    def stock(*args: Any, **kwargs: Any) -> Any:
        return ssl.create_default_context(*args, **kwargs)  # whatever that is now

    def create_default_context(*args: Any, **kwargs: Any) -> Any:
        replaced = ssl.create_default_context is not original or ssl.SSLContext is not _Base
        if guard.off or replaced or args or kwargs or "SSLKEYLOGFILE" in os.environ:
            return stock(*args, **kwargs)
        try:
            return make()
        except Exception as error:
            guard.failed(error)
            return stock()

    def check(answer: Any, stock: Callable[..., Any], args: Any, kwargs: Any) -> str:
        """The check against stock, on contexts of its own."""
        mine, theirs = create_default_context(*args, **kwargs), stock(*args, **kwargs)
        names = (*_SETTINGS, "verify_mode", "check_hostname", "protocol")
        if any(getattr(mine, name) != getattr(theirs, name) for name in names):
            return "different settings"
        return "" if mine.get_ca_certs(True) == theirs.get_ca_certs(True) else "different CAs"

    stand_in = _StandIn("ssl")
    called = fitting.compared("create_default_context", create_default_context, stock, check)
    vars(stand_in)["create_default_context"] = called
    fitting.replace("ssl", stand_in)
    contexts.kept.until_off(fitting)


def _with_class(function: Any, new: Callable[[Any], Any]) -> Callable[[], Any]:
    """Python's own function, with another class for contexts: later versions of Python set more than earlier ones."""
    names = {**vars(ssl), "SSLContext": new}
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


@contextlib.contextmanager
def _certificates() -> Iterator[str]:
    """A folder with copies of the host's test certificates, beside a copy of the system's CAs, which is used meanwhile.

    Copies, because a file that was unpacked from an image may have times without a fraction, and is then kept seconds
    later than others.
    """
    import shutil
    import tempfile

    import DIRAC

    source = os.path.join(os.path.dirname(DIRAC.__file__), "Core", "Security", "test", "certs")
    if not os.path.isdir(os.path.join(source, "ca")):
        raise NotAsked("this host came without its test certificates")
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="perfpatch-") as folder:
        for name in ("ca", "host", "user"):
            shutil.copytree(os.path.join(source, name), os.path.join(folder, name), copy_function=shutil.copyfile)
        paths = ssl.get_default_verify_paths()
        try:
            if paths.cafile:
                os.environ[paths.openssl_cafile_env] = shutil.copyfile(paths.cafile, os.path.join(folder, "system.pem"))
            os.environ[paths.openssl_capath_env] = os.path.join(folder, "none")
            yield folder
        finally:
            os.environ.clear()
            os.environ.update(before)


def _connect(folder: str) -> Any:
    """Open a connection as a new client does, with the test certificates. Returns: what both sides saw."""
    import socket
    import threading

    from DIRAC.Core.Tornado.Client.private.TornadoBaseClient import _create_session

    def paths(name: str) -> tuple[str, str]:
        return os.path.join(folder, name, f"{name}cert.pem"), os.path.join(folder, name, f"{name}key.pem")

    def serve() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*paths("host"))
        context.load_verify_locations(os.path.join(folder, "ca", "ca.cert.pem"))
        context.verify_mode = ssl.CERT_REQUIRED
        with contextlib.suppress(OSError), context.wrap_socket(theirs, server_side=True) as connection:
            connection.sendall(repr(connection.getpeercert()).encode())

    ours, theirs = socket.socketpair()
    server = threading.Thread(target=serve, daemon=True)
    server.start()
    try:
        context = _create_session(verified=False)["Value"].get_adapter("https://").ssl_context
        # As urllib3 does it.
        context.verify_mode = ssl.CERT_REQUIRED
        context.check_hostname = True
        context.load_verify_locations(None, os.path.join(folder, "ca"))
        context.load_cert_chain(*paths("user"))
        context.set_alpn_protocols(["http/1.1"])
        with context.wrap_socket(ours, server_hostname="localhost") as connection:
            return connection.recv(10_000), connection.getpeercert(), connection.cipher(), connection.version()
    finally:
        server.join()


def _ask(database: Database | None) -> Any:
    answers = []
    with _certificates() as folder:
        for pause in (0, 2 * _files.TICK, 0):  # seen, made and kept, served
            time.sleep(pause)
            answers.append(_connect(folder))
    return answers


def _new_client(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    from DIRAC.Core.Tornado.Client.TornadoClient import TornadoClient

    new = partial(TornadoClient, "https://localhost:8443/Framework/Test", useCertificates=False, useAccessToken=False)
    yield lambda number: timed(new, number)


def _new_connection(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    with _certificates() as folder:
        yield lambda number: timed(partial(_connect, folder), number)


PATCH = Patch(
    name="https_client",
    targets=(Target((_MODULE,), "_create_session", _look, _put_on),),
    ask=_ask,
    cases=(
        Case("Tornado client", _new_client, growth=(1,)),
        Case(
            "session of a Tornado client, first connection",
            _new_connection,
            growth=(1,),
            settle_seconds=2 * _files.TICK,
        ),
    ),
)
