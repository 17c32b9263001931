"""Real DIRAC environments: released wheels from PyPI in virtual environments, built once and kept in a cache folder.

A host is one release on one Python under one label. The label keeps apart environments that would disturb each other,
such as one in which the plugin is installed and one that must never contain it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

from .folder import make
from .interpreters import find_interpreter, python_interpreters

PLUGIN = "dirac-perfpatch"

# One of each supported line of releases. The last two are compared: the latest release that the plugin is for, and one
# that has the changes in-tree.
COMPARED, IN_TREE = "9.1.8", "9.1.22"
RELEASES = ("8.0.86", "9.0.28", COMPARED, IN_TREE)
# What a release has in-tree, right: names of patches, or "patch: target". What it has in-tree but wrong is replaced.
_FROM_9_1_9 = ["connection_close: AccountingDB.insertRecordDirectly"]
_FROM_9_1_9 += ["connection_close: DirectoryTreeBase.getDirectorySize", "connection_close: PilotStatusAgent.execute"]
_FROM_9_0 = ["registry_lookup: getUsernameForDN"]
_FROM_9_0 += ["certificate_extensions: retrieveExtension", "certificate_extensions: decodeDIRACGroup"]
# What those releases do not keep, so that nothing is wrong with it.
_BEFORE_9_1_20 = ["dms_helpers: resolveSEGroup", "chain_hash", "failed_lookups"]
IN_TREE_PATCHES: dict[str, list[str]] = {
    "8.0.86": _BEFORE_9_1_20,
    "9.0.28": [*_FROM_9_0, *_BEFORE_9_1_20],
    COMPARED: [*_FROM_9_0, *_BEFORE_9_1_20],
    IN_TREE: [*_FROM_9_0, *_FROM_9_1_9],
}
DEFAULT_PYTHON = "3.11"

# The first releases of their lines whose TLS handshake works with M2Crypto 0.50 and later.
_NEW_M2CRYPTO = ("8.0.83", "9.0.25", "9.1.18")

# gfal2-python does not build on Debian 12, and nothing here needs it: the marker is never true.
OVERRIDE = 'gfal2-python ; python_version < "3"\n'

StrPath = Union[str, Path]


@dataclass(frozen=True)
class Host:
    """An environment with DIRAC in it.

    release: DIRAC's version; version: the Python's, as "3.11"; folder: the virtual environment.
    """

    release: str
    version: str
    folder: Path

    @property
    def python(self) -> Path:
        return self.bin / "python"

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def site_packages(self) -> Path:
        return self.folder / "lib" / f"python{self.version}" / "site-packages"

    def process_env(self, root: Path, library: Path | None = None, **more: str) -> dict[str, str]:
        """The whole environment of a process of this host.

        root: of its DIRAC, an existing folder that also gets its temporary files; library: a folder made by
        lab.folder.library(), from which it can import, too; more: variables.
        """
        keep = {name: os.environ[name] for name in ("HOME", "LANG", "USER", "LOGNAME") if name in os.environ}
        return {
            **keep,
            "PATH": os.pathsep.join([str(self.bin), os.environ.get("PATH", os.defpath)]),
            # Never the configuration of the user who runs this.
            "DIRAC_ROOT_PATH": str(root),
            "DIRACSYSCONFIG": str(root / "etc" / "dirac.cfg"),
            "TMPDIR": str(root),
            # A block-buffered log would hide how far a process has got.
            "PYTHONUNBUFFERED": "1",
            **({"PYTHONPATH": str(library)} if library else {}),
            **more,
        }


def matrix() -> list[tuple[str, str]]:
    """The (release, Python) pairs that are tested in full: 8.0 on 3.9 if this machine has it, all others on 3.11."""
    oldest = "3.9" if find_interpreter("3.9") else DEFAULT_PYTHON
    return [(RELEASES[0], oldest), *((release, DEFAULT_PYTHON) for release in RELEASES[1:])]


def state(release: str, patch: str, target: str = "") -> str:
    """What a patch that is on is once its modules are loaded: "stood down" if this release has it in-tree, "applied".

    target: the attribute of one of its targets; "" for the patch as a whole.
    """
    return "stood down" if {patch, f"{patch}: {target}"}.intersection(IN_TREE_PATCHES[release]) else "applied"


def cache_folder() -> Path:
    """Where environments are kept: $DIRAC_PERFPATCH_CACHE, else dirac-perfpatch in the user's cache folder."""
    chosen = os.environ.get("DIRAC_PERFPATCH_CACHE")
    if chosen:
        return Path(chosen).resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dirac-perfpatch"


def environment(release: str, python: StrPath | None = None, label: str = "stock") -> Host:
    """The environment of this release, built now if it does not exist yet.

    python: an interpreter's path, or a version such as "3.9"; label: keeps environments of one release apart.
    Returns: the Host. Errors: LookupError if this machine has no such Python; CalledProcessError if a build fails.
    """
    interpreter, version = _interpreter(python)
    name = f"{release}-py{version}-{label}"
    host = Host(release, version, cache_folder() / "hosts" / name)
    with _lock(name):
        if _read(host.folder / "stamp") != _recipe(host, interpreter):
            _build(host, interpreter)
    return host


def plain_environment(name: str, requirements: Sequence[str], python: StrPath | None = None) -> Path:
    """An environment without DIRAC, for tools and for tests that need no host; built now if it does not exist yet.

    name: of its folder; requirements: as for pip; python: as for environment().
    Returns: its `bin` folder. Errors: as for environment().
    """
    interpreter, version = _interpreter(python)
    folder = cache_folder() / "plain" / f"{name}-py{version}"
    recipe = "\n".join([str(interpreter), *requirements])
    with _lock(folder.name):
        if _read(folder / "stamp") != recipe:
            _make_with(folder, interpreter, requirements)
            (folder / "stamp").write_text(recipe)
    return folder / "bin"


def temporary_environment(requirements: Sequence[str], python: StrPath | None = None) -> Path:
    """A new environment without DIRAC that is removed when this process ends, so nothing in it is of an earlier day.

    requirements, python, returns, errors: as for plain_environment().
    """
    interpreter, _ = _interpreter(python)
    folder = make("perfpatch-environment-") / "venv"
    _make_with(folder, interpreter, requirements)
    return folder / "bin"


def install_plugin(host: Host, checkout: StrPath, *extras: str) -> None:
    """Install the plugin from a checkout, as a wheel, replacing any that is installed.

    checkout: as it is when this process first installs it; extras: of the plugin, to be installed with it.
    Errors: CalledProcessError if it cannot be built or installed.
    """
    install_wheel(host, _wheel(checkout), *extras)


@functools.cache
def _wheel(checkout: StrPath) -> Path:
    """The plugin's wheel, built from a copy: setuptools leaves a build folder, from which it would pack stale files."""
    # Tools write to their hidden folders while this copies: a file that vanishes would end it.
    skip = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "venv")
    source = make("perfpatch-build-") / "source"
    shutil.copytree(checkout, source, ignore=skip)
    wheels = source.with_name("wheels")
    python = str(_interpreter(None)[0])
    _run([_uv(), "build", "--quiet", "--wheel", "--python", python, "-o", str(wheels), str(source)])
    (wheel,) = wheels.glob("*.whl")
    return wheel


def install_wheel(host: Host, wheel: Path, *extras: str) -> None:
    """Install the plugin from a wheel, replacing any that is installed.

    extras: of the plugin, to be installed with it. Errors: CalledProcessError if it cannot be installed.
    """
    with _lock(host.folder.name):
        wanted = f"{wheel}[{','.join(extras)}]" if extras else str(wheel)
        _pip(host, "install", "--reinstall-package", PLUGIN, wanted)


def overlay(host: Host, release: str, *more: str) -> Path:
    """Another release of DIRAC for a host's dependencies, none of which is in it.

    If the folder comes first on the path (PYTHONPATH), the host's processes are of that release, and say so.
    host: whose Python it is for; release: DIRAC's version; more: requirements that are to be there, too.
    Returns: a folder that is removed with this process. Errors: CalledProcessError if there is no such release.
    """
    folder = make("perfpatch-overlay-")
    folder.chmod(0o755)  # some tests are other users for a while
    common = [f"DIRACCommon=={release}"] if number(release) >= (9,) else []
    _pip(host, "install", "--no-deps", "--target", str(folder), f"DIRAC=={release}", *common, *more)
    return folder


def released(project: str = "DIRAC", first: str = "8.0.0") -> list[str]:
    """The releases of DIRAC, or another project, that pip finds from the first on, oldest first, without pre-releases.

    Errors: CalledProcessError if pip finds none.
    """
    pip = [str(Path(_uv()).with_name("python")), "-m", "pip", "index", "versions", project]
    found = subprocess.run(pip, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    # Without --pre, pip leaves pre-releases out.
    releases = sorted(set(re.findall(r"\b\d+(?:\.\d+){2}\b", found.stdout.decode())), key=number)
    return [release for release in releases if number(release) >= number(first)]


def unpack(folder: Path, *requirements: str) -> None:
    """Put released wheels into a folder, without what they need.

    Errors: CalledProcessError if there is no such release.
    """
    python = str(_interpreter(None)[0])
    _run([_uv(), "pip", "install", "--quiet", "--no-deps", "--python", python, "--target", str(folder), *requirements])


def number(release: str) -> tuple[int, ...]:
    """A release as numbers: those of a later one are greater."""
    return tuple(map(int, release.split(".")))


def last_alike(release: str, releases: Sequence[str]) -> str:
    """The last of these releases that is of the same line as a release and works with the same M2Crypto."""

    def kind(one: str) -> tuple[tuple[int, ...], str]:
        return number(one)[:2], _requirements(one)[1]

    return [one for one in releases if kind(one) == kind(release)][-1]


def spans(found: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Releases in a row with equal values, as one: "9.1.0 to 9.1.8" and the value. found: releases in order."""
    for value, same in itertools.groupby(found, lambda one: one[1]):
        first, *_, last = [release for release, _ in same] * 2
        yield first if first == last else f"{first} to {last}", value


def files(host: Host) -> set[str]:
    """The files of an environment, without bytecode, and without wrapt: what a package needs stays, as with any pip."""
    found = {str(path) for path in host.site_packages.rglob("*") if "__pycache__" not in path.parts}
    return {path for path in found if "wrapt" not in path} | {str(path) for path in host.bin.iterdir()}


def remove_plugin(host: Host) -> None:
    """Uninstall the plugin; does nothing if it is not installed."""
    with _lock(host.folder.name):
        _pip(host, "uninstall", PLUGIN)


def clean_environment(**more: str) -> dict[str, str]:
    """Our own environment without the variables that would affect a tool or a test. more: variables to add."""
    ours = {"DIRAC_PERFPATCH", "DIRAC_PERFPATCH_CONFIG", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "X509_USER_PROXY"}
    # uv installs no bytecode: each process would compile all that it imports, which takes three times as long.
    ours.add("PYTHONDONTWRITEBYTECODE")
    return {**{name: value for name, value in os.environ.items() if name not in ours}, **more}


def _interpreter(python: StrPath | None) -> tuple[Path, str]:
    """(path, version) of the requested interpreter."""
    wanted = str(python or DEFAULT_PYTHON)
    if os.sep in wanted:
        ask = "import sys; print('%d.%d' % sys.version_info[:2])"
        version = subprocess.run([wanted, "-I", "-c", ask], stdout=subprocess.PIPE, check=True).stdout.decode().strip()
        return Path(wanted), version
    path = find_interpreter(wanted)
    if not path:
        raise LookupError(f"no Python {wanted} on this machine; there are: {', '.join(python_interpreters())}")
    return path, wanted


def _requirements(release: str) -> tuple[str, str]:
    """DIRAC and the M2Crypto that this release works with."""
    # Earlier ones accept any M2Crypto but fail the TLS handshake with new ones and crash with some others.
    first = next((first for first in _NEW_M2CRYPTO if number(first)[:2] == number(release)[:2]), "0")
    m2crypto = "M2Crypto>=0.50" if number(release) >= number(first) else "M2Crypto==0.41.0"
    return f"DIRAC[server,testing]=={release}", m2crypto


def _recipe(host: Host, interpreter: Path) -> str:
    return "\n".join([str(interpreter), *_requirements(host.release), OVERRIDE])


def _build(host: Host, interpreter: Path) -> None:
    _make(host.folder, interpreter)
    override = host.folder / "override.txt"
    override.write_text(OVERRIDE)
    dirac, m2crypto = _requirements(host.release)
    # Alone first: uv rebuilds it (15 s) every time if it resolves it together with the override.
    _pip(host, "install", "--no-deps", m2crypto)
    _pip(host, "install", "--override", str(override), dirac, m2crypto)
    # Last, so that an environment whose build was interrupted is never taken for a complete one.
    (host.folder / "stamp").write_text(_recipe(host, interpreter))


def _make_with(folder: Path, interpreter: Path, requirements: Sequence[str]) -> None:
    _make(folder, interpreter)
    _run([_uv(), "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), *requirements])


def _make(folder: Path, interpreter: Path) -> None:
    print(f"building {folder.name}", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    _run([_uv(), "venv", "--quiet", "--python", str(interpreter), str(folder)])


def _pip(host: Host, *arguments: str) -> None:
    command, *rest = arguments
    _run([_uv(), "pip", command, "--quiet", "--python", str(host.python), *rest])


def _uv() -> str:
    """The path of uv, which is installed into a separate environment at first use."""
    folder = cache_folder() / "tools"
    path = folder / "bin" / "uv"
    if not path.exists():
        with _lock("tools"):
            if not path.exists():
                shutil.rmtree(folder, ignore_errors=True)
                _run([str(_interpreter(None)[0]), "-m", "venv", str(folder)])
                _run([str(folder / "bin" / "python"), "-m", "pip", "install", "-qq", "uv"])
    return str(path)


def _run(command: list[str]) -> None:
    subprocess.run(command, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=sys.stderr, check=True)


@contextlib.contextmanager
def _lock(name: str) -> Iterator[None]:
    """Keep other processes from building or changing the same environment."""
    path = cache_folder() / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
