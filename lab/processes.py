"""Processes that cannot outlive this one, and the ports they listen on."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Linux sends the parent-death signal when the *thread* that forked ends, so one permanent thread starts them all.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lab-starter")
_starting = threading.Lock()
_ending = False
_given: set[int] = set()


def start(
    command: Sequence[str],
    log: Path,
    env: dict[str, str] | None = None,
    *,
    talk: bool = False,
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process that is killed when this one ends, however it ends.

    command: the program and its arguments; log: the file that its output is appended to; env: its whole environment;
    talk: stdin and stdout are pipes to us, and only stderr goes to the log; folder: its working directory, by default
    the log's folder, from which it cannot import any of our Python modules.
    Returns: the Popen, in its own process group, so that Ctrl-C reaches only us and we stop it cleanly.
    Errors: OSError if it cannot be started; RuntimeError after end_children().
    """

    def run() -> subprocess.Popen[bytes]:
        with _starting, open(log, "ab") as output:
            if _ending:
                raise RuntimeError("this process is ending")
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.PIPE if talk else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talk else output,
                stderr=output,
                env=env,
                cwd=folder or log.parent,
                start_new_session=True,
            )

    return _starter.submit(run).result()


def stop(processes: list[subprocess.Popen[bytes]], grace: float = 10.0) -> None:
    """End processes: SIGTERM to all, then SIGKILL to those that still run after `grace` seconds."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end_children(grace: float = 10.0) -> None:
    """End every child of this process, those of start() at once, and refuse to start more.

    grace: seconds that the others get to end.
    """
    global _ending
    with _starting:
        _ending = True
    children = [int(pid) for tasks in Path("/proc/self/task").glob("*/children") for pid in tasks.read_text().split()]
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(pid) == pid:
                os.killpg(pid, signal.SIGKILL)
            else:
                os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace
    for pid in children:
        # Raised if another thread has already waited for it.
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            while os.waitpid(pid, os.WNOHANG) == (0, 0):
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.02)


def free_port() -> int:
    """A TCP port that nothing listens on, and that was not returned to this process before.

    It is below the range that the kernel gives to clients, so no connection can take it while a server restarts.
    Errors: OSError if none is found.
    """
    for _ in range(200):
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("", port))
                if port not in _given:
                    _given.add(port)
                    return port
    raise OSError("no free TCP port between 20000 and 32000")
