"""What was measured, as figures, goals and a table. Pure functions of plain data."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lab.table import Row, aligned

from ..result import number
from .sides import IN_TREE, PATCHED, STOCK

Figures = dict[str, float]
LOOPBACK = 0.0


class Cell(NamedTuple):
    """One condition, in which all sides are measured.

    key_bits: of the certificates; delay: milliseconds of a round trip to the database, beyond loopback's own; clients:
    how many at a time; request: its name.
    """

    key_bits: int
    delay: float
    clients: int
    request: str

    def label(self) -> str:
        """In words, for a table."""
        database = f", database {self.delay} ms away" if self.delay else ""
        plural = "s" if self.clients > 1 else ""
        return f"{self.request}, {self.clients} client{plural}, keys of {self.key_bits} bits{database}"


def summarize(slots: Sequence[dict[str, Any]]) -> Figures:
    """The figures of one side in one cell.

    slots: of bench.services.sides.Side.measure(), one per round.
    Returns: "rate" (requests per second, median of the rounds), "p50", "p95" and "p99" (latency in ms, of all requests
    of all rounds), "server" and "client" (CPU per request in ms, of all rounds), "requests" and "failures".
    """
    rates, latencies, failures = [], [], 0
    for slot in slots:
        rates.append(sum(len(client["latencies"]) / client["seconds"] for client in slot["clients"]))
        latencies += [latency for client in slot["clients"] for latency in client["latencies"]]
        failures += sum(len(client["failures"]) for client in slot["clients"])
    requests = len(latencies)
    clients = sum(len(slot["clients"]) for slot in slots)
    # The server also served each client's first request, which is not among those that were timed.
    server = sum(slot["server"] for slot in slots) / (requests + clients)
    client = sum(client["cpu"] for slot in slots for client in slot["clients"]) / requests
    return {
        "rate": statistics.median(rates),
        **{f"p{part}": percentile(latencies, part) * 1000 for part in (50, 95, 99)},
        "server": server * 1000,
        "client": client * 1000,
        "requests": requests,
        "failures": failures,
    }


def percentile(values: Sequence[float], part: float) -> float:
    """The least value that `part` percent of the values do not exceed. Errors: IndexError if values is empty."""
    ordered = sorted(values)
    return ordered[max(0, -int(-len(ordered) * part // 100) - 1)]


@dataclass(frozen=True)
class Goal:
    """What the patched side is to reach, compared with another one.

    cell: the condition; figure: "rate" or "server"; limit: the ratio, at least for a rate and at most for CPU; than:
    the other side; reason: why it is out of reach, shown if it is missed.
    """

    cell: Cell
    figure: str
    limit: float
    than: str = STOCK
    reason: str = ""

    def words(self) -> str:
        """In words, for a table."""
        what = "requests a second" if self.figure == "rate" else "server CPU per request"
        return f"{what}: {'>=' if self.figure == 'rate' else '<='} {self.limit} x {self.than}"

    def is_met(self, ratio: float) -> bool:
        """Whether this ratio of patched to the other side reaches the goal."""
        return ratio >= self.limit if self.figure == "rate" else ratio <= self.limit

    def verdict(self, ratio: float) -> str:
        """In words, for a table."""
        if self.is_met(ratio):
            return "met"
        return f"MISSED: {self.reason}" if self.reason else "MISSED"


_REST = "accepting, the handshake, a thread, logging and the SQL itself are the rest, and stay"
GOALS = (
    Goal(Cell(4096, LOOPBACK, 1, "ping"), "rate", 3.0),
    Goal(Cell(2048, LOOPBACK, 1, "ping"), "rate", 3.5),
    Goal(Cell(4096, LOOPBACK, 4, "ping"), "rate", 1.7),
    Goal(Cell(2048, LOOPBACK, 4, "exists"), "server", 0.7, reason=_REST),
    Goal(Cell(2048, LOOPBACK, 4, "getDirectorySize"), "server", 0.7, reason=_REST),
    Goal(Cell(2048, LOOPBACK, 4, "getDirectorySize"), "server", 1.0, IN_TREE),
    Goal(Cell(2048, LOOPBACK, 1, "https ping"), "rate", 2.0),
)


def judged(figures: dict[Cell, dict[str, Figures]]) -> list[tuple[Goal, float]]:
    """The goals of the cells and sides that were measured, each with its ratio. figures: by cell and side."""
    found = []
    for goal in GOALS:
        sides = figures.get(goal.cell, {})
        if goal.than in sides:
            found.append((goal, sides[PATCHED][goal.figure] / sides[goal.than][goal.figure]))
    return found


def table(figures: dict[Cell, dict[str, Figures]]) -> str:
    """All figures, a section per cell; the ratios are to the first side."""
    rows: list[Row] = [
        (
            "",
            "requests/s",
            "ratio",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "server CPU ms",
            "ratio",
            "client CPU ms",
            "ratio",
            "failed",
        )
    ]
    for cell, sides in figures.items():
        rows += ["", cell.label()]
        stock = next(iter(sides.values()))
        for name, found in sides.items():
            rate, server, client = (f"{found[what] / stock[what]:.2f} x" for what in ("rate", "server", "client"))
            times = [number(found[what]) for what in ("p50", "p95", "p99")]
            row = [f"  {name}", number(found["rate"]), rate, *times, number(found["server"]), server]
            rows.append([*row, number(found["client"]), client, f"{found['failures']:.0f} of {found['requests']:.0f}"])
    return aligned(rows)


def goals_table(found: Sequence[tuple[Goal, float]]) -> str:
    """The goals and what was reached. found: of judged()."""
    rows: list[Row] = [("goal for 9.1.8 + plugin", "", "reached", "")]
    rows += [(goal.cell.label(), goal.words(), f"{ratio:.2f} x", goal.verdict(ratio)) for goal, ratio in found]
    return aligned(rows, left=(0, 1, 3))
