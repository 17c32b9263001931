"""These tests serve synthetic spool folders with the real command; a real Prometheus scrapes it. They need no DIRAC."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

CHECKOUT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "dirac_perfpatch.cli", "export"]


class Exporter:
    """`dirac-perfpatch export`, running."""

    def __init__(self, spool: Path, port: str = "0") -> None:
        command = [*COMMAND, "--spool", str(spool), "--address", "127.0.0.1", "--port", port]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        match = re.fullmatch(r"serving .* at http://(127\.0\.0\.1:\d+)/metrics\n", line)
        assert match, (line, self.process.communicate(timeout=10))
        self.address = match[1]

    def scrape(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """All samples, by name and labels, as Prometheus's own parser reads them."""
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=20) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            samples = [sample for family in families for sample in family.samples]
        found = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
        assert len(found) == len(samples)  # no series twice: Prometheus would refuse all
        return found

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of a metric that have these labels."""
        wanted = labels.items()
        return sum(v for (n, have), v in self.scrape().items() if n == "dirac_perfpatch_" + name and have >= wanted)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir(0o755)
    return folder


@pytest.fixture
def export() -> Iterator[Callable[[Path], Exporter]]:
    """Start an exporter; it is ended after the test."""
    started: list[Exporter] = []

    def start(folder: Path) -> Exporter:
        started.append(Exporter(folder))
        return started[-1]

    yield start
    for exporter in started:
        exporter.process.kill()
        exporter.process.communicate()


@pytest.fixture
def exporter(export: Callable[[Path], Exporter], spool: Path) -> Exporter:
    return export(spool)


@pytest.fixture
def run_export() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command to its end."""

    def run(*arguments: str, before: str = "pass") -> subprocess.CompletedProcess[str]:
        code = f"import sys; {before}; from dirac_perfpatch import cli; sys.exit(cli.main(['export', *sys.argv[1:]]))"
        command = [sys.executable, "-c", code, *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DIRAC")}
        return subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=20)

    return run
