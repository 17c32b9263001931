"""The verdicts of a soak."""

from __future__ import annotations

from typing import Any

import pytest

from soak import figures
from soak.figures import Side


def side(growth: float = 0.0, **more: Any) -> Side:
    """A side whose memory grows by so many MB in each half."""
    samples = [{"A/B MB": 80 + growth * second / 100, "MySQL connections": 20 + second % 5} for second in range(200)]
    return Side(**{"samples": samples, "requests": 1000, "failures": {}, "changes": 60, "wrong": [], **more})


@pytest.mark.parametrize(
    ("stock", "ours", "right"),
    [
        (side(), side(), True),
        (side(), side(growth=8), True),
        (side(), side(growth=20), False),
        (side(growth=30), side(growth=35), True),
        (side(growth=-30), side(growth=20), False),  # what stock gives back is no credit
        (side(), side(failures={"exists: timeout": 1}), False),
        (side(failures={"exists: timeout": 2}), side(failures={"exists: timeout": 2}), True),
        (side(), side(wrong=["A/B: error_stack is tripped"]), False),
        (side(), side(changes=0), False),
    ],
)
def test_what_is_right(stock: Side, ours: Side, right: bool) -> None:
    text, found = figures.table(stock, ours)
    assert found is right
    assert ("WRONG" in text) is not right
    for line in (*ours.failures, *ours.wrong):
        assert line in text
