"""What the outcomes of the same tests in both arms, once or repeatedly, say about the plugin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

SAME, REPEATED, FLAKY, INTENDED, DIFFERENT = VERDICTS = (
    *("same", "same when repeated", "flaky on stock"),
    *("different on purpose", "different"),
)
# Tests that must fail with the plugin, because they ask for what it is there to mend, and why.
ON_PURPOSE = {
    "DIRAC/DataManagementSystem/Utilities/test/Test_DMSHelpers.py::test_pickle_roundtrip_resolves_to_the_singleton": (
        "wants one helper per VO for ever, which answers for the VO of the first proxy; dms_helpers makes one per call"
    ),
}


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
    found = {test: _verdict(_words(test, stock), _words(test, patched)) for test in tests}
    intended = {test: INTENDED for test, verdict in found.items() if verdict == DIFFERENT and test in ON_PURPOSE}
    return {**found, **intended}


def _words(test: str, runs: Sequence[Outcomes]) -> list[str]:
    return [run.get(test, MISSING).word for run in runs]


def _verdict(stock: list[str], patched: list[str]) -> str:
    if len(set(stock)) > 1:
        return FLAKY
    if stock == patched:
        return SAME
    return REPEATED if stock[-1] == patched[-1] else DIFFERENT
