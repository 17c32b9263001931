"""A whole DIRAC installation: certificates, configuration, databases, and services as processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from . import configuration, processes
from .hosts import Host
from .mariadb import MariaDB

SERVICES = ("Configuration/Server", "DataManagement/FileCatalog", "Accounting/DataStore")
CA_HASH = "b236481c"  # openssl's subject hash of the test CA in DIRAC's wheel

# A port that accepts connections is not a service that answers: ask as a client does.
_PING = """
import sys
import DIRAC
DIRAC.initialize()
from DIRAC.Core.Base.Client import Client
for url in sys.argv[1:]:
    result = Client(url=url).ping(timeout=10)
    if not result["OK"]:
        sys.exit(url + ": " + result["Message"])
"""

# The ready-made proxy in the wheel has a 1024-bit key, which OpenSSL refuses today.
_MAKE_PROXY = """
import sys
from DIRAC.Core.Security.X509Chain import X509Chain
certificate, key, group, path = sys.argv[1:]
chain = X509Chain()
for result in (
    chain.loadChainFromFile(certificate),
    chain.loadKeyFromFile(key),
    chain.generateProxyToFile(path, 7 * 86400, diracGroup=group, strength=2048),
):
    if not result["OK"]:
        sys.exit(result["Message"])
"""

_SET_OPTIONS = """
import json, sys
import DIRAC
DIRAC.initialize()
from DIRAC.ConfigurationSystem.Client.CSAPI import CSAPI
api = CSAPI()
for path, value in json.loads(sys.argv[1]).items():
    result = api.setOption(path, value)
    if not result["OK"]:
        sys.exit(result["Message"])
result = api.commit()
sys.exit(0 if result["OK"] else result["Message"])
"""


class Installation:
    """DIRAC services of one host on one MariaDB. A context manager: started on entry, stopped on exit.

    host: the environment whose `dirac-service` is run.
    database: a running server; it may hold the databases of several installations.
    folder: certificates, configuration and logs; an existing one is replaced.
    env: more environment variables, for services and clients alike.
    launcher: replaces `python .../dirac-service` at the start of a service's command, e.g. [python, script]; what
        follows is the service's name, as for dirac-service.
    prefix: what this installation's database names begin with.
    sites: how many sites (with two SEs each) the configuration has; users: how many users beside the test user.
    """

    def __init__(
        self,
        host: Host,
        database: MariaDB,
        folder: Path,
        *,
        env: dict[str, str] | None = None,
        launcher: Sequence[str] | None = None,
        services: Sequence[str] = SERVICES,
        prefix: str = "",
        sites: int = 20,
        users: int = 5,
    ) -> None:
        self.host = host
        self.database = database
        self.folder = Path(folder).resolve()
        self.env = dict(env or {})
        self.launcher = list(launcher or [str(host.python), str(host.bin / "dirac-service")])
        self.services = list(services)
        self.database_names = {
            name: prefix + name.split("/")[1] for service in services for name in configuration.DATABASES[service]
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.layout = configuration.Layout(
            ports={service: processes.free_port() for service in services},
            database_names=self.database_names,
            database_host=database.host,
            database_port=database.port,
            database_user=database.user,
            database_password=database.password,
            certificates=self.folder / "certificates",
            levels=host.release.startswith("8."),
            sites=sites,
            users=users,
        )

    def url(self, service: str) -> str:
        """The service's dips URL."""
        return self.layout.url(service)

    def log(self, service: str) -> Path:
        """The file with the service's output."""
        return self.folder / "log" / (service.replace("/", "_") + ".log")

    @property
    def proxy(self) -> Path:
        """The test user's proxy, in the group configuration.GROUP."""
        return self.folder / "proxy.pem"

    @property
    def server_env(self) -> dict[str, str]:
        """The whole environment of a service, or of a client that has the host certificate (a CS administrator)."""
        return self._environment("server")

    @property
    def client_env(self) -> dict[str, str]:
        """The whole environment of a client that has a user's proxy."""
        return {**self._environment("client"), "X509_USER_PROXY": str(self.proxy)}

    def start(self, timeout: float = 90.0) -> Installation:
        """Write the files, create the databases, start the services and wait until each answers a DISET ping.

        timeout: seconds for each service. Errors: RuntimeError with the end of the log of one that does not answer.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "log").mkdir(parents=True)
        self._write_certificates()
        self._write_configuration()
        self._create_databases()
        first, *others = self.services
        self.start_service(first)
        self.make_proxy(self.proxy)
        # The others read their configuration from the first while they start.
        self._wait_for_listening(first, time.monotonic() + timeout)
        for service in others:
            self.start_service(service)
        self.wait_for(*self.services, timeout=timeout)
        return self

    def start_service(self, service: str, env: dict[str, str] | None = None) -> None:
        """Start one service (again); env: changes to its environment. Does not wait: see wait_for()."""
        command = [*self.launcher, service]
        self.processes[service] = processes.start(command, self.log(service), {**self.server_env, **(env or {})})

    def stop_service(self, service: str) -> None:
        """Stop one service."""
        processes.stop([self.processes.pop(service)])

    def wait_for(self, *services: str, timeout: float = 90.0) -> None:
        """Wait until services answer, at most `timeout` seconds. Errors: RuntimeError when one does not, or ends."""
        deadline = time.monotonic() + timeout
        for service in services:
            self._wait_for_listening(service, deadline)
        command = [str(self.host.python), "-c", _PING, *(self.url(service) for service in services)]
        while True:
            answer = self._run(command, self.server_env, 60)
            if answer.returncode == 0:
                return
            for service in services:
                self._check(service, deadline, answer.stderr.strip())
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop every service."""
        processes.stop(list(self.processes.values()))
        self.processes.clear()

    def __enter__(self) -> Installation:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def run_client(
        self, code: str | Path, *args: str, admin: bool = False, timeout: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a Python script in the host's Python as a client of this installation.

        code: source text, or the Path of a file; args: its arguments; admin: with the host certificate instead of the
        user's proxy; timeout: seconds.
        Returns: the finished process, stdout and stderr as text. Errors: RuntimeError with its stderr when it fails.
        """
        script = [str(code)] if isinstance(code, Path) else ["-c", code]
        command = [str(self.host.python), *script, *args]
        answer = self._run(command, self.server_env if admin else self.client_env, timeout)
        if answer.returncode:
            raise RuntimeError(
                f"client ended with {answer.returncode}:\n{answer.stdout[-1000:]}\n{answer.stderr[-3000:]}"
            )
        return answer

    def make_proxy(self, path: Path, group: str = configuration.GROUP) -> None:
        """Make a proxy of the test user with the host's own code. Errors: RuntimeError when that fails."""
        user = [str(self.folder / "certificates" / name) for name in ("usercert.pem", "userkey.pem")]
        self.run_client(_MAKE_PROXY, *user, group, str(path), admin=True)

    def set_options(self, options: dict[str, str]) -> None:
        """Change the published configuration through the Configuration server, as an administrator does.

        options: {"/Section/Option": value}. The services hear of it at their next refresh.
        Errors: RuntimeError with the server's message.
        """
        self.run_client(_SET_OPTIONS, json.dumps(options), admin=True)

    def rows(self, database: str, sql: str) -> list[list[str]]:
        """Run SQL in one of this installation's databases ("Accounting/AccountingDB")."""
        return self.database.execute(sql, self.database_names[database])

    def _environment(self, role: str) -> dict[str, str]:
        keep = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR", "USER", "LOGNAME") if name in os.environ}
        root = self.folder / role
        return {
            **keep,
            "PATH": os.pathsep.join([str(self.host.bin), os.environ.get("PATH", os.defpath)]),
            "DIRAC_ROOT_PATH": str(root),
            "DIRACSYSCONFIG": str(root / "etc" / "dirac.cfg"),
            "X509_CERT_DIR": str(self.folder / "certificates" / "ca"),
            # A block-buffered log would hide how far a service has come.
            "PYTHONUNBUFFERED": "1",
            **self.env,
        }

    def _write_certificates(self) -> None:
        """Copy the test certificates out of the host's own wheel, with the modes that DIRAC insists on."""
        source = self.host.site_packages / "DIRAC" / "Core" / "Security" / "test" / "certs"
        target = self.folder / "certificates"
        (target / "ca").mkdir(parents=True)
        shutil.copyfile(source / "ca" / "ca.cert.pem", target / "ca" / f"{CA_HASH}.0")
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
            # DIRAC's files name the database that they are for; ours may have another name.
            lines = [line for line in sql.splitlines() if line.strip().lower() != f"use {short.lower()};"]
            self.database.execute(f"DROP DATABASE IF EXISTS `{name}`; CREATE DATABASE `{name}`")
            self.database.execute("\n".join(lines), name)

    def _wait_for_listening(self, service: str, deadline: float) -> None:
        while f"Listening at {self.url(service)}" not in self.log(service).read_text(errors="replace"):
            self._check(service, deadline, "does not listen")
            time.sleep(0.05)

    def _check(self, service: str, deadline: float, problem: str) -> None:
        ended = self.processes[service].poll()
        if ended is None and time.monotonic() < deadline:
            return
        reason = problem if ended is None else f"ended with {ended}"
        tail = self.log(service).read_text(errors="replace")[-3000:]
        raise RuntimeError(f"{service} ({self.host.release}): {reason}\n{tail}")

    @staticmethod
    def _run(command: list[str], env: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
        )
