"""The host's end of lab.worker: calls the functions it is asked to call, until its input ends.

`python -m lab.answering` does nothing else. `python -m lab.answering SERVICE` is `dirac-service SERVICE`, or
`tornado-start-all` for a service by HTTPS, with a separate thread that answers.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
from typing import Any, TextIO

from . import https_service
from .configuration import is_https


def _answer(order: bytes) -> dict[str, Any]:
    module, function, arguments = json.loads(order)
    try:
        return {"value": getattr(importlib.import_module(module), function)(*arguments)}
    except Exception:
        import traceback

        return {"error": traceback.format_exc()}


def _answer_all(answers: TextIO) -> None:
    # Unbuffered: a thread blocked in sys.stdin would break the interpreter's shutdown.
    with open(0, "rb", buffering=0, closefd=False) as orders:
        for order in orders:
            print(json.dumps(_answer(order)), file=answers, flush=True)


def main() -> None:
    # DIRAC logs to stdout, where our answers go: keep stdout for them and send the log to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if not sys.argv[1:]:
        _answer_all(answers)
        return
    threading.Thread(target=_answer_all, args=(answers,), daemon=True).start()
    if is_https(sys.argv[1]):
        sys.argv = ["tornado-start-all"]
        https_service.serve()
        return
    from DIRAC.Core.scripts.dirac_service import main as dirac_service

    sys.argv[0] = "dirac-service"
    dirac_service()


if __name__ == "__main__":
    main()
