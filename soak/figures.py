"""What is measured of a side, and what is right: no failure, and no growth, beyond what stock has at the same time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from lab.table import aligned

# How much more than stock a side may grow in the second half of the time: buffers, caches and connections come and go.
ALLOWED = {"MB": 10.0, "threads": 4.0, "descriptors": 8.0, "MySQL connections": 8.0}
# A second each; the median of so many is a figure.
SAMPLES = 15

Sample = dict[str, float]


class Side(NamedTuple):
    """What came of a side.

    samples: one per second, after the warm-up; requests, failures: those of all clients, the latter by message;
    changes: of the toggles, as a service saw them; wrong: patches that tripped or failed, and messages of the plugin
    that tell of no change.
    """

    samples: Sequence[Sample]
    requests: int
    failures: Mapping[str, int]
    changes: int
    wrong: Sequence[str]


def of_process(pid: int) -> Sample:
    """Memory, threads and descriptors of a process. Errors: OSError if it has ended."""
    status = (Path("/proc") / str(pid) / "status").read_text()
    found = {name: int(number) for name, number in re.findall(r"^(VmRSS|Threads):\s*(\d+)", status, re.MULTILINE)}
    descriptors = sum(1 for _ in (Path("/proc") / str(pid) / "fd").iterdir())
    return {"MB": found["VmRSS"] / 1024, "threads": found["Threads"], "descriptors": descriptors}


class Row(NamedTuple):
    """A line of the table: start, middle and end of each side, how much more ours grew, and whether that is right."""

    name: str
    stock: tuple[float, float, float]
    ours: tuple[float, float, float]
    more: float
    right: bool


def rows(stock: Side, ours: Side) -> list[Row]:
    """A row for each figure that was sampled."""
    found = []
    for name in ours.samples[0]:
        theirs, own = _three(stock.samples, name), _three(ours.samples, name)
        more = (own[2] - own[1]) - max(0.0, theirs[2] - theirs[1])
        (allowed,) = (most for kind, most in ALLOWED.items() if name.endswith(kind))
        found.append(Row(name, theirs, own, more, more <= allowed))
    return found


def _three(samples: Sequence[Sample], name: str) -> tuple[float, float, float]:
    values, half = [sample[name] for sample in samples], len(samples) // 2
    around = max(0, half - SAMPLES // 2)
    return median(values[:SAMPLES]), median(values[around : around + SAMPLES]), median(values[-SAMPLES:])


def table(stock: Side, ours: Side) -> tuple[str, bool]:
    """The table, and whether all is right."""
    failed = {"stock": sum(stock.failures.values()), "ours": sum(ours.failures.values())}
    grown = rows(stock, ours)
    none_more = failed["ours"] <= failed["stock"]
    lines: list[Sequence[str]] = [
        ("", "stock: start", "middle", "end", "patched: start", "middle", "end", "more", "verdict"),
        ("requests", "", "", str(stock.requests), "", "", str(ours.requests), "", ""),
        ("failures", "", "", str(failed["stock"]), "", "", str(failed["ours"]), "", _verdict(none_more)),
        ("changes of the toggles", *[""] * 5, str(ours.changes), "", _verdict(ours.changes > 0)),
        ("patches tripped or failed, messages", *[""] * 5, str(len(ours.wrong)), "", _verdict(not ours.wrong)),
    ]
    for row in grown:
        numbers = [
            f"{number:.1f}" if row.name.endswith("MB") else f"{number:.0f}" for number in (*row.stock, *row.ours)
        ]
        lines.append((row.name, *numbers, f"{row.more:+.1f}", _verdict(row.right)))
    notes = [f"stock: {count} x {text}" for text, count in stock.failures.items()]
    notes += [f"patched: {count} x {text}" for text, count in ours.failures.items()]
    right = none_more and ours.changes > 0 and not ours.wrong and all(row.right for row in grown)
    return "\n".join([aligned(lines), "", *notes, *ours.wrong]), right


def _verdict(right: bool) -> str:
    return "right" if right else "WRONG"
