"""Markdown and docstrings: cutting them into parts, and turning one into the other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

_FENCE = re.compile(r"^(?:```.*?^```[ ]*$)", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_SAME = re.compile(r"The same |Why |The answer is the same")
_LIMITS = re.compile(r"Not (?:seen|saved|reached)|What a comparison does not see")
_INSIDE = re.compile(r"No lock|The seam|Nothing is kept|Thread safety|Fork:|What this buys")


class Story(NamedTuple):
    """A patch's docstring in Markdown, by what it tells; a part may be empty."""

    what: str
    same: str
    limits: str
    inside: str


def story(docstring: str) -> Story:
    """Sort the paragraphs of a patch's docstring, which follow a custom: what, why it is the same, limits, inside."""
    parts: dict[str, list[str]] = {"what": [], "same": [], "limits": [], "inside": []}
    part = "what"
    for paragraph in docstring.split("\n\n"):
        if _INSIDE.match(paragraph):
            part = "inside"
        elif _SAME.match(paragraph):
            part = "same"
        elif _LIMITS.match(paragraph):
            part = "limits"
        elif part in ("limits", "inside") and not paragraph.startswith(("- ", " ")):
            part = "same" if parts["same"] else "what"
        # Inside a paragraph, such a sentence goes on to its end.
        told, found, rest = paragraph, "", ""
        if part in ("what", "same"):
            told, found, rest = re.sub(
                r"(?<=[.)] )(?=Not seen)", "\0", paragraph.replace("\n", " \n"), count=1
            ).partition("\0")
        parts[part].append(told)
        if found:
            parts["limits"].append(rest)
    # The heading says that.
    opening = re.compile(r"(?:Why the answer is the same|The same answer): *")
    if parts["same"] and opening.match(parts["same"][0]):
        first = opening.sub("", parts["same"][0], count=1)
        parts["same"][0] = first[:1].upper() + first[1:]
    return Story(*("\n\n".join(filter(None, map(markdown, parts[name]))) for name in Story._fields))


def markdown(text: str) -> str:
    """A paragraph of a docstring as Markdown."""
    text = "\n".join(line.rstrip() for line in text.splitlines())
    if text.startswith("==="):
        return _simple_table(text)
    text = re.sub(r":\w+:`[~.]*([^`]+)`", r"``\1``", text)
    return outside_code(re.sub(r"``(.+?)``", r"`\1`", text, flags=re.DOTALL), _escaped)


def _escaped(text: str) -> str:
    return re.sub(r"([_<])", r"\\\1", text)


def _simple_table(text: str) -> str:
    rule, header, _, *lines = text.splitlines()
    spans = [(match.start(), match.end()) for match in re.finditer("=+", rule)]
    spans[-1] = (spans[-1][0], 1000)
    rows = [[markdown(line[start:end].strip()) for start, end in spans] for line in [header, *lines[:-1]]]
    return table(rows)


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Change what is neither in a fence nor in a code span."""
    return _outside(text, _FENCE, lambda part: _outside(part, _CODE, change))


def _outside(text: str, code: re.Pattern[str], change: Callable[[str], str]) -> str:
    done, end = [], 0
    for match in code.finditer(text):
        done += [change(text[end : match.start()]), match[0]]
        end = match.end()
    return "".join([*done, change(text[end:])])


def slug(heading: str) -> str:
    """The anchor of a heading, as repositories and our site make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def headings(text: str) -> list[str]:
    """The headings of a page."""
    return re.findall(r"^#+ +(.+?) *$", _FENCE.sub("", text), re.MULTILINE)


def tables(text: str) -> Iterator[list[list[str]]]:
    """The tables of a page, as rows of cells, the header first."""
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        lines = [line.strip().removeprefix("|").removesuffix("|").split("|") for line in block.splitlines()]
        header, _, *rows = [[cell.strip() for cell in line] for line in lines]
        yield [header, *rows]


def rows(text: str) -> list[list[str]]:
    """All rows of all tables of a text."""
    return [row for found in tables(text) for row in found]


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table of these rows, the header first."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def bullets(text: str) -> list[str]:
    """The items of the lists of a text, with their further lines."""
    return re.findall(r"^- .*(?:\n {2}.*)*", text, re.MULTILINE)


def entry(text: str, name: str) -> str:
    """The comments and lines of one patch in patches.yaml."""
    found = re.search(rf"(?:^  #.*\n)*^  {name}:.*\n(?:^    .*\n)*", text, re.MULTILINE)
    if found is None:
        raise LookupError(f"patches.yaml has no {name}")
    return found[0]
