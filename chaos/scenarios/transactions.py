"""Transactions while connections are killed at random: each is stored whole or not at all, as its caller was told."""

from __future__ import annotations

import threading
import time
from typing import Any

from chaos.arms import Account, Arm, Arms
from chaos.killing import Killer
from chaos.load import APART
from chaos.pool import Failures, connect
from chaos.result import Row, as_stock, chance, none, reported

THREADS = 4
DONE, FAILED, UNSURE = "done", "failed", "unsure"


def run(arms: Arms, short: bool) -> list[Row]:
    """START TRANSACTION, two inserts, COMMIT. Half of all connections are killed every 30 ms, busy or not."""
    seconds = 1.5 if short else 6.0
    return [*_rows(arms, seconds, "conn= passed", True), *_rows(arms, seconds, "without conn=", False)]


def _rows(arms: Arms, seconds: float, label: str, passed: bool) -> list[Row]:
    def one(arm: Arm) -> dict[str, Any]:
        with arm.account() as account:
            killer = Killer(arm.server, account["user"], idle=False, share=0.5)
            arm.worker.call(start, account, passed)
            killer.keep_on(0.03, seconds=seconds)
            told = arm.worker.call(finish)
            rows = arm.server.execute("SELECT n, COUNT(*) FROM rows_of GROUP BY n", account["database"])
            return {**_check(told, {int(number): int(count) for number, count in rows}), "kills": killer.killed}

    answers = arms.together(one)

    def figures(name: str) -> dict[str, int]:
        return {arm: answer[name] for arm, answer in answers.items()}

    kills = "; ".join(f"{name} {answer['told']} / {answer['kills']}" for name, answer in answers.items())
    details = {name: answer["messages"] for name, answer in answers.items()}
    failed = reported(f"{label}: reported as failed", figures("failed"), f"transactions / kills: {kills}", **details)
    if passed:
        return [
            failed,
            none(f"{label}: stored in part", figures("torn")),
            none(f"{label}: not as the caller was told", figures("wrong")),
        ]
    torn, wrong = figures("torn"), figures("wrong")
    note = "a fault of the host: its next checkout replaces the connection in the middle of the transaction"
    return [
        failed,
        as_stock(f"{label}: stored in part", torn, chance(torn), note),
        as_stock(f"{label}: not as the caller was told", wrong, chance(wrong)),
    ]


def _check(told: dict[str, Any], times: dict[int, int]) -> dict[str, Any]:
    """Compare what the callers were told with how often each number is in the table; twice or never is right."""
    wanted = {DONE: (2,), FAILED: (0,), UNSURE: (0, 2)}
    return {
        "told": sum(len(told[word]) for word in wanted),
        "failed": len(told[FAILED]) + len(told[UNSURE]),
        "torn": sum(count != 2 for count in times.values()),
        "wrong": sum(times.get(number, 0) not in counts for word, counts in wanted.items() for number in told[word])
        + told["hanging"],
        "messages": told["messages"],
    }


class _Transactions:
    """The worker's side."""

    def __init__(self, account: Account, passed: bool) -> None:
        self._db = connect(account)
        self._passed = passed
        self._stop = threading.Event()
        self._failures = Failures()
        self._told: dict[str, list[int]] = {DONE: [], FAILED: [], UNSURE: []}
        self._threads = [threading.Thread(target=self._work, args=(which,), daemon=True) for which in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def finish(self) -> dict[str, Any]:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)
        hanging = sum(thread.is_alive() for thread in self._threads)
        return {**self._told, "messages": self._failures.messages, "hanging": hanging}

    def _work(self, which: int) -> None:
        number = which * APART
        while not self._stop.is_set():
            self._told[self._transaction(number)].append(number)
            number += 1

    def _transaction(self, number: int) -> str:
        taken = self._db._getConnection()
        if self._failures.saw(taken):
            return FAILED
        options = {"conn": taken["Value"]} if self._passed else {}
        insert = f"INSERT INTO rows_of VALUES ({number})"
        for statement in ("START TRANSACTION", insert, insert):
            if self._failures.saw(self._db._update(statement, **options)):
                self._roll_back(taken["Value"])
                return FAILED
            time.sleep(0.001)
        # Nobody can know whether a COMMIT without an answer was done.
        return UNSURE if self._failures.saw(self._db._update("COMMIT", **options)) else DONE

    def _roll_back(self, connection: Any) -> None:
        if not self._passed:
            self._db._update("ROLLBACK")
            return
        try:
            connection.rollback()
        except Exception:
            return  # the connection is gone, and the transaction with it


_running: list[_Transactions] = []


def start(account: Account, passed: bool) -> None:
    """In a worker: start threads that make transactions. passed: on a connection that they pass as `conn=`."""
    _running.append(_Transactions(account, passed))


def finish() -> dict[str, Any]:
    """In a worker: end them. Returns: the transactions' numbers by reported outcome, and messages."""
    return _running.pop().finish()
