"""The plain reader and PyYAML agree on whatever the plain reader accepts, and nothing but FileError comes out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dirac_perfpatch import toggles, yamlfile
from dirac_perfpatch.yamlfile import FileError, Node

_SHIPPED = Path(toggles.SHIPPED).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def file() -> Iterator[Path]:
    """One file for all examples of a test."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "file.yaml"


def _plainly(node: Node) -> Any:
    """Return lines, values and types: True, 1 and 1.0 would be equal."""
    if isinstance(node.value, dict):
        return node.line, [(key, _plainly(child)) for key, child in node.value.items()]
    if isinstance(node.value, list):
        return node.line, [_plainly(child) for child in node.value], "list"
    return node.line, type(node.value).__name__, repr(node.value)


def _agree(text: str) -> bool:
    """Compare both readers. Returns: whether the plain one accepted the text."""
    plain = yamlfile._read_plain("file", text)
    if plain is None:
        return False
    assert _plainly(plain) == _plainly(yamlfile._read_yaml("file", text))
    return True


# Texts near the grammar: mappings that the plain reader accepts, in which one or two parts are replaced by what is
# close to them.
_KEYS = """
enabled patches a a_ b_c a1 1 A on off yes no y n null ~ true - ? "a" 'a' a.b << é a\u00a0 *a &a !a [a] {a} a: a#
""".strip().split(" ")
_VALUES = (
    """
on off true false yes no On OFF True y n Y N null Null ~ nul of onn none a 'on' "off" [on] {a:on} > | & * ! % @ ` - ? ,
# ë \u2028 2026-01-01 = << nan inf .inf 0 1 7 00 01 08 010 0.5 00.5 01.5 1.0 1. .5 1.50 1_0 1e3 1.0e3 1.5e+3 1:30 0x1f
time process nullable /a /a/b_c.d-e /a:b // "" "a" 0b1 0o7 -1 +1 -0.5 123456789 1234567890
""".strip()
    .replace("\n", " ")
    .split(" ")
)
_ODD = (
    ["", " ", "   ", "      ", "\t", "  \t", "\u00a0"],
    _KEYS,
    [":", ":  ", ":\t", " : ", "", ": \t", ":\u00a0", "::", ": :"],
    ["", *_VALUES],
    [
        " ",
        " # why",
        "# why",
        " #",
        "\t# why",
        " # wh\ty",
        " # é",
        " # \u200b",
        " # \u2028a: on",
        " #\x85b: on",
        "\r",
        " : on",
    ],
)
_LINES = [
    "",
    " ",
    "   ",
    "\t",
    "# on",
    "  # on",
    "#\ton",
    "# \u2028a: on",
    "#\x85a: on",
    "---",
    "...",
    "%YAML 1.1",
    "- a",
] + ["on", "\ufeff", "\x00", "a:", "  a:", "    a:", "a: on"]


@st.composite
def _mapping(draw: st.DrawFn, depth: int = 0, deepest: int = 3) -> list[list[str]]:
    """Lines, each in five parts: indentation, key, colon, value, tail."""
    indent = " " * draw(st.integers(1, 3)) if depth else ""
    lines = []
    for number in range(draw(st.integers(1, 3))):
        key = "abc"[number] * draw(st.integers(1, 2))
        if depth < deepest and draw(st.booleans()):
            lines.append([indent, key, ":", "", ""])
            lines += [[indent + line[0], *line[1:]] for line in draw(_mapping(depth + 1, deepest))]
        else:
            lines.append([indent, key, ": ", draw(st.sampled_from(["on", "off", "12", "0.25", "no"])), ""])
    return lines


@st.composite
def _near(draw: st.DrawFn) -> str:
    lines = draw(_mapping())
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(lines) - 1))
        part = draw(st.integers(0, len(_ODD)))
        if part == len(_ODD):
            lines.insert(at, ["", draw(st.sampled_from(_LINES)), "", "", ""])
        else:
            lines[at][part] = draw(st.sampled_from(_ODD[part]))
    end = draw(st.sampled_from(["\n"] * 6 + ["\r\n", "\r", "\n\n"]))
    return end.join(map("".join, lines)) + draw(st.sampled_from(["", end]))


def _deep(levels: int) -> str:
    return "".join(" " * level + "a:\n" for level in range(levels - 1)) + " " * (levels - 1) + "a: on"


@st.composite
def _mutated(draw: st.DrawFn) -> str:
    """The shipped file with some of its characters changed."""
    text = list(_SHIPPED)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(text) - 1))
        new = draw(st.text("\n\r\t :#-[]{}'\"&*!|>%@`,?~ab_019.éó\ufeff\u2028\x85\x00", max_size=3))
        text[at : at + draw(st.integers(0, 12))] = list(new) or [""]
    return "".join(text)


@pytest.mark.simulation
@settings(max_examples=400)
@given(_near())
@example("")
@example("a: on\nb:")
@example("a:\nb: on")
@example("a:\n  b: on\n c: on")
@example("a: on\n b: on")
@example("a:\n  b:\n    c: on\n  d:\n   e: 1\nf: 2.5")
@example("a: on\na: off")
@example("y: on\nn: off\nnull: on\non: off")
@example("# c\n\n\na:\n\n  # c\n  b: 007\n")
@example("a" * 1100 + ": on\n")
@example("a: 1#\nb: on # c")
@example("a: 00.5\nb: 010\nc: 0")
@example("a: y\nb: N")
@example("a: on # \u2028b: on")
@example("\ufeffa: on")
def test_both_readers_agree_near_the_grammar(text: str) -> None:
    _agree(text)


@pytest.mark.parametrize("levels", range(1, 12))
def test_both_readers_agree_on_how_deep_is_too_deep(levels: int) -> None:
    assert _agree(_deep(levels)) == (levels <= 8)


@pytest.mark.simulation
@settings(max_examples=100)
@given(_mutated())
def test_both_readers_agree_on_a_shipped_file_that_was_edited(text: str) -> None:
    _agree(text)


@pytest.mark.parametrize(
    "text",
    [
        _SHIPPED,
        "a: on",
        "a: on\n",
        "# c\n\na:\n  b: off # c\n  c:\n      d: 10   \n      e: 0.5\n\n   # c\n  f: yes\ng: 0\n",
        "a:\n b:\n  c:\n   d:\n    e:\n     f:\n      g:\n       h: on\n",
        "a" * 100 + ": no",
    ],
)
def test_the_plain_reader_accepts_what_people_write(text: str) -> None:
    """Otherwise the tests above compare nothing, and every command imports PyYAML."""
    assert _agree(text)


def test_the_shipped_file_is_read_without_pyyaml(child: Any) -> None:
    code = f"import sys; from dirac_perfpatch import toggles; toggles.read({toggles.SHIPPED!r})"
    code += "; print('yaml' in sys.modules)"
    assert child(code).stdout == "False\n"


def test_lines_are_those_of_the_keys(file: Path) -> None:
    file.write_text("# one\nenabled: on\n\npatches:\n\n  error_stack: # here\n\n    enabled: off\n")
    root = yamlfile.parse(str(file), yamlfile.content(str(file)))
    patches = root.value["patches"]
    stack = patches.value["error_stack"]
    assert [node.line for node in (root, root.value["enabled"], patches, stack)] == [2, 2, 4, 6]
    assert stack.value == {"enabled": Node(False, 8, str(file))}


def _reads_or_refuses(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    try:
        found = yamlfile.parse(str(file), yamlfile.content(str(file)))
    except FileError as error:
        assert str(error).startswith(f"{file}:")
        # U+0085, U+2028 and U+2029 end a line, too.
        ends = sum(map(data.count, (b"\n", b"\r", b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xa9")))
        assert 0 <= error.line <= ends + 1
        assert error.text.isprintable()
        assert len(error.text) < 1000
    else:
        assert isinstance(found, Node)


@settings(max_examples=250)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass"))))
@example(b"")
@example(b"\xef\xbb\xbf")
@example(b"\xef\xbb\xbf\xef\xbb\xbfa: on")
@example(b'"\\UFFFFFFFF"')
@example(b'"\\U00110000": 1')
@example(b'"\\ud800": 1\n"\\ud800": 1')
@example(b"a: =")
@example(b"=: =")
@example(b"<<: on\n<<: on")
@example(b"a: 0b_\nb: 0x_\nc: ._\n")
@example(b"a: 1:1.")
@example(b"a: 0001-01-01 00:00:00 +23:00")
@example(b"a: 9999-12-31 23:59:59 -99:59")
@example(b"a: 2001-99-99")
@example(b"%YAML " + b"9" * 5000 + b".1\n---\na: on")
@example(b"%YAML 1." + b"9" * 5000 + b"\n---\na: on")
@example(b"a: !<tag:yaml.org,2002:int> x")
@example(b"- [{? [a], b: c}, d]")
def test_whatever_the_bytes_are_only_a_file_error_comes_out(file: Path, data: bytes) -> None:
    _reads_or_refuses(file, data)


@pytest.mark.simulation
@settings(max_examples=150)
@given(st.one_of(_near(), st.text("[]{}-?:,&*!|>'\"%@`#~ \n\tab01.=<\\xuU", max_size=40)))
def test_whatever_the_text_near_yaml_is_only_a_file_error_comes_out(file: Path, text: str) -> None:
    _reads_or_refuses(file, text.encode())


@pytest.mark.simulation
@settings(max_examples=40)
@given(_mutated())
def test_whatever_was_edited_in_the_shipped_file_only_a_file_error_comes_out(file: Path, text: str) -> None:
    _reads_or_refuses(file, text.encode())
