"""The client's TLS context and the check of its credentials, once per identity instead of once per remote call.

For each remote call, a client of the host checks its proxy or certificate (``checkSanity`` parses the file: 1.0 ms for
a proxy, 0.4 ms for a host certificate; 5.1 and 2.2 ms on 8.0) and makes an OpenSSL context (``getM2SSLContext``, 1.0 to
1.3 ms). We keep what the two make from files for as long as the files stay as they are; ``_files.py`` says how that is
seen. Then they take 30 to 65 us each, of which the host's search for the files takes 10 to 30.

Each is still the host's own code, and so are the locations, the messages, the errors and what differs between releases.
It is run as a copy that finds objects of ours under a few names:

- ``checkSanity`` is run at every call. Under the names of the two classes that it loads files with, it finds a class
  that answers from what was kept of the file: the subject, the group, and when the first of its certificates expires.
  That is compared with the clock at every call. Whatever has expired or cannot be loaded, the host loads.
- ``getM2SSLContext`` makes each context that is kept. Under ``Locations`` it finds the locations whose files we looked
  at, and it reads these files through descriptors. Otherwise an environment variable that another thread sets for a
  while, or a link that is switched and switched back, would leave the context of one identity under the key of another.

What a kept context depends on, and how its key sees that:

- The identity: proxy renewed, replaced, removed, or made unreadable; another location (``X509_USER_PROXY``,
  ``proxyLocation``, ``useCertificates``, configuration). At every call the host's functions are asked for the
  locations, and each file is opened, so that the kernel says whether this thread may read it (``seteuid``,
  ``setfsuid``, groups, access lists). The state of the file that was opened is in the key. If both a certificate and a
  proxy are given, the states of both are in it, because releases differ in which they take.
- The CAs: OpenSSL keeps each CA that it has read from the folder, so the state of every file that it may read there is
  in the key, and whether this thread may read it (:class:`_files.CAFolder`). That is one ``stat`` per CA and call: with
  100 CAs, a context takes 0.4 ms (``dirac-perfpatch bench``). A kept context reads the folder by its path without
  links.
- ``skipCACheck``, ``sslMethods``, ``sslCiphers`` and the host's defaults for them.
- That a certificate, the peer's or one's own, has expired since: OpenSSL looks at the clock in every handshake.

Not kept, but passed to the host's code: contexts for servers, with a ``proxyString`` (its private key would be the key
of a dictionary, and nothing in the host uses it), or with ``DIRAC_DEBUG_M2CRYPTO`` (callbacks); and whatever is on a
file system that is not known to be local, such as CAs in CernVM-FS.

Every handshake is a full one, so the peer's chain is what this handshake gave: a client's context keeps no sessions
(``SSL_SESS_CACHE_SERVER`` is the default mode, and the host sets no other), and a connection resumes one only if
``SSL_set_session`` was called, which nothing here does.

A context is shared by threads. The host never changes a client's context once it is made: what it sets later (timeout,
host name) belongs to the connection, and ``set_session_id_ctx`` and ``renewServerContext`` are for servers. OpenSSL
counts references to a context, locks its store of CAs, and signs with one key in several threads (openssl-threads(7)).

A child of a fork makes its own contexts: a lock of OpenSSL's that another thread held during the fork stays held in the
child. For the same reason a child never frees the contexts of its parent, and so keeps their private keys in its memory
until it ends. Otherwise a context is forgotten, and its private key with it, if it was not used for an hour, at the
next call or when the garbage collector runs next, or when the patch is taken off. No key is ever turned into text.

No lock, as in ``_files.py``. What two threads make at once is the same.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from datetime import timezone
from functools import partial, update_wrapper
from operator import is_
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple

from dirac_perfpatch.patches import _files
from dirac_perfpatch.patching import (
    Case,
    Database,
    Fitting,
    Meter,
    NotAsked,
    Patch,
    Target,
    Timed,
    UnknownHost,
    without_stacks,
)

_CHECK = "DIRAC.Core.DISET.private.Transports.SSLTransport"
_CONTEXT = "DIRAC.Core.DISET.private.Transports.M2SSLTransport"
# A context takes some 100 kB with its key and the CAs that it has read.
_MOST_CONTEXTS = 100
_MOST_IDENTITIES = 1000
_PATHS = (str, bytes, os.PathLike)
_TEXT = (str, type(None))
# What checkSanity loads a file with, and asks it.
_CLASSES = ("X509Chain", "X509Certificate")
_ANSWERS = ("hasExpired", "getDIRACGroup", "getIssuerCert", "getSubjectDN")

_File = tuple[str, _files.State]


def _finding(function: FunctionType, **names: Any) -> Any:
    """A copy of a host's function, and of those of its module that it calls, that finds other objects under some names.

    Made for one call: its module's other names are those of now.
    """
    found = {**function.__globals__, **names}
    for name, value in list(found.items()):
        if type(value) is FunctionType and value.__globals__ is function.__globals__ and name not in names:
            found[name] = _copy(value, found)
    return _copy(function, found)


def _copy(function: FunctionType, names: dict[str, Any]) -> FunctionType:
    copied = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


class _Identity(NamedTuple):
    """What checkSanity asks of a chain or certificate that has not expired.

    Args:
        expires: When the first of its certificates does, as ``time.time()``.
        answers: The methods that it asks; each returns a new answer.
    """

    expires: float
    answers: dict[str, Callable[..., Any]]


class _Identities:
    """What is kept of the files that checkSanity loads."""

    def __init__(self, fitting: Fitting) -> None:
        self._new_answer = fitting.resolve("S_OK")
        self._guard = fitting.guard
        self._kept: _files.Kept[_Identity | None] = _files.Kept(_MOST_IDENTITIES)
        self._kept.until_off(fitting)

    def of(self, host_class: Any, path: Any) -> _Identity | None:
        """What was kept of a file, or None if the host must load it."""
        if not isinstance(path, _PATHS):
            return None
        try:
            identity = self._kept.get(
                lambda: (host_class, _files.readable_state(path)), partial(self._make, path), lambda: None
            )
        except Exception as error:
            self._guard.failed(error)
            return None
        return identity if identity is not None and time.time() < identity.expires else None

    def _make(self, path: Any, key: tuple[Any, _files.State]) -> _Identity | None:
        host_class, seen = key
        try:
            with _files.opened(path, seen) as descriptor, open(descriptor, closefd=False) as stream:
                text = stream.read()
            loaded = host_class()
            is_chain = hasattr(loaded, "loadChainFromString")
            answer = loaded.loadChainFromString(text) if is_chain else loaded.loadFromString(text)
            if not answer["OK"] or loaded.hasExpired()["Value"]:
                return None
            expires = loaded.getNotAfterDate()["Value"].replace(tzinfo=timezone.utc).timestamp()
            group_or_error = loaded.getDIRACGroup(ignoreDefault=True)
            group = group_or_error["Value"] if group_or_error["OK"] else False
            subject = loaded.getIssuerCert()["Value"] if is_chain else loaded
            dn = subject.getSubjectDN()["Value"]
        except Exception:  # gone, changed, no certificate: the host finds out, too, and answers
            return None
        new_answer = self._new_answer
        tells_dn = partial(new_answer, dn)
        answers: dict[str, Callable[..., Any]] = {
            "hasExpired": partial(new_answer, False),
            "getDIRACGroup": lambda ignoreDefault: new_answer(group),
            "getIssuerCert": partial(new_answer, SimpleNamespace(getSubjectDN=tells_dn)),
            "getSubjectDN": tells_dn,
        }
        return _Identity(expires, answers)


class _StandIn:
    """Stands for X509Chain or X509Certificate in one call of checkSanity."""

    def __init__(self, identities: _Identities, host_class: Any) -> None:
        self._identities = identities
        self._class = host_class
        self._object: Any = host_class()
        self._load: Callable[[], Any] | None = None  # what was not loaded, because its identity was kept

    def loadChainFromFile(self, path: Any) -> Any:
        return self._stand_for(path, self._object.loadChainFromFile)

    def loadFromFile(self, path: Any) -> Any:
        return self._stand_for(path, self._object.loadFromFile)

    def _stand_for(self, path: Any, load: Callable[[Any], Any]) -> Any:
        identity = self._identities.of(self._class, path)
        if identity is None:
            return load(path)
        self._load = partial(load, path)
        vars(self).update(identity.answers)
        return None  # checkSanity does not look at the answer

    def __getattr__(self, name: str) -> Any:
        if self._load is not None:
            self._load()
        return getattr(self._object, name)


class _Copies:
    """Copies of checkSanity that find ours under the names of the two classes.

    One is used for as long as the module's names mean what they meant when it was copied. A copy for each call would
    take 9 us more: Python forgets what it has learnt of a function's names. A function of the module that checkSanity
    may call is not copied, so it finds the host's classes, which is slower and as right.
    """

    def __init__(self, stock: FunctionType, identities: _Identities) -> None:
        self._stock = stock
        self._identities = identities
        self._latest: tuple[list[Any], Any] = ([], None)

    def current(self) -> Any:
        """The copy for a call that begins now."""
        names = self._stock.__globals__.copy()  # in one step
        meant = [*names, *names.values()]
        known, copied = self._latest
        # Not ==: what wraps an object may claim to be equal to it.
        if len(known) != len(meant) or not all(map(is_, known, meant)):
            for name in _CLASSES:
                names[name] = partial(_StandIn, self._identities, names[name])
            copied = _copy(self._stock, names)
            self._latest = meant, copied
        return copied


def _put_on_check(fitting: Fitting) -> None:
    guard, identities = fitting.guard, _Identities(fitting)

    def make(stock: Any) -> Callable[..., Any]:
        copies = _Copies(stock, identities)

        def checkSanity(urlTuple: Any, kwargs: Any) -> Any:
            run = stock
            if not guard.off:
                try:
                    run = copies.current()
                except Exception as error:
                    guard.failed(error)
            return run(urlTuple, kwargs)

        return checkSanity

    fitting.take_over("checkSanity", make, _same_check)


class _Seen(NamedTuple):
    """All that a context depends on, and the key under which it is kept."""

    process: int
    user: int
    settings: tuple[Any, Any]  # methods and ciphers
    certificate: tuple[_File, _File] | None
    proxy: _File | None
    cas: _files.CAs | None  # None if the peer is not checked


class _Contexts:
    """The contexts that are kept.

    Args:
        stock: The host's getM2SSLContext.
    """

    def __init__(self, stock: FunctionType) -> None:
        self._stock = stock
        self._names = stock.__globals__
        self._cas = _files.CAFolder()
        self.kept: _files.Kept[Any] = _files.Kept(_MOST_CONTEXTS)

    def get(self, kwargs: dict[str, Any], failed: list[Exception]) -> Any:
        """The context for these arguments, or None if the host must make it.

        Args:
            kwargs: As given to the host's function.
            failed: Gets the error, if the host's code failed with what it found under our names.
        """
        return self.kept.get(partial(self._look, kwargs), partial(self._make, kwargs, failed), lambda: None)

    def _look(self, kwargs: dict[str, Any]) -> _Seen | None:
        names = self._names
        methods = kwargs.get("sslMethods", names["DEFAULT_SSL_METHODS"])
        ciphers = kwargs.get("sslCiphers", names["DEFAULT_SSL_CIPHERS"])
        if type(methods) not in _TEXT or type(ciphers) not in _TEXT:
            return None
        certificate, proxy, folder = self._locations(kwargs)
        return _Seen(
            os.getpid(),
            os.geteuid(),
            (methods, ciphers),
            certificate and (_file(certificate[0]), _file(certificate[1])),
            None if proxy is None else _file(proxy),
            None if folder is None else self._cas.look(folder),
        )

    def _locations(self, kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Where the certificate and its key, the proxy and the CAs are, each None if it is not needed."""
        locations = self._names["Locations"]
        proxy, of_host = kwargs.get("proxyLocation"), kwargs.get("useCertificates")
        unchecked = kwargs.get("skipCACheck")
        try:
            certificate = locations.getHostCertificateAndKeyLocation() if of_host else None
            if not proxy:
                proxy = None if of_host else locations.getProxyLocation()
            folder = None if unchecked else locations.getCAsLocation()
        except Exception as error:  # the host's own, which its function meets again
            raise LookupError from error
        needed = [*(certificate or ()), *([proxy] if proxy or not of_host else []), *([] if unchecked else [folder])]
        if (of_host and not certificate) or not all(type(path) is str for path in needed):
            raise LookupError
        return certificate, proxy, folder

    def _make(self, kwargs: dict[str, Any], failed: list[Exception], seen: _Seen) -> Any:
        with contextlib.ExitStack() as opened:

            def pinned(file: _File) -> str:
                return opened.enter_context(_files.pinned(*file))

            try:
                certificate = seen.certificate and tuple(map(pinned, seen.certificate))
                proxy = seen.proxy and pinned(seen.proxy)
            except (OSError, LookupError):  # gone or changed: the host knows what to answer
                return None
            given = {**kwargs, "proxyLocation": proxy} if kwargs.get("proxyLocation") else kwargs
            locations = SimpleNamespace(
                getHostCertificateAndKeyLocation=lambda: certificate,
                getProxyLocation=lambda: proxy,
                getCAsLocation=lambda: seen.cas and seen.cas.path,
            )
            try:
                context = _finding(self._stock, Locations=locations)(**given)
            except Exception as error:
                with contextlib.suppress(OSError, ValueError, LookupError):
                    if self._look(kwargs) == seen:  # not, because a file was just being written
                        failed.append(error)
                return None
        context.m2_ssl_ctx_free = partial(_free, context.m2_ssl_ctx_free, os.getpid())
        return context


def _file(path: str) -> _File:
    return path, _files.readable_state(path)


def _free(free: Callable[[Any], None], process: int, context: Any, getpid: Callable[[], int] = os.getpid) -> None:
    """Free a context in the process that made it. A child of a fork might wait for a lock that nobody gives back."""
    if getpid() == process:
        free(context)


def _put_on_context(fitting: Fitting) -> None:
    guard, stock = fitting.guard, fitting.resolve("getM2SSLContext")
    fitting.expect("getM2SSLContext", "Locations", "getCAsLocation", "DEFAULT_SSL_METHODS", "DEFAULT_SSL_CIPHERS")
    if type(stock) is not FunctionType:
        raise UnknownHost("getM2SSLContext is not a plain function")
    contexts, names = _Contexts(stock), stock.__globals__

    def getM2SSLContext(ctx: Any = None, **kwargs: Any) -> Any:
        if (
            guard.off
            or ctx
            or kwargs.get("bServerMode", False)
            or kwargs.get("proxyString")
            or names.get("DEBUG_M2CRYPTO", True)
        ):
            return stock(ctx, **kwargs)
        failed: list[Exception] = []
        try:
            context = contexts.get(kwargs, failed)
        except Exception as error:
            guard.failed(error)
            context = None
        if context is None:
            context = stock(**kwargs)
            for failure in failed:  # with what it found under our names, but not with its own
                guard.failed(failure)
        return context

    called = fitting.compared("getM2SSLContext", getM2SSLContext, stock, _same_context)
    fitting.replace("getM2SSLContext", update_wrapper(called, stock))
    contexts.kept.until_off(fitting)


def _look_at_check(fitting: Fitting) -> None:
    fitting.expect("checkSanity", "Locations", "loadChainFromFile", "loadFromFile", *_CLASSES, *_ANSWERS)
    for name in ("S_OK", *_CLASSES):
        fitting.resolve(name)


def _look_at_context(fitting: Fitting) -> None:
    # The function itself is from another module, which may not be there yet when ``status`` asks.
    fitting.expect("SSLTransport.__init__", "getM2SSLContext")
    fitting.resolve("getM2SSLContext")


def _same_check(answer: Any, original: Any, args: Any, kwargs: Any) -> str:
    return "" if without_stacks(original(*args, **kwargs)) == without_stacks(answer) else "a different answer"


def _same_context(answer: Any, original: Any, args: Any, kwargs: Any) -> str:
    """What M2Crypto tells about a context. It does not tell which certificate the context presents."""
    return "" if _facts(original(*args, **kwargs)) == _facts(answer) else "a different context"


def _facts(context: Any) -> tuple[Any, ...]:
    return type(context), context.get_verify_mode(), context.get_verify_depth(), context.get_session_cache_mode()


@contextlib.contextmanager
def _test_identity() -> Iterator[str]:
    """A file with the certificate and the key of the host's test user, and the test CAs if this host has none."""
    import tempfile

    import DIRAC
    from DIRAC.Core.Security import Locations

    certificates = os.path.join(os.path.dirname(DIRAC.__file__), "Core", "Security", "test", "certs")
    if not os.path.isdir(certificates):
        raise NotAsked("this host came without its test certificates")
    with tempfile.TemporaryDirectory(prefix="perfpatch-") as folder, contextlib.ExitStack() as opened:
        path = os.path.join(folder, "identity.pem")
        with open(path, "w") as identity:
            for name in ("usercert.pem", "userkey.pem"):
                with open(os.path.join(certificates, "user", name)) as part:
                    identity.write(part.read())
        if not os.path.isdir(Locations.getCAsLocation() or ""):
            opened.enter_context(_variable("X509_CERT_DIR", os.path.join(certificates, "ca")))
        yield path


@contextlib.contextmanager
def _variable(name: str, value: str) -> Iterator[str]:
    """An environment variable with this value for a while."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield value
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _ask(database: Database | None) -> Any:
    from DIRAC.Core.DISET.private.Transports import M2SSLTransport, SSLTransport

    answers: list[Any] = []
    with _test_identity() as path:
        for kwargs in ({"proxyLocation": path}, {"proxyLocation": path, "skipCACheck": True}):
            for pause in (0, 2 * _files.TICK, 0):  # seen, kept, served
                time.sleep(pause)
                answers.append(SSLTransport.checkSanity(("localhost", 1), kwargs))
                answers.append(_facts(M2SSLTransport.getM2SSLContext(**kwargs)))
    return without_stacks(answers)


def _check(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    from DIRAC.Core.DISET.private.Transports import SSLTransport

    with _test_identity() as path:
        kwargs = {"proxyLocation": path}
        yield lambda number: timed(lambda: SSLTransport.checkSanity(("localhost", 1), kwargs), number)


def _context(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    """A context with a folder of ``size`` CAs."""
    import shutil

    from DIRAC.Core.DISET.private.Transports import M2SSLTransport
    from DIRAC.Core.Security import Locations

    with _test_identity() as path, _variable("X509_CERT_DIR", os.path.join(os.path.dirname(path), "CAs")) as folder:
        if Locations.getCAsLocation() != folder:
            raise NotAsked("this host's configuration says where the CAs are")
        os.mkdir(folder)
        for number in range(size):
            shutil.copyfile(path, os.path.join(folder, f"{number:08x}.0"))
        yield lambda number: timed(lambda: M2SSLTransport.getM2SSLContext(proxyLocation=path), number)


_SETTLE_SECONDS = 1.5 * _files.TICK

PATCH = Patch(
    name="client_tls",
    targets=(
        Target((_CHECK,), "checkSanity", _look_at_check, _put_on_check),
        Target((_CONTEXT,), "getM2SSLContext", _look_at_context, _put_on_context),
    ),
    ask=_ask,
    cases=(
        Case("checkSanity", _check, growth=(1,), settle_seconds=_SETTLE_SECONDS),
        Case("client's TLS context", _context, (1, 100), (1,), "CAs", settle_seconds=_SETTLE_SECONDS),
    ),
)
