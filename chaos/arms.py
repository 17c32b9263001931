"""One arm of the chaos suite: a host, a MariaDB server of its own, and processes that use DIRAC's `MySQL` class."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from lab import processes
from lab.hosts import Host
from lab.mariadb import MariaDB

from . import driver

# How a driver knows a database: host, port, user, password and name. Plain data, as it goes through JSON.
Account = dict[str, Any]
Result = TypeVar("Result")

ANSWER_SECONDS = 120.0
PATCHES = ("connection_checkout", "connection_eviction", "connection_close")


class Driver:
    """A process in the host's Python that does what it is told; a context manager that ends it.

    command, env: as for processes.start(); log: its stderr, and DIRAC's log.
    """

    def __init__(self, command: list[str], log: Path, env: dict[str, str]) -> None:
        self.log = log
        self._process = processes.start(command, log, env, talk=True)
        try:
            self._read(60)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def call(self, function: Callable[..., Any], *arguments: Any, timeout: float = ANSWER_SECONDS) -> Any:
        """Call a function of this package in the driver's process and wait for what it returns.

        function: any function at the top of a module that the host's Python can import; arguments: plain data;
        timeout: seconds.
        Errors: RuntimeError with the traceback when it raises there; TimeoutError or RuntimeError when no answer comes:
        the process is of no more use then.
        """
        stdin = self._process.stdin
        assert stdin
        stdin.write(json.dumps([function.__module__, function.__qualname__, arguments]).encode() + b"\n")
        stdin.flush()
        answer = self._read(timeout)
        if "error" in answer:
            raise RuntimeError(f"{function.__qualname__}: {answer['error']}")
        return answer["value"]

    def stop(self) -> None:
        """End the process and what it has forked."""
        processes.kill(self._process)

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _read(self, timeout: float) -> Any:
        stdout = self._process.stdout
        assert stdout
        # One answer per order, so nothing is left in the buffer that select() would not see.
        if not select.select([stdout], [], [], timeout)[0]:
            raise TimeoutError(f"no answer within {timeout:.0f} s:\n{self._tail()}")
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"the driver ended with {self._process.wait()}:\n{self._tail()}")
        return json.loads(line)

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


class Arm:
    """One arm with everything that belongs to it.

    name: as in the table, and of its folder; host: the environment; plugin: whether it is on; folder: for all arms,
    with a subfolder `library` that holds the packages `chaos` and `lab` and nothing else, so that the plugin's checkout
    is never importable, and an initialised MariaDB `data` folder.
    """

    def __init__(self, name: str, host: Host, plugin: bool, folder: Path) -> None:
        self.name = name
        self.host = host
        self.plugin = plugin
        self.folder = folder / name
        self._common = folder
        self.server = MariaDB(self.folder / "mariadb")
        self._numbers = itertools.count(1)
        self._driver: Driver | None = None

    def start(self) -> None:
        """Start the server and the driver. Errors: RuntimeError when one does not come up or the plugin is not on."""
        # A copy: to initialise one takes seconds of the processor's time.
        shutil.copytree(self._common / "data", self.server.folder / "data")
        self.server.start()
        states = self.driver.call(driver.plugin_states)
        on = [name for name in PATCHES if states.get(name) == "applied"]
        if on != list(PATCHES if self.plugin else ()):
            raise RuntimeError(f"{self.name}: the plugin's patches are {states}")

    def stop(self) -> None:
        """Stop everything of this arm."""
        if self._driver:
            self._driver.stop()
            self._driver = None
        self.server.kill()

    @property
    def driver(self) -> Driver:
        """The arm's driver, which serves most scenarios; started anew after reset()."""
        if self._driver is None:
            self._driver = self.new_driver()
        return self._driver

    def new_driver(self, *, toggles: str = "", env: dict[str, str] | None = None) -> Driver:
        """Start a driver of its own for a scenario.

        toggles: the text of a patches.yaml; empty means the plugin's defaults; env: its whole environment.
        Errors: RuntimeError when it does not come up.
        """
        number = next(self._numbers)
        env = dict(env or self._environment())
        if toggles:
            path = self.folder / f"patches-{number}.yaml"
            path.write_text(toggles)
            env["DIRAC_PERFPATCH_CONFIG"] = str(path)
        # -P: the current folder, perhaps the plugin's checkout, must not be importable.
        command = [str(self.host.python), "-P", "-m", "chaos.driver"]
        return Driver(command, self.folder / f"driver-{number}.log", env)

    def reset(self) -> None:
        """Give up the driver after it failed; the next scenario gets another one."""
        if self._driver:
            self._driver.stop()
            self._driver = None

    @contextlib.contextmanager
    def account(self, **changes: Any) -> Iterator[Account]:
        """A user and a database of its own, and so a connection pool of its own: DIRAC has one pool per account.

        changes: to the account, such as another port. The database has a table `rows_of (n INT)` without any key, so
        that what is written twice is there twice. The user has no rights beyond it: one who has some gets in where the
        server is full. At the end the user's connections are killed, and both are dropped.
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

    def plugin_environment(self) -> dict[str, str]:
        """What makes a process of the host one of this arm: the plugin on or off, and our packages."""
        return {
            "DIRAC_PERFPATCH": "on" if self.plugin else "off",
            "PYTHONPATH": str(self._common / "library"),
            # Our packages are the checkout's: nothing is written there.
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _environment(self) -> dict[str, str]:
        keep = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR", "PATH") if name in os.environ}
        return {
            **keep,
            **self.plugin_environment(),
            # No configuration of whoever runs this: none is needed, and his own must not be found.
            "DIRAC_ROOT_PATH": str(self.folder),
            "DIRACSYSCONFIG": str(self.folder / "dirac.cfg"),
            "PYTHONUNBUFFERED": "1",
        }


class Arms(list[Arm]):
    """The arms in the order of the table."""

    def in_turn(self, action: Callable[[Arm], Result]) -> dict[str, Result]:
        """Do it in one arm after the other, where it is the processor's time that counts.

        Returns: what it returned, by the arm's name. Errors: those of the action, the first one.
        """
        return {arm.name: action(arm) for arm in self}

    def together(self, action: Callable[[Arm], Result]) -> dict[str, Result]:
        """Do it in all arms at once, where most of the time is spent waiting. Returns and errors: as in_turn()."""
        with ThreadPoolExecutor(len(self)) as pool:
            return dict(zip((arm.name for arm in self), pool.map(action, self)))
