"""The arms: stock, patched and in-tree DIRAC, each an environment of its own, and a worker process in each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lab import inside
from lab.arms import PATCHED, Arms
from lab.folder import library
from lab.hosts import Host
from lab.mariadb import MariaDB
from lab.worker import Worker

from . import prepared


class Arm:
    """One arm.

    name: as in the table; host: the environment; folder: for all arms; modules: what its workers can import besides.
    Where the plugin is not installed, its package is among them, but no entry point leads to it, so it is never loaded.
    """

    def __init__(self, name: str, host: Host, folder: Path, modules: Path) -> None:
        self.name = name
        self.host = host
        # As an administrator's: a process that is started with it knows nothing of us.
        self.env = host.process_env(folder)
        self._worker_env = host.process_env(folder, modules)
        self._log = folder / f"{name}.log"
        self.worker = self._new_worker()

    def ask_anew(self, function: Callable[[], Any]) -> Any:
        """Call a function in a worker of its own, which has not loaded DIRAC. Errors: as for Worker.call()."""
        with self._new_worker() as worker:
            return worker.call(function)

    def prepare(self, case: str, size: int, database: MariaDB) -> int:
        """Have a call prepared. Returns: how many calls make one repetition.

        Errors: RuntimeError when the plugin's patch of it is not as this arm wants it.
        """
        account = [database.host, database.port, database.user, database.password, "bench"]
        on = self.worker.call(prepared.prepare, case, size, account)
        if on != (self.name == PATCHED):
            raise RuntimeError(f"{self.name}: the patch for {case} is {'on' if on else 'not on'}")
        return int(self.worker.call(prepared.warm))

    def _new_worker(self) -> Worker:
        return Worker(self.host.python, self._log, self._worker_env)


@contextlib.contextmanager
def started(environments: dict[str, Host], folder: Path) -> Iterator[Arms[Arm]]:
    """All arms with their workers, ready for orders; stopped at the end.

    environments: by name of arm; folder: for their files.
    """
    plugged = library(folder / "plugged", "lab", "bench")
    unplugged = library(folder / "unplugged", "lab", "bench", "dirac_perfpatch")
    with contextlib.ExitStack() as stack:
        arms = Arms(
            Arm(name, host, folder, plugged if name == PATCHED else unplugged) for name, host in environments.items()
        )
        for arm in arms:
            stack.enter_context(arm.worker)
        arms.together(lambda arm: arm.worker.call(inside.load))
        yield arms
