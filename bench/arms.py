"""The arms: stock, patched and in-tree DIRAC, each an environment of its own, and a worker process in each."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab import hosts, processes
from lab.mariadb import MariaDB

STOCK, PATCHED, IN_TREE = "stock", "patched", "in-tree"
RELEASE = "9.1.8"
CHECKOUT = Path(__file__).resolve().parents[1]


class Arm:
    """One arm.

    name: as in the table; host: the environment; folder: for all arms, with the folders `library` and `unplugged` that
    hold what the workers import.
    """

    def __init__(self, name: str, host: hosts.Host, folder: Path) -> None:
        self.name = name
        self.host = host
        self._folder = folder
        self._log = folder / f"{name}.log"
        self._process = processes.start(
            [str(host.python), str(folder / "library" / "bench" / "worker.py")],
            self._log,
            self.environment(library=True),
            talk=True,
        )

    def environment(self, library: bool = False) -> dict[str, str]:
        """The whole environment of a process of this arm.

        library: whether it is to import our own modules. Where the plugin is not installed, its package is importable
        then, but no entry point leads to it, so it is never loaded.
        """
        keep = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR", "PATH") if name in os.environ}
        if library and self.name != PATCHED:
            keep["PYTHONPATH"] = str(self._folder / "unplugged")
        return {
            **keep,
            # No configuration of whoever runs this: none is needed, and his own must not be found.
            "DIRAC_ROOT_PATH": str(self._folder),
            "DIRACSYSCONFIG": str(self._folder / "dirac.cfg"),
            "PYTHONUNBUFFERED": "1",
        }

    def wait(self) -> None:
        """Wait until the worker is ready. Errors: RuntimeError when it ends instead."""
        self._answer()

    def ask(self, *order: Any) -> Any:
        """Give the worker an order and wait for its answer. Errors: RuntimeError when it ends instead."""
        stdin = self._process.stdin
        assert stdin
        stdin.write(json.dumps(order).encode() + b"\n")
        stdin.flush()
        return self._answer()

    def open(self, case: str, size: int, database: MariaDB) -> None:
        """Have a call prepared. Errors: RuntimeError when the plugin's patch of it is not as this arm wants it."""
        account = [database.host, database.port, database.user, database.password, "bench"]
        on = self.ask("open", case, size, account)
        if on != (self.name == PATCHED):
            raise RuntimeError(f"{self.name}: the patch for {case} is {'on' if on else 'not on'}")

    def stop(self) -> None:
        """End the worker."""
        processes.kill(self._process)

    def _answer(self) -> Any:
        stdout = self._process.stdout
        assert stdout
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: the worker ended:\n{self._log.read_text()[-3000:]}")
        return json.loads(line)


def environments() -> dict[str, hosts.Host]:
    """The arms' environments by name. Only the patched one has ever had the plugin in it."""
    patched = hosts.environment(RELEASE, label="bench")
    hosts.install_plugin(patched, CHECKOUT, "ab")
    return {STOCK: hosts.environment(RELEASE), PATCHED: patched, IN_TREE: hosts.environment(hosts.IN_TREE)}


@contextlib.contextmanager
def started(environments: dict[str, hosts.Host], folder: Path) -> Iterator[list[Arm]]:
    """All arms with their workers, ready for orders; stopped at the end.

    environments: by name of arm; folder: for their files.
    """
    for library, package in (("library", "bench"), ("unplugged", "dirac_perfpatch")):
        (folder / library).mkdir()
        (folder / library / package).symlink_to(CHECKOUT / package)
    found: list[Arm] = []
    try:
        for name, host in environments.items():
            found.append(Arm(name, host, folder))
        for arm in found:
            arm.wait()
        yield found
    finally:
        for arm in found:
            arm.stop()
