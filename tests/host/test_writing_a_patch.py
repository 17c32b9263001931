"""docs/writing-a-patch.md is executed: a copy of the package gets the patch, and does what the document says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import run

import dirac_perfpatch
from lab.folder import CHECKOUT

pytestmark = [pytest.mark.patched, pytest.mark.once]

# `path`: and the block below it.
_BLOCK = re.compile(r"^`([^`\n]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMPARE = """
from DIRAC.Core.Utilities.Extensions import extensionsByPriority
extensionsByPriority()
from DIRAC.Core.Utilities.Version import getVersion
for _ in range(200):
    assert getVersion()["Value"]["Extensions"]["DIRAC"]
import dirac_perfpatch
from dirac_perfpatch import loading
print([entry["state"] for entry in dirac_perfpatch.status() if entry["name"] == "version_lookup"])
ours = getVersion.__code__
loading.plugin.switches["version_lookup"].take_off()
print(getVersion.__code__ is not ours, getVersion.__code__.co_filename.endswith("Version.py"))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package and the tests of hosts, to which the document's blocks were added."""
    folder = tmp_path_factory.mktemp("copy")
    bytecode = shutil.ignore_patterns("*.pyc.*")  # that other tests are just writing
    shutil.copytree(Path(dirac_perfpatch.__file__).parent, folder / "dirac_perfpatch", ignore=bytecode)
    shutil.copytree(CHECKOUT / "tests" / "host", folder / "tests" / "host", ignore=bytecode)
    # As in a checkout, where the package has a link to it.
    (folder / "dirac_perfpatch" / "patches.yaml").replace(folder / "patches.yaml")
    (folder / "dirac_perfpatch" / "patches.yaml").symlink_to("../patches.yaml")
    shutil.copy(CHECKOUT / "pyproject.toml", folder)
    document = (CHECKOUT / "docs" / "writing-a-patch.md").read_text()
    for path, block in _BLOCK.findall(document):
        _add(folder / path, block)
    return folder


def _add(path: Path, block: str) -> None:
    """A new file, or the last line of the catalogue, or the last entry of the patches."""
    if not path.exists():
        path.write_text(block)
        return
    text = path.read_text()
    before = "\n# For patches that are `ab`." if path.suffix == ".yaml" else "}\n# Patches that change"
    assert text.count(before) == 1
    path.write_text(text.replace(before, ("\n" if path.suffix == ".yaml" else "") + block + before))


def _run(copy: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(code, PYTHONPATH=os.pathsep.join([str(copy), os.environ["PYTHONPATH"]]), **environment)


def _module(copy: Path, name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """As ``python -m name arguments`` in that folder does."""
    code = f"import os, runpy, sys\nsys.argv[1:] = {[*map(str, arguments)]!r}\nos.chdir({str(copy)!r})\n"
    return _run(copy, f"{code}runpy.run_module({name!r}, run_name='__main__', alter_sys=True)")


def test_every_block_has_its_place(copy: Path) -> None:
    new = {str(path.relative_to(copy)) for path in copy.rglob("*version_lookup*")}
    assert new == {"dirac_perfpatch/patches/version_lookup.py", "tests/host/test_version_lookup.py"}


def test_its_own_tests_and_those_of_every_patch_pass(copy: Path) -> None:
    asked = ("test_version_lookup.py", "test_taking_off.py")
    quick = ("-p", "no:hypothesispytest")  # which imports all of hypothesis
    answer = _module(
        copy, "pytest", *quick, *(copy / "tests" / "host" / name for name in asked), "-k", "version_lookup"
    )
    assert answer.returncode == 0, answer.stdout
    assert "3 passed" in answer.stdout


@pytest.mark.parametrize(
    ("command", "wanted"),
    [("status", "armed +will be applied"), ("check", "same as stock"), ("bench", r"getVersion\(\) .* x$")],
)
def test_the_commands_know_it(copy: Path, command: str, wanted: str) -> None:
    rounds = ("--rounds", "1") if command == "bench" else ()
    answer = _module(copy, "dirac_perfpatch.cli", command, *rounds)
    assert answer.returncode == 0, answer.stderr
    assert re.search(rf"^version_lookup +{wanted}", answer.stdout, re.MULTILINE), answer.stdout


def test_it_is_compared_by_call_and_taken_off(copy: Path, tmp_path: Path) -> None:
    toggles = tmp_path / "patches.yaml"
    settings = ("version_lookup=ab", "comparison.by=call", f"comparison.spool={tmp_path / 'spool'}")
    assert _module(copy, "dirac_perfpatch.cli", "set", "--file", toggles, *settings).returncode == 0
    answer = _run(copy, _COMPARE, DIRAC_PERFPATCH_CONFIG=str(toggles))
    assert (answer.stdout, answer.stderr) == ("['applied']\nTrue True\n", "")
    (file,) = (tmp_path / "spool").glob("*.json")
    snapshot = json.loads(file.read_text())
    calls = {row["arm"]: row["calls"] for row in snapshot["series"] if row["target"] == "getVersion"}
    assert sum(calls.values()) == 200
    assert min(calls["patched"], calls["stock"]) > 0
    found = snapshot["patches"]["version_lookup"]
    assert (found.get("differences", 0), found["failures"]) == (0, 0)
    assert found["checked"] > 0
