"""`dirac-perfpatch export`, run from the checkout on a loopback port."""

from __future__ import annotations

import os
import re
import sys
import urllib.request
from pathlib import Path

from . import processes
from .folder import CHECKOUT, make


class Exporter:
    """The exporter of one spool folder. A context manager that ends it.

    spool: the folder, which need not exist yet; port: 0 for any.
    Errors: RuntimeError with its output if it does not serve.
    """

    def __init__(self, spool: Path, port: int = 0) -> None:
        command = [sys.executable, "-m", "dirac_perfpatch.cli", "export", "--spool", str(spool)]
        command += ["--address", "127.0.0.1", "--port", str(port)]
        self.log = make("perfpatch-exporter-") / "exporter.log"
        self.process = processes.start(command, self.log, {**os.environ, "PYTHONPATH": str(CHECKOUT)}, talk=True)
        assert self.process.stdout
        line = self.process.stdout.readline().decode()
        match = re.fullmatch(r"serving .* at http://(127\.0\.0\.1:\d+)/metrics\n", line)
        if not match:
            processes.kill(self.process)
            raise RuntimeError(line + self.log.read_text())
        self.address = match[1]

    def text(self) -> str:
        """What Prometheus would read now."""
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=60) as answer:
            return str(answer.read().decode())

    def __enter__(self) -> Exporter:
        return self

    def __exit__(self, *_: object) -> None:
        processes.kill(self.process)
