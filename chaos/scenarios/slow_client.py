"""A client so slow that the server gives up its connections: the whole process is stopped repeatedly."""

from __future__ import annotations

import os
import signal
import time

from chaos import load
from chaos.arms import Arm, Arms
from chaos.result import Row, as_stock, chance, none

THREADS = 8
PAUSE = 0.01
HALT = 2.0


def run(arms: Arms, short: bool) -> list[Row]:
    """8 threads insert with a wait_timeout of 1 s; the process gets SIGSTOP for 2 s, wherever its threads are."""
    halts = 1 if short else 6

    def one(arm: Arm) -> load.Outcome:
        allowed = arm.server.execute("SELECT @@GLOBAL.wait_timeout")[0][0]
        with arm.account() as account:
            arm.server.execute("SET GLOBAL wait_timeout = 1")
            try:
                arm.worker.call(load.start, account, THREADS, PAUSE)
                for _ in range(halts):
                    time.sleep(0.3)
                    os.kill(arm.worker.process.pid, signal.SIGSTOP)
                    time.sleep(HALT)
                    os.kill(arm.worker.process.pid, signal.SIGCONT)
                time.sleep(0.3)
                return load.check(arm.server, account, arm.worker.call(load.finish, 30))
            finally:
                os.kill(arm.worker.process.pid, signal.SIGCONT)
                arm.server.execute(f"SET GLOBAL wait_timeout = {allowed}")

    outcomes = arms.together(one)
    failed = {name: outcome.failed for name, outcome in outcomes.items()}
    return [
        as_stock(
            f"failed statements, {halts} halt{'s' * (halts > 1)} of {HALT:.0f} s",
            failed,
            chance(failed, most=THREADS // 2 * halts),
            "whether one is halted between check and sending is chance in both arms",
            **{name: outcome.messages for name, outcome in outcomes.items()},
        ),
        none("lost, applied twice, or hanging", {name: outcome.wrong for name, outcome in outcomes.items()}),
    ]
