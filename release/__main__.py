"""Build the sdist and the wheel and check them: `python3 -m release`. It uploads nothing.

Only if every check passes, `dist/` holds them, with a bill of materials and SHA-256 sums. `--short` leaves out the
hosts and writes nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from lab import hosts
from lab.command import end_when_told, say
from lab.folder import CHECKOUT, make
from lab.machine import ensure_packages
from lab.table import aligned

from . import bill, building, checks, smoke

DIST = CHECKOUT / "dist"
SUMS = "SHA256SUMS"


class Table:
    """The checks that were made."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, str]] = [("check", "result", "")]
        self.good = True

    def add(self, name: str, check: Callable[[], str]) -> None:
        """Make a check, which returns a remark or raises."""
        try:
            row = (name, "passed", check())
        except (checks.CheckError, building.BuildError, OSError, LookupError, subprocess.SubprocessError) as error:
            row, self.good = (name, "FAILED", f"{error}"), False
        say(f"{row[0]}: {row[1]}")
        self._rows.append(row)

    def __str__(self) -> str:
        return aligned(self._rows, (0, 1, 2))


def main() -> None:
    parser = argparse.ArgumentParser("python3 -m release", description=__doc__)
    parser.add_argument("--short", action="store_true", help="no hosts, no bill of materials; write nothing")
    short = parser.parse_args().short
    end_when_told()
    table, folder, version = Table(), make("perfpatch-release-"), checks.declared_version()
    sdist, wheel = _build_twice(table, folder)
    table.add("version", lambda: checks.version(wheel, sdist))
    table.add("contents of the sdist", lambda: checks.sdist_contents(sdist, version))
    table.add("contents of the wheel", lambda: checks.wheel_contents(wheel, version))
    table.add("metadata", lambda: checks.metadata(wheel, sdist))
    table.add("changelog", lambda: checks.changelog((CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8"), version))
    if not short:
        shutil.rmtree(DIST, ignore_errors=True)  # nothing of an earlier run can be mistaken for this one's
        table.add("committed", checks.clean)
        _check_installed(table, wheel, version)
        if table.good:
            table.add("SHA-256 sums", lambda: _publish(wheel.parent))
    print(f"\n{table}\n")
    print(f"{'all checks passed' if table.good else 'there is no release'}; nothing was uploaded")
    sys.exit(0 if table.good else 1)


def _build_twice(table: Table, folder: Path) -> tuple[Path, Path]:
    """Build in two places that differ in everything that should make no difference."""
    building.copy_sources(folder / "a" / "source")
    first = building.build(folder / "a" / "source", folder / "a" / "dist", TZ="UTC")
    other = folder / "another-and-longer" / "path"
    umask = os.umask(0o077)
    try:
        building.copy_sources(other / "source")
        for path in (other / "source").rglob("*"):
            os.utime(path, (0x40000000, 0x40000000))
        variables = {"TZ": "Pacific/Auckland", "LC_ALL": "C", "PYTHONHASHSEED": "8524"}
        second = building.build(other / "source", other / "dist", **variables)
    finally:
        os.umask(umask)
    table.add("reproducible", lambda: checks.same_bytes(first, second))
    return first


def _check_installed(table: Table, wheel: Path, version: str) -> None:
    alone = hosts.temporary_environment([str(wheel)]) / "python"
    path = wheel.with_name(f"{checks.DISTRIBUTION}-{version}.cdx.json")
    table.add("bill of materials", lambda: bill.write(alone, wheel, path))
    table.add("the wheel alone", lambda: smoke.without_host(alone, version))
    ensure_packages()
    for release, python in hosts.matrix():
        name = f"DIRAC {release}, Python {python}"
        table.add(name, lambda release=release, python=python: smoke.on_host(release, python, wheel, version))  # type: ignore[misc]


def _publish(folder: Path) -> str:
    """Copy the files to dist/ and write their sums, in the form that `sha256sum --check` reads."""
    shutil.copytree(folder, DIST)
    files = sorted(DIST.iterdir())
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    (DIST / SUMS).write_text(sums)
    subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=DIST, check=True)
    return f"{len(files)} files in {DIST.name}/"


if __name__ == "__main__":
    main()
