"""The Pythons that this machine has."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13")

# A pyenv shim or a virtual environment only leads to an interpreter: ask where the real one is.
_ASK = (
    "import os, sys; print(os.path.realpath(getattr(sys, '_base_executable', sys.executable)), *sys.version_info[:2])"
)


def python_interpreters() -> dict[str, Path]:
    """The interpreters of the versions in VERSIONS that actually run here: {"3.11": path, ...}."""
    found = {version: find_interpreter(version) for version in VERSIONS}
    return {version: path for version, path in found.items() if path}


@functools.cache
def find_interpreter(version: str) -> Path | None:
    """An interpreter of this version ("3.11") that actually runs here, or None.

    The running one is preferred, then the first on PATH, then pyenv's.
    """
    resolved = (_resolve(candidate, version) for candidate in _candidates(version))
    return next((path for path in resolved if path), None)


def _candidates(version: str) -> Iterator[Path]:
    if version == "{}.{}".format(*sys.version_info[:2]):
        yield Path(sys.executable)
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    # pyenv's shims are slow and fail for versions that are not selected; the real interpreters are added below.
    folders = [folder for folder in folders if folder.name != "shims"]
    for folder in folders + _pyenv_folders(version):
        path = folder / f"python{version}"
        if os.access(path, os.X_OK):
            yield path


def _pyenv_folders(version: str) -> list[Path]:
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    installed = [path for path in root.glob(f"versions/{version}.*") if re.fullmatch(r"[0-9.]+", path.name)]
    return [path / "bin" for path in sorted(installed, key=lambda path: int(path.name.split(".")[2]), reverse=True)]


def _resolve(candidate: Path, version: str) -> Path | None:
    """The real interpreter behind the candidate, or None if it does not run or is another version."""
    try:
        answer = subprocess.run(
            [str(candidate), "-I", "-c", _ASK],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    path, major, minor = answer.stdout.decode().rsplit(maxsplit=2)
    return Path(path) if f"{major}.{minor}" == version else None
