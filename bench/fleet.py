"""What a fleet costs: the sizes of spool and scrapes, times, and the resources of a real Prometheus.

`python3 -m bench.fleet` prints the figures of docs/fleet.md. `--figures FOLDER` also draws the dashboard's panels from
Prometheus's answers while synthetic processes record, which takes two minutes more. Needs no DIRAC.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from lab import hosts
from lab.command import end_when_told, say
from lab.exporter import Exporter
from lab.folder import temporary_folder
from lab.prometheus import Prometheus, program
from lab.table import Row, aligned

NEEDED = [
    "wrapt>=1.14",
    "PyYAML>=5.4",
    "importlib_metadata>=4.4",
    "prometheus_client>=0.20",
    "ddsketch>=2",
    "matplotlib",
]
PROCESSES, COMPONENTS, HOSTS = 50, 20, 1000
SCRAPES = 9
# The number of hosts that the real Prometheus below sees.
COPIES = 10
INTERVAL = 60


def main() -> None:
    options = _options()
    if importlib.util.find_spec("ddsketch") is None:
        python = hosts.plain_environment("fleet", NEEDED) / "python"
        os.execv(python, [str(python), "-m", "bench.fleet", *sys.argv[1:]])
    end_when_told()
    with temporary_folder("perfpatch-fleet-") as folder:
        for patches in (("connection_checkout",), None):
            print("\n" + aligned(_measure(folder / ("one" if patches else "all"), patches)) + "\n", flush=True)
        if options.figures:
            from . import panels  # needs matplotlib, which the Python that started us may lack

            say("the dashboard's panels")
            panels.draw(folder / "panels", options.figures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m bench.fleet", description=__doc__)
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="draw the dashboard's panels there")
    return parser.parse_args()


def _measure(folder: Path, patches: Sequence[str] | None) -> list[Row]:
    """The figures, as table rows. patches: those set to `ab`; None for all."""
    from lab.spools import PATCHES, Process

    compared = f"in ab: {' '.join(patches or ['all patches'])}"
    say(f"{PROCESSES} processes of {COMPONENTS} components, {compared}")
    folder.mkdir()
    written = [Process(folder / "spool", f"System/Service{n % COMPONENTS}", pid=n) for n in range(PROCESSES)]
    for process in written:
        process.fill(patches or PATCHES)
        process.write()
    sizes = [process.path.stat().st_size for process in written]
    began = time.monotonic()
    with Exporter(folder / "spool") as exporter:
        start = time.monotonic() - began
        pid = exporter.process.pid
        cpu = _cpu_seconds(pid)
        scrapes = []
        for _ in range(SCRAPES):
            for process in written:
                process.fill(patches or PATCHES, calls=1600)
                process.write()
            began = time.monotonic()
            text = exporter.text()
            scrapes.append(time.monotonic() - began)
        cpu = _cpu_seconds(pid) - cpu
        resident = _resident(pid)
        series = sum(1 for line in text.splitlines() if not line.startswith("#"))
        memory = _memory_per_series(folder, text, series)
    size = _bytes_per_sample(folder, text)
    samples = series * HOSTS / INTERVAL
    return [
        (compared, ""),
        ("start of the exporter", f"{start:.2f} s"),
        ("one process's file", f"{statistics.median(sizes) / 1e3:.0f} kB"),
        ("the spool of a host", f"{sum(sizes) / 1e6:.1f} MB"),
        ("size of a scrape", f"{len(text) / 1e3:.0f} kB"),
        ("duration of a scrape", f"{statistics.median(scrapes):.2f} s"),
        ("CPU time of a scrape", f"{cpu / SCRAPES:.2f} s"),
        ("memory of the exporter", f"{resident / 1e6:.0f} MB"),
        ("series per host", str(series)),
        (f"series of {HOSTS} hosts", f"{series * HOSTS / 1e6:.1f} million"),
        (f"samples per second, scraped every {INTERVAL} s", f"{samples:.0f}"),
        (f"memory of Prometheus, {memory / 1e3:.1f} kB per series", f"{memory * series * HOSTS / 1e9:.1f} GB"),
        (f"disk of Prometheus per day, {size:.2f} bytes per sample", f"{size * samples * 86400 / 1e9:.1f} GB"),
    ]


def _memory_per_series(folder: Path, text: str, series: int) -> float:
    """Bytes of memory per series: how much more Prometheus uses with many hosts than with none."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    # Prometheus takes every loopback address for another host.
    with ThreadingHTTPServer(("", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hosts = [f"127.0.0.{1 + copy}:{server.server_port}" for copy in range(COPIES)]
        less = _memory(folder / "prometheus-none", [])
        more = _memory(folder / "prometheus", hosts)
        server.shutdown()
    return (more - less) / (series * COPIES)


def _memory(folder: Path, targets: Sequence[str]) -> int:
    """Bytes of memory that Prometheus uses once it has scraped each target four times."""
    seen = f"sum(count_over_time(up[1h])) >= {len(targets) * 4}"
    with Prometheus(folder, targets, interval=5) as prometheus:
        prometheus.wait(lambda: not targets or prometheus.query(seen), "it has scraped all targets", timeout=90)
        return _resident(prometheus.pid)


def _bytes_per_sample(folder: Path, text: str) -> float:
    """Bytes on disk per sample, in a two-hour block of every 20th series, with counters that grow at random."""
    chance = random.Random(1)
    values = {}
    for line in [line for line in text.splitlines() if not line.startswith("#")][::20]:
        name, number = line.rsplit(" ", 1)
        values[name] = float(number)
    began = int(time.time()) // 7200 * 7200 - 4 * 7200
    samples = folder / "samples.txt"
    with open(samples, "w") as file:
        for when in range(began, began + 7200, INTERVAL):
            for name, value in values.items():
                file.write(f"{name} {value!r} {when}\n")
                if name.split("{")[0].endswith(("_total", "_sum", "_count", "_bucket")):
                    more = value / 100 * chance.uniform(0.5, 1.5)
                    values[name] += more if "_sum" in name else round(more)
        file.write("# EOF\n")
    command = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", samples, folder / "blocks"]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    size = sum(path.stat().st_size for path in (folder / "blocks").rglob("*") if path.is_file())
    return size / (len(values) * 7200 / INTERVAL)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> int:
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match
    return int(match[1]) * 1024


if __name__ == "__main__":
    main()
