"""Together with others who extend or wrap the same functions: answers stay right, and status tells what is in place."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import downstream
import pytest
from conftest import make_proxy, release, run, served_from_the_cache, warm
from test_connections import catalogue, job_record

import dirac_perfpatch
from dirac_perfpatch import cli, loading
from dirac_perfpatch.patches import AT_IMPORT, CATALOGUE
from dirac_perfpatch.patching import Database, NotAsked, Patch, Switch, without_stacks
from lab.hosts import plain_environment, state
from lab.mariadb import MariaDB

# An extension that overrides targets and calls them by super().
EXTENDED = f"""
import json, sys
from typing import Any
from DIRAC.Core.Utilities.Extensions import extensionsByPriority
from DIRAC.Core.Utilities.ObjectLoader import ObjectLoader
{inspect.getsource(catalogue)}
{inspect.getsource(job_record)}
def load(path):
    answer = ObjectLoader().loadObject(path)
    assert answer["OK"], answer
    return answer["Value"]
def said(answer):
    return {{key: value for key, value in answer.items() if key != "CallStack"}}
found = [extensionsByPriority()]
db = catalogue()
found.append([type(db.dtree).__module__, db.dtree.makeDirectories("/fakevo/downstream", {{}})["OK"]])
for paths in (["/fakevo/downstream"], ["/no/such"], []):
    for long in (False, True):
        answer = said(db.dtree.getDirectorySize(paths, long, False, True))
        if answer["OK"]:
            answer["Value"].pop("QueryTime", None)
        found.append(answer)
accounting = load("AccountingSystem.DB.AccountingDB")()
kind = next(name for name in accounting.dbCatalog if name in ("Job", "Lab_Job"))
for number in range(3):
    record = job_record(accounting, kind, number)
    found.append(said(accounting.insert(kind, 1000.0 * number, 1000.0 * number + 60, record)))
found.append(said(accounting.insert("NoSuch", 0, 1, [])))
for _ in range(3):
    chain = load("Core.Security.X509Chain")()
    found += [said(chain.loadProxyFromFile({{proxy!r}})), chain.loaded, chain.getCredentials()["Value"]["downstream"]]
    helpers = load("DataManagementSystem.Utilities.DMSHelpers")(vo="fakevo")
    found.append(helpers.getSiteSEMapping()["Value"])
import dirac_perfpatch
states = {{one["name"]: [one["state"], one["failures"]] for one in dirac_perfpatch.status()}}
print(json.dumps([json.dumps(found, default=lambda one: sorted(one) if isinstance(one, set) else str(one)), states]))
"""
# Targets that it overrides or calls.
USED = ("extension_lookup", "error_stack", "proxy_loading", "dms_helpers")
USED += ("connection_checkout", "connection_eviction", "connection_close")


def test_an_extension_that_overrides_targets(mariadb: MariaDB, tmp_path: Path) -> None:
    folder = downstream.install(tmp_path / "extension")
    make_proxy(tmp_path / "proxy")
    code = EXTENDED.replace("{proxy!r}", repr(str(tmp_path / "proxy")))
    answers = {}
    for word in ("on", "off"):
        answer = run(code, PYTHONPATH=str(folder), DIRAC_PERFPATCH=word)
        assert answer.returncode == 0, answer.stderr
        assert "dirac-perfpatch" not in answer.stderr
        answers[word] = json.loads(answer.stdout.splitlines()[-1])
    found, states = answers["on"]
    assert found == answers["off"][0]
    extensions, (tree, _), *rest = json.loads(found)
    assert extensions == ["Downstream", "DIRAC"]
    assert tree.startswith("Downstream.")
    assert "LCG.Downstream.ch" in rest[-1]
    assert [one for one in rest if isinstance(one, dict) and one.get("Downstream") and one["OK"]]
    assert {name: states[name] for name in USED} == {name: [state(release(), name), 0] for name in USED}
    assert {found for found, _ in answers["off"][1].values()} == {"off"}


TELEMETRY = ["opentelemetry-sdk>=1.20", "opentelemetry-instrumentation-mysqlclient>=0.41b0"]
TRACED = """
import json, sys
sys.path.append({packages!r})
import MySQLdb
from opentelemetry.instrumentation.mysqlclient import MySQLClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
original = MySQLdb.connect
spans, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
pool = ("connection_checkout", "connection_eviction", "connection_close")

def theirs():
    MySQLClientInstrumentor().instrument(tracer_provider=provider)

def ours():
    from DIRAC.Core.Utilities.Extensions import extensionsByPriority
    extensionsByPriority()
    import DIRAC.Core.Utilities.MySQL

def theirs_gone():
    MySQLClientInstrumentor().uninstrument()

def ours_gone():
    from dirac_perfpatch import loading
    for name in pool:
        loading.plugin.switches[name].take_off()

def ask(sql):
    answer = db._query(sql)
    return answer["Value"][0][0] if answer["OK"] else answer["Message"]

def traced():
    found = [span.attributes for span in spans.get_finished_spans()]
    texts = [one.get("db.statement", one.get("db.query.text")) for one in found]
    spans.clear()
    return texts

def killed():
    "Whether a statement on a connection that was killed while idle gets its answer, on another one."
    number = ask("SELECT CONNECTION_ID()")
    other = original({host!r}, {user!r}, {password!r}, port={port})
    other.query(f"KILL {{number}}")
    other.close()
    return isinstance(ask("SELECT CONNECTION_ID()"), int) and ask("SELECT CONNECTION_ID()") != number

for step in {before!r}:
    globals()[step]()
from DIRAC.Core.Utilities.MySQL import MySQL
db = MySQL({host!r}, {user!r}, {password!r}, "mysql", port={port})
found = [ask("SELECT 42"), "SELECT 42" in traced(), killed(), ask("SELECT 43"), "SELECT 43" in traced()]
import dirac_perfpatch
found.append([[one["state"], one["failures"]] for one in dirac_perfpatch.status() if one["name"] in pool])
for step in {after!r}:
    globals()[step]()
    found.append([ask("SELECT 44"), ask("nonsense")[:40]])
found.append(MySQLdb.connect is original)
db2 = MySQL({host!r}, {user!r}, {password!r}, "information_schema", port={port})
found.append(db2._query("SELECT 45")["Value"])
print(json.dumps(found))
"""


@pytest.mark.once
@pytest.mark.parametrize("before", [["theirs", "ours"], ["ours", "theirs"]], ids="-".join)
@pytest.mark.parametrize("after", [["theirs_gone", "ours_gone"], ["ours_gone", "theirs_gone"]], ids="-".join)
def test_opentelemetry_traces_statements(before: list[str], after: list[str], mariadb: MariaDB) -> None:
    bin_folder = plain_environment("opentelemetry", TELEMETRY, "{}.{}".format(*sys.version_info))
    (packages,) = bin_folder.parent.glob("lib/python*/site-packages")
    names = {"host": mariadb.host, "user": mariadb.user, "password": mariadb.password, "port": mariadb.port}
    code = TRACED.format(packages=str(packages), before=before, after=after, **names)
    answer = run(code)
    assert answer.returncode == 0, answer.stderr
    assert "dirac-perfpatch" not in answer.stderr, answer.stderr
    found = json.loads(answer.stdout.splitlines()[-1])
    assert found[:5] == [42, True, True, 43, True]
    assert found[5] == [["applied", 0]] * 3
    assert [asked[0] for asked in found[6:8]] == [44, 44]
    assert found[6][1] == found[7][1]
    assert found[8:] == [True, [[45]]]


APPLIED = [one for one in CATALOGUE if state(release(), one.name) == "applied" and one.name not in AT_IMPORT]


class Others:
    """Other users of wrapt, each with a wrapper around one target of a patch."""

    def __init__(self, patch: Patch) -> None:
        self.calls = 0
        self._patch = patch
        self._paths: list[str] = []
        self._places: list[tuple[Any, str, Any]] = []
        for target in patch.targets:
            for name in set(target.modules) & set(sys.modules):
                self._find(sys.modules[name], target.attribute)

    def _find(self, module: Any, path: str) -> None:
        owner: Any = module
        *parents, name = path.split(".")
        for parent in parents:
            owner = vars(owner).get(parent, owner)
        if isinstance(vars(owner).get(name), FunctionType):
            self._places.append((owner, name, vars(owner)[name]))
            self._paths.append(path)

    def wrap(self) -> None:
        import wrapt

        for owner, name, _ in self._places:
            wrapt.wrap_function_wrapper(owner, name, self._call)

    def _call(self, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        self.calls += 1
        return wrapped(*args, **kwargs)

    def unwrap(self) -> None:
        """As OpenTelemetry does: whatever is outermost is taken for theirs."""
        import wrapt

        for owner, name, _ in self._places:
            if isinstance(found := vars(owner)[name], wrapt.FunctionWrapper):
                setattr(owner, name, found.__wrapped__)

    def wrapped(self) -> set[str]:
        """The attributes around which there is one, of those that the host has but not in-tree."""
        return {path for path in self._paths if state(release(), self._patch.name, path) == "applied"}

    def put_back(self) -> None:
        """What was there at first."""
        for owner, name, original in self._places:
            setattr(owner, name, original)

    def left(self) -> list[str]:
        return [name for owner, name, original in self._places if vars(owner)[name] is not original]


@pytest.fixture
def database(mariadb: MariaDB) -> Database:
    cli._load_targets()
    return Database(mariadb.host, mariadb.port, mariadb.user, mariadb.password, "AccountingDB")


def asked(patch: Patch, database: Database) -> Any:
    try:
        return without_stacks(patch.ask(database))
    except NotAsked:
        return "not asked"


@pytest.mark.once
@pytest.mark.parametrize("patch", APPLIED, ids=lambda patch: patch.name)
def test_another_user_of_wrapt(patch: Patch, database: Database) -> None:
    switch = loading.plugin.switches[patch.name]

    def status() -> str:
        entry = next(one for one in dirac_perfpatch.status() if one["name"] == patch.name)
        assert entry["failures"] == 0, entry
        return str(entry["state"])

    switch.take_off()
    others = Others(patch)
    stock = asked(patch, database)

    # After us, and removed after us.
    switch.put_on()
    others.wrap()
    assert asked(patch, database) == stock
    assert status() == "applied"
    switch.take_off()
    before = others.calls
    assert asked(patch, database) == stock
    assert others.calls > before or not others.calls, "their wrapper is gone with ours"
    others.unwrap()
    assert asked(patch, database) == stock
    others.put_back()

    # Before us: what it wraps is unknown, so the patch stays off there.
    others.wrap()
    switch.put_on()
    assert asked(patch, database) == stock
    if others.wrapped():
        assert status() in ("stood down", "applied")  # the latter because of other targets
        assert others.wrapped() <= unknown(switch)
    switch.take_off()
    assert asked(patch, database) == stock
    others.unwrap()
    assert others.left() == []

    # The same with force, and removed after us.
    switch.configure(switch._options, forced=True)
    others.wrap()
    switch.put_on()
    assert asked(patch, database) == stock
    assert unknown(switch) == set()
    assert status() in ("applied", "failed")
    switch.take_off()
    assert asked(patch, database) == stock
    others.unwrap()
    assert others.left() == []

    # The same, and removed before us, perhaps with ours.
    others.wrap()
    switch.put_on()
    others.unwrap()
    assert asked(patch, database) == stock
    assert status() in ("applied", "failed")
    switch.take_off()
    assert asked(patch, database) == stock
    others.put_back()
    switch.configure(switch._options)


def unknown(switch: Switch) -> set[str]:
    """The attributes of the targets that stay off because they are unknown."""
    reason = "is not the code of any DIRAC release known to this version of the plugin"
    return {target["attribute"] for target in switch.status()["targets"] if reason in target["reason"]}


@pytest.mark.once
@pytest.mark.parametrize("first", ["ours", "theirs"])
@pytest.mark.parametrize("last", ["ours", "theirs"])
def test_status_says_whether_callers_reach_ours(first: str, last: str, tmp_path: Path) -> None:
    (patch,) = (one for one in CATALOGUE if one.name == "proxy_loading")
    switch = loading.plugin.switches[patch.name]
    proxy = tmp_path / "proxy"
    make_proxy(proxy)

    def tells_the_truth() -> bool:
        entry = next(one for one in dirac_perfpatch.status() if one["name"] == patch.name)
        if entry["state"] == "applied":
            warm(proxy)
            return True
        return not served_from_the_cache(proxy)

    switch.take_off()
    others = Others(patch)
    for step in (switch.put_on, others.wrap) if first == "ours" else (others.wrap, switch.put_on):
        step()
    assert tells_the_truth()
    assert len(unknown(switch)) == (first == "theirs")  # both targets have one attribute
    for step in (others.unwrap, switch.take_off) if last == "ours" else (switch.take_off, others.unwrap):
        step()
        assert tells_the_truth()
    others.put_back()
