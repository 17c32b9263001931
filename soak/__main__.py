"""Run real services under the load of four clients while the toggles change every second, and see what grows.

FileCatalog, DataStore and the Configuration server run twice, each with a MariaDB of its own: stock, and with the
plugin, whose patches are on, off and `ab` in turn, all of them or one by one. "start" is after a warm-up of a minute;
"more" is how much more than stock the patched side grew in the second half of the time. The exit code is 1 if more
requests fail than in stock, a patch trips, or anything grows more than it may.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import inside
from lab.arms import PATCHED, STOCK, Arms, environments
from lab.command import end_when_told, say, seconds
from lab.folder import library, temporary_folder
from lab.hosts import Host
from lab.installation import Installation
from lab.machine import ensure_packages
from lab.mariadb import MariaDB

from . import figures, flips
from .figures import Sample, Side
from .load import work

CLIENTS = 4
WARM_UP = 60.0
# What the plugin says about a change that it was told to make.
_NEWS = "toggles read again from"


class Arm:
    """One side: a database, services and clients."""

    def __init__(self, name: str, host: Host, folder: Path, modules: Path) -> None:
        self.name = name
        self.toggles = folder / name / "patches.yaml"
        self.toggles.parent.mkdir(parents=True)
        self.database = MariaDB(folder / name / "mariadb")
        env = {"DIRAC_PERFPATCH_CONFIG": str(self.toggles)} if name == PATCHED else {}
        self.services = Installation(host, self.database, folder / name / "dirac", modules, env=env)
        self._flips = flips.texts(folder / name / "spool")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start it; stop it at the end."""
        self.flip()
        with self.database, self.services:
            yield

    def flip(self) -> None:
        """Change the toggles."""
        flips.write(self.toggles, next(self._flips))

    def sample(self) -> Sample:
        """What the services use now, and the connections of the database."""
        found: Sample = {}
        for service, worker in self.services.running.items():
            figure = figures.of_process(worker.process.pid)
            found |= {f"{service} {kind}": number for kind, number in figure.items()}
        return {**found, "MySQL connections": self.database.status("Threads_connected")}

    def soak(self, duration: float) -> Side:
        """Have clients work, change the toggles and take samples. duration: seconds, with the warm-up."""
        samples = []
        begin, end = time.monotonic() + WARM_UP, time.monotonic() + duration
        with contextlib.ExitStack() as stack:
            workers = [stack.enter_context(self.services.client()) for _ in range(CLIENTS)]
            pool = stack.enter_context(ThreadPoolExecutor(CLIENTS))
            begun = [
                pool.submit(worker.call, work, f"client{number}", duration, timeout=duration + 120)
                for number, worker in enumerate(workers)
            ]
            for due in itertools.count(time.monotonic() + 1):
                time.sleep(max(0.0, due - time.monotonic()))
                self.flip()
                if time.monotonic() > begin:
                    samples.append(self.sample())
                if time.monotonic() > end:
                    break
            reports = [future.result() for future in begun]
        failures = Counter[str]()
        for report in reports:
            failures.update(report["failures"])
        requests = sum(report["requests"] for report in reports)
        changes = self.services.log("DataManagement/FileCatalog").read_text(errors="replace").count(_NEWS)
        return Side(samples, requests, failures, changes, self._wrong() if self.name == PATCHED else [])

    def _wrong(self) -> list[str]:
        found = []
        for service in self.services.running:
            states = self.services.call(service, inside.plugin_states)
            found += [f"{service}: {name} is {one}" for name, one in states.items() if one in ("tripped", "failed")]
        for log in sorted((self.services.folder / "log").iterdir()):
            lines = log.read_text(errors="replace").splitlines()
            ours = {line for line in lines if "dirac-perfpatch: " in line and _NEWS not in line}
            found += [f"{log.stem}: {line[:300]}" for line in sorted(ours)]
        return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python3 -m soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="with the warm-up (default: %(default)s)")
    options = parser.parse_args()
    duration = 60 * options.minutes
    if duration < WARM_UP + 2 * figures.SAMPLES:
        parser.error("two minutes are the least")
    end_when_told()
    ensure_packages()
    say("installing DIRAC and the plugin (the first time takes a minute)")
    installed = environments("soak", "ab")
    with temporary_folder("perfpatch-soak-") as folder, contextlib.ExitStack() as stack:
        modules = library(folder / "library", "lab", "soak")
        arms = Arms(Arm(name, host, folder, modules) for name, host in installed.items())
        for arm in arms:
            stack.enter_context(arm.running())
        say(f"all services are up; {CLIENTS} clients a side for {duration:.0f} s")
        sides = arms.together(lambda arm: arm.soak(duration))
    text, right = figures.table(sides[STOCK], sides[PATCHED])
    print(f"\n{text}\n\n{'all is right' if right else 'SOMETHING IS WRONG'}, {seconds():.0f} s")
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
