"""A process with pooled connections forks: its children query and end while it continues."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from typing import Any

from chaos.arms import Account, Arm, Arms
from chaos.pool import Failures, connect, connection_id
from chaos.result import Row, as_stock, none
from lab.arms import PLUGGED, STOCK

WAYS = ("os._exit", "sys.exit", "multiprocessing")
QUERIES = 20
THREADS = 4
CHILD_THREADS = 2
PATIENCE = 3  # seconds to wait for a child or a thread whose answer went to another process


def run(arms: Arms, short: bool) -> list[Row]:
    """Fork children while the parent waits for them, then many of them while its threads query."""
    times, children = (2, 4) if short else (10, 12)

    def one(arm: Arm, function: Any, number: int) -> dict[str, Any]:
        with arm.account() as account:
            answer: dict[str, Any] = arm.worker.call(function, account, number)
            return answer

    waiting = arms.together(lambda arm: one(arm, while_waiting, times))
    loaded = arms.together(lambda arm: one(arm, under_load, children))
    arms_messages = {name: answer["messages"] for name, answer in waiting.items()}
    kept = {name: answer["kept"] for name, answer in waiting.items()}
    return [
        as_stock(
            f"parent waits, {times} x {len(WAYS)} children: failed",
            {name: answer["failed"] for name, answer in waiting.items()},
            **arms_messages,
        ),
        none("  answers mixed up", {name: answer["mixed"] for name, answer in waiting.items()}),
        Row(
            f"  parent's connections that survived, of {times * len(WAYS) * (THREADS + 1)}",
            kept,
            ">= stock",
            min(kept[arm] for arm in PLUGGED) >= kept[STOCK],
        ),
        as_stock(
            f"under load, {children} children: failed or hanging",
            {name: answer["failed"] for name, answer in loaded.items()},
            0,
            "the children have threads; in stock these take the connections that the parent uses",
            **{name: answer["messages"] for name, answer in loaded.items()},
        ),
        none("  answers mixed up", {name: answer["mixed"] for name, answer in loaded.items()}),
    ]


class _Asking:
    """Queries numbers and checks that the same ones come back."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self.failures = Failures()
        self.mixed = 0

    def ask(self) -> None:
        # Different from any that another process or thread asks for.
        number = (os.getpid() * 64 + threading.get_native_id() % 64) * 1_000_000 + time.monotonic_ns() % 1_000_000
        answer = self._db._query(f"SELECT {number}")
        if not self.failures.saw(answer) and answer["Value"] != ((number,),):
            self.mixed += 1

    def add(self, other: dict[str, Any]) -> None:
        self.mixed += other["mixed"]
        self.failures.messages.update(other["messages"])

    def report(self) -> dict[str, Any]:
        messages = self.failures.messages
        return {"failed": messages.total(), "messages": messages, "mixed": self.mixed}


def while_waiting(account: Account, times: int) -> dict[str, Any]:
    """In a worker: fork, wait for the child, continue; meanwhile other threads hold unused connections.

    Returns: failures of parent and children, answers that belonged to another query, and how many of the parent's
    connections were still the same, summed over all children.
    """
    db = connect(account)
    asking = _Asking(db)
    go, done, stop = threading.Barrier(THREADS + 1), threading.Barrier(THREADS + 1), threading.Event()
    numbers: dict[int, int] = {}

    def look(which: int) -> None:
        numbers[which] = connection_id(db)
        asking.ask()

    def hold(which: int) -> None:
        while True:
            go.wait()
            if stop.is_set():
                return
            look(which)
            done.wait()

    def look_around() -> dict[int, int]:
        go.wait()
        done.wait()
        look(THREADS)
        return dict(numbers)

    holders = [threading.Thread(target=hold, args=(which,), daemon=True) for which in range(THREADS)]
    for thread in holders:
        thread.start()
    kept = 0
    for _ in range(times):
        for way in WAYS:
            before = look_around()
            asking.add(_Child(db, way, threads=0).wait())
            after = look_around()
            kept += sum(after[which] == before[which] for which in before)
    stop.set()
    go.wait()
    return {**asking.report(), "kept": kept}


def under_load(account: Account, children: int) -> dict[str, Any]:
    """In a worker: fork children that have threads, while threads query. Returns: as while_waiting()."""
    db = connect(account)
    asking = _Asking(db)
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.002):
            asking.ask()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    # Two at a time: more would only compete for the CPU.
    for number in range(0, children, 2):
        pair = [_Child(db, WAYS[(number + which) % len(WAYS)], CHILD_THREADS) for which in range(2)]
        for child in pair:
            asking.add(child.wait())
    stop.set()
    end = time.monotonic() + PATIENCE
    for thread in threads:
        thread.join(max(0, end - time.monotonic()))
        if thread.is_alive():
            asking.failures.add("a thread of the parent hangs")
    return asking.report()


class _Child:
    """A forked child that queries in its first thread and in new ones, and ends in one of the WAYS."""

    def __init__(self, db: Any, way: str, threads: int) -> None:
        self._way = way
        self._read, self._write = os.pipe()
        self._db = db
        self._threads = threads
        self._process: Any = None
        self._pid = 0
        if way == "multiprocessing":
            self._process = multiprocessing.get_context("fork").Process(target=self._live)
            self._process.start()
        else:
            self._pid = os.fork()
            if self._pid == 0:
                self._live()
                if way == "os._exit":
                    os._exit(0)
                sys.exit(0)
        os.close(self._write)

    def wait(self) -> dict[str, Any]:
        """Wait until it has ended. Returns: its report, or a failure if there is none."""
        with os.fdopen(self._read) as pipe:
            text = pipe.read()
        if self._process:
            self._process.join()
        else:
            os.waitpid(self._pid, 0)
        if text:
            report: dict[str, Any] = json.loads(text)
            return report
        return {"mixed": 0, "messages": {f"a child hangs or dies ({self._way})": 1}}

    def _live(self) -> None:
        # A watchdog: SIGALRM ends the process by default, should it wait for an answer for ever.
        signal.alarm(PATIENCE)
        asking = _Asking(self._db)

        def ask() -> None:
            for _ in range(QUERIES):
                asking.ask()

        threads = [threading.Thread(target=ask) for _ in range(self._threads)]
        for thread in threads:
            thread.start()
        ask()
        for thread in threads:
            thread.join()
        os.write(self._write, json.dumps(asking.report()).encode())
