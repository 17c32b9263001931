"""Rows of figures with their goals, and the table that the suite prints."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

from lab.arms import ALL, PLUGGED, STOCK
from lab.table import Row as Line
from lab.table import aligned

Figure = Union[int, float, str]


@dataclass
class Row:
    """One line of the table.

    figures: by the arm's name; goal: in words, empty if there is none; met: whether the arms with the plugin meet it,
    None if nothing is asserted; note: for the reader; details: more figures, for the JSON file only.
    """

    label: str
    figures: Mapping[str, Figure]
    goal: str = ""
    met: bool | None = None
    note: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


def worst(figures: Mapping[str, Any]) -> Any:
    """The largest figure of an arm with the plugin."""
    return max(figures[arm] for arm in PLUGGED if arm in figures)


def none(label: str, figures: Mapping[str, int], note: str = "", **details: Any) -> Row:
    """A row whose goal is 0."""
    return Row(label, figures, "0", worst(figures) == 0, note, details)


def at_most(label: str, figures: Mapping[str, float], limit: float, goal: str, note: str = "", **details: Any) -> Row:
    """A row whose goal is a limit; `goal` is the limit in words."""
    return Row(label, figures, goal, worst(figures) <= limit, note, details)


def as_stock(label: str, figures: Mapping[str, int], tolerance: int = 0, note: str = "", **details: Any) -> Row:
    """A row whose goal is to be no worse than stock.

    tolerance: the excess that counts as chance; see chance().
    """
    goal = "<= stock" + (f" + {tolerance}" if tolerance else "")
    return Row(label, figures, goal, worst(figures) <= figures[STOCK] + tolerance, note, details)


def reported(label: str, figures: Mapping[str, Figure], note: str = "", **details: Any) -> Row:
    """A row without a goal."""
    return Row(label, figures, note=note, details=details)


def chance(figures: Mapping[str, int], most: int | None = None) -> int:
    """How far a count with the plugin may exceed stock's by chance alone.

    Which statements the kills hit is chance in both arms. So both are Poisson counts, and the standard deviation of
    their difference is the root of their sum. Returns: three of these, and at least 2.

    most: upper limit.
    """
    allowed = max(2, math.ceil(3 * math.sqrt(figures[STOCK] + worst(figures))))
    return allowed if most is None else min(allowed, most)


def table(sections: Sequence[tuple[str, Sequence[Row]]]) -> str:
    """The table: a section per scenario, with its title above its rows."""
    lines: list[Line] = [("", *ALL, "goal", "", "note")]
    for title, rows in sections:
        lines.append(title)
        for row in rows:
            verdict = "" if row.met is None else ("met" if row.met else "MISSED")
            notes = textwrap.wrap(row.note, 60) or [""]
            lines.append(("  " + row.label, *_cells(row), row.goal, verdict, notes[0]))
            lines += [("",) * (len(ALL) + 3) + (note,) for note in notes[1:]]
    return aligned(lines, left=(0, len(ALL) + 1, len(ALL) + 2, len(ALL) + 3))


def missed(sections: Sequence[tuple[str, Sequence[Row]]]) -> list[str]:
    """The missed goals, one line each."""
    return [
        f"{title}: {row.label}: {', '.join(_figure(row.figures.get(arm, '-')) for arm in PLUGGED)}, goal {row.goal}"
        for title, rows in sections
        for row in rows
        if row.met is False
    ]


def _cells(row: Row) -> list[str]:
    return [_figure(row.figures.get(arm, "-")) for arm in ALL]


def _figure(figure: Figure) -> str:
    return f"{figure:.2f}" if isinstance(figure, float) else str(figure)
