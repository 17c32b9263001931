"""The report as text for a terminal, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from time import gmtime, strftime
from typing import Any

from dirac_perfpatch.comparison import words
from dirac_perfpatch.comparison.effects import ALL_PATCHES
from dirac_perfpatch.comparison.report import PatchReport, Report
from dirac_perfpatch.comparison.rows import Row
from dirac_perfpatch.comparison.snapshot import ARMS, PATCHED, STOCK

_FELT_HEADINGS = (
    "what users feel",
    "arm",
    "number",
    "errors (95 %)",
    "median",
    "mean",
    "CPU",
    "ratio (95 %)",
    "CPU ratio",
)
# Rows of a patch about what users feel in the text; the other forms of the report have all.
_MOST_FELT = 4
_HEADINGS = ("target", "arm", "calls", "errors (95 %)", "median", "95th", "99th", "ratio (95 %)")


def moment(value: float) -> str:
    """A point in time, such as ``2026-01-31 12:00 UTC``."""
    return strftime("%Y-%m-%d %H:%M UTC", gmtime(value))


def period(report: Report) -> str:
    """The processes that were read, their hosts, and from when to when."""
    hosts = report.hosts[0] if len(report.hosts) == 1 else f"{len(report.hosts)} hosts"
    processes = f"{report.processes} process{'' if report.processes == 1 else 'es'}"
    return f"{processes} on {hosts}, {moment(report.began)} to {moment(report.ended)}"


def as_text(report: Report) -> str:
    """For a terminal; without a line break at the end."""
    lines = [words.summary(report)]
    if report.processes:
        lines.append(f"{period(report)}; DIRAC {', '.join(report.releases)}")
    table = _aligned([_HEADINGS, *(cells for patch in report.patches for row in patch.rows for cells in _cells(row))])
    heading = next(table)
    shown = [row for rows in (*(patch.felt for patch in report.patches), report.felt) for row in rows[:_MOST_FELT]]
    felt = _aligned([_FELT_HEADINGS, *(cells for row in shown for cells in _felt_cells(row))])
    felt_heading = next(felt)

    def felt_lines(rows: Sequence[Row]) -> Iterator[str]:
        if rows:
            yield f"  {felt_heading}"
        for row in rows[:_MOST_FELT]:
            yield from (f"  {next(felt)}" for _ in _felt_cells(row))
            yield f"    {row.target}: {words.verdict(row)}"

    for patch in report.patches:
        lines += ["", f"{patch.patch}: {words.headline(patch)}", f"  {states(patch)}"]
        lines += [f"  {line}" for line in words.usage(patch)]
        lines += [f"  {line}" for line in words.troubles(patch)]
        if patch.rows:
            lines.append(f"  {heading}")
        for row in patch.rows:
            lines += [f"  {next(table)}" for _ in row.arms]
            lines.append(f"    {row.target}{f', by {row.by}' if row.by else ''}: {words.verdict(row)}")
        lines += felt_lines(patch.felt)
    if report.felt:
        lines += ["", f"{ALL_PATCHES} together:", *felt_lines(report.felt)]
    lines += ["", *words.mixed(report)] if report.mixed else []
    lines += ["", *(f"not read: {text}" for text in words.first_few(report.complaints))] if report.complaints else []
    return "\n".join(lines)


def states(patch: PatchReport) -> str:
    """The number of processes by state, and what the patch counted."""
    text = f"processes: {', '.join(f'{number} {state}' for state, number in patch.states.items()) or 'none'}"
    if patch.checked:
        text += f"; {patch.checked} answers compared with stock, {patch.differences} differed"
    if patch.events:
        text += "; " + ", ".join(f"{name} {number}" for name, number in patch.events.items())
    return text


def arm_cells(row: Row, micro: str = "u") -> Iterator[tuple[str, ...]]:
    """For each arm its name, calls, errors, median, 95th and 99th percentile; ``micro`` as in ``words.seconds``."""
    for arm in (STOCK, PATCHED):
        if arm in row.arms:
            one = row.arms[arm]
            times = (words.seconds(value, micro) for value in (one.median, one.p95, one.p99))
            yield (arm, f"{one.calls:,}", words.rate(one.error_rate), *times)


def felt_cells(row: Row, micro: str = "u") -> Iterator[tuple[str, ...]]:
    """For each arm its name, number, errors, median, mean and mean CPU time; ``micro`` as in ``words.seconds``."""
    for arm in (STOCK, PATCHED):
        if arm in row.arms:
            one = row.arms[arm]
            times = (words.seconds(value, micro) for value in (one.median, one.mean, one.cpu))
            yield (arm, f"{one.calls:,}", words.rate(one.error_rate), *times)


def _felt_cells(row: Row) -> list[tuple[str, ...]]:
    ratios = (words.times(row.ratio), words.times(row.cpu_ratio))
    lines = [(row.target, *cells, *(ratios if cells[0] == PATCHED else ("", ""))) for cells in felt_cells(row)]
    return lines or [(row.target, *[""] * 6, *ratios)]


def _cells(row: Row) -> list[tuple[str, ...]]:
    return [(row.target, *cells, words.times(row.ratio) if cells[0] == PATCHED else "") for cells in arm_cells(row)]


def _aligned(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()


def as_json(report: Report) -> str:
    """All figures; times in seconds, ratios as stock over patched, with 95 % intervals."""
    found = asdict(report)
    found["summary"] = words.summary(report)
    for patch, one in zip(report.patches, found["patches"]):
        one["headline"] = words.headline(patch)
        _complete(patch.rows, one["rows"])
        _complete(patch.felt, one["felt"])
    _complete(report.felt, found["felt"])
    return json.dumps(found, indent=2)


def _complete(rows: Iterable[Row], entries: Iterable[dict[str, Any]]) -> None:
    for row, entry in zip(rows, entries):
        entry["text"] = words.verdict(row)
        del entry["points"]  # one per pair: as many as the spools have


def as_csv(report: Report) -> str:
    """A line per target, and per method that users feel, for spreadsheets."""
    rows = [_flat(row) for patch in report.patches for row in (*patch.rows, *patch.felt)]
    rows += [_flat(row) for row in report.felt]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(_COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().rstrip("\n")


_FIGURES = ("calls", "errors", "timed", "median", "p95", "p99", "mean", "cpu")
_COLUMNS = (
    *("patch", "target", "by", "verdict", "ratio", "ratio_low", "ratio_high"),
    *("mean_ratio", "mean_ratio_low", "mean_ratio_high", "units", "units_more", "seconds_more", "errors_differ"),
    *("cpu_ratio", "cpu_ratio_low", "cpu_ratio_high"),
    *(f"{arm}_{name}" for arm in ARMS for name in (*_FIGURES, "error_rate", "error_rate_low", "error_rate_high")),
)


def _flat(row: Row) -> dict[str, Any]:
    cells: dict[str, Any] = {"patch": row.patch, "target": row.target, "by": row.by}
    cells.update(verdict=row.verdict.word, units=row.verdict.units, units_more=row.verdict.more)
    cells.update(seconds_more=row.more_seconds, errors_differ=row.errors)
    intervals = {"ratio": row.ratio, "mean_ratio": row.mean_ratio, "cpu_ratio": row.cpu_ratio}
    for arm, one in row.arms.items():
        cells.update({f"{arm}_{name}": getattr(one, name) for name in _FIGURES})
        intervals[f"{arm}_error_rate"] = one.error_rate
    for name, interval in intervals.items():
        if interval:
            cells.update({name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high})
    return cells
