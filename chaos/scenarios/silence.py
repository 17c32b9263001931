"""A network that fails silently: a proxy between DIRAC and the server stops forwarding, or forgets connections."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from chaos import load
from chaos.arms import Account, Arm, Arms
from chaos.pool import Failures, connect
from chaos.result import Row, at_most, none, reported
from lab.proxy import Proxy, can_vanish
from lab.worker import Worker

THREADS = 8
PAUSE = 0.01
# Shorter than the defaults of 5 s each, to save time. One at a time: where the ping is tested, the kernel's probes must
# not help.
THRESHOLD = 1
_CHECKOUT = "patches:\n  connection_checkout:\n    enabled: on\n"
PING = f"{_CHECKOUT}    idle_ping_seconds: {THRESHOLD}\n    keepalive_seconds: 60\n"
PROBE = f"{_CHECKOUT}    idle_ping_seconds: 60\n    keepalive_seconds: {THRESHOLD}\n"


def run(arms: Arms, short: bool) -> list[Row]:
    """The server stops answering for a while; connections are forgotten while they are idle and while they are used."""
    silence = 1.2 if short else 4.0
    rest = 1.5 if short else 6.0
    toggles = [PING] if short else [PING, PROBE]

    def one(arm: Arm) -> _Outcomes:
        with contextlib.ExitStack() as stack:
            workers = [stack.enter_context(arm.new_worker(text)) for text in toggles]
            return _Outcomes(
                _under_load(arm, workers[0], silence, lose=False),
                _under_load(arm, workers[0], silence, lose=True),
                _rested(arm, THRESHOLD / 5, workers[:1])[0],
                _rested(arm, rest, workers),
            )

    outcomes = arms.together(one)
    lost = {name: outcome.lost for name, outcome in outcomes.items()}
    return [
        none(
            f"no answer for {silence} s under load, failed",
            {name: outcome.stalled.failed + outcome.stalled.wrong for name, outcome in outcomes.items()},
            "all arms wait: none of them has a read timeout",
            **{name: outcome.stalled.messages for name, outcome in outcomes.items()},
        ),
        none(
            f"forgotten during a pause of {rest} s, failed of {THREADS}",
            {name: sum(outcome.rested[0].values()) for name, outcome in outcomes.items()},
            f"idle_ping_seconds is {THRESHOLD} here (its default is 5); in-tree's threshold is 5 s, fixed",
            **{name: outcome.rested[0] for name, outcome in outcomes.items()},
        ),
        *_probed(outcomes),
        at_most(
            f"forgotten during a pause of {THRESHOLD / 5} s, failed of {THREADS}",
            {name: sum(outcome.brief.values()) for name, outcome in outcomes.items()},
            THREADS,
            f"<= {THREADS}",
            "no check without a round trip can detect it before a probe does: one failure per connection",
            **{name: outcome.brief for name, outcome in outcomes.items()},
        ),
        at_most(
            f"silent for {silence} s, then all forgotten, failed",
            {name: outcome.failed for name, outcome in lost.items()},
            THREADS,
            f"<= {THREADS}",
            "as if the server's machine rebooted under load: stock loses pings, the plugin one statement per thread",
            **{name: outcome.messages for name, outcome in lost.items()},
        ),
        none("lost, applied twice, or hanging", {name: outcome.wrong for name, outcome in lost.items()}),
    ]


@dataclass
class _Outcomes:
    stalled: load.Outcome
    lost: load.Outcome
    brief: dict[str, int]
    rested: list[dict[str, int]]  # where pings find out, and where the kernel's probes do


def _probed(outcomes: dict[str, _Outcomes]) -> list[Row]:
    if any(len(outcome.rested) == 1 for outcome in outcomes.values()):
        return []
    # If the proxy cannot make connections vanish, its kernel answers the probes.
    row, blind = (none, "") if can_vanish() else (reported, "; not asserted: no CAP_NET_ADMIN here")
    return [
        row(
            "  the same, found by the kernel's probes",
            {name: sum(outcome.rested[1].values()) for name, outcome in outcomes.items()},
            f"keepalive_seconds is {THRESHOLD} here (its default is 5){blind}",
            **{name: outcome.rested[1] for name, outcome in outcomes.items()},
        )
    ]


@contextlib.contextmanager
def _far_away(arm: Arm) -> Iterator[tuple[Proxy, Account]]:
    with Proxy((arm.server.host, arm.server.port)) as proxy, arm.account(port=proxy.port) as account:
        yield proxy, account


def _under_load(arm: Arm, worker: Worker, silence: float, lose: bool) -> load.Outcome:
    with _far_away(arm) as (proxy, account):
        worker.call(load.start, account, THREADS, PAUSE)
        time.sleep(0.3)
        proxy.stall()
        time.sleep(silence)
        if lose:
            proxy.forget()
        proxy.go_on()
        time.sleep(0.5)
        return load.check(arm.server, account, worker.call(load.finish, 20))


def _rested(arm: Arm, rest: float, workers: list[Worker]) -> list[dict[str, int]]:
    """Returns: for each worker, the failures after a pause in which its connections were forgotten, counted."""
    with contextlib.ExitStack() as stack:
        for worker in workers:
            proxy, account = stack.enter_context(_far_away(arm))
            worker.call(begin, account)
            # The kernel delays acknowledgements: one that is still due would be answered with a reset.
            time.sleep(0.1)
            proxy.forget()
        time.sleep(rest)
        return [worker.call(go_on) for worker in workers]


class _Resting:
    """Threads in a worker that each query once, pause until told to go on, and query again."""

    def __init__(self, account: Account) -> None:
        self._db = connect(account)
        self._resting = threading.Barrier(THREADS + 1)
        self._go = threading.Event()
        self._failures = Failures()
        self._threads = [threading.Thread(target=self._rest, daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()
        self._resting.wait(30)

    def go_on(self) -> dict[str, int]:
        self._go.set()
        for thread in self._threads:
            thread.join(20)
            if thread.is_alive():
                self._failures.add("hanging")
        return self._failures.messages

    def _rest(self) -> None:
        self._db._query("SELECT 1")
        self._resting.wait(30)
        self._go.wait()
        # Twice: the first may fail, the second must not.
        for number in range(2):
            self._failures.saw(self._db._update(f"INSERT INTO rows_of VALUES ({number})"))


_now: list[_Resting] = []


def begin(account: Account) -> None:
    """In a worker: start threads that query and pause; returns when all of them pause."""
    _now.append(_Resting(account))


def go_on() -> dict[str, int]:
    """In a worker: let them query again. Returns: the failures, counted."""
    return _now.pop().go_on()
