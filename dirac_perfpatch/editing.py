"""Changing a file of toggles in place: `dirac-perfpatch set`.

A setting changes or adds a line; comments, order and all else stay as they are, to the byte. Lines are all that is
understood here, so what comes out is read again, and it must say what the file said before but for the settings.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from dirac_perfpatch import toggles
from dirac_perfpatch.yamlfile import FileError, Node, content, parse

_SETTING = re.compile(r"([A-Za-z_]+)(?:\.([A-Za-z_]+))?=(.*)", re.DOTALL)
_PLAIN_WORD = re.compile(r"[A-Za-z0-9/][A-Za-z0-9_./+-]*")
_VALUE = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^\s#"'](?:[^#]*[^\s#])?)"""
_TOP = ("enabled", "keep_on_update")
_ACCESS = "system.posix_acl_access"
# Seconds to wait for another process that changes the file.
_PATIENCE = 10.0

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
    real = os.path.realpath(path)
    folder = os.path.dirname(real)
    try:
        if not os.path.lexists(path):
            os.makedirs(folder, exist_ok=True)
        with _alone(folder):
            there = os.path.lexists(path)
            before = content(path if there else toggles.SHIPPED)
            toggles.draft(path, before)
            after = edited(path, before, settings)
            if after != before or not there:
                _write(real, after, there)
    except OSError as error:
        raise EditError(f"{path} cannot be written: {error.strerror}") from None
    except (FileError, toggles.ToggleError) as error:
        raise EditError(f"{error}; it was not changed") from None
    return there


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Keep others that change a file in the folder away, so that none of them undoes what another one has changed.

    The lock is that of the folder because the file is replaced as a whole. It ends with the process, and who only reads
    the file needs none.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise EditError(f"another process has locked {folder}; nothing was changed: try again") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


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
        toggles.draft(path, text)
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
    """Replace the file as a whole, so that nobody ever reads half of it, nor does a crash leave half of it.

    It keeps its owner, mode, access list and extended attributes. If one of them cannot be kept it is not replaced.
    """
    folder = os.path.dirname(path)
    descriptor, half = tempfile.mkstemp(dir=folder, prefix=".patches.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            if there:
                _take_after(path, file.fileno())
            else:
                os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(half, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(half)
        raise


def _take_after(path: str, new: int) -> None:
    """Give a new file, which nobody else may open yet, to those who have the old one."""
    old, ours = os.stat(path), os.fstat(new)
    if (old.st_uid, old.st_gid) != (ours.st_uid, ours.st_gid):
        os.fchown(new, old.st_uid, old.st_gid)
    if _ACCESS in set(_attributes(new)) - set(_attributes(path)):
        os.removexattr(new, _ACCESS)  # the folder gives one to new files
    for name in _attributes(path):
        try:
            os.setxattr(new, name, os.getxattr(path, name))
        except OSError:
            # The others belong to the kernel or the file system, which make them as they need them.
            if name.startswith(("system.", "user.")):
                raise
    # The last: the bits of the group are the mask of an access list, and without one they would let the group in.
    os.fchmod(new, old.st_mode & 0o7777)


def _attributes(file: str | int) -> list[str]:
    try:
        # Not signatures of the content, which is another one now.
        return [name for name in os.listxattr(file) if name not in ("security.ima", "security.evm")]
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return []
