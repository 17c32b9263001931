"""max_connections is reached: one pool has more threads than the server accepts connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from chaos.arms import Account, Arm, Arms
from chaos.pool import Failures, connect, shorten_retries
from chaos.result import Row, as_stock, none, reported

LIMIT = 10  # the smallest value that MariaDB accepts
LATE = 5


def run(arms: Arms, short: bool) -> list[Row]:
    """10 connections are allowed, and all are held. 5 more threads come; a second later, 8 of the holders end.

    DIRAC's own retry sleeps 5 s, then 10 s, and so on. The first sleep is enough if the waiting threads get the
    connections that the holders leave. In the short form it is 2 s.
    """
    sleep = 2 if short else 5

    def one(arm: Arm) -> dict[str, Any]:
        allowed = arm.server.execute("SELECT @@max_connections")[0][0]
        with arm.account() as account:
            arm.worker.call(shorten_retries, sleep)
            arm.server.execute(f"SET GLOBAL max_connections = {LIMIT}")
            try:
                answer: dict[str, Any] = arm.worker.call(crowd, account)
            finally:
                arm.server.execute(f"SET GLOBAL max_connections = {allowed}")
            return answer

    answers = arms.together(one)
    return [
        as_stock(
            f"failed, {LIMIT} + {LATE} threads, {LIMIT} connections",
            {name: answer["failed"] for name, answer in answers.items()},
            **{name: answer["messages"] for name, answer in answers.items()},
        ),
        none(
            "accepted by the full server, without retries",
            {name: 1 - answer["refused"] for name, answer in answers.items()},
        ),
        reported(
            "longest wait for a connection, s",
            {name: answer["slowest"] for name, answer in answers.items()},
            f"DIRAC's own retry sleeps {sleep} s first",
        ),
    ]


def crowd(account: Account) -> dict[str, Any]:
    """In a worker: fill the server, start more threads, and end most of the first ones.

    Returns: how many queries failed, their messages, whether a checkout without retries was refused while the server
    was full, and the longest time in seconds that a late thread waited.
    """
    db, failures = connect(account), Failures()
    # The connection that connect() took for this thread is the first of the ten.
    full, leave, stop = threading.Barrier(LIMIT), threading.Event(), threading.Event()
    waited: list[float] = []

    def hold() -> None:
        failures.saw(db._query("SELECT 1"))
        full.wait(30)
        leave.wait(30)

    def work() -> None:
        # Keeps running: the checkouts of such a thread find what ended threads left, in stock too.
        failures.saw(db._query("SELECT 1"))
        full.wait(30)
        while not stop.wait(0.01):
            failures.saw(db._query("SELECT 1"))

    def come_late() -> None:
        start = time.monotonic()
        failures.saw(db._query("SELECT 1"))
        waited.append(time.monotonic() - start)

    def knock() -> None:
        refused.append(not db._MySQL__connectionPool.get(account["database"], 0)["OK"])

    refused: list[bool] = []
    holders = _started(hold, LIMIT - 2)
    busy = _started(work, 1)
    full.wait(30)
    _join(_started(knock, 1))
    late = _started(come_late, LATE)
    time.sleep(1)
    leave.set()
    _join([*holders, *late])
    stop.set()
    _join(busy)
    return {
        "failed": failures.messages.total(),
        "messages": failures.messages,
        "refused": sum(refused),
        "slowest": max(waited, default=-1.0),
    }


def _started(work: Callable[[], None], number: int) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, daemon=True) for _ in range(number)]
    for thread in threads:
        thread.start()
    return threads


def _join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(60)
