"""Every target of a released DIRAC is known; code that no release has stays as it is, unless the operator forces it."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path
from typing import Any

import DIRAC
import pytest
from conftest import release, run, run_fresh
from test_cli import command

from lab.hosts import state

UNKNOWN = "is not the code of any DIRAC release known to this version of the plugin"
REGISTRY = "DIRAC.ConfigurationSystem.Client.Helpers.Registry"
DATA = "DIRAC.ConfigurationSystem.private.ConfigurationData"
RETURN_VALUES = f"{'DIRAC' if release().startswith('8.') else 'DIRACCommon'}.Core.Utilities.ReturnValues"
LIBRARY = Path(DIRAC.__file__).parents[1]

# By what a site has edited: the module, the function, the patch, a line of the site's own, and a call that shows it.
EDITED = {
    "changed by its code object": (
        REGISTRY,
        "getHostnameForDN",
        "registry_lookup",
        "if dn == 'ours': return S_OK('edited')",
        f"from {REGISTRY} import getHostnameForDN; answer = getHostnameForDN('ours')['Value']",
    ),
    "a method": (
        DATA,
        "extractOptionFromCFG",
        "configuration_options",
        "if path == '/ours': return 'edited'",
        f"from {DATA} import ConfigurationData; answer = ConfigurationData(False).extractOptionFromCFG('/ours')",
    ),
    "a plain function": (
        RETURN_VALUES,
        "S_ERROR",
        "error_stack",
        "if kwargs.pop('ours', False): return 'edited'",
        "from DIRAC import S_ERROR; answer = S_ERROR('text', ours=True)",
    ),
}
ASK = """
import json
from DIRAC.Core.Utilities.Extensions import extensionsByPriority
extensionsByPriority()
{call}
import dirac_perfpatch
print(json.dumps([answer, next(one for one in dirac_perfpatch.status() if one["name"] == {patch!r})]))
"""


# What the functions that patches change are in this host, in a process that has imported all of them.
JUDGE = """
import json, sys
from dirac_perfpatch import cli, known, loading, patching
{without}
cli._load_targets()
there, unknown = set(), []
for switch in loading.plugin.switches.values():
    for target in switch.patch.targets:
        for module in set(target.modules) & set(sys.modules):
            fitting = patching.Fitting(sys.modules[module], {{}}, switch.guard)
            unknown.append(fitting.unknown(target.functions()))
            for path in target.functions():
                try:
                    fitting.resolve(path)
                except patching.UnknownHost:
                    continue
                there.add(path)
unknown += [entry["name"] for entry in loading.plugin.status() if patching.unknown(entry["targets"])]
print(json.dumps([list(filter(None, unknown)), sorted(there), sorted(known.forms())]))
"""


def judge(without: str = "", **environment: str) -> tuple[list[str], list[str], list[str]]:
    """What is unknown, which functions the host has, and of which there are forms."""
    answer = run_fresh(JUDGE.format(without=without), **environment)
    assert answer.returncode == 0, answer.stderr
    unknown, there, forms = json.loads(answer.stdout.splitlines()[-1])
    assert len(there) > 40
    return unknown, there, forms


def test_every_target_of_this_host_is_known() -> None:
    unknown, there, forms = judge()
    assert unknown == []
    # A wrong path would find nothing, and so be known.
    assert set(there) <= set(forms)


@pytest.mark.parametrize(
    "optimise", ["", pytest.param("1", marks=pytest.mark.once), pytest.param("2", marks=pytest.mark.own_lines)]
)
def test_every_target_is_known_by_its_text_too(optimise: str) -> None:
    """Another Python, and `python -O`, have other code."""
    assert judge("known.forms = dict", PYTHONOPTIMIZE=optimise)[0] == []


def edited(folder: Path, module: str, function: str, line: str) -> Path:
    """A folder that comes first on the path: all of the host, by links, with one line more in one function."""
    *parents, last = module.split(".")
    source, place = LIBRARY, folder
    for parent in parents:
        source, place = source / parent, place / parent
        place.mkdir(parents=True)
        for found in source.iterdir():
            (place / found.name).symlink_to(found)
        if parent != parents[-1]:
            (place / parents[parents.index(parent) + 1]).unlink()
    file = place / f"{last}.py"
    text = file.read_text()
    file.unlink()
    (node,) = (one for one in ast.walk(ast.parse(text)) if isinstance(one, ast.FunctionDef) and one.name == function)
    lines = text.splitlines()
    first = node.body[1] if ast.get_docstring(node) is not None else node.body[0]
    lines.insert(first.lineno - 1, " " * first.col_offset + line)
    file.write_text("\n".join(lines) + "\n")
    return folder


def toggles(folder: Path, patch: str) -> str:
    path = folder / "forced.yaml"
    path.write_text(f"patches:\n  {patch}:\n    force: on\n")
    return str(path)


def told(word: str, **environment: str) -> tuple[int, dict[str, Any]]:
    """The exit code of a command, and what it says of each patch."""
    answer = command(word, "--json", **environment)
    assert answer.stdout, answer.stderr
    return answer.returncode, {entry["name"]: entry for entry in json.loads(answer.stdout)["patches"]}


@pytest.mark.own_lines
@pytest.mark.parametrize("what", EDITED)
def test_what_a_site_has_edited_stays_unless_forced(what: str, tmp_path: Path) -> None:
    module, function, patch, line, call = EDITED[what]
    path = os.pathsep.join([str(edited(tmp_path / "site", module, function, line)), os.environ.get("PYTHONPATH", "")])
    code = ASK.format(call=call, patch=patch)
    answer = run(code, PYTHONPATH=path)
    assert answer.returncode == 0, answer.stderr
    assert "dirac-perfpatch" not in answer.stderr
    value, entry = json.loads(answer.stdout.splitlines()[-1])
    assert value == "edited"
    assert UNKNOWN in entry["reason"]
    assert f"{module}." in entry["reason"]
    (target,) = (one for one in entry["targets"] if one["attribute"].rpartition(".")[2] == function)
    assert target["state"] == "stood down"

    code_of_status, foreseen = told("status", PYTHONPATH=path)
    assert code_of_status == 0
    (seen,) = (one for one in foreseen[patch]["targets"] if one["attribute"] == target["attribute"])
    assert seen == target
    assert UNKNOWN in foreseen[patch]["reason"]

    forced = run(code, PYTHONPATH=path, DIRAC_PERFPATCH_CONFIG=toggles(tmp_path, patch))
    assert forced.returncode == 0, forced.stderr
    _, entry = json.loads(forced.stdout.splitlines()[-1])
    assert entry["state"] == "applied"
    assert UNKNOWN not in entry["reason"]


@pytest.mark.own_lines
def test_check_leaves_alone_what_is_unknown(tmp_path: Path) -> None:
    module, function, patch, line, _ = EDITED["a method"]
    path = os.pathsep.join([str(edited(tmp_path / "site", module, function, line)), os.environ.get("PYTHONPATH", "")])
    code, found = told("check", PYTHONPATH=path)
    assert code == 0
    assert found[patch]["answer"] == "not asked"
    assert found[patch]["reason"].startswith("stood down: ") and UNKNOWN in found[patch]["reason"]
    assert found["error_stack"]["answer"] == "same as stock"
    _, found = told("check", PYTHONPATH=path, DIRAC_PERFPATCH_CONFIG=toggles(tmp_path, patch))
    assert found[patch]["answer"] == "same as stock"


FOREIGN = f"""
import functools, json
import {REGISTRY} as registry
stock = registry.getHostnameForDN
{{wrap}}
from DIRAC.Core.Utilities.Extensions import extensionsByPriority
extensionsByPriority()
from dirac_perfpatch import waking, status
waking.start()
entry = next(one for one in status() if one["name"] == "registry_lookup")
(target,) = (one for one in entry["targets"] if one["attribute"] == "getHostnameForDN")
asked = registry.getHostnameForDN("/no/such")["OK"]
print(json.dumps([target["state"], target["reason"], calls]))
"""
WRAPS = {
    "wrapt": """
import wrapt
calls = []
wrapt.wrap_function_wrapper(registry, "getHostnameForDN", lambda w, i, a, k: calls.append(1) or w(*a, **k))
""",
    "functools": """
calls = []
registry.getHostnameForDN = functools.wraps(stock)(lambda *a, **k: calls.append(1) or stock(*a, **k))
""",
}


@pytest.mark.parametrize("how", WRAPS)
def test_behind_the_wrapper_of_another_plugin_a_patch_stays_off(how: str) -> None:
    assert state(release(), "registry_lookup", "getHostnameForDN") == "applied"
    # The host must not look for its extensions before the other plugin has wrapped.
    off = run(FOREIGN.format(wrap=WRAPS[how]), DIRAC_PERFPATCH_CONFIG="")
    assert off.returncode == 0, off.stderr
    found, reason, calls = json.loads(off.stdout.splitlines()[-1])
    assert found == "stood down"
    assert UNKNOWN in reason
    assert calls == [1]
