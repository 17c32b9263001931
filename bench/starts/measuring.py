"""The starts, and what each costs."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from lab import processes
from lab.arms import PATCHED, STOCK
from lab.command import say
from lab.hosts import Host
from lab.installation import Installation

LOOK = "from DIRAC.Core.Utilities.Extensions import extensionsByPriority; extensionsByPriority(); "
API = "import DIRAC.Interfaces.API.Dirac"
# Its only work needs the GOCDB, and is switched off.
AGENT = ("dirac-agent", "Configuration/GOCDB2CSAgent", "-o", "MaxCycles=1", "-o", "UpdatePerfSONARS=no")
SERVICE = "DataManagement/FileCatalog"
LFN = "/fakevo/no/such/file"
WRAPPER = "from DIRAC.Core.Base.Script import Script; Script.parseCommandLine(); "
WRAPPER += "from DIRAC.WorkloadManagementSystem.JobWrapper import JobWrapper; "
WRAPPER += "from DIRAC.WorkloadManagementSystem.Client.JobReport import JobReport; JobReport(1, 'wrapper')"


class Start(NamedTuple):
    """Something that is started.

    Args:
        command: A program of the environment and its arguments; a service's has "{port}" for a free port.
        role: Whose configuration it reads, "client" or "server".
        may_fail: Whether it ends with an error in both arms, because it finds nothing.
        says: What its output contains if it has done its work.
    """

    command: tuple[str, ...]
    role: str = "client"
    may_fail: bool = False
    says: str = ""


STARTS: dict[str, Start] = {
    "import DIRAC, first look-up": Start(("python", "-c", f"import DIRAC; {LOOK}")),
    "import of the API, as in a command": Start(("python", "-c", LOOK + API)),
    "import of the API alone": Start(("python", "-c", API)),
    "dirac-version": Start(("dirac-version",)),
    "dirac-proxy-info": Start(("dirac-proxy-info",), says="fakevo_user"),
    "dirac-wms-job-status": Start(("dirac-wms-job-status", "1"), says="Status=Waiting"),
    "dirac-dms-lfn-replicas": Start(("dirac-dms-lfn-replicas", LFN), may_fail=True, says=f"{LFN} Unknown"),
    "job wrapper, until it has a job": Start(("python", "-c", WRAPPER)),
    "agent, one cycle": Start(AGENT, "server", says="Cycle was successful"),
    "service, until it listens": Start(("dirac-service", SERVICE, "-o", "Port={port}"), "server"),
}

# Start, arm -> {"ms": the least CPU time, "median": of CPU time, "wall": the least on the clock}, in milliseconds.
Figures = dict[str, dict[str, dict[str, float]]]


def measure(hosts: dict[str, Host], installation: Installation, rounds: int) -> Figures:
    """Start everything in both arms, in turn.

    Errors: RuntimeError if something fails that should not, or in one arm only.
    """
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for number in range(rounds + 1):
        say(f"round {number} of {rounds}" if number else "the first round, which does not count")
        arms = (STOCK, PATCHED) if number % 2 else (PATCHED, STOCK)
        for name, start in STARTS.items():
            for arm in arms:
                times = _start(start, hosts[arm], installation, f"{arm}-{number}")
                if number:  # the first may have written bytecode
                    found.setdefault(name, {}).setdefault(arm, []).append(times)
    return {name: {arm: _figure(times) for arm, times in each.items()} for name, each in found.items()}


def _figure(times: list[tuple[float, float]]) -> dict[str, float]:
    cpu, wall = zip(*times)
    return {"ms": min(cpu), "median": statistics.median(cpu), "wall": min(wall)}


def _start(start: Start, host: Host, installation: Installation, label: str) -> tuple[float, float]:
    """Returns: milliseconds of CPU time, and on the clock."""
    program, *arguments = start.command
    port = processes.free_port()
    command = [str(host.bin / program), *(argument.format(port=port) for argument in arguments)]
    certificates = str(installation.folder / "certificates" / "ca")
    environment = host.process_env(
        installation.folder / start.role, X509_CERT_DIR=certificates, X509_USER_PROXY=str(installation.proxy)
    )
    if start.role == "server":
        del environment["X509_USER_PROXY"]
    log = installation.folder / "log" / f"{program}-{label}.log"
    began = time.perf_counter()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/"
        )
        serves = program == "dirac-service"
        if serves:
            _wait_until_it_listens(process, log)
            used = _cpu(process.pid)
            wall = time.perf_counter() - began
            process.send_signal(signal.SIGKILL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
    if serves:
        return used * 1000, wall * 1000
    wall = time.perf_counter() - began
    if (status and not start.may_fail) or start.says not in log.read_text(errors="replace"):
        raise RuntimeError(f"{' '.join(command)} failed:\n{log.read_text(errors='replace')[-3000:]}")
    return (usage.ru_utime + usage.ru_stime) * 1000, wall * 1000


def _wait_until_it_listens(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while b"Listening at" not in log.read_bytes():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"the service does not listen:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.01)


def _cpu(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
