"""Imports each module of the host first in a process of its own, and prints what is wrong in the end state.

Reads the modules' names from standard input; the first argument is what this release has in-tree, as JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator

OURS = ("DIRAC", "DIRACCommon", "dirac_perfpatch", "wrapt", "__main__")


def in_a_child(work: Callable[[], str]) -> str:
    """The result of some work in a forked process, where the host's output is discarded."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        try:
            text = work()
        except BaseException as error:
            text = f"raised {error!r}"
        with open(writing, "w") as pipe:
            pipe.write(text)
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


def try_to_import(name: str) -> None:
    # Modules of the host raise anything, even SystemExit, if a library or a display is missing.
    with contextlib.suppress(BaseException):
        importlib.import_module(name)


def libraries(names: list[str]) -> str:
    """The modules that the host imports from elsewhere."""
    for name in names:
        try_to_import(name)
    return "\n".join(name for name, module in sys.modules.items() if module and name.partition(".")[0] not in OURS)


def wrong(in_tree: list[str]) -> Iterator[str]:
    """What is wrong after this process has looked for its extensions."""
    extensions = importlib.import_module("DIRAC.Core.Utilities.Extensions")
    if extensions.extensionsByPriority() != ["DIRAC"]:
        yield "the plugin is listed"
    at_import = importlib.import_module("dirac_perfpatch.patches").AT_IMPORT
    for patch in importlib.import_module("dirac_perfpatch").status():
        for target in patch["targets"]:
            wanted = "applied"
            if target["module"] not in sys.modules:
                wanted = "armed"
            elif {patch["name"], f"{patch['name']}: {target['attribute']}"}.intersection(in_tree):
                wanted = "stood down"
            elif patch["name"] in at_import and target["state"] == "stood down":
                wanted = "stood down"  # it was imported before the look-up
            if target["state"] != wanted:
                yield f"{patch['name']}: {target}"
    for name, module in list(sys.modules.items()):
        bound = getattr(module, "__dict__", {}).get("extensionsByPriority")
        if bound not in (None, extensions.extensionsByPriority):
            yield f"{name} has another extensionsByPriority"


def look_at(name: str, in_tree: list[str]) -> str:
    try_to_import(name)
    return "; ".join(wrong(in_tree))


def main() -> None:
    names = sys.stdin.read().split()
    # Once, before the forks, so that each child executes only the host's own modules.
    for library in in_a_child(lambda: libraries(names)).split("\n"):
        try_to_import(library)
    try_to_import("DIRAC")
    assert "dirac_perfpatch" not in sys.modules
    for name in names:
        text = in_a_child(lambda name=name: look_at(name, json.loads(sys.argv[1])))  # type: ignore[misc]
        if text:
            print(f"{name}: {text}")
    print("looked at", len(names))


if __name__ == "__main__":
    main()
