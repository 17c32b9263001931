"""Spools as processes of a grid would leave them, made up but unkind.

Loads drift over hours, windows have their own pace, calls have heavy tails and pauses that hit many at once, and
windows differ in how many calls they have: all that makes arms look different when they are not.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy
from ddsketch import DDSketch
from ddsketch.mapping import LogarithmicMapping

ACCURACY = 0.01
BEGAN = 1_700_000_000.0
_MAPPING = LogarithmicMapping(ACCURACY)
Document = dict[str, Any]


def sketched(times: Any) -> Document:
    """The sketch of some times as it is written to a spool."""
    positive = numpy.asarray([time for time in times if time > 0])
    # What LogarithmicMapping.key does, for many at once.
    keys = numpy.ceil(numpy.log(positive) / numpy.log(_MAPPING.gamma)).astype(int)
    found = zip(*(each.tolist() for each in numpy.unique(keys, return_counts=True)))
    return {"accuracy": ACCURACY, "zero": len(times) - len(positive), "bins": {str(key): count for key, count in found}}


def one_sketch(times: Any) -> DDSketch:
    """A sketch that was given all of some times itself."""
    sketch = DDSketch(ACCURACY)
    for time in times:
        sketch.add(float(time))
    return sketch


def process(
    random: numpy.random.Generator,
    by: str = "time",
    windows: int = 120,
    faster: float = 1.0,
    *,
    patch: str = "error_stack",
    target: str = "S_ERROR",
    typical: float = 1e-4,
    arm: str = "patched",
    share: float = 0.5,
    host: str = "h1.example.org",
    component: str = "DataManagement/FileCatalog",
    pid: int = 100,
    pace: float = 1.0,
    error_rates: tuple[float, float] = (0.002, 0.002),
    window_seconds: float = 60.0,
    began: float = BEGAN,
    timed_per_window: float = 40.0,
) -> Document:
    """What one process leaves.

    Args:
        random: Where chance comes from.
        by: time, call or process.
        windows: How many it lived through.
        faster: How many times faster a patched call is.
        patch: The patch's name.
        target: The target's name.
        typical: Seconds of a typical stock call.
        arm: Of the process, with by: process.
        share: Of calls that are patched, with by: call.
        host: Where it ran.
        component: Which one it is.
        pid: Its number.
        pace: What is different about its host: all its times are multiplied by this.
        error_rates: Of stock and of patched calls, in ordinary windows; in one of thirty a third of all calls fail.
        window_seconds: How long a window is.
        began: When it was started.
        timed_per_window: How many calls are timed in a window, about.
    """
    drift = [0.0]
    for push in random.normal(0, 0.05, windows - 1):
        drift.append(0.97 * drift[-1] + push)
    hour = numpy.asarray(drift) + 0.2 * numpy.sin(numpy.arange(windows) / 90 + began)
    restless = 0.08 * random.standard_t(3, windows)
    level = numpy.log(typical * pace) + hour + restless
    order = numpy.repeat(random.integers(0, 2, windows // 2 + 1), 2)[:windows]
    blocks, times, totals = [], defaultdict(list), defaultdict(lambda: [0, 0])
    for window in range(windows):
        if by == "time":
            arms = [("patched", "stock")[(window + order[window]) % 2]]
        else:
            arms = [arm] if by == "process" else ["patched", "stock"]
        busy = timed_per_window * random.lognormal(0, 0.8)
        outage = random.random() < 1 / 30
        paused = random.random() < 0.1
        parts = {"patched": share, "stock": 1 - share} if by == "call" else dict.fromkeys(arms, 1.0)
        counts = {name: int(random.poisson(busy * parts[name])) for name in arms}
        compared = min(counts.values())
        for name, timed in counts.items():
            calls = 16 * timed + int(random.integers(0, 16))
            taken = numpy.exp(level[window] + 0.4 * random.standard_t(3, timed).clip(-8, 12))
            taken = taken * numpy.where(random.random(timed) < (0.2 if paused else 0.005), 30, 1)
            taken = taken / faster if name == "patched" else taken
            rate = 0.3 if outage else error_rates[name == "patched"]
            errors = int(random.binomial(calls, rate))
            times[name].append(taken)
            totals[name][0] += calls
            totals[name][1] += errors
            blocks.append(
                {
                    "patch": patch,
                    "target": target,
                    "arm": name,
                    "block": window,
                    "pair": window // 2,
                    "start": began + window * window_seconds,
                    "seconds": window_seconds,
                    "calls": calls,
                    "errors": errors,
                    "timed": compared,
                    "mean": float(taken[:compared].mean()) if compared else 0.0,
                    "median": float(numpy.median(taken[:compared])) if compared else 0.0,
                }
            )
    series = []
    for name, parts in times.items():
        taken = numpy.concatenate(parts)
        series.append(
            {
                "patch": patch,
                "target": target,
                "arm": name,
                "calls": totals[name][0],
                "errors": totals[name][1],
                "timed": len(taken),
                "seconds": float(taken.sum()),
                "sketch": sketched(taken),
            }
        )
    lived = windows * window_seconds
    cpu = lived * 0.2 * pace * random.lognormal(0, 0.05) / (faster if by == "process" and arm == "patched" else 1)
    state = {
        "state": "applied",
        "reason": "",
        "mode": "ab",
        "by": by,
        "share": share,
        "window_seconds": window_seconds,
        "arm": "both" if by == "call" else arm,
        "failures": 0,
        "checked": 12,
        "differences": 0,
    }
    return {
        "format": 1,
        "host": host,
        "component": component,
        "release": "9.1.8",
        "plugin": "0.1.0",
        "pid": pid,
        "started": began,
        "written": began + lived,
        "ended": False,
        "cpu_seconds": cpu,
        "resident_bytes": int(2e8 * random.lognormal(0, 0.03)),
        "patches": {patch: state},
        "series": series,
        "blocks": blocks[-1000:],
        "events": {},
    }


def joined(documents: list[Document]) -> Document:
    """One process with the patches of several."""
    first, *others = documents
    for other in others:
        first["patches"].update(other["patches"])
        first["events"].update(other["events"])
        first["series"] += other["series"]
        first["blocks"] += other["blocks"]
    return first


def fleet(
    random: numpy.random.Generator, hosts: int = 12, windows: int = 60, faster: float = 1.0, **more: Any
) -> list[Document]:
    """Processes by process: two of a component on each host, in the host's arm; hosts differ."""
    found = []
    arms = random.permutation(["patched", "stock"] * (hosts // 2))
    for number in range(hosts):
        pace = float(random.lognormal(0, 0.1))
        for pid in (1, 2):
            host = {"host": f"h{number}.example.org", "pid": pid, "pace": pace, "arm": str(arms[number])}
            found.append(process(random, "process", windows, faster, **host, **more))
    return found


def write(folder: Path, documents: list[Document]) -> Path:
    """Write each as the file of its process."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in documents:
        name = f"{one['host']}.{one['pid']}.{int(one['started'] * 1e9)}.json"
        (folder / name).write_text(json.dumps(one))
    return folder


def example(random: numpy.random.Generator) -> list[Document]:
    """A week-end of a small site: something of everything that a report can say."""
    found = []
    for number, host in enumerate(("vobox01.example.org", "vobox02.example.org", "vobox03.example.org")):
        for pid, component in enumerate(("DataManagement/FileCatalog", "WorkloadManagement/JobMonitoring"), 100):
            place: dict[str, Any] = {"host": host, "pid": pid, "component": component}
            parts = [
                process(random, "call", 240, 3.4, typical=8e-5, **place),
                process(
                    random,
                    "time",
                    240,
                    1.13,
                    patch="connection_checkout",
                    target="ConnectionPool.get",
                    typical=6e-4,
                    **place,
                ),
                process(
                    random, "time", 240, 9.0, patch="proxy_loading", target="loadProxyFromFile", typical=2e-3, **place
                ),
                process(
                    random,
                    "call",
                    240,
                    1.0,
                    patch="connection_close",
                    target="ConnectionPool._close",
                    typical=3e-5,
                    **place,
                ),
                process(random, "time", 8, 1.02, patch="dms_helpers", target="getSiteSEMapping", typical=4e-2, **place),
                process(random, "time", 240, 0.8, patch="dms_helpers", target="getSEInGroup", typical=4e-4, **place),
            ]
            parts[2]["events"] = {"proxy_loading": {"hits": 90_000 + 7 * number, "misses": 41}}
            found.append(joined(parts))
    found += fleet(random, 12, 120, 1.3, patch="extension_lookup", target="extensionsByPriority", typical=2e-2)
    tripped = found[0]["patches"]["connection_close"]
    tripped.update(
        state="tripped", reason="an answer was not that of the stock host: OK instead of an error", differences=1
    )
    return found
