"""Whatever the bytes of a file are, it gives toggles or one error, soon, in little memory, and runs no code."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dirac_perfpatch import toggles
from dirac_perfpatch.patches import WAITED_FOR
from fuzz import checks, seeds

CHECK = checks.read_toggles()
SEEDS = list(seeds.seeds("toggles"))
# What may be anywhere: right and wrong, and what YAML makes something else of.
_SCALARS = st.sampled_from(
    [True, False, "ab", "on", "time", "call", "process", "leave", "replace", None, "", "/a", 0, 1, 60, -1, 0.25, 1e300]
    + [float("inf"), float("nan"), 10**30, "\u2028", "é", "=", "<<", "1:30", "0x1f", "2026-01-02", "x" * 201, [], {}]
)
_OF_A_PATCH = st.dictionaries(
    st.sampled_from(
        ["enabled", "by", "share", "window_seconds", "in_tree", "force", "recheck_seconds", "max_proxies", "odd"]
    ),
    _SCALARS,
    max_size=4,
)
_WHOLE = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("enabled", "keep_on_update", "in_tree", "force", "odd"), _SCALARS),
        "patches": st.one_of(
            _SCALARS,
            st.dictionaries(st.sampled_from([*WAITED_FOR, "odd"]), st.one_of(_SCALARS, _OF_A_PATCH), max_size=4),
        ),
        "comparison": st.one_of(
            _SCALARS,
            st.dictionaries(
                st.sampled_from(["by", "share", "spool", "together", "check_one_in", "follow_configuration", "odd"]),
                _SCALARS,
                max_size=4,
            ),
        ),
    },
)


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """One of the samples, or a document of the schema as JSON, which YAML contains, with some bytes changed."""
    whole = st.one_of(st.sampled_from(SEEDS), _WHOLE.map(lambda found: json.dumps(found).encode()))
    text = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        new = st.one_of(st.binary(max_size=3), st.sampled_from([b"\n", b": "]))
        text[at : at + draw(st.integers(0, 5))] = draw(new)
    return bytes(text)


@pytest.mark.simulation
@settings(max_examples=150)
@given(_damaged())
@example(b"comparison:\n  by: call\npatches:\n  error_stack: ab\n")
def test_whatever_the_bytes_are_there_are_toggles_or_one_error(data: bytes) -> None:
    CHECK(data)


@pytest.mark.simulation
def test_the_largest_files_take_little_time_and_memory(child: Any) -> None:
    """Of all that were tried, these take longest."""
    code = """
import os, resource, time
from dirac_perfpatch import toggles
import yaml
largest = 64 * 1024
keys = "".join(f"k{number}: on\\n" for number in range(6000))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for text in (keys, "a: 1\\r" * largest, "[" * largest):
    with open("file.yaml", "w", newline="") as file:
        file.write(text[:largest])
    began = time.process_time()
    try:
        toggles.read("file.yaml")
    except toggles.FileError as error:
        print(time.process_time() - began < 8, error.line > 0)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024 < 100)
"""
    answer = child(code)
    assert (answer.stdout, answer.stderr) == ("True True\n" * 3 + "True\n", "")


def test_a_check_that_runs_code_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the checks of this file and of `make fuzz` would show nothing."""
    real = toggles.read

    def read(*arguments: Any) -> Any:
        exec("pass")
        return real(*arguments)

    monkeypatch.setattr(toggles, "read", read)
    with pytest.raises(AssertionError, match="exec|compile"):
        CHECK(b"enabled: on")
    monkeypatch.setattr(toggles, "read", lambda path: sys.version_info)
    with pytest.raises(AssertionError):
        CHECK(b"enabled: on")
