"""Debian's Prometheus: a separate server on a loopback port, and promtool."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import processes
from .hosts import cache_folder

PACKAGE = "prometheus"
JOB = "dirac-perfpatch"


def program(name: str) -> Path:
    """`prometheus` or `promtool`: the installed one, else that of Debian's package, unpacked into the cache folder.

    Installing the package would set up a system service and possibly start it. The programs need only
    libc, so it is enough to fetch and unpack the package, which also needs no root.
    Errors: SystemExit with one line that says what to do if it cannot be fetched.
    """
    installed = shutil.which(name)
    if installed:
        return Path(installed)
    folder = cache_folder() / "tools" / PACKAGE
    if not folder.exists():
        _fetch(folder)
    return folder / "usr" / "bin" / name


def _fetch(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="prometheus-", dir=folder.parent) as name:
        temporary = Path(name)
        if not _download(temporary) and os.geteuid() == 0:
            subprocess.run(["apt-get", "update", "-q"], stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
            _download(temporary)
        packages = list(temporary.glob("*.deb"))
        if not packages:
            raise SystemExit(f"apt-get download {PACKAGE} failed. As root: apt-get update")
        whole = temporary / "whole"
        subprocess.run(["dpkg-deb", "-x", str(packages[0]), str(whole)], check=True)
        # In one step: another process sees all of it or nothing, and one that came first stays.
        if not folder.exists():
            whole.rename(folder)


def _download(folder: Path) -> bool:
    command = ["apt-get", "download", "-q", PACKAGE]
    return not subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False).returncode


class Prometheus:
    """One server. A context manager: started on entry, stopped on exit.

    folder: holds the configuration, the data and the log; targets: "host:port" of each exporter; rules: files of
    rules; interval: seconds between two scrapes.
    """

    def __init__(self, folder: Path, targets: Sequence[str], rules: Sequence[Path] = (), interval: int = 1) -> None:
        self.folder = folder
        self.port = processes.free_port()
        self._targets = targets
        self._rules = rules
        self._interval = f"{interval}s"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Prometheus:
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration = {
            "global": dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), self._interval),
            "rule_files": [str(path) for path in self._rules],
            "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": list(self._targets)}]}],
        }
        path = self.folder / "prometheus.yml"
        path.write_text(json.dumps(configuration))  # which is YAML, too
        command = [
            str(program("prometheus")),
            f"--config.file={path}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        self._process = processes.start(command, self.folder / "prometheus.log")
        try:
            self.wait(lambda: self._get("/-/ready") is not None, "is ready")
        except BaseException:
            processes.kill(self._process)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            processes.stop([self._process])

    @property
    def pid(self) -> int:
        """Its process id. Errors: RuntimeError if it does not run."""
        if self._process is None:
            raise RuntimeError("not started")
        return self._process.pid

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The answer to an instant query: a list of {"metric": labels, "value": [time, text]}.

        Errors: ValueError with Prometheus's message if it refuses the expression.
        """
        found: list[dict[str, Any]] = self._ask("/api/v1/query", query=expression)["result"]
        return found

    def value(self, expression: str) -> float | None:
        """The only value that a query returns; None if there is none. Errors: ValueError if there are more."""
        found = self.query(expression)
        if len(found) > 1:
            raise ValueError(f"{len(found)} values for {expression}")
        return float(found[0]["value"][1]) if found else None

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """The answer to a query over time: a list of {"metric": labels, "values": [[time, text], ...]}."""
        answer = self._ask("/api/v1/query_range", query=expression, start=start, end=end, step=step)
        found: list[dict[str, Any]] = answer["result"]
        return found

    def alerts(self) -> list[dict[str, Any]]:
        """The alerts that are pending or firing."""
        found: list[dict[str, Any]] = self._ask("/api/v1/alerts")["alerts"]
        return found

    def wait(self, condition: Callable[[], object], what: str, timeout: float = 30.0) -> None:
        """Wait for a condition. Errors: RuntimeError with `what` and the end of the log if it does not become true."""
        deadline = time.monotonic() + timeout
        while not condition():
            dead = self._process is None or self._process.poll() is not None
            if dead or time.monotonic() > deadline:
                log = (self.folder / "prometheus.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"Prometheus: not true after {timeout:.0f} s: {what}\n{log}")
            time.sleep(0.1)

    def _ask(self, path: str, **parameters: object) -> Any:
        answer = self._get(f"{path}?{urllib.parse.urlencode(parameters)}")
        if answer is None:
            raise RuntimeError("Prometheus does not answer")
        found = json.loads(answer)
        if found["status"] != "success":
            raise ValueError(found["error"])
        return found["data"]

    def _get(self, path: str) -> bytes | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            # The reason is in the body; until the server is ready, there is no JSON.
            return bytes(error.read()) if error.headers.get_content_type() == "application/json" else None
        except OSError:
            return None
