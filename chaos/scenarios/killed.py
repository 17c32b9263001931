"""Connections are killed while threads use them as fast as they can."""

from __future__ import annotations

from typing import Any

from chaos import load
from chaos.arms import Arm, Arms
from chaos.killing import Killer
from chaos.result import Row, as_stock, chance, none, reported, worst
from lab.arms import STOCK

THREADS = 8
EVERY = 0.1


def run(arms: Arms, short: bool) -> list[Row]:
    """8 threads insert; every 100 ms, all connections that are idle at that moment are killed."""
    kills = 50 if short else 200

    def one(arm: Arm) -> tuple[load.Outcome, int]:
        with arm.account() as account:
            killer = Killer(arm.server, account["user"])
            arm.worker.call(load.start, account, THREADS, 0)
            killer.keep_on(EVERY, kills=kills)
            told = arm.worker.call(load.finish, 30)
            return load.check(arm.server, account, told), killer.killed

    outcomes = arms.in_turn(one)
    failed = {name: outcome.failed for name, (outcome, _) in outcomes.items()}
    counts = "; ".join(f"{name} {outcome.statements} / {killed}" for name, (outcome, killed) in outcomes.items())
    messages = {name: outcome.messages for name, (outcome, _) in outcomes.items()}
    return [
        _failed(failed, short, f"statements / kills: {counts}", messages),
        none("lost: reported done, not in the table", {name: outcome.lost for name, (outcome, _) in outcomes.items()}),
        none("applied twice", {name: outcome.doubled for name, (outcome, _) in outcomes.items()}),
        reported(
            "reported failed, but in the table",
            {name: outcome.unsure for name, (outcome, _) in outcomes.items()},
            "killed between request and answer: nobody can know",
        ),
    ]


def _failed(failed: dict[str, int], short: bool, note: str, messages: dict[str, Any]) -> Row:
    label = "failed statements"
    if short:  # too few kills to tell fewer failures from chance
        return as_stock(label, failed, chance(failed), note, **messages)
    fewer = worst(failed) == 0 or worst(failed) < failed[STOCK]
    return Row(label, failed, "< stock", fewer, note, messages)
