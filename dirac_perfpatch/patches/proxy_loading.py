"""X509Chain.loadProxyFromFile: an unchanged proxy file is parsed once.

The host reads and parses the file at every call, 1 ms each, and clients call it for every connection. We keep what one
parse made, and give each chain its own copy.

The same answer, so that a stale or forbidden one is impossible rather than unlikely:

- An entry is for one file (device and inode, so links that are switched and relative paths need no thought) in one
  state (size, and the times of the last change of content and of inode), and for one reader (effective user). The file
  must be readable for this process now: by owner and mode, or else the kernel is asked, at every call.
- A file can change twice within one tick of its file system's clock, and then looks the same both times. So a parse is
  only kept if the file had been in this state for longer than a tick before the parse began, by our own clock, and
  still was in it when the parse had ended. Younger files are parsed at every call. (Git calls such entries racily
  clean.)
- A network file system may answer ``stat`` from a cache of its own where ``open``, which the host uses, asks the
  server. Only file systems that are known to be local are served from our cache.
- Lists and certificate objects are copied for each chain, so callers cannot reach each other through them.

Private keys of proxies that have expired or were not used for an hour are forgotten at the next use of any proxy.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from typing import Any, NamedTuple

from dirac_perfpatch.patching import Database, InTree, NotAsked, Patch, Site, Target, without_stacks

# Seconds for which a file must have been as it is. Kernels stamp files with the time of their last tick, at most 10 ms
# ago; where both times have no fraction, the file system may store whole seconds (two of them in FAT).
_TICK = 0.05
_COARSE_TICK = 2.5
# Seconds between two looks for keys that nobody needs, and without use after which a key is one.
_SWEEP_SECONDS = 60.0
_UNUSED_SECONDS = 3600.0
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


class _Parsed(NamedTuple):
    """What one parse made; never handed out itself."""

    certificates: tuple[dict[str, Any], ...]  # the attributes of each
    certificate_class: type
    key: Any
    is_proxy: bool
    is_limited: bool
    first_proxy_step: int
    expires: float  # time.time()


class _Entry:
    """One file in one state, seen since some time, and what its parse made once that may be kept."""

    __slots__ = ("changed", "parsed", "since", "size", "status_changed", "used")

    def __init__(self, found: os.stat_result) -> None:
        # Whatever is done to an inode sets its time of change, so owner and mode need not be looked at, too.
        self.size = found.st_size
        self.changed = found.st_mtime_ns
        self.status_changed = found.st_ctime_ns
        self.since = self.used = time.monotonic()
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

    Looking one up takes no lock: it is one operation on a dictionary, and an entry that another thread has just dropped
    is as good as it was a moment earlier. Changing the dictionary takes the lock, for a few operations.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: dict[tuple[int, ...], _Entry] = {}
        self._lock = threading.Lock()
        self._next_sweep = 0.0
        self.find = self._entries.get

    def add(self, key: tuple[int, ...], found: os.stat_result) -> _Entry:
        """A new entry, in the place of one for another state of the file."""
        entry = _Entry(found)
        with self._lock:
            self._entries[key] = entry
            if len(self._entries) > self._limit:
                self._entries.pop(min(self._entries, key=lambda known: self._entries[known].used))
        return entry

    def sweep(self, now: float) -> None:
        """Forget private keys that nobody needs: of proxies that have expired, or that were not used for an hour."""
        if now < self._next_sweep:
            return
        self._next_sweep = now + _SWEEP_SECONDS
        with self._lock:
            for key, entry in list(self._entries.items()):
                expired = entry.parsed is not None and entry.parsed.expires < time.time()
                if expired or now - entry.used > _UNUSED_SECONDS:
                    del self._entries[key]


def _may_read(path: Any, found: os.stat_result, user: int) -> bool:
    """Whether this process may read the file now.

    The owner may if the mode says so, which is how proxies are; the way to the file is open, or nothing was found. For
    anybody else the kernel knows: groups, access lists, capabilities.
    """
    if found.st_uid == user and found.st_mode & stat.S_IRUSR:
        return True
    return os.access(path, os.R_OK, effective_ids=True)


def _is_local(path: Any) -> bool:
    import ctypes  # only for the first proxy on each device

    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(512)  # struct statfs is 120 bytes; f_type is its first word
    if libc.statfs(os.fsencode(path), buffer) != 0:
        return False
    return ctypes.c_ulong.from_buffer(buffer).value & 0xFFFFFFFF in _LOCAL_TYPES


def _take(chain: Any) -> _Parsed:
    return _Parsed(
        certificates=tuple(dict(vars(certificate)) for certificate in chain._certList),
        certificate_class=type(chain._certList[0]),
        key=chain._keyObj,
        is_proxy=chain._X509Chain__isProxy,
        is_limited=chain._X509Chain__isLimitedProxy,
        first_proxy_step=chain._X509Chain__firstProxyStep,
        expires=time.time() + chain.getRemainingSecs()["Value"],
    )


def _give(parsed: _Parsed, chain: Any) -> None:
    new, kind = object.__new__, parsed.certificate_class
    certificates = []
    for attributes in parsed.certificates:
        certificate: Any = new(kind)
        certificate.__dict__.update(attributes)
        certificates.append(certificate)
    chain._certList = certificates
    chain._keyObj = parsed.key
    chain._X509Chain__isProxy = parsed.is_proxy
    chain._X509Chain__isLimitedProxy = parsed.is_limited
    chain._X509Chain__firstProxyStep = parsed.first_proxy_step
    chain._X509Chain__hash = False


class _Loader:
    """What stands in for loadProxyFromFile, with what it remembers."""

    def __init__(self, site: Site) -> None:
        self._guard = site.guard
        self._s_ok = site.resolve("S_OK")
        self._original = site.resolve("X509Chain.loadProxyFromFile")
        self._store = _Store(site.options["max_proxies"])
        self._local: dict[int, bool] = {}  # by device

    def load(self, chain: Any, path: Any) -> Any:
        """Load a proxy into a chain, as the host's method does, and return what it returns."""
        if self._guard.off or not isinstance(path, (str, bytes, os.PathLike)):
            return self._original(chain, path)
        try:
            entry = self._entry(path)
            if entry is not None and entry.parsed is not None:
                _give(entry.parsed, chain)
                return self._s_ok()
            settled = entry is not None and entry.is_settled()
        except (OSError, ValueError):  # no such file, or no such path: the host knows what to answer
            entry, settled = None, False
        except Exception as error:
            self._guard.failed(error)
            entry, settled = None, False
        answer = self._original(chain, path)
        if settled and answer["OK"]:
            self._keep(entry, path, chain)
        return answer

    def _entry(self, path: Any) -> _Entry | None:
        """The entry of the file that the path leads to, in the state that it is in; None if it is not to be kept."""
        found, user = os.stat(path), os.geteuid()
        if not _may_read(path, found, user):
            return None
        key = (found.st_dev, found.st_ino, user)
        entry = self._store.find(key)
        if entry is not None and entry.is_of(found):
            entry.used = now = time.monotonic()
            self._store.sweep(now)
            return entry
        if not stat.S_ISREG(found.st_mode) or not self._is_on_local_device(path, found.st_dev):
            return None
        return self._store.add(key, found)

    def _is_on_local_device(self, path: Any, device: int) -> bool:
        if device not in self._local:
            self._local[device] = _is_local(path)
        return self._local[device]

    def _keep(self, entry: _Entry | None, path: Any, chain: Any) -> None:
        try:
            # The path must still lead to the file in the state that it had before the parse.
            if entry is not None and self._entry(path) is entry:
                entry.parsed = _take(chain)
                _give(entry.parsed, chain)  # the caller's chain gets copies, too
        except OSError:
            return
        except Exception as error:
            self._guard.failed(error)


def _look(site: Site) -> None:
    if "stat" in site.names_in("X509Chain.loadProxyFromFile"):
        raise InTree("the host remembers proxies itself")
    site.expect("X509Chain.loadProxyFromFile", "open", "loadProxyFromString")
    site.resolve("S_OK")


def _put_on(site: Site) -> None:
    load = _Loader(site).load

    def loadProxyFromFile(self: Any, chainLocation: Any) -> Any:
        return load(self, chainLocation)

    site.stand_in("X509Chain.loadProxyFromFile", loadProxyFromFile)


def _ask(database: Database | None) -> Any:
    import DIRAC
    from DIRAC.Core.Security.X509Chain import X509Chain

    proxy = os.path.join(os.path.dirname(DIRAC.__file__), "Core", "Security", "test", "certs", "voms", "proxy.pem")
    if not os.path.exists(proxy):
        raise NotAsked("this host came without its test proxy")
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


PATCH = Patch(
    name="proxy_loading",
    # One file, but two modules with a class each: DIRAC.Core.Security has the folder m2crypto on its path, and nearly
    # all of the host imports the class by the shorter name. Chains and certificates of the two must not be mixed.
    targets=tuple(
        Target((module,), "X509Chain.loadProxyFromFile", _look, _put_on)
        for module in ("DIRAC.Core.Security.X509Chain", "DIRAC.Core.Security.m2crypto.X509Chain")
    ),
    ask=_ask,
)
