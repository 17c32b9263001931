"""The load of most scenarios: threads that insert numbers, each once, and note which inserts succeeded."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import Any

from lab.mariadb import MariaDB

from .pool import Failures, connect

APART = 1_000_000  # between the first numbers of two threads


@dataclass
class Outcome:
    """The outcome of a load, as the harness found it by checking the table.

    statements: sent; failed: reported as failed; lost: reported as done, but not in the table; doubled: more than once
    in the table; unsure: reported as failed, but in the table, which is no fault if the connection died between
    request and answer; hanging: threads that did not come back; slowest: seconds of the slowest statement; messages:
    of the failed ones, counted.
    """

    statements: int
    failed: int
    lost: int
    doubled: int
    unsure: int
    hanging: int
    slowest: float
    messages: dict[str, int]

    @property
    def wrong(self) -> int:
        """How many numbers are not as their callers were told, plus the hanging threads."""
        return self.lost + self.doubled + self.hanging


class _Load:
    """The worker's side."""

    def __init__(self, account: dict[str, Any], threads: int, pause: float) -> None:
        self._db = connect(account)
        self._pause = pause
        self._stop = threading.Event()
        self._warm = threading.Barrier(threads + 1)
        self._lock = threading.Lock()
        self._failures = Failures()
        self._done: list[int] = []
        self._failed: list[int] = []
        self._slowest = 0.0
        self._threads = [threading.Thread(target=self._insert, args=(which,), daemon=True) for which in range(threads)]
        for thread in self._threads:
            thread.start()
        self._warm.wait(30)

    def finish(self, timeout: float) -> dict[str, Any]:
        self._stop.set()
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0, end - time.monotonic()))
        return {
            "done": self._done,
            "failed": self._failed,
            "hanging": sum(thread.is_alive() for thread in self._threads),
            "slowest": self._slowest,
            "messages": self._failures.messages,
        }

    def _insert(self, which: int) -> None:
        self._db._query("SELECT 1")
        self._warm.wait(30)
        number = which * APART
        while not self._stop.is_set():
            start = time.monotonic()
            failed = self._failures.saw(self._db._update(f"INSERT INTO rows_of VALUES ({number})"))
            with self._lock:
                (self._failed if failed else self._done).append(number)
                self._slowest = max(self._slowest, time.monotonic() - start)
            number += 1
            if self._pause:
                # Not in step with each other, nor with what the harness does at regular intervals.
                time.sleep(self._pause * random.uniform(0.5, 1.5))


_running: list[_Load] = []


def start(account: dict[str, Any], threads: int, pause: float) -> None:
    """Start a load in the worker; returns when each thread has its connection.

    threads: number of them; pause: mean seconds that a thread waits between two statements; 0 for full speed.
    """
    _running.append(_Load(account, threads, pause))


def finish(timeout: float) -> dict[str, Any]:
    """End the load started last. timeout: seconds to wait for its threads. Returns: the input of check()."""
    return _running.pop().finish(timeout)


def check(server: MariaDB, account: dict[str, Any], told: dict[str, Any]) -> Outcome:
    """Compare the results that the threads got with the contents of the table."""
    rows = server.execute("SELECT n, COUNT(*) FROM rows_of GROUP BY n", account["database"])
    times = {int(number): int(count) for number, count in rows}
    return Outcome(
        statements=len(told["done"]) + len(told["failed"]),
        failed=len(told["failed"]),
        lost=sum(number not in times for number in told["done"]),
        doubled=sum(count > 1 for count in times.values()),
        unsure=sum(number in times for number in told["failed"]),
        hanging=told["hanging"],
        slowest=round(told["slowest"], 3),
        messages=told["messages"],
    )
