"""The plugin loads by itself, and whatever goes wrong in it, the host runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import in_tree, release, run, run_fresh

from dirac_perfpatch.patches import CATALOGUE, WAITED_FOR
from lab.hosts import state

ASK = "from DIRAC.Core.Utilities.Extensions import extensionsByPriority as e; print(e()); print(e())"
# The next import of the host starts the plugin, even if there is no such module.
START = f"{ASK}; import importlib.util; importlib.util.find_spec('DIRACnext')"
STATES = "import json, dirac_perfpatch; print(json.dumps({p['name']: p['state'] for p in dirac_perfpatch.status()}))"
NAMES = list(WAITED_FOR)


def test_the_plugin_is_no_extension_from_the_first_look_up_on() -> None:
    answer = run_fresh(ASK)
    assert (answer.stdout, answer.stderr) == ("['DIRAC']\n['DIRAC']\n", "")


def test_the_plugin_is_no_extension_to_any_caller() -> None:
    answer = run(
        "from DIRAC.ConfigurationSystem.Client.Helpers.CSGlobals import getCSExtensions\n"
        "from DIRAC.Core.Utilities.Version import getVersion, getCurrentVersion\n"
        "print(getCSExtensions(), list(getVersion()['Value']['Extensions']), getCurrentVersion()['Value'])"
    )
    assert answer.stdout == f"[] ['DIRAC'] {release()}\n"
    assert "WARNING" not in answer.stderr


def test_objects_are_not_searched_in_the_plugin() -> None:
    answer = run(
        "import sys\n"
        "asked = []\n"
        "class Spy:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        asked.append(name)\n"
        "sys.meta_path.insert(0, Spy())\n"
        "from DIRAC.Core.Utilities.ObjectLoader import ObjectLoader\n"
        "from DIRAC.Core.Base.private.ModuleLoader import ModuleLoader\n"
        "ObjectLoader().loadObject('Resources.Catalog.FileCatalogClient')\n"
        "ObjectLoader().loadObject('Resources.NoSuch')\n"
        "ModuleLoader('Service', str, object).loadModule('Framework/NoSuch')\n"
        "ours = {name for name in asked if name.startswith('dirac_perfpatch.')}\n"
        "print(sorted(name for name in ours if 'System' in name or 'Resources' in name))\n"
        "print('DIRAC.Resources.NoSuch' in asked)"
    )
    assert answer.stdout.splitlines()[-2:] == ["[]", "True"], answer.stderr


def test_the_plugin_loads_no_module_of_the_host() -> None:
    answer = run_fresh(
        "import sys, dirac_perfpatch\n"
        "dirac_perfpatch.extension_metadata()\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('DIRAC', 'DIRACCommon', 'MySQLdb')])"
    )
    assert answer.stdout == "[]\n"


def test_a_process_that_needs_no_wrapper_imports_neither_wrapt_nor_yaml() -> None:
    answer = run_fresh(f"{START}; import sys; print('wrapt' in sys.modules, 'yaml' in sys.modules)")
    assert answer.stdout.splitlines()[-1] == "False False"


def _states(answer: subprocess.CompletedProcess[str]) -> dict[str, str]:
    import json

    return dict(json.loads(answer.stdout.splitlines()[-1]))


BROKEN = {"raises": "raise RuntimeError('broken on purpose')", "syntax": "def (:", "exits": "import no_such_module"}


@pytest.mark.parametrize("library", ["wrapt", "yaml"])
@pytest.mark.parametrize("how", list(BROKEN))
def test_a_broken_library_leaves_the_host_running(library: str, how: str, tmp_path: Path) -> None:
    (tmp_path / library).mkdir()
    (tmp_path / library / "__init__.py").write_text(BROKEN[how])
    # Written so that it needs PyYAML; and MySQL has targets that need wrapt.
    toggles = tmp_path / "patches.yaml"
    toggles.write_text("{enabled: true}\n")
    answer = run(
        f"{ASK}\nimport DIRAC.Core.Utilities.MySQL\n{STATES}",
        PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        DIRAC_PERFPATCH_CONFIG=str(toggles),
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("['DIRAC']\n['DIRAC']\n")
    lines = [line for line in answer.stderr.splitlines() if "dirac-perfpatch: " in line]
    assert len(lines) == 1, answer.stderr
    states = _states(answer)
    if library == "yaml":
        assert str(toggles) in lines[0]
        assert "PyYAML" in lines[0]
        assert set(states.values()) == {"off"}
    else:
        assert "wrapt" in lines[0]
        assert {states[f"connection_{name}"] for name in ("checkout", "eviction", "close")} == {"failed"}
        assert states["extension_lookup"] == "applied"


@pytest.mark.own_lines
def test_a_broken_plugin_leaves_the_host_running(tmp_path: Path) -> None:
    """In turn, each module that a start imports is replaced by one that cannot be imported."""
    import shutil

    import dirac_perfpatch

    source = Path(dirac_perfpatch.__file__).parent
    ours = "import sys; print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('dirac_perfpatch')))"
    imported = run(f"{START}; {ours}").stdout.splitlines()[-1].split()
    assert len(imported) > 10
    for module in sorted(Path(path).relative_to(source) for path in imported):
        copy = tmp_path / "dirac_perfpatch"
        shutil.copytree(source, copy, symlinks=False, ignore=shutil.ignore_patterns("*.pyc.*"))
        (copy / module).write_text("this is not Python\n")
        code = START if module != Path("__init__.py") else "import sys; sys.path.pop(0)\n" + START
        answer = run(code, PYTHONPATH=str(tmp_path))
        shutil.rmtree(copy)
        if module == Path("__init__.py"):
            continue  # the entry point cannot be imported, so nothing of ours can run
        assert answer.returncode == 0, (module, answer.stderr)
        # We are listed, after DIRAC, only without the module that hides us.
        listed = "['DIRAC', 'dirac_perfpatch']\n" if module == Path("host.py") else "['DIRAC']\n"
        assert answer.stdout == 2 * listed, (module, answer.stdout)
        # Two patches that every process needs use this one.
        messages = 2 if module == Path("patches/_cfg.py") else 1
        assert answer.stderr.count("dirac-perfpatch: ") <= messages, (module, answer.stderr)


BAD_TOGGLES = {
    "syntax": b"patches:\n  error_stack: [on\n",
    "shape": b"- error_stack\n",
    "unknown patch": b"patches:\n  eror_stack: off\n",
    "wrong value": b"enabled: maybe\n",
    "duplicate": b"patches:\n  error_stack: on\n  error_stack: off\n",
    "rubbish": bytes(range(256)),
    "bomb": b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "deep": b"patches: " + b"[" * 5000,
    "tag": b"enabled: !!python/object/apply:os.system ['touch FILE']\n",
}


@pytest.mark.own_lines
@pytest.mark.parametrize("kind", [*BAD_TOGGLES, "folder", "missing", "permission"])
def test_bad_toggles_leave_the_host_stock_and_are_reported_once(kind: str, tmp_path: Path) -> None:
    toggles = tmp_path / "my-patches.yaml"
    through: tuple[str, ...] = ()
    if kind == "folder":
        toggles.mkdir()
    elif kind == "permission":
        toggles.write_bytes(b"enabled: true\n")
        toggles.chmod(0)
        if os.geteuid() == 0:  # root may read everything, by a capability
            through = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all")
    elif kind != "missing":
        toggles.write_bytes(BAD_TOGGLES[kind].replace(b"FILE", bytes(tmp_path / "made")))
    code, environment = f"{ASK}\n{STATES}", {"DIRAC_PERFPATCH_CONFIG": str(toggles)}
    answer = run_fresh(code, *through, **environment) if through else run(code, **environment)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("['DIRAC']\n['DIRAC']\n")
    lines = answer.stderr.splitlines()
    assert len(lines) == 1, answer.stderr
    assert lines[0].startswith(f"dirac-perfpatch: {toggles}")
    assert lines[0].endswith("DIRAC runs unpatched")
    assert set(_states(answer).values()) == {"off"}
    assert not (tmp_path / "made").exists()


def test_the_environment_switches_everything_off() -> None:
    answer = run(f"{ASK}\n{STATES}", DIRAC_PERFPATCH="off", DIRAC_PERFPATCH_CONFIG="/no/such/file")
    assert answer.stderr == ""
    assert set(_states(answer).values()) == {"off"}


def test_the_file_of_the_installation_is_read(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "patches.yaml").write_text("patches:\n  error_stack: off\n")
    answer = run(f"{ASK}\n{STATES}", DIRAC_ROOT_PATH=str(tmp_path))
    states = _states(answer)
    assert states["error_stack"] == "off"
    assert states["extension_lookup"] == state(release(), "extension_lookup")


def test_what_each_patch_does_here() -> None:
    """Every patch is applied on a stock host; on one that has it in-tree, where that is wrong, and says so."""
    # In a process that has not forked: there lazy_imports stands down.
    asks = "import json, dirac_perfpatch; print(json.dumps([missing, list(dirac_perfpatch.status())]))"
    answer = run(f"{ASK}\nfrom dirac_perfpatch import cli; missing = cli._load_targets()\n{asks}")
    assert answer.returncode == 0, answer.stderr
    missing, entries = json.loads(answer.stdout.splitlines()[-1])
    assert set(missing) <= {"DIRACCommon.Core.Utilities.ReturnValues"}  # which 8.0 does not have
    assert [entry["name"] for entry in entries] == NAMES
    for entry in entries:
        wanted = state(release(), entry["name"])
        assert entry["state"] == wanted, entry
        for target in entry["targets"]:
            assert target["state"] == state(release(), entry["name"], target["attribute"]), entry
        if wanted == "applied":
            assert not entry["reason"] or in_tree() and entry["reason"].startswith("replaces the host's own version")
        else:
            assert entry["reason"]
    assert [len(entry["targets"]) for entry in entries] == [len(patch.targets) for patch in CATALOGUE]


def test_a_command_prints_what_it_prints_without_the_plugin() -> None:
    command = [str(Path(sys.executable).parent / "dirac-version")]
    outputs = [
        subprocess.run(
            command, env={**os.environ, "DIRAC_PERFPATCH": word}, capture_output=True, text=True, check=False
        )
        for word in ("on", "off")
    ]
    assert outputs[0].stdout == outputs[1].stdout
    assert outputs[0].stderr == outputs[1].stderr
    assert [output.returncode for output in outputs] == [0, 0]
    assert release() in outputs[0].stdout
