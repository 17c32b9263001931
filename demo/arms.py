"""One arm of the demo: a real installation, its services with the probe installed, and its two clients."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

from dirac_perfpatch.patches import AT_IMPORT, CATALOGUE
from lab import inside, installation
from lab.hosts import Host
from lab.mariadb import MariaDB
from lab.worker import Worker

from . import clients, probe

SERVICES = (*installation.SERVICES, "WorkloadManagement/PilotManager")
ROLES = ("user", "agent")
SITES = 120
# What is timed: every target except the host's private ones, whose callers are timed, and imports.
_TIMED = [patch for patch in CATALOGUE if patch.name not in AT_IMPORT]
TARGETS = [(t.modules, t.attribute) for patch in _TIMED for t in patch.targets if "__" not in t.attribute]


class Arm:
    """One installation with everything that belongs to it.

    name: as in the table; host: the environment; folder: for all files of this arm; library: a folder from which its
    processes can import, too; env: more environment variables for them.
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
        self.installation = installation.Installation(
            host,
            database,
            folder,
            library,
            env=env,
            services=SERVICES,
            prefix="".join(letter if letter.isalnum() else "_" for letter in name) + "_",
            sites=SITES,
        )
        self._clients: dict[str, Worker] = {}

    def start(self) -> None:
        """Start the services, then the clients. Errors: RuntimeError if one does not come up."""
        self.installation.start()
        for service in SERVICES:
            self.installation.call(service, probe.install_in_service, TARGETS)
        for role in ROLES:
            client = self._clients[role] = self.installation.client(admin=role == "agent")
            client.call(probe.expect, TARGETS)

    def pause(self) -> None:
        """Halt every process of this arm, so that the other arm has the machine and the database to itself."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue after pause(); does nothing if the arm is not halted."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop every process of this arm, halted or not."""
        self.resume()
        for client in self._clients.values():
            client.kill()
        self._clients.clear()
        self.installation.stop()

    def ask(self, role: str, *order: Any) -> Any:
        """Give a client an order and wait for its answer: see clients.do(). Errors: as for Worker.call()."""
        return self._clients[role].call(clients.do, role, *order)

    def insert_pending_records(self, timeout: float = 30.0) -> None:
        """Make the DataStore insert the pending records, and wait until it has.

        timeout: seconds. Errors: RuntimeError if records are still pending then.
        """
        self.installation.call("Accounting/DataStore", inside.insert_pending_records)
        deadline = time.monotonic() + timeout
        while self._waiting_records():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: accounting records are still waiting after {timeout:.0f} s")
            time.sleep(0.1)

    def counts(self) -> dict[str, dict[str, Any]]:
        """The counts of every process of this arm so far, by service or client role: see probe.counts()."""
        return {name: worker.call(probe.counts) for name, worker in self._workers.items()}

    @property
    def _workers(self) -> dict[str, Worker]:
        return {**self._clients, **self.installation.running}

    def _signal(self, number: int) -> None:
        for worker in self._workers.values():
            worker.process.send_signal(number)

    def _waiting_records(self) -> bool:
        return self.installation.rows("Accounting/AccountingDB", "SELECT COUNT(*) FROM ac_in_Job") != [["0"]]
