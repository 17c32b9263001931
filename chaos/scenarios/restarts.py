"""The server restarts, cleanly or after a crash, while threads keep querying."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from chaos import load
from chaos.arms import Arm, Arms
from chaos.pool import shorten_retries
from chaos.result import Row, as_stock, at_most, chance, none
from lab.mariadb import MariaDB

THREADS = 8
PAUSE = 0.01


def run(arms: Arms, short: bool) -> list[Row]:
    """8 threads insert. A thread that finds no server sleeps in DIRAC's own retry: 5 s, or 1 s in the short form."""
    times, sleep = (1, 1) if short else (3, 5)

    def one(arm: Arm) -> _Outcomes:
        arm.worker.call(shorten_retries, sleep)
        return _Outcomes(*(_without_server(arm, end, times, sleep) for end in (MariaDB.stop, MariaDB.kill)))

    outcomes = arms.together(one)
    stopped = {name: outcome.stopped.failed for name, outcome in outcomes.items()}
    return [
        as_stock(
            f"failed statements, {times} restart{'s' * (times > 1)}",
            stopped,
            chance(stopped, most=THREADS // 2 * times),
            "a statement that is running when the server stops fails in every arm; how many do is chance",
            **{name: outcome.stopped.messages for name, outcome in outcomes.items()},
        ),
        at_most(
            f"failed statements, {times} crash{'es' * (times > 1)}",
            {name: outcome.crashed.failed for name, outcome in outcomes.items()},
            THREADS * times,
            f"<= {THREADS * times}",
            "for 10 to 40 ms a killed server's sockets are still open, which no check without a round trip "
            "can detect: stock loses pings to it, the plugin one statement per thread",
            **{name: outcome.crashed.messages for name, outcome in outcomes.items()},
        ),
        none(
            "lost, applied twice, or hanging",
            {name: outcome.stopped.wrong + outcome.crashed.wrong for name, outcome in outcomes.items()},
        ),
    ]


@dataclass
class _Outcomes:
    stopped: load.Outcome
    crashed: load.Outcome


def _without_server(arm: Arm, end: Callable[[MariaDB], None], times: int, sleep: float) -> load.Outcome:
    with arm.account() as account:
        arm.worker.call(load.start, account, THREADS, PAUSE)
        for _ in range(times):
            time.sleep(0.3)
            end(arm.server)
            arm.server.start()
            # Until the threads that slept have woken up and all are at work again.
            time.sleep(sleep + 0.3)
        return load.check(arm.server, account, arm.worker.call(load.finish, 60))
