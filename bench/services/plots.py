"""Requests per second by number of clients. Needs matplotlib: `python -m bench.services.plots FIGURES.json FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402

from .figures import LOOPBACK  # noqa: E402
from .sides import BOTH, IN_TREE, PATCHED, STOCK  # noqa: E402

# Colour, marker and line, by side, so that they can be told apart in grey, too.
STYLES = {
    STOCK: ("#b2182b", "s", "-"),
    PATCHED: ("#1b7837", "o", "-"),
    IN_TREE: ("#2166ac", "^", "--"),
    BOTH: ("#762a83", "v", "--"),
}


def main() -> None:
    """Write a plot per size of keys, as PNG and SVG: a panel per request, the database on loopback."""
    cells = [cell for cell in json.loads(Path(sys.argv[1]).read_text())["cells"] if cell["delay"] == LOOPBACK]
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    # Equal figures give equal files.
    pyplot.rcParams.update({"svg.hashsalt": "dirac-perfpatch", "svg.fonttype": "none", "font.size": 11})
    for bits in dict.fromkeys(cell["key_bits"] for cell in cells):
        drawing = _draw([cell for cell in cells if cell["key_bits"] == bits], bits)
        drawing.savefig(folder / f"requests_{bits}.png", dpi=150, metadata={"Software": None})
        drawing.savefig(folder / f"requests_{bits}.svg", metadata={"Date": None})
        pyplot.close(drawing)


def _draw(cells: list[dict[str, Any]], bits: int) -> Any:
    requests = dict.fromkeys(cell["request"] for cell in cells)
    by_request = {name: [cell for cell in cells if cell["request"] == name] for name in requests}
    grown = {name: found for name, found in by_request.items() if len(found) > 1}
    drawing, panels = pyplot.subplots(1, len(grown), figsize=(4 * len(grown), 4), layout="constrained", squeeze=False)
    for axes, (name, found) in zip(panels[0], grown.items()):
        clients = [cell["clients"] for cell in found]
        for side in found[0]["sides"]:
            colour, marker, line = STYLES[side]
            rates = [cell["sides"][side]["rate"] for cell in found]
            axes.plot(clients, rates, color=colour, marker=marker, linestyle=line, label=side)
        axes.set(xscale="log", title=name, xlabel="clients", ylim=(0, None))
        axes.set_xticks(clients, [str(number) for number in clients])
        axes.minorticks_off()
        axes.grid(True, alpha=0.4)
    panels[0][0].set_ylabel(f"requests per second, keys of {bits} bits")
    panels[0][0].legend()
    return drawing


if __name__ == "__main__":
    main()
