"""One thread of ours in a process, for what is done every few seconds, and never in the way of the host.

It is not one of ``threading``: starting it costs a command no import and no handshake, the interpreter's exit does not
wait for it, and what it runs is imported by the thread itself, once the process has lived for some seconds. Before a
fork it ends, and afterwards parent and child each start one: so a fork never finds it in the middle of something with a
lock held, and what Python 3.12 warns of, a fork of a process with several threads, hardly ever happens because of us.
(Python 3.13 warns all the same, where somebody asks to see it: it counts when the parent's new thread is there.) At the
exit the thread ends, too, so that it is not stopped in the middle of a line to standard error.
"""

from __future__ import annotations

import _thread
import atexit
import os
from collections.abc import Callable

# Seconds before the first run; most commands have ended by then.
_FIRST = 2.0
# For how many seconds a fork or the exit waits for a run that is under way.
_PATIENCE = 1.0


class Background:
    """Runs a task again and again in a thread of its own.

    Args:
        task: Returns after how many seconds it is to be run again. It must not raise.
        first: Seconds before the first run; None for two.
    """

    def __init__(self, task: Callable[[], float], first: float | None = None) -> None:
        self._task = task
        self._first = first
        self._renew()

    def _renew(self) -> None:
        # A child of a fork gets new locks: another thread of the parent may have held the old ones. Reentrant: a signal
        # handler may fork while its thread waits in _pause.
        self._lock = _thread.RLock()
        self._pauses = 0
        # Of the thread that is there, if any: what tells it to end, what it tells that it has, and if it was told.
        self._end: _thread.LockType | None = None
        self._ended = _thread.allocate_lock()
        self._told = False

    def start(self) -> None:
        """Start it. Never raises; if there can be no more threads, the process goes on without this one."""
        os.register_at_fork(before=self._pause, after_in_parent=self._go_on, after_in_child=self._begin_anew)
        atexit.register(self._pause)
        with self._lock:
            self._begin()

    def _begin(self) -> None:
        end, ended = _thread.allocate_lock(), _thread.allocate_lock()
        end.acquire()
        ended.acquire()
        try:
            _thread.start_new_thread(self._run, (end, ended))
        except RuntimeError:  # the limit of threads, or the interpreter is about to exit
            return
        self._end, self._ended, self._told = end, ended, False

    def _run(self, end: _thread.LockType, ended: _thread.LockType) -> None:
        try:
            seconds = _FIRST if self._first is None else self._first
            while not end.acquire(True, seconds):
                seconds = self._task()
        finally:
            ended.release()

    def _pause(self) -> None:
        with self._lock:
            self._pauses += 1
            # Of several threads that fork at once the first one ends it.
            if self._pauses > 1 or self._end is None:
                return
            self._told = True
            self._end.release()
            if self._ended.acquire(True, _PATIENCE):
                self._end = None

    def _go_on(self) -> None:
        with self._lock:
            self._pauses -= 1
            if self._pauses:
                return
            if self._end is None:
                self._begin()
            elif self._told and self._end.acquire(False):
                self._told = False  # it was busy all the time, and goes on
            elif self._told:
                self._begin()  # it has ended after all, too late for the fork

    def _begin_anew(self) -> None:
        self._renew()
        self._begin()
