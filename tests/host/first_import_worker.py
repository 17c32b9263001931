"""Imports a module of the host first, and prints a list of what is wrong in the end state.

Arguments: the module's name; what this release has in-tree, as JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Iterator


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


if __name__ == "__main__":
    name, in_tree = sys.argv[1:]
    # Modules of the host raise anything, even SystemExit, if a library or a display is missing.
    with contextlib.suppress(BaseException):
        importlib.import_module(name)
    print(json.dumps(list(wrong(json.loads(in_tree)))), flush=True)
    os._exit(0)  # without waiting for threads that a module has started
