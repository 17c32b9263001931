"""One line to the operator, once.

Standard error, not the host's log: DIRAC's commands log to standard output, which scripts parse, and when a file of
toggles is bad the host's logger may be half imported. Services write both to the same log.
"""

from __future__ import annotations

import sys

_said: dict[str, object] = {}


class OperatorError(Exception):
    """Something that the operator can put right. The text names the place and says what would be right."""


def say_once(text: str) -> None:
    """Say it, unless this process did so already. Never raises.

    Args:
        text: What happened and what follows from it.
    """
    line, mine = " ".join(text.split()), object()
    # One operation, which finds out who is first and needs no lock: see locks.
    if _said.setdefault(line, mine) is mine:
        say(line)


def say(text: str) -> None:
    """Write ``dirac-perfpatch: <text>`` to standard error. Never raises.

    Args:
        text: What happened and what follows from it; line breaks become spaces.
    """
    try:
        # Not print(): it would take standard output for a missing stderr.
        sys.stderr.write(f"dirac-perfpatch: {' '.join(text.split())}\n")
        sys.stderr.flush()
    except Exception:
        return
