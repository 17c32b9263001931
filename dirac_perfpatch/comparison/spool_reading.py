"""Reading what processes left in their spools, also when it was gathered from many hosts, or is damaged.

A spool is written by processes that may be killed at any moment, and is copied about by people. So nothing in it is
taken on trust: a file that is not as it should be is left out and complained of by name, and the rest is read. A key
that is not known is ignored, because a newer plugin may have written it. The types below say of each key what it may
be, so that whatever works with what was read need not ask: numbers have bounds, and texts are one line that a terminal
can be given.
"""

from __future__ import annotations

import functools
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple, TypeVar, get_type_hints

from dirac_perfpatch.comparison.recording import ARMS
from dirac_perfpatch.comparison.spool import FORMAT

KINDS = ("time", "call", "process")
# The largest that a process can write, a thousand blocks and a few dozen wide sketches, is a quarter of this.
_MOST_BYTES = 16 << 20
_MOST_CHARACTERS = 500
_DEEPEST = 50  # folders in folders; Python before 3.12 goes down into each with a call
# A bin of a sketch stands for a time near exp(2 * accuracy * key) seconds. Times beyond exp(50) are rubbish, and would
# make ddsketch, whose stores are dense, ask for all the memory there is.
_MOST_EXPONENT = 50
_FINEST, _COARSEST = 1e-3, 0.5
_MOST = 1e14  # with sums of these, too, statistics can work
_LAST_MOMENT = 1e10  # in the year 2286; not all that shows a date has one after the year 9999
_SHORTEST = 1e-12
_LAST_PID = 2**31 - 1

_Item = TypeVar("_Item")


class Unusable(Exception):
    """A file is not what a process writes; the text says what is wrong with it."""


def printable(text: str) -> str:
    """As one line that a terminal can be given, and that is not too long."""
    line = " ".join(text[: 2 * _MOST_CHARACTERS].split())[:_MOST_CHARACTERS]
    return line if line.isprintable() else "".join(one if one.isprintable() else "?" for one in line)


def _value(found: Any, key: str, kind: type[_Item], name: str) -> _Item:
    value = found.get(key) if isinstance(found, dict) else None
    if not isinstance(value, kind):
        raise Unusable(f"{key:.50} is not a {name}")
    return value


def _mapping(found: Any, key: str) -> dict[str, Any]:
    return _value(found, key, dict, "mapping")


def _text(found: Any, key: str) -> str:
    return printable(_value(found, key, str, "text"))


def _word(*words: str) -> Callable[[Any, str], str]:
    def read(found: Any, key: str) -> str:
        value = _text(found, key)
        if value not in words:
            raise Unusable(f"{key} is none of {', '.join(filter(None, words))}")
        return value

    return read


def _within(most: float, least: float = 0.0) -> Callable[[Any, str], float]:
    def read(found: Any, key: str) -> float:
        value = found.get(key) if isinstance(found, dict) else None
        # JSON as Python reads it has NaN and Infinity, and whole numbers without end.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
            raise Unusable(f"{key:.50} is not a number from 0 to {most:g}")
        if 0 < value < least:
            raise Unusable(f"{key:.50} is next to nothing")
        return value

    return read


def _whole(most: float) -> Callable[[Any, str], int]:
    number = _within(most)

    def read(found: Any, key: str) -> int:
        value = number(found, key)
        if not isinstance(value, int):
            raise Unusable(f"{key:.50} is not a whole number")
        return value

    return read


def _accuracy(found: Any, key: str) -> float:
    accuracy = _number(found, key)
    if not _FINEST <= accuracy <= _COARSEST:
        raise Unusable(f"accuracy is {accuracy:g}")
    return accuracy


def _bins(found: Any, key: str) -> dict[int, float]:
    accuracy, bins = _accuracy(found, "accuracy"), _mapping(found, key)
    for place in bins:
        if not re.fullmatch("-?[0-9]{1,9}", place):
            raise Unusable("a key of a sketch is not a number, or a long one")
        if abs(int(place)) * 2 * accuracy > _MOST_EXPONENT:
            raise Unusable(f"a sketch has the key {place}")
    return {int(place): _number(bins, place) for place in bins}


def _events(found: Any, key: str) -> dict[str, dict[str, int]]:
    events = _mapping(found, key)
    return {
        printable(patch): {printable(name): _count(counts, name) for name in counts}
        for patch, counts in ((patch, _mapping(events, patch)) for patch in events)
    }


_number, _count = _within(_MOST), _whole(_MOST)
Text = Annotated[str, _text]
Number = Annotated[float, _number]
Count = Annotated[int, _count]
Moment = Annotated[float, _within(_LAST_MOMENT)]
Seconds = Annotated[float, _within(_MOST, _SHORTEST)]
Arm = Annotated[str, _word(*ARMS)]


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

    state: Text
    reason: Text
    mode: Text
    by: Annotated[str, _word("", *KINDS)]
    share: Number
    window_seconds: Number
    arm: Text
    failures: Count
    checked: Count
    differences: Count


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

    patch: Text
    target: Text
    arm: Arm
    calls: Count
    errors: Count
    timed: Count
    seconds: Number
    accuracy: Annotated[float, _accuracy]
    zero: Number
    bins: Annotated[Mapping[int, float], _bins]


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

    patch: Text
    target: Text
    arm: Arm
    block: Count
    pair: Count
    start: Moment
    seconds: Number
    calls: Count
    errors: Count
    timed: Count
    mean: Seconds
    median: Seconds


@functools.cache
def _readers(kind: Any) -> list[tuple[str, Callable[[Any, str], Any]]]:
    return [(key, hint.__metadata__[0]) for key, hint in get_type_hints(kind, include_extras=True).items()]


def _made(kind: Any, found: Any) -> Any:
    return kind(*[read(found, key) for key, read in _readers(kind)])


# What is not said of a patch that is just on or off: it has no arms to be chosen.
_NO_ARMS = {"by": "", "share": 0, "window_seconds": 0, "arm": "", "checked": 0, "differences": 0}


def _state(found: Any) -> State:
    if isinstance(found, dict):
        found = {"reason": "", **({} if found.get("mode") == "ab" else _NO_ARMS), **found}
    return _made(State, found)


def _series(found: Any) -> Series:
    return _made(Series, {**_mapping(found, "sketch"), **found})


def _block(found: Any) -> Block:
    # Without a timed call there is nothing that the two could be.
    return _made(Block, found if _count(found, "timed") else {**found, "mean": 0, "median": 0})


def _patches(found: Any, key: str) -> dict[str, State]:
    return {printable(name): _state(one) for name, one in _mapping(found, key).items()}


def _items(make: Callable[[Any], _Item]) -> Callable[[Any, str], tuple[_Item, ...]]:
    return lambda found, key: tuple(map(make, _value(found, key, list, "list")))


class Snapshot(NamedTuple):
    """All that a process had to tell when it last wrote its file; the times in seconds since 1970."""

    host: Text
    component: Text
    release: Text
    plugin: Text
    pid: Annotated[int, _whole(_LAST_PID)]
    started: Moment
    written: Moment
    ended: Annotated[bool, lambda found, key: found.get(key) is True]
    cpu_seconds: Number
    resident_bytes: Count
    patches: Annotated[Mapping[str, State], _patches]
    series: Annotated[tuple[Series, ...], _items(_series)]
    blocks: Annotated[tuple[Block, ...], _items(_block)]
    events: Annotated[Mapping[str, Mapping[str, int]], _events]


class Gathered(NamedTuple):
    """What was read.

    Args:
        snapshots: One per process, oldest process first.
        complaints: A line for everything that could not be read, each with its path.
    """

    snapshots: tuple[Snapshot, ...]
    complaints: tuple[str, ...]


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
            complaints.append(f"{printable(path)}: {printable(str(error))}")
            continue
        except FileNotFoundError:
            continue  # its process wrote a new one, or somebody cleaned up, since the folder was listed
        except OSError as error:
            complaints.append(f"{printable(path)}: cannot be read: {error.strerror}")
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
        complaints.append(f"{printable(error.filename)}: cannot be read: {error.strerror}")

    for folder in folders:
        for place, below, names in os.walk(folder, onerror=complain):
            below.sort()
            if below and place.count(os.sep) - folder.count(os.sep) >= _DEEPEST:
                complaints.append(f"{printable(place)}: what is in its folders is not read: too deep")
                below.clear()
            # A name with a leading dot is a file that is still being written, or whose process was killed meanwhile.
            yield from (
                os.path.join(place, name) for name in sorted(names) if name.endswith(".json") and name[0] != "."
            )


def _content(path: str) -> bytes:
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise Unusable("is not a regular file")
    # It may have become something else meanwhile: a pipe would never answer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
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
        name = "" if isinstance(found.get("format"), (list, dict)) else f" {found.get('format')!r:.20}"
        raise Unusable(f"has the format{name}; this version reads {FORMAT}")
    return _made(Snapshot, {"events": {}, **found, **({} if blocks else {"blocks": []})})
