"""The one kind of lock that may be held while the host's code runs, and a counter without a lock.

A lock of ours must never hang the host. A signal handler may re-enter the code that its thread is in, so the lock is
reentrant. A fork may happen while another thread holds the lock, and the child does not have that thread, so the lock
is reset in the child. Prefer no lock: one operation on a dictionary or a deque is atomic, and computing something
twice is usually harmless.
"""

from __future__ import annotations

import itertools
import os
import threading


def reentrant_lock() -> threading.RLock:
    """A reentrant lock that a fork releases in the child. For locks that live as long as the process."""
    lock = threading.RLock()
    os.register_at_fork(after_in_child=lock._at_fork_reinit)  # type: ignore[attr-defined]
    return lock


class Tally:
    """A counter without a lock: ``add`` is one call into C, which no thread, signal handler or fork can interrupt."""

    __slots__ = ("_counter", "add")

    def __init__(self) -> None:
        self._counter = itertools.count()
        self.add = self._counter.__next__
        """Add one and return the count before."""

    @property
    def value(self) -> int:
        """The current count."""
        # From the text "count(5)": anything else adds as well, or is deprecated (copying).
        return int(repr(self._counter)[len("count(") : -1])
