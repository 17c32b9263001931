"""The folder in which each process under comparison leaves what it has recorded, one file per process.

A file is written anew and renamed, so a reader gets all of it or the one before, and a process that is killed leaves
nothing that anybody has to wait for. Who writes also cleans: what dead processes have left half written, files that
are a week old, and the oldest ones if there are too many.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

FORMAT = 1
_MOST_FILES = 2000
_KEPT_SECONDS = 7 * 86400.0
_HALF_WRITTEN_SECONDS = 600.0


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
    """What runs in this process.

    Args:
        argv: Of the process.

    Returns:
        The first argument if the program runs services, agents or executors (``DataManagement/FileCatalog``), else the
        program's name.
    """
    program = os.path.basename(argv[0]) if argv else ""
    names = [argument for argument in argv[1:] if not argument.startswith("-")]
    return names[0] if names and "/" in names[0] and not names[0].startswith("/") else program or "python"


class Spool:
    """This process's file in the spool.

    Args:
        folder: The spool; made if it is not there.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.started = time.time()
        self._name = f"{host_name()}.{os.getpid()}.{time.time_ns()}.json"

    def write(self, content: dict[str, Any], ended: bool) -> None:
        """Replace the process's file.

        Args:
            content: What is to be in it, besides who has written it.
            ended: Whether this is the last time.

        Raises:
            OSError: The folder or the file cannot be written.
        """
        os.makedirs(self.folder, exist_ok=True)
        times = os.times()
        snapshot = {
            "format": FORMAT,
            "host": host_name(),
            "component": component(sys.argv),
            "pid": os.getpid(),
            "started": self.started,
            "written": time.time(),
            "ended": ended,
            "cpu_seconds": times.user + times.system,
            "resident_bytes": _resident_bytes(),
            **content,
        }
        path = os.path.join(self.folder, self._name)
        half = os.path.join(self.folder, f".{self._name}.tmp")
        with open(half, "w", encoding="utf-8") as stream:
            # Not dump(), which takes several times as long: it is not written in C.
            stream.write(json.dumps(snapshot, separators=(",", ":")))
        os.replace(half, path)

    def may_write(self) -> bool:
        """Whether the folder can be written, or made; it may belong to somebody else, whose business it is then."""
        return not os.path.isdir(self.folder) or os.access(self.folder, os.W_OK)

    def clean(self) -> None:
        """Remove what nobody needs any more. Another process may do the same at the same time."""
        now = time.time()
        found = []
        with suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    age = now - entry.stat().st_mtime
                    if entry.name.endswith(".json.tmp"):
                        if age > _HALF_WRITTEN_SECONDS:
                            os.unlink(entry.path)
                    elif entry.name.endswith(".json"):
                        found.append((age, entry.path))
        found.sort()
        for place, (age, path) in enumerate(found):
            if place >= _MOST_FILES or age > _KEPT_SECONDS:
                with suppress(OSError):
                    os.unlink(path)


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
