"""The stand-in of a module: what it has, and that none of the module runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest
from conftest import Write

from dirac_perfpatch import preview
from dirac_perfpatch.patching import Fitting, InTree, NotHere, Target

SOURCE = '''
"""Whatever runs here raises."""
from __future__ import annotations
import traceback
import no.such.library as far, sys
from no.such.place import *
from no.such.place import thing as taken
boom: int = 1 / 0
first, (second, *third) = boom[0]
[hidden for hidden in boom]
if boom:
    def chosen(argument=boom, *, named=boom) -> boom:
        return traceback.format_stack(argument)
@functools.lru_cache(maxsize=boom)
def kept(): ...
@boom("cache")
def decorated(): return far
class Thing(boom, metaclass=boom):
    LIMIT = boom
    def __secret(self): return self.__other
    class Inner:
        @staticmethod
        async def far_in(): ...
'''


@pytest.fixture(autouse=True)
def _nothing_is_kept() -> None:
    preview._stand_in.cache_clear()


def foresee(name: str, look: Callable[[Fitting], None], replaces: bool = True) -> tuple[str, str]:
    return preview.foresee(Target(("no_such_package.module", name), "thing", look, lambda fitting: None), replaces)


def test_a_stand_in_has_what_the_module_defines(modules: Write) -> None:
    modules("above.module", SOURCE)
    seen: list[Any] = []

    def look(fitting: Fitting) -> None:
        assert fitting.module.__name__ == "above.module"
        assert fitting.resolve("traceback") is sys.modules["traceback"]
        for name in ("far", "taken", "boom", "first", "second", "third", "Thing.LIMIT", "Thing.Inner.far_in"):
            fitting.resolve(name)
        assert not {"hidden", "thing", "*"} & vars(fitting.module).keys()
        assert type(fitting.resolve("chosen")) is FunctionType
        fitting.expect("chosen", "traceback", "format_stack")
        fitting.expect("decorated", "far")
        assert hasattr(fitting.resolve("kept"), "cache_info")
        assert not hasattr(fitting.resolve("decorated"), "cache_info")
        fitting.expect("Thing._Thing__secret", "_Thing__other")
        seen.append(fitting)

    assert foresee("above.module", look) == ("armed", "will be applied when above.module is imported")
    assert len(seen) == 1
    assert "above" in sys.modules and "above.module" not in sys.modules


def test_what_look_says_is_reported(modules: Write) -> None:
    modules("module", "def known(): return open(__file__)")

    def in_tree(fitting: Fitting) -> None:
        raise InTree("the host has it")

    def not_here(fitting: Fitting) -> None:
        raise NotHere

    def wrong(fitting: Fitting) -> None:
        raise InTree("the host has it", "is wrong", lambda fitting: None)

    assert foresee("module", in_tree) == ("stood down", "the host has it")
    will = "when module is imported, replaces the host's own version, which is wrong"
    assert foresee("module", wrong) == ("armed", will)
    left = "the host has it; left to it, although its version is wrong"
    assert foresee("module", wrong, False) == ("stood down", left)
    assert foresee("module", not_here) == ("armed", "there is no no_such_package.module here")
    state, reason = foresee("module", lambda fitting: fitting.expect("known", "close"))
    assert (state, "not the function that this patch knows" in reason) == ("failed", True)


def test_without_a_source_it_is_armed_and_with_a_bad_one_failed(modules: Write) -> None:
    assert foresee("no_such_module", lambda fitting: None)[0] == "armed"
    assert foresee("_thread", lambda fitting: None)[0] == "armed"
    modules("bad", "def (")
    assert foresee("bad", lambda fitting: None)[0] == "failed"
