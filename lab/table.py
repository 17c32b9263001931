"""The table that our commands print: rows of text in columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Union

Row = Union[Sequence[str], str]


def aligned(rows: Sequence[Row], left: Collection[int] = (0,)) -> str:
    """The rows as lines, the first with a rule below it.

    rows: all with the same number of cells; a string instead of a row is a separate line. left: the columns that are
    aligned to the left; the others are aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(*(row for row in rows if not isinstance(row, str)))]
    lines = [row if isinstance(row, str) else _line(row, widths, left) for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _line(row: Sequence[str], widths: Sequence[int], left: Collection[int]) -> str:
    cells = zip(row, widths)
    return "  ".join(
        cell.ljust(width) if column in left else cell.rjust(width) for column, (cell, width) in enumerate(cells)
    ).rstrip()
