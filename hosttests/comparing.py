"""What the outcomes of the same tests in both arms, once or repeatedly, say about the plugin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

SAME, REPEATED, FLAKY, DIFFERENT = VERDICTS = "same", "same when repeated", "flaky on stock", "different"


class Outcome(NamedTuple):
    """What became of a test: a word of pytest's, and its output unless it passed."""

    word: str
    text: str = ""


MISSING = Outcome("missing")
Outcomes = dict[str, Outcome]  # by the test's id


def verdicts(stock: Sequence[Outcomes], patched: Sequence[Outcomes]) -> dict[str, str]:
    """A verdict about each test.

    stock, patched: the outcomes of the first run and of each repetition, as many of one as of the other.
    """
    tests = dict.fromkeys(test for run in (*stock, *patched) for test in run)
    return {test: _verdict(_words(test, stock), _words(test, patched)) for test in tests}


def _words(test: str, runs: Sequence[Outcomes]) -> list[str]:
    return [run.get(test, MISSING).word for run in runs]


def _verdict(stock: list[str], patched: list[str]) -> str:
    if len(set(stock)) > 1:
        return FLAKY
    if stock == patched:
        return SAME
    return REPEATED if stock[-1] == patched[-1] else DIFFERENT
