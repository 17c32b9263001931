"""The trees of diraccfg, read and made without its methods, for patches of what the host does with whole trees.

A ``CFG`` is a list of names in order, their comments, and their entries: texts, which are options, and further ``CFG``
objects, which are sections. Every function here gives what the method of ``CFG`` that it names gives, with the same
order in each of the three, or raises; then the host's own method has to answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from dirac_perfpatch.locks import Tally

# Counts the changes of trees in this process while ``local_options`` is on; ours here always.
changes = Tally()

# Given a name and the sections that two trees have under it, of which one may be None, makes the merged section.
MergeSection = Callable[[str, Any, Any], Any]

_BRACES = re.compile(r"([{}])")
# Before the "=" of a line: a section in the same line, or a path instead of a name.
_SPECIAL = re.compile(r"[{}/]").search


class NotPlain(Exception):
    """The host's own method has to answer: for an error of the host's, or a tree with something unusual in it."""


class Trees:
    """Makes trees of the host's class."""

    def __init__(self, cfg: type) -> None:
        self.type = cfg

    def _made(self, order: list[str], comments: dict[str, str], entries: dict[str, Any]) -> Any:
        """A tree that owns these three."""
        tree: Any = object.__new__(self.type)
        tree._CFG__orderedList = order
        tree._CFG__commentDict = comments
        tree._CFG__dataDict = entries
        return tree

    def put(self, tree: Any, source: Any) -> None:
        """Give a tree the content of another one, which nobody else may have."""
        tree._CFG__orderedList = source._CFG__orderedList
        tree._CFG__commentDict = source._CFG__commentDict
        tree._CFG__dataDict = source._CFG__dataDict
        changes.add()

    def parse(self, text: Any) -> Any:
        """``CFG().loadFromBuffer(text)``; raises :class:`NotPlain`."""
        if type(text) is not str:
            raise NotPlain
        root = section = self._made([], {}, {})
        order, comments, entries = _parts(root)
        above: list[Any] = []  # the sections around this one
        # The names of options that are set and appended to, by what is before the "=".
        is_set: dict[str, str] = {}
        is_longer: dict[str, str] = {}
        pending = comment = ""  # the name of the next section, so far, and the comment of the next entry
        for whole in text.split("\n"):
            head, equals, value = whole.partition("=")
            # First the forms that nearly all lines have.
            if equals:
                name = is_set.get(head)
                if name is not None:
                    if name not in entries:
                        order.append(name)
                    entries[name] = value.strip()
                    comments[name] = comment
                    pending = comment = ""
                    continue
                name = is_longer.get(head)
                if name is not None and type(entries.get(name)) is str:
                    entries[name] += ", " + value.strip()
                    pending = comment = ""
                    continue
            line = whole.strip()
            if line == "}" and above:
                section = above.pop()
                order, comments, entries = _parts(section)
                continue
            if line == "{":
                above.append(section)
                section = self._new_section(section, pending.strip(), comment)
                order, comments, entries = _parts(section)
                pending = comment = ""
                continue
            if line[:1] == "#":
                comment += line.replace("#", "") + "\n"
                continue
            if not equals and "{" not in line and "}" not in line:
                pending += line
                continue
            before = head[:-1] if equals and head[-1:] == "+" else head
            # Not stripped at the end if "=" follows, like the line.
            for piece in _BRACES.split(before.lstrip() if equals else line):
                if piece == "{":
                    above.append(section)
                    section = self._new_section(section, pending.strip(), comment)
                    pending = comment = ""
                elif piece == "}":
                    if not above:
                        raise NotPlain
                    section = above.pop()
                else:
                    pending += piece
            if equals:
                name = before.strip()
                if before is head:
                    _ask(section.setOption, name, value.strip(), comment)
                else:
                    _ask(section.appendToOption, name, ", " + value.strip())
                if not _SPECIAL(before):
                    (is_set if before is head else is_longer)[head] = name
                pending = comment = ""
            order, comments, entries = _parts(section)
        if above:
            raise NotPlain
        return root

    def _new_section(self, parent: Any, name: str, comment: str) -> Any:
        order, comments, entries = _parts(parent)
        if not name or "/" in name or name in entries:
            _ask(parent.createNewSection, name, comment)
            found = _ask(parent.__getitem__, name)
            if type(found) is not self.type:
                raise NotPlain
            return found
        section: Any = object.__new__(self.type)
        section._CFG__orderedList, section._CFG__commentDict, section._CFG__dataDict = [], {}, {}
        order.append(name)
        comments[name] = comment
        entries[name] = section
        return section

    def text(self, tree: Any, indent: Any) -> str:
        """``tree.serialize(indent)``; raises anything."""
        if type(indent) is not str:
            raise NotPlain
        lines: list[str] = []
        self._write(tree, indent, lines)
        return "".join(lines)

    def _write(self, tree: Any, indent: str, lines: list[str]) -> None:
        if type(tree) is not self.type:
            raise NotPlain
        order, comments, entries = _parts(tree)
        for name in order:
            comment = comments.get(name, "")
            if comment != "":
                lines += [f"{indent}#{line}\n" for line in map(str.strip, comment.split("\n")) if line]
            entry = entries[name]
            if type(entry) is not str:
                lines.append(f"{indent}{name}\n{indent}{{\n")
                self._write(entry, indent + "  ", lines)
                lines.append(f"{indent}}}\n")
            elif "," not in entry:
                lines.append(f"{indent}{name} = {entry.strip()}\n")
            else:
                values = [value for value in map(str.strip, entry.split(",")) if value]
                lines.append(f"{indent}{name} = {values[0] if values else ''}\n")
                lines += [f"{indent}{name} += {value}\n" for value in values[1:]]

    def clone(self, tree: Any) -> Any:
        """``tree.clone()``; raises anything."""
        if type(tree) is not self.type:
            raise NotPlain
        order, comments, entries = _parts(tree)
        copied, sections = {}, {}  # the host's puts the options first
        for name in order:
            entry = entries[name]
            if type(entry) is str:
                copied[name] = entry
            else:
                sections[name] = self.clone(entry)
        copied.update(sections)
        if not set(map(type, comments.values())) <= _TEXT:
            raise NotPlain
        return self._made(list(order), dict(comments), copied)

    def merge(self, base: Any, over: Any) -> Any:
        """``base.mergeWith(over)``; raises anything. As in the host, what only ``over`` has is shared with it."""

        def section(name: str, under: Any, upper: Any) -> Any:
            if upper is None:
                return self.clone(under)
            return upper if under is None else self.merge(under, upper)

        return self.merge_level(base, over, section)

    def merge_level(self, base: Any, over: Any, section: MergeSection) -> Any:
        """Merge two trees with sections that are made elsewhere; raises anything."""
        if type(base) is not self.type or type(over) is not self.type:
            raise NotPlain
        comments: dict[str, str] = {}
        entries: dict[str, Any] = {}
        under, under_comments = self._spread(base, comments, entries)
        upper, upper_comments = self._spread(over, comments, entries)
        for name, entry in under.items():
            if name in entries:
                raise NotPlain  # an option elsewhere: an error of the host's
            other = upper.get(name)
            comments[name] = (under_comments if other is None else upper_comments)[name]
            entries[name] = section(name, entry, other)
        for name, entry in upper.items():
            if name not in under:
                if name in entries:
                    raise NotPlain
                comments[name] = upper_comments[name]
                entries[name] = section(name, None, entry)
        return self._made(list(entries), comments, entries)

    def _spread(
        self, tree: Any, comments: dict[str, str], options: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Put the options of a tree among those of others. Returns: its sections, and all its comments."""
        order, its_comments, entries = _parts(tree)
        sections: dict[str, Any] = {}
        for name in order:
            entry = entries[name]
            if type(entry) is str:
                options[name] = entry
                comments[name] = its_comments[name]
            elif type(entry) is self.type and name not in sections:
                sections[name] = entry
            else:
                raise NotPlain
        return sections, its_comments


_TEXT = {str}


def _parts(tree: Any) -> tuple[list[str], dict[str, str], dict[str, Any]]:
    return tree._CFG__orderedList, tree._CFG__commentDict, tree._CFG__dataDict


def _ask(method: Callable[..., Any], *arguments: Any) -> Any:
    """Leave an odd name to the host, which may refuse it."""
    try:
        return method(*arguments)
    except Exception:
        raise NotPlain from None


def difference(one: Any, other: Any) -> str | None:
    """Where two trees differ in anything, the order of the three included, as a path; None if nowhere."""
    if type(one) is not type(other):
        return "/"
    if not hasattr(one, "_CFG__dataDict"):
        return None if one == other else "/"
    parts, others = _parts(one), _parts(other)
    for mine, its in zip(parts, others):
        if list(mine) != list(its):
            return "/"
    if parts[1] != others[1]:
        return "/"
    for name, entry in parts[2].items():
        found = difference(entry, others[2][name])
        if found is not None:
            return f"/{name}{found}"
    return None
