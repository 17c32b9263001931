"""The four sides: two releases, each without and with the plugin, and the installations of each."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lab import hosts, inside
from lab.arms import Arms
from lab.folder import CHECKOUT
from lab.hosts import Host
from lab.installation import Installation
from lab.mariadb import MariaDB
from lab.worker import Worker

from . import crew

# As in a DataStore beside another one: what is committed waits in the database. Otherwise each minute the service
# inserted, in the middle of another request's time, what was committed in the minute before.
OPTIONS = {crew.DATA_STORE: {"RunBucketing": "no"}}
# By name, in table order: the release, and whether the plugin is on.
SIDES = {
    "stock 9.1.8": (hosts.COMPARED, False),
    "9.1.8 + plugin": (hosts.COMPARED, True),
    "stock 9.1.22": (hosts.IN_TREE, False),
    "9.1.22 + plugin": (hosts.IN_TREE, True),
}
STOCK, PATCHED, IN_TREE, BOTH = SIDES


class Side:
    """One side with its services and its clients.

    name: as in SIDES; host: its environment; others: as for an Installation.
    """

    def __init__(self, name: str, host: Host, database: MariaDB, folder: Path, library: Path, **more: Any) -> None:
        self.name = name
        self._plugin = SIDES[name][1]
        self.installation = Installation(host, database, folder, library, options=OPTIONS, **more)
        self._crew: Worker | None = None

    def start(self) -> None:
        """Start everything. Errors: RuntimeError if something does not start, or the plugin is not as wanted."""
        self.installation.start()
        self._crew = self.installation.client()
        services = self.installation.services
        self._crew.call(crew.prepare, {service: self.installation.url(service) for service in services})
        if crew.DATA_STORE in services:
            self._insert_records()
        self._crew.call(crew.warm_up)
        for service in services:
            states = self.installation.call(service, inside.plugin_states)
            if bool(states) != self._plugin or {"failed", "tripped", "off"}.intersection(states.values()):
                raise RuntimeError(f"{self.name}, {service}: the plugin's patches are {states}")

    def measure(self, request: str, clients: int, seconds: float) -> dict[str, Any]:
        """Have clients make a request for some seconds. Returns: their results, and the service's CPU seconds."""
        assert self._crew
        service = crew.PROFILED[request]
        before = self.installation.call(service, inside.cpu_seconds)
        results = self._crew.call(crew.run, request, clients, seconds)
        # The first request of each client, before the others, also counts for the service.
        return {"clients": results, "server": self.installation.call(service, inside.cpu_seconds) - before}

    def _insert_records(self) -> None:
        """Have the DataStore insert what was committed, and wait for it. Errors: TimeoutError."""
        self.installation.call(crew.DATA_STORE, inside.insert_pending_records)
        deadline = time.monotonic() + 30
        while self.installation.rows("Accounting/AccountingDB", "SELECT COUNT(*) FROM ac_in_Job") != [["0"]]:
            if time.monotonic() > deadline:
                raise TimeoutError("the accounting's records are not inserted")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop everything."""
        if self._crew:
            self._crew.kill()
            self._crew = None
        self.installation.stop()


def environments(names: Sequence[str], patched: Path | None = None) -> dict[str, Host]:
    """The host of each side, by its name.

    names: as in SIDES; patched: the environment of PATCHED, which has the plugin; by default one that gets it now.
    Errors: as for hosts.environment() and install_plugin().
    """
    found = {}
    for name in names:
        release, plugin = SIDES[name]
        if name == PATCHED and patched:
            found[name] = Host(release, hosts.DEFAULT_PYTHON, patched.resolve())
            continue
        found[name] = hosts.environment(release, label="bench" if plugin else "stock")
        if plugin:
            hosts.install_plugin(found[name], CHECKOUT, "ab")
    return found


@contextlib.contextmanager
def started(
    environments: dict[str, Host],
    database: MariaDB,
    folder: Path,
    library: Path,
    services: Sequence[str],
    key_bits: int,
    port: int,
) -> Iterator[Arms[Side]]:
    """Start all sides; stop them at the end.

    environments: of environments(); folder: for their files; services: of each side; key_bits, port: of the
    certificates and to the database.
    """
    sides = Arms(
        Side(
            name,
            host,
            database,
            folder / str(number),
            library,
            services=services,
            prefix=f"{folder.name}_{number}_",
            key_bits=key_bits,
            database_port=port,
        )
        for number, (name, host) in enumerate(environments.items())
    )
    try:
        sides.together(Side.start)
        yield sides
    finally:
        sides.together(Side.stop)
