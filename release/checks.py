"""What is checked about the distributions before anybody gets them, without a host."""

from __future__ import annotations

import configparser
import email.message
import email.parser
import subprocess
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from lab.folder import CHECKOUT

from . import building

PACKAGE, DISTRIBUTION = "dirac_perfpatch", "dirac-perfpatch"
# What an installation brings, with no extras: nothing more may be needed where DIRAC runs.
AT_RUN_TIME = {"wrapt", "PyYAML", "importlib_metadata"}
_WHEEL_METADATA = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
_SDIST_FILES = {"LICENSE", "README.md", "PKG-INFO", "pyproject.toml", "setup.cfg"}
_EGG_INFO = {"PKG-INFO", "SOURCES.txt", "dependency_links.txt", "entry_points.txt", "requires.txt", "top_level.txt"}


class CheckError(Exception):
    """A check failed; the text says why."""


def declared_version() -> str:
    """The version, from the one place that states it: `version` in setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    return parser["metadata"]["version"]


def clean() -> str:
    """Nothing but the last commit is in the distributions."""
    changed = building.git("status", "--porcelain").splitlines()
    if changed:
        raise CheckError(f"not committed: {', '.join(line[3:] for line in changed)}")
    return building.git("log", "-1", "--format=%h of %cs").strip()


def same_bytes(first: Iterable[Path], second: Iterable[Path]) -> str:
    """Two builds are the same."""
    pairs = list(zip(first, second))
    different = [one.name for one, other in pairs if (one.name, one.read_bytes()) != (other.name, other.read_bytes())]
    if different:
        raise CheckError(f"two builds differ: {', '.join(different)}")
    return ", ".join(f"{one.name}: {one.stat().st_size // 1024} KiB" for one, _ in pairs)


def wheel_contents(wheel: Path, version: str) -> str:
    """Exactly the package, as it is in the checkout, and its metadata."""
    info = f"{PACKAGE}-{version}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        found = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    return _compare(found, {f"{info}/{name}" for name in _WHEEL_METADATA}, "")


def sdist_contents(sdist: Path, version: str) -> str:
    """Exactly the package, as it is in the checkout, what builds it, and its metadata."""
    root = f"{PACKAGE}-{version}/"
    found = {}
    with tarfile.open(sdist) as archive:
        for entry in archive:
            if not entry.isdir():
                file = archive.extractfile(entry)
                found[entry.name] = file.read() if file else b""
    besides = _SDIST_FILES | {f"{PACKAGE}.egg-info/{name}" for name in _EGG_INFO}
    return _compare(found, {root + name for name in besides}, root)


def _compare(found: dict[str, bytes], besides: set[str], root: str) -> str:
    package = {root + name: name for name in building.tracked() if name.startswith(f"{PACKAGE}/")}
    missing, more = sorted({*package, *besides} - set(found)), sorted(set(found) - {*package, *besides})
    if missing or more:
        raise CheckError(f"missing: {', '.join(missing) or 'nothing'}; too much: {', '.join(more) or 'nothing'}")
    other = [name for name, path in package.items() if (CHECKOUT / path).read_bytes() != found[name]]
    if other:
        raise CheckError(f"not as in the checkout: {', '.join(sorted(other))}")
    return f"{len(package)} files of the package, {len(besides)} others"


def read_metadata(wheel: Path) -> email.message.Message:
    """The file METADATA of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.parser.Parser().parsestr(archive.read(name).decode())


def requirements(wheel: Path) -> list[str]:
    """What a wheel requires without extras."""
    return [text for text in read_metadata(wheel).get_all("Requires-Dist", []) if "extra ==" not in text]


def metadata(wheel: Path, sdist: Path) -> str:
    """What an index and pip read: twine accepts it, and it requires no more than it should."""
    command = [str(building.tools() / "twine"), "--no-color", "check", "--strict", str(wheel), str(sdist)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise CheckError(" ".join(done.stdout.decode().split()))
    needed = {text.partition(">")[0] for text in requirements(wheel)}
    if needed != AT_RUN_TIME:
        raise CheckError(f"requires {', '.join(sorted(needed))}")
    return f"requires {', '.join(sorted(requirements(wheel)))}"


def version(wheel: Path, sdist: Path) -> str:
    """The version of setup.cfg is everywhere."""
    wanted = declared_version()
    told = {read_metadata(wheel)["Version"], wheel.name.split("-")[1], sdist.name[len(PACKAGE) + 1 : -len(".tar.gz")]}
    if told != {wanted}:
        raise CheckError(f"setup.cfg says {wanted}, the distributions {', '.join(sorted(told))}")
    return f"{wanted}, from setup.cfg"


def changelog(text: str, version: str) -> str:
    """The newest heading of the changelog is this version or "Unreleased"."""
    parts = text.split("\n## ")[1:]
    first = parts[0].splitlines()[0].strip() if parts else "nothing"
    if first not in ("Unreleased", version):
        raise CheckError(f"the newest heading is {first}, neither {version} nor Unreleased")
    entries = parts[0].count("\n- ")
    if not entries:
        raise CheckError(f"there is nothing below {first}")
    if first == version:
        return f"{first}, {entries} entries"
    return f"Unreleased, {entries} entries: before you publish, give them a version, here and in setup.cfg"
