"""Hundreds of short-lived threads: what they leave behind must not accumulate."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from chaos.arms import Account, Arm, Arms
from chaos.pool import Failures, connect, connect_directly, connection_id, entries
from chaos.result import Row, as_stock, worst
from lab.arms import STOCK

AT_ONCE = 20
KILLED = 2  # connections per wave, while their threads hold them: dead connections are left behind, too
SETTLED = 1.2


def run(arms: Arms, short: bool) -> list[Row]:
    """Waves of 20 threads; in each wave, two connections are killed before their threads end."""
    waves = 10 if short else 40

    def one(arm: Arm) -> dict[str, Any]:
        with arm.account() as account:
            answer: dict[str, Any] = arm.worker.call(churn, account, waves)
            return answer

    answers = arms.together(one)

    def figures(name: str) -> dict[str, int]:
        return {arm: answer[name] for arm, answer in answers.items()}

    grown = figures("grown")
    return [
        as_stock(
            f"failed statements, {waves * AT_ONCE} threads",
            figures("failed"),
            **{arm: answer["messages"] for arm, answer in answers.items()},
        ),
        as_stock("connections at the server, maximum", figures("most")),
        as_stock("  at the end", figures("left")),
        as_stock("entries in the pool after each wave, maximum", figures("entries")),
        as_stock("  at the end", figures("entries_left")),
        Row("more file descriptors than after a quarter", grown, "<= 0", worst(grown) <= max(0, grown[STOCK])),
    ]


def churn(account: Account, waves: int) -> dict[str, Any]:
    """In a worker: start and end threads in waves, and count what is left after each wave.

    Returns: failures and their messages; this user's connections at the server during a wave and at the end; the
    pool's entries; how many more file descriptors there are at the end than after a quarter of the waves.
    """
    db, administrator, failures = connect(account), connect_directly(account), Failures()
    during, known, files = [], [], []
    for _ in range(waves):
        during.append(_wave(db, administrator, failures))
        failures.saw(db._query("SELECT 1"))  # stock cleans up at every checkout
        known.append(sum(entries(db).values()))
        files.append(len(os.listdir("/proc/self/fd")))
    time.sleep(SETTLED)
    failures.saw(db._query("SELECT 1"))
    answer = {
        "failed": failures.messages.total(),
        "messages": failures.messages,
        "most": max(during),
        "left": _connections(administrator),
        "entries": max(known),
        "entries_left": sum(entries(db).values()),
        "grown": len(os.listdir("/proc/self/fd")) - files[waves // 4],
    }
    administrator.close()
    return answer


def _wave(db: Any, administrator: Any, failures: Failures) -> int:
    """Run one wave. Returns: the number of connections while all its threads hold theirs."""
    numbers: list[int] = []
    here, leave = threading.Barrier(AT_ONCE + 1), threading.Event()

    def live() -> None:
        failures.saw(db._update("INSERT INTO rows_of VALUES (1)"))
        numbers.append(connection_id(db))
        here.wait(60)
        leave.wait(60)

    threads = [threading.Thread(target=live, daemon=True) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    here.wait(60)
    there = _connections(administrator)
    for number in numbers[:KILLED]:
        administrator.cursor().execute(f"KILL {number}")
    leave.set()
    for thread in threads:
        thread.join()
    return there


def _connections(administrator: Any) -> int:
    """The number of this user's connections, without the one that asks."""
    cursor = administrator.cursor()
    cursor.execute("SELECT COUNT(*) FROM information_schema.processlist WHERE id <> CONNECTION_ID()")
    return int(cursor.fetchone()[0])
