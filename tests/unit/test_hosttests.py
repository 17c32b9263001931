"""What `make host-tests` concludes from the outcomes of the host's own tests in both arms, and what it prints."""

from __future__ import annotations

import pytest

from hosttests import comparing, report
from hosttests.comparing import DIFFERENT, FLAKY, REPEATED, SAME, Outcome
from hosttests.running import Pair

STATES = {"error_stack": "applied", "dms_helpers": "armed"}


def pair(stock: str, patched: str) -> Pair:
    """One test, "t": one letter per run, the first of the word; "-" if the test was not there."""
    words = {"p": "passed", "f": "failed", "s": "skipped"}

    def runs(letters: str) -> list[comparing.Outcomes]:
        return [{"t": Outcome(words[one], f"why {one}")} if one in words else {} for one in letters]

    return Pair(runs(stock), runs(patched), [STATES] * len(patched))


@pytest.mark.parametrize(
    ("stock", "patched", "verdict"),
    [
        ("p", "p", SAME),
        ("f", "f", SAME),
        ("p", "f", DIFFERENT),
        ("f", "p", DIFFERENT),
        ("p", "s", DIFFERENT),
        ("p", "-", DIFFERENT),
        ("-", "p", DIFFERENT),
        ("pppp", "ffff", DIFFERENT),
        ("pp", "fp", REPEATED),
        ("pppp", "fpff", DIFFERENT),
        ("pf", "fp", FLAKY),
        ("pfp", "fff", FLAKY),
    ],
)
def test_a_test_is_judged_by_its_repetitions(stock: str, patched: str, verdict: str) -> None:
    assert pair(stock, patched).verdicts() == {"t": verdict}


def test_what_differs_is_shown_with_both_outputs() -> None:
    (problem,) = report.problems({"9.1.8": [pair("p", "p"), pair("ff", "ss")]})
    assert "9.1.8: t differs" in problem
    assert "stock: failed, failed\nwhy f" in problem
    assert "patched: skipped, skipped\nwhy s" in problem


def test_what_is_flaky_is_named_and_no_problem() -> None:
    found = {"9.1.8": [pair("pf", "fp")]}
    assert "9.1.8: t is flaky on stock" in report.text(found)
    assert report.problems(found) == []


def test_what_differs_on_purpose_is_named_with_the_reason_and_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "ON_PURPOSE", {"t": "wants what is wrong"})
    monkeypatch.setattr(report, "ON_PURPOSE", {"t": "wants what is wrong"})
    found = {"9.1.22": [pair("pppp", "ffff")]}
    assert "9.1.22: t is different on purpose: it wants what is wrong" in report.text(found)
    assert report.problems(found) == []
    assert pair("p", "p").verdicts() == {"t": SAME}


def test_a_patch_that_has_tripped_and_a_run_that_broke_are_problems() -> None:
    tripped, broken = pair("p", "p"), pair("", "")
    tripped.states = [{"error_stack": "tripped"}]
    broken.problem = "DIRAC/Core ended with -11"
    assert report.problems({"9.1.8": [tripped, broken]}) == [
        "9.1.8: error_stack is tripped",
        "9.1.8: DIRAC/Core ended with -11",
    ]


def test_the_table_counts_tests_and_says_which_patches_ran() -> None:
    lines = report.text({"9.0.28": [pair("p", "p"), pair("f", "f")]}).splitlines()
    header, row = lines[0].split("  "), next(line.split() for line in lines if line.startswith("9.0.28"))
    assert header[0] == "DIRAC"
    assert row[:4] == ["9.0.28", "2", "1", "1"]
    assert next(line.split() for line in lines if line.startswith("error_stack")) == ["error_stack", "2"]
    assert next(line.split() for line in lines if line.startswith("dms_helpers")) == ["dms_helpers", "armed"]
