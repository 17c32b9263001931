"""A MariaDB server of our own: its own data folder, loopback port and socket, run as the current user."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from . import processes
from .folder import make

# Nothing waits for the disk: that would hide the client's own cost. What was committed survives kill() all the same, as
# it is in the kernel's hands by then; only a crash of the whole machine loses it.
FAST = [
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-flush-method=nosync",
    "--innodb-doublewrite=0",
    "--skip-log-bin",
    "--performance-schema=OFF",
]


class MariaDB:
    """One server. A context manager: started on entry, stopped on exit.

    folder: holds the data and the log; an existing one is used again.
    """

    host = "127.0.0.1"
    user = "dirac"
    password = "password"

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = Path(folder)
        self.port = port or processes.free_port()
        self.log = self.folder / "mariadb.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._own_connections = 0
        # A socket's path may have 107 characters, which a deep data folder exceeds.
        self._short = make("lab-mariadb-")
        self.socket = self._short / "socket"

    def start(self, timeout: float = 60.0) -> MariaDB:
        """Start the server and wait until it answers.

        timeout: seconds. Errors: RuntimeError with the end of its log when it does not come up.
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
        """Stop the server in order; nothing happens when it is not running."""
        if self._process:
            processes.stop([self._process], grace=30)
            self._process = None

    def kill(self) -> None:
        """End the server at once, as a crash would. start() brings it back with the same data and port."""
        if self._process:
            processes.kill(self._process)
            self._process = None

    def restart(self) -> None:
        """Stop and start: the same port and data, but every connection is gone."""
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
        """Run SQL as root through the command line client, on a connection of its own.

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

    def status(self, name: str) -> int:
        """One of the server's counters (SHOW GLOBAL STATUS). Errors: LookupError when it has no such counter."""
        rows = self.execute(f"SHOW GLOBAL STATUS LIKE '{name}'")
        if not rows:
            raise LookupError(name)
        return int(rows[0][1])

    def pings(self) -> int:
        """How many COM_PING requests the server has answered since it started.

        MariaDB has no Com_ping: it counts them in Com_admin_commands (seen on 10.11: 100 pings add exactly 100;
        connect, queries, select_db and quit add none). COM_CHANGE_USER and COM_DEBUG count there too, but DIRAC sends
        neither.
        """
        return self.status("Com_admin_commands")

    def connections(self) -> int:
        """How many connections others than execute() have opened; for differences while the server runs on."""
        return self.status("Connections") - self._own_connections

    def _install(self, data: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db", *self._user(), *FAST]
        command += self._own_tmpdir()
        command.append("--auth-root-authentication-method=normal")
        # A script that starts the server: in a group of its own, so that both end when we are told to.
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
        ]

    def _own_tmpdir(self) -> list[str]:
        # A server that starts removes what it takes for its own leftovers in this folder: not those of another one.
        return [f"--tmpdir={self._short}"]

    @staticmethod
    def _user() -> list[str]:
        # mariadbd refuses to run as root unless it is told so.
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
    # Debian puts it into an sbin folder, which a user's PATH may lack.
    path = shutil.which("mariadbd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if not path:
        raise RuntimeError("mariadbd is not installed: run `python3 -m lab.machine` as root")
    return path
