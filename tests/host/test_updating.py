"""An update by the system administrator service keeps the plugin, and the update is the same as without it.

Real are the host's method, its pip command, the environments and our pip. Stand-ins are the DIRACOS installer, which
copies an environment here, and the releases of DIRAC that pip finds. Nothing comes from a network.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, PathDistribution, distribution
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from conftest import run

from dirac_perfpatch import updating
from dirac_perfpatch.notices import OperatorError
from dirac_perfpatch.patching import APPLIED, FAILED, Switch
from dirac_perfpatch.toggles import SHIPPED, read

REPOSITORY = Path(__file__).parents[2]
VERSION = distribution("dirac-perfpatch").version
PLUGIN = f"dirac_perfpatch-{VERSION}"
HANDLER = "DIRAC.FrameworkSystem.Service.SystemAdministratorHandler"
ENTRY_POINT = "[dirac]\nmetadata = dirac_perfpatch:extension_metadata\n"
STATE = """from importlib.metadata import distribution
[entry.load()() for entry in distribution("dirac-perfpatch").entry_points if entry.group == "dirac"]
import dirac_perfpatch; print(dirac_perfpatch.__file__, dirac_perfpatch.status()[0]["state"])"""


def write_wheel(
    folder: Path, name: str, version: str, files: Mapping[str, str] | None = None, requires: Sequence[str] = ()
) -> Path:
    stem = f"{name.replace('-', '_')}-{version}"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", "Provides-Extra: server"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    contents = {
        **(files or {}),
        f"{stem}.dist-info/METADATA": "\n".join(metadata) + "\n",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{stem}.dist-info/RECORD"
    folder.mkdir(exist_ok=True)
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in contents.items():
            wheel.writestr(file, text)
        wheel.writestr(record, "".join(f"{file},,\n" for file in (*contents, record)))
    return path


def required(name: str) -> set[str]:
    """What a package requires and what that requires, of what is installed here."""
    names = set()
    for requirement in distribution(name).requires or ():
        other = re.split(r"[^\w.-]", requirement)[0]
        with suppress(PackageNotFoundError):
            names |= set() if "extra ==" in requirement else {other, *required(other)}
    return names


def write_wheel_of_installed(folder: Path, name: str) -> None:
    installed = distribution(name)
    tag = (installed.read_text("WHEEL") or "").partition("Tag: ")[2].splitlines()[0]
    with zipfile.ZipFile(folder / f"{name.replace('-', '_')}-{installed.version}-{tag}.whl", "w") as wheel:
        for file in installed.files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                wheel.write(str(file.locate()), str(file))


@dataclass(frozen=True)
class World:
    """Where an update finds things: a new environment, an index without the plugin, and the plugin's own wheel."""

    environment: Path
    index: Path
    plugin: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    index = folder / "index"
    write_wheel(index, "DIRAC", "9.9.9", requires=["DIRACCommon<10"])
    write_wheel(index, "DIRAC", "9.9.10", requires=["DIRACCommon<10", f"dirac-perfpatch=={VERSION}"])
    write_wheel(index, "DIRACCommon", "9.9.9")
    write_wheel(index, "DIRACCommon", "10.0.0")
    for library in required("dirac-perfpatch"):
        write_wheel_of_installed(index, library)
    source = folder / "source"
    leave_out = shutil.ignore_patterns(".*", "*.egg-info", "build", "__pycache__", "tests", "docs", "demo", "lab")
    shutil.copytree(REPOSITORY, source, ignore=leave_out)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    with subprocess.Popen([sys.executable, "-m", "venv", folder / "environment"]) as making:
        subprocess.run([sys.executable, "-c", build, folder], cwd=source, check=True, capture_output=True)
    assert making.returncode == 0
    (wheel,) = folder.glob("*.whl")
    (folder / "plugin").mkdir()
    return World(folder / "environment", index, wheel.rename(folder / "plugin" / wheel.name))


@dataclass(frozen=True)
class Updated:
    """What an update left: the host's answer, the new environment with its packages, and what we told the operator."""

    answer: Mapping[str, Any]
    prefix: Path
    packages: set[str]
    notices: list[str]

    @property
    def metadata(self) -> Path:
        (folder,) = self.prefix.glob(f"lib/python3*/site-packages/{PLUGIN}.dist-info")
        return folder


class Updates:
    """Runs the host's method, each time with a new root."""

    def __init__(self, world: World, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
        self.world, self._folder, self._capfd, self._monkeypatch = world, folder, capfd, monkeypatch
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_NO_COMPILE", "1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(world.index))

    def also_find(self, folder: Path) -> None:
        self._monkeypatch.setenv("PIP_FIND_LINKS", f"{self.world.index} {folder}")

    def plugin_is_from(self, origin: Mapping[str, Any]) -> None:
        """Make this process's plugin one that pip installed from there; from an index if that is empty."""
        metadata = self._folder / "running.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dirac-perfpatch\nVersion: {VERSION}\n")
        if origin:
            (metadata / "direct_url.json").write_text(json.dumps(origin))
        self._monkeypatch.setattr(updating, "distribution", lambda name: PathDistribution(metadata))

    def run(self, version: str = "9.9.9") -> Updated:
        from DIRAC import gLogger
        from DIRAC.FrameworkSystem.Service import SystemAdministratorHandler as module

        root = self._folder / f"root-{time.monotonic_ns()}"
        (root / "versions" / "old").mkdir(parents=True)
        (root / "pro").symlink_to(root / "versions" / "old")
        handler = module.SystemAdministratorHandler.__new__(module.SystemAdministratorHandler)
        handler.log = gLogger
        self._capfd.readouterr()
        with (
            mock.patch.object(module, "rootPath", str(root)),
            mock.patch.object(module.gComponentInstaller, "instancePath", str(root)),
            mock.patch.object(module.requests, "get", self._download),
        ):
            answer = handler.export_updateSoftware(version)
        lines = self._capfd.readouterr().err.splitlines()
        prefix = (root / "pro").resolve() / f"{platform.system()}-{platform.machine()}"
        packages = {folder.stem for folder in prefix.glob("lib/python3*/site-packages/*.dist-info")}
        return Updated(answer, prefix, packages, [line for line in lines if line.startswith("dirac-perfpatch: ")])

    @contextmanager
    def _download(self, *_: Any, **__: Any) -> Iterator[SimpleNamespace]:
        installer = f"""mkdir -p "$(dirname "$2")" && cp -a "{self.world.environment}" "$2"
            sed -i "1s|.*|#!$2/bin/python|" "$2/bin/pip" """
        yield SimpleNamespace(ok=True, iter_content=lambda **_: [installer.encode()])


@pytest.fixture
def updates(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Updates]:
    from DIRAC.FrameworkSystem.Service import SystemAdministratorHandler  # noqa: F401

    assert updating.SWITCH.status()["state"] == APPLIED
    yield Updates(world, tmp_path, monkeypatch, capfd)
    updating.SWITCH.put_on()


@pytest.fixture(scope="module")
def stock(world: World, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The packages that an update without us leaves."""
    return {"DIRAC-9.9.9", "DIRACCommon-9.9.9"} | {
        folder.stem for folder in world.environment.glob("lib/python3*/site-packages/*.dist-info")
    }


def test_without_us_the_host_leaves_the_plugin_out(updates: Updates, stock: set[str]) -> None:
    updating.SWITCH.take_off()
    updated = updates.run()
    assert (updated.answer, updated.packages, updated.notices) == ({"OK": True, "Value": None}, stock, [])


def test_keeps_the_plugin_from_a_file(updates: Updates, stock: set[str]) -> None:
    origin = {"url": updates.world.plugin.as_uri(), "archive_info": {}}
    updates.plugin_is_from(origin)
    updated = updates.run()
    assert updated.answer == {"OK": True, "Value": None}
    assert updated.notices == [
        f"dirac-perfpatch: keep_on_update: installed dirac-perfpatch {VERSION} in {updated.prefix}"
    ]
    assert updated.packages > {*stock, PLUGIN}
    assert json.loads((updated.metadata / "direct_url.json").read_text())["url"] == origin["url"]
    command = [updated.prefix / "bin" / "python", "-c", STATE]
    loaded = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert loaded.stdout.split() == [str(updated.metadata.parent / "dirac_perfpatch" / "__init__.py"), "armed"]


@pytest.mark.own_lines
def test_keeps_the_running_version_from_an_index(updates: Updates, stock: set[str]) -> None:
    updates.also_find(updates.world.plugin.parent)
    newer = write_wheel(updates.world.plugin.parent, "dirac-perfpatch", "99.0")
    try:
        updates.plugin_is_from({})
        updated = updates.run()
    finally:
        newer.unlink()
    assert updated.packages > {*stock, PLUGIN}
    assert not (updated.metadata / "direct_url.json").exists()


@pytest.mark.own_lines
def test_does_nothing_where_the_update_brings_the_plugin(updates: Updates, stock: set[str]) -> None:
    updates.also_find(updates.world.plugin.parent)
    with mock.patch.object(updating, "_run") as ran:
        updated = updates.run("9.9.10")
    ran.assert_not_called()
    assert PLUGIN in updated.packages
    assert updated.notices == [
        f"dirac-perfpatch: keep_on_update: nothing to do, the plugin is in {updated.prefix} already"
    ]


@pytest.mark.own_lines
def test_does_nothing_when_the_update_fails(updates: Updates) -> None:
    with mock.patch.object(updating, "_run") as ran:
        updated = updates.run("1.2.3")
    ran.assert_not_called()
    assert not updated.answer["OK"]
    assert "No matching distribution found for DIRAC" in updated.answer["Message"]
    assert updated.notices == []


def expect_left_out(updated: Updated, stock: set[str], why: str) -> None:
    assert updated.answer == {"OK": True, "Value": None}
    assert {name for name in updated.packages if name in stock or name.startswith("DIRAC")} == stock
    assert PLUGIN not in updated.packages
    (notice,) = updated.notices
    assert notice.startswith(f"dirac-perfpatch: keep_on_update: DIRAC is updated, but {updated.prefix} is without")
    assert why in notice


@pytest.mark.once
def test_a_plugin_that_pip_cannot_find_is_left_out(updates: Updates, stock: set[str]) -> None:
    updates.plugin_is_from({})
    expect_left_out(updates.run(), stock, f"requirement dirac-perfpatch=={VERSION}")


@pytest.mark.once
def test_a_plugin_that_asks_for_another_dirac_is_left_out(updates: Updates, stock: set[str], tmp_path: Path) -> None:
    demanding = write_wheel(tmp_path / "wheels", "dirac-perfpatch", VERSION, requires=["DIRACCommon>=10"])
    updates.plugin_is_from({"url": demanding.as_uri(), "archive_info": {}})
    expect_left_out(updates.run(), stock, "conflicting dependencies")


@pytest.mark.once
def test_a_plugin_that_is_another_version_by_now_is_left_out(updates: Updates, stock: set[str], tmp_path: Path) -> None:
    files = {
        "dirac_perfpatch/__init__.py": "def extension_metadata(): return {'priority': 1}",
        "dirac_perfpatch/loading.py": "",
        "dirac_perfpatch-99.0.dist-info/entry_points.txt": ENTRY_POINT,
    }
    other = write_wheel(tmp_path / "wheels", "dirac-perfpatch", "99.0", files)
    updates.plugin_is_from({"url": other.as_uri(), "archive_info": {}})
    updated = updates.run()
    expect_left_out(updated, stock, f"is now 99.0, but {VERSION} is running here")
    assert not list(updated.prefix.glob("lib/python3*/site-packages/dirac_perfpatch*"))


@pytest.mark.once
def test_a_plugin_that_does_not_load_there_is_taken_out_again(
    updates: Updates, stock: set[str], tmp_path: Path
) -> None:
    files = {
        "dirac_perfpatch/__init__.py": "raise RuntimeError('broken')",
        f"{PLUGIN}.dist-info/entry_points.txt": ENTRY_POINT,
    }
    broken = write_wheel(tmp_path / "wheels", "dirac-perfpatch", VERSION, files)
    updates.plugin_is_from({"url": broken.as_uri(), "archive_info": {}})
    updated = updates.run()
    expect_left_out(updated, stock, "RuntimeError: broken")
    assert not list(updated.prefix.glob("lib/python3*/site-packages/dirac_perfpatch*"))


@pytest.mark.once
def test_a_download_that_hangs_is_given_up(updates: Updates, stock: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updating, "_INSTALL", 2)
    monkeypatch.setattr(updating, "_LEAST", 0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/{updates.world.plugin.name}"
        updates.plugin_is_from({"url": url, "archive_info": {}})
        expect_left_out(updates.run(), stock, "the installation took too long and was killed")


def test_an_update_that_took_its_callers_time_is_not_made_longer(world: World) -> None:
    started = time.monotonic() - updating._CALLER_WAITS + updating._CLEAN_UP + updating._LEAST - 1
    with mock.patch.object(updating, "_run") as ran, pytest.raises(OperatorError, match="no time is left"):
        updating._keep(str(world.environment), started)
    ran.assert_not_called()


def test_half_a_plugin_is_removed_without_pip(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    half = packages / f"{PLUGIN}.dist-info"
    half.mkdir(parents=True)
    (half / "entry_points.txt").write_text(ENTRY_POINT)
    updating._remove(str(tmp_path))
    assert not list(packages.iterdir())


@pytest.mark.parametrize(
    ("origin", "requirement"),
    [
        ({"url": "file:///a/b.whl", "archive_info": {}}, "dirac-perfpatch @ file:///a/b.whl"),
        (
            {"url": "https://host/b.tar.gz", "archive_info": {"hash": "sha256=1f"}, "subdirectory": "c"},
            "dirac-perfpatch @ https://host/b.tar.gz#subdirectory=c&sha256=1f",
        ),
        (
            {"url": "https://host/b.git", "vcs_info": {"vcs": "git", "requested_revision": "v1", "commit_id": "1f"}},
            "dirac-perfpatch @ git+https://host/b.git@1f",
        ),
        ({"url": "file:///a", "dir_info": {}}, "dirac-perfpatch @ file:///a"),
        ({"url": "file:///a", "dir_info": {"editable": True}}, "--editable file:///a"),
        ({}, f"dirac-perfpatch=={VERSION}"),
    ],
)
def test_names_the_plugin_by_where_it_came_from(
    origin: Mapping[str, Any], requirement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = SimpleNamespace(version=VERSION, read_text=lambda name: json.dumps(origin) if origin else None)
    monkeypatch.setattr(updating, "distribution", lambda name: ours)
    version, arguments = updating._ourselves()
    assert (version, " ".join(arguments)) == (VERSION, requirement)


@pytest.mark.once
def test_has_a_switch_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "patches.yaml"
    path.write_text("keep_on_update: off")
    code = f"import {HANDLER} as m; print(hasattr(m.SystemAdministratorHandler.export_updateSoftware, '__wrapped__'))"
    assert run(code, DIRAC_PERFPATCH_CONFIG=str(path)).stdout.split()[-1] == "False"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("enabled: on", True), ("keep_on_update: on", True), ("enabled: false\nkeep_on_update: on", False)],
)
def test_is_on_unless_it_or_the_main_switch_is_off(text: str, wanted: bool, tmp_path: Path) -> None:
    path = tmp_path / "patches.yaml"
    path.write_text(text)
    assert read(str(path)).keep_on_update is wanted
    assert read(SHIPPED).keep_on_update


def test_a_bad_switch_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "patches.yaml"
    path.write_text("enabled: on\nkeep_on_update: maybe\n")
    with pytest.raises(OperatorError, match=r"patches.yaml:2: keep_on_update must be on or off"):
        read(str(path))


def test_an_update_that_is_not_known_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class SystemAdministratorHandler:
        def export_updateSoftware(self, version: str) -> None:  # noqa: N802
            """Another one."""

    module = ModuleType(HANDLER)
    module.SystemAdministratorHandler = SystemAdministratorHandler  # type: ignore[attr-defined]
    original = vars(SystemAdministratorHandler)["export_updateSoftware"]
    monkeypatch.setitem(sys.modules, HANDLER, module)
    switch = Switch(updating.SWITCH.patch, {})
    switch.put_on()
    assert vars(SystemAdministratorHandler)["export_updateSoftware"] is original
    assert switch.status()["state"] == FAILED
    assert "keep_on_update: cannot patch" in capsys.readouterr().err
