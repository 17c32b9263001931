"""The spool: a folder with one snapshot per process.

A snapshot is replaced as a whole (written, then renamed), so a reader gets the old or the new one, and a killed process
blocks nobody. Writers also clean up: half-written files of dead processes, files older than a week, and the oldest
files if there are too many. Should there be very many, it takes several processes or hours until all are gone.

A folder that others can write to is not used: they could plant links, pipes or false snapshots.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import json
import os
import re
import secrets
import socket
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from dirac_perfpatch.comparison.snapshot import Snapshot

_MOST_FILES = 2000
# A cleaning looks at no more, so that it takes a process a second or two, whatever is in the folder.
_MOST_ENTRIES = 50_000
_KEPT_SECONDS = 7 * 86400.0
_HALF_WRITTEN_SECONDS = 600.0
# Host, process number, and the nanosecond of its start; a half-written file is hidden and has a suffix.
_WHOLE = re.compile(r"[^.].*\.\d+\.\d{19}\.json", re.ASCII)
_HALF = re.compile(r"\..+\.\d+\.\d{19}\.json\.\w+", re.ASCII)
# DIRAC's own programs whose first argument says what they run.
_LAUNCHERS = ("dirac-service", "dirac-agent", "dirac-executor")
_COMPONENT = re.compile(r"\w+/\w+", re.ASCII)


def default_folder(root: str | None) -> str | None:
    """The spool if the toggles name none: below the root of the DIRAC installation; None if that is not known."""
    return os.path.join(root, "var", "perfpatch-spool") if root else None


def host_name() -> str:
    """The name of this host in file names and reports."""
    return socket.gethostname() or "localhost"


def component(argv: Sequence[str]) -> str:
    """What runs in this process, by its ``argv``.

    Returns:
        ``System/Name`` if the program runs DIRAC services, agents or executors, else the program's name. Everybody can
        read it, so it has no other argument: that may be a password.
    """
    program = os.path.basename(argv[0]) if argv else ""
    if program in _LAUNCHERS:
        return next(filter(_COMPONENT.fullmatch, argv[1:]), program)
    return program or "python"


class Spool:
    """The snapshot file of this process."""

    def __init__(self) -> None:
        self.started = time.time()
        self._name = f"{host_name()}.{os.getpid()}.{time.time_ns()}.json"

    def write(self, folder: str, content: Mapping[str, Any], ended: bool) -> bool:
        """Replace the process's file.

        Args:
            folder: The spool; created if missing.
            content: The fields of the snapshot, besides those that describe this process.
            ended: Whether this is the last snapshot.

        Returns:
            False if nothing was written because the folder belongs to somebody else and is not writable.

        Raises:
            OSError: The folder or file cannot be written, or others can write to the folder.
        """
        times = os.times()
        snapshot = Snapshot(
            host=host_name(),
            component=component(sys.argv),
            pid=os.getpid(),
            started=self.started,
            written=time.time(),
            ended=ended,
            cpu_seconds=times.user + times.system,
            resident_bytes=_resident_bytes(),
            **content,
        )
        # Not dump(), which is several times as slow: it is not written in C.
        text = json.dumps(snapshot.data(), separators=(",", ":"))
        os.makedirs(folder, 0o755, exist_ok=True)
        if os.stat(folder).st_uid != os.geteuid() and not os.access(folder, os.W_OK):
            return False
        with _own(folder) as place:
            half = f".{self._name}.{secrets.token_hex(8)}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                with open(os.open(half, flags, 0o644, dir_fd=place), "w", encoding="ascii") as stream:
                    stream.write(text)
                os.replace(half, self._name, src_dir_fd=place, dst_dir_fd=place)
            except OSError:
                with suppress(OSError):
                    os.unlink(half, dir_fd=place)
                raise
        return True

    def clean(self, folder: str) -> None:
        """Remove old snapshots and half-written files of this account; all other files stay. Never raises.

        Another process may do the same at the same time.
        """
        oldest_kept = time.time() - _KEPT_SECONDS
        half_written = time.time() - _HALF_WRITTEN_SECONDS
        kept: list[tuple[float, str]] = []  # a heap: the oldest first
        with suppress(OSError), _own(folder) as place, os.scandir(place) as entries:
            for entry in itertools.islice(entries, _MOST_ENTRIES):
                with suppress(OSError):
                    file, name = entry.stat(follow_symlinks=False), entry.name
                    if not stat.S_ISREG(file.st_mode) or file.st_uid != os.geteuid():
                        continue
                    if _WHOLE.fullmatch(name):
                        if file.st_mtime >= oldest_kept:
                            heapq.heappush(kept, (file.st_mtime, name))
                            if len(kept) <= _MOST_FILES:
                                continue
                            name = heapq.heappop(kept)[1]
                    elif file.st_mtime >= half_written or not _HALF.fullmatch(name):
                        continue
                    os.unlink(name, dir_fd=place)


def began(path: str) -> str:
    """When the process that wrote a snapshot began, by the name of its file: in nanoseconds, always as many digits."""
    return path.rpartition(".")[0].rpartition(".")[2]


def process_of(path: str) -> int | None:
    """The number of the process that wrote a snapshot, by the name of its file; None if this is no such name."""
    name = os.path.basename(path)
    return int(name.split(".")[-3]) if _WHOLE.fullmatch(name) else None


@contextmanager
def _own(folder: str) -> Iterator[int]:
    """A folder that only we can write to, as a descriptor, which stays valid if the name changes."""
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = os.fstat(place)
        if found.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "the folder belongs to somebody else")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(errno.EPERM, "others can write to the folder")
        yield place
    finally:
        os.close(place)


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
