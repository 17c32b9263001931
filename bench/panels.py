"""The dashboard's panels as a picture, drawn by matplotlib, not by Grafana, from the answers of a real Prometheus.

The processes are synthetic. Time is compressed: windows last 5 s instead of 60, and Prometheus scrapes every second.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402
from matplotlib.ticker import FuncFormatter  # noqa: E402

from lab.arms import PATCHED  # noqa: E402
from lab.exporter import Exporter  # noqa: E402
from lab.folder import CHECKOUT  # noqa: E402
from lab.prometheus import Prometheus  # noqa: E402
from lab.spools import ARMS, TARGETS, Process  # noqa: E402

DASHBOARD = CHECKOUT / "monitoring" / "grafana-dashboard.json"
SECONDS, WINDOW = 120, 5
PATCHES = ("connection_checkout", "error_stack", "proxy_loading")
COMPONENTS = ("DataManagement/FileCatalog", "Accounting/DataStore")
# Longest names first, as one may be a prefix of another.
VARIABLES = {
    "$__rate_interval": "15s",
    "$component": ".*",
    "$__range": f"{SECONDS}s",
    "$window": "30s",
    "$patch": "|".join(PATCHES),
    "$host": ".*",
}
# Inches per column (of 24) and per row of the dashboard.
WIDE, HIGH = 0.85, 0.42
GREEN, RED, YELLOW = "#1b7837", "#b2182b", "#b8860b"
UNITS: dict[str, Callable[[float], str]] = {
    "s": lambda x: f"{x:.3g} s" if x >= 1 else f"{x * 1e3:.3g} ms" if x >= 1e-3 else f"{x * 1e6:.3g} us",
    "percentunit": lambda x: f"{x * 100:.3g} %",
    "cps": lambda x: f"{x:,.0f}/s" if x >= 10 else f"{x:.2g}/s",
    "suffix: x": lambda x: f"{x:.3g} x",
    "short": lambda x: f"{x:.3g}",
}


def draw(folder: Path, figures: Path) -> None:
    """Record for two minutes, run the dashboard's queries, and write `dashboard.png` into `figures`."""
    done = threading.Event()
    folder.mkdir()
    with Exporter(folder / "spool") as exporter:
        worker = threading.Thread(target=_work, args=(folder / "spool", done))
        worker.start()
        try:
            with Prometheus(folder / "prometheus", [exporter.address]) as server:
                time.sleep(SECONDS)
                picture = _picture(json.loads(DASHBOARD.read_text()), server, time.time())
        finally:
            done.set()
            worker.join()
    figures.mkdir(parents=True, exist_ok=True)
    picture.savefig(figures / "dashboard.png", dpi=75, metadata={"Software": None})


def _work(spool: Path, done: threading.Event) -> None:
    """Eight processes of two components, each with its own windows of the two arms; one patch trips meanwhile."""
    processes = [Process(spool, COMPONENTS[n % 2], pid=n) for n in range(8)]
    began = time.time()
    while not done.wait(1):
        passed = time.time() - began
        for number, process in enumerate(processes):
            arm = ARMS[int(passed / WINDOW + number) % 2]
            for patch, target in TARGETS:
                if process.snapshot["patches"][patch]["state"] == "tripped":
                    continue
                process.record(patch, target, arm, 160 + 40 * number, errors=number % 3)
                process.event(patch, "hits" if arm == PATCHED else "misses", 100)
            for method, typical in (("addFile", 0.03), ("getReplicas", 0.01)):
                seconds = typical * random.lognormvariate(0, 0.1) / (1.5 if arm == PATCHED else 1.0)
                name = f"{process.snapshot['component']} {method}"
                process.outcome(PATCHES[0], arm, name, 30 + number, seconds, errors=number % 2)
            if number == 3 and passed > SECONDS * 0.7:
                process.snapshot["patches"]["proxy_loading"].update(state="tripped", checked=12, differences=1)
            process.write()


def _picture(dashboard: dict[str, Any], server: Prometheus, now: float) -> Any:
    pyplot.rcParams.update({"font.size": 8})
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    picture = pyplot.figure(figsize=(24 * WIDE, rows * HIGH))
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        left, top, width, height = at["x"] / 24, 1 - at["y"] / rows, at["w"] / 24, at["h"] / rows
        if panel["type"] == "row":
            picture.text(left + 0.004, top - height * 0.7, panel["title"], size=12, weight="bold")
            continue
        corner, size = (left + 0.002, top - height + 0.001), (width - 0.004, height - 0.002)
        picture.add_artist(Rectangle(corner, *size, fill=False, edgecolor="#cccccc", transform=picture.transFigure))
        picture.text(left + 0.006, top - 0.5 / rows, panel["title"], size=9, weight="bold", va="center")
        draw_one = {"stat": _stat, "table": _table, "bargauge": _bars, "timeseries": _lines}[panel["type"]]
        room = (left + 0.045, top - height + 1.0 / rows, width - 0.055, height - 2.2 / rows)
        axes = picture.add_axes(room)
        draw_one(axes, panel, server, now)
    return picture


def _asked(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def _legend(target: dict[str, Any], labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), target["legendFormat"])


def _unit(panel: dict[str, Any]) -> Callable[[float], str]:
    return UNITS[panel["fieldConfig"]["defaults"]["unit"]]


def _stat(axes: Any, panel: dict[str, Any], server: Prometheus, now: float) -> None:
    axes.set_axis_off()
    value = server.value(_asked(panel["targets"][0]["expr"]))
    red = panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1:]
    bad = value is not None and bool(red) and value >= red[0]["value"]
    text = "no data" if value is None else _unit(panel)(value)
    axes.text(0.4, 0.5, text, size=20, weight="bold", color=RED if bad else GREEN, ha="center", va="center")


def _table(axes: Any, panel: dict[str, Any], server: Prometheus, now: float) -> None:
    axes.set_axis_off()
    found = server.query(_asked(panel["targets"][0]["expr"]))
    rows = sorted([*(one["metric"][name] for name in ("patch", "state", "mode")), one["value"][1]] for one in found)
    table = axes.table(rows, colLabels=["patch", "state", "mode", "processes"], loc="upper left", cellLoc="left")
    table.scale(1, 1.3)


def _bars(axes: Any, panel: dict[str, Any], server: Prometheus, now: float) -> None:
    target = panel["targets"][0]
    found = [(_legend(target, one["metric"]), float(one["value"][1])) for one in server.query(_asked(target["expr"]))]
    found.sort(reverse=True)
    colours = [GREEN if value >= 1.05 else RED if value < 0.95 else YELLOW for _, value in found]
    axes.barh([name for name, _ in found], [value for _, value in found], color=colours, height=0.5)
    for place, (name, value) in enumerate(found):
        axes.text(0, place + 0.38, f"{name}  {_unit(panel)(value)}", va="center")
    axes.set_yticks([])
    axes.set_xlim(0)
    axes.set_ylim(-0.5, len(found) - 0.3)


def _lines(axes: Any, panel: dict[str, Any], server: Prometheus, now: float) -> None:
    custom = panel["fieldConfig"]["defaults"]["custom"]
    curves = []
    for target in panel["targets"]:
        for one in server.query_range(_asked(target["expr"]), now - SECONDS + 10, now, 1):
            points = [(when - now, float(value)) for when, value in one["values"]]
            curves.append((_legend(target, one["metric"]), points))
    curves.sort()
    if custom["stacking"]["mode"] == "normal":
        times = sorted({when for _, points in curves for when, _ in points})
        heights = [[dict(points).get(when, 0) for when in times] for _, points in curves]
        axes.stackplot(times, heights, labels=[name for name, _ in curves], alpha=0.6)
    else:
        for name, points in curves:
            dashed = "--" if PATCHED in name else "-"
            axes.plot(*zip(*points), dashed, linewidth=1.2, label=name)
    if custom["scaleDistribution"]["type"] == "log":
        axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _unit(panel)(value)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} s"))
    axes.grid(True, alpha=0.3)
    low, high = axes.get_ylim()
    # Room for the legend.
    axes.set_ylim(low, high * (high / low) ** 0.35 if axes.get_yscale() == "log" else high + 0.35 * (high - low))
    axes.legend(loc="upper left", fontsize=7, framealpha=0.7, ncols=2 if len(curves) > 3 else 1)
