"""What the fuzzers begin with: the repository's own samples, by the name of the check, and pieces to put into them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from dirac_perfpatch import toggles
from dirac_perfpatch.patches import WAITED_FOR, configuration_parsing

TOKENS = {
    "toggles": [
        "010",
        "00.5",
        "0.5",
        "1_0",
        "1e3",
        "0x1f",
        "1:30",
        "y",
        "n",
        "null",
        "~",
        "=",
        "<<",
        "yes",
        "no",
        "on",
        "off",
        "ab",
        '""',
        "''",
        "/a",
        "[]",
        "{}",
        "&a",
        "*a",
        "!a",
        "|",
        ">",
        "---",
        "...",
    ]
    + ["\n", "\n  ", "\n    ", ": ", ":\n", " # ", "\t", "\r", "\ufeff", "\u2028", "\x85", "\u00a0"],
    "snapshots": [
        "null",
        "true",
        "false",
        "NaN",
        "Infinity",
        "-1",
        "1e400",
        "9999999999999999",
        "[]",
        "{}",
        '"\\ud800"',
        '"\\u0000"',
    ],
    "configurations": ["=", "+=", "{", "}", "{\n", "}\n", "#", "/", ",", "\n", "\0", "\x0b", "\u2028", "a += ", "a = "],
    "dates": [
        "T",
        "W",
        "-",
        ":",
        "24:00:00",
        "23:59:60",
        "0000",
        "\u0663",
        "\uff13",
        " ",
        "\n",
        '{"__dCls": "dt", "obj": "',
    ],
}


def dictionary(name: str) -> str:
    """The pieces, in the format of libFuzzer."""
    pieces = ("".join(f"\\x{byte:02x}" for byte in token.encode()) for token in TOKENS[name])
    return "".join(f'"{piece}"\n' for piece in pieces)


def seeds(name: str) -> Iterator[bytes]:
    """Files for a check."""
    yield from map(str.encode, globals()[f"_{name}"]())


def _toggles() -> Iterator[str]:
    lines = Path(toggles.SHIPPED).read_text().splitlines(keepends=True)
    yield "".join(line for line in lines if line.strip()[:1] not in ("", "#"))
    yield "enabled: on\n"
    for patch in WAITED_FOR:
        yield f"patches:\n  {patch}: off\n"
        yield f"patches:\n  {patch}:\n    enabled: ab\n    share: 0.25\n    by: process\n"
    yield '{enabled: on, "patches": {error_stack: {recheck_seconds: 1.5}}}'
    yield 'comparison:\n  by: call\n  window_seconds: 5\n  spool: "/a/b"\n  follow_configuration: on\nin_tree: leave\n'
    yield "%YAML 1.1\n---\n? enabled\n: 'off'\n...\n"
    yield "enabled: &a on\nkeep_on_update: *a\npatches: !!map [1, 0x1f, 1:30, .inf, 2026-01-02]\n"


def _snapshots() -> Iterator[str]:
    import numpy

    from lab import spools

    for document in spools.example(numpy.random.default_rng(8524)):
        for key in ("blocks", "series"):
            document[key] = document[key][:2]
        for one in document["series"]:
            one["sketch"]["bins"] = dict(list(one["sketch"]["bins"].items())[:3])
        for outcomes in filter(None, [document.get("outcomes")]):
            outcomes["windows"] = outcomes["windows"][:2]
        yield json.dumps(document)


def _configurations() -> Iterator[str]:
    probe, tree, over = (getattr(configuration_parsing, name) for name in ("_PROBE", "_TREE", "_OVER"))
    yield from (probe, f"{tree}\0{over}", configuration_parsing.made_up(1))
    yield from ("a{b=c}", "a/b = 1\na/b += 2", "#a\n#b\n{\n}", "a = 1\n\0a\n{\n}", "a += 4 += 5", "} {")


def _dates() -> Iterator[str]:
    dates = "2024-02-29 23:59:59", "0999-12-31 00:00:60", "9999-12-31", "2024-1-1", "2024-W01-1", "20240101 000000"
    yield from dates
    for date in dates:
        rows = [[{"__dCls": "dt", "obj": date}, {"__dCls": "date", "obj": date[:10]}]]
        yield json.dumps({"OK": True, "Value": rows, "rpcStub": [None, 1.5, {"__dCls": "tuple", "obj": []}]})


if __name__ == "__main__":
    check, folder = sys.argv[1], Path(sys.argv[2])
    (folder / "dictionary").write_text(dictionary(check))
    for number, text in enumerate(seeds(check)):
        (folder / "corpus" / f"seed-{number}").write_bytes(text)
