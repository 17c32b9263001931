"""The one kind of lock that may be held where the host's code runs, and a counter that needs none.

A lock of ours must not hang the host. A signal handler may enter the code that its own thread is in, so the lock is
reentrant. A fork may come while another thread holds it, and that thread does not exist in the child, so the child gets
a new one. Prefer no lock: one operation on a dictionary or a deque cannot be interrupted, and most of what we compute
may be computed twice.
"""

from __future__ import annotations

import itertools
import os
import threading


def reentrant_lock() -> threading.RLock:
    """A reentrant lock that is free in a child of a fork. For locks that live as long as the process."""
    lock = threading.RLock()
    os.register_at_fork(after_in_child=lock._at_fork_reinit)  # type: ignore[attr-defined]
    return lock


class Tally:
    """Counts without a lock: to add is one call into C, where no thread, signal handler or fork comes in between."""

    __slots__ = ("_counter", "add")

    def __init__(self) -> None:
        self._counter = itertools.count()
        self.add = self._counter.__next__
        """Adds one. Returns: what was counted before."""

    @property
    def value(self) -> int:
        """What was counted so far."""
        # "count(5)". There is no other way to look at it that does not also add, or is not deprecated (copying).
        return int(repr(self._counter)[len("count(") : -1])
