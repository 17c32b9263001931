"""Figures as phrases and sentences, the same in the terminal and on the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dirac_perfpatch.comparison.effects import REQUESTS
from dirac_perfpatch.comparison.report import TROUBLES, PatchReport, Report
from dirac_perfpatch.comparison.rows import Row
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
_SPANS = ((86400, "day"), (3600, "hour"), (60, "minute"))


def seconds(value: float | None, micro: str = "u") -> str:
    """A time per call, such as ``3.1 us``; empty for None. For ``micro``, a terminal may lack the Greek letter."""
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
    if 1000 <= value < 1e9:  # three significant digits without an exponent
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


def cpu_change(interval: Interval) -> str:
    """What a ratio of CPU times means, such as ``12 % less CPU time (10 to 14 %)``."""
    shares = [1 / one - 1 for one in (interval.value, interval.low, interval.high)]
    word, sign = ("less", -1) if shares[0] < 0 else ("more", 1)
    ends = [sign * share for share in shares[1:]]
    return f"{percent(sign * shares[0])} {word} CPU time ({percent(min(ends))} to {percent(max(ends))})"


def verdict(row: Row) -> str:
    """The verdict on a target and its basis, as a phrase."""
    word, found = row.verdict.word, row.ratio
    if word == NOT_COMPARED:
        return f"not compared: {' and '.join(row.arms)} calls were recorded, but the patch is no longer ab"
    if word in (FASTER, SLOWER) and found:
        text = f"{word}: {change(found)}, based on {row.verdict.units} {UNITS[row.by]}"
        if row.total.word in (FASTER, SLOWER) and row.total.word != word and row.mean_ratio:
            text += f"; but the mean {change(row.mean_ratio)}: a few calls outweigh the others"
    elif word == NO_DIFFERENCE:
        text = f"no difference of {percent(RELEVANT)} or more, based on {row.verdict.units} {UNITS[row.by]}"
    else:
        text = _too_little(row)
    if row.cpu and row.cpu_ratio and row.cpu.word in (FASTER, SLOWER):
        text += f"; {cpu_change(row.cpu_ratio)}"
    if row.errors:
        text += f"; {row.errors} errors with the patch"
    return text


def _too_little(row: Row) -> str:
    have, more = row.verdict.units, row.verdict.more or 0
    if not have and len(row.arms) == 2 and row.by == "call":
        return f"{TOO_LITTLE}: too few timed calls per window; set a larger window_seconds"
    text = f"{TOO_LITTLE}: {have} of about {have + more} {UNITS[row.by]}"
    if row.more_seconds is None:
        return f"{text}; compare more processes, or compare by time"
    return f"{text}; wait {span(row.more_seconds)}"


def standing(patch: PatchReport) -> str:
    """The most important verdict among the targets of a patch, as one of ``STANDINGS``."""
    words = {row.verdict.word for row in _judged(patch)}
    # Of what users feel, only all requests count: there may be many methods, of which one differs by chance.
    if patch.troubles or any(row.errors == MORE for row in (*patch.rows, *patch.felt[:1])):
        return LOOK
    if {FASTER, SLOWER} <= words:
        return MIXED
    for word in (SLOWER, FASTER, TOO_LITTLE, NO_DIFFERENCE):
        if word in words:
            return word
    return NOT_COMPARED


def _judged(patch: PatchReport) -> Sequence[Row]:
    """The rows that say how fast a patch is: its targets or, if it has none that is timed, all requests."""
    return [row for row in patch.rows if row.verdict.word != NOT_COMPARED] or patch.felt[:1]


def headline(patch: PatchReport) -> str:
    """The result for a patch in one sentence."""
    where = standing(patch)
    if where == LOOK:
        return f"Needs a look: {_trouble(patch)}."
    if where in (FASTER, SLOWER):
        found = [(row.ratio, row.target) for row in _judged(patch) if row.ratio and row.verdict.word == where]
        ratio, target = (max if where == FASTER else min)(found, key=lambda one: one[0].value)
        more = "; all targets are below" if len(patch.rows) > 1 else ""
        return f"{where.capitalize()}: {target} {change(ratio)}{more}."
    if where == TOO_LITTLE:
        waits = [row.more_seconds for row in _judged(patch) if row.more_seconds is not None]
        return f"Too little data yet: wait {span(max(waits))}." if waits else "Too little data yet: see below."
    return {
        MIXED: "Mixed: some targets are faster, others slower.",
        NO_DIFFERENCE: f"No difference of {percent(RELEVANT)} or more.",
        NOT_COMPARED: "Not compared: it is on or off, not ab.",
    }[where]


def _trouble(patch: PatchReport) -> str:
    processes = sum(patch.states.values())
    if switched := sum(patch.states.get(state, 0) for state in TROUBLES):
        return f"it tripped or failed in {switched} of {processes} processes, which run the stock code"
    if patch.differences:
        return f"{patch.differences} of {patch.checked} answers differed from those of the stock host"
    return "patched calls fail more often than stock calls"


def troubles(patch: PatchReport) -> list[str]:
    """A line for each process that needs attention; the first few if there are many."""
    lines = [f"{one.state}: {one.component} on {one.host}, process {one.pid}: {one.reason}" for one in patch.troubles]
    return first_few(lines)


def first_few(lines: Sequence[str]) -> list[str]:
    """The first lines, and how many more there are."""
    more = len(lines) - _MOST_LINES
    return [*lines[:_MOST_LINES], *([f"and {more} more"] if more > 0 else [])]


def usage(patch: PatchReport) -> list[str]:
    """CPU time and memory, a line per arm; empty unless processes are compared."""
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
        return "Nothing is recorded yet: set a patch to ab, and wait for its calls."
    counts = Counter(map(standing, report.patches))
    parts = [f"{counts[where]} {where}" for where in STANDINGS if counts[where]]
    if counts[LOOK] > 1:
        parts[0] = f"{counts[LOOK]} need a look"
    text = f"Of {len(report.patches)} patches: {', '.join(parts)}."
    if not counts[LOOK]:
        text += " None tripped, failed or answered differently."
    if (
        report.felt
        and report.felt[0].target == REQUESTS
        and report.felt[0].ratio
        and report.felt[0].verdict.word in (FASTER, SLOWER)
    ):
        text += f" With all of them together, a typical request {change(report.felt[0].ratio)}."
    return text


def mixed(report: Report) -> list[str]:
    """A line for each method whose outcomes often lasted beyond their window; the first few if there are many."""
    text = "lasted beyond their window and are not compared; a larger window_seconds has more of them in one window"
    return first_few([f"{method}: {number} {text}" for method, number in report.mixed.items()])
