"""What users feel is recorded at the host's own functions, which are as they were before and after."""

from __future__ import annotations

import collections.abc
import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import run, stock
from DIRAC import S_ERROR, S_OK
from DIRAC.Core.Base.AgentModule import AgentModule
from DIRAC.Core.DISET.private.Service import Service
from DIRAC.Core.Utilities import MySQL as mysql
from serving import serve
from test_taking_off import _places

from dirac_perfpatch import loading
from dirac_perfpatch.patches import CATALOGUE, load
from dirac_perfpatch.patching import Switch
from lab.mariadb import MariaDB

# The Tornado that pip installs beside DIRAC is of a time when Python had this name.
vars(collections).setdefault("MutableMapping", collections.abc.MutableMapping)
BaseRequestHandler: Any = importlib.import_module(
    "DIRAC.Core.Tornado.Server.private.BaseRequestHandler"
).BaseRequestHandler

MODULES = sorted(target.modules[0] for target in load("_outcomes").targets)


class Outcomes:
    """Stands in for those of a comparison, and notes what it is given."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str, bool]] = []
        self.error: Exception | None = None

    def begin(self) -> int:
        return len(self.found)

    def end(self, begun: int, kind: str, name: str, failed: bool) -> None:
        if self.error:
            raise self.error
        self.found.append((kind, name, failed))


@pytest.fixture
def outcomes() -> Outcomes:
    return Outcomes()


@pytest.fixture
def switch(outcomes: Outcomes) -> Iterator[Switch]:
    found = Switch(load("_outcomes"), {"outcomes": outcomes})
    found.put_on()
    yield found
    found.take_off()


# A service


def test_a_request_with_its_method_and_whether_it_failed(outcomes: Outcomes, switch: Switch) -> None:
    assert serve(("RPC", "work"), "well")["Value"] == "well"
    assert not serve(("RPC", "work"), "fail")["OK"]
    assert not serve(("RPC", "work"), "raise")["OK"]
    assert serve(("RPC", "echo"), "x")["OK"]
    assert outcomes.found == [
        ("request", "A/B work", False),
        ("request", "A/B work", True),
        ("request", "A/B work", True),
        ("request", "A/B echo", False),
    ]


def test_names_that_clients_make_up_are_not_taken(outcomes: Outcomes, switch: Switch) -> None:
    assert not serve(("RPC", "madeUp"))["OK"]
    assert not serve(("FileTransfer", "ToClient"), "file", "token")["OK"]
    serve(("FileTransfer", "MadeUp"), "file", "token")
    assert [name for _, name, _ in outcomes.found] == [
        "A/B unknown method",
        "A/B FileTransfer ToClient",
        "A/B FileTransfer",
    ]


def test_what_is_refused_has_failed_and_what_proposes_nothing_is_no_request(outcomes: Outcomes, switch: Switch) -> None:
    assert "Unauthorized query" in serve(("RPC", "work"), authorized=False)["Message"]
    assert "is not a known action type" in serve(("Nonsense", "work"))["Message"]
    serve(("RPC", "work"), shakes_hands=False)
    assert outcomes.found == [("request", "A/B refused", True)] * 2


def test_a_failure_of_our_own_changes_no_answer_and_the_third_is_the_last(outcomes: Outcomes, switch: Switch) -> None:
    outcomes.error = KeyError("ours")
    for _ in range(5):
        assert serve(("RPC", "work"), "well")["Value"] == "well"
    status = switch.status()
    assert (status["state"], status["failures"]) == ("tripped", 3)
    outcomes.error = None
    assert serve(("RPC", "work"), "well")["Value"] == "well"
    assert outcomes.found == []


def test_what_a_request_raises_is_raised(outcomes: Outcomes, switch: Switch) -> None:
    service: Any = Service.__new__(Service)
    with pytest.raises(AttributeError):
        service._processInThread(None)
    assert outcomes.found == []


# HTTPS


def _https(method: Any) -> Any:
    handler: Any = BaseRequestHandler.__new__(BaseRequestHandler)
    vars(handler).update(
        _fullComponentName="A/B",
        _BaseRequestHandler__methodName="work",
        _getMethodArgs=lambda args, kwargs: (args, kwargs),
        srv_getFormattedRemoteCredentials=lambda: "x",
        log=SimpleNamespace(notice=lambda *texts: None, exception=lambda *texts: None),
        methodObj=method,
    )
    return handler


def test_a_request_by_https(outcomes: Outcomes, switch: Switch) -> None:
    assert _https(S_OK)._executeMethod(["x"], {}) == {"OK": True, "Value": "x"}
    assert not _https(lambda: S_ERROR("no"))._executeMethod([], {})["OK"]
    from tornado.web import HTTPError

    with pytest.raises(HTTPError):
        _https(lambda: 1 / 0)._executeMethod([], {})
    assert outcomes.found == [("request", "A/B work", failed) for failed in (False, True, True)]


# Statements


@pytest.fixture
def db(mariadb: MariaDB) -> Any:
    return mysql.MySQL(mariadb.host, mariadb.user, mariadb.password, "AccountingDB", port=mariadb.port)


def test_a_statement_whatever_patch_is_on_or_off(db: Any, outcomes: Outcomes, switch: Switch) -> None:
    def ask() -> list[bool]:
        outcomes.found.clear()
        assert db._query("SELECT 1")["Value"] == ((1,),)
        assert not db._query("SELECT nonsense FROM nowhere", debug=False)["OK"]
        assert db._update("SET @x = 1")["OK"]
        assert db._updatemany("SELECT %s", [(1,)])["OK"]
        assert {(kind, name) for kind, name, _ in outcomes.found} <= {("statement", "SQL")}
        return [failed for _, _, failed in outcomes.found]

    seen = [False, True, False, False]
    assert ask() == seen
    with stock():
        assert ask() == seen
        switch.take_off()
        assert ask() == []
        switch.put_on()
        assert ask() == seen
    assert ask() == seen
    switch.take_off()
    assert ask() == []


# Agents


class Agent(AgentModule):
    answer: Any = None

    def execute(self) -> Any:
        return self.answer


def test_a_cycle_even_if_the_scheduler_has_it_already(outcomes: Outcomes) -> None:
    agent: Any = Agent("WorkloadManagement/SomeAgent", "WorkloadManagement/SomeAgent")
    agent.activityMonitoring = False
    go = agent.am_go
    switch = Switch(load("_outcomes"), {"outcomes": outcomes})
    switch.put_on()
    try:
        for agent.answer in (S_OK(), S_ERROR("no")):
            assert go()["OK"] is agent.answer["OK"]
    finally:
        switch.take_off()
    go()
    assert outcomes.found == [("cycle", "WorkloadManagement/SomeAgent", failed) for failed in (False, True)]


# On and off


def places() -> list[Any]:
    """By module, the identities of all its objects, but of a count of the databases that there are."""
    return [{at: one for at, one in _places(name).items() if at[-1] != "gInstancesCount"} for name in MODULES]


def test_every_function_is_found_and_left_as_it_was(outcomes: Outcomes) -> None:
    for name in MODULES:
        importlib.import_module(name)
    with stock():
        before = places()
        switch = Switch(load("_outcomes"), {"outcomes": outcomes})
        assert places() == before
        for _ in range(2):
            switch.put_on()
            assert {target["state"] for target in switch.status()["targets"]} == {"applied"}
            assert all(one != other for one, other in zip(before, places())), "something of each module"
            switch.take_off()
            assert places() == before


def test_patches_may_come_and_go_under_it(outcomes: Outcomes) -> None:
    """In any order, because a patch may replace an attribute whose function is ours."""
    others = [patch.name for patch in CATALOGUE]
    with stock():
        before = places()
        switch = Switch(load("_outcomes"), {"outcomes": outcomes})
    switch.put_on()
    with contextlib.ExitStack() as off:
        off.enter_context(stock(*others))
        switch.take_off()
        assert places() == before
        switch.put_on()
    switch.take_off()
    with stock():
        assert places() == before
    assert {found.status()["state"] for found in loading.plugin.switches.values()} <= {"applied", "armed", "stood down"}


_ASK = """
from DIRAC.Core.Utilities.Extensions import extensionsByPriority
extensionsByPriority()
from DIRAC import S_ERROR
from DIRAC.Core.Base.AgentModule import AgentModule
from dirac_perfpatch import loading
def recorded():
    return vars(AgentModule)["am_go"].__code__.co_filename.endswith("patching.py")
"""


def _toggles(path: Path, mode: str, by: str) -> str:
    path.write_text(f"patches:\n  error_stack: {mode}\ncomparison:\n  by: {by}\n  spool: {path.parent}\n")
    return str(path)


@pytest.mark.once
@pytest.mark.patched
@pytest.mark.parametrize(
    ("mode", "by", "recorded"), [("ab", "time", True), ("ab", "call", False), ("on", "time", False)]
)
def test_only_while_a_patch_has_arms(mode: str, by: str, recorded: bool, tmp_path: Path) -> None:
    path = tmp_path / "patches.yaml"
    code = (
        _ASK
        + """
S_ERROR("x")
print(recorded())
for name in list(loading.plugin.switches):
    loading.plugin.switches[name].take_off()
print(recorded())
"""
    )
    answer = run(code, DIRAC_PERFPATCH_CONFIG=_toggles(path, mode, by))
    assert answer.stdout.split() == [str(recorded), "False"], answer.stderr
    assert "dirac-perfpatch" not in answer.stderr
