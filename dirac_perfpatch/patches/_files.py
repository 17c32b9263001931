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

import os
import re
import time
from collections.abc import Callable, Hashable
from typing import Any, Generic, NamedTuple, Optional, TypeVar

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
# What OpenSSL looks up in a folder of CAs: the hash of a subject, and a number. (The host checks no revocation lists.)
_HASHED = re.compile(r"[0-9a-f]{8}\.\d+")

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
    found = os.stat(path)
    if not is_local(path, found.st_dev):
        raise LookupError(path)
    return State(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def may_read(path: Any) -> bool:
    """Whether this thread may read the file now: the kernel knows groups, access lists and capabilities."""
    return os.access(path, os.R_OK, effective_ids=True)


def is_local(path: Any, device: int) -> bool:
    """Whether a file is on a file system whose ``stat`` is always as fresh as its ``open``.

    Args:
        path: Of the file.
        device: Its ``st_dev``; the answer is kept for that.
    """
    if device not in _local:
        import ctypes  # only for the first file on each device

        libc = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(512)  # struct statfs is 120 bytes; f_type is its first word
        found = libc.statfs(os.fsencode(path), buffer) == 0
        _local[device] = found and ctypes.c_ulong.from_buffer(buffer).value & 0xFFFFFFFF in _LOCAL_TYPES
    return _local[device]


class _Entry:
    """One state of some files, since when it has been seen, and what was made of it once that may be kept."""

    __slots__ = ("made", "since", "used")

    def __init__(self) -> None:
        self.made: Any = None
        self.since = self.used = time.monotonic()


class Kept(Generic[Made]):
    """What was made from files, by their states.

    No lock: each step is one operation on a dictionary. What two threads make at once is the same, and a fork or a
    signal handler may come in between any two steps.

    Args:
        limit: The most entries; those that were not used for the longest time go first.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: dict[Hashable, _Entry] = {}
        self._next_sweep = 0.0

    def get(self, look: Callable[[], Key], make: Callable[[], Made]) -> Made:
        """What was made from files in their present state, or is made now.

        Args:
            look: Returns the states of all that ``make`` depends on; it may raise what :func:`state` does, or return
                None, if nothing can be kept.
            make: Makes it, never None. What it raises goes to the caller.
        """
        key = _looked(look)
        if key is None:
            return make()
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry()
            self._make_room()
        entry.used = now = time.monotonic()
        if now >= self._next_sweep:
            self.sweep()
        if entry.made is not None:
            made: Made = entry.made
            return made
        settled = now - entry.since > (COARSE_TICK if _is_coarse(key) else TICK)
        made = make()
        if settled and _looked(look) == key:
            entry.made = made
        return made

    def sweep(self) -> None:
        """Forget what was not used for an hour."""
        self._next_sweep = time.monotonic() + _SWEEP_SECONDS
        for key in list(self._entries):
            entry = self._entries.get(key)
            if entry is not None and time.monotonic() - entry.used > _UNUSED_SECONDS:
                self._entries.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def _make_room(self) -> None:
        while len(self._entries) > self._limit:
            # The keys in one step: making pairs might start the garbage collector, or meet another thread.
            found = [(entry.used, key) for key in list(self._entries) if (entry := self._entries.get(key))]
            if found:
                self._entries.pop(min(found, key=lambda pair: pair[0])[1], None)


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


class CAFolder:
    """The state of what OpenSSL may read in a folder of CAs.

    OpenSSL reads a CA when a chain needs it and keeps it in the context, so a context that is kept goes on trusting a
    CA that was removed or rewritten. The time of the folder tells of additions and removals, the state of each file of
    everything else, through links.
    """

    def __init__(self) -> None:
        self._paths: Kept[list[str]] = Kept(8)

    def look(self, folder: str) -> Hashable:
        """The state of the folder and of its files.

        Raises:
            OSError, LookupError: As :func:`state` does.
        """
        paths = self._paths.get(lambda: (folder, state(folder)), lambda: _hashed(folder))
        return state(folder), tuple(map(_state_or_none, paths))


def _hashed(folder: str) -> list[str]:
    """The files that OpenSSL may read. Most have two links beside them, which the time of the folder tells of."""
    found = set()
    for name in filter(_HASHED.fullmatch, os.listdir(folder)):
        path = target = os.path.join(folder, name)
        if os.path.islink(path):
            target = os.path.join(folder, os.readlink(path))
        beside = os.path.dirname(target) == folder and not os.path.islink(target)
        found.add(target if beside else path)
    return sorted(found)


def _state_or_none(path: str) -> State | None:
    try:
        return state(path)
    except OSError:  # a link that leads nowhere
        return None
