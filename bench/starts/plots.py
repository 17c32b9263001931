"""The plot of the starts. Needs matplotlib: `python -m bench.starts.plots FIGURES.json FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402

from lab.arms import PATCHED, STOCK  # noqa: E402

COLOURS = {STOCK: "#b2182b", PATCHED: "#1b7837"}


def main() -> None:
    """Write the plot as PNG and SVG: a panel per release, a pair of bars per start."""
    starts = json.loads(Path(sys.argv[1]).read_text())["starts"]
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    pyplot.rcParams.update({"svg.hashsalt": "dirac-perfpatch", "svg.fonttype": "none", "font.size": 10})
    drawing, panels = pyplot.subplots(1, len(starts), sharey=True, figsize=(14, 5), layout="constrained", squeeze=False)
    for axes, (release, found) in zip(panels[0], starts.items()):
        names = list(found)
        for shift, (arm, colour) in zip((-0.2, 0.2), COLOURS.items()):
            places = [number + shift for number in range(len(names))]
            values = [found[name][arm]["median"] / 1000 for name in names]
            axes.barh(places, values, height=0.38, color=colour, label=arm)
        for number, name in enumerate(names):
            ratio = found[name][PATCHED]["median"] / found[name][STOCK]["median"]
            axes.text(max(found[name][arm]["median"] for arm in COLOURS) / 1000, number, f" {ratio:.2f} x", va="center")
        axes.set_yticks(range(len(names)), names)
        axes.set(title=f"DIRAC {release}", xlabel="seconds of CPU per start, median")
        axes.margins(x=0.2)
        axes.grid(True, axis="x", alpha=0.4)
    panels[0][0].invert_yaxis()
    panels[0][-1].legend(loc="lower right")
    drawing.savefig(folder / "starts.png", dpi=120, metadata={"Software": None})
    drawing.savefig(folder / "starts.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
