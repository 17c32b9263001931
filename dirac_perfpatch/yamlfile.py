"""Reading a YAML file into nodes that know their lines, without building objects and without surprises.

Importing PyYAML takes 20 ms, and every DIRAC command reads a file of toggles, so a plain file, which is what
``dirac-perfpatch init`` writes and people edit, is read line by line: ``key:`` and a word, a number, an absolute path,
``""`` or nothing, indented by spaces, and comments. Anything else, valid or not, is PyYAML's to read. A test shows that
both agree on whatever the plain reader accepts.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import Any, NamedTuple

# Far more than a file of toggles has; a larger one is a mistake or an attack.
_MAX_BYTES = 64 * 1024
_MAX_DEPTH = 8
# Of a name or a value. Also keeps every number one that can be calculated and shown.
_MAX_LENGTH = 200
_PLAIN_LINE = re.compile(
    r"( *)([a-z][a-z_]{0,99}):"
    r"(?: +([a-z]{2,20}|[0-9]{1,9}(?:\.[0-9]{1,9})?|/[A-Za-z0-9_./-]{0,199}|\"\"))?[ ]*(?: #.*)?"
)
_WORDS = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}


class FileError(Exception):
    """A file that cannot be used.

    Args:
        path: Of the file.
        line: Counted from 1, or None if it is about the whole file.
        text: What is wrong and what would be right.
    """

    def __init__(self, path: str, line: int | None, text: str) -> None:
        where = path if line is None else f"{path}:{line}"
        super().__init__(f"{where}: {text}")
        self.path = path
        self.line = line
        self.text = text


class Node(NamedTuple):
    """A value, and where it is.

    Args:
        value: A bool, int, float, str or None; a list of nodes; or a dict of nodes by their keys.
        line: Of the key that it belongs to, or else of the value itself; counted from 1.
        place: Where it is instead, if it is not in a file.
    """

    value: Any
    line: int
    place: str = ""


def read(path: str) -> Node:
    """Read a file.

    Args:
        path: Of the file.

    Returns:
        Its one document; the value is None for an empty one.

    Raises:
        FileError: It cannot be read, is not YAML, repeats a key, or uses what a file of toggles has no need of: tags,
            anchors, several documents, deep nesting, long names or values, more than 64 KiB.
    """
    return parse(path, content(path).removeprefix("\ufeff"))


def parse(path: str, text: str) -> Node:
    """Read the text of a file, as :func:`read` does."""
    plain = _read_plain(text)
    return _read_yaml(path, text) if plain is None else plain


def content(path: str) -> str:
    """The text of a file, with its byte order mark and line ends as they are.

    Raises:
        FileError: It cannot be read, is not UTF-8, or is larger than 64 KiB.
    """
    try:
        kind = os.stat(path).st_mode
        if stat.S_ISDIR(kind):
            raise FileError(path, None, "is a folder; name the file in it")
        if not stat.S_ISREG(kind):
            raise FileError(path, None, "is not a regular file")
        # It may have become a pipe meanwhile, or have its reader wait although it looks regular, as /proc/kmsg does.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            data = file.read(_MAX_BYTES + 1) or b""
    except OSError as error:
        hint = "; make it readable for the user that runs DIRAC" if error.errno == errno.EACCES else ""
        raise FileError(path, None, f"cannot be read: {error.strerror}{hint}") from None
    if len(data) > _MAX_BYTES:
        raise FileError(path, None, f"is larger than {_MAX_BYTES // 1024} KiB; a file of toggles is a page of text")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileError(path, line, f"byte 0x{data[error.start]:02x} is not UTF-8; save it as UTF-8 text") from None


def _read_plain(text: str) -> Node | None:
    """Read nested mappings of words and numbers; None if there is anything else in the text."""
    top: dict[str, Node] = {}
    # The open mappings: the indentation of their keys (None until the first is seen) and the mapping.
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
                return None  # a key without a value: PyYAML says what it thinks of it
            levels[-1] = (indent, levels[-1][1])
        while len(levels) > 1 and indent < (levels[-1][0] or 0):
            levels.pop()
        mapping = levels[-1][1]
        if indent != levels[-1][0] or key in mapping or key in _WORDS or key in ("y", "n", "null"):
            return None
        if word is None:
            value: Any = {}
            levels.append((None, value))
        else:
            value = "" if word == '""' else plain_value(word)
            if value is None:
                return None
        mapping[key] = Node(value, number)
    return Node(top, next(iter(top.values())).line) if top and levels[-1][0] is not None else None


def plain_value(word: str) -> Any:
    """What a word, a number or a path means in YAML; None for what PyYAML is to be asked."""
    if word in _WORDS:
        return _WORDS[word]
    if not word[0].isdigit():
        return None if word == "null" else word
    if len(word) > 1 and word[0] == "0" and not word.startswith("0."):
        return None  # octal, to some
    return float(word) if "." in word else int(word)


def _read_yaml(path: str, text: str) -> Node:
    try:
        import yaml
    except Exception as error:
        raise FileError(path, None, f"cannot be read without PyYAML ({type(error).__name__}: {error})") from None
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        _refuse_needless(path, loader, yaml)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except FileError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        text = " ".join(filter(None, (error.problem, error.context)))
        raise FileError(path, mark.line + 1 if mark else None, f"is not YAML: {text:.{_MAX_LENGTH}}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise FileError(path, line, f"is not YAML: U+{error.character:04X} is not allowed in it") from None
    except Exception as error:  # PyYAML does not expect every escape and every number
        raise FileError(path, loader.line + 1 if loader else None, f"is not YAML: {error}") from None
    if root is None:
        return Node(None, 1)
    return _node(path, root, root.start_mark.line + 1, yaml)


def _refuse_needless(path: str, loader: Any, yaml: Any) -> None:
    documents = depth = 0
    while loader.check_event():
        event = loader.get_event()
        line = event.start_mark.line + 1
        documents += isinstance(event, yaml.DocumentStartEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if documents > 1:
            raise FileError(path, line, "a second document begins here; one is all that is read")
        if depth > _MAX_DEPTH:
            raise FileError(path, line, f"is nested more than {_MAX_DEPTH} deep; patches and their options need three")
        if getattr(event, "anchor", None):
            raise FileError(path, line, "anchors and aliases (& and *) are not read; write the value out")
        if getattr(event, "tag", None):
            raise FileError(path, line, f"the tag {event.tag!r:.{_MAX_LENGTH}} is not read; write a plain value")
        if len(getattr(event, "value", "")) > _MAX_LENGTH:
            raise FileError(
                path, line, f"has {len(event.value)} characters; a name or a value has at most {_MAX_LENGTH}"
            )


def _node(path: str, node: Any, line: int, yaml: Any) -> Node:
    if isinstance(node, yaml.MappingNode):
        return Node(_mapping(path, node, yaml), line)
    if isinstance(node, yaml.SequenceNode):
        return Node([_node(path, item, item.start_mark.line + 1, yaml) for item in node.value], line)
    try:
        return Node(yaml.SafeLoader("").construct_object(node), line)
    except Exception as error:  # also those of int() and of datetime.date()
        text = getattr(error, "problem", None) or error
        raise FileError(path, line, f"{node.value!r} is not a value: {text}") from None


def _mapping(path: str, node: Any, yaml: Any) -> dict[str, Node]:
    mapping: dict[str, Node] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise FileError(path, line, "a key must be a word")
        key = key_node.value
        if key in mapping:
            raise FileError(path, line, f"{key!r} is here again; the first one is in line {mapping[key].line}")
        mapping[key] = _node(path, value_node, line, yaml)
    return mapping
