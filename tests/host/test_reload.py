"""Status reports what is really in place, also after a reload of a module or an assignment to a target."""

from __future__ import annotations

import functools
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import in_tree, release, run, served_from_the_cache, warm

import dirac_perfpatch
from dirac_perfpatch.patches import AT_IMPORT, CATALOGUE, WAITED_FOR
from lab.hosts import state
from lab.mariadb import MariaDB

pytestmark = pytest.mark.patched

CODE = """
import importlib, json, sys, time
from DIRAC.Core.Utilities.Extensions import extensionsByPriority
extensionsByPriority()
import dirac_perfpatch
from dirac_perfpatch import loading
reloaded, seams, in_tree = {reloaded!r}, {seams!r}, {in_tree!r}
def runs(name):
    "Whether a function of the package stands in the place of every target of the module."
    found = []
    for patch in reloaded[name]:
        for target in loading.plugin.switches[patch].patch.targets:
            if name in target.modules and (patch, target.attribute) not in in_tree:
                value = sys.modules[name]
                for part in seams.get(patch, target.attribute).split("."):
                    value = vars(value).get(part)
                value = getattr(value, "__func__", value)  # of a static method
                code = getattr(getattr(value, "__code__", None), "co_filename", "")
                ours = [getattr(value, "__module__", ""), type(value).__module__, code]
                # The last one is wrapt's.
                found.append("dirac_perfpatch" in str(ours) or hasattr(value, "_self_wrapper"))
    return all(found) and bool(found)
modules = [importlib.import_module(name) for name in reloaded]
before = list(map(runs, reloaded))
for module in modules:
    if {how!r} == "reload":
        importlib.reload(module)
    else:
        del sys.modules[module.__name__]
        importlib.import_module(module.__name__)
if {asked}:
    states = [one["state"] for one in dirac_perfpatch.status() if one["name"] in sum(reloaded.values(), [])]
else:
    time.sleep(6)
    states = ["applied"]
after = list(map(runs, reloaded))
for switch in loading.plugin.switches.values():
    switch.take_off()
print(json.dumps([before, states, after, list(map(runs, reloaded))]))
"""
# The attribute that a patch replaces, if it is not the declared one.
SEAMS = {
    "error_stack": "_formatStackCached" if in_tree() else "traceback",
    "https_client": "ssl.create_default_context",
}
TARGETS = [(patch.name, target.attribute) for patch in CATALOGUE for target in patch.targets]
IN_TREE = [one for one in TARGETS if state(release(), *one) == "stood down"]


def _reloaded() -> dict[str, list[str]]:
    """The first module that each patch waits for, with the patches that must be applied again after its reload."""
    found: dict[str, list[str]] = {}
    for name, modules in WAITED_FOR.items():
        if name in AT_IMPORT or state(release(), name) == "stood down":
            continue
        module = next((module for module in modules if module in sys.modules), modules[0])
        found.setdefault(module, []).append(name)
    return found


@pytest.mark.parametrize("how", ["reload", "remove and import"])
@pytest.mark.parametrize("asked", [True, False])
def test_modules_that_are_executed_again_are_patched_again(how: str, asked: bool) -> None:
    """When status is called, or else within seconds; and nothing of ours is left when the patches are off."""
    reloaded = _reloaded()
    answer = run(CODE.format(reloaded=reloaded, seams=SEAMS, in_tree=IN_TREE, how=how, asked=asked))
    assert answer.returncode == 0, answer.stderr
    before, states, after, off = json.loads(answer.stdout.splitlines()[-1])
    every = [True] * len(reloaded)
    assert (before, set(states), after) == (every, {"applied"}, every), answer.stderr
    assert not any(off)


def test_a_reloaded_pool_serves_old_and_new_objects(mariadb: MariaDB) -> None:
    code = (
        "import importlib\n"
        "from DIRAC.Core.Utilities.Extensions import extensionsByPriority\n"
        "extensionsByPriority()\n"
        "from DIRAC.Core.Utilities import MySQL as module\n"
        "import dirac_perfpatch\n"
        "from dirac_perfpatch import loading\n"
        f"def make(): return module.MySQL('{mariadb.host}', 'dirac', 'password', 'mysql', port={mariadb.port})\n"
        "old = make()\n"
        "importlib.reload(module)\n"
        "dirac_perfpatch.status()\n"
        "new = make()\n"
        "def pings(db): return int(db._query(\"SHOW GLOBAL STATUS LIKE 'Com_admin_commands'\")['Value'][0][1])\n"
        "def use(db): return [db._query('SELECT 1')['OK'] for _ in range(50)]\n"
        "for db in (old, new):\n"
        "    use(db); before = pings(db); use(db); print(pings(db) - before)\n"
        "for switch in loading.plugin.switches.values(): switch.take_off()\n"
        "for db in (old, new):\n"
        "    before = pings(db); use(db); print(pings(db) - before, type(db._getConnection()['Value']).__module__)\n"
    )
    answer = run(code)
    pings = "0" if in_tree() else "51"
    assert answer.stdout.split() == ["0", "0", *[pings, "MySQLdb.connections"] * 2], answer.stderr


def _state(name: str) -> dict[str, Any]:
    return next(entry for entry in dirac_perfpatch.status() if entry["name"] == name)


def _state_of(name: str, module: str) -> str:
    """The state of a target alone: another test may have imported the module of another one."""
    return next(target["state"] for target in _state(name)["targets"] if target["module"] == module)


@pytest.mark.parametrize(
    ("name", "module", "path"),
    [
        ("proxy_loading", "DIRAC.Core.Security.X509Chain", "X509Chain.loadProxyFromFile"),
        ("proxy_loading", "DIRAC.Core.Security.X509Chain", "X509Chain"),
        ("extension_lookup", "DIRAC.Core.Utilities.Extensions", "extensionsByPriority"),
        ("connection_checkout", "DIRAC.Core.Utilities.MySQL", "ConnectionPool.get"),
    ],
)
def test_status_reports_an_assignment_to_a_target(
    name: str, module: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    importlib.import_module(module)
    owner: Any = sys.modules[module]
    *parents, attribute = path.split(".")
    for parent in parents:
        owner = vars(owner)[parent]
    assert _state(name)["state"] == "applied"
    theirs = type("Theirs", (), {})
    monkeypatch.setattr(owner, attribute, theirs)
    entry = _state(name)
    assert entry["state"] == "failed"
    assert f"other code has replaced {path}" in entry["reason"]
    monkeypatch.undo()
    assert _state(name)["state"] == "applied"


def test_another_wrapper_around_a_target_does_not_take_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    import wrapt
    from DIRAC.Core.Security.X509Chain import X509Chain

    ours = vars(X509Chain)["loadProxyFromFile"]
    theirs = wrapt.FunctionWrapper(ours, lambda wrapped, instance, args, kwargs: wrapped(*args, **kwargs))
    monkeypatch.setattr(X509Chain, "loadProxyFromFile", theirs)
    assert _state("proxy_loading")["state"] == "applied"


@pytest.mark.parametrize("kind", ["wrapt", "plain"])
def test_a_wrapper_of_ours_inside_another_one_passes_calls_through_for_good(
    kind: str, proxy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off and on again inside another wrapper: if status says failed, stock runs; so it does if ours is put back."""
    import wrapt
    from DIRAC.Core.Security.X509Chain import X509Chain

    from dirac_perfpatch import loading

    ours = vars(X509Chain)["loadProxyFromFile"]

    @functools.wraps(ours)
    def theirs(chain: Any, path: Any) -> Any:
        return ours(chain, path)

    if kind == "wrapt":
        theirs = wrapt.FunctionWrapper(ours, lambda wrapped, instance, args, kwargs: wrapped(*args, **kwargs))
    warm(proxy)
    monkeypatch.setattr(X509Chain, "loadProxyFromFile", theirs)
    switch = loading.plugin.switches["proxy_loading"]
    switch.take_off()
    switch.put_on()
    assert _state_of("proxy_loading", X509Chain.__module__) == "stood down"
    assert served_from_the_cache(proxy) is in_tree()  # which has a cache of its own
    switch.configure(switch._options, forced=True)
    switch.put_on()
    if kind == "wrapt":  # it shows what it wraps, which is the function that the patch knows
        assert _state_of("proxy_loading", X509Chain.__module__) == "applied"
        warm(proxy)
    else:
        assert _state_of("proxy_loading", X509Chain.__module__) == "failed"
        assert served_from_the_cache(proxy) is in_tree()
    monkeypatch.undo()
    switch.configure(switch._options)
    assert served_from_the_cache(proxy) is in_tree()
    switch.take_off()
    switch.put_on()
    assert _state_of("proxy_loading", X509Chain.__module__) == "applied"
    warm(proxy)
    switch.take_off()
    X509Chain.loadProxyFromFile = ours.__wrapped__
