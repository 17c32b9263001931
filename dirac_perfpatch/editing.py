"""Change a file of toggles in place: ``dirac-perfpatch set``.

A setting changes or adds a line; every other byte stays. This module knows lines, not YAML, so the result is parsed: it
must differ from the former content by the setting alone.
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
from dirac_perfpatch.notices import OperatorError
from dirac_perfpatch.yamlfile import FileError, Node, content, parse

_SETTING = re.compile(r"([A-Za-z_]+)(?:\.([A-Za-z_]+))?=(.*)", re.DOTALL)
_PLAIN_WORD = re.compile(r"-?[A-Za-z0-9/][A-Za-z0-9_./+-]*")
_FRACTION = re.compile(r"(-?)(\.[0-9]+)")
_VALUE = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^\s#"'](?:[^#]*[^\s#])?)"""
_ACCESS = "system.posix_acl_access"
# Seconds to wait for another process that is changing the file.
_PATIENCE = 10.0

Keys = tuple[str, ...]


def change(path: str, settings: Sequence[str]) -> bool:
    """Change a file. If it does not exist, it is made from the shipped one.

    Args:
        path: The file. If it is a link, its destination is changed.
        settings: ``connection_checkout=off``, ``connection_checkout.idle_ping_seconds=10``, ``enabled=off``, ...

    Returns:
        Whether the file existed.

    Raises:
        OperatorError: The file or a setting is wrong, or the file cannot be written. Nothing was changed.
    """
    real = os.path.realpath(path)
    folder = os.path.dirname(real)
    try:
        if not os.path.lexists(path):
            os.makedirs(folder, exist_ok=True)
        with _alone(folder):
            there = os.path.lexists(path)
            before = content(path if there else toggles.SHIPPED)
            toggles.read(path, before)
            after = edited(path, before, settings)
            if after != before or not there:
                _write(real, after, there)
    except OSError as error:
        raise OperatorError(f"{path} cannot be written: {error.strerror}") from None
    except FileError as error:
        raise OperatorError(f"{error}; it was not changed") from None
    return there


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Exclude other processes that change a file in the folder, so that none undoes another's change.

    The folder is locked, not the file, because the file is replaced. The lock ends with the process. Readers need none.
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
                    raise OperatorError(
                        f"another process has locked {folder}; nothing was changed: try again"
                    ) from None
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def edited(path: str, text: str, settings: Sequence[str]) -> str:
    """Return the text of a file with settings changed.

    Args:
        path: The file, for errors.
        text: Its content, which is valid.
        settings: As for :func:`change`.

    Raises:
        OperatorError: A setting is wrong, or the style of the text is not supported.
    """
    for setting in settings:
        match = _SETTING.fullmatch(setting)
        if match is None:
            raise OperatorError(f"{setting}: write PATCH=on, PATCH=off, PATCH=ab or PATCH.OPTION=VALUE")
        text = _with_setting(path, text, _keys(match[1], match[2]), _word(match[3]))
    try:
        toggles.read(path, text)
    except FileError as error:  # its line is none of the file's
        raise OperatorError(f"{error.text}; {path} was not changed") from None
    return text


def _word(value: str) -> str:
    """A value as it is written in the file: in quotes, if YAML could misread it."""
    if fraction := _FRACTION.fullmatch(value):
        return f"{fraction[1]}0{fraction[2]}"  # not `.5`, for which every command would import PyYAML
    return value if _PLAIN_WORD.fullmatch(value) else json.dumps(value, ensure_ascii=False)


def _keys(name: str, option: str | None) -> Keys:
    if option is None and name in toggles.read(toggles.SHIPPED).settings[""]:
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
            raise _NotUnderstood  # mixed line ends
        lines = text.split(end)
        _edit(lines, root, keys, word)
        after = end.join(lines)
        if _values(parse(path, after)) == _put(before, keys, parse(path, f"value: {word}").value["value"]):
            return bom + after
    except OperatorError:
        pass
    raise OperatorError(f"{path} is written in a style that cannot be edited line by line; change it by hand")


class _NotUnderstood(OperatorError):
    """A line is in a style that is not supported."""


def _values(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {key: _values(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return list(map(_values, node.value))
    return type(node.value), node.value  # True, 1 and 1.0 would be equal


def _put(values: Any, keys: Keys, node: Node) -> Any:
    """Return values of a file, as of `_values`, with one of them set."""
    if not keys:
        return _values(node)
    if not isinstance(values, dict):
        # `patch: on` becomes a mapping, and so does an empty value.
        values = {"enabled": values} if len(keys) == 1 and values and values[1] is not None else {}
    return {**values, keys[0]: _put(values.get(keys[0]), keys[1:], node)}


def _edit(lines: list[str], root: Node, keys: Keys, word: str) -> None:
    """Change one setting in the lines."""
    at, node, missing = 0, root, list(keys)  # the line and the value of the deepest key that exists
    while missing and isinstance(node.value, dict) and missing[0] in node.value:
        node = node.value[missing.pop(0)]
        at = node.line
    if not missing:
        line = _line(lines[at - 1], keys[-1])
        lines[at - 1] = f"{line['key']}{line['space'] or ' '}{word}{line['tail']}"
    elif len(keys) - len(missing) == 2 and not isinstance(node.value, dict):  # `patch: on` becomes a mapping
        line = _line(lines[at - 1], keys[1])
        indent = f"{line['indent']}  "
        below = f"{indent}enabled: {line['value']}", f"{indent}{keys[2]}: {word}"
        lines[at - 1 : at] = line["key"] + line["tail"], *below
    else:
        _insert(lines, at, node, missing, word)


def _line(line: str, key: str) -> re.Match[str]:
    """Split the line of a key and perhaps a value."""
    pattern = rf"(?P<key>(?P<indent> *)(?P<quote>[\"']?){re.escape(key)}(?P=quote)[ \t]*:)"
    match = re.fullmatch(pattern + rf"(?:(?P<space>[ \t]+)(?P<value>{_VALUE}))?(?P<tail>\s*|\s+#.*)", line)
    if match is None:
        raise _NotUnderstood
    return match


def _insert(lines: list[str], at: int, node: Node, keys: Sequence[str], word: str) -> None:
    """Add nested keys to the mapping that begins at a line; at line 0 to the whole file."""
    children = list(node.value.values()) if isinstance(node.value, dict) else []
    indent = _indent(lines[at - 1]) + "  " if at else ""
    if children:
        indent = _indent(lines[children[0].line - 1])
    new = [f"{indent}{'  ' * depth}{key}:" for depth, key in enumerate(keys)]
    new[-1] += f" {word}"
    place = len(lines) - (lines[-1] == "")
    if at:
        place = at if keys == ["enabled"] else _last(node)
    lines[place:place] = new


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" "))]


def _last(node: Node) -> int:
    """Return the last line that has a key of a mapping."""
    below = node.value.values() if isinstance(node.value, dict) else ()
    return max([node.line, *map(_last, below)])


def _write(path: str, text: str, there: bool) -> None:
    """Replace the file as a whole, so that neither a reader nor a crash meets half of it.

    Its owner, mode, access list and extended attributes are kept. If one cannot be kept, the file is not replaced.
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
    """Copy owner, mode, access list and attributes to a new file, which nobody else may open yet."""
    old, ours = os.stat(path), os.fstat(new)
    if (old.st_uid, old.st_gid) != (ours.st_uid, ours.st_gid):
        os.fchown(new, old.st_uid, old.st_gid)
    if _ACCESS in set(_attributes(new)) - set(_attributes(path)):
        os.removexattr(new, _ACCESS)  # inherited from the folder
    for name in _attributes(path):
        try:
            os.setxattr(new, name, os.getxattr(path, name))
        except OSError:
            # The kernel and the file system set the others themselves.
            if name.startswith(("system.", "user.")):
                raise
    # Last: group bits are the mask of an access list; if there were none yet, they would let the group in.
    os.fchmod(new, old.st_mode & 0o7777)


def _attributes(file: str | int) -> list[str]:
    try:
        # Not signatures of the content, which has changed.
        return [name for name in os.listxattr(file) if name not in ("security.ima", "security.evm")]
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return []
