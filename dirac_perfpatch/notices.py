"""Messages to the operator: one line that says what happened and what follows from it, once per process.

They go to standard error, not to the host's logger: DIRAC's commands log to standard output, which scripts parse, and
the logger may be half imported when we read the toggles. A service writes both to the same log.
"""

from __future__ import annotations

import sys

_said: dict[str, object] = {}


class OperatorError(Exception):
    """Something that the operator can put right. The text names the place and says what would be right."""


def say_once(text: str) -> None:
    """Write a message as :func:`say` does, unless this process has written it before. Never raises."""
    line, mine = " ".join(text.split()), object()
    # One atomic operation decides which thread is first: see locks.
    if _said.setdefault(line, mine) is mine:
        say(line)


def say(text: str) -> None:
    """Write ``dirac-perfpatch: <text>`` to standard error, with spaces for line breaks. Never raises."""
    try:
        # Not print(): if stderr is None it writes to stdout.
        sys.stderr.write(f"dirac-perfpatch: {' '.join(text.split())}\n")
        sys.stderr.flush()
    except Exception:
        return
