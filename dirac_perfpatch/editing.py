"""Changing a file of toggles in place: `dirac-perfpatch set`.

A setting changes or adds a line; comments, order and all else stay as they are, to the byte. Lines are all that is
understood here, so what comes out is read again, and it must say what the file said before but for the settings.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Sequence
from typing import Any

from dirac_perfpatch import toggles
from dirac_perfpatch.yamlfile import FileError, Node, content, parse

_SETTING = re.compile(r"([A-Za-z_]+)(?:\.([A-Za-z_]+))?=(.*)", re.DOTALL)
_PLAIN_WORD = re.compile(r"[A-Za-z0-9/][A-Za-z0-9_./+-]*")
_VALUE = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^\s#"'](?:[^#]*[^\s#])?)"""
_TOP = ("enabled", "keep_on_update")

Keys = tuple[str, ...]


class EditError(Exception):
    """Nothing was changed; the text says why, and what would be right."""


def change(path: str, settings: Sequence[str]) -> bool:
    """Change a file; one that is not there is made of the one that ships with the plugin.

    Args:
        path: Of the file. If it is a link, what it leads to is changed.
        settings: ``connection_checkout=off``, ``connection_checkout.idle_ping_seconds=10``, ``enabled=off``, ...

    Returns:
        Whether the file was there.

    Raises:
        EditError: The file or a setting is not as it should be, or cannot be written. Nothing has been changed.
    """
    there = os.path.lexists(path)
    try:
        before = content(path if there else toggles.SHIPPED)
        toggles.draft(path, before.removeprefix("\ufeff"))
        after = edited(path, before, settings)
        if after != before or not there:
            _write(os.path.realpath(path), after, there)
    except OSError as error:
        raise EditError(f"{path} cannot be written: {error.strerror}") from None
    except (FileError, toggles.ToggleError) as error:
        raise EditError(f"{error}; it was not changed") from None
    return there


def edited(path: str, text: str, settings: Sequence[str]) -> str:
    """The text of a file with settings changed.

    Args:
        path: Of the file, for errors.
        text: What is in it; it can be used.
        settings: As for :func:`change`.

    Raises:
        EditError: A setting is not as it should be, or the text is in a style that is not understood here.
    """
    for setting in settings:
        match = _SETTING.fullmatch(setting)
        if match is None:
            raise EditError(f"{setting}: write a patch, =, and on, off or ab, or patch.option=value")
        word = match[3] if _PLAIN_WORD.fullmatch(match[3]) else json.dumps(match[3], ensure_ascii=False)
        text = _with_setting(path, text, _keys(match[1], match[2]), word)
    try:
        toggles.draft(path, text.removeprefix("\ufeff"))
    except toggles.ToggleError as error:
        # Without the number of the line: the file has no such line.
        what = re.sub(r"^:[0-9]+: ", "", str(error).removeprefix(path))
        raise EditError(f"{what}; {path} was not changed") from None
    return text


def _keys(name: str, option: str | None) -> Keys:
    if name in _TOP and option is None:
        return (name,)
    if name == "comparison" and option is not None:
        return name, option
    return "patches", name, option or "enabled"


def _with_setting(path: str, text: str, keys: Keys, word: str) -> str:
    bom = "\ufeff" if text.startswith("\ufeff") else ""
    text = text[len(bom) :]
    root = parse(path, text)
    before = _values(root)
    patches = before.get("patches") if isinstance(before, dict) else None
    if keys[2:] == ("enabled",) and not (isinstance(patches, dict) and isinstance(patches.get(keys[1]), dict)):
        keys = keys[:2]  # `patch: on`
    end = "\r\n" if "\r\n" in text else "\n"
    try:
        if text.count("\r") != (text.count("\n") if end == "\r\n" else 0):
            raise _NotUnderstood  # its lines do not all end alike
        after = end.join(_edit(text.split(end), root, keys, word))
        if _values(parse(path, after)) == _put(before, keys, parse(path, f"value: {word}").value["value"]):
            return bom + after
    except (FileError, _NotUnderstood):
        pass
    raise EditError(f"{path} is written in a style that cannot be edited line by line; change it by hand")


class _NotUnderstood(Exception):
    pass


def _values(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {key: _values(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return list(map(_values, node.value))
    return type(node.value), node.value  # True, 1 and 1.0 are equal


def _put(values: Any, keys: Keys, node: Node) -> Any:
    """The values with one of them set."""
    if not keys:
        return _values(node)
    if not isinstance(values, dict):
        # `patch: on` becomes a mapping; what is empty, too.
        values = {"enabled": values} if len(keys) == 1 and values and values[1] is not None else {}
    return {**values, keys[0]: _put(values.get(keys[0]), keys[1:], node)}


def _edit(lines: list[str], root: Node, keys: Keys, word: str) -> list[str]:
    """The lines with one setting changed."""
    at, node = 0, root  # the number of a line, and what begins there: the deepest that is there
    for depth, key in enumerate(keys):
        below = node.value.get(key) if isinstance(node.value, dict) else None
        if below is None:
            if depth == 2 and not isinstance(node.value, dict):
                return _opened(lines, at, keys, word)
            return _inserted(lines, at, node, keys[depth:], word)
        at, node = below.line, below
    return _replaced(lines, at, keys[-1], word)


def _line(lines: list[str], number: int, key: str) -> re.Match[str]:
    """A key and perhaps a value, taken apart."""
    key = rf"(?P<key> *(?P<quote>[\"']?){re.escape(key)}(?P=quote)[ \t]*:)"
    match = re.fullmatch(key + rf"(?:(?P<space>[ \t]+)(?P<value>{_VALUE}))?(?P<tail>\s*|\s+#.*)", lines[number - 1])
    if match is None:
        raise _NotUnderstood
    return match


def _replaced(lines: list[str], number: int, key: str, word: str) -> list[str]:
    line = _line(lines, number, key)
    new = f"{line['key']}{line['space'] or ' '}{word}{line['tail']}"
    return [*lines[: number - 1], new, *lines[number:]]


def _opened(lines: list[str], number: int, keys: Keys, word: str) -> list[str]:
    """`patch: on` becomes a mapping."""
    line = _line(lines, number, keys[1])
    indent = _indent(lines, number) + "  "
    new = [line["key"] + line["tail"], f"{indent}enabled: {line['value']}", f"{indent}{keys[2]}: {word}"]
    return [*lines[: number - 1], *new, *lines[number:]]


def _inserted(lines: list[str], at: int, node: Node, keys: Keys, word: str) -> list[str]:
    """Keys, each in the one before, are added to a mapping that begins at a line, or at none: the whole file."""
    children = list(node.value.values()) if isinstance(node.value, dict) else []
    indent = _indent(lines, at) + "  " if at else ""
    if children:
        indent = _indent(lines, children[0].line)
    new = [f"{indent}{'  ' * depth}{key}:" for depth, key in enumerate(keys)]
    new[-1] += f" {word}"
    if not at:
        place = len(lines) - (lines[-1] == "")
    elif keys == ("enabled",):
        place = at
    else:
        place = _last(node)
    return [*lines[:place], *new, *lines[place:]]


def _indent(lines: list[str], number: int) -> str:
    line = lines[number - 1]
    return line[: len(line) - len(line.lstrip(" "))]


def _last(node: Node) -> int:
    """The number of the last line that has a key of it."""
    below = node.value.values() if isinstance(node.value, dict) else ()
    return max([node.line, *map(_last, below)])


def _write(path: str, text: str, there: bool) -> None:
    """Replace the file as a whole, so that nobody reads half of it; it keeps its mode and its owner."""
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    descriptor, half = tempfile.mkstemp(dir=folder, prefix=".patches.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            if there:
                old = os.stat(path)
                if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), old.st_uid, old.st_gid)
                os.fchmod(file.fileno(), old.st_mode & 0o7777)
            else:
                os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(half, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(half)
        raise
