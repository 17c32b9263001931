"""A separate MariaDB server: its own data folder, loopback port and socket, run as the current user."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from . import processes
from .folder import make

# Nothing waits for the disk, which would hide the client's own cost. Committed data still survives kill(), as the
# kernel has it by then; only a crash of the whole machine loses it.
FAST = [
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-flush-method=nosync",
    "--innodb-doublewrite=0",
    "--skip-log-bin",
    "--performance-schema=OFF",
]


class MariaDB:
    """One server. A context manager: started on entry, stopped on exit.

    folder: holds the data and the log; an existing one is reused; options: additional ones for the server.
    """

    host = "127.0.0.1"
    user = "dirac"
    password = "password"

    def __init__(self, folder: Path, port: int | None = None, options: Sequence[str] = ()) -> None:
        self.folder = Path(folder)
        self._options = options
        self.port = port or processes.free_port()
        self.log = self.folder / "mariadb.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._own_connections = 0
        # A socket's path may have at most 107 characters, which a deep data folder exceeds.
        self._short = make("lab-mariadb-")
        self.socket = self._short / "socket"

    def start(self, timeout: float = 60.0) -> MariaDB:
        """Start the server and wait until it answers.

        timeout: seconds. Errors: RuntimeError with the end of its log if it does not come up.
        """
        data = self.folder / "data"
        if not (data / "mysql").is_dir():
            self._install(data)
        self._process = processes.start(self._command(data), self.log)
        self._wait(timeout)
        # From any loopback address: a client that says "localhost" may come from ::1.
        self.execute(
            f"CREATE USER IF NOT EXISTS '{self.user}'@'%' IDENTIFIED BY '{self.password}';"
            f"GRANT ALL PRIVILEGES ON *.* TO '{self.user}'@'%'"
        )
        return self

    def stop(self) -> None:
        """Shut the server down cleanly; does nothing if it is not running."""
        if self._process:
            processes.stop([self._process], grace=30)
            self._process = None

    def kill(self) -> None:
        """End the server at once, as a crash would. start() brings it back with the same data and port."""
        if self._process:
            processes.kill(self._process)
            self._process = None

    def restart(self) -> None:
        """Stop and start it: port and data stay the same, but every connection is gone."""
        self.stop()
        self.start()

    def __enter__(self) -> MariaDB:
        try:
            return self.start()
        except BaseException:
            self.kill()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    def execute(self, sql: str, database: str = "") -> list[list[str]]:
        """Run SQL as root through the command line client, on a new connection.

        sql: one or more statements; database: the one to use. Returns: the rows, each a list of strings ("NULL" for
        NULL). Errors: RuntimeError with the server's message.
        """
        command = [
            "mariadb",
            "--no-defaults",
            f"--socket={self.socket}",
            "--user=root",
            "--batch",
            "--skip-column-names",
        ]
        self._own_connections += 1
        answer = subprocess.run(
            command + ([database] if database else []), input=sql.encode(), capture_output=True, check=False
        )
        if answer.returncode:
            raise RuntimeError(answer.stderr.decode().strip())
        return [line.split("\t") for line in answer.stdout.decode().splitlines()]

    def kill_idle(self, user: str) -> None:
        """Kill the connections of a user that wait for a statement, as a timeout or a proxy does."""
        where = f"user = '{user}' AND command = 'Sleep'"
        for (number,) in self.execute(f"SELECT id FROM information_schema.processlist WHERE {where}"):
            try:
                self.execute(f"KILL {number}")
            except RuntimeError as error:
                if "Unknown thread id" not in str(error):  # it has ended meanwhile
                    raise

    def status(self, name: str) -> int:
        """One of the server's counters (SHOW GLOBAL STATUS). Errors: LookupError if it has no such counter."""
        rows = self.execute(f"SHOW GLOBAL STATUS LIKE '{name}'")
        if not rows:
            raise LookupError(name)
        return int(rows[0][1])

    def pings(self) -> int:
        """The number of COM_PING requests that the server has answered since it started.

        MariaDB has no Com_ping: it counts them in Com_admin_commands (seen on 10.11: 100 pings add exactly 100;
        connect, queries, select_db and quit add none). COM_CHANGE_USER and COM_DEBUG also count there, but DIRAC sends
        neither.
        """
        return self.status("Com_admin_commands")

    def connections(self) -> int:
        """The number of connections not opened by execute(). Only differences between two calls mean anything."""
        return self.status("Connections") - self._own_connections

    def _install(self, data: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db", *self._user(), *FAST]
        command += self._own_tmpdir()
        command.append("--auth-root-authentication-method=normal")
        # This script starts the server: a process group of its own lets us end both.
        if processes.start(command, self.log).wait():
            raise RuntimeError(f"mariadb-install-db failed:\n{self._tail()}")

    def _command(self, data: Path) -> list[str]:
        return [
            _server_program(),
            "--no-defaults",
            f"--datadir={data}",
            f"--socket={self.socket}",
            f"--port={self.port}",
            f"--bind-address={self.host}",
            f"--pid-file={self.folder / 'mariadb.pid'}",
            *self._own_tmpdir(),
            "--skip-name-resolve",
            "--max-connections=500",
            *self._user(),
            *FAST,
            *self._options,
        ]

    def _own_tmpdir(self) -> list[str]:
        # A starting server removes what it takes for its own leftovers in this folder, so it must not be shared.
        return [f"--tmpdir={self._short}"]

    @staticmethod
    def _user() -> list[str]:
        # mariadbd refuses to run as root unless told to.
        return ["--user=root"] if os.geteuid() == 0 else []

    def _wait(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.execute("SELECT 1")
                return
            except RuntimeError as error:
                dead = self._process is None or self._process.poll() is not None
                if dead or time.monotonic() > deadline:
                    raise RuntimeError(f"MariaDB did not start ({error}):\n{self._tail()}") from None
                time.sleep(0.05)

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]


def _server_program() -> str:
    # Debian puts it into an sbin folder, which may not be on a user's PATH.
    path = shutil.which("mariadbd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if not path:
        raise RuntimeError("mariadbd is not installed: run `python3 -m lab.machine` as root")
    return path
