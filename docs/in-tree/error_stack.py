"""DIRAC 9.1.9 and later: S_ERROR shows each line of a recursion, and a source that was edited as it was."""

import importlib
import sys
import tempfile
import time
from pathlib import Path

from DIRAC import S_ERROR
from DIRAC.Core.Utilities.Extensions import extensionsByPriority

extensionsByPriority()  # as every command does


def tell(what: str, right: bool) -> None:
    print(f"{'right' if right else 'wrong'}: {what}")


def nested(depth):
    return nested(depth - 1) if depth else S_ERROR("x")["CallStack"]


tell("a recursion of 500 levels is collapsed in the call stack", len(nested(500)) < 20)

with tempfile.TemporaryDirectory() as folder:
    source = Path(folder, "edited.py")
    source.write_text("def call(f):\n    return f()  # first\n")
    sys.path.insert(0, folder)
    call = importlib.import_module("edited").call
    call(lambda: S_ERROR("x"))
    source.write_text("def call(f):\n    return f()  # the source was edited\n")
    time.sleep(1.1)
    stack = call(lambda: S_ERROR("x")["CallStack"])
    tell("an edited source is shown in the call stack", "the source was edited" in "".join(stack))
