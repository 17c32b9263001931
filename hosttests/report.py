"""The tables about the releases, and what is wrong in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from lab.arms import PATCHED, STOCK
from lab.table import Row, aligned

from .comparing import DIFFERENT, FLAKY, INTENDED, MISSING, ON_PURPOSE, REPEATED, VERDICTS, Outcomes
from .recording import NOT_COLLECTED
from .running import Pair

Found = Mapping[str, Sequence[Pair]]  # by release: what both arms said about each folder
_WORDS = ("passed", "failed", "error", "skipped", "xfailed", NOT_COLLECTED)


def text(found: Found) -> str:
    """Tables of the outcomes and of the states of the patches; then what was not collected, repeated, or intended."""
    lines = [*_not_collected(found), *_repeated(found), *_intended(found)]
    return "\n\n".join(filter(None, [_outcomes(found), _patches(found), "\n".join(lines)]))


def problems(found: Found) -> list[str]:
    """Each test that differs, with what both arms said last; what did not work or did not end."""
    different = [
        "\n".join(
            [
                f"{release}: {test} differs",
                *(f"--- {arm}: {_words(test, runs)}\n{_last(test, runs)}" for arm, runs in _arms(pair)),
            ]
        )
        for release, pair, test, _ in _judged(found, DIFFERENT)
    ]
    broken = {
        f"{release}: {patch} is {state}"
        for release, pairs in found.items()
        for pair in pairs
        for states in pair.states
        for patch, state in states.items()
        if state in ("tripped", "failed", "off")
    }
    unfinished = [f"{release}: {pair.problem}" for release, pairs in found.items() for pair in pairs if pair.problem]
    return [*different, *sorted(broken), *unfinished]


def _outcomes(found: Found) -> str:
    rows: list[Row] = [("DIRAC", "tests", *_WORDS, "other", *VERDICTS)]
    for release, pairs in found.items():
        words = Counter(outcome.word for pair in pairs for run in pair.stock[:1] for outcome in run.values())
        verdicts = Counter(verdict for pair in pairs for verdict in pair.verdicts().values())
        tests = sum(verdicts.values()) - words[NOT_COLLECTED]
        other = sum(number for word, number in words.items() if word not in _WORDS)
        numbers = [tests, *(words[word] for word in _WORDS), other, *(verdicts[verdict] for verdict in VERDICTS)]
        rows.append((release, *map(str, numbers)))
    return aligned(rows) + f"\n(columns 3 to {len(_WORDS) + 3}: on stock)"


def _patches(found: Found) -> str:
    """In how many processes each patch was applied, or what it was instead."""
    states = {release: [one for pair in pairs for one in pair.states[:1]] for release, pairs in found.items()}
    names = dict.fromkeys(name for runs in states.values() for one in runs for name in one)
    rows: list[Row] = [("patch applied in so many processes", *found)]
    rows += [(name, *(_cell([one[name] for one in runs]) for runs in states.values())) for name in names]
    rows.append(("processes", *(str(len(runs)) for runs in states.values())))
    return aligned(rows)


def _cell(states: Sequence[str]) -> str:
    counts = Counter(states)
    return str(counts["applied"]) if counts["applied"] else " / ".join(sorted(counts))


def _not_collected(found: Found) -> list[str]:
    return [
        f"{release}: {test} is not collected on stock: {outcome.text.strip().splitlines()[-1:]}"
        for release, pairs in found.items()
        for pair in pairs
        for run in pair.stock[:1]
        for test, outcome in run.items()
        if outcome.word == NOT_COLLECTED
    ]


def _repeated(found: Found) -> list[str]:
    return [
        f"{release}: {test} is {verdict}: {'; '.join(f'{arm} {_words(test, runs)}' for arm, runs in _arms(pair))}"
        for release, pair, test, verdict in _judged(found, REPEATED, FLAKY)
    ]


def _intended(found: Found) -> list[str]:
    return [
        f"{release}: {test} is {verdict}: it {ON_PURPOSE[test]}"
        for release, _, test, verdict in _judged(found, INTENDED)
    ]


def _judged(found: Found, *verdicts: str) -> Iterator[tuple[str, Pair, str, str]]:
    """The tests with one of these verdicts: release, pair, test, verdict."""
    for release, pairs in found.items():
        for pair in pairs:
            for test, verdict in pair.verdicts().items():
                if verdict in verdicts:
                    yield release, pair, test, verdict


def _arms(pair: Pair) -> tuple[tuple[str, Sequence[Outcomes]], ...]:
    return (STOCK, pair.stock), (PATCHED, pair.patched)


def _words(test: str, runs: Sequence[Outcomes]) -> str:
    return ", ".join(run.get(test, MISSING).word for run in runs)


def _last(test: str, runs: Sequence[Outcomes]) -> str:
    return runs[-1].get(test, MISSING).text
