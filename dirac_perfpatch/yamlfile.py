"""Read YAML into nodes that know their lines.

There are two readers because importing PyYAML takes 17 to 30 ms, and every DIRAC command reads the toggles, while
``import DIRAC`` takes 90 to 95 ms in all. A plain file is read here, line by line: ``key:`` with a word, a number, an
absolute path, ``""`` or nothing, indented by spaces, and comments. PyYAML reads anything else. A test shows that both
agree on whatever the plain reader accepts.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from typing import Any, NamedTuple

from dirac_perfpatch.notices import OperatorError

# Toggles need far less; a larger file is a mistake or an attack.
_MAX_BYTES = 64 * 1024
_MAX_DEPTH = 8
# The length of a name or a value; it also keeps numbers small enough to convert and print.
_MAX_LENGTH = 200
_PLAIN_LINE = re.compile(
    r"( *)([a-z][a-z_]{0,99}):"
    r"(?: +([a-z]{2,20}|[0-9]{1,9}(?:\.[0-9]{1,9})?|/[A-Za-z0-9_./-]{0,199}|\"\"))?[ ]*(?: #.*)?"
)
WORDS = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}


class FileError(OperatorError):
    """A file, or a section of the configuration, cannot be used.

    Args:
        path: The path of either.
        line: Counted from 1; 0 if the error concerns the whole file, or if there are no lines.
        text: What is wrong, and what would be right.
    """

    def __init__(self, path: str, line: int, text: str) -> None:
        super().__init__(f"{path}:{line}: {text}" if line else f"{path}: {text}")
        self.line = line
        self.text = text


class Node(NamedTuple):
    """A value and its place.

    Args:
        value: A bool, int, float, str or None; a list of nodes; or a dict of nodes by key.
        line: The line of its key, or of the value itself if it has none; counted from 1. 0 without lines.
        path: The file, or the option of the configuration.
    """

    value: Any
    line: int
    path: str

    def error(self, text: str) -> FileError:
        """The error that names this place."""
        return FileError(self.path, self.line, text)


def parse(path: str, text: str) -> Node:
    """Read the text of a file.

    Args:
        path: The file, for errors.
        text: Its content, with or without a byte order mark.

    Returns:
        The document; its value is None if it is empty.

    Raises:
        FileError: The text is not YAML, repeats a key, or uses what toggles do not need: tags, anchors, several
            documents, deep nesting, long names or values.
    """
    text = text.removeprefix("\ufeff")
    plain = _read_plain(path, text)
    return _read_yaml(path, text) if plain is None else plain


def content(path: str, look: Callable[[str], os.stat_result] = os.stat) -> str:
    """Return the text of a file, with its byte order mark and line ends.

    Args:
        path: The file.
        look: Returns what ``os.stat`` does, or refuses the file with an :class:`OperatorError`.

    Raises:
        FileError: The file cannot be read, is not UTF-8, or is larger than 64 KiB.
    """
    try:
        kind = look(path).st_mode
        if stat.S_ISDIR(kind):
            raise FileError(path, 0, "is a folder; name the file in it")
        if not stat.S_ISREG(kind):
            raise FileError(path, 0, "is not a regular file")
        # Nonblocking: it may have become a pipe, or be a regular file that makes its reader wait, such as /proc/kmsg.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            data = file.read(_MAX_BYTES + 1) or b""
    except FileError:
        raise
    except OperatorError as error:
        raise FileError(path, 0, str(error)) from None
    except OSError as error:
        hint = "; make it readable for the user that runs DIRAC" if error.errno == errno.EACCES else ""
        raise FileError(path, 0, f"cannot be read: {error.strerror}{hint}") from None
    if len(data) > _MAX_BYTES:
        raise FileError(path, 0, f"is larger than {_MAX_BYTES // 1024} KiB; toggles take a page of text")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileError(path, line, f"byte 0x{data[error.start]:02x} is not UTF-8; save it as UTF-8 text") from None


def _read_plain(path: str, text: str) -> Node | None:
    """Read nested mappings of words and numbers; None if the text has anything else."""
    top: dict[str, Node] = {}
    # The open mappings, each after the indentation of its keys, which is None until the first key.
    levels: list[tuple[int | None, dict[str, Node]]] = [(0, top)]
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.lstrip(" ")
        if not stripped or (stripped.startswith("#") and line.isprintable()):
            continue
        match = _PLAIN_LINE.fullmatch(line)
        if match is None or not line.isprintable():
            return None
        indent, key, word = len(match[1]), match[2], match[3]
        if levels[-1][0] is None:
            if len(levels) > _MAX_DEPTH:
                return None
            if indent <= (levels[-2][0] or 0):
                return None  # a key without a value: left to PyYAML
            levels[-1] = (indent, levels[-1][1])
        while len(levels) > 1 and indent < (levels[-1][0] or 0):
            levels.pop()
        mapping = levels[-1][1]
        if indent != levels[-1][0] or key in mapping or key in WORDS or key in ("y", "n", "null"):
            return None
        if word is None:
            value: Any = {}
            levels.append((None, value))
        else:
            value = "" if word == '""' else _plain_value(word)
            if value is None:
                return None
        mapping[key] = Node(value, number, path)
    return Node(top, next(iter(top.values())).line, path) if top and levels[-1][0] is not None else None


def _plain_value(word: str) -> Any:
    """The value of a word, a number or a path; None if PyYAML must say."""
    if word in WORDS:
        return WORDS[word]
    if not word[0].isdigit():
        return None if word == "null" else word
    if len(word) > 1 and word[0] == "0" and not word.startswith("0."):
        return None  # octal in YAML 1.1
    return float(word) if "." in word else int(word)


def _read_yaml(path: str, text: str) -> Node:
    try:
        import yaml
    except Exception as error:
        raise FileError(path, 0, f"cannot be read without PyYAML ({type(error).__name__}: {error})") from None
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        _refuse_unneeded(path, loader, yaml)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except FileError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        text = " ".join(filter(None, (error.problem, error.context)))
        raise FileError(path, mark.line + 1 if mark else 0, f"is not YAML: {text:.{_MAX_LENGTH}}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise FileError(path, line, f"is not YAML: U+{error.character:04X} is not allowed in it") from None
    except Exception as error:  # PyYAML raises others for some escapes and numbers
        raise FileError(path, loader.line + 1 if loader else 0, f"is not YAML: {error}") from None
    if root is None:
        return Node(None, 1, path)
    return _node(path, root, root.start_mark.line + 1, yaml)


def _refuse_unneeded(path: str, loader: Any, yaml: Any) -> None:
    documents = depth = 0
    while loader.check_event():
        event = loader.get_event()
        line = event.start_mark.line + 1
        documents += isinstance(event, yaml.DocumentStartEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if documents > 1:
            raise FileError(path, line, "a second document begins here; only one is allowed")
        if depth > _MAX_DEPTH:
            raise FileError(path, line, f"is nested more than {_MAX_DEPTH} levels deep; toggles need three")
        if getattr(event, "anchor", None):
            raise FileError(path, line, "anchors and aliases (& and *) are not supported; write the value out")
        if getattr(event, "tag", None):
            raise FileError(
                path, line, f"tags such as {event.tag!r:.{_MAX_LENGTH}} are not supported; write a plain value"
            )
        if len(getattr(event, "value", "")) > _MAX_LENGTH:
            text = f"has {len(event.value)} characters; a name or a value may have {_MAX_LENGTH}"
            raise FileError(path, line, text)


def _node(path: str, node: Any, line: int, yaml: Any) -> Node:
    if isinstance(node, yaml.MappingNode):
        return Node(_mapping(path, node, yaml), line, path)
    if isinstance(node, yaml.SequenceNode):
        return Node([_node(path, item, item.start_mark.line + 1, yaml) for item in node.value], line, path)
    try:
        return Node(yaml.SafeLoader("").construct_object(node), line, path)
    except Exception as error:  # also from int() and datetime.date()
        text = getattr(error, "problem", None) or error
        raise FileError(path, line, f"{node.value!r} is not a value: {text}") from None


def _mapping(path: str, node: Any, yaml: Any) -> dict[str, Node]:
    mapping: dict[str, Node] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise FileError(path, line, "a key must be a word")
        if key.value in mapping:
            text = f"{key.value!r} is repeated; it is in line {mapping[key.value].line} already"
            raise FileError(path, line, text)
        mapping[key.value] = _node(path, value, line, yaml)
    return mapping
