"""Connections that die while their thread does something else. Nothing here is random, so nothing may fail."""

from __future__ import annotations

import threading
import time
from typing import Any

from chaos.arms import Arm, Arms
from chaos.pool import Failures, connect, connect_directly, connection_id
from chaos.result import Row, none

RESTS = 3


def run(arms: Arms, short: bool) -> list[Row]:
    """Connections killed by somebody, closed by the caller, closed after being lost, or given up by the server."""
    times = 50 if short else 200

    def one(function: Any, *arguments: Any) -> Any:
        def ask(arm: Arm) -> Any:
            with arm.account() as account:
                return arm.worker.call(function, account, *arguments)

        return ask

    def row(label: str, answers: dict[str, Any]) -> Row:
        return none(label, {name: sum(answer.values()) for name, answer in answers.items()}, **answers)

    return [
        row(f"killed while idle, used at once, {times} times", arms.in_turn(one(killed, times))),
        row(f"closed by the caller, {times} times", arms.in_turn(one(closed, times))),
        row(f"lost in use, then closed by the caller, {times} times", arms.in_turn(one(closed_when_lost, times))),
        row(f"wait_timeout 1 s, used after 1.6 s, {RESTS} times", arms.together(one(given_up))),
    ]


def killed(account: dict[str, Any], times: int) -> dict[str, int]:
    """In a worker: kill the thread's connection and use it at once. Returns: the failures, counted."""
    db, administrator, failures = connect(account), connect_directly(account), Failures()
    for number in range(times):
        # 0 after a failure: then there is no connection to kill, and the next query makes one.
        current = connection_id(db) or connection_id(db)
        administrator.cursor().execute(f"KILL {current}")
        failures.saw(db._update(f"INSERT INTO rows_of VALUES ({number})"))
    administrator.close()
    return failures.messages


def closed(account: dict[str, Any], times: int) -> dict[str, int]:
    """In a worker: close the pool's connection, as some of DIRAC's functions do, and continue.

    Returns: the failures, counted.
    """
    db, failures = connect(account), Failures()
    for number in range(times):
        db._getConnection()["Value"].close()
        failures.saw(db._update(f"INSERT INTO rows_of VALUES ({number})"))
    return failures.messages


def closed_when_lost(account: dict[str, Any], times: int) -> dict[str, int]:
    """In a worker: take a connection, lose it, pass it to a query, and close it, as DIRAC's functions do.

    Returns: what close() raised, counted. That the query fails is correct.
    """
    db, administrator, failures = connect(account), connect_directly(account), Failures()
    for _ in range(times):
        taken = db._getConnection()["Value"]
        administrator.cursor().execute(f"KILL {taken.thread_id()}")
        db._query("SELECT 1", conn=taken)
        try:
            taken.close()
        except Exception as error:
            failures.add(repr(error))
    administrator.close()
    return failures.messages


def given_up(account: dict[str, Any]) -> dict[str, int]:
    """In a worker: threads pause for longer than the server's wait_timeout. Returns: the failures, counted."""
    db, failures = connect(account), Failures()

    def rest() -> None:
        failures.saw(db._update("SET SESSION wait_timeout = 1"))
        time.sleep(1.6)
        failures.saw(db._query("SELECT 1"))

    # At the same time: one after the other would only take longer.
    threads = [threading.Thread(target=rest) for _ in range(RESTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures.messages
