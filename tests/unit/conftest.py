"""These tests need no DIRAC: the host is played by little modules that a test writes itself."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

import dirac_perfpatch
from dirac_perfpatch import imports, known

# A busy machine is no reason to fail, and nothing is to be left in the working directory.
settings.register_profile("unit", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unit")

PACKAGE = Path(dirac_perfpatch.__file__).resolve().parent
Child = Callable[..., "subprocess.CompletedProcess[str]"]
Write = Callable[..., Path]


@pytest.fixture
def package() -> Path:
    """The folder of the package."""
    return PACKAGE


@pytest.fixture
def child(tmp_path: Path) -> Child:
    """Run code in a new Python that has the package; further folders of modules come before it."""

    def run(code: str, *folders: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DIRAC")}
        path = os.pathsep.join(map(str, [*folders, PACKAGE.parent]))
        clean.update(PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1", **environment)
        command = [sys.executable, "-c", code]
        return subprocess.run(command, check=False, env=clean, cwd=tmp_path, capture_output=True, text=True, timeout=20)

    return run


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module's source into a folder on ``sys.path``; dots make packages. All are gone after the test."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(name: str, source: str) -> Path:
        *parents, last = name.split(".")
        place = folder
        for parent in parents:
            place = place / parent
            place.mkdir(exist_ok=True)
            (place / "__init__.py").touch()
        # A module that has become a package's parent keeps its source.
        path = place / last / "__init__.py" if (place / last).is_dir() else place / f"{last}.py"
        path.write_text(source, encoding="utf-8")
        importlib.invalidate_caches()
        return path

    yield write
    for name in set(sys.modules) - before:
        found = getattr(sys.modules[name], "__file__", None) or ""
        if found.startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture
def module(modules: Write) -> Callable[[str, str], ModuleType]:
    """Write a module and import it."""

    def make(name: str, source: str) -> ModuleType:
        modules(name, source)
        return importlib.import_module(name)

    return make


@pytest.fixture(autouse=True)
def _an_invented_host_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host of a test is of no release: the check of the patch itself decides."""
    for name in ("forms", "texts"):
        monkeypatch.setattr(known, name, dict)


@pytest.fixture(autouse=True)
def _nothing_is_waited_for() -> Iterator[None]:
    yield
    left = dict(imports._waiting)
    imports._waiting.clear()
    sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not imports._finder]
    assert left == {}
