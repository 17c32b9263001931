"""The folder in which each process under comparison leaves what it has recorded, one file per process.

A file is written anew and renamed, so a reader gets all of it or the one before, and a process that is killed leaves
nothing that anybody has to wait for. Who writes also cleans: what dead processes have left half written, files that
are a week old, and the oldest ones if there are too many.

A folder that others can write to is left alone: what they put there would be followed, waited for, or believed.
"""

from __future__ import annotations

import errno
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
_KEPT_SECONDS = 7 * 86400.0
_HALF_WRITTEN_SECONDS = 600.0
# A host, a process, and the nanosecond in which that began; while it is being written, hidden and with more behind it.
_WHOLE = re.compile(r"[^.].*\.\d+\.\d{19}\.json", re.ASCII)
_HALF = re.compile(r"\..+\.\d+\.\d{19}\.json\.\w+", re.ASCII)
# DIRAC's own programs whose first argument says what they run.
_LAUNCHERS = ("dirac-service", "dirac-agent", "dirac-executor")
_COMPONENT = re.compile(r"\w+/\w+", re.ASCII)


def default_folder(root: str | None) -> str | None:
    """Where the spool of an installation is unless the toggles name a folder.

    Args:
        root: The root of the DIRAC installation, or None if it is not known.

    Returns:
        ``var/perfpatch-spool`` below the root; None without a root.
    """
    return os.path.join(root, "var", "perfpatch-spool") if root else None


def host_name() -> str:
    """The name of this host, as files and reports have it."""
    return socket.gethostname() or "localhost"


def component(argv: Sequence[str]) -> str:
    """What runs in this process. All can read it, so of other programs no argument is told: it may be a password.

    Args:
        argv: Of the process.

    Returns:
        ``System/Name`` if the program is one of DIRAC's that run services, agents or executors, else its name.
    """
    program = os.path.basename(argv[0]) if argv else ""
    if program in _LAUNCHERS:
        return next(filter(_COMPONENT.fullmatch, argv[1:]), program)
    return program or "python"


class Spool:
    """This process's file in a spool."""

    def __init__(self) -> None:
        self.started = time.time()
        self._name = f"{host_name()}.{os.getpid()}.{time.time_ns()}.json"

    def write(self, folder: str, content: Mapping[str, Any], ended: bool) -> bool:
        """Replace the process's file.

        Args:
            folder: The spool; made if it is not there.
            content: The fields of the snapshot, besides those that describe this process.
            ended: Whether this is the last time.

        Returns:
            False if the folder is the business of somebody else, and nothing was written.

        Raises:
            OSError: The folder or the file cannot be written, or must not be.
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
        """Remove what nobody needs any more. Another process may do the same at the same time. Never raises.

        Args:
            folder: The spool. What is not a snapshot, or not ours, stays.
        """
        now = time.time()
        found = []
        with suppress(OSError), _own(folder) as place:
            for name in os.listdir(place):
                with suppress(OSError):
                    file = os.stat(name, dir_fd=place, follow_symlinks=False)
                    if not stat.S_ISREG(file.st_mode) or file.st_uid != os.geteuid():
                        continue
                    age = now - file.st_mtime
                    if _WHOLE.fullmatch(name):
                        found.append((age, name))
                    elif age > _HALF_WRITTEN_SECONDS and _HALF.fullmatch(name):
                        os.unlink(name, dir_fd=place)
            found.sort()
            for number, (age, name) in enumerate(found):
                if number >= _MOST_FILES or age > _KEPT_SECONDS:
                    with suppress(OSError):
                        os.unlink(name, dir_fd=place)


@contextmanager
def _own(folder: str) -> Iterator[int]:
    """A folder that nobody else can write to, open: what is done there is done there, whatever its name becomes."""
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
