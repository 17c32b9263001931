"""A whole DIRAC installation: certificates, configuration, databases, and services as separate processes."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import certificates, clients, configuration, processes
from .hosts import Host
from .mariadb import MariaDB
from .worker import Worker

SERVICES = ("Configuration/Server", "DataManagement/FileCatalog", "Accounting/DataStore")
CA_HASH = "b236481c"  # openssl's subject hash of the test CA in DIRAC's wheel


class Installation:
    """DIRAC services of one host on one MariaDB. A context manager: started on entry, stopped on exit.

    host: the environment whose `dirac-service` is run.
    database: a running server; it may hold the databases of several installations.
    folder: certificates, configuration and logs; an existing one is replaced.
    library: a folder on the path of services and clients, with `lab` and everything else that they are to run.
    env: more environment variables, for services and clients alike.
    prefix: of this installation's database names.
    sites: the number of sites (with two SEs each) in the configuration; users: the number besides the test user.
    key_bits: of the certificates' keys; 0 for the certificates in the host's own wheel, of 4096 bits.
    options: more options of services, by service.
    database_port: on which the services reach the database, such as a proxy's; by default its own.
    """

    def __init__(
        self,
        host: Host,
        database: MariaDB,
        folder: Path,
        library: Path,
        *,
        env: dict[str, str] | None = None,
        services: Sequence[str] = SERVICES,
        prefix: str = "",
        sites: int = 20,
        users: int = 5,
        key_bits: int = 0,
        options: Mapping[str, Mapping[str, str]] | None = None,
        database_port: int = 0,
    ) -> None:
        self.host = host
        self.database = database
        self.folder = Path(folder).resolve()
        self.library = library
        self.env = dict(env or {})
        self.services = list(services)
        self._key_bits = key_bits
        self.database_names = {
            name: prefix + name.split("/")[1] for service in services for name in configuration.DATABASES[service]
        }
        self.running: dict[str, Worker] = {}
        self._clients = itertools.count(1)
        self._kept: dict[bool, Worker] = {}  # by whether it is the administrator's
        self.layout = configuration.Layout(
            ports={service: processes.free_port() for service in services},
            database_names=self.database_names,
            database_host=database.host,
            database_port=database_port or database.port,
            database_user=database.user,
            database_password=database.password,
            certificates=self.folder / "certificates",
            levels=host.release.startswith("8."),
            sites=sites,
            users=users,
            options=options or {},
        )

    def url(self, service: str) -> str:
        """The service's URL, dips or https."""
        return self.layout.url(service)

    def log(self, service: str) -> Path:
        """The file with a service's output."""
        return self.folder / "log" / (service.replace("/", "_") + ".log")

    @property
    def proxy(self) -> Path:
        """The test user's proxy, in the group configuration.GROUP."""
        return self.folder / "proxy.pem"

    def start(self, timeout: float = 90.0) -> Installation:
        """Write the files, create the databases, start the services and wait until each answers a ping.

        timeout: seconds, once for the first service and once for the others.
        Errors: RuntimeError with the end of the log of a service that does not answer.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "log").mkdir(parents=True)
        self._write_certificates()
        self._write_configuration()
        self._create_databases()
        first, *others = self.services
        self._start_service(first)
        self.make_proxy(self.proxy)
        # The others read their configuration from the first when they start.
        self._wait_for_listening(first, time.monotonic() + timeout)
        for service in others:
            self._start_service(service)
        self._wait_until_they_answer(time.monotonic() + timeout)
        return self

    def call(self, service: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in a service's process while it serves. Arguments, return and errors: as Worker.call()."""
        return self.running[service].call(function, *arguments)

    def stop(self) -> None:
        """Stop every service, and the clients of ask()."""
        for client in self._kept.values():
            client.kill()
        self._kept.clear()
        processes.stop([worker.process for worker in self.running.values()])
        self.running.clear()

    def __enter__(self) -> Installation:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    def client(self, *, admin: bool = False) -> Worker:
        """Start a client of this installation, which runs until its `with` block ends.

        admin: with the host certificate instead of the user's proxy.
        """
        env = self._environment("server") if admin else self._environment("client", X509_USER_PROXY=str(self.proxy))
        return Worker(self.host.python, self.log(f"client-{next(self._clients)}"), env)

    def run(self, function: Callable[..., Any], *arguments: Any, admin: bool = False, timeout: float = 300.0) -> Any:
        """Call a function in a new client. Arguments, return and errors: as client() and Worker.call()."""
        with self.client(admin=admin) as client:
            return client.call(function, *arguments, timeout=timeout)

    def ask(self, function: Callable[..., Any], *arguments: Any, admin: bool = False) -> Any:
        """Call a function in a client that goes on until stop(), as an agent's does: it starts once, which takes long.

        Arguments, return and errors: as run().
        """
        if admin not in self._kept:
            self._kept[admin] = self.client(admin=admin)
        return self._kept[admin].call(function, *arguments)

    def make_proxy(self, path: Path, group: str = configuration.GROUP) -> None:
        """Make a proxy of the test user with the host's own code. Errors: RuntimeError if that fails."""
        user = [str(self.folder / "certificates" / name) for name in ("usercert.pem", "userkey.pem")]
        self.run(clients.make_proxy, *user, group, str(path), admin=True)

    def set_options(self, options: dict[str, str]) -> None:
        """Change the published configuration through the Configuration server, as an administrator does.

        options: {"/Section/Option": value}. The services see it at their next refresh.
        Errors: RuntimeError with the server's message.
        """
        self.ask(clients.set_options, options, admin=True)

    def rows(self, database: str, sql: str) -> list[list[str]]:
        """Run SQL in one of this installation's databases ("Accounting/AccountingDB")."""
        return self.database.execute(sql, self.database_names[database])

    def _environment(self, role: str, **more: str) -> dict[str, str]:
        certificates = str(self.folder / "certificates" / "ca")
        variables = {"X509_CERT_DIR": certificates, **more, **self.env}
        return self.host.process_env(self.folder / role, self.library, **variables)

    def _write_certificates(self) -> None:
        """Copy the test certificates out of the host's own wheel, or make some, with the modes that DIRAC requires."""
        source = self.host.site_packages / "DIRAC" / "Core" / "Security" / "test" / "certs"
        target = self.folder / "certificates"
        authority = target / "ca" / f"{CA_HASH}.0"
        authority.parent.mkdir(parents=True)
        if self._key_bits:
            self.run(certificates.make, str(target), str(authority), self._key_bits, admin=True)
            return
        shutil.copyfile(source / "ca" / "ca.cert.pem", authority)
        for name, mode in (("hostcert.pem", 0o644), ("hostkey.pem", 0o400)):
            shutil.copyfile(source / "host" / name, target / name)
            (target / name).chmod(mode)
        for name, mode in (("usercert.pem", 0o644), ("userkey.pem", 0o400)):
            shutil.copyfile(source / "user" / name, target / name)
            (target / name).chmod(mode)

    def _write_configuration(self) -> None:
        for role, tree in (
            ("server", configuration.server_file(self.layout)),
            ("client", configuration.client_file(self.layout)),
        ):
            folder = self.folder / role / "etc"
            folder.mkdir(parents=True)
            (folder / "dirac.cfg").write_text(configuration.text(tree))
        published = configuration.text(configuration.published(self.layout))
        (self.folder / "server" / "etc" / f"{configuration.NAME}.cfg").write_text(published)

    def _create_databases(self) -> None:
        for full_name, name in self.database_names.items():
            system, short = full_name.split("/")
            sql = (self.host.site_packages / "DIRAC" / f"{system}System" / "DB" / f"{short}.sql").read_text()
            # DIRAC's files select their database by name; ours may have another name.
            lines = [line for line in sql.splitlines() if line.strip().lower() != f"use {short.lower()};"]
            self.database.execute(f"DROP DATABASE IF EXISTS `{name}`; CREATE DATABASE `{name}`")
            self.database.execute("\n".join(lines), name)

    def _start_service(self, service: str) -> None:
        self.running[service] = Worker(self.host.python, self.log(service), self._environment("server"), service)

    def _wait_until_they_answer(self, deadline: float) -> None:
        for service in self.services:
            self._wait_for_listening(service, deadline)
        while True:
            try:
                # A port that accepts connections is not a service that answers: ask as a client does.
                self.run(clients.ping, *map(self.url, self.services), admin=True, timeout=60)
                return
            except RuntimeError as error:
                for service in self.services:
                    self._check(service, deadline, str(error))
            time.sleep(0.2)

    def _wait_for_listening(self, service: str, deadline: float) -> None:
        port = self.layout.ports[service]
        wanted = f"Listening on port {port}" if configuration.is_https(service) else f"Listening at {self.url(service)}"
        while wanted not in self.log(service).read_text(errors="replace"):
            self._check(service, deadline, "does not listen")
            time.sleep(0.05)

    def _check(self, service: str, deadline: float, problem: str) -> None:
        ended = self.running[service].process.poll()
        if ended is None and time.monotonic() < deadline:
            return
        reason = problem if ended is None else f"ended with {ended}"
        raise RuntimeError(f"{service} ({self.host.release}): {reason}\n{self.running[service].log_end()}")
