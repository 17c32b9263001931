"""A process with a real DIRAC in it, which does what the harness tells it. Runs in the host's Python.

`python -P -m chaos.driver`: one line of JSON on stdin, [module, function, arguments], is an order to call a function of
this package; one line on stdout is its answer, {"value": ...} or {"error": "traceback"}. It ends with its input.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import Any


def plugin_states() -> dict[str, str]:
    """What the plugin says of itself: patch -> state; empty when it is not installed or was never asked to load."""
    plugin = sys.modules.get("dirac_perfpatch")
    return {entry["name"]: entry["state"] for entry in plugin.status()} if plugin else {}


def _answer(line: str) -> dict[str, Any]:
    module, function, arguments = json.loads(line)
    try:
        return {"value": getattr(importlib.import_module(module), function)(*arguments)}
    except Exception:
        return {"error": traceback.format_exc()}


def main() -> None:
    # DIRAC logs to stdout, which is ours to answer on: keep that for ourselves and send the log to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    # What every DIRAC command does first, and what loads the plugin.
    from DIRAC.Core.Utilities.Extensions import extensionsByPriority

    extensionsByPriority()
    importlib.import_module("DIRAC.Core.Utilities.MySQL")
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(line)), file=answers, flush=True)
    answers.close()
    # Not sys.exit(): a thread that still waits for a database must not hold up the end.
    os._exit(0)


if __name__ == "__main__":
    main()
