"""Figures in words that are read the same way by everybody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dirac_perfpatch.comparison.report import TROUBLES, PatchReport, Report, Row
from dirac_perfpatch.comparison.snapshot import PATCHED
from dirac_perfpatch.comparison.statistics import (
    FASTER,
    MORE,
    NO_DIFFERENCE,
    NOT_COMPARED,
    RELEVANT,
    SLOWER,
    TOO_LITTLE,
    Interval,
)

UNITS = {"time": "pairs of windows", "call": "windows", "process": "processes per arm"}
LOOK, MIXED = "needs a look", "mixed"
STANDINGS = (LOOK, SLOWER, MIXED, FASTER, NO_DIFFERENCE, TOO_LITTLE, NOT_COMPARED)
_MOST_LINES = 20
_SPANS = ((86400 * 365, "year"), (86400, "day"), (3600, "hour"), (60, "minute"))


def seconds(value: float | None, micro: str = "u") -> str:
    """A time per call, such as ``3.1 us``; empty for None. A terminal may lack the letter that page and plots have."""
    if value is None:
        return ""
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} {micro}s"


def span(value: float) -> str:
    """A time to wait, such as ``about 20 minutes``."""
    if value >= 86400 * 365:
        return "more than a year"
    for length, unit in _SPANS:
        if value >= 1.5 * length:
            return f"about {value / length:.0f} {unit}s"
    return "about a minute"


def percent(share: float) -> str:
    """A share, such as ``12 %``."""
    return f"{share * 100:.0f} %" if abs(share) >= 0.095 else f"{share * 100:.2g} %"


def rate(interval: Interval | None) -> str:
    """A rate of errors with its interval; empty for None."""
    if interval is None:
        return ""
    return f"{interval.value * 100:.3g} % ({interval.low * 100:.3g} to {interval.high * 100:.3g} %)"


def times(interval: Interval | None) -> str:
    """A ratio with its interval; empty for None."""
    if interval is None:
        return ""
    return f"{_factor(interval.value)} ({_factor(interval.low)} to {_factor(interval.high)})"


def _factor(value: float) -> str:
    if 1000 <= value < 1e9:  # three digits that count, and no exponent
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.2f}" if 0.1 <= value < 10 else f"{value:.3g}"


def change(interval: Interval) -> str:
    """What a ratio means, such as ``takes 12 % less time (10 to 14 %)``."""
    if interval.value >= 2:
        return f"is {_factor(interval.value)} times as fast ({_factor(interval.low)} to {_factor(interval.high)})"
    if interval.value >= 1:
        shares, word = [1 - 1 / one for one in (interval.value, interval.low, interval.high)], "less"
    else:
        shares, word = [1 / one - 1 for one in (interval.value, interval.high, interval.low)], "more"
    return f"takes {percent(shares[0])} {word} time ({percent(shares[1])} to {percent(shares[2])})"


def verdict(row: Row) -> str:
    """The verdict on a target, with what it rests on, as a phrase."""
    word, found = row.verdict.word, row.ratio
    if word == NOT_COMPARED:
        arms = " and ".join(row.arms) or "not recorded"
        return f"not compared: its calls are {arms}"
    if word in (FASTER, SLOWER) and found:
        text = f"{word}: {change(found)}, from {row.verdict.units} {UNITS[row.by]}"
        if row.total.word in (FASTER, SLOWER) and row.total.word != word and row.mean_ratio:
            text += f"; but the mean {change(row.mean_ratio)}: a few calls outweigh the others"
    elif word == NO_DIFFERENCE:
        text = f"no difference of {percent(RELEVANT)} or more, from {row.verdict.units} {UNITS[row.by]}"
    else:
        text = _too_little(row)
    if row.errors:
        text += f"; {row.errors} errors with the patch"
    return text


def _too_little(row: Row) -> str:
    have, more = row.verdict.units, row.verdict.more or 0
    if not have and len(row.arms) == 2 and row.by == "call":
        return f"{TOO_LITTLE}: too few timed calls in a window; take longer windows"
    text = f"{TOO_LITTLE}: {have} of about {have + more} {UNITS[row.by]}"
    if row.more_seconds is None:
        return f"{text}; compare more processes, or by time"
    return f"{text}; wait {span(row.more_seconds)}"


def standing(patch: PatchReport) -> str:
    """Where a patch stands, in one word: that of its targets that matters most."""
    words = {row.verdict.word for row in patch.rows} - {NOT_COMPARED}
    if patch.troubles or any(row.errors == MORE for row in patch.rows):
        return LOOK
    if {FASTER, SLOWER} <= words:
        return MIXED
    for word in (SLOWER, FASTER, TOO_LITTLE, NO_DIFFERENCE):
        if word in words:
            return word
    return NOT_COMPARED


def headline(patch: PatchReport) -> str:
    """Where a patch stands in one sentence, for people who read no more than that."""
    where = standing(patch)
    if where == LOOK:
        return f"Needs a look: {_trouble(patch)}."
    if where == FASTER:
        best = max((row for row in patch.rows if row.ratio and row.verdict.word == FASTER), key=_value)
        more = "" if len(patch.rows) == 1 else "; the targets are below"
        return f"Faster: {best.target} {change(best.ratio)}{more}." if best.ratio else "Faster."
    if where == SLOWER:
        worst = min((row for row in patch.rows if row.ratio and row.verdict.word == SLOWER), key=_value)
        return f"Slower: {worst.target} {change(worst.ratio)}." if worst.ratio else "Slower."
    if where == TOO_LITTLE:
        waits = [row.more_seconds for row in patch.rows if row.more_seconds is not None]
        return f"Too little data yet: wait {span(max(waits))}." if waits else "Too little data yet: see below."
    return {
        MIXED: "Mixed: some calls are faster, others slower.",
        NO_DIFFERENCE: f"No difference of {percent(RELEVANT)} or more.",
        NOT_COMPARED: "Not compared: it is on or off, not ab.",
    }[where]


def _trouble(patch: PatchReport) -> str:
    processes = sum(patch.states.values())
    if switched := sum(patch.states.get(state, 0) for state in TROUBLES):
        return f"it tripped or failed in {switched} of {processes} processes, which run the stock code"
    if patch.differences:
        return f"{patch.differences} of {patch.checked} answers were not those of the stock host"
    return "patched calls end in errors more often than stock ones"


def _value(row: Row) -> float:
    return row.ratio.value if row.ratio else 1.0


def troubles(patch: PatchReport) -> list[str]:
    """A line for each process that needs to be looked at, the first few if there are many."""
    lines = [f"{one.state}: {one.component} on {one.host}, process {one.pid}: {one.reason}" for one in patch.troubles]
    return first_few(lines)


def first_few(lines: Sequence[str]) -> list[str]:
    """So many lines as somebody reads, and how many more there are."""
    more = len(lines) - _MOST_LINES
    return [*lines[:_MOST_LINES], *([f"and {more} more"] if more > 0 else [])]


def usage(patch: PatchReport) -> list[str]:
    """CPU time and memory of the processes, a line per arm; empty where processes are no arms."""
    lines = [
        f"{arm}: {one.processes} processes, each {one.cpu_seconds:.1f} s of CPU"
        f" ({percent(one.cores)} of a core), {one.resident_bytes / 2**20:.0f} MiB"
        for arm, one in patch.usage.items()
    ]
    for what, found in (("CPU time", patch.cpu_ratio), ("memory", patch.memory_ratio)):
        if found:
            lines.append(f"{what}, stock over {PATCHED}: {times(found)}")
    return lines


def summary(report: Report) -> str:
    """The whole report in a sentence or two."""
    if not report.patches:
        return "Nothing is recorded yet."
    counts = Counter(map(standing, report.patches))
    parts = [f"{counts[where]} {where}" for where in STANDINGS if counts[where]]
    text = f"Of {len(report.patches)} patches: {', '.join(parts)}."
    return text if counts[LOOK] else f"{text} None tripped, failed or answered differently."
