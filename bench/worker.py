"""The worker of one arm: makes the calls that it is told to. Runs in the host's Python: `python worker.py`.

One line of JSON on stdin is an order, one on stdout its answer: ["open", CASE, SIZE, DATABASE] prepares a call and
answers whether the plugin's patch of it is on, ["warm"] answers how many calls make one repetition, ["measure", CALLS]
answers microseconds per call, and ["close"] ends it. The worker ends with its input.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

from dirac_perfpatch.bench import CASES, Case, Measure, warm_up
from dirac_perfpatch.patching import Database


class Worker:
    """One process with one call prepared at a time. Each method is an order."""

    def __init__(self) -> None:
        self._prepared = contextlib.ExitStack()
        self._case: Case
        self._size = 0
        self._measure: Measure

    def open(self, name: str, size: int, database: list[Any]) -> bool:
        (self._case,) = (case for case in CASES if case.name == name)
        self._size = size
        self._measure = self._prepared.enter_context(self._case.prepare(size, Database(*database)))
        return self._case.patch in _applied()

    def warm(self) -> int:
        return warm_up(self._case, self._size, self._measure)

    def measure(self, calls: int) -> float:
        return self._measure(calls)

    def close(self) -> None:
        self._prepared.close()


def _applied() -> set[str]:
    import dirac_perfpatch

    return {entry["name"] for entry in dirac_perfpatch.status() if entry["state"] == "applied"}


def main() -> None:
    # DIRAC logs to stdout, which is ours to answer on: keep that for ourselves and send the log to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    # What every DIRAC command does first, and what loads the plugin where it is installed.
    from DIRAC.Core.Utilities.Extensions import extensionsByPriority

    extensionsByPriority()
    worker = Worker()
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(worker, name)(*arguments)), file=answers, flush=True)


if __name__ == "__main__":
    main()
