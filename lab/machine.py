"""The Debian packages that real hosts and a real database need."""

from __future__ import annotations

import os
import subprocess
import sys

from .interpreters import find_interpreter

# mysqlclient and M2Crypto are built from source.
BUILD = ["gcc", "pkg-config", "libmariadb-dev", "libssl-dev", "swig"]
# Only the server and client programs: the package mariadb-server would also set up and start a system service.
DATABASE = ["mariadb-server-core", "mariadb-client-core"]
# Only for Debian's own Python: one built by pyenv includes its headers and ensurepip.
DEBIAN_PYTHON = ["python3-venv", "python3-dev"]


def ensure_packages(*more: str) -> None:
    """Install missing packages: as root without asking, otherwise end with one line that says what to install.

    more: packages that are needed beside those of hosts and databases.
    Errors: SystemExit with that line, or if apt-get fails.
    """
    missing = missing_packages(*more)
    if not missing:
        return
    if os.geteuid() != 0:
        raise SystemExit("Debian packages are missing. As root: apt-get install " + " ".join(missing))
    print("installing Debian packages:", *missing, file=sys.stderr, flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *missing]):
        result = subprocess.run(
            ["apt-get", *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False
        )
        if result.returncode:
            raise SystemExit(f"apt-get {arguments[0]} failed with exit code {result.returncode}; see above")


def missing_packages(*more: str) -> list[str]:
    """The required packages that are not installed. more: as for ensure_packages().

    Errors: SystemExit on a machine without dpkg.
    """
    needed = BUILD + DATABASE + (DEBIAN_PYTHON if _uses_debian_python() else []) + list(more)
    installed = _installed(needed)
    return [package for package in needed if package not in installed]


def _uses_debian_python() -> bool:
    python = find_interpreter("3.11")
    return python is None or str(python).startswith("/usr/bin/")


def _installed(packages: list[str]) -> dict[str, bool]:
    try:
        answer = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *packages],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError:
        raise SystemExit("this needs Debian 12: there is no dpkg-query here") from None
    lines = [line.split() for line in answer.stdout.decode().splitlines()]
    return {name: True for name, status in lines if status == "installed"}


if __name__ == "__main__":
    ensure_packages()
