"""The real command serves synthetic spools, and a real Prometheus scrapes it; no DIRAC is needed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lab import exporter as running


class Exporter(running.Exporter):
    """The exporter, with its samples parsed."""

    def __enter__(self) -> Exporter:
        return self

    def scrape(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """All samples by name and labels, read by Prometheus's own parser."""
        samples = [sample for family in text_string_to_metric_families(self.text()) for sample in family.samples]
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
    """Starts an exporter, which is stopped after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda folder: stack.enter_context(Exporter(folder))


@pytest.fixture
def exporter(export: Callable[[Path], Exporter], spool: Path) -> Exporter:
    return export(spool)


@pytest.fixture
def run_export() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command until it ends."""

    def run(*arguments: str, before: str = "pass") -> subprocess.CompletedProcess[str]:
        code = f"import sys; {before}; from dirac_perfpatch import cli; sys.exit(cli.main(['export', *sys.argv[1:]]))"
        command = [sys.executable, "-c", code, *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DIRAC")}
        return subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=20)

    return run
