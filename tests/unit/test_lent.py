"""A lent dictionary does what a dict does, and nobody who has one can change what anybody else has."""

from __future__ import annotations

import copy
import json
import operator
import os
import pickle
import pprint
import signal
import sys
import threading
from collections import ChainMap, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dirac_perfpatch.patches import _lent
from dirac_perfpatch.patches._lent import lend

Mappings = dict[int, dict[str, set[str]]]

SITES = [f"site {number}" for number in range(5)]
KEYS: list[Any] = [1, 2, 3, *SITES, "no such site"]


def mappings(sites: int = 5) -> Mappings:
    full = {f"site {number}": {f"disk {number}", f"tape {number}"} for number in range(sites)}
    return {1: full, 2: {"site 0": {"disk 1"}}, 3: {}}


def update(target: dict[Any, Any], *others: Any, **named: Any) -> dict[Any, Any]:
    target.update(*others, **named)
    return target


# Ways to use a dictionary, and the key or value that some of them need.
USES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "[]": lambda it, key, value: it[key],
    "get": lambda it, key, value: it.get(key),
    "get with default": lambda it, key, value: it.get(key, value),
    "in": lambda it, key, value: key in it,
    "len": lambda it, key, value: len(it),
    "bool": lambda it, key, value: bool(it),
    "iterate": lambda it, key, value: list(it),
    "reversed": lambda it, key, value: list(reversed(it)),
    "keys": lambda it, key, value: list(it.keys()),
    "values": lambda it, key, value: list(it.values()),
    "items": lambda it, key, value: list(it.items()),
    "items backwards": lambda it, key, value: list(reversed(it.items())),
    "comprehension": lambda it, key, value: {name: it[name] for name in it},
    "set": operator.setitem,
    "del": lambda it, key, value: operator.delitem(it, key),
    "pop": lambda it, key, value: it.pop(key),
    "pop with default": lambda it, key, value: it.pop(key, value),
    "popitem": lambda it, key, value: it.popitem(),
    "setdefault": lambda it, key, value: it.setdefault(key, value),
    "clear": lambda it, key, value: it.clear(),
    "update": lambda it, key, value: it.update({key: value}),
    "|=": lambda it, key, value: operator.ior(it, {key: value}),
    "update named": lambda it, key, value: it.update(name=value),
    "copy()": lambda it, key, value: it.copy(),
    "copy": lambda it, key, value: copy.copy(it),
    "deepcopy": lambda it, key, value: copy.deepcopy(it),
    "pickle": lambda it, key, value: [pickle.loads(pickle.dumps(it, protocol)) for protocol in range(6)],
    "pickle in Python": lambda it, key, value: pickle._loads(pickle._dumps(it)),  # type: ignore[attr-defined]
    "dict()": lambda it, key, value: dict(it),
    "type()": lambda it, key, value: type(it)(it),
    "type().fromkeys": lambda it, key, value: type(it).fromkeys(["a", "b"], value),
    "**": lambda it, key, value: {**it},
    "as arguments": lambda it, key, value: dict(**it) if all(isinstance(name, str) for name in it) else None,
    "updated with": lambda it, key, value: update({}, it),
    "|": lambda it, key, value: it | {key: value},
    "{} |": lambda it, key, value: {key: value} | it,
    "| itself": lambda it, key, value: it | it,
    "OrderedDict": lambda it, key, value: list(OrderedDict(it).values()),
    "defaultdict": lambda it, key, value: dict(defaultdict(list, it)),
    "ChainMap": lambda it, key, value: dict(ChainMap({}, it)),
    "json": lambda it, key, value: json.dumps(it, default=sorted),
    "json of Python": lambda it, key, value: json.dumps(it, default=sorted, indent=1, sort_keys=False),
    "repr": lambda it, key, value: (str(eval(repr(it))), pprint.pformat(it)),
    "==": lambda it, key, value: (it == {key: value}, it != {}, it == it.copy(), it.copy() == it),
    "sorted": lambda it, key, value: sorted(map(str, it)),
    "itemgetter": lambda it, key, value: operator.itemgetter(key)(it),
    "dict inside": lambda it, key, value: [isinstance(it, dict), *(isinstance(it[name], (dict, set)) for name in it)],
}


def outcome(use: Callable[[Any, Any, Any], Any], it: Any, key: Any, value: Any) -> Any:
    try:
        return use(it, key, value)
    except (KeyError, TypeError) as error:
        return repr(error)


def spoil(thing: Any) -> None:
    """Change whatever can be reached, as a careless caller may."""
    if isinstance(thing, dict):
        spoil(list(thing.values()))
        thing["spoiled"] = {"by me"}
    elif isinstance(thing, (list, tuple)):
        for part in thing:
            spoil(part)
    elif isinstance(thing, set):
        thing.add("spoiled")


@settings(max_examples=600, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, 1, 2, 3]),
            st.sampled_from(sorted(USES)),
            st.sampled_from(KEYS),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_used_in_any_way_it_is_as_a_dict_of_ones_own(steps: list[tuple[Any, str, Any, bool]]) -> None:
    original = mappings()
    lent, real, other = lend(original), mappings(), lend(original)
    for level, name, key, spoiled in steps:
        if level is not None and not isinstance(real.get(level), dict):
            continue
        ours, theirs = (lent, real) if level is None else (lent[level], real[level])
        got, wanted = (outcome(USES[name], it, key, {"new"}) for it in (ours, theirs))
        assert got == wanted
        if spoiled:
            spoil(got)
            spoil(wanted)
        assert lent == real
        assert real == lent
        assert list(lent) == list(real)
        assert original == mappings()
    assert other == mappings()
    assert _plain(lent) == real
    spoil(lent)
    assert other == original == mappings()


def _plain(thing: Any) -> Any:
    """What is seen by who asks for one thing after the other."""
    if isinstance(thing, dict):
        return {key: _plain(thing[key]) for key in thing}
    return set(thing) if isinstance(thing, set) else thing


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, dict, lambda it: it.copy(), lambda it: it | {}])
@pytest.mark.parametrize("touched", [0, 1, 4])
def test_copies_are_plain(copied: Callable[[Any], Any], touched: int) -> None:
    level = lend(mappings())[1]
    for site in SITES[:touched]:
        level[site].add("mine")
    other = copied(level)
    assert type(other) is dict
    assert {type(value) for value in other.values()} == {set}
    assert other == level


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_need_none_of_our_classes(protocol: int) -> None:
    lent = lend(mappings())
    owned = lend(mappings())
    owned[1].clear()
    assert b"perfpatch" not in pickle.dumps([lent, lent[1], owned, owned[1]], protocol)
    other = pickle.loads(pickle.dumps(lent, protocol))
    assert {type(part) for part in (other, *other.values(), *other[1].values())} == {dict, set}


def test_a_pickle_and_a_copy_of_one_that_is_in_itself() -> None:
    lent: Any = lend(mappings())
    lent["self"] = lent
    for other in (pickle.loads(pickle.dumps(lent)), copy.deepcopy(lent)):
        assert other["self"] is other


def test_what_is_asked_for_again_is_the_same() -> None:
    lent = lend(mappings())
    level = lent[1]
    first = [level[site] for site in SITES]
    assert lent[1] is level
    assert all(level[site] is given for site, given in zip(SITES, first))
    assert all(value is given for value, given in zip(level.values(), first))
    assert lent.get(1) is level


def test_changing_while_iterating() -> None:
    level = lend(mappings())[1]
    for site in level:
        level[site] = {"replaced"}
    assert set(map(tuple, level.values())) == {("replaced",)}
    with pytest.raises(RuntimeError, match="changed size"):
        for site in level:
            level[site + " new"] = set()


def test_the_type_is_found_in_tables_of_types_once_a_caller_has_changed_it() -> None:
    level: Any = lend(mappings())[1]
    table = {dict: "dictionary", list: "list"}
    assert type(level) not in table
    for site in level:
        level[site] = list(level[site])
    assert table[type(level)] == "dictionary"
    assert type(level) == dict  # noqa: E721
    assert type(level) != list  # noqa: E721
    assert type(lend(mappings())[3]) is dict


def test_a_dataclass_of_it_is_made_into_a_dictionary() -> None:
    @dataclass
    class Holder:
        mapping: Any

    assert asdict(Holder(lend(mappings()))) == {"mapping": mappings()}


def test_nothing_is_copied_before_it_is_asked_for() -> None:
    original = mappings(100)
    level = lend(original)[1]
    assert "site 99" in level
    assert len(list(level)) == 100
    assert level["site 5"] == original[1]["site 5"]
    untouched = [site for site, elements in dict.items(level) if elements is original[1][site]]
    assert len(untouched) == 99


def test_who_asks_for_more_than_a_few_gets_a_dict_at_its_own_speed() -> None:
    level = lend(mappings())[1]
    for site in SITES[:3]:
        assert type(level) not in (dict,)
        level[site].add("mine")
    assert type(level) in (dict,)
    assert level["site 0"] == {"disk 0", "tape 0", "mine"}


@pytest.fixture
def threads_take_turns_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("threads_take_turns_often")
def test_threads_that_share_one_get_the_same_sets_and_lose_nothing() -> None:
    for _ in range(30):
        level: Any = lend(mappings(300))[1]
        ready, given = threading.Barrier(4), []

        def use(number: int, level: Any = level, ready: Any = ready, given: Any = given) -> None:
            ready.wait()
            mine = []
            for site in mappings(300)[1]:
                mine.append(level[site])
                mine[-1].add(f"thread {number}")
                level[f"{site} of {number}"] = {"stored"}
            given.append(mine)

        threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(given) == 4
        assert all(elements >= {f"thread {number}" for number in range(4)} for elements in given[0])
        assert all(level[f"site {site} of {number}"] == {"stored"} for site in range(300) for number in range(4))


def test_a_child_that_is_forked_while_another_thread_is_at_it_can_go_on() -> None:
    entered, go_on = threading.Event(), threading.Event()
    level = lend(mappings())[1]

    def hold() -> None:
        with _lent.lock:
            entered.set()
            go_on.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(60)
    child = os.fork()
    if not child:
        signal.alarm(20)
        os._exit(0 if level["site 1"] else 1)
    go_on.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_thread_that_was_about_to_ask_when_all_was_copied_gets_what_all_get() -> None:
    level: Any = lend(mappings())[1]
    about_to_ask = level.__getitem__
    level["site 3"] = {"stored"}
    assert all(about_to_ask(site) is level[site] for site in SITES)
