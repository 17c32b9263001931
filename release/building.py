"""The sdist and the wheel, with the same bytes wherever and whenever they are built from one commit with one zlib.

setuptools writes the times of files and the machine's users into the sdist, and the modes of files into both. So the
sources are a copy with fixed modes, and the sdist is packed again. The wheel is built from that sdist.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from lab import hosts
from lab.folder import CHECKOUT

# setuptools writes its version into the wheel.
TOOLS = ["build>=1.2", "setuptools==84.2.1", "twine>=6", "cyclonedx-bom>=7"]


class BuildError(Exception):
    """The distributions cannot be built; the text ends with what the tool said."""


def tools() -> Path:
    """The `bin` folder of the environment with the tools."""
    return hosts.plain_environment("release", TOOLS)


def git(*arguments: str) -> str:
    """What git answers in the checkout. Errors: CalledProcessError."""
    return subprocess.run(["git", *arguments], cwd=CHECKOUT, check=True, stdout=subprocess.PIPE).stdout.decode()


def commit_time() -> int:
    """The time of the last commit, in seconds since 1970."""
    return int(git("log", "-1", "--format=%ct"))


def tracked() -> list[str]:
    """The files that are in git, relative to the checkout; those that were deleted are left out."""
    return [name for name in git("ls-files", "-z").split("\0") if name and (CHECKOUT / name).exists()]


def copy_sources(folder: Path) -> None:
    """Copy the files that are in git, as they are now, with fixed modes and with files for links."""
    for name in tracked():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(CHECKOUT / name, target)
        target.chmod(0o644)


def build(sources: Path, output: Path, **environment: str) -> tuple[Path, Path]:
    """Build from a copy of the sources.

    sources: see copy_sources(); output: a folder; environment: variables, which must make no difference.
    Returns: the paths of the sdist and the wheel. Errors: BuildError.
    """
    when = commit_time()
    env = hosts.clean_environment(SOURCE_DATE_EPOCH=str(when), PYTHONDONTWRITEBYTECODE="1", **environment)
    _run_build(sources, output, "--sdist", env)
    (sdist,) = output.glob("*.tar.gz")
    _pack_again(sdist, when)
    unpacked = output / "unpacked"
    shutil.unpack_archive(sdist, unpacked)
    (root,) = unpacked.iterdir()
    _run_build(root, output, "--wheel", env)
    shutil.rmtree(unpacked)
    (wheel,) = output.glob("*.whl")
    return sdist, wheel


def _run_build(sources: Path, output: Path, what: str, env: dict[str, str]) -> None:
    command = [str(tools() / "python"), "-m", "build", "--no-isolation", what, "--outdir", str(output), str(sources)]
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    done = subprocess.run(command, env=env, stdout=pipe, stderr=both, umask=0o022, check=False)
    if done.returncode:
        raise BuildError(done.stdout.decode(errors="replace")[-2000:])


def _pack_again(sdist: Path, when: int) -> None:
    """Give all entries one time, one owner and fixed modes, in the order of their names."""
    content = io.BytesIO()
    with tarfile.open(sdist) as before, tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as after:
        for entry in sorted(before.getmembers(), key=lambda entry: entry.name):
            plain = tarfile.TarInfo(entry.name)
            plain.type, plain.size, plain.mtime = entry.type, entry.size, when
            plain.mode = 0o755 if entry.isdir() else 0o644
            after.addfile(plain, before.extractfile(entry))
    # No name and a fixed time in the header. Level 6: what zlib's own default is, on every Python.
    sdist.write_bytes(gzip.compress(content.getvalue(), 6, mtime=when))
    os.utime(sdist, (when, when))
