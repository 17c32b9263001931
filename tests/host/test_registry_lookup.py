"""getHostnameForDN and getUsernameForDN answer as stock does in every configuration, directly after every change."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import changed, release, stock
from DIRAC import gConfig
from DIRAC.ConfigurationSystem.Client.ConfigurationData import gConfigurationData
from DIRAC.ConfigurationSystem.Client.Helpers import Registry
from DIRAC.ConfigurationSystem.Client.Helpers.Registry import getHostnameForDN
from DIRAC.ConfigurationSystem.private.Refresher import gRefresher
from hypothesis import given, settings
from hypothesis import strategies as st

from dirac_perfpatch import loading
from dirac_perfpatch.patching import without_stacks
from lab.configuration import HOST_DN
from lab.hosts import state

LookUp = Callable[..., Any]

SECTIONS = {"getHostnameForDN": "Hosts"}
if state(release(), "registry_lookup", "getUsernameForDN") == "applied":
    SECTIONS["getUsernameForDN"] = "Users"
every_look_up = pytest.mark.parametrize("name", SECTIONS)


@contextlib.contextmanager
def configured(tree: Any) -> Iterator[Any]:
    """Another configuration in use, as after a refresh."""
    before = gConfigurationData.mergedCFG
    gConfigurationData.mergedCFG = configuration = type(before)().loadFromDict(tree)
    try:
        yield configuration
    finally:
        gConfigurationData.mergedCFG = before


def registry(name: str, **dns: Any) -> Any:
    return {"Registry": {SECTIONS[name]: {entry: {"DN": dn} for entry, dn in dns.items()}}}


def both(name: str, *args: Any) -> Any:
    """The answer, which is that of the host's own function."""
    look_up: LookUp = getattr(Registry, name)
    patched = without_stacks(look_up(*args))
    assert patched == without_stacks(look_up.__wrapped__(*args))  # type: ignore[attr-defined]
    return patched


def walks() -> int:
    return loading.plugin.switches["registry_lookup"].guard.events.get("walks", 0)


DNS = ["/CN=a", "/CN=b", "/O=x/CN=a b", "/CN=ü", "a"]
VALUES = st.lists(st.sampled_from([*DNS, "", " ", "/CN=a/CN=b", "\t/CN=a "]), max_size=4).map(",".join)
ENTRIES = st.dictionaries(
    st.sampled_from(["one", "two", "three.org", "four 4", "/CN=a", "DN"]),
    st.one_of(st.just({}), st.just({"DN": {"DN": "/CN=a"}}), st.fixed_dictionaries({"DN": VALUES})),
)


@every_look_up
@settings(max_examples=60, deadline=None)
@given(entries=st.one_of(st.none(), st.just("an option"), ENTRIES), more=st.booleans())
def test_the_same_answers_as_stock(name: str, entries: Any, more: bool) -> None:
    """Lists with commas, duplicates and nothing in them; no list, no section; names with a slash or a blank."""
    tree = {"Registry": {} if entries is None else {SECTIONS[name]: entries}} if more or entries else {}
    with configured(tree):
        for dn in [*DNS, "/CN=a/CN=b", "", "/CN=nobody"]:
            for asked in (dn, f" {dn}\n"):
                both(name, asked)


def test_the_answers_on_this_host() -> None:
    assert both("getHostnameForDN", HOST_DN) == {"OK": True, "Value": "localhost"}
    assert both("getHostnameForDN", "/CN=x ")["Message"] == "No hostname found for dn /CN=x"
    assert Registry.getPropertiesForEntity("hosts", dn=HOST_DN) == Registry.getPropertiesForHost("localhost")


@every_look_up
def test_the_first_one_in_the_order_of_the_configuration_wins(name: str) -> None:
    with configured(registry(name, z="/CN=other", b="/CN=a, /CN=b", a="/CN=a")):
        assert both(name, "/CN=a")["Value"] == "b"


@every_look_up
def test_one_walk_for_all_dns(name: str) -> None:
    with configured(registry(name, **{f"n{number}": f"/CN={number}, /CN=x{number}" for number in range(20)})):
        look_up, before = getattr(Registry, name), walks()
        for number in range(20):
            assert look_up(f"/CN={number}")["Value"] == look_up(f"/CN=x{number}")["Value"] == f"n{number}"
        assert walks() == before + 1


@every_look_up
@pytest.mark.parametrize("new_version", [True, False])
def test_a_changed_configuration_is_seen_at_once(name: str, new_version: bool) -> None:
    """With a new version as a refresh brings it, and without one, as a local change is."""
    assert not both(name, "/CN=new")["OK"]
    with changed(f"/Registry/{SECTIONS[name]}/new/DN", "/CN=new"):
        if new_version:
            gConfigurationData.generateNewVersion()
        assert both(name, "/CN=new")["Value"] == "new"
    assert not both(name, "/CN=new")["OK"]


@every_look_up
def test_a_refresh_that_is_due_is_begun_by_the_look_up_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with configured(registry(name, old="/CN=a")):
        assert both(name, "/CN=a")["Value"] == "old"
        fresh = type(gConfigurationData.mergedCFG)().loadFromDict(registry(name, new="/CN=a"))
        monkeypatch.setattr(
            gRefresher, "refreshConfigurationIfNeeded", lambda: setattr(gConfigurationData, "mergedCFG", fresh)
        )
        assert getattr(Registry, name)("/CN=a")["Value"] == "new"


@every_look_up
def test_nothing_is_kept_of_two_configurations(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refreshed in the middle of the walk; also when the first one is in use again afterwards."""
    entries = {"a": "/CN=a", "b": "/CN=b", "c": "/CN=c"}
    other = type(gConfigurationData.mergedCFG)().loadFromDict(registry(name, a="/CN=c", b="/CN=a", c="/CN=b"))
    real = gConfig.getValue

    def refreshed(path: str, *args: Any) -> Any:
        if path.endswith("/b/DN"):
            gConfigurationData.mergedCFG = other
        return real(path, *args)

    with configured(registry(name, **entries)) as first:
        with monkeypatch.context() as patch:
            patch.setattr(gConfig, "getValue", refreshed)
            getattr(Registry, name)("/CN=c")
        assert gConfigurationData.mergedCFG is other
        assert [both(name, dn)["Value"] for dn in ("/CN=a", "/CN=b", "/CN=c")] == ["b", "c", "a"]
        gConfigurationData.mergedCFG = first
        assert [both(name, dn)["Value"] for dn in ("/CN=a", "/CN=b", "/CN=c")] == ["a", "b", "c"]


@every_look_up
def test_a_configuration_is_held_while_it_is_used_and_no_longer(name: str) -> None:
    """Held, because the next one could get its place in memory, and with that its identity."""

    class Configuration(type(gConfigurationData.mergedCFG)):  # type: ignore[misc]
        pass

    look_up = getattr(Registry, name)
    with configured({}):
        gConfigurationData.mergedCFG = Configuration().loadFromDict(registry(name, a="/CN=a"))
        look_up("/CN=a")
        held = weakref.ref(gConfigurationData.mergedCFG)
        gConfigurationData.mergedCFG = Configuration()
        assert held() is not None
        assert not look_up("/CN=a")["OK"]
        gConfig.getValue("/Nobody")  # configuration_options holds one, too, until the next option is read
        assert held() is None
        held = weakref.ref(gConfigurationData.mergedCFG)
        look_up("/CN=a")
    with stock("registry_lookup", "configuration_options"):
        assert held() is None


@every_look_up
def test_a_caller_that_changes_an_answer_harms_nobody(name: str) -> None:
    with configured(registry(name, a="/CN=a")):
        for _ in range(3):
            answer = getattr(Registry, name)("/CN=a")
            assert answer == {"OK": True, "Value": "a"}
            assert type(answer) is type(getattr(Registry, name).__wrapped__("/CN=a"))
            answer.update(OK=False, Value="mine")


class _Upper(str):
    def strip(self, *args: Any) -> str:
        return str(self).upper().strip(*args)


@every_look_up
def test_what_is_not_a_plain_string_is_taken_as_in_stock(name: str) -> None:
    with configured(registry(name, a="/cn=a", b="/CN=A")):
        for _ in range(2):
            assert both(name, _Upper("/cn=a"))["Value"] == "b"
            assert both(name, "/cn=a")["Value"] == "a"
            assert not both(name, b"/cn=a")["OK"]
            for wrong in (None, 5, ["/cn=a"]):
                with pytest.raises(AttributeError, match="strip"):
                    getattr(Registry, name)(wrong)
            with pytest.raises(TypeError):
                getattr(Registry, name)()
    assert loading.plugin.switches["registry_lookup"].guard.failures == 0


@every_look_up
def test_what_the_refresh_raises_goes_to_the_caller(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise NotImplementedError("DIRAC_DISABLE_GCONFIG_REFRESH is set")

    monkeypatch.setattr(gRefresher, "refreshConfigurationIfNeeded", refuse)
    for _ in range(5):
        with pytest.raises(NotImplementedError, match="DIRAC_DISABLE_GCONFIG_REFRESH"):
            getattr(Registry, name)("/CN=a")
    assert loading.plugin.switches["registry_lookup"].guard.failures == 0


def test_a_failure_of_ours_is_counted_and_the_host_answers() -> None:
    def broken(*args: Any) -> Any:
        raise RuntimeError

    switch = loading.plugin.switches["registry_lookup"]
    real = gConfig.getSections
    gConfig.getSections = lambda *args: broken() if "_walk" in _callers() else real(*args)
    try:
        with configured(registry("getHostnameForDN", a="/CN=a")):
            assert getHostnameForDN("/CN=a") == {"OK": True, "Value": "a"}
    finally:
        del gConfig.getSections
    assert switch.guard.failures == 1


def _callers() -> set[str]:
    import sys

    frame, names = sys._getframe(), set()
    while frame is not None:
        names.add(frame.f_code.co_name)
        frame = frame.f_back  # type: ignore[assignment]
    return names


@pytest.mark.own_lines
@every_look_up
def test_threads_get_answers_of_the_configuration_in_use(name: str) -> None:
    """Two DNs change hands in each refresh. An answer is that of a configuration in use during the call."""
    look_up, stop = getattr(Registry, name), threading.Event()
    wrong: list[Any] = []

    def ask() -> None:
        while not stop.is_set():
            before = current[0]
            answer = look_up("/CN=a")
            if not before <= int(answer["Value"][1:]) <= current[0] + 1:
                wrong.append(answer)

    current = [0]
    with configured(registry(name, n0="/CN=a")):
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(1, 100):
            tree = registry(name, **{f"n{number}": "/CN=a", "x": "/CN=x"})
            gConfigurationData.mergedCFG = type(gConfigurationData.mergedCFG)().loadFromDict(tree)
            current[0] = number
            stop.wait(0.001)
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.patched("registry_lookup", "getUsernameForDN")
def test_a_look_up_among_given_users() -> None:
    """In the order of the given users; an empty list means all, and a name may be written like a path."""
    with configured(registry("getUsernameForDN", a="/CN=a", b="/CN=a, /CN=b", c="/CN=c")):
        for users in (["b", "a"], ["c", "b"], ["c"], [" b", "a"], ("a",), [], (), None, {"b": 1}, "ab"):
            both("getUsernameForDN", "/CN=a", users)
            both("getUsernameForDN", "/CN=nobody", users)
        assert Registry.getUsernameForDN("/CN=a", usersList=["b", "a"])["Value"] == "b"
        assert Registry.getUsernameForDN(dn="/CN=a")["Value"] == "a"
        assert Registry.getUsernameForDN("/CN=a", iter(["c", "b"]))["Value"] == "b"


def test_taken_off_the_hosts_own_code_runs_under_every_name() -> None:
    assert getHostnameForDN is Registry.getHostnameForDN
    patched = getHostnameForDN.__code__
    with stock("registry_lookup"):
        assert getHostnameForDN.__code__.co_filename == Registry.__file__
        assert not hasattr(getHostnameForDN, "__wrapped__")
        assert getHostnameForDN(HOST_DN)["Value"] == "localhost"
    assert getHostnameForDN.__code__.co_filename == patched.co_filename != Registry.__file__
