"""X509Chain.loadProxyFromFile: an unchanged proxy file is parsed once.

The host reads and parses the file at every call, 1 ms each, and clients call it for every connection. We keep what one
parse made, and give each chain its own copy.

The same answer, so that a stale or forbidden one is impossible rather than unlikely:

- An entry is for one file (device and inode, so links that are switched and relative paths need no thought) in one
  state (size, and the times of the last change of content and of inode), and for one reader (effective user), so that a
  path which is switched between two steps leads nobody to what only another user has read. The file must be readable
  for this thread now: the kernel, which knows groups, access lists and capabilities, is asked at every call.
- A file can change twice within one tick of its file system's clock, and then looks the same both times. So a parse is
  only kept if the file had been in this state for longer than a tick before it was read, by our own clock; a change
  while it is read or later then shows in the state. Younger files are parsed at every call. (Git calls such entries
  racily clean.)
- What is kept was read from the file that the entry is for, by its descriptor, whatever the path leads to meanwhile.
- Not seen: a write through a mapped file (``mmap``), which the kernel notes in the times only when it writes the page
  back. Nothing writes a proxy in that way.
- A network file system may answer ``stat`` from a cache of its own where ``open``, which the host uses, asks the
  server. Only file systems that are known to be local are served from our cache.

What the chains of one file share, and why threads may: OpenSSL's certificates and keys, which are only read.
openssl-threads(7) says that reading them is safe, that what they remember of it (encodings, extensions) is under their
own locks, that references are counted, and that two threads may sign with one key in contexts of their own. M2Crypto's
object that owns such a thing frees it when the last chain has gone and we have dropped it, never earlier.

What they do not share, so that callers cannot reach each other:

- Lists of certificates, the host's certificate objects, and M2Crypto's key objects, which have a context to sign in.
- Certificates, from the moment when somebody signs them, or takes out a part that could be changed in place (subject,
  extension, public key): then M2Crypto's object is copied first. The same for a key that is assigned to.
- Chains that were handed out stay so when the patch is taken off.

No lock: a signal handler may load the proxy that its thread is loading (the JobWrapper's does), and a fork may come at
any time. What two threads parse at once is the same proxy.

Private keys of proxies that have expired or were not used for an hour are forgotten at the next load of any proxy, or
when Python's garbage collector runs next, at most a minute later. A process that neither loads a proxy nor creates
objects keeps them until it does or ends; so does one that has switched the collector off, until it loads a proxy. All
are forgotten when the patch is taken off. No key is ever turned into text here.
"""

from __future__ import annotations

import gc
import math
import os
import stat
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

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

# Seconds for which a file must have been as it is. Kernels stamp files with the time of their last tick, at most 10 ms
# ago; where both times have no fraction, the file system may store whole seconds (two of them in FAT).
_TICK = 0.05
_COARSE_TICK = 2.5
# Seconds between two looks for keys that nobody needs, and without use after which a key is one.
_SWEEP_SECONDS = 60.0
_UNUSED_SECONDS = 3600.0
_Key = tuple[int, int, int]  # device, inode, effective user
# What open() takes, without descriptors, which it would close.
_PATHS = (str, bytes, os.PathLike)
# All that a certificate of the host's has.
_CERTIFICATE_ATTRIBUTES = {"_certLoaded", "_X509Certificate__certObj"}
# f_type of statfs(2) for file systems whose stat() is always as fresh as their open().
_LOCAL_TYPES = frozenset(
    {
        0xEF53,  # ext2, ext3, ext4
        0x58465342,  # xfs
        0x9123683E,  # btrfs
        0x01021994,  # tmpfs
        0x858458F6,  # ramfs
        0x794C7630,  # overlayfs
        0x2FC12FC1,  # zfs
        0xF2F52010,  # f2fs
    }
)


class _Parsed:
    """What one parse made."""

    __slots__ = ("first", "first_proxy_step", "is_limited", "is_proxy", "key", "others")

    def __init__(self, chain: Any) -> None:
        self.first, *self.others = [certificate._X509Certificate__certObj for certificate in chain._certList]
        self.key = chain._keyObj
        self.is_proxy = chain._X509Chain__isProxy
        self.is_limited = chain._X509Chain__isLimitedProxy
        self.first_proxy_step = chain._X509Chain__firstProxyStep


class _Entry:
    """One file in one state, seen since some time, and what its parse made once that may be kept."""

    __slots__ = ("changed", "expires", "parsed", "since", "size", "status_changed", "used")

    def __init__(self, found: os.stat_result) -> None:
        # Whatever is done to an inode sets its time of change, so owner and mode need not be compared, too.
        self.size = found.st_size
        self.changed = found.st_mtime_ns
        self.status_changed = found.st_ctime_ns
        self.since = self.used = time.monotonic()
        self.expires = math.inf  # time.time()
        self.parsed: _Parsed | None = None

    def is_of(self, found: os.stat_result) -> bool:
        """Whether the file is still in the state that this entry is for."""
        return (
            self.status_changed == found.st_ctime_ns
            and self.changed == found.st_mtime_ns
            and self.size == found.st_size
        )

    def is_settled(self) -> bool:
        """Whether a change after now would show in the state."""
        coarse = self.changed % 1_000_000_000 == 0 and self.status_changed % 1_000_000_000 == 0
        return time.monotonic() - self.since > (_COARSE_TICK if coarse else _TICK)


class _Store:
    """Entries by file and reader; the one that was not used for the longest time goes first.

    No lock: each step is one operation on a dictionary. An entry that another thread has just dropped is as good as it
    was a moment earlier; one that is dropped although it is new is parsed again. A signal handler, the garbage
    collector or a fork may come in between any two steps.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: dict[_Key, _Entry] = {}
        self.next_sweep = 0.0
        self.find = self._entries.get

    def add(self, key: _Key, found: os.stat_result) -> _Entry:
        """A new entry, in the place of one for another state of the file."""
        entry = self._entries[key] = _Entry(found)
        while len(self._entries) > self._limit:  # more than once, if other threads took the same one for the oldest
            by_use = {known.used: key for key, known in self._snapshot()}
            self._entries.pop(by_use.get(min(by_use, default=0.0), key), None)
        self.sweep(entry.used)
        return entry

    def sweep(self, now: float) -> None:
        """Forget private keys that nobody needs: of proxies that have expired, or that were not used for an hour."""
        if now < self.next_sweep:
            return
        self.next_sweep = now + _SWEEP_SECONDS
        for key, entry in self._snapshot():
            if entry.expires < time.time() or now - entry.used > _UNUSED_SECONDS:
                self._entries.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def _snapshot(self) -> list[tuple[_Key, _Entry]]:
        # Of the keys first: a list of them is made in one step, one of pairs is not, because making pairs may start the
        # garbage collector, which sweeps.
        return [(key, entry) for key in list(self._entries) if (entry := self._entries.get(key)) is not None]


def _may_read(path: Any) -> bool:
    """Whether this thread may read the file now: the kernel knows groups, access lists and capabilities."""
    return os.access(path, os.R_OK, effective_ids=True)


def _is_local(path: Any) -> bool:
    import ctypes  # only for the first proxy on each device

    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(512)  # struct statfs is 120 bytes; f_type is its first word
    if libc.statfs(os.fsencode(path), buffer) != 0:
        return False
    return ctypes.c_ulong.from_buffer(buffer).value & 0xFFFFFFFF in _LOCAL_TYPES


def _certificate_class(host_class: Any, x509_module: Any) -> type:
    """A class of certificates that share M2Crypto's object until somebody wants to change it, or a part of it.

    Args:
        host_class: X509Certificate.
        x509_module: M2Crypto's.
    """
    from_der = x509_module.load_cert_der_string

    class Certificate(host_class):
        __init__ = object.__init__  # one attribute is all that differs between them
        _certLoaded = True
        _own_object: Any = None
        _X509Certificate__certObj: Any

        def _own(self) -> None:
            if self._own_object is None:
                copied = from_der(self._X509Certificate__certObj.as_der())
                # Of two threads one is first, in one step, and both take its copy: a name that one of them got points
                # into the object that the other would throw away.
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
    """A class of keys that share OpenSSL's object, but not the context that M2Crypto signs and verifies in.

    Args:
        host_class: M2Crypto's PKey.
    """

    class Key(host_class):
        __init__ = object.__init__
        _pyfree = 0
        _shared: Any  # M2Crypto's key that owns OpenSSL's object
        _context: Any = None  # one with a context; most keys need none

        def __del__(self) -> None:
            """What there is to free, the two others free."""

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
    """The slow way to load a proxy, and what is remembered for the fast one.

    Args:
        fitting: Of loadProxyFromFile.
    """

    def __init__(self, fitting: Fitting) -> None:
        self.store = _Store(fitting.options["max_proxies"])
        self.serve: Any = None  # the fast way, once there is one
        self._guard = fitting.guard
        self._original = fitting.unbound("X509Chain.loadProxyFromFile")
        self._certificate_class = fitting.resolve("X509Certificate")
        self._key_class = fitting.resolve("M2Crypto").EVP.PKey
        self._local: dict[int, bool] = {}  # by device

    def load(self, chain: Any, path: Any) -> Any:
        """Load a proxy into a chain as the host does, and remember it if that is safe."""
        entry = text = None
        self._guard.note("misses")
        if not self._guard.off and isinstance(path, _PATHS):
            try:
                found = os.stat(path)
                entry = self._entry(path, found)
                if entry is not None and entry.is_settled():
                    text = self._text(path, found)
            except (OSError, ValueError):  # no such file, no such path, no text: the host knows what to answer
                pass
            except Exception as error:
                self._guard.failed(error)
        if entry is None or text is None:
            return self._original(chain, path)
        answer = chain.loadProxyFromString(text)
        if answer["OK"] and self._keep(entry, chain):
            return self.serve(chain, path)  # what we keep, the caller must not have
        return answer

    def _text(self, path: Any, found: os.stat_result) -> str | None:
        """What is in the file, read as the host reads it; None if it is not the file that was found.

        Not by the host, because what the path leads to may be switched before it opens it and back afterwards.
        """
        with open(path) as stream:
            # If the file changes after it was found, so does its state, and the entry is of no use to anybody.
            return stream.read() if os.path.samestat(found, os.fstat(stream.fileno())) else None

    def _entry(self, path: Any, found: os.stat_result) -> _Entry | None:
        """The entry of the file that was found, in the state that it is in; None if it is not to be kept."""
        if not _may_read(path):
            return None
        key = (found.st_dev, found.st_ino, os.geteuid())
        entry = self.store.find(key)
        if entry is not None and entry.is_of(found):
            return entry
        if not stat.S_ISREG(found.st_mode) or not self._is_on_local_device(path, found.st_dev):
            return None
        return self.store.add(key, found)

    def _is_on_local_device(self, path: Any, device: int) -> bool:
        if device not in self._local:
            self._local[device] = _is_local(path)
        return self._local[device]

    def _keep(self, entry: _Entry, chain: Any) -> bool:
        """Keep what a parse has made. Returns: whether it is kept."""
        try:
            if not self._is_known(chain):
                return False
            entry.expires = time.time() + chain.getRemainingSecs()["Value"]
            entry.parsed = _Parsed(chain)
            return True
        except Exception as error:
            self._guard.failed(error)
            return False

    def _is_known(self, chain: Any) -> bool:
        """Whether the parse made what we know how to share."""
        return type(chain._keyObj) is self._key_class and all(
            type(certificate) is self._certificate_class and vars(certificate).keys() == _CERTIFICATE_ATTRIBUTES
            for certificate in chain._certList
        )


def _fast(fitting: Fitting, loader: _Loader) -> Any:
    """What stands in for loadProxyFromFile.

    One function with all names in cells: half of its time is the look at the file, and calls and attributes would be
    most of the other half. What is not remembered, and whatever goes wrong, goes the slow way.
    """
    guard, store, find, slow = fitting.guard, loader.store, loader.store.find, loader.load
    original = fitting.unbound("X509Chain.loadProxyFromFile")
    new_certificate = _certificate_class(fitting.resolve("X509Certificate"), fitting.resolve("M2Crypto").X509)
    new_key = _key_class(fitting.resolve("M2Crypto").EVP.PKey)
    new_answer = fitting.resolve("S_OK")().copy
    stat_of, access, effective_user, monotonic = os.stat, os.access, os.geteuid, time.monotonic

    def loadProxyFromFile(self: Any, chainLocation: Any) -> Any:
        if not guard.off and (type(chainLocation) is str or isinstance(chainLocation, _PATHS)):
            try:
                found = stat_of(chainLocation)
                entry = find((found.st_dev, found.st_ino, effective_user()))
                if (
                    entry is not None
                    and (parsed := entry.parsed) is not None
                    and entry.status_changed == found.st_ctime_ns
                    and entry.changed == found.st_mtime_ns
                    and entry.size == found.st_size
                    and access(chainLocation, 4, effective_ids=True)  # os.R_OK
                ):
                    entry.used = now = monotonic()
                    if now >= store.next_sweep:
                        store.sweep(now)
                    certificate = new_certificate()
                    certificate._X509Certificate__certObj = parsed.first
                    certificates = [certificate]
                    for x509 in parsed.others:
                        certificate = new_certificate()
                        certificate._X509Certificate__certObj = x509
                        certificates.append(certificate)
                    key = new_key()
                    key._shared = parsed.key
                    self._certList = certificates
                    self._keyObj = key
                    self._X509Chain__isProxy = parsed.is_proxy
                    self._X509Chain__isLimitedProxy = parsed.is_limited
                    self._X509Chain__firstProxyStep = parsed.first_proxy_step
                    self._X509Chain__hash = False
                    return new_answer()
            except (OSError, ValueError):  # no such file, or no such path
                pass
            except Exception as error:
                guard.failed(error)
                return original(self, chainLocation)
        return slow(self, chainLocation)

    return loadProxyFromFile


def _look(fitting: Fitting) -> None:
    if "stat" in fitting.names_in("X509Chain.loadProxyFromFile"):
        raise InTree("the host remembers proxies itself")
    fitting.expect("X509Chain.loadProxyFromFile", "open", "loadProxyFromString")
    fitting.resolve("S_OK")


def _put_on(fitting: Fitting) -> None:
    loader = _Loader(fitting)
    loader.serve = _fast(fitting, loader)
    store = loader.store

    def collected(phase: str, info: Any) -> None:
        store.sweep(time.monotonic())

    fitting.stand_in("X509Chain.loadProxyFromFile", loader.serve, _same_chain)
    gc.callbacks.append(collected)
    fitting.undoing.extend((store.clear, partial(gc.callbacks.remove, collected)))


def _same_chain(answer: Any, original: Any, args: Any, kwargs: Any) -> str:
    """The check against stock, on a chain of its own. What a chain has in it is compared and not told."""
    chain, *rest = args
    fresh = type(chain)()
    if without_stacks(original(fresh, *rest, **kwargs)) != without_stacks(answer):
        return "another answer"
    return "" if not answer["OK"] or fresh.dumpAllToString() == chain.dumpAllToString() else "another chain"


def test_proxy() -> str:
    """The path of the host's own."""
    import DIRAC

    proxy = os.path.join(os.path.dirname(DIRAC.__file__), "Core", "Security", "test", "certs", "voms", "proxy.pem")
    if not os.path.exists(proxy):
        raise NotAsked("this host came without its test proxy")
    return proxy


def _ask(database: Database | None) -> Any:
    from DIRAC.Core.Security.X509Chain import X509Chain

    proxy = test_proxy()
    answers: list[Any] = []
    for pause in (0, 2 * _TICK, 0):  # seen, parsed and kept, served
        time.sleep(pause)
        chain = X509Chain()
        loaded = chain.loadProxyFromFile(proxy)
        credentials = chain.getCredentials()
        if credentials["OK"]:
            del credentials["Value"]["secondsLeft"]  # it differs from one second to the next
        answers.append((loaded, chain.dumpAllToString(), chain.isProxy(), credentials))
    answers.append(X509Chain().loadProxyFromFile("/no/such/proxy"))
    return without_stacks(answers)


def _in_turn(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    """So many copies of the test proxy, loaded in turn by one chain."""
    import itertools
    import shutil
    import tempfile

    from DIRAC.Core.Security.X509Chain import X509Chain

    proxy = test_proxy()
    with tempfile.TemporaryDirectory(prefix="perfpatch-") as folder:
        paths = [os.path.join(folder, f"proxy_{number}.pem") for number in range(size)]
        for path in paths:
            shutil.copyfile(proxy, path)
            os.chmod(path, 0o600)
        chain = X509Chain()
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
    cases=(
        Case(
            "loadProxyFromFile",
            _in_turn,
            (1, 64),
            (1, 4, 8, 16, 64, 256),
            "files",
            in_turn=True,
            settle_seconds=2 * _TICK,
        ),
    ),
    spares=("hits", "misses"),
)
