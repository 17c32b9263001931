"""The schema of a snapshot: its fields, their bounds, and how it is written as JSON and read back.

Recorder and journal build these types; the reader parses into them. It trusts nothing: processes are killed at any
moment, and people copy files around. If a field is missing or out of bounds, the file is :class:`Unusable`, so later
code need not check: numbers have bounds, and a text is one line that is safe for a terminal. Unknown keys are ignored,
because a newer plugin may write them.
"""

# No "from __future__ import annotations": a host process creates these types, and to compile each annotation from text
# would take longer than all the rest.
import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar, get_type_hints

from dirac_perfpatch.patching import ARMED, FAILED, STOOD_DOWN
from dirac_perfpatch.toggles import AB

FORMAT = 1
PATCHED, STOCK = "patched", "stock"
ARMS = (PATCHED, STOCK)
KINDS = BY_TIME, BY_CALL, BY_PROCESS = "time", "call", "process"
MOST_BLOCKS = 1000
# Kinds of outcomes: what a service is asked, what a database is asked, and a cycle of an agent.
KINDS_OF_OUTCOMES = REQUEST, STATEMENT, CYCLE = "request", "statement", "cycle"

# States of a patch that changes nothing in its process.
_WITHOUT_EFFECT = (ARMED, STOOD_DOWN, FAILED)
_MOST_CHARACTERS = 500
# A bin of a sketch stands for a time near exp(2 * accuracy * key) seconds. Times beyond exp(50) are rubbish, and
# ddsketch, whose stores are dense, would ask for all the memory there is.
_MOST_EXPONENT = 50
_FINEST, _COARSEST = 1e-3, 0.5
_MOST = 1e14  # so that statistics can add such numbers up
_LAST_MOMENT = 1e10  # in the year 2286; some code that shows dates fails after the year 9999
_SHORTEST = 1e-12
_LAST_PID = 2**31 - 1

_Item = TypeVar("_Item")
# Reads the value of a key; raises Unusable.
_Reader = Callable[[Any, str], Any]


class Unusable(ValueError):
    """A file is not a snapshot; the text says what is wrong with it."""


def printable(text: str) -> str:
    """The text as one line that is safe for a terminal, cut if it is very long."""
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


def _word(*words: str) -> _Reader:
    def read(found: Any, key: str) -> str:
        value = _text(found, key)
        if value not in words:
            raise Unusable(f"{key} is none of {', '.join(filter(None, words))}")
        return value

    return read


def _within(most: float, least: float = 0.0, whole: bool = False) -> _Reader:
    def read(found: Any, key: str) -> Any:
        value = found.get(key) if isinstance(found, dict) else None
        # Python's JSON has NaN, Infinity and integers of any size.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
            raise Unusable(f"{key:.50} is not a number from 0 to {most:g}")
        if 0 < value < least:
            raise Unusable(f"{key:.50} is too close to zero")
        if whole and not isinstance(value, int):
            raise Unusable(f"{key:.50} is not a whole number")
        return value

    return read


_number, _count = _within(_MOST), _within(_MOST, whole=True)
Text = Annotated[str, _text]
Number = Annotated[float, _number]
Count = Annotated[int, _count]
Moment = Annotated[float, _within(_LAST_MOMENT)]  # seconds since 1970
Seconds = Annotated[float, _within(_MOST, _SHORTEST)]
_arm = _word(*ARMS)
Arm = Annotated[str, _arm]


def _arms(found: Any, key: str) -> dict[str, str]:
    arms = _mapping(found, key)
    return {printable(patch): _arm(arms, patch) for patch in arms}


def _accuracy(found: Any, key: str) -> float:
    accuracy: float = _number(found, key)
    if not _FINEST <= accuracy <= _COARSEST:
        raise Unusable(f"accuracy is {accuracy:g}")
    return accuracy


def _bins(found: Any, key: str) -> dict[int, float]:
    accuracy, bins = _accuracy(found, "accuracy"), _mapping(found, key)
    for place in bins:
        if not re.fullmatch("-?[0-9]{1,9}", place):
            raise Unusable("a sketch has a key that is not a number of up to nine digits")
        if abs(int(place)) * 2 * accuracy > _MOST_EXPONENT:
            raise Unusable(f"a sketch has the key {place}")
    return {int(place): _number(bins, place) for place in bins}


@functools.cache
def _readers(kind: Any) -> list[tuple[str, _Reader]]:
    return [(key, hint.__metadata__[0]) for key, hint in get_type_hints(kind, include_extras=True).items()]


def _made(kind: Any, found: Any) -> Any:
    return kind(*[read(found, key) for key, read in _readers(kind)])


def _mapped(make: Callable[[Any], _Item]) -> _Reader:
    return lambda found, key: {printable(name): make(one) for name, one in _mapping(found, key).items()}


def _listed(make: Callable[[Any], _Item]) -> _Reader:
    return lambda found, key: tuple(map(make, _value(found, key, list, "list")))


class State(NamedTuple):
    """What a patch was in a process when the snapshot was written. Fields from ``by`` on are of a patch that is ab."""

    state: Text  # applied, armed, off, stood down, tripped or failed
    reason: Text
    mode: Text  # on, off or ab
    failures: Count  # of the patch's own code
    by: Annotated[str, _word("", *KINDS)] = ""  # what has an arm: a window of time, a call or a process
    share: Number = 0  # of windows, calls or processes: the part that runs patched
    window_seconds: Number = 0
    arm: Text = ""  # of the process: patched, stock or both
    checked: Count = 0  # answers that were compared with those of the stock host
    differences: Count = 0  # those that were not the same

    def data(self) -> dict[str, Any]:
        """As JSON; an empty field is left out unless the patch is ab."""
        empty = {} if self.mode == AB else self._field_defaults
        return {key: value for key, value in self._asdict().items() if value != empty.get(key)}


class Sketch(NamedTuple):
    """How long calls took: a histogram with bins of equal relative width."""

    accuracy: Annotated[float, _accuracy]  # half the relative width of a bin
    zero: Number  # calls that took no time that the clock could see
    bins: Annotated[Mapping[int, float], _bins]  # number of calls by the key of ddsketch's logarithmic mapping


class Series(NamedTuple):
    """All calls of a target in one arm since the process started."""

    patch: Text
    target: Text
    arm: Arm
    calls: Count
    errors: Count  # calls that raised, or answered with an error
    timed: Count  # calls that were timed
    seconds: Number  # the sum of their times
    sketch: Annotated[Sketch, lambda found, key: _made(Sketch, _mapping(found, key))]

    def plus(self, other: "Series") -> "Series":
        """The sum with a series of the same patch, target, arm and accuracy."""
        bins = Counter(self.sketch.bins)
        bins.update(other.sketch.bins)
        return self._replace(
            calls=self.calls + other.calls,
            errors=self.errors + other.errors,
            timed=self.timed + other.timed,
            seconds=self.seconds + other.seconds,
            sketch=Sketch(self.sketch.accuracy, self.sketch.zero + other.sketch.zero, dict(bins)),
        )

    def data(self) -> dict[str, Any]:
        """As JSON, which makes texts of the keys of bins."""
        return {**self._asdict(), "sketch": self.sketch._asdict()}


class Block(NamedTuple):
    """The calls of a target in one arm within one window; counts as in :class:`Series`."""

    patch: Text
    target: Text
    arm: Arm
    block: Count  # the number of the window in its process
    pair: Count  # the number that the two windows of a pair share
    start: Moment
    seconds: Number  # the length of the window
    calls: Count
    errors: Count
    timed: Count
    mean: Seconds  # of the timed calls; 0 if there is none
    median: Seconds

    def data(self) -> dict[str, Any]:
        """As JSON, where mean and median are null if no call was timed."""
        return self._asdict() if self.timed else {**self._asdict(), "mean": None, "median": None}


class Method(NamedTuple):
    """What outcomes are counted by."""

    kind: Annotated[str, _word(*KINDS_OF_OUTCOMES)]
    name: Text
    mixed: Count  # outcomes that lasted beyond their window, which are in no row


class Outcome(NamedTuple):
    """The outcomes of a method within one window; a list in JSON."""

    method: Count  # its place among the methods
    number: Count
    errors: Count  # those that raised, or answered with an error
    mean: Seconds
    cpu_mean: Seconds  # CPU time of the thread
    median: Seconds
    cpu_median: Seconds


def _listed_as(kind: Any) -> Callable[[Any], Any]:
    def make(found: Any) -> Any:
        if not isinstance(found, list) or len(found) < len(kind._fields):
            raise Unusable(f"{kind.__name__} is not a list of {len(kind._fields)} values")
        return _made(kind, dict(zip(kind._fields, found)))

    return make


class OutcomeWindow(NamedTuple):
    """The outcomes within one window; block, pair, start and seconds as in :class:`Block`."""

    block: Count
    pair: Count
    start: Moment
    seconds: Number
    together: Annotated[bool, lambda found, key: found.get(key) is True]  # whether all patches share one draw
    arms: Annotated[Mapping[str, str], _arms]  # of each patch that has one for a request, by name
    rows: Annotated[Sequence[Outcome], _listed(_listed_as(Outcome))]


class OutcomeTotal(NamedTuple):
    """The outcomes of a method in one arm of a patch since the process started; a list in JSON."""

    patch: Text
    arm: Arm
    method: Count  # its place among the methods
    number: Count
    errors: Count
    seconds: Number  # the sum of their times
    cpu_seconds: Number


class RecordedOutcomes(NamedTuple):
    """The outcomes of a process."""

    methods: Annotated[Sequence[Method], _listed(_listed_as(Method))] = ()
    windows: Annotated[Sequence[OutcomeWindow], _listed(functools.partial(_made, OutcomeWindow))] = ()
    totals: Annotated[Sequence[OutcomeTotal], _listed(_listed_as(OutcomeTotal))] = ()

    def data(self) -> dict[str, Any]:
        """As JSON."""
        return {**self._asdict(), "windows": [window._asdict() for window in self.windows]}


def _recorded(found: Any, key: str) -> RecordedOutcomes:
    # The file of an older plugin has no totals.
    recorded: RecordedOutcomes = _made(RecordedOutcomes, {"totals": [], **_mapping(found, key)})
    methods = [total.method for total in recorded.totals]
    methods += [row.method for window in recorded.windows for row in window.rows]
    if max(methods, default=-1) >= len(recorded.methods):
        raise Unusable("an outcome has no method")
    return recorded


def _state(found: Any) -> State:
    if isinstance(found, dict):
        found = {"reason": "", **({} if found.get("mode") == AB else State._field_defaults), **found}
    return _made(State, found)


def _block(found: Any) -> Block:
    return _made(Block, found if _count(found, "timed") else {**found, "mean": 0, "median": 0})


def _counts(found: Any) -> dict[str, int]:
    if not isinstance(found, dict):
        raise Unusable("the events of a patch are not a mapping")
    return {printable(name): _count(found, name) for name in found}


class Snapshot(NamedTuple):
    """One process."""

    host: Text
    component: Text
    release: Text
    plugin: Text
    pid: Annotated[int, _within(_LAST_PID, whole=True)]
    started: Moment
    written: Moment
    ended: Annotated[bool, lambda found, key: found.get(key) is True]
    cpu_seconds: Number
    resident_bytes: Count
    patches: Annotated[Mapping[str, State], _mapped(_state)]
    series: Annotated[Sequence[Series], _listed(functools.partial(_made, Series))]
    blocks: Annotated[Sequence[Block], _listed(_block)]
    events: Annotated[Mapping[str, Mapping[str, int]], _mapped(_counts)]
    outcomes: Annotated[RecordedOutcomes, _recorded] = RecordedOutcomes()

    @property
    def key(self) -> tuple[str, int, float]:
        """Identifies the process; its number alone may be used again."""
        return self.host, self.pid, self.started

    def has_effect(self, patch: str) -> bool:
        """Whether a patch changes what the process does, or did so before it went off; else both arms are stock."""
        return patch in self.patches and self.patches[patch].state not in _WITHOUT_EFFECT

    def data(self) -> dict[str, Any]:
        """As JSON; what :func:`parse` reads."""
        found = {
            "format": FORMAT,
            **self._asdict(),
            "patches": {name: state.data() for name, state in self.patches.items()},
            "series": [one.data() for one in self.series],
            "blocks": [one.data() for one in self.blocks],
            "outcomes": self.outcomes.data(),
        }
        if not self.outcomes.methods:
            del found["outcomes"]
        return found


_NO_OUTCOMES: dict[str, Any] = {"methods": [], "windows": []}


def parse(content: bytes, *, blocks: bool = True) -> Snapshot:
    """Read a snapshot.

    Args:
        content: Of the file.
        blocks: Whether to read the blocks and the outcomes of each window, which take most of the time.

    Raises:
        Unusable: It is no snapshot; the text says why.
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
    found = {"events": {}, "outcomes": _NO_OUTCOMES, **found}
    if not blocks:
        found.update(blocks=[], outcomes={**_mapping(found, "outcomes"), "windows": []})
    return _made(Snapshot, found)
