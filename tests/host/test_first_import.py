"""The end state is the same, whichever module a process imports first."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import release, run, script

from lab.hosts import IN_TREE_PATCHES, RELEASES, state

WORKER = Path(__file__).with_name("first_import_worker.py")


def _modules() -> Iterator[str]:
    import DIRAC

    root = Path(DIRAC.__file__).parent
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        if not {"test", "tests"}.intersection(parts):
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_whatever_is_imported_first_the_end_state_is_the_same() -> None:
    names = list(_modules())
    assert len(names) > 600
    if not os.environ.get("PERFPATCH_EVERY_MODULE"):  # ten minutes a host
        # Together the hosts take an eighth of all modules.
        names = names[RELEASES.index(release()) :: 8 * len(RELEASES)]
    in_tree = json.dumps(IN_TREE_PATCHES[release()])
    nowhere = {"DIRACSYSCONFIG": "/no/such/file", "DIRAC_ROOT_PATH": "/no/such/root"}
    for name in names:
        answer = run(script(WORKER, name, in_tree), **nowhere)
        assert answer.stdout.splitlines()[-1:] == ["[]"], (name, answer.stdout, answer.stderr)


def test_the_module_itself_half_imported() -> None:
    """The host first looks for its extensions while the module of a target is being imported."""
    modules = (
        "DIRAC.Core.Utilities.MySQL",
        "DIRAC.Core.Security.X509Chain",
        "DIRAC.Core.Security.m2crypto.X509Chain",
        "DIRAC.DataManagementSystem.Utilities.DMSHelpers",
        "DIRAC.AccountingSystem.DB.AccountingDB",
        "DIRAC.DataManagementSystem.DB.FileCatalogComponents.DirectoryManager.DirectoryTreeBase",
    )
    for module in modules:
        # The look-up happens inside the module, at its first import statement.
        answer = run(
            "import builtins, json, sys\n"
            "real = builtins.__import__\n"
            f"module = {module!r}\n"
            "def from_inside(name, globals=None, *rest, **more):\n"
            "    if (globals or {}).get('__name__') == module and 'dirac_perfpatch' not in sys.modules:\n"
            "        real('DIRAC.Core.Utilities.Extensions', {}, {}, ['x']).extensionsByPriority()\n"
            "        assert sys.modules[module].__spec__._initializing\n"
            "    return real(name, globals, *rest, **more)\n"
            "builtins.__import__ = from_inside\n"
            "import importlib; importlib.import_module(module)\n"
            "builtins.__import__ = real\n"
            "import dirac_perfpatch\n"
            "print(json.dumps([(p['name'], t['attribute'], t['state'])\n"
            "                  for p in dirac_perfpatch.status() for t in p['targets'] if t['module'] == module]))",
            DIRACSYSCONFIG="/no/such/file",
        )
        assert answer.returncode == 0, (module, answer.stderr)
        seen = json.loads(answer.stdout.splitlines()[-1])
        assert seen
        for patch, target, found in seen:
            assert found == state(release(), patch, target), (module, answer.stdout, answer.stderr)


@pytest.mark.patched
def test_no_target_exists_twice() -> None:
    """A second module from the same file would have its own functions, which no patch would reach."""
    answer = run(
        "import contextlib, gc, importlib, inspect, sys, types\n"
        "from dirac_perfpatch import cli, loading\n"
        "from dirac_perfpatch.patches import AT_IMPORT, CATALOGUE\n"
        "import DIRAC.Core.Utilities.Extensions as extensions\n"
        "extensions.extensionsByPriority()\n"
        "cli._load_targets()\n"
        "for switch in loading.plugin.switches.values(): switch.take_off()\n"
        "for name in ('ProxyInfo', 'ProxyFile', 'VOMS', 'X509Request', 'Locations', 'X509CRL'):\n"
        "    with contextlib.suppress(ImportError): importlib.import_module('DIRAC.Core.Security.' + name)\n"
        "for name in ('DIRAC.Core.DISET.RPCClient', 'DIRAC.Core.Tornado.Client.TornadoClient',\n"
        "             'DIRAC.FrameworkSystem.Client.ProxyManagerClient', 'DIRAC.Interfaces.API.Dirac',\n"
        "             'DIRAC.DataManagementSystem.Service.FileCatalogHandler',\n"
        "             'DIRAC.AccountingSystem.Service.DataStoreHandler'):\n"
        "    with contextlib.suppress(ImportError): importlib.import_module(name)\n"
        "places = {}\n"
        "def place(f): return f.__code__.co_filename, f.__code__.co_firstlineno\n"
        "for f in gc.get_objects():\n"
        "    if type(f) is types.FunctionType: places.setdefault(place(f), set()).add(f.__module__)\n"
        "for patch in [patch for patch in CATALOGUE if patch.name not in AT_IMPORT]:\n"
        "    for target in patch.targets:\n"
        "        wanted = {m for t in patch.targets for m in t.modules if t.attribute == target.attribute}\n"
        "        found = set()\n"
        "        for module in wanted.intersection(sys.modules):\n"
        "            f = sys.modules[module]\n"
        "            for name in target.attribute.split('.'): f = vars(f).get(name, types)\n"
        "            f = inspect.unwrap(getattr(f, '__func__', f))\n"
        "            if f is not types: found |= places[place(f)] - {f.__module__} - wanted or {''}\n"
        "        if found - {''}: print('WRONG', target, found)\n",
        DIRACSYSCONFIG="/no/such/file",
    )
    assert answer.returncode == 0, answer.stderr
    assert "WRONG" not in answer.stdout
