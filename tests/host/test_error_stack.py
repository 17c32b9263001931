"""S_ERROR: every name of it gives the stack of stock, to the byte."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from conftest import in_tree, stock

pytestmark = pytest.mark.patched


def _names() -> list[Any]:
    import DIRAC
    from DIRAC.Core.Utilities import ReturnValues
    from DIRAC.Core.Utilities.MySQL import S_ERROR as bound_before

    return [DIRAC.S_ERROR, ReturnValues.S_ERROR, bound_before]


@pytest.mark.parametrize("depth", [0, 1, 3, 4, 5, 40, 400])
@pytest.mark.parametrize("which", range(3))
def test_equal_to_stock_to_the_byte(depth: int, which: int) -> None:
    error = _names()[which]

    def nested(levels: int) -> tuple[dict[str, Any], list[str]]:
        if levels:
            return nested(levels - 1)
        return error("x"), traceback.format_stack()

    for _ in range(3):
        answer, stack = nested(depth)
        assert answer["CallStack"] == stack
    assert answer["Message"] == "x"


def test_the_rest_of_the_answer_is_the_hosts() -> None:
    from DIRAC import S_ERROR

    def ask() -> list[Any]:
        answers = []
        for arguments in ((), ("text",), (1,), (1, "text"), (2000, "a", "b"), (None,), ("",)):
            answers.append(S_ERROR(*arguments))
        answers.append(S_ERROR("text", callStack=["given"]))
        return answers

    def asked() -> list[Any]:
        # One line asks with the patch on and with it off, so that the stacks are of the same lines.
        answers = []
        for names in ((), ("error_stack",)):
            with stock(*names) if names else stock("dms_helpers"):
                answers.append(ask())
        return answers

    patched, unpatched = asked()
    assert patched == unpatched


def test_each_stack_is_the_callers_own() -> None:
    from DIRAC import S_ERROR

    def ask() -> Any:
        return S_ERROR("x")["CallStack"]

    stacks = []
    for _ in range(2):
        stacks.append(ask())
        stacks[-1].append("mine")
    assert stacks[0] is not stacks[1]
    assert stacks[0] == stacks[1]


def test_the_rest_of_traceback_is_there() -> None:
    import DIRAC.Core.Utilities.ReturnValues as names

    module = sys.modules[names.S_ERROR.__module__]
    assert (module.traceback is traceback) is in_tree()  # type: ignore[attr-defined]
    assert module.traceback.format_exc is traceback.format_exc  # type: ignore[attr-defined]


def test_an_edited_source_shows_within_the_recheck_time(tmp_path: Path) -> None:
    source = tmp_path / "edited_module.py"
    source.write_text("def call(f):\n    return f('x')  # first\n")
    sys.path.insert(0, str(tmp_path))
    try:
        from DIRAC import S_ERROR
        from edited_module import call  # type: ignore[import-not-found]

        assert "first" in call(S_ERROR)["CallStack"][-1]
        source.write_text("def call(f):\n    return f('x')  # second\n")
        os.utime(source, (1, 1))
        deadline = time.monotonic() + 3
        while "second" not in call(S_ERROR)["CallStack"][-1]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("edited_module", None)


def test_many_threads_get_their_own_stacks() -> None:
    from DIRAC import S_ERROR

    wrong: list[Any] = []
    makers = {}
    for number in range(8):
        namespace: dict[str, Any] = {"S_ERROR": S_ERROR}
        exec(f"def error_{number}():\n    return S_ERROR('x')", namespace)
        makers[f"error_{number}"] = namespace[f"error_{number}"]

    def ask(name: str) -> None:
        for _ in range(2000):
            if f"in {name}\n" not in makers[name]()["CallStack"][-1]:
                wrong.append(name)

    threads = [threading.Thread(target=ask, args=(name,)) for name in makers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
