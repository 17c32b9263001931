"""A/B as an operator would run it: one installation, every patch `ab`, and the report of its records."""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dirac_perfpatch.patches import AT_IMPORT, WAITED_FOR
from lab.hosts import Host
from lab.mariadb import MariaDB
from lab.table import aligned

from .arms import ROLES, Arm
from .result import Tally

# Short, because the demo is short. In production a minute is better.
WINDOW_SECONDS = 2
# The factor by which the two measurements may differ beyond the report's interval. A call of a microsecond takes
# several in the A/B: half of the time the patches around it are in the stock arm, and the CPU caches are cold.
_APART = 4.0


def compare(
    host: Host, database: MariaDB, folder: Path, library: Path, seconds: float, page: Path, tallies: dict[str, Tally]
) -> list[str]:
    """Run an installation with every patch compared, and make the report.

    host: with the plugin and its extras; folder, library: as for an arm; seconds: duration; page: file for the HTML;
    tallies: the demo's own measurements.
    Returns: the lines to print. Errors: RuntimeError if the report cannot be made.
    """
    folder.mkdir()
    spool = folder / "spool"
    toggles = folder / "patches.yaml"
    # Together: in a minute there are few pairs of windows, too few to tell what each patch does to requests.
    comparison = {"window_seconds": WINDOW_SECONDS, "together": "on", "spool": spool, "check_one_in": 500}
    lines = ["patches:", *(f"  {name}: ab" for name in WAITED_FOR if name not in AT_IMPORT)]
    lines += ["comparison:", *(f"  {key}: {value}" for key, value in comparison.items())]
    toggles.write_text("\n".join(lines) + "\n")
    arm = Arm("compared", host, database, folder / "arm", library, {"DIRAC_PERFPATCH_CONFIG": str(toggles)})
    try:
        arm.start()
        arm.ask("user", "fill")
        _work(arm, seconds)
    finally:
        arm.stop()
    report, found = _report(host, spool, page)
    title = "A/B: recorded by the services themselves"
    return ["", title, "", report, "", _agreement(found, tallies), "", _felt(found), "", f"page: {page}"]


def _work(arm: Arm, seconds: float) -> None:
    end = time.monotonic() + seconds
    for number in itertools.count():
        for role in ROLES:
            arm.ask(role, "round", number)
        arm.insert_pending_records()
        if time.monotonic() > end:
            return


def _report(host: Host, spool: Path, page: Path) -> tuple[str, Any]:
    report = (host.bin / "dirac-perfpatch", "report", spool)
    return _run(*report, "--html", page), json.loads(_run(*report, "--json", "-"))


def _run(*command: str | Path) -> str:
    answer = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if answer.returncode:
        raise RuntimeError(f"the report failed: {answer.stderr[-2000:]}")
    return answer.stdout.rstrip()


def _agreement(found: Any, tallies: dict[str, Tally]) -> str:
    """A table that compares the report's ratios with those of the demo's own measurement."""
    stock, patched = tallies.values()
    rows = [("how many times as fast", "demo", "A/B", "95 % interval", "")]
    for target, ratio in _ratios(found):
        before, after = stock.times.get(target, []), patched.times.get(target, [])
        if not before or not after:
            continue
        own = statistics.median(before) / statistics.median(after)
        value, low, high = (ratio[key] for key in ("value", "low", "high"))
        differ = "" if low / _APART <= own <= high * _APART else "they differ"
        rows.append((target, f"{own:.4g}", f"{value:.4g}", f"{low:.4g} to {high:.4g}", differ))
    return aligned(rows, left=(0, 3, 4))


def _felt(found: Any) -> str:
    """A table of what all patches together do to requests, SQL statements and cycles of agents."""
    rows = [("all patches together", "stock", "patched", "times as fast", "95 % interval", "of CPU", "95 % interval")]
    for row in found["felt"]:
        if row["ratio"] is None and row["target"] != "requests":
            continue
        means = [
            f"{row['arms'][arm]['mean'] * 1000:.3g} ms" if arm in row["arms"] else "" for arm in ("stock", "patched")
        ]
        ratios = [cell for ratio in (row["ratio"], row["cpu_ratio"]) for cell in _interval(ratio)]
        rows.append((row["target"], *means, *ratios))
    return aligned(rows)


def _interval(ratio: dict[str, float] | None) -> tuple[str, str]:
    if ratio is None:
        return "", "too little data yet"
    return f"{ratio['value']:.3g}", f"{ratio['low']:.3g} to {ratio['high']:.3g}"


def _ratios(found: Any) -> Iterator[tuple[str, dict[str, float]]]:
    for patch in found["patches"]:
        for row in patch["rows"]:
            if row["ratio"]:
                yield row["target"], row["ratio"]
