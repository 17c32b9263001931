"""The wheel alone in a real DIRAC, and without one: what is installed works, and its removal leaves nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab import hosts
from lab.folder import make

from .checks import DISTRIBUTION, CheckError

_SECONDS = 300


def on_host(release: str, python: str, wheel: Path, version: str) -> str:
    """Install the wheel without extras, use it, use the host, and uninstall it.

    release, python: of the host; wheel: its path; version: of the wheel.
    Returns: a remark. Errors: CheckError.
    """
    host = hosts.environment(release, python, label="release")
    hosts.remove_plugin(host)
    env = host.process_env(make("perfpatch-root-"))
    before = hosts.files(host)
    _expect(host, env, 0, release, "dirac-version")
    hosts.install_wheel(host, wheel)
    _expect(host, env, 0, f"{DISTRIBUTION} {version}", DISTRIBUTION, "--version")
    _expect(host, env, 0, f"DIRAC {release}", DISTRIBUTION, "status")
    answered = _expect(host, env, 0, f"DIRAC {release}", DISTRIBUTION, "check").count("same as stock")
    if not answered:
        raise CheckError("check asked nothing")
    _expect(host, env, 0, release, "dirac-version")
    hosts.remove_plugin(host)
    left = sorted(hosts.files(host) - before)
    if left:
        raise CheckError(f"uninstalling leaves {', '.join(left)}")
    _expect(host, env, 0, release, "dirac-version")
    return f"{answered} patches answer as stock does; uninstalling leaves nothing"


def without_host(python: Path, version: str) -> str:
    """Where there is no DIRAC, the command says so. python: of an environment that has the wheel alone."""
    for arguments, code, said in ((["--version"], 0, version), (["status"], 2, "no DIRAC can be imported")):
        _run([str(python.parent / DISTRIBUTION), *arguments], hosts.clean_environment(), code, said)
    return "no DIRAC is reported, exit code 2"


def _expect(host: hosts.Host, env: dict[str, str], code: int, said: str, *command: str) -> str:
    return _run([str(host.bin / command[0]), *command[1:]], env, code, said)


def _run(command: Sequence[str], env: dict[str, str], code: int, said: str) -> str:
    done = subprocess.run(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_SECONDS,
        check=False,
    )
    output = done.stdout.decode(errors="replace")
    if done.returncode != code or said not in output:
        what = " ".join([Path(command[0]).name, *command[1:]])
        raise CheckError(f"{what}: exit code {done.returncode}, no {said!r}: {' '.join(output[-600:].split())}")
    return output
