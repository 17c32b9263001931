"""The bench of services, from the command line to its plots, as `make bench-services` runs it but only for a moment."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lab import processes
from lab.folder import CHECKOUT, make
from lab.hosts import DEFAULT_PYTHON, clean_environment
from lab.interpreters import find_interpreter

pytestmark = pytest.mark.once
CATALOG = ("ping", "exists", "getDirectorySize", "configuration")
REQUESTS = {*CATALOG, "https ping", "https exists", "accounting commit", "accounting report"}
SIDES = ["stock 9.1.8", "9.1.8 + plugin"]


def test_the_bench_of_services_from_the_command_line_to_its_plots(tmp_path: Path) -> None:
    figures, plots, log = (tmp_path / name for name in ("figures.json", "plots", "log"))
    left = make("left-")  # short: a socket's path has at most 107 characters
    command = [str(find_interpreter(DEFAULT_PYTHON)), "-m", "bench.services", "--quick"]
    command += ["--patched", sys.prefix, "--json", str(figures), "--figures", str(plots)]
    bench = processes.start(command, log, clean_environment(TMPDIR=str(left)), folder=CHECKOUT)
    try:
        assert bench.wait(200) == 0, log.read_text()
    finally:
        processes.kill(bench)
    output = log.read_text()

    measured = json.loads(figures.read_text())
    cells = measured["cells"]
    assert {cell["request"] for cell in cells} == REQUESTS
    for cell in cells:
        assert list(cell["sides"]) == SIDES
        for found in cell["sides"].values():
            assert found["failures"] == 0, cell
            assert found["requests"] > 0
            assert found["rate"] > 0
            assert 0 < found["p50"] <= found["p95"] <= found["p99"]
            assert min(found["server"], found["client"]) > 0
    # Each side has a row in each condition, and each goal has one.
    rows = [line.strip() for line in output.splitlines()]
    for side in SIDES:
        assert sum(line.startswith(f"{side}  ") for line in rows) == len(cells), output
    assert measured["goals"]
    for goal in measured["goals"]:
        assert any(line.startswith(goal["call"]) and line.endswith(goal["verdict"]) for line in rows), output

    names = {path.name for path in plots.iterdir()}
    assert names == {"requests_4096.png", "requests_4096.svg"}
    assert (plots / "requests_4096.png").read_bytes().startswith(b"\x89PNG")
    texts = "".join(ElementTree.parse(plots / "requests_4096.svg").getroot().itertext())
    assert all(word in texts for word in (*SIDES, "clients"))
    # What uv leaves when it builds a package is not ours.
    assert [name for name in os.listdir(left) if not name.startswith("uv-")] == []
