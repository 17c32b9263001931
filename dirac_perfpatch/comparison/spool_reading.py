"""Reading what processes left in their spools, also when it was gathered from many hosts, or is damaged.

A spool is written by processes that may be killed at any moment, and is copied about by people. So nothing in it is
taken on trust: a file that is not as it should be is left out and complained of by name, and the rest is read. A key
that is not known is ignored, because a newer plugin may have written it.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from dirac_perfpatch.comparison.recording import ARMS
from dirac_perfpatch.comparison.spool import FORMAT

KINDS = ("time", "call", "process")
# The largest that a process can write, a thousand blocks and a few dozen sketches, is a hundredth of this.
_MOST_BYTES = 64 << 20
_MOST_CHARACTERS = 500
# A bin of a sketch stands for a time near exp(2 * accuracy * key) seconds. Times beyond exp(50) are rubbish, and would
# make ddsketch, whose stores are dense, ask for all the memory there is.
_MOST_EXPONENT = 50
_FINEST, _COARSEST = 1e-3, 0.5

_Item = TypeVar("_Item")


class State(NamedTuple):
    """What a patch was in a process when it wrote its file.

    Args:
        state: applied, armed, off, stood down, tripped or failed.
        reason: Why.
        mode: on, off or ab.
        by: Who is in which arm: time, process or call.
        share: Of the windows, processes or calls, how many run patched.
        window_seconds: How long a window is.
        arm: Of the process: patched, stock, or both.
        failures: How often the patch's own code failed.
        checked: Answers that were compared with those of the stock host.
        differences: Those that were not the same.
    """

    state: str
    reason: str
    mode: str
    by: str
    share: float
    window_seconds: float
    arm: str
    failures: int
    checked: int
    differences: int


class Series(NamedTuple):
    """All calls of a target in one arm since the process started.

    Args:
        patch: The patch's name.
        target: The target's name.
        arm: patched or stock.
        calls: How many.
        errors: How many of them raised, or answered with an error.
        timed: How many of them were timed.
        seconds: The sum of those that were timed.
        accuracy: Of the sketch of the times, relative.
        zero: Timed calls that took no time that the clock could see.
        bins: Number of timed calls by the key of ddsketch's logarithmic mapping.
    """

    patch: str
    target: str
    arm: str
    calls: int
    errors: int
    timed: int
    seconds: float
    accuracy: float
    zero: float
    bins: Mapping[int, float]


class Block(NamedTuple):
    """The calls of a target in one arm within one window.

    Args:
        patch: The patch's name.
        target: The target's name.
        arm: patched or stock.
        block: The number of the window in its process.
        pair: The number that the windows of a pair share.
        start: When it began, in seconds since 1970.
        seconds: How long it was.
        calls: How many.
        errors: How many of them raised, or answered with an error.
        timed: How many of them were timed.
        mean: Seconds, of those that were timed.
        median: The same.
    """

    patch: str
    target: str
    arm: str
    block: int
    pair: int
    start: float
    seconds: float
    calls: int
    errors: int
    timed: int
    mean: float
    median: float


class Snapshot(NamedTuple):
    """All that a process had to tell when it last wrote its file; the times in seconds since 1970."""

    host: str
    component: str
    release: str
    plugin: str
    pid: int
    started: float
    written: float
    ended: bool
    cpu_seconds: float
    resident_bytes: int
    patches: Mapping[str, State]
    series: tuple[Series, ...]
    blocks: tuple[Block, ...]
    events: Mapping[str, Mapping[str, int]]


class Gathered(NamedTuple):
    """What was read.

    Args:
        snapshots: One per process, oldest process first.
        complaints: A line for everything that could not be read, each with its path.
    """

    snapshots: tuple[Snapshot, ...]
    complaints: tuple[str, ...]


class Unusable(Exception):
    """A file is not what a process writes; the text says what is wrong with it."""


def read_spools(folders: Iterable[str]) -> Gathered:
    """Read all snapshots in some folders and in the folders below them.

    A process that is found more than once, because folders were copied at different times, is counted once: the copy
    that was written last.

    Args:
        folders: Their paths.
    """
    newest: dict[tuple[str, int, float], Snapshot] = {}
    complaints: list[str] = []
    for path in list_files(folders, complaints):
        try:
            found = read_file(path)
        except Unusable as error:
            complaints.append(f"{path}: {error}")
            continue
        except FileNotFoundError:
            continue  # its process wrote a new one, or somebody cleaned up, since the folder was listed
        except OSError as error:
            complaints.append(f"{path}: cannot be read: {error.strerror}")
            continue
        process = (found.host, found.pid, found.started)
        if process not in newest or found.written > newest[process].written:
            newest[process] = found
    snapshots = sorted(newest.values(), key=lambda one: (one.started, one.host, one.pid))
    return Gathered(tuple(snapshots), tuple(complaints))


def read_file(path: str, *, blocks: bool = True) -> Snapshot:
    """Read one file.

    Args:
        path: Where it is.
        blocks: Whether to read the blocks, which are most of it and take most of the time.

    Raises:
        Unusable: It is no snapshot; the text says why.
        OSError: It cannot be read, or is not there any more.
    """
    return parse(_content(path), blocks=blocks)


def list_files(folders: Iterable[str], complaints: list[str]) -> Iterator[str]:
    """The paths of all snapshots in some folders and in the folders below them.

    Args:
        folders: Their paths.
        complaints: A line is added for each folder that cannot be read.
    """

    def complain(error: OSError) -> None:
        complaints.append(f"{error.filename}: cannot be read: {error.strerror}")

    for folder in folders:
        for place, below, names in os.walk(folder, onerror=complain):
            below.sort()
            # A name with a leading dot is a file that is still being written, or whose process was killed meanwhile.
            yield from (
                os.path.join(place, name) for name in sorted(names) if name.endswith(".json") and name[0] != "."
            )


def _content(path: str) -> bytes:
    # Not to wait for ever: a pipe would never answer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Unusable("is not a regular file")
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise Unusable("is larger than any snapshot")
    return content


def parse(content: bytes, *, blocks: bool = True) -> Snapshot:
    """Make a snapshot of a file's content.

    Raises:
        Unusable: It is none; the text says why.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise Unusable("is not JSON; its process may have been killed while it wrote") from None
    if not isinstance(found, dict):
        raise Unusable("is not a snapshot")
    if found.get("format") != FORMAT:
        raise Unusable(f"has the format {found.get('format')!r:.20}; this version reads {FORMAT}")
    return Snapshot(
        _text(found, "host"),
        _text(found, "component"),
        _text(found, "release"),
        _text(found, "plugin"),
        _count(found, "pid"),
        _number(found, "started"),
        _number(found, "written"),
        found.get("ended") is True,
        _number(found, "cpu_seconds"),
        _count(found, "resident_bytes"),
        {_printable(name): _state(one) for name, one in _mapping(found, "patches").items()},
        _items(found, "series", _series),
        _items(found, "blocks", _block) if blocks else (),
        _events(found),
    )


def _state(found: Any) -> State:
    mode = _text(found, "mode")
    if mode != "ab":  # one that is just on or off has none of these
        found = {"share": 0, "window_seconds": 0, "checked": 0, "differences": 0, **found}
    return State(
        _text(found, "state"),
        _text(found, "reason", ""),
        mode,
        # A patch that is just on or off has no arms to be chosen.
        _word(found, "by", KINDS) if mode == "ab" else _text(found, "by", ""),
        _number(found, "share"),
        _number(found, "window_seconds"),
        _text(found, "arm", ""),
        *(_count(found, key) for key in ("failures", "checked", "differences")),
    )


def _series(found: Any) -> Series:
    sketch = _mapping(found, "sketch")
    accuracy = _number(sketch, "accuracy")
    if not _FINEST <= accuracy <= _COARSEST:
        raise Unusable(f"accuracy is {accuracy:g}")
    return Series(
        _text(found, "patch"),
        _text(found, "target"),
        _word(found, "arm", ARMS),
        _count(found, "calls"),
        _count(found, "errors"),
        _count(found, "timed"),
        _number(found, "seconds"),
        accuracy,
        _number(sketch, "zero"),
        dict(_bins(_mapping(sketch, "bins"), accuracy)),
    )


def _bins(found: Mapping[str, Any], accuracy: float) -> Iterator[tuple[int, float]]:
    for key in found:
        try:
            number = int(key)
        except ValueError:
            raise Unusable("a key of a sketch is not a number") from None
        if abs(number) * 2 * accuracy > _MOST_EXPONENT:
            raise Unusable(f"a sketch has the key {number}")
        yield number, _number(found, key)


def _block(found: Any) -> Block:
    # Without a timed call there is nothing that the two could be.
    times = (_number(found, key) for key in ("mean", "median")) if _count(found, "timed") else (0.0, 0.0)
    return Block(
        _text(found, "patch"),
        _text(found, "target"),
        _word(found, "arm", ARMS),
        *(_count(found, key) for key in ("block", "pair")),
        *(_number(found, key) for key in ("start", "seconds")),
        *(_count(found, key) for key in ("calls", "errors", "timed")),
        *times,
    )


def _events(found: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    events = _mapping(found, "events") if "events" in found else {}
    return {
        _printable(patch): {_printable(name): _count(counts, name) for name in counts}
        for patch, counts in ((patch, _mapping(events, patch)) for patch in events)
    }


def _items(found: Mapping[str, Any], key: str, make: Callable[[Any], _Item]) -> tuple[_Item, ...]:
    items = found.get(key)
    if not isinstance(items, list):
        raise Unusable(f"{key} is not a list")
    return tuple(map(make, items))


def _mapping(found: Any, key: str) -> Mapping[str, Any]:
    value = found.get(key) if isinstance(found, dict) else None
    if not isinstance(value, dict):
        raise Unusable(f"{key} is not a mapping")
    return value


def _number(found: Any, key: str) -> float:
    value = found.get(key) if isinstance(found, dict) else None
    # JSON as Python reads it has NaN and Infinity, and whole numbers without end.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e18 or math.isnan(value):
        raise Unusable(f"{key:.50} is not a number from 0 on")
    return value


def _count(found: Any, key: str) -> int:
    value = _number(found, key)
    if not isinstance(value, int):
        raise Unusable(f"{key:.50} is not a whole number")
    return value


def _text(found: Any, key: str, default: str | None = None) -> str:
    value = found.get(key, default) if isinstance(found, dict) else None
    if not isinstance(value, str):
        raise Unusable(f"{key} is not a text")
    return _printable(value)


def _word(found: Any, key: str, words: tuple[str, ...]) -> str:
    value = _text(found, key)
    if value not in words:
        raise Unusable(f"{key} is none of {', '.join(words)}")
    return value


def _printable(text: str) -> str:
    """As one line that a terminal can be given."""
    line = " ".join(text.split())[:_MOST_CHARACTERS]
    return line if line.isprintable() else "".join(one if one.isprintable() else "?" for one in line)
