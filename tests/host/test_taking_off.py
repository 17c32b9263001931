"""Every patch can be taken off again, and leaves the very objects of the host."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest
from conftest import run, stock

from dirac_perfpatch import cli, loading
from dirac_perfpatch.patches import CATALOGUE

pytestmark = pytest.mark.patched

# What each target replaces: the module (the first that exists), the owner in it, and the attribute.
SEAMS = {
    "extension_lookup": [
        (("DIRAC.Core.Utilities.Extensions",), "", "extensionsByPriority"),
        (("DIRAC.Core.Utilities.Extensions",), "", "getExtensionMetadata"),
    ],
    "error_stack": [
        (("DIRACCommon.Core.Utilities.ReturnValues", "DIRAC.Core.Utilities.ReturnValues"), "", "traceback")
    ],
    "proxy_loading": [
        (("DIRAC.Core.Security.X509Chain",), "X509Chain", "loadProxyFromFile"),
        (("DIRAC.Core.Security.m2crypto.X509Chain",), "X509Chain", "loadProxyFromFile"),
    ],
    "dms_helpers": [(("DIRAC.DataManagementSystem.Utilities.DMSHelpers",), "DMSHelpers", "getSiteSEMapping")],
    "connection_checkout": [(("DIRAC.Core.Utilities.MySQL",), "ConnectionPool", "get")],
    "connection_eviction": [(("DIRAC.Core.Utilities.MySQL",), "MySQL", "_except")],
    "connection_close": [
        (("DIRAC.AccountingSystem.DB.AccountingDB",), "AccountingDB", "insertRecordDirectly"),
        (
            ("DIRAC.DataManagementSystem.DB.FileCatalogComponents.DirectoryManager.DirectoryTreeBase",),
            "DirectoryTreeBase",
            "getDirectorySize",
        ),
        (("DIRAC.WorkloadManagementSystem.Agent.PilotStatusAgent",), "PilotStatusAgent", "execute"),
    ],
}


def _objects(name: str) -> list[int]:
    """Identities: an object that we held ourselves could not be replaced everywhere. The host keeps them alive."""
    found = []
    for modules, owner, attribute in SEAMS[name]:
        module: Any = None
        for candidate in modules:
            try:
                module = importlib.import_module(candidate)
                break
            except ImportError:
                continue
        value = vars(getattr(module, owner) if owner else module)[attribute]
        # A function that is taken over stays the object that it is.
        found.append(id(value.__code__ if name == "extension_lookup" else value))
    return found


@pytest.mark.parametrize("name", [patch.name for patch in CATALOGUE])
def test_the_attribute_is_the_original_object_again(name: str) -> None:
    cli._load_targets()
    patched = _objects(name)
    with stock(name):
        originals = _objects(name)
        assert set(originals).isdisjoint(patched)
        assert loading.plugin.switches[name].status()["state"] == "off"
    assert loading.plugin.switches[name].status()["state"] == "applied"
    assert set(_objects(name)).isdisjoint(originals)
    with stock(name):
        assert _objects(name) == originals


def test_the_original_is_what_the_host_defined() -> None:
    """Seen from outside: a host that never had the plugin on has the same code behind the names."""
    question = (
        "import DIRAC.Core.Utilities.MySQL as m, DIRAC.Core.Utilities.Extensions as e\n"
        "import DIRAC.Core.Utilities.ReturnValues as r\n"
        "e.extensionsByPriority()\n"
        "from dirac_perfpatch import loading\n"
        "[switch.take_off() for switch in loading.plugin.switches.values()]\n"
        "functions = (e.extensionsByPriority, m.ConnectionPool.get, m.MySQL._except, r.S_ERROR)\n"
        "print([(type(f).__name__, f.__code__.co_code.hex()) for f in functions])"
    )
    taken_off = run(question)
    never_on = run(question, DIRAC_PERFPATCH="off")
    assert taken_off.stdout == never_on.stdout != "", taken_off.stderr


def test_every_name_of_a_look_up_is_reached_and_left_again() -> None:
    """extensionsByPriority is bound in some fifteen modules, and is one object with one code for all of them."""
    cli._load_targets()
    importlib.import_module("DIRAC.Core.Utilities.ObjectLoader")
    importlib.import_module("DIRAC.Core.Base.Client")
    found = [
        vars(module)["extensionsByPriority"]
        for name, module in list(sys.modules.items())
        if name.startswith("DIRAC") and "extensionsByPriority" in vars(module)
    ]
    assert len(found) >= 5
    patched = {function.__code__ for function in found}
    with stock("extension_lookup"):
        originals = {function.__code__ for function in found}
    assert (len(patched), len(originals)) == (1, 1)
    assert patched.isdisjoint(originals)
    assert all(code.co_filename.endswith("Extensions.py") for code in originals)


def test_each_patch_is_switched_on_its_own() -> None:
    cli._load_targets()
    for patch in CATALOGUE:
        with stock(patch.name):
            states = {name: switch.status()["state"] for name, switch in loading.plugin.switches.items()}
        assert states.pop(patch.name) == "off"
        assert set(states.values()) == {"applied"}
