"""X509Chain.loadProxyFromFile: an unchanged proxy file is parsed once.

The host reads and parses the file at every call, 2 ms each, and clients call it for every connection. We keep what one
parse made, and give each chain its own copy.

Why a stale or forbidden answer is impossible:

- An entry (see :mod:`dirac_perfpatch.patches._files`) is for one file (device and inode, so switched links and relative
  paths do not matter) in one state (size, and the times of the last change of content and of inode), and for one
  effective user, so that a path which is switched between two steps leads nobody to what only another user has read.
- At every call the kernel is asked whether this thread may read the file: its effective or file-system user, its groups
  and capabilities, the file's access list, the folders above. (Where there is no ``faccessat2``, before Linux 5.8 and
  glibc 2.33, the C library works it out, without access lists and file-system user.)
- A file can change twice within one tick of its file system's clock, and then looks the same both times. So a parse is
  kept only if our own clock had seen the file in this state for longer than a tick before it was read; any later change
  shows in the state. Younger files are parsed at every call. (Git calls such entries racily clean.)
- What is kept was read through a descriptor of the very file that the entry is for, whatever the path leads to by then.
- Not seen: a write through a mapped file (``mmap``), whose times the kernel updates only when it writes the page back.
  Nothing writes a proxy in that way.
- A network file system may answer ``stat`` from its own cache where ``open``, which the host uses, asks the server. So
  only file systems that are known to be local are served from our cache.

The chains of one file share OpenSSL's certificates and keys, which are only read. Threads may do that:
openssl-threads(7) says that reading them is safe, that what they remember (encodings, extensions) is under their own
locks, that references are counted, and that two threads may sign with one key in contexts of their own. The M2Crypto
object that owns one frees it when we and the last chain have dropped it, never earlier.

The chains do not share:

- Lists of certificates, the host's certificate objects, and M2Crypto's key objects, which hold the signing context.
- A certificate, once somebody signs it or takes out a part that can be changed in place (subject, extension, public
  key): M2Crypto's object is copied first. The same for a key that is assigned to.

Chains that were handed out stay valid when the patch is taken off.

DIRAC 9.1.9 and later keep the last eight proxies themselves, by path, size, inode and time of change. So they serve a
proxy that was rewritten within a tick, one that this user may no longer read, and the first user's after ``seteuid``,
each with its key, and all chains of a file share their certificates. There what we do not serve is read by the host's
function with a cache that stays empty, and the host's cache is emptied when the patch is taken off.

What this buys: a hit takes 5.4 us, of which ``stat`` takes 2.1, asking the kernel 1.3 and the new objects 0.5.
(``open``, ``fstat`` and ``close`` instead of the first two take 4.5.) Copying instead of sharing takes 0.2 ms for each
certificate and 1.5 ms for the key; making the signing context of each key at once takes another 1 us.

No lock: a signal handler may load the proxy that its own thread is loading (the JobWrapper's does), and a fork may come
at any time. Two threads that parse at once parse the same proxy.

A private key whose proxy has expired or was not used for an hour is forgotten at the next load of any proxy or at the
next garbage collection, but at most once a minute. A process that neither loads a proxy nor creates objects keeps it
until it does or ends; so does one that has switched the collector off, until it loads a proxy. All are forgotten when
the patch is taken off. No key is ever turned into text here.
"""

from __future__ import annotations

import calendar
import contextlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple

from dirac_perfpatch.patches import _files
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
    against,
    without_stacks,
)

_METHOD = "X509Chain.loadProxyFromFile"
_IN_TREE = "_PROXY_LOAD_CACHE"  # from 9.1.9 on
# What open() takes, without descriptors, which it would close.
_PATHS = (str, bytes, os.PathLike)
# All that a certificate of the host's has.
_ATTRIBUTES = {"_certLoaded", "_X509Certificate__certObj"}
_MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"


class _Parsed(NamedTuple):
    """What one parse made."""

    certificates: list[Any]  # M2Crypto's
    key: Any
    is_proxy: Any
    is_limited: Any
    first_proxy_step: Any


def _expires(m2crypto: Any, certificate: Any) -> float:
    """When an M2Crypto certificate expires, as ``time.time()``.

    Not by M2Crypto's ``get_not_after``, which calls ``strptime``: another thread may hold its lock at a fork, and the
    host's own function does not need it.
    """
    found = m2crypto.ASN1.ASN1_TIME(m2crypto.m2.x509_get_not_after(certificate.x509))
    month, day, clock, year = str(found).split()[:4]  # such as "Nov 26 02:00:00 2026 GMT"
    hours, minutes, seconds = map(int, clock.split(":"))
    return calendar.timegm((int(year), _MONTHS.index(month) // 3 + 1, int(day), hours, minutes, seconds))


def _certificate_class(host_class: Any, x509_module: Any) -> type:
    """A subclass of X509Certificate whose objects share M2Crypto's object until somebody may change it."""
    from_der = x509_module.load_cert_der_string

    class Certificate(host_class):
        __init__ = object.__init__  # they differ in one attribute only
        _certLoaded = True
        _own_object: Any = None
        _X509Certificate__certObj: Any

        def _own(self) -> None:
            if self._own_object is None:
                copied = from_der(self._X509Certificate__certObj.as_der())
                # Two threads must end up with the same copy: a part that one of them has taken out points into it.
                self._X509Certificate__certObj = self.__dict__.setdefault("_own_object", copied)

        def sign(self, *args: Any, **kwargs: Any) -> Any:
            self._own()
            return super().sign(*args, **kwargs)

        def getSubjectNameObject(self) -> Any:
            self._own()
            return super().getSubjectNameObject()

        def getExtension(self, *args: Any, **kwargs: Any) -> Any:
            self._own()
            return super().getExtension(*args, **kwargs)

        def getPublicKey(self) -> Any:
            self._own()
            return super().getPublicKey()

    return Certificate


def _key_class(host_class: Any) -> type:
    """A subclass of M2Crypto's PKey whose objects share OpenSSL's key, but not the context to sign and verify in."""

    class Key(host_class):
        __init__ = object.__init__
        _pyfree = 0
        _shared: Any  # M2Crypto's key that owns OpenSSL's
        _context: Any = None  # M2Crypto's key with a context, made at its first use: most keys never sign

        def __del__(self) -> None:
            """Frees nothing: the two keys above do."""

        def _with_context(self) -> Any:
            if self._context is None:
                self.__dict__.setdefault("_context", host_class(self._shared.pkey))
            return self._context

        @property
        def pkey(self) -> Any:
            return self._shared.pkey

        @property
        def ctx(self) -> Any:
            return self._with_context().ctx

        @property
        def md(self) -> Any:
            return self._with_context().md

        def reset_context(self, *args: Any, **kwargs: Any) -> None:
            self._with_context().reset_context(*args, **kwargs)

        def assign_rsa(self, *args: Any, **kwargs: Any) -> Any:
            self._shared = host_class()
            return super().assign_rsa(*args, **kwargs)

        def assign_ec(self, *args: Any, **kwargs: Any) -> Any:
            self._shared = host_class()
            return super().assign_ec(*args, **kwargs)

    return Key


class _Loader:
    """Loads a proxy as the host does, and remembers it."""

    def __init__(self, fitting: Fitting) -> None:
        self.kept: _files.Kept[_Parsed] = _files.Kept(fitting.options["max_proxies"])
        self.give = _giving(fitting)
        self._guard = fitting.guard
        self.original = _reading(fitting)
        self._certificate_class = fitting.resolve("X509Certificate")
        self._m2crypto = fitting.resolve("M2Crypto")
        self._key_class = self._m2crypto.EVP.PKey

    def load(self, chain: Any, path: Any) -> Any:
        """Load a proxy into a chain, and remember it if that is safe."""
        text = None
        self._guard.note("misses")
        if not self._guard.off and isinstance(path, _PATHS):
            try:
                seen = _files.readable_state(path)
                entry = self.kept.entry(key := (seen, os.geteuid()))
                if entry.is_settled(key):
                    # Not by the host: the path may be switched before it opens it, and back afterwards. If the file
                    # changes from now on, so does its state, and nobody uses the entry.
                    with _files.opened(path, seen) as descriptor, open(descriptor, closefd=False) as stream:
                        text = stream.read()
            except (OSError, ValueError, LookupError):  # no such file or path, no text: for the host to answer
                pass
            except Exception as error:
                self._guard.failed(error)
        if text is None:
            return self.original(chain, path)
        answer = chain.loadProxyFromString(text)
        if answer["OK"]:
            try:
                if self._keep(entry, chain):
                    return self.give(chain, entry.made)  # what we keep, the caller must not have
            except Exception as error:
                self._guard.failed(error)
                return self.original(chain, path)
        return answer

    def _keep(self, entry: _files.Entry[_Parsed], chain: Any) -> bool:
        """Keep what a parse has made, if it is what we know how to share. Returns: whether it is kept."""
        if type(chain._keyObj) is not self._key_class:
            return False
        for certificate in chain._certList:
            if type(certificate) is not self._certificate_class or vars(certificate).keys() != _ATTRIBUTES:
                return False
        certificates = [certificate._X509Certificate__certObj for certificate in chain._certList]
        entry.expires = min(_expires(self._m2crypto, certificate) for certificate in certificates)
        entry.made = _Parsed(
            certificates,
            chain._keyObj,
            chain._X509Chain__isProxy,
            chain._X509Chain__isLimitedProxy,
            chain._X509Chain__firstProxyStep,
        )
        return True


def _giving(fitting: Fitting) -> Callable[[Any, Any], Any]:
    """What gives a chain its own copy of a parse, and returns the host's answer."""
    from M2Crypto import EVP, X509  # before 8.0.59 the host's module imports only M2Crypto itself

    new_certificate = _certificate_class(fitting.resolve("X509Certificate"), X509)
    new_key = _key_class(EVP.PKey)
    new_answer = fitting.resolve("S_OK")().copy

    def give(chain: Any, parsed: Any) -> Any:
        x509s, shared, is_proxy, is_limited, first_proxy_step = parsed
        certificates = []
        for x509 in x509s:
            certificate = new_certificate()
            certificate._X509Certificate__certObj = x509
            certificates.append(certificate)
        key = new_key()
        key._shared = shared
        chain._certList = certificates
        chain._keyObj = key
        chain._X509Chain__isProxy = is_proxy
        chain._X509Chain__isLimitedProxy = is_limited
        chain._X509Chain__firstProxyStep = first_proxy_step
        chain._X509Chain__hash = False
        return new_answer()

    return give


def _fast(fitting: Fitting, loader: _Loader) -> Any:
    """What stands in for loadProxyFromFile: serves what is remembered, and leaves the rest to the loader.

    One function with local names, because clients call it for every connection.
    """
    guard, kept, find, give, slow = fitting.guard, loader.kept, loader.kept.find, loader.give, loader.load
    original = fitting.unbound(_METHOD)
    stat_of, access, effective_user, monotonic = os.stat, os.access, os.geteuid, time.monotonic

    def loadProxyFromFile(self: Any, chainLocation: Any) -> Any:
        if not guard.off and (type(chainLocation) is str or isinstance(chainLocation, _PATHS)):
            try:
                found = stat_of(chainLocation)
                # The same key as the loader's: a State equals a tuple.
                state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
                entry = find((state, effective_user()))
                if (
                    entry is not None
                    and (parsed := entry.made) is not None
                    and access(chainLocation, 4, effective_ids=True)  # os.R_OK
                ):
                    entry.used = now = monotonic()
                    if now >= kept.next_sweep:
                        kept.sweep()
                    return give(self, parsed)
            except (OSError, ValueError):  # no such file, or no such path
                pass
            except Exception as error:
                guard.failed(error)
                return original(self, chainLocation)
        return slow(self, chainLocation)

    return loadProxyFromFile


class _WithoutCache(dict[str, Any]):
    """The names of the host's module, with a cache that stays empty.

    Nor does the host's function ask for the file's state, which raises for what is no path; ``open``, which comes next,
    is within its ``try``.
    """

    def __init__(self, module: Any) -> None:
        self._names = vars(module)
        state = SimpleNamespace(st_mtime_ns=0, st_size=0, st_ino=0)
        super().__init__({_IN_TREE: _Empty(), "os": SimpleNamespace(stat=lambda path: state)})

    def __missing__(self, name: str) -> Any:
        return self._names[name]


class _Empty(OrderedDict[Any, Any]):
    def __setitem__(self, key: Any, value: Any) -> None:
        """Keeps nothing."""


def _reading(fitting: Fitting) -> Any:
    """The host's function; with the guard on, without the cache that it has from 9.1.9 on."""
    guard, original = fitting.guard, fitting.unbound(_METHOD)
    if _IN_TREE not in fitting.names_in(_METHOD):
        return original
    function = fitting.resolve(_METHOD)
    while not isinstance(function, FunctionType) or hasattr(function, "__wrapped__"):  # somebody's wrapper
        function = function.__wrapped__
    # The names are looked up in the module at each call, because a dictionary of another class has no fixed place.
    uncached = FunctionType(function.__code__, _WithoutCache(fitting.module), function.__name__)
    uncached.__module__ = function.__module__

    def load(chain: Any, path: Any) -> Any:
        return (original if guard.off else uncached)(chain, path)

    return load


def _look(fitting: Fitting) -> None:
    fitting.expect(_METHOD, "open", "loadProxyFromString")
    fitting.resolve("S_OK")
    if "stat" in fitting.names_in(_METHOD):
        fitting.expect(_METHOD, _IN_TREE)
        wrong = "serves stale proxies, and proxies that this user may not read"
        raise InTree("the host remembers proxies itself", wrong, _replace)


def _replace(fitting: Fitting) -> None:
    fitting.undoing.append(fitting.resolve(_IN_TREE).clear)  # it holds private keys, too
    _put_on(fitting)


def _put_on(fitting: Fitting) -> None:
    loader = _Loader(fitting)
    fitting.stand_in(_METHOD, _fast(fitting, loader), against(loader.original, _same_chain))
    loader.kept.until_off(fitting)


def _same_chain(answer: Any, original: Any, args: Any, kwargs: Any) -> str:
    """The check against stock, on a chain of its own. Says nothing of what is in a chain."""
    chain, *rest = args
    fresh = type(chain)()
    if without_stacks(original(fresh, *rest, **kwargs)) != without_stacks(answer):
        return "a different answer"
    return "" if not answer["OK"] or fresh.dumpAllToString() == chain.dumpAllToString() else "a different chain"


def test_proxy() -> str:
    """The path of the host's own test proxy."""
    import DIRAC

    proxy = os.path.join(os.path.dirname(DIRAC.__file__), "Core", "Security", "test", "certs", "voms", "proxy.pem")
    if not os.path.exists(proxy):
        raise NotAsked("this host came without its test proxy")
    return proxy


def _ask(database: Database | None) -> Any:
    from DIRAC.Core.Security.X509Chain import X509Chain

    proxy = test_proxy()
    answers: list[Any] = []
    for pause in (0, 2 * _files.TICK, 0):  # seen, parsed and kept, served
        time.sleep(pause)
        chain = X509Chain()
        loaded = chain.loadProxyFromFile(proxy)
        credentials = chain.getCredentials()
        if credentials["OK"]:
            del credentials["Value"]["secondsLeft"]  # it differs from one second to the next
        answers.append((loaded, chain.dumpAllToString(), chain.isProxy(), credentials))
    answers.append(X509Chain().loadProxyFromFile("/no/such/proxy"))
    return without_stacks(answers)


@contextlib.contextmanager
def test_proxies(number: int) -> Iterator[list[str]]:
    """The paths of copies of the test proxy, which only this user may read."""
    import shutil
    import tempfile

    proxy = test_proxy()
    with tempfile.TemporaryDirectory(prefix="perfpatch-") as folder:
        paths = [os.path.join(folder, f"proxy_{name}.pem") for name in range(number)]
        for path in paths:
            shutil.copyfile(proxy, path)
            os.chmod(path, 0o600)
        yield paths


def _in_turn(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    """``size`` copies of the test proxy, loaded in turn by one chain."""
    import itertools

    from DIRAC.Core.Security.X509Chain import X509Chain

    chain = X509Chain()
    with test_proxies(size) as paths:
        yield lambda number: timed(map(chain.loadProxyFromFile, itertools.cycle(paths)).__next__, number)


PATCH = Patch(
    name="proxy_loading",
    # One file, but two modules with a class each: DIRAC.Core.Security has the folder m2crypto on its path, and nearly
    # all of the host imports the class by the shorter name. Chains and certificates of the two must not be mixed.
    targets=tuple(
        Target((module,), "X509Chain.loadProxyFromFile", _look, _put_on)
        for module in ("DIRAC.Core.Security.X509Chain", "DIRAC.Core.Security.m2crypto.X509Chain")
    ),
    ask=_ask,
    cases=(Case("loadProxyFromFile", _in_turn, (1, 64), (1, 4, 8, 16, 64, 256), "files", True, 2 * _files.TICK),),
    spares=("hits", "misses"),
)
