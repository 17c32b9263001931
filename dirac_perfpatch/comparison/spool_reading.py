"""Reading the spools of one host or of many, damaged files included.

A file that cannot be used is left out and complained of by name; the rest is read.
"""

from __future__ import annotations

import heapq
import os
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dirac_perfpatch.comparison.snapshot import Snapshot, Unusable, parse, printable
from dirac_perfpatch.comparison.spool import began

# The largest file that a process can write, a thousand blocks and a few dozen wide sketches, is a quarter of this.
_MOST_BYTES = 16 << 20
_DEEPEST = 50  # folders in folders
# The most files of one folder that are read: five times as many as its writers leave there.
_MOST_FILES = 10_000


class Gathered(NamedTuple):
    """What was read."""

    snapshots: tuple[Snapshot, ...]  # one per process, the oldest process first
    complaints: tuple[str, ...]  # a line for each file and folder that could not be read, with its path


def read_spools(folders: Iterable[str]) -> Gathered:
    """Read all snapshots in the given folders and below, one per process."""
    complaints: list[str] = []
    snapshots = one_per_process(_read_all(folders, complaints))
    snapshots.sort(key=lambda one: (one.started, one.host, one.pid))
    return Gathered(tuple(snapshots), tuple(complaints))


def one_per_process(snapshots: Iterable[Snapshot]) -> list[Snapshot]:
    """Of each process, the snapshot that was written last: copies of a folder may hold a process several times."""
    newest: dict[tuple[str, int, float], Snapshot] = {}
    for one in snapshots:
        if one.key not in newest or one.written > newest[one.key].written:
            newest[one.key] = one
    return list(newest.values())


def _read_all(folders: Iterable[str], complaints: list[str]) -> Iterator[Snapshot]:
    for path in list_files(folders, complaints):
        try:
            yield read_file(path)
        except Unusable as error:
            complaints.append(f"{printable(path)}: {printable(str(error))}")
        except FileNotFoundError:
            continue  # replaced or cleaned away since the folder was listed
        except OSError as error:
            complaints.append(f"{printable(path)}: cannot be read: {error.strerror}")


def read_file(path: str, *, blocks: bool = True) -> Snapshot:
    """Read one file.

    Args:
        path: Of the file.
        blocks: As for :func:`~dirac_perfpatch.comparison.snapshot.parse`.

    Raises:
        Unusable: It is no snapshot; the text says why.
        OSError: It cannot be read, or does not exist any more.
    """
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise Unusable("is not a regular file")
    # It may have been replaced meanwhile: to open a pipe would block for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Unusable("is not a regular file")
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise Unusable("is larger than any snapshot")
    return parse(content, blocks=blocks)


def list_files(folders: Iterable[str], complaints: list[str]) -> Iterator[str]:
    """The paths of all snapshots in the given folders and below.

    Args:
        folders: Their paths.
        complaints: Gets a line for each folder that cannot be read.
    """

    for folder in folders:
        yield from _below(folder, complaints, 0)


def _below(folder: str, complaints: list[str], depth: int) -> Iterator[str]:
    below: list[str] = []
    number = 0

    def files(entries: Iterable[os.DirEntry[str]]) -> Iterator[str]:
        nonlocal number
        for entry in entries:
            if _is_folder(entry):
                if not entry.is_symlink():
                    below.append(entry.path)
            # A leading dot: the file is still being written, or its process was killed meanwhile.
            elif entry.name.endswith(".json") and entry.name[0] != ".":
                number += 1
                yield entry.path

    found: list[str] = []
    try:
        with os.scandir(folder) as entries:
            # One by one: a folder may have millions of them.
            found = heapq.nlargest(_MOST_FILES, files(entries), key=began)
    except OSError as error:
        complaints.append(f"{printable(folder)}: cannot be read: {error.strerror}")
    if number > len(found) > 0:
        complaints.append(f"{printable(folder)}: {len(found)} of {number} files are read, of the newest processes")
    yield from sorted(found)
    if below and depth >= _DEEPEST:
        complaints.append(f"{printable(folder)}: the folders in it are not read: too deep")
        return
    for one in sorted(below):
        yield from _below(one, complaints, depth + 1)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to where we may not look
        return False
