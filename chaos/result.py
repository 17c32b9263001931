"""Rows of figures with their goals, and the table that the suite prints."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

from lab.arms import ALL, PATCHED, STOCK
from lab.table import Row as Line
from lab.table import aligned

Figure = Union[int, float, str]


@dataclass
class Row:
    """One line of the table.

    figures: by the arm's name; goal: in words, empty if there is none; met: whether the patched arm meets it, None if
    nothing is asserted; note: for the reader; details: more figures, for the JSON file only.
    """

    label: str
    figures: Mapping[str, Figure]
    goal: str = ""
    met: bool | None = None
    note: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


def none(label: str, figures: Mapping[str, int], note: str = "", **details: Any) -> Row:
    """A row whose goal is 0."""
    return Row(label, figures, "0", figures[PATCHED] == 0, note, details)


def at_most(label: str, figures: Mapping[str, float], limit: float, goal: str, note: str = "", **details: Any) -> Row:
    """A row whose goal is a limit; `goal` is the limit in words."""
    return Row(label, figures, goal, figures[PATCHED] <= limit, note, details)


def as_stock(label: str, figures: Mapping[str, int], tolerance: int = 0, note: str = "", **details: Any) -> Row:
    """A row whose goal is to be no worse than stock.

    tolerance: the excess that counts as chance; see chance().
    """
    goal = "<= stock" + (f" + {tolerance}" if tolerance else "")
    return Row(label, figures, goal, figures[PATCHED] <= figures[STOCK] + tolerance, note, details)


def reported(label: str, figures: Mapping[str, Figure], note: str = "", **details: Any) -> Row:
    """A row without a goal."""
    return Row(label, figures, note=note, details=details)


def chance(figures: Mapping[str, int], most: int | None = None) -> int:
    """How far the patched arm's count may exceed stock's by chance alone.

    Which statements the kills hit is chance in both arms. So both are Poisson counts, and the standard deviation of
    their difference is the root of their sum. Returns: three of these, and at least 2.

    most: upper limit.
    """
    allowed = max(2, math.ceil(3 * math.sqrt(figures[STOCK] + figures[PATCHED])))
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
            lines += [("", "", "", "", "", "", note) for note in notes[1:]]
    return aligned(lines, left=(0, 4, 5, 6))


def missed(sections: Sequence[tuple[str, Sequence[Row]]]) -> list[str]:
    """The missed goals, one line each."""
    return [
        f"{title}: {row.label}: {_figure(row.figures.get(PATCHED, ''))}, goal {row.goal}"
        for title, rows in sections
        for row in rows
        if row.met is False
    ]


def _cells(row: Row) -> list[str]:
    return [_figure(row.figures.get(arm, "-")) for arm in ALL]


def _figure(figure: Figure) -> str:
    return f"{figure:.2f}" if isinstance(figure, float) else str(figure)
