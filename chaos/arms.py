"""One arm of the chaos suite: a host, its own MariaDB server, and processes that use DIRAC's `MySQL` class."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab import arms, inside
from lab.hosts import Host
from lab.mariadb import MariaDB
from lab.worker import Worker

from . import pool

# A database, as described to a worker: host, port, user, password and name. Plain data, as it goes through JSON.
Account = dict[str, Any]


class Arm:
    """One arm with everything that belongs to it.

    name: as in the table, and of its folder; host: the environment; plugin: whether it is on; folder: for all arms,
    with an initialised MariaDB `data` folder; library: a folder from which its processes can import, too.
    """

    def __init__(self, name: str, host: Host, plugin: bool, folder: Path, library: Path) -> None:
        self.name = name
        self.host = host
        self.library = library
        self.folder = folder / name
        # Makes a process of the host one of this arm.
        self.env = {"DIRAC_PERFPATCH": "on" if plugin else "off"}
        self._plugin = plugin
        self._data = folder / "data"
        self.server = MariaDB(self.folder / "mariadb")
        self._numbers = itertools.count(1)
        self._worker: Worker | None = None

    def start(self) -> None:
        """Start the server and the worker. Errors: RuntimeError if one fails, or the plugin is not as wanted."""
        # A copy, because initialising one takes seconds of CPU time.
        shutil.copytree(self._data, self.server.folder / "data")
        self.server.start()
        states = self.states()
        if (set(states.values()) == {"applied"}) != self._plugin:
            raise RuntimeError(f"{self.name}: the plugin's patches are {states}")

    def states(self) -> dict[str, str]:
        """The state of each of the plugin's patches of the pool, as the worker sees it; none without the plugin."""
        return {
            entry["name"]: entry["state"]
            for entry in self.worker.call(inside.plugin_status)
            if any(target["module"] == "DIRAC.Core.Utilities.MySQL" for target in entry["targets"])
        }

    def stop(self) -> None:
        """Stop everything of this arm."""
        self.reset()
        self.server.kill()

    @property
    def worker(self) -> Worker:
        """The arm's worker, used by most scenarios; a new one after reset()."""
        if self._worker is None:
            self._worker = self.new_worker()
        return self._worker

    def new_worker(self, toggles: str = "") -> Worker:
        """Start a worker: a process with a real DIRAC in it.

        toggles: the text of a patches.yaml; empty for the plugin's defaults. Errors: RuntimeError if it does not come
        up.
        """
        number = next(self._numbers)
        env = self.host.process_env(self.folder, self.library, **self.env)
        if toggles:
            path = self.folder / f"patches-{number}.yaml"
            path.write_text(toggles)
            env["DIRAC_PERFPATCH_CONFIG"] = str(path)
        worker = Worker(self.host.python, self.folder / f"worker-{number}.log", env)
        worker.call(pool.load)
        return worker

    def reset(self) -> None:
        """Discard the worker after a failure; the next scenario gets a new one."""
        if self._worker:
            self._worker.kill()
            self._worker = None

    @contextlib.contextmanager
    def account(self, **changes: Any) -> Iterator[Account]:
        """A new user and database, and so a new connection pool: DIRAC has one pool per account.

        changes: to the account, such as another port. The database has a table `rows_of (n INT)` without any key, so
        that what is written twice is there twice. The user has no rights elsewhere: with some, it could connect to a
        full server. At the end the user's connections are killed, and user and database are dropped.
        """
        name = f"chaos{next(self._numbers)}"
        self.server.execute(
            f"CREATE USER '{name}'@'%' IDENTIFIED BY '{self.server.password}'; GRANT ALL ON {name}.* TO '{name}'@'%';"
            f"CREATE DATABASE {name}; CREATE TABLE {name}.rows_of (n INT)"
        )
        account = {
            "host": self.server.host,
            "port": self.server.port,
            "user": name,
            "password": self.server.password,
            "database": name,
        }
        try:
            yield {**account, **changes}
        finally:
            self.server.execute(f"KILL HARD USER '{name}'; DROP USER '{name}'@'%'; DROP DATABASE {name}")


Arms = arms.Arms[Arm]
