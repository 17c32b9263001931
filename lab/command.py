"""What all our commands share: they show progress, end on a signal, and save figures."""

from __future__ import annotations

import json
import os
import platform
import signal
import time
from pathlib import Path
from typing import Any

from . import folder, processes
from .hosts import DEFAULT_PYTHON

_began = time.monotonic()


def seconds() -> float:
    """Seconds since this command began."""
    return time.monotonic() - _began


def say(text: str) -> None:
    """Show progress, with the seconds since the start."""
    print(f"[{seconds():5.0f} s] {text}", flush=True)


def end_when_told() -> None:
    """From now on Ctrl-C or SIGTERM leaves no process or folder behind; the exit code is 128 + the signal number."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)


def _end(number: int, _: Any) -> None:
    # Not by an exception: that would wait for every thread that is waiting for a process.
    for told in (signal.SIGINT, signal.SIGTERM):
        signal.signal(told, signal.SIG_IGN)
    processes.end_children()
    for _ in range(10):  # other threads run until we exit and may write files meanwhile
        if folder.remove_all():
            break
    os._exit(128 + number)


def save(path: Path, figures: dict[str, Any]) -> None:
    """Write figures to a JSON file, together with a description of the machine."""
    machine = {"python": DEFAULT_PYTHON, "cores": os.cpu_count(), "machine": platform.platform()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**machine, **figures}, indent=1))
    print(f"figures: {path}")
