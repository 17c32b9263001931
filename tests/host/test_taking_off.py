"""Every patch can be taken off, and leaves the very objects of the host."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import pytest
from conftest import in_tree, release, run, stock

from dirac_perfpatch import cli, loading
from dirac_perfpatch.patches import AT_IMPORT, CATALOGUE
from dirac_perfpatch.patching import Patch
from lab.hosts import state

pytestmark = pytest.mark.patched

Places = dict[tuple[str, ...], int]


def _places(name: str) -> Places:
    """The identity of the object at each place of a module, not the object: only the host shall keep it alive."""
    module = sys.modules[name]
    found = dict(_of((name,), module))
    for one, value in list(vars(module).items()):
        if isinstance(value, type) and value.__module__ == name:
            found.update(_of((name, one), value))
    return found


def _of(path: tuple[str, ...], owner: Any) -> Iterator[tuple[tuple[str, ...], int]]:
    for name, value in list(vars(owner).items()):
        yield (*path, name), id(value)
        if type(value) is FunctionType:  # take_over() keeps the object and changes its code
            yield (*path, name, "__code__"), id(value.__code__)


# Not what acts when a module is imported, which happens once.
APPLIED = [p for p in CATALOGUE if state(release(), p.name) == "applied" and p.name not in AT_IMPORT]


@pytest.mark.parametrize("patch", APPLIED, ids=lambda patch: patch.name)
def test_the_originals_are_restored(patch: Patch) -> None:
    """Each module of its targets contains something of ours while the patch is on, and is as before when it is off."""
    cli._load_targets()
    targets = loading.plugin.switches[patch.name].status()["targets"]
    targets = [target for target in targets if state(release(), patch.name, target["attribute"]) == "applied"]
    modules = {target["module"] for target in targets}
    with contextlib.ExitStack() as others:
        # The patches of the pool share changes.
        others.enter_context(stock(*(other.name for other in CATALOGUE if other is not patch)))
        on, off, again, gone = [], [], [], []
        for found in ((on, off), (again, gone)):
            found[0].extend(map(_places, modules))
            with stock(patch.name):
                assert loading.plugin.switches[patch.name].status()["state"] == "off"
                found[1].extend(map(_places, modules))
            assert loading.plugin.switches[patch.name].status()["state"] == "applied"
    assert gone == off
    for patched in (on, again):
        changed = [[at for at, what in after.items() if before.get(at) != what] for before, after in zip(off, patched)]
        assert all(changed) and sum(map(len, changed)) >= len(targets)


def test_the_original_is_what_the_host_defined() -> None:
    """A host that never had the plugin on has the same code behind the names."""
    question = (
        "import DIRAC.Core.Utilities.MySQL as m, DIRAC.Core.Utilities.Extensions as e\n"
        "import DIRAC.Core.Utilities.ReturnValues as r\n"
        "e.extensionsByPriority()\n"
        "from dirac_perfpatch import loading\n"
        "[switch.take_off() for switch in loading.plugin.switches.values()]\n"
        "functions = (e.extensionsByPriority, m.ConnectionPool.get, m.MySQL._except, r.S_ERROR)\n"
        "print([(type(f).__name__, getattr(f, '__wrapped__', f).__code__.co_code.hex()) for f in functions])"
    )
    taken_off = run(question)
    never_on = run(question, DIRAC_PERFPATCH="off")
    assert taken_off.stdout == never_on.stdout != "", taken_off.stderr


def test_every_name_of_a_look_up_is_reached_and_restored() -> None:
    """Some fifteen modules bind extensionsByPriority, and all have one object with one code."""
    cli._load_targets()
    importlib.import_module("DIRAC.Core.Utilities.ObjectLoader")
    importlib.import_module("DIRAC.Core.Base.Client")

    def found() -> list[Any]:
        return [
            vars(module)["extensionsByPriority"]
            for name, module in list(sys.modules.items())
            if name.startswith("DIRAC") and "extensionsByPriority" in vars(module)
        ]

    functions = found()
    assert len(functions) >= 5
    patched = {function.__code__ for function in functions}
    with stock("extension_lookup"):
        if in_tree():  # an object without code that could be replaced
            assert len(set(functions)) == 1
            functions = found()
            assert len(set(functions)) == 1
            functions = [function.__wrapped__ for function in functions]
        originals = {function.__code__ for function in functions}
    assert (len(patched), len(originals)) == (1, 1)
    assert patched.isdisjoint(originals)
    assert all(code.co_filename.endswith("Extensions.py") for code in originals)


def test_each_patch_is_switched_independently() -> None:
    cli._load_targets()
    wanted = {patch.name: state(release(), patch.name) for patch in CATALOGUE}
    for name in wanted:
        with stock(name):
            states = {name: switch.status()["state"] for name, switch in loading.plugin.switches.items()}
        assert states == {**wanted, name: "off"}
