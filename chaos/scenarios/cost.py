"""The cost of a checkout: round trips that the server sees, and microseconds."""

from __future__ import annotations

import contextlib
import threading
import timeit
from typing import Any

from chaos.arms import Account, Arm, Arms
from chaos.pool import connect
from chaos.result import Row, at_most, none, reported
from lab.arms import IN_TREE, PATCHED

QUERIES = 300
HOLDERS = 100
CALLS = 2000
FACTOR = 1.3


def run(arms: Arms, short: bool) -> list[Row]:
    """Pings for 300 queries; the time of ConnectionPool.get with one thread, and while 100 hold connections."""
    return [none(f"pings for {QUERIES} queries", arms.in_turn(_pings)), *_times(arms, short)]


def _pings(arm: Arm) -> int:
    with arm.account() as account:
        arm.worker.call(query, account, 0)  # a new database object does one checkout
        before = arm.server.pings()
        arm.worker.call(query, account, QUERIES)
        return arm.server.pings() - before


def _times(arms: Arms, short: bool) -> list[Row]:
    rounds = 2 if short else 15
    with contextlib.ExitStack() as stack:
        accounts = {arm.name: stack.enter_context(arm.account()) for arm in arms}
        alone = _fastest(arms, accounts, rounds)
        for arm in arms:
            arm.worker.call(hold, accounts[arm.name], HOLDERS)
        crowded = _fastest(arms, accounts, rounds)
        for arm in arms:
            arm.worker.call(release)
    note = f"minimum of {rounds * 3} repetitions, the arms in turn"
    rows = (
        ("ConnectionPool.get, one thread, us", alone, alone[IN_TREE], f"<= {FACTOR} in-tree"),
        (f"ConnectionPool.get, {HOLDERS} threads hold one, us", crowded, alone[PATCHED], f"<= {FACTOR} alone"),
    )
    if short:
        # Too few repetitions to be sure on a busy machine.
        return [
            reported(label, figures, f"{note}; goal {goal}, asserted only in the long form")
            for label, figures, _, goal in rows
        ]
    return [at_most(label, figures, FACTOR * than, goal, note) for label, figures, than, goal in rows]


def _fastest(arms: Arms, accounts: dict[str, Account], rounds: int) -> dict[str, float]:
    found = {arm.name: float("inf") for arm in arms}
    for _ in range(rounds):
        for arm in arms:
            found[arm.name] = min(found[arm.name], arm.worker.call(measure, accounts[arm.name], CALLS))
    return found


def query(account: Account, times: int) -> None:
    """In a worker: run this many queries. Errors: RuntimeError if one fails."""
    db = connect(account)
    for number in range(times):
        if not db._query(f"SELECT {number}")["OK"]:
            raise RuntimeError("a query failed")


def measure(account: Account, calls: int) -> float:
    """In a worker: microseconds per warm checkout, the minimum of three repetitions of this many calls."""
    pool, database = connect(account)._MySQL__connectionPool, account["database"]
    return min(timeit.repeat(lambda: pool.get(database), number=calls, repeat=3)) / calls * 1e6


_released = threading.Event()
_holders: list[threading.Thread] = []


def hold(account: Account, number: int) -> None:
    """In a worker: start threads that each take a connection and keep it; returns when all have one."""
    pool: Any = connect(account)._MySQL__connectionPool
    ready = threading.Barrier(number + 1)

    def keep() -> None:
        pool.get(account["database"])
        ready.wait(60)
        _released.wait()

    _released.clear()
    _holders[:] = [threading.Thread(target=keep, daemon=True) for _ in range(number)]
    for thread in _holders:
        thread.start()
    ready.wait(60)


def release() -> None:
    """In a worker: end those threads."""
    _released.set()
    for thread in _holders:
        thread.join()
