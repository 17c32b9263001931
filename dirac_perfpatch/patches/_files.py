"""Keeping what was made from files, for exactly as long as the files stay as they are.

A file is recognised by its state: device, inode, size, and the times of the last change of content and of inode. Two
changes within one tick of the file system's clock leave the same state. So something is kept only if its files had been
in their state for longer than a tick, by our own clock, before they were read, and still were afterwards; a later
change then shows in the state. (Git calls younger entries racily clean.)

A network file system may answer ``stat`` from a cache of its own where ``open`` asks the server, so only what is read
from file systems known to be local is kept. Not seen: a write through a mapped file (``mmap``), until the kernel writes
the page back.
"""

from __future__ import annotations

import contextlib

# Here and not where it is used: a child of a fork would wait for an import that another thread was in the middle of.
import ctypes
import gc
import math
import os
import re
import stat
import time
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Any, Generic, NamedTuple, Optional, TypeVar

from dirac_perfpatch.patching import Fitting

# Seconds for which a file must have been as it is. Kernels stamp files with the time of their last tick, at most 10 ms
# ago; where the times have no fraction, the file system may store whole seconds (FAT: two of them).
TICK = 0.05
COARSE_TICK = 2.5
# Seconds without use after which something is forgotten, and between two looks for that: it may hold a private key.
_UNUSED_SECONDS = 3600.0
_SWEEP_SECONDS = 60.0
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
# What OpenSSL looks up in a folder of CAs: the hash of a subject, and a number. by_dir.c opens files by names in small
# letters. In the system's folder, OpenSSL 3 also searches by file_name_check() of file_store.c, which ignores case.
# Revocation lists, whose number follows an r, are read only if the verify flags ask for them.
_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+", re.IGNORECASE)
# The most links that Linux follows (path_resolution(7)).
_MOST_LINKS = 40
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_ALL_MAY_READ = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH

Key = Optional[Hashable]
Made = TypeVar("Made")

_local: dict[int, bool] = {}  # by device


class State(NamedTuple):
    """What tells a file from what it was before. The times are those of content and inode, in nanoseconds."""

    device: int
    inode: int
    size: int
    changed: int
    status_changed: int


def state(path: Any) -> State:
    """The state of a file or folder.

    Raises:
        OSError: It is not there.
        LookupError: It is on a file system that is not known to be local, so nothing that is made from it can be kept.
    """
    return _state_of(path, os.stat(path))


def readable_state(path: Any) -> State:
    """The state of a regular file that this thread may read now.

    The file is opened, so the kernel decides, for exactly the file whose state this is. Between ``stat`` and
    :func:`may_read`, the path could be made to lead to another file.

    Raises:
        OSError: It is not there, or may not be read.
        LookupError: It is not a regular file, or as for :func:`state`.
    """
    descriptor = _open(path)
    try:
        return _state_of(path, os.fstat(descriptor))
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def opened(path: Any, expected: State) -> Iterator[int]:
    """A descriptor of the file at the path, if that is still the file in this state.

    Whatever the path leads to later, what is read from the descriptor comes from this file; whether it was still in
    this state must be asked again afterwards.

    Raises:
        OSError, LookupError: As for :func:`readable_state`; LookupError also if the state is another one.
    """
    descriptor = _open(path)
    try:
        if _state_of(path, os.fstat(descriptor)) != expected:
            raise LookupError(path)
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def pinned(path: Any, expected: State) -> Iterator[str]:
    """A path of the file that :func:`opened` opens, whatever its own path leads to by now; raises as that does."""
    with opened(path, expected) as descriptor:
        there = f"/proc/self/fd/{descriptor}"
        if not os.path.samestat(os.stat(there), os.fstat(descriptor)):
            raise LookupError(path)
        yield there


def may_read(path: Any) -> bool:
    """Whether this thread may read the file now: the kernel knows groups, access lists and capabilities."""
    return os.access(path, os.R_OK, effective_ids=True)


def _open(path: Any) -> int:
    # Asked before it is opened: opening a pipe would wake whoever writes to it.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise LookupError(path)
    return os.open(path, _READ)


def _state_of(path: Any, found: os.stat_result) -> State:
    if not is_local(path, found.st_dev):
        raise LookupError(path)
    return State(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def is_local(path: Any, device: int) -> bool:
    """Whether a file is on a file system whose ``stat`` is always as fresh as its ``open``.

    Args:
        path: Of the file.
        device: Its ``st_dev``; the answer is kept for that.
    """
    if device not in _local:
        libc = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(512)  # struct statfs is 120 bytes; f_type is its first word
        found = libc.statfs(os.fsencode(path), buffer) == 0
        _local[device] = found and ctypes.c_ulong.from_buffer(buffer).value & 0xFFFFFFFF in _LOCAL_TYPES
    return _local[device]


class Entry(Generic[Made]):
    """One state of some files, since when it has been seen, and what was made of it once that may be kept."""

    __slots__ = ("expires", "made", "since", "used")

    def __init__(self) -> None:
        self.made: Made | None = None
        self.since = self.used = time.monotonic()
        self.expires = math.inf  # time.time()

    def is_settled(self, key: Key) -> bool:
        """Whether a change after now would show in the state."""
        return time.monotonic() - self.since > (COARSE_TICK if _is_coarse(key) else TICK)


class Kept(Generic[Made]):
    """What was made from files, by their states.

    No lock: each step is one operation on a dictionary. What two threads make at once is the same. A signal handler,
    the garbage collector or a fork may come in between any two steps. An entry that another thread has just dropped is
    as good as it was a moment earlier; what is put into it is made again.

    Args:
        limit: The most entries; those that were not used for the longest time go first.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: dict[Hashable, Entry[Made]] = {}
        self.next_sweep = 0.0  # time.monotonic()
        self.find = self._entries.get
        self.clear = self._entries.clear

    def until_off(self, fitting: Fitting) -> None:
        """Forget everything when the patch is taken off, and meanwhile what is unused also while nothing is asked for.

        The garbage collector, which runs in any process that does something, starts the second.
        """
        gc.callbacks.append(self._collected)
        fitting.undoing.extend((self.clear, partial(gc.callbacks.remove, self._collected)))

    def get(
        self, look: Callable[[], Key], make: Callable[[Any], Made], unkept: Callable[[], Made] | None = None
    ) -> Made:
        """What was made from files in their present state, or is made now.

        It must be made from exactly the files that were seen. Between two looks that agree, a path can lead elsewhere,
        or another path be the right one (an environment variable that a thread sets for a while). If ``make`` used what
        it finds then, it would be kept for the wrong file.

        Args:
            look: Returns the states of all that ``make`` depends on; it may raise what :func:`state` does, or return
                None, if nothing can be kept.
            make: Given what ``look`` returned, which is None if nothing can be kept; None is not kept. What it raises
                goes to the caller.
            unkept: Called instead of ``make`` if nothing can be kept, or not yet.
        """
        key = _looked(look)
        entry = None if key is None else self.entry(key)
        if entry is not None and entry.made is not None:
            return entry.made
        settled = entry is not None and entry.is_settled(key)
        made = make(key) if settled or unkept is None else unkept()
        if settled and entry is not None and _looked(look) == key:
            entry.made = made
        return made

    def entry(self, key: Hashable) -> Entry[Made]:
        """The entry for these states, which is new if they were not seen before."""
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = Entry()
            self._make_room()
        entry.used = time.monotonic()
        if entry.used >= self.next_sweep:
            self.sweep()
        return entry

    def _collected(self, phase: str, info: Any) -> None:
        if time.monotonic() >= self.next_sweep:
            self.sweep()

    def sweep(self) -> None:
        """Forget what has expired or was not used for an hour."""
        now = time.monotonic()
        self.next_sweep = now + _SWEEP_SECONDS
        for key, entry in self._snapshot():
            if entry.expires < time.time() or now - entry.used > _UNUSED_SECONDS:
                self._entries.pop(key, None)

    def _make_room(self) -> None:
        while len(self._entries) > self._limit:  # more than once, if other threads took the same one for the oldest
            oldest, _ = min(self._snapshot(), key=lambda known: known[1].used, default=(None, None))
            self._entries.pop(oldest, None)

    def _snapshot(self) -> list[tuple[Hashable, Entry[Made]]]:
        # A list of the keys is made in one step. One of items is not: making pairs may start the garbage collector,
        # which sweeps.
        return [(key, entry) for key in list(self._entries) if (entry := self._entries.get(key)) is not None]


def _looked(look: Callable[[], Key]) -> Key:
    try:
        return look()
    except (OSError, ValueError, LookupError):  # not there, no path, not on a local file system
        return None


def _is_coarse(key: Any) -> bool:
    """Whether the key has, in whatever depth, the state of a file on a file system that may store whole seconds."""
    if isinstance(key, State):
        return key.changed % 1_000_000_000 == 0 and key.status_changed % 1_000_000_000 == 0
    return isinstance(key, tuple) and any(map(_is_coarse, key))


class CAs(NamedTuple):
    """A folder of CAs: its path without links, its state, and those of the files that OpenSSL may read in it."""

    path: str
    state: State
    files: tuple[Hashable, ...]


class CAFolder:
    """The state of what OpenSSL may read in a folder of CAs.

    OpenSSL reads a CA when a chain needs it and keeps it in the context, so a context that is kept goes on trusting a
    CA that was removed or rewritten. The time of the folder tells of additions and removals, the state of each file of
    everything else, and whether this thread may read it.

    A link that is switched and switched back leaves no trace in what it leads to. So a context that is kept must be
    given ``path``, the folder's path without links. The links in the folder cannot be switched without a trace in its
    time; if they lead through other links, nothing can be kept. Not seen: a folder above that is renamed or mounted
    over, and put back, within one handshake.
    """

    def __init__(self) -> None:
        self._listed: Kept[tuple[str, list[str]]] = Kept(8)

    def look(self, folder: str) -> CAs:
        """The state of the folder and of its files.

        Raises:
            OSError: As :func:`state` does.
            LookupError: As :func:`state` does, or nothing that is made from it can be kept for other reasons.
        """
        found = state(folder)
        path, files = self._listed.get(
            lambda: (folder, state(folder)), lambda key: _listed(folder, found), partial(_not_yet, folder)
        )
        if path != folder and state(path) != found:
            raise LookupError(folder)
        return CAs(path, found, tuple(map(_readable, files)))


def _not_yet(folder: str) -> tuple[str, list[str]]:
    """Nothing can be kept yet, so there is no need to list it: this takes milliseconds, which short commands save."""
    raise LookupError(folder)


def _listed(folder: str, expected: State) -> tuple[str, list[str]]:
    """The folder and the files in it that OpenSSL may read, without links. Most have two links beside them."""
    if os.pathsep in folder:  # several folders, for OpenSSL
        raise LookupError(folder)
    path = os.path.realpath(folder)
    with os.scandir(path) as entries:
        is_link = {entry.name: entry.is_symlink() for entry in entries}
    files = sorted({_target(path, name, is_link) for name in filter(_HASHED.fullmatch, is_link)})
    if state(path) != expected:  # changed, or the links to the folder were switched
        raise LookupError(folder)
    return path, files


def _target(folder: str, name: str, is_link: dict[str, bool]) -> str:
    for _ in range(_MOST_LINKS):
        path = f"{folder}/{name}"
        if not is_link.get(name, False):
            return path
        name = os.readlink(path)
        if "/" in name:
            path = os.path.normpath(os.path.join(folder, name))
            if os.path.realpath(path) == path:
                return path
            break
    raise LookupError(folder)


def _readable(path: str) -> Hashable:
    """The state of a file, and whether this thread may read it; None for a link that leads nowhere."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    seen = _state_of(path, found)
    return seen if found.st_mode & _ALL_MAY_READ == _ALL_MAY_READ else (seen, may_read(path))
