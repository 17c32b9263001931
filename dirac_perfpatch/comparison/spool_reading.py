"""Reading the spools of one host or of many, damaged files included.

A file that cannot be used is left out and complained of by name; the rest is read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dirac_perfpatch.comparison.snapshot import Snapshot, Unusable, parse, printable

# The largest file that a process can write, a thousand blocks and a few dozen wide sketches, is a quarter of this.
_MOST_BYTES = 16 << 20
_DEEPEST = 50  # folders in folders; before Python 3.12 os.walk calls itself for each


class Gathered(NamedTuple):
    """What was read."""

    snapshots: tuple[Snapshot, ...]  # one per process, the oldest process first
    complaints: tuple[str, ...]  # a line for each file and folder that could not be read, with its path


def read_spools(folders: Iterable[str]) -> Gathered:
    """Read all snapshots in the given folders and below.

    Copies of a folder may hold the same process several times; the snapshot that was written last counts.
    """
    newest: dict[tuple[str, int, float], Snapshot] = {}
    complaints: list[str] = []
    for path in list_files(folders, complaints):
        try:
            found = read_file(path)
        except Unusable as error:
            complaints.append(f"{printable(path)}: {printable(str(error))}")
            continue
        except FileNotFoundError:
            continue  # replaced or cleaned away since the folder was listed
        except OSError as error:
            complaints.append(f"{printable(path)}: cannot be read: {error.strerror}")
            continue
        if found.key not in newest or found.written > newest[found.key].written:
            newest[found.key] = found
    snapshots = sorted(newest.values(), key=lambda one: (one.started, one.host, one.pid))
    return Gathered(tuple(snapshots), tuple(complaints))


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

    def complain(error: OSError) -> None:
        complaints.append(f"{printable(error.filename)}: cannot be read: {error.strerror}")

    for folder in folders:
        for place, below, names in os.walk(folder, onerror=complain):
            below.sort()
            if below and place.count(os.sep) - folder.count(os.sep) >= _DEEPEST:
                complaints.append(f"{printable(place)}: the folders in it are not read: too deep")
                below.clear()
            # A leading dot: the file is still being written, or its process was killed meanwhile.
            yield from (
                os.path.join(place, name) for name in sorted(names) if name.endswith(".json") and name[0] != "."
            )
