"""The merged configuration is what the host's own merge makes of the two, whatever has happened before."""

from __future__ import annotations

import os
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import changed, mapping, release, run, stock
from DIRAC.ConfigurationSystem.Client.ConfigurationData import gConfigurationData
from DIRAC.ConfigurationSystem.Client.Helpers.Registry import getHostnameForDN
from DIRAC.ConfigurationSystem.private.ConfigurationData import ConfigurationData
from diraccfg import CFG, cfg
from hypothesis import given, settings
from hypothesis import strategies as st

from dirac_perfpatch import loading
from dirac_perfpatch.patches import _cfg, local_options
from dirac_perfpatch.patches._cfg import difference
from dirac_perfpatch.patches.configuration_parsing import made_up
from dirac_perfpatch.patches.local_options import _CHANGING
from lab import hosts


class Stock(ConfigurationData):  # type: ignore[misc]
    """The same, with the host's own sync(), because ours is only for the host's own class."""


SERVERS = "/DIRAC/Configuration/Servers"
NAMES = st.sampled_from(["A", "B", "C", "DIRAC", " D "])
PATHS = st.one_of(
    st.lists(NAMES, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names)),
    st.sampled_from([SERVERS, "/A/x", "/B/y", "/A/B/x", "A//B/ x", "/DIRAC/Configuration", "", "/", "x"]),
)
VALUES = st.sampled_from(["1", "two", "a, b", "", "a,b,a"])
TREES = st.deferred(lambda: st.dictionaries(st.sampled_from(["A", "B", "C", "DIRAC", "x", "y"]), NODES, max_size=4))
NODES = st.one_of(VALUES, TREES)
WHICH = st.sampled_from(["localCFG", "remoteCFG", "mergedCFG"])
CHANGES = [st.tuples(st.just("set"), PATHS, VALUES)] * 2 + [st.tuples(st.just("delete"), PATHS)]
STEPS = st.one_of(
    *CHANGES,
    *CHANGES,
    st.tuples(st.just("set in"), WHICH, PATHS, VALUES),
    st.tuples(st.just("delete in"), WHICH, PATHS),
    st.tuples(st.just("load"), TREES),
    st.tuples(st.just("merge"), TREES),
    st.tuples(st.just("remote"), TREES, st.booleans()),
    st.tuples(st.just("replace"), WHICH, TREES),
    st.tuples(st.just("by hand"), WHICH, st.sampled_from(sorted(_CHANGING) + ["reset", "load"]), NAMES, NAMES),
    st.tuples(st.just("sync")),
    st.tuples(st.just("servers"), VALUES),
)


def outcome(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return call(*args, **kwargs)
    except Exception as error:
        return type(error), str(error)


def by_hand(tree: CFG, method: str, name: str, other: str) -> Any:
    """A change of a tree that the host's ConfigurationData does not know of."""
    sections = tree.listSections()
    if sections and other != "A":
        tree = tree[sections[0]]
    if method == "load":
        return tree.loadFromBuffer(f"{name} = 1\n# c\n{other}\n{{\n}}\n")
    if method == "applyModifications":
        newer = CFG().loadFromDict({name: "1", other: {"x": "2"}} if name != other else {name: "1"})
        return tree.applyModifications(tree.getModifications(newer))
    arguments: dict[str, Any] = {
        "createNewSection": (name, "# comment"),
        "setOption": (name, other),
        "deleteKey": (name,),
        "copyKey": (name, other),
        "renameKey": (name, other),
        "appendToOption": (name, other),
        "addKey": (name, other, "comment"),
        "setComment": (name.strip(), other),
        "sortByKey": (None, True),
        "reset": (),
    }
    return getattr(tree, method)(*arguments[method])


def do(data: ConfigurationData, step: tuple[Any, ...]) -> Any:
    kind, *rest = step
    if kind == "set":
        return outcome(data.setOptionInCFG, *rest)
    if kind == "delete":
        return outcome(data.deleteLocalOption if rest[0] == "/A/x" else data.deleteOptionInCFG, *rest)
    if kind == "set in":
        return outcome(data.setOptionInCFG, rest[1], rest[2], getattr(data, rest[0]))
    if kind == "delete in":
        return outcome(data.deleteOptionInCFG, rest[1], getattr(data, rest[0]))
    if kind == "load":
        packed = zlib.compress(str(CFG().loadFromDict(*rest)).encode())
        return outcome(data.loadRemoteCFGFromCompressedMem, packed)
    if kind == "merge":
        return outcome(data.mergeWithLocal, CFG().loadFromDict(*rest))
    if kind == "remote":
        return outcome(data.setRemoteCFG, CFG().loadFromDict(rest[0]), disableSync=rest[1])
    if kind == "replace":
        return setattr(data, rest[0], CFG().loadFromDict(rest[1]))
    if kind == "by hand":
        found = outcome(by_hand, getattr(data, rest[0]), *rest[1:])
        return None if isinstance(found, CFG) else found
    return outcome(data.sync) if kind == "sync" else outcome(data.setServers, *rest)


def state(data: ConfigurationData) -> Any:
    return data.getServers(), data.runningThreadsNumber, data.threadingEvent.is_set()


def merges() -> int:
    return loading.plugin.switches["local_options"].guard.events.get("merges of all", 0)


def failures() -> int:
    return loading.plugin.switches["local_options"].guard.failures


@pytest.fixture(params=[True, False], ids=["parsing", "without parsing"])
def parsing(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param:
        yield
    else:
        with stock("configuration_parsing"):
            yield


def both(steps: list[tuple[Any, ...]]) -> ConfigurationData:
    ours, its = ConfigurationData(False), Stock(False)
    for step in steps:
        assert do(ours, step) == do(its, step), step
        for name in ("mergedCFG", "localCFG", "remoteCFG"):
            assert difference(getattr(ours, name), getattr(its, name)) is None, (step, name)
        assert state(ours) == state(its)
    assert failures() == 0
    return ours


@pytest.mark.usefixtures("parsing")
@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEPS, max_size=12))
def test_the_same_tree_after_any_sequence(steps: list[tuple[Any, ...]]) -> None:
    both(steps)


@pytest.mark.usefixtures("parsing")
@settings(max_examples=40, deadline=None)
@given(remote=TREES, local=TREES, steps=st.lists(st.one_of(*CHANGES), max_size=8))
def test_the_same_tree_after_sets_and_deletes(remote: Any, local: Any, steps: list[tuple[Any, ...]]) -> None:
    both([("merge", local), ("load", remote), *steps])


@pytest.mark.usefixtures("parsing")
def test_only_what_changes_is_merged() -> None:
    data = ConfigurationData(False)
    data.mergeWithLocal(CFG().loadFromDict({"DIRAC": {"Security": {"a": "1"}}, "LocalSite": {}}))
    data.loadRemoteCFGFromMem("DIRAC\n{\n  Security\n  {\n    b = 2\n  }\n  Other\n  {\n  }\n}\n" + made_up(5))
    before, first = merges(), data.mergedCFG
    data.setOptionInCFG("/DIRAC/Security/a", "2")
    second = data.mergedCFG
    data.setOptionInCFG("/LocalSite/x", "1")
    data.deleteOptionInCFG("/DIRAC/Security/a")
    third = data.mergedCFG
    assert merges() == before
    assert first is not second is not third
    assert [tree.getOption("DIRAC/Security/a", "") for tree in (first, second, third)] == ["1", "2", ""]
    assert first["DIRAC"] is not second["DIRAC"]
    assert first["Users"] is second["Users"] is third["Users"] is not data.remoteCFG["Users"]
    assert first["DIRAC"]["Other"] is second["DIRAC"]["Other"] is not data.remoteCFG["DIRAC"]["Other"]
    assert third["LocalSite"] is data.localCFG["LocalSite"]
    assert difference(third, data.remoteCFG.mergeWith(data.localCFG)) is None


@pytest.mark.parametrize("method", [*sorted(_CHANGING), "reset", "load"])
@pytest.mark.parametrize("which", ["localCFG", "remoteCFG", "mergedCFG"])
@pytest.mark.usefixtures("parsing")
def test_a_tree_that_other_code_changes_is_seen(which: str, method: str) -> None:
    """By each method that changes one, in a section that the path of the next option does not touch."""
    tree = {"S": {"A": "1", "T": {"x": "1"}, "B": "2"}, "DIRAC": {"y": "1"}}
    start: list[tuple[Any, ...]] = [("merge", tree), ("load", tree), ("set", "/DIRAC/y", "2")]
    names = {
        "applyModifications": ("A", "C"),
        "load": ("A", "C"),
        "createNewSection": ("C", "C"),
        "addKey": ("C", "C"),
        "renameKey": ("A", "C"),
        "copyKey": ("A", "C"),
    }
    one, other = names.get(method, ("A", "B"))
    data = both([*start, ("by hand", which, method, one, other), ("set", "/DIRAC/y", "3")])
    assert data.extractOptionFromCFG("/DIRAC/y") == "3"


@pytest.mark.usefixtures("parsing")
def test_an_option_where_the_other_has_a_section_is_the_hosts_error() -> None:
    data = both([("load", {"A": {"B": {"x": "1"}}}), ("set", "/A/B", "1"), ("set", "/C/x", "1"), ("delete", "/A/B")])
    assert data.extractOptionFromCFG("/A/B/x") == "1"
    both([("load", {"A": "1"}), ("set", "/A/x", "1"), ("delete", "/A/x"), ("set", "/B", "1"), ("delete", "/A")])


def test_values_and_paths_of_other_types() -> None:
    class Value:
        def __init__(self, data: ConfigurationData) -> None:
            self.data = data

        def __str__(self) -> str:
            self.data.localCFG.createNewSection("Mine").setOption("x", "1")
            return "value"

    for odd in (5, None, ["a"], b"x"):
        both([("set", "/A/x", "1"), ("set", "/A/x", odd), ("set", odd, "1"), ("delete", odd), ("set", "/A/y", "2")])
    ours, its = ConfigurationData(False), Stock(False)
    for data in (ours, its):
        data.setOptionInCFG("/A/x", "1")
        data.setOptionInCFG("/A/x", Value(data))
    assert difference(ours.mergedCFG, its.mergedCFG) is None


def test_local_and_remote_may_be_one_object() -> None:
    """As in a test of the host's."""
    for data in (ConfigurationData(False), Stock(False)):
        tree = CFG().loadFromDict({"A": {"B": {"x": "1"}, "C": {}}})
        data.localCFG = data.remoteCFG = data.mergedCFG = tree
        data.setVersion("1")
        for path in ("/A/B/x", "/A/D/x", "/E"):
            data.setOptionInCFG(path, "2")
            assert difference(data.mergedCFG, tree.mergeWith(tree)) is None


def test_what_a_caller_keeps_for_the_configuration_follows() -> None:
    """dms_helpers and registry_lookup keep what they derive for the merged object."""
    assert not getHostnameForDN("/CN=mine")["OK"]
    assert "LCG.Mine.ch" not in mapping()[1]
    before = merges()
    # A release that shares the helpers itself looks at the version of the configuration, which is that of before.
    follows = hosts.state(release(), "dms_helpers") == "applied"
    with changed("/Registry/Hosts/mine/DN", "/CN=mine"), changed("/Resources/Sites/LCG/LCG.Mine.ch/SE", "SITE000-disk"):
        assert getHostnameForDN("/CN=mine")["Value"] == "mine"
        assert any("LCG.Mine.ch" in sites for sites in mapping().values()) == follows
    assert not getHostnameForDN("/CN=mine")["OK"]
    assert not any("LCG.Mine.ch" in sites for sites in mapping().values())
    assert merges() <= before + 1


def test_readers_see_the_tree_before_or_after() -> None:
    """Without a lock, while options that belong together are set one after the other."""
    data, stop, wrong = ConfigurationData(False), threading.Event(), []
    data.loadRemoteCFGFromMem("A\n{\n  B\n  {\n    x = -1\n  }\n  C\n  {\n    y = 1\n  }\n}\n")
    data.setOptionInCFG("/A/B/x", "0")

    def read() -> None:
        last = 0
        while not stop.is_set():
            tree = data.mergedCFG
            seen, order = int(tree["A"]["B"]["x"]), tree["A"].listSections()
            again = int(tree["A"]["B"]["x"])
            if not last <= seen or seen != again or order != ["B", "C"] or tree["A"]["C"].getAsDict() != {"y": "1"}:
                wrong.append((last, seen, again, order))
            last = seen

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=read) for _ in range(3)]
    try:
        for thread in threads:
            thread.start()
        for number in range(1, 400):
            data.setOptionInCFG("/A/B/x", str(number))
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.usefixtures("parsing")
def test_no_change_of_another_thread_is_lost() -> None:
    """Sets in several threads at once, among changes that nobody tells; the host loses none at the next set."""
    data = ConfigurationData(False)
    data.loadRemoteCFGFromMem(made_up(2))
    errors: list[Any] = []

    def work(number: int) -> None:
        for turn in range(60):
            try:
                data.setOptionInCFG(f"/T{number}/S{turn % 7}/x{turn}", str(turn))
                if turn % 5 == 0:
                    data.remoteCFG["Users"].setOption(f"by{number}-{turn}", "hand")
                if turn % 7 == 0:
                    data.deleteOptionInCFG(f"/T{number}/S{turn % 7}/x{turn}")
            except Exception as error:
                errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    try:
        for thread in threads:
            thread.start()
    finally:
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert errors == []
    data.setOptionInCFG("/Last", "1")
    assert difference(data.mergedCFG, data.remoteCFG.mergeWith(data.localCFG)) is None
    assert failures() == 0


@pytest.mark.usefixtures("parsing")
def test_a_signal_handler_may_set_an_option_in_the_middle_of_it() -> None:
    """At each call in our code and diraccfg's; in the host's own, such a handler may hang in its locks."""
    ours = (_cfg.__file__, local_options.__file__, cfg.__file__)
    for moment in range(0, 120, 3):
        data, count = ConfigurationData(False), iter(range(1000))
        data.loadRemoteCFGFromMem("A\n{\n  B\n  {\n    x = 1\n  }\n}\nC\n{\n}\n")
        data.setOptionInCFG("/A/B/x", "2")

        def interrupt(frame: Any, event: str, argument: Any, data: Any = data, count: Any = count) -> None:
            if frame.f_code.co_filename in ours and next(count) == moment:  # noqa: B023
                sys.setprofile(None)
                data.setOptionInCFG("/C/y", "handler")
                sys.setprofile(interrupt)

        sys.setprofile(interrupt)
        try:
            data.setOptionInCFG("/A/B/x", "3")
        finally:
            sys.setprofile(None)
        data.setOptionInCFG("/A/D/x", "4")
        assert difference(data.mergedCFG, data.remoteCFG.mergeWith(data.localCFG)) is None, moment
    assert failures() == 0


def test_a_child_of_a_fork_merges_all_the_first_time() -> None:
    """The parent's other thread may have been between the change of a tree and its count."""
    data = ConfigurationData(False)
    data.loadRemoteCFGFromMem(made_up(2))
    data.setOptionInCFG("/A/x", "1")
    before = merges()
    vars(data.localCFG)["_CFG__dataDict"]["A"]._CFG__dataDict["x"] = "changed, and not counted yet"
    child = os.fork()
    if not child:
        data.setOptionInCFG("/B/y", "1")
        data.setOptionInCFG("/B/y", "2")
        right = difference(data.mergedCFG, data.remoteCFG.mergeWith(data.localCFG)) is None
        os._exit(0 if right and merges() == before + 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_change_of_an_option_that_fails_is_seen_later() -> None:
    """The host's own code raises after it has changed the local configuration."""
    both([("load", {"A": {"x": "1"}}), ("set", "/B", "1"), ("set", "/B/x", "2"), ("set", "/C", "3")])


def test_the_configuration_of_the_process() -> None:
    before = merges()
    with changed("/DIRAC/Security/UseServerCertificate", "yes"):
        assert gConfigurationData.useServerCertificate()
        with changed("/DIRAC/Security/UseServerCertificate", "no"):
            assert not gConfigurationData.useServerCertificate()
        assert gConfigurationData.useServerCertificate()
    assert not gConfigurationData.useServerCertificate()
    assert merges() <= before + 1


def test_a_new_method_of_diraccfg_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    switch = loading.plugin.switches["local_options"]
    with stock("local_options"), monkeypatch.context() as patch:
        patch.setattr(CFG, "moveKey", lambda self: None, raising=False)
        switch.put_on()
        (target,) = switch.status()["targets"]
        assert target["state"] == "failed"
        assert "moveKey" in target["reason"]
        switch.take_off()


def test_what_was_not_counted_while_it_was_off_is_merged() -> None:
    data = ConfigurationData(False)
    data.loadRemoteCFGFromMem("A\n{\n}\n")
    data.setOptionInCFG("/A/x", "1")
    with stock("local_options"):
        data.remoteCFG["A"].setOption("y", "1")
    data.setOptionInCFG("/B/x", "1")
    assert data.extractOptionFromCFG("/A/y") == "1"


def test_taken_off_the_hosts_own_methods_are_back() -> None:
    names = [(CFG, name) for name in (*_CHANGING, "reset")]
    names += [(ConfigurationData, name) for name in ("sync", "setOptionInCFG", "deleteOptionInCFG")]
    patched = [vars(owner)[name] for owner, name in names]
    with stock("local_options"):
        own = [vars(owner)[name] for owner, name in names]
        assert own == [function.__wrapped__ for function in patched]
        assert not any("dirac_perfpatch" in function.__code__.co_filename for function in own)
        before = _cfg.changes.value
        CFG().setOption("x", "1")
        assert _cfg.changes.value == before


def test_without_locks() -> None:
    """With DIRAC's switch for fewer locks, which diraccfg reads when it is imported."""
    code = """
from DIRAC.Core.Utilities.Extensions import extensionsByPriority
extensionsByPriority()
import dirac_perfpatch
dirac_perfpatch.status()  # starts it
from DIRAC.ConfigurationSystem.Client.ConfigurationData import gConfigurationData as data
from dirac_perfpatch.patches._cfg import difference
data.loadRemoteCFGFromMem("A\\n{\\n  x = 1\\n}\\n")
for number in range(3):
    data.setOptionInCFG("/A/y", str(number))
    assert data.extractOptionFromCFG("/A/y") == str(number)
    assert difference(data.mergedCFG, data.remoteCFG.mergeWith(data.localCFG)) is None
print([one["state"] for one in dirac_perfpatch.status() if one["name"] in ("local_options", "configuration_parsing")])
"""
    answer = run(code, DIRAC_FEWER_CFG_LOCKS="yes")
    assert answer.stdout.splitlines()[-1:] == ["['applied', 'applied']"], answer.stderr
