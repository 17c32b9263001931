"""One arm of the demo: a real installation, its services under the probe, and its two clients."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from lab import installation, processes
from lab.hosts import Host
from lab.mariadb import MariaDB

SERVICES = (*installation.SERVICES, "WorkloadManagement/PilotManager")
ROLES = ("user", "agent")
SITES = 120


class Arm:
    """One installation with everything that belongs to it.

    name: as in the table; host: the environment; folder: for all files of this arm; library: a folder that holds the
    packages `demo` and `lab` and nothing else, so that the plugin's checkout is never importable; env: more environment
    variables of its processes.
    """

    def __init__(
        self,
        name: str,
        host: Host,
        database: MariaDB,
        folder: Path,
        library: Path,
        env: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self._database = database
        self._folder = folder
        self._library = library
        self._counts_folder = folder / "counts"
        self.installation = installation.Installation(
            host,
            database,
            folder / "installation",
            env={"PYTHONPATH": str(library), "PERFPATCH_DEMO_COUNTS": str(self._counts_folder), **(env or {})},
            launcher=[str(host.python), str(library / "demo" / "probe.py")],
            services=SERVICES,
            prefix="".join(letter if letter.isalnum() else "_" for letter in name) + "_",
            sites=SITES,
        )
        self._drivers: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start the services, then the clients. Errors: RuntimeError when one does not come up."""
        self._counts_folder.mkdir(parents=True)
        self.installation.start()
        for role in ROLES:
            self._start_driver(role)
        for role in ROLES:
            self._answer(role)

    def pause(self) -> None:
        """Halt every process of this arm, so that the other arm has the machine and the database for itself."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after pause(); nothing happens when the arm is not halted."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop every process of this arm, halted or not."""
        self.resume()
        processes.stop(list(self._drivers.values()))
        self._drivers.clear()
        self.installation.stop()

    def ask(self, role: str, *order: Any) -> Any:
        """Give a client an order and wait for its answer. Errors: RuntimeError when it ends instead."""
        stdin = self._drivers[role].stdin
        assert stdin
        stdin.write(json.dumps(order).encode() + b"\n")
        stdin.flush()
        return self._answer(role)

    def insert_pending_records(self, timeout: float = 30.0) -> None:
        """Have the DataStore insert the records that wait, and wait until it has.

        timeout: seconds. Errors: RuntimeError when records still wait then.
        """
        os.kill(self.installation.processes["Accounting/DataStore"].pid, signal.SIGUSR2)
        deadline = time.monotonic() + timeout
        while self._waiting_records():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: accounting records are still waiting after {timeout:.0f} s")
            time.sleep(0.1)

    def counts(self) -> dict[str, dict[str, Any]]:
        """What every process of this arm has counted so far, by service or client role: see probe.counts()."""
        found = {role: self.ask(role, "counts") for role in ROLES}
        for service, process in self.installation.processes.items():
            path = self._counts_folder / f"{process.pid}.json"
            path.unlink(missing_ok=True)
            os.kill(process.pid, signal.SIGUSR1)
            found[service] = json.loads(self._read(path, process))
        return found

    def _start_driver(self, role: str) -> None:
        base = self.installation.client_env if role == "user" else self.installation.server_env
        script = self._library / "demo" / "driver.py"
        command = [str(self.installation.host.python), str(script), role]
        self._drivers[role] = processes.start(command, self._log(role), base, talk=True)

    def _answer(self, role: str) -> Any:
        stdout = self._drivers[role].stdout
        assert stdout
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: the {role} client ended:\n{self._log(role).read_text()[-3000:]}")
        return json.loads(line)

    def _log(self, role: str) -> Path:
        return self._folder / f"{role}.log"

    def _signal(self, number: int) -> None:
        for process in [*self._drivers.values(), *self.installation.processes.values()]:
            process.send_signal(number)

    def _waiting_records(self) -> bool:
        return self.installation.rows("Accounting/AccountingDB", "SELECT COUNT(*) FROM ac_in_Job") != [["0"]]

    def _read(self, path: Path, process: subprocess.Popen[bytes]) -> str:
        deadline = time.monotonic() + 20
        while not path.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: no counts from process {process.pid}")
            time.sleep(0.02)
        return path.read_text()
