"""The plots of the report's page, as SVG inside HTML."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from dirac_perfpatch.comparison import words
from dirac_perfpatch.comparison.colours import LIGHT, variable
from dirac_perfpatch.comparison.rows import Row
from dirac_perfpatch.comparison.snapshot import PATCHED, STOCK
from dirac_perfpatch.comparison.statistics import FASTER, NO_DIFFERENCE, RELEVANT, SLOWER, paired

# Names of colours.
VERDICTS = {FASTER: "patched", SLOWER: "slower", NO_DIFFERENCE: "even"}
_INK = LIGHT["even"]
_ARMS = {STOCK: LIGHT["stock"], PATCHED: LIGHT["patched"]}
_MARKERS = {STOCK: "s", PATCHED: "o"}
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and read aloud
    "svg.hashsalt": "dirac-perfpatch",  # the same figures make the same file
    "text.parse_math": False,  # a name may have dollars in it
    "text.usetex": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 10,
    "axes.edgecolor": LIGHT["edge"],
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
}
# More dots would be a blot, and a page of megabytes.
_MOST_DOTS = 400
_STRETCHES = 24
_WIDEST = 100.0
_MOST_LETTERS = 50


def forest(rows: Sequence[Row]) -> str:
    """The ratio of every target with its interval, one below the other; empty if there is none."""
    found = [(row, row.ratio) for row in rows if row.ratio]
    if not found:
        return ""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(9.5, 1.1 + 0.42 * len(found))
        left, right = 0.9, 1.1
        for place, (row, one) in enumerate(found):
            colour = LIGHT[VERDICTS.get(row.verdict.word, "undecided")]
            low, ratio, high = (min(max(value, 1 / _WIDEST), _WIDEST) for value in (one.low, one.value, one.high))
            axes.plot([low, high], [place, place], color=colour, linewidth=2.5, solid_capstyle="butt")
            axes.plot([ratio], [place], "o", color=colour, markersize=7)
            # The axis shows known intervals whole; the wide one of two windows must not squeeze the others.
            known = (low, high) if row.verdict.word in VERDICTS else (ratio,)
            left, right = min(left, *known), max(right, *known)
            text = f"{words.times(one)}  {row.verdict.word}"
            axes.text(1.02, place, text, transform=axes.get_yaxis_transform(), va="center", color=LIGHT["ink"])
        axes.axvline(1, color=_INK, linewidth=1)
        axes.axvspan(1 / (1 + RELEVANT), 1 + RELEVANT, color=LIGHT["band"], zorder=0)
        axes.set_yticks(range(len(found)), [f"{_short(row.patch)}\n{_short(row.target)}" for row, _ in found])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(found) - 0.4, -0.6)
        margin = (right / left) ** 0.06
        _log_axis(axes, "x", left / margin, right * margin, "{:.4g}".format)
        axes.set_xlabel("slower with the patch  \N{LEFTWARDS ARROW}   times as fast   \N{RIGHTWARDS ARROW}  faster")
        axes.spines["left"].set_visible(False)
        return _svg(figure, "How many times as fast each call is with its patch, with 95 % intervals")


def over_time(row: Row) -> str:
    """The ratio of each pair, and its mean over stretches of time; empty if there are fewer than two pairs."""
    if len(row.points) < 2:
        return ""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(4.9, 2.9)
        if len(row.points) <= _MOST_DOTS:
            places, ratios = [_moment(start) for start, _ in row.points], [ratio for _, ratio in row.points]
            axes.plot(places, ratios, ".", color=_ARMS[PATCHED], alpha=0.3, mew=0)
        for stretch in _stretches(row.points):
            estimate = paired([math.log(ratio) for _, ratio in stretch])
            if not estimate:
                continue
            place = _moment(fmean(start for start, _ in stretch))
            low, middle, high = (math.exp(estimate.mean + errors * estimate.error) for errors in (-2, 0, 2))
            axes.plot([place, place], [low, high], color=_ARMS[PATCHED], linewidth=1.5)
            axes.plot([place], [middle], "o", color=_ARMS[PATCHED], markersize=5)
        axes.axhline(1, color=_INK, linewidth=1)
        # The axis leaves out the outermost dots: on a busy machine a few of them would flatten the rest.
        shown = sorted(ratio for _, ratio in row.points)
        cut = len(shown) // 50
        low, high = shown[cut], shown[-1 - cut]
        _log_axis(axes, "y", min(low, 0.95) / 1.05, max(high, 1.05) * 1.05, "{:.4g}".format)
        locator = AutoDateLocator(minticks=3, maxticks=6, tz=timezone.utc)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=timezone.utc))
        axes.set_ylabel("times as fast")
        axes.set_title("Over time (UTC): above 1 is faster", fontsize=10, loc="left")
        return _svg(figure, f"{row.target}: how many times as fast with the patch, over time")


def quantiles(row: Row) -> str:
    """Median, 95th and 99th percentile of both arms; empty if an arm has no timed call."""
    names = {"median": "typical call\n(median)", "p95": "slowest 5 %\n(95th perc.)", "p99": "slowest 1 %\n(99th perc.)"}
    times = {arm: [getattr(one, key) for key in names] for arm, one in row.arms.items()}
    if any(not all(times.get(arm, [None])) for arm in _ARMS):
        return ""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(4.9, 2.9)
        for place, (stock, patched) in enumerate(zip(times[STOCK], times[PATCHED])):
            axes.plot([stock, patched], [place, place], color=LIGHT["edge"], linewidth=3, zorder=1)
        for arm in (STOCK, PATCHED):
            axes.plot(times[arm], range(len(names)), _MARKERS[arm], color=_ARMS[arm], label=arm, markersize=7)
        axes.set_yticks(range(len(names)), list(names.values()))
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(names) - 0.5, -0.5)
        everything = times[STOCK] + times[PATCHED]
        seconds = partial(words.seconds, micro="\N{MICRO SIGN}")
        _log_axis(axes, "x", min(everything) / 1.3, max(everything) * 1.3, seconds)
        axes.grid(True, axis="x", color=LIGHT["band"])
        axes.set_axisbelow(True)
        axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderpad=0)
        axes.set_title("Time per call", fontsize=10, loc="left")
        return _svg(figure, f"{row.target}: time per call of stock and patched")


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    # Not pyplot, which keeps its figures and looks for a display.
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _short(name: str) -> str:
    """Room for the names of our patches and their targets; what is in a spool may be of any length."""
    return name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS - 1]}\N{HORIZONTAL ELLIPSIS}"


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def _stretches(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    begin, end = points[0][0], points[-1][0]
    number = min(_STRETCHES, max(1, len(points) // 6))
    found: list[list[tuple[float, float]]] = [[] for _ in range(number)]
    for start, ratio in points:
        found[min(number - 1, int((start - begin) / max(end - begin, 1.0) * number))].append((start, ratio))
    return found


def _log_axis(axes: Any, name: str, low: float, high: float, text: Callable[[float], str]) -> None:
    """Ticks at round figures; matplotlib's own are powers of ten, and the axis may have none."""
    getattr(axes, f"set_{name}scale")("log")
    getattr(axes, f"set_{name}lim")(low, high)
    axis = getattr(axes, f"{name}axis")
    if high / low < 4:
        places = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    else:
        steps = (1, 2, 5) if high / low < 200 else (1,)
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        places = [step * 10.0**decade for decade in decades for step in steps]
    axis.set_ticks([place for place in places if low <= place <= high])
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_formatter(NullFormatter())
    axis.set_ticks([], minor=True)


_drawn = 0


def _svg(figure: Figure, title: str) -> str:
    """The figure as an element of a page, with a title for screen readers and with unique names."""
    global _drawn
    _drawn += 1
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # All figures of a page share one namespace, but matplotlib starts at the same names in each.
    text = re.sub(r'\b(id="|url\(#|href="#)', rf"\1p{_drawn}-", text)
    for name, colour in LIGHT.items():
        text = re.sub(rf"\b(fill|stroke): {colour}\b", rf"\1: {variable(name)}", text)
    head = f'<svg role="img" aria-label="{html.escape(title)}" '
    return text.replace("<svg ", head, 1).replace(">", f"><title>{html.escape(title)}</title>", 1)
