"""The table of what was counted."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lab.table import Row, aligned

from .arms import TARGETS


@dataclass
class Tally:
    """What one arm did in the rounds that count.

    times: by target or "request METHOD", nanoseconds of each call in any process of the arm; pings, connections: from
    the database server's own counters; operations: number of client operations; failures: their messages; plugin: by
    process, the plugin's status.
    """

    times: dict[str, list[int]] = field(default_factory=dict)
    pings: int = 0
    connections: int = 0
    operations: int = 0
    failures: list[str] = field(default_factory=list)
    plugin: dict[str, Any] = field(default_factory=dict)

    def add_counts(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Add the calls made between two readings of the probes."""
        for process, counted in after.items():
            self.plugin[process] = counted["plugin"]
            for label, durations in counted["times"].items():
                seen = len(before[process]["times"].get(label, []))
                if len(durations) > seen:
                    self.times.setdefault(label, []).extend(durations[seen:])

    def add_report(self, report: dict[str, Any]) -> None:
        """Add a client's report of one round."""
        for name, entry in report.items():
            self.operations += entry["count"]
            self.failures += [f"{name}: {problem}" for problem in entry["failures"]]


def summary(tallies: dict[str, Tally]) -> dict[str, Any]:
    """The figures of all arms as plain data for JSON; times in microseconds."""
    return {
        name: {
            "calls": {label: _figures(durations) for label, durations in sorted(tally.times.items()) if durations},
            "pings": tally.pings,
            "connections": tally.connections,
            "operations": tally.operations,
            "failures": tally.failures,
            "plugin": tally.plugin,
        }
        for name, tally in tallies.items()
    }


def _figures(durations: Sequence[int]) -> dict[str, float]:
    return {
        "calls": len(durations),
        "median": statistics.median(durations) / 1000,
        "mean": statistics.fmean(durations) / 1000,
        "total": sum(durations) / 1000,
    }


def table(tallies: dict[str, Tally]) -> str:
    """The table that the demo prints. The second arm is compared with the first."""
    (first, stock), (second, patched) = tallies.items()
    requests = sorted(label for label in {**stock.times, **patched.times} if label.startswith("request "))
    rows: list[Row] = [("target", f"{first}: calls", "per call", f"{second}: calls", "per call", "ratio")]
    targets = dict.fromkeys(path for _, path in TARGETS)
    called = [path for path in targets if path in stock.times or path in patched.times]
    rows += [_times_row(label, label, stock, patched) for label in called]
    rows += ["", "time inside the services, per request"]
    rows += [_times_row("  " + label.split()[1], label, stock, patched) for label in requests]
    rows.append(_all_requests_row(requests, stock, patched))
    rows += ["", "the same work, as seen by the database and the clients"]
    rows.append(_count_row("  MySQL round trips that were pings", stock.pings, patched.pings))
    rows.append(_count_row("  MySQL connections opened", stock.connections, patched.connections))
    rows.append(_count_row("  operations", stock.operations, patched.operations))
    rows.append(_count_row("  failed operations", len(stock.failures), len(patched.failures)))
    return aligned(rows)


def notes(tallies: dict[str, Tally]) -> list[str]:
    """Notes to the table: failures, and patches that were not on."""
    found = []
    for name, tally in tallies.items():
        found += [f"{name}: {failure}" for failure in dict.fromkeys(tally.failures)]
        for process, states in tally.plugin.items():
            for patch in states:
                # "armed" waits for a module that this process never imports; "stood down" is not needed on this host.
                if patch["state"] not in ("applied", "armed", "stood down"):
                    found.append(f"{name}, {process}: {patch['name']} is {patch['state']}: {patch['reason']}")
    return found


def _times_row(label: str, key: str, stock: Tally, patched: Tally) -> Row:
    before, after = stock.times.get(key, []), patched.times.get(key, [])
    if not before or not after:
        return (label, str(len(before)), "", str(len(after)), "", "")
    # The median: for a call made a few dozen times, one pause of the machine must not decide the figure.
    was, now = statistics.median(before), statistics.median(after)
    return (label, str(len(before)), _time(was), str(len(after)), _time(now), _ratio(was, now))


def _all_requests_row(requests: list[str], stock: Tally, patched: Tally) -> Row:
    before = [duration for label in requests for duration in stock.times.get(label, [])]
    after = [duration for label in requests for duration in patched.times.get(label, [])]
    was, now = statistics.fmean(before), statistics.fmean(after)
    return ("  all (mean)", str(len(before)), _time(was), str(len(after)), _time(now), _ratio(was, now))


def _count_row(label: str, was: int, now: int) -> Row:
    return (label, str(was), "", str(now), "", _ratio(was, now) if was and now and was != now else "")


def _time(nanoseconds: float) -> str:
    microseconds = nanoseconds / 1000
    if microseconds >= 10000:
        return f"{microseconds / 1000:.1f} ms"
    return f"{microseconds:.0f} us" if microseconds >= 100 else f"{microseconds:.2f} us"


def _ratio(was: float, now: float) -> str:
    ratio = was / now
    return f"{ratio:.0f} x" if ratio >= 10 else f"{ratio:.2f} x"
