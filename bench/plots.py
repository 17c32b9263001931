"""One plot per growth curve. Needs matplotlib: `python -m bench.plots FIGURES.json FOLDER`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator  # noqa: E402

from dirac_perfpatch.bench import cases  # noqa: E402
from lab.arms import IN_TREE, PATCHED, PLUGGED, REPLACED, STOCK  # noqa: E402

# Colour, marker and line, by arm, so that they can be told apart in grey, too.
STYLES = {STOCK: ("#b2182b", "s", "-"), PATCHED: ("#1b7837", "o", "-"), IN_TREE: ("#2166ac", "^", "--")}
STYLES[REPLACED] = ("#762a83", "d", ":")


def main() -> None:
    """Write each plot as PNG and SVG."""
    figures = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    # Equal figures give equal files.
    pyplot.rcParams.update({"svg.hashsalt": "dirac-perfpatch", "svg.fonttype": "none", "font.size": 11})
    for case in (case for _, case in cases() if len(case.growth) > 1):
        name = re.sub(r"\W+", "_", case.name).strip("_")
        drawing = _draw(figures, figures["calls"][case.name], case.name, case.unit)
        drawing.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})
        drawing.savefig(folder / f"{name}.svg", metadata={"Date": None})
        pyplot.close(drawing)


def _draw(figures: dict[str, Any], points: dict[str, Any], title: str, unit: str) -> Any:
    drawing, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    sizes = [int(size) for size in points]
    for arm, (colour, marker, line) in STYLES.items():
        times = [found[arm]["us"] for found in points.values()]
        label = f"{arm} ({figures['releases'][arm]}{' + plugin' * (arm in PLUGGED)})"
        axes.plot(sizes, times, color=colour, marker=marker, linestyle=line, label=label)
    axes.set(xscale="log", yscale="log", title=title, xlabel=unit, ylabel="microseconds per call")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, which="major", alpha=0.4)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 1.0), high * 1.5)
    axes.legend()
    return drawing


if __name__ == "__main__":
    main()
