"""An option of the configuration has the value that it has in stock, directly after every change."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import changed, stock
from DIRAC import gConfig
from DIRAC.ConfigurationSystem.Client.ConfigurationData import gConfigurationData
from DIRAC.ConfigurationSystem.private.ConfigurationData import ConfigurationData
from diraccfg import CFG
from hypothesis import given, settings
from hypothesis import strategies as st

from dirac_perfpatch import loading
from dirac_perfpatch.patches import configuration_options

NAME = "configuration_options"
PATH = "/Systems/A/Port"


@contextlib.contextmanager
def configured(tree: Any) -> Iterator[Any]:
    """Another configuration in use, as after a refresh."""
    before = gConfigurationData.mergedCFG
    gConfigurationData.mergedCFG = configuration = CFG().loadFromDict(tree)
    try:
        yield configuration
    finally:
        gConfigurationData.mergedCFG = before


def both(path: Any, *more: Any) -> Any:
    """The value, which is that of the host's own method, asked twice."""
    answers = [gConfigurationData.extractOptionFromCFG(path, *more) for _ in range(2)]
    assert answers == [ConfigurationData.extractOptionFromCFG.__wrapped__(gConfigurationData, path, *more)] * 2
    return answers[0]


NAMES = st.sampled_from(["A", "B", "Port", " A", "a b", "ü"])
TREES = st.recursive(
    st.dictionaries(NAMES, st.text(max_size=5), max_size=3),
    lambda trees: st.dictionaries(NAMES, st.one_of(trees, st.text(max_size=5)), max_size=3),
    max_leaves=8,
)
PATHS = st.lists(st.sampled_from(["A", "B", "Port", "a b", "ü", "", " ", " A ", "nobody"]), max_size=4).map("/".join)


@settings(max_examples=40, deadline=None)
@given(tree=TREES, paths=st.lists(PATHS, min_size=1, max_size=5))
def test_the_same_values_as_stock(tree: Any, paths: list[str]) -> None:
    with configured(tree):
        for path in paths:
            both(path)
            both(f"/{path}/")


def test_arguments_of_every_kind() -> None:
    with configured({"Systems": {"A": {"Port": "1"}}}):
        for path in (None, 1, b"/Systems", ["Systems"], object()):
            both(path)
        for more in ((False, True), (None,), (CFG(),), (CFG().loadFromDict({"Systems": {"A": {"Port": "2"}}}),)):
            both(PATH, *more)


def test_every_change_counts_at_once() -> None:
    assert both(PATH) is None
    with changed(PATH, "1"):
        assert both(PATH) == "1"
        gConfigurationData.setOptionInCFG(PATH, "2")
        assert both(PATH) == gConfig.getValue(PATH) == "2"
        gConfigurationData.mergeWithLocal(CFG().loadFromDict({"Systems": {"A": {"Port": "3"}}}))
        assert both(PATH) == "3"
        with configured({"Systems": {"A": {"Port": "4"}}}):
            assert both(PATH) == "4"
        assert both(PATH) == "3"
        gConfigurationData.deleteOptionInCFG(PATH)
        assert both(PATH) is None
    before = gConfigurationData.remoteCFG
    gConfigurationData.setRemoteCFG(CFG().loadFromDict({"Systems": {"A": {"Port": "5"}}}))
    assert both(PATH) == "5"
    gConfigurationData.setRemoteCFG(before)
    assert both(PATH) is None


def test_the_callers_own_lists_and_types() -> None:
    with configured({"Systems": {"A": {"Port": "1, 2"}}}):
        gConfig.getValue(PATH, []).clear()
        assert gConfig.getValue(PATH, []) == ["1", "2"]
        assert gConfig.getValue(PATH, "") == "1, 2"
        assert not gConfig.getOption(PATH, 1)["OK"]
        assert gConfig.getOptionsDict("/Systems/A")["Value"] == {"Port": "1, 2"}


def test_another_object_than_the_one_in_use_is_read_as_in_stock() -> None:
    other = ConfigurationData(loadDefaultCFG=False)
    with changed(PATH, "1"):
        assert both(PATH) == "1"
        assert other.extractOptionFromCFG(PATH) is None
        other.setOptionInCFG(PATH, "2")
        assert (other.extractOptionFromCFG(PATH), both(PATH)) == ("2", "1")
        assert gConfigurationData.extractOptionFromCFG(PATH, other.localCFG) == "2"


def test_a_change_during_the_look_up_leaves_nothing_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's method begins in one configuration, and another is in use when it ends."""
    original = ConfigurationData.dangerZoneStart

    def start(data: Any) -> None:
        original(data)
        if replacing:
            gConfigurationData.mergedCFG = replacing.pop()

    replacing: list[Any] = []
    monkeypatch.setattr(ConfigurationData, "dangerZoneStart", start)
    with configured({"Systems": {"A": {"Port": "1"}}}) as first:
        second = CFG().loadFromDict({"Systems": {"A": {"Port": "2"}}})
        replacing.append(second)
        gConfigurationData.extractOptionFromCFG(PATH)
        for configuration, value in ((second, "2"), (first, "1"), (second, "2")):
            gConfigurationData.mergedCFG = configuration
            assert both(PATH) == value


def test_while_a_configuration_is_loaded_the_present_one_answers() -> None:
    with configured({"Systems": {"A": {"Port": "1"}}}):
        assert both(PATH) == "1"
        gConfigurationData.lock()
        try:
            assert gConfigurationData.extractOptionFromCFG(PATH) == "1"
        finally:
            gConfigurationData.unlock()


def test_no_more_is_kept_than_allowed_and_nothing_once_it_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration_options, "_MAX_OPTIONS", 3)
    with configured({"Systems": {"A": {"Port": "1"}}}):
        for number in range(10):
            assert both(f"/Nobody/{number}") is None
        assert both(PATH) == "1"
    with configured({"Systems": {"A": {"Port": "1"}}}) as configuration:
        both(PATH)
        held = weakref.ref(configuration)
    del configuration
    with stock(NAME):
        assert held() is None
        assert gConfig.getValue("/Nobody") is None
    assert loading.plugin.switches[NAME].guard.failures == 0


def test_threads_that_read_while_others_change() -> None:
    """Each value that is read is one that was set, and after the last change the last one."""
    errors: list[Any] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            if gConfigurationData.extractOptionFromCFG(PATH) not in (None, *map(str, range(30))):
                errors.append("a value that nobody has set")

    readers = [threading.Thread(target=read, daemon=True) for _ in range(3)]
    for reader in readers:
        reader.start()
    with changed(PATH, "0"):
        for number in range(30):
            gConfigurationData.setOptionInCFG(PATH, str(number))
            assert gConfigurationData.extractOptionFromCFG(PATH) == str(number)
    done.set()
    for reader in readers:
        reader.join(10)
    assert not errors
