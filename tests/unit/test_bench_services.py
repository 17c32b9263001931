"""The figures of `make bench-services`, from what the clients and services report."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.services import figures
from bench.services.__main__ import SECONDS, cells
from bench.services.figures import GOALS, LOOPBACK, Cell, percentile
from bench.services.sides import PATCHED, SIDES, STOCK


def slot(latencies: list[float], clients: int = 1, server: float = 0.1, **more: Any) -> dict[str, Any]:
    one = {"latencies": latencies, "seconds": sum(latencies), "cpu": 0.001 * len(latencies), "failures": [], **more}
    return {"clients": [one] * clients, "server": server}


def test_the_figures_of_a_cell() -> None:
    slots = [slot([0.1] * 9, server=0.05), slot([0.05] * 19, server=0.06), slot([0.2] * 4, server=0.04)]
    assert figures.summarize(slots) == {
        "rate": pytest.approx(10),  # the median of 10, 20 and 5 a second
        "p50": 50,
        "p95": 200,
        "p99": 200,
        "server": pytest.approx(150 / 35),  # of 32 timed requests, and one more of each client
        "client": pytest.approx(1),
        "requests": 32,
        "failures": 0,
    }


def test_clients_work_at_the_same_time() -> None:
    found = figures.summarize([slot([0.1] * 10, clients=4, failures=["refused"])])
    assert (found["rate"], found["requests"], found["failures"]) == (pytest.approx(40), 40, 4)


@given(st.lists(st.floats(0, 1), min_size=1), st.sampled_from([50, 95, 99, 100]))
def test_a_percentile_is_the_least_value_that_enough_do_not_exceed(values: list[float], part: int) -> None:
    found = percentile(values, part)
    assert found in values
    assert 100 * sum(value <= found for value in values) >= part * len(values)
    assert 100 * sum(value < found for value in values) < part * len(values)


def measured(**patched: float) -> dict[Cell, dict[str, Any]]:
    stock = figures.summarize([slot([0.1] * 10)])
    return {goal.cell: {side: {**stock, **(patched if side == PATCHED else {})} for side in SIDES} for goal in GOALS}


def test_goals_are_ratios_to_stock() -> None:
    ratios = [ratio for _, ratio in figures.judged(measured(rate=35.0, server=7.0))]
    stock = figures.summarize([slot([0.1] * 10)])
    assert ratios == [pytest.approx(3.5)] * 3 + [pytest.approx(7 / stock["server"])] * 2
    verdicts = [goal.is_met(ratio) for goal, ratio in figures.judged(measured(rate=31.0, server=1.0))]
    assert verdicts == [True, False, True, True, True]
    assert not any(goal.is_met(ratio) for goal, ratio in figures.judged(measured()))


def test_what_was_not_measured_has_no_goal() -> None:
    found = measured()
    del found[Cell(4096, LOOPBACK, 1, "ping")]
    assert len(figures.judged(found)) == len(GOALS) - 1


def test_the_tables() -> None:
    found = measured(rate=36.0)
    lines = figures.table(found).splitlines()
    assert lines[3] == "ping, 1 client, keys of 4096 bits"
    assert lines[4].split()[:4] == ["stock", "9.1.8", "10", "1.00"]
    assert lines[5].split()[:6] == ["9.1.8", "+", "plugin", "36", "3.60", "x"]
    assert Cell(2048, 0.5, 16, "exists").label() == "exists, 16 clients, keys of 2048 bits, database 0.5 ms away"
    goals = figures.goals_table(figures.judged(found)).splitlines()[2:]
    assert [line.split()[-1] for line in goals] == ["met"] * 3 + ["MISSED"] * 2


def test_every_goal_is_measured_against_stock() -> None:
    assert {goal.cell for goal in GOALS} <= set(cells(short=False))
    assert [cell for cell in cells(short=True) if cell in {goal.cell for goal in GOALS}]
    assert {cell.clients for cell in cells(short=False)} == set(SECONDS)
    assert next(iter(SIDES)) == STOCK
