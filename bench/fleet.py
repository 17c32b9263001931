"""What a fleet costs: sizes of spool and scrapes, times, and what a real Prometheus needs for them.

`python3 -m bench.fleet` prints the figures of docs/fleet.md; `--figures FOLDER` also draws the dashboard's panels from
what Prometheus answers while synthetic processes record, which takes two minutes more. Needs no DIRAC.
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
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from lab import hosts, processes
from lab.folder import temporary_folder
from lab.prometheus import Prometheus, program

CHECKOUT = Path(__file__).resolve().parents[1]
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
# As many hosts as the real Prometheus below is made to believe in.
COPIES = 10
INTERVAL = 60


def main() -> None:
    options = _options()
    if importlib.util.find_spec("ddsketch") is None:
        python = hosts.plain_environment("fleet", NEEDED) / "python"
        os.execv(python, [str(python), "-m", "bench.fleet", *sys.argv[1:]])
    with temporary_folder("perfpatch-fleet-") as folder:
        for patches in (("connection_checkout",), None):
            _measure(folder / ("all" if patches is None else "one"), patches)
        if options.figures:
            from . import panels

            panels.draw(folder / "panels", options.figures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m bench.fleet", description=__doc__)
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="draw the dashboard's panels there")
    return parser.parse_args()


def _measure(folder: Path, patches: Sequence[str] | None) -> None:
    from lab.spools import PATCHES, Process

    _say("")
    _say(f"{PROCESSES} processes of {COMPONENTS} components, in ab: {' '.join(patches) if patches else 'all patches'}")
    written = [Process(folder / "spool", f"System/Service{n % COMPONENTS}", pid=n) for n in range(PROCESSES)]
    for process in written:
        process.fill(patches or PATCHES)
        process.write()
    began = time.monotonic()
    with exporter(folder) as (address, pid):
        _say(f"  start of the exporter   {time.monotonic() - began:7.2f} s")
        sizes = [process.path.stat().st_size for process in written]
        _say(f"  a process's file        {statistics.median(sizes) / 1e3:7.0f} kB")
        _say(f"  the spool of a host     {sum(sizes) / 1e6:7.1f} MB")
        began = _cpu_seconds(pid)
        scrapes = []
        for _ in range(SCRAPES):
            for process in written:
                process.fill(patches or PATCHES, calls=1600)
                process.write()
            scrapes.append(_scrape(address))
        used = (_cpu_seconds(pid) - began) / SCRAPES
        text = scrapes[-1][1]
        series = sum(1 for line in text.splitlines() if not line.startswith("#"))
        _say(f"  a scrape                {len(text) / 1e3:7.0f} kB")
        _say(f"  time of a scrape        {statistics.median(seconds for seconds, _ in scrapes):7.2f} s")
        _say(f"  processor time of one   {used:7.2f} s")
        _say(f"  memory of the exporter  {_resident(pid) / 1e6:7.0f} MB")
        _say(f"  series of a host        {series:7d}")
        _say(f"  series of {HOSTS} hosts   {series * HOSTS / 1e6:7.1f} million")
        _say(f"  samples per second      {series * HOSTS / INTERVAL:7.0f}, scraped every {INTERVAL} s")
        memory = _memory_per_series(folder, text, series)
        _say(f"  memory of Prometheus    {memory * series * HOSTS / 1e9:7.1f} GB: {memory / 1e3:.1f} kB per series")
    size = _bytes_per_sample(folder, text)
    day = size * series * HOSTS * 86400 / INTERVAL
    _say(f"  disk of Prometheus      {day / 1e9:7.1f} GB a day: {size:.2f} bytes per sample")


@contextmanager
def exporter(folder: Path) -> Iterator[tuple[str, int]]:
    """`dirac-perfpatch export` of `folder / "spool"`: its "host:port", and its process's number."""
    folder.mkdir(parents=True, exist_ok=True)
    port = processes.free_port()
    command = [sys.executable, "-m", "dirac_perfpatch.cli", "export", "--spool", str(folder / "spool")]
    command += ["--address", "127.0.0.1", "--port", str(port)]
    log = folder / "exporter.log"
    process = processes.start(command, log, {**os.environ, "PYTHONPATH": str(CHECKOUT)})
    try:
        while b"serving" not in log.read_bytes():
            if process.poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(0.05)
        yield f"127.0.0.1:{port}", process.pid
    finally:
        processes.stop([process])


def _scrape(address: str) -> tuple[float, str]:
    began = time.monotonic()
    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        text = answer.read().decode()
    return time.monotonic() - began, text


def _memory_per_series(folder: Path, text: str, series: int) -> float:
    """Bytes that Prometheus takes for a series: by how much more it takes with many hosts than with none."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    # Every loopback address is another host to Prometheus.
    with ThreadingHTTPServer(("", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hosts = [f"127.0.0.{1 + copy}:{server.server_port}" for copy in range(COPIES)]
        less = _memory(folder / "prometheus-none", [])
        more = _memory(folder / "prometheus", hosts)
        server.shutdown()
    return (more - less) / (series * COPIES)


def _memory(folder: Path, targets: Sequence[str]) -> int:
    """What Prometheus takes once it has scraped each target four times."""
    seen = f"sum(count_over_time(up[1h])) >= {len(targets) * 4}"
    with Prometheus(folder, targets, interval=5) as prometheus:
        prometheus.wait(lambda: not targets or prometheus.query(seen), "it has scraped all", timeout=90)
        return _resident(prometheus.pid)


def _bytes_per_sample(folder: Path, text: str) -> float:
    """Bytes on disk per sample, in a block of two hours of every 20th series, the counters growing at random."""
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


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
