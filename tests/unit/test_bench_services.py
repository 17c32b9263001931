"""The figures of `make bench-services`, from what the clients and services report."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.services import figures
from bench.services.__main__ import SECONDS, options, plan
from bench.services.crew import SERVICE_OF
from bench.services.figures import GOALS, LOOPBACK, Cell, percentile
from bench.services.sides import IN_TREE, PATCHED, SIDES, STOCK


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


def test_goals_are_ratios() -> None:
    stock = figures.summarize([slot([0.1] * 10)])
    for goal, ratio in figures.judged(measured(rate=35.0, server=7.0)):
        assert ratio == pytest.approx(3.5 if goal.figure == "rate" else 7 / stock["server"])
    verdicts = {goal.limit: goal.is_met(ratio) for goal, ratio in figures.judged(measured(rate=31.0, server=1.0))}
    assert verdicts == {3.0: True, 3.5: False, 1.7: True, 0.7: True, 1.0: True, 2.0: True}
    met = [goal for goal, ratio in figures.judged(measured()) if goal.is_met(ratio)]
    assert [goal.than for goal in met] == [IN_TREE]


def test_what_is_compared_with_another_side_than_stock() -> None:
    found = measured(server=7.0)
    for sides in found.values():
        sides[IN_TREE]["server"] = 5.0
    (other,) = [(goal, ratio) for goal, ratio in figures.judged(found) if goal.than == IN_TREE]
    assert other[1] == pytest.approx(1.4)
    assert not other[0].is_met(other[1])


def test_what_was_not_measured_has_no_goal() -> None:
    found = measured()
    del found[Cell(4096, LOOPBACK, 1, "ping")]
    assert len(figures.judged(found)) == len(GOALS) - 1
    for sides in found.values():
        del sides[IN_TREE]
    assert [goal.than for goal, _ in figures.judged(found)] == [STOCK] * (len(GOALS) - 2)


def test_the_tables() -> None:
    found = measured(rate=36.0)
    lines = figures.table(found).splitlines()
    assert lines[3] == "ping, 1 client, keys of 4096 bits"
    assert lines[4].split()[:4] == ["stock", "9.1.8", "10", "1.00"]
    assert lines[5].split()[:6] == ["9.1.8", "+", "plugin", "36", "3.60", "x"]
    assert Cell(2048, 0.5, 16, "exists").label() == "exists, 16 clients, keys of 2048 bits, database 0.5 ms away"
    goals = figures.goals_table(figures.judged(found)).splitlines()[2:]
    assert [line.split("  ")[-1].split(":")[0].strip() for line in goals] == ["met"] * 3 + ["MISSED"] * 2 + ["met"] * 2
    assert all(goal.reason in line for goal, line in zip(GOALS, goals) if "MISSED" in line)


def test_every_goal_and_every_request_is_measured_against_stock() -> None:
    whole, short, quick = (plan(options(words)) for words in ([], ["--short"], ["--quick"]))
    assert {goal.cell for goal in GOALS} <= set(whole.cells)
    assert [cell for cell in short.cells if cell in {goal.cell for goal in GOALS}]
    for one in (whole, quick):
        assert {cell.request for cell in one.cells} == set(SERVICE_OF)
    for one in (whole, short, quick):
        assert one.sides[0] == STOCK
        assert {cell.clients for cell in one.cells} <= set(one.seconds)
        assert len(set(one.cells)) == len(one.cells)
    assert whole.seconds == SECONDS
    assert next(iter(SIDES)) == STOCK


def test_a_long_and_a_short_form_at_once_are_refused() -> None:
    with pytest.raises(SystemExit):
        options(["--short", "--quick"])
