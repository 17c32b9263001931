"""The arms: DIRAC without and with the plugin, each without and with the changes in-tree, with a worker process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lab import inside
from lab.arms import PLUGGED, Arms
from lab.folder import library
from lab.hosts import Host
from lab.mariadb import MariaDB
from lab.worker import Worker

from . import prepared


class Arm:
    """One arm.

    name: as in the table; host: the environment; folder: for all arms; modules: a folder from which its workers can
    import, too. Where the plugin is not installed, its package is in that folder, but without an entry point, so the
    host never loads it.
    """

    def __init__(self, name: str, host: Host, folder: Path, modules: Path) -> None:
        self.name = name
        self.host = host
        # As an administrator's: a process started with it knows nothing of the benchmark.
        self.env = host.process_env(folder)
        self._worker_env = host.process_env(folder, modules)
        self._log = folder / f"{name}.log"
        self.worker = self._new_worker()

    def ask_anew(self, function: Callable[[], Any]) -> Any:
        """Call a function in a new worker, which has not loaded DIRAC. Errors: as for Worker.call()."""
        with self._new_worker() as worker:
            return worker.call(function)

    def prepare(self, case: str, size: int, database: MariaDB) -> int:
        """Prepare a call in the worker. Returns: how many calls make one repetition.

        Errors: RuntimeError if its patch is on in an arm without the plugin, or not on in one with it.
        """
        account = [database.host, database.port, database.user, database.password, "bench"]
        on, calls = self.worker.call(prepared.prepare, case, size, account)
        if on != (self.name in PLUGGED):
            raise RuntimeError(f"{self.name}: the patch for {case} is {'on' if on else 'not on'}")
        return int(calls)

    def _new_worker(self) -> Worker:
        return Worker(self.host.python, self._log, self._worker_env)


@contextlib.contextmanager
def started(environments: dict[str, Host], folder: Path) -> Iterator[Arms[Arm]]:
    """Start all arms with their workers; stop them at the end.

    environments: by name of arm; folder: for their files.
    """
    plugged = library(folder / "plugged", "lab", "bench")
    unplugged = library(folder / "unplugged", "lab", "bench", "dirac_perfpatch")
    with contextlib.ExitStack() as stack:
        arms = Arms(
            Arm(name, host, folder, plugged if name in PLUGGED else unplugged) for name, host in environments.items()
        )
        for arm in arms:
            stack.enter_context(arm.worker)
        arms.together(lambda arm: arm.worker.call(inside.load))
        yield arms
