"""A process of a host that calls functions for us: the only way in which we talk to a host's process.

An order is one line of JSON on its stdin, [module, function, arguments], and the answer is one line on its stdout,
{"value": ...} or {"error": "traceback"}. lab.answering is the other end.
"""

from __future__ import annotations

import json
import os
import select
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import processes

ANSWER_SECONDS = 120.0


class Worker:
    """A process in a host's Python. A context manager that ends it; one call at a time.

    python: the host's; log: the file for its stderr and DIRAC's log; env: its whole environment, with `lab` on its
    PYTHONPATH; service: makes it `dirac-service` with this argument, which answers while it serves.
    """

    def __init__(self, python: Path, log: Path, env: dict[str, str], service: str = "") -> None:
        self.log = log
        command = [str(python), "-m", "lab.answering", *([service] if service else [])]
        self.process = processes.start(command, log, env, talk=True)

    def call(self, function: Callable[..., Any], *arguments: Any, timeout: float = ANSWER_SECONDS) -> Any:
        """Call a function in the worker's process and wait for what it returns.

        function: any top-level one of a module that the host's Python can import; arguments: plain data, as is the
        answer; timeout: seconds.
        Errors: RuntimeError with the traceback if the function raises; RuntimeError or TimeoutError with the end of
        the log if no answer comes; the process is then killed.
        """
        assert self.process.stdin
        order = json.dumps([function.__module__, function.__qualname__, arguments])
        with suppress(BrokenPipeError):  # it has ended: reported below
            os.write(self.process.stdin.fileno(), order.encode() + b"\n")
        answer = self._answer(timeout)
        if "error" in answer:
            raise RuntimeError(f"{function.__qualname__}: {answer['error']}")
        return answer["value"]

    def log_end(self) -> str:
        """The last part of its log."""
        return self.log.read_text(errors="replace")[-3000:]

    def kill(self) -> None:
        """End the process and its children."""
        processes.kill(self.process)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _answer(self, timeout: float) -> Any:
        stdout = self.process.stdout
        assert stdout
        # One answer per order, so nothing is left in the buffer that select() would not see.
        if not select.select([stdout], [], [], timeout)[0]:
            self.kill()
            raise TimeoutError(f"no answer within {timeout:.0f} s:\n{self.log_end()}")
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended with {self.process.wait()}:\n{self.log_end()}")
        return json.loads(line)
