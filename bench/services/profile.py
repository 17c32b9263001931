"""Where a service's CPU goes: the stages of a request, in stock and patched DIRAC: `python3 -m bench.services.profile`.

Four clients at a time, keys of 2048 bits, the database on loopback; and cycles of two agents. Microseconds of CPU per
request or cycle, and the share of the stock one's; stages contain each other (an SQL statement is in the handler), so
they do not add up, and those that neither side calls are not shown. Each figure includes what the measuring adds, 1 to
2 us per call. With --py-spy FOLDER it also writes what py-spy sees of each service, all threads and those that hold the
interpreter's lock, as stacks with counts.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lab.arms import Arms
from lab.command import end_when_told, say
from lab.configuration import is_https
from lab.folder import library, temporary_folder
from lab.machine import ensure_packages
from lab.mariadb import MariaDB
from lab.table import Row, aligned
from lab.worker import Worker

from . import agent, crew, sides, stages

CLIENTS, KEY_BITS = 4, 2048
SECONDS, ROUNDS = 1.0, 6
SIDES = (sides.STOCK, sides.PATCHED)
CYCLES = 10
# The number of requests, CPU seconds, and CPU seconds and calls by stage.
_Slot = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m bench.services.profile", description=__doc__)
    every = [*crew.PROFILED, *agent.NAMES]
    parser.add_argument("--only", nargs="+", choices=every, metavar="NAME", default=every, help=", ".join(every))
    parser.add_argument("--py-spy", type=Path, metavar="FOLDER", help="write py-spy's stacks there; needs py-spy")
    options = parser.parse_args()
    spy = shutil.which("py-spy")
    if options.py_spy and not spy:
        sys.exit("py-spy is not on the path: pip install py-spy")
    end_when_told()
    ensure_packages()
    with temporary_folder("perfpatch-profile-") as folder:
        say("installing DIRAC and the plugin (the first time takes a minute)")
        installed = sides.environments(SIDES)
        modules = library(folder / "library", "lab", "bench")
        requests = [name for name in options.only if name in crew.PROFILED]
        services = [crew.CONFIGURATION, crew.CATALOG, crew.PILOTS, *map(crew.PROFILED.__getitem__, requests)]
        if "accounting report" in requests:
            services.append(crew.DATA_STORE)
        with (
            MariaDB(folder / "mariadb") as database,
            sides.started(
                installed, database, folder / "sides", modules, list(dict.fromkeys(services)), KEY_BITS, database.port
            ) as running,
        ):
            for request in requests:
                service = crew.PROFILED[request]
                kind = stages.HTTPS if is_https(service) else stages.DISET
                slots = _slots(running, partial(_measure, request, kind))
                print(f"\n{service}, {request}\n{_table(kind, slots)}", flush=True)
                for side in running if options.py_spy else ():
                    _look(side, request, str(spy), options.py_spy)
            with contextlib.ExitStack() as stack:
                workers = {side.name: stack.enter_context(side.installation.client(admin=True)) for side in running}
                for name in (name for name in agent.NAMES if name in options.only):
                    slots = _slots(running, partial(_cycles, workers, name))
                    print(f"\n{name}, a cycle\n{_table(stages.AGENT, slots)}", flush=True)


def _slots(running: Arms[sides.Side], measure: Callable[[sides.Side], _Slot]) -> dict[str, list[_Slot]]:
    slots: dict[str, list[_Slot]] = {name: [] for name in SIDES}
    for number in range(ROUNDS):
        for side in running.rotated(number):
            slots[side.name].append(measure(side))
    return slots


def _cycles(workers: dict[str, Worker], name: str, side: sides.Side) -> _Slot:
    found: _Slot = workers[side.name].call(agent.cycles, name, CYCLES)
    return found


def _measure(request: str, kind: str, side: sides.Side) -> _Slot:
    service, call = crew.PROFILED[request], side.installation.call
    before = call(service, stages.start, kind)
    clients = side.measure(request, CLIENTS, SECONDS)["clients"]
    found = call(service, stages.stop)
    # The server also served each client's first request.
    number = sum(len(client["latencies"]) + 1 for client in clients)
    return {"requests": number, "total": found["total"] - before, "stages": found["stages"]}


def _table(kind: str, slots: dict[str, list[_Slot]]) -> str:
    number = {name: sum(slot["requests"] for slot in found) for name, found in slots.items()}
    whole = {name: sum(slot["total"] for slot in found) * 1e6 / number[name] for name, found in slots.items()}
    stock = whole[sides.STOCK]
    rows: list[Row] = [("us of CPU each", *(text for name in SIDES for text in (name, "calls", "share")))]
    rows.append(("the whole process", *(text for name in SIDES for text in _cells(whole[name], "", stock))))
    for stage in stages.STAGES[kind]:
        cells: list[str] = []
        for name in SIDES:
            cpu = sum(slot["stages"][stage][0] for slot in slots[name]) * 1e6 / number[name]
            calls = sum(slot["stages"][stage][1] for slot in slots[name]) / number[name]
            cells += _cells(cpu, f"{calls:.1f}", stock)
        if any(slot["stages"][stage][1] for found in slots.values() for slot in found):
            rows.append((stage, *cells))
    return aligned(rows)


def _cells(cpu: float, calls: str, stock: float) -> list[str]:
    return [f"{cpu:.0f}", calls, f"{cpu / stock:.1%}"]


def _look(side: sides.Side, request: str, spy: str, folder: Path) -> None:
    """Let py-spy watch the service while clients make requests."""
    folder.mkdir(parents=True, exist_ok=True)
    pid = str(side.installation.running[crew.PROFILED[request]].process.pid)
    for more in ([], ["--gil"]):
        path = folder / f"{side.name} {request}{''.join(more)}.raw".replace(" ", "_")
        command = [spy, "record", "--pid", pid, "--duration", "6", "--format", "raw", "--output", str(path), *more]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            side.measure(request, CLIENTS, 8.0)
        say(f"{path}")


if __name__ == "__main__":
    main()
