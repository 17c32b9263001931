"""One thread of ours in a process, for what is done every few seconds, and never in the way of the host.

It is not one of ``threading``: starting it costs a command no import and no handshake, the interpreter's exit does not
wait for it, and what it runs is imported by the thread itself, once the process has lived for some seconds. Before a
fork it ends, and afterwards parent and child each start one: so a fork hardly ever finds it in the middle of something,
and what Python 3.12 warns of, a fork of a process with several threads, hardly ever happens because of us. (Python 3.13
warns all the same, where somebody asks to see it: it counts when the parent's new thread is there.) At the exit the
thread ends, too, so that it is not stopped in the middle of a line to standard error.

A file system may hang, and what the thread does with it. So a fork waits for what has just begun, never for input and
output; the exit waits for about a second, for all threads of ours together.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal makes enumerations of it, which takes time
import _thread
import atexit
import os
from collections.abc import Callable
from math import inf
from time import monotonic

# Seconds before the first run; most commands have ended by then.
_FIRST = 2.0
# For how many seconds, counted from its beginning, a fork waits for a run that is under way, and the exit for all.
_PATIENCE = 1.0

# A signal that is for the process must not come to our thread: a host that has blocked it, to wait for it with
# sigwait(), would never see it, or die of it. Not those by which a fault of the thread itself is told.
_NOT_OURS = _signal.valid_signals() - {_signal.SIGSEGV, _signal.SIGBUS, _signal.SIGFPE, _signal.SIGILL}

_exit_until: float | None = None


class Background:
    """Runs a task again and again in a thread of its own.

    Args:
        task: Returns after how many seconds it is to be run again. It must not raise.
        first: Seconds before the first run; None for two.
        last: Run by the thread at the end of the process, which waits for it, but not for long. It must not raise.
    """

    def __init__(
        self, task: Callable[[], float], first: float | None = None, last: Callable[[], None] = lambda: None
    ) -> None:
        self._task = task
        self._first = first
        self._last = last
        self.started = False
        self._renew()
        # Here and not when it starts: a fork may come while another thread starts it.
        os.register_at_fork(before=self._pause, after_in_parent=self._go_on, after_in_child=self._begin_anew)
        atexit.register(self.finish)

    def _renew(self) -> None:
        # A child of a fork gets new locks: another thread of the parent may have held the old ones. Reentrant: a signal
        # handler may fork while its thread waits in _pause.
        self._lock = _thread.RLock()
        self._pauses = 0
        # Of the thread that is there, if any: what tells it to end, what it tells that it has, and if it was told.
        self._end: _thread.LockType | None = None
        self._ended = _thread.allocate_lock()
        self._told = False
        self._ends_for_good = False
        # When the run that is under way began; inf between two runs, -inf if nobody shall wait for it.
        self._since = inf

    def start(self) -> None:
        """Start it, if it is not there. Never raises; if there can be no more threads, the process goes on without."""
        with self._lock:
            if not self.started:
                self.started = True
                self._begin()

    def step_aside(self) -> bool:
        """To be called by the task before what takes long, such as writing a file: nobody waits for what is left of it.

        Returns:
            False if somebody waits for it already; then it must put that off.
        """
        # In this order, and in the other order in _pause: one of the two sees what the other has set.
        self._since = -inf
        return not self._told

    def finish(self) -> None:
        """At the end of the process: have the last thing done, and wait for about a second at most. Never raises."""
        global _exit_until
        with self._lock:
            self._pauses += 1
            if self._end is None:
                return
            self._ends_for_good = True
            self._tell()
            _exit_until = _exit_until or monotonic() + _PATIENCE
            self._wait(_exit_until)

    def _begin(self) -> None:
        end, ended = _thread.allocate_lock(), _thread.allocate_lock()
        end.acquire()
        ended.acquire()
        # Before it is there: a signal handler that forks meanwhile would start another one.
        self._end, self._ended, self._told, self._since = end, ended, False, inf
        try:
            _thread.start_new_thread(self._run, (end, ended))
        except RuntimeError:  # the limit of threads, or the interpreter is about to exit
            self._end = None

    def _run(self, end: _thread.LockType, ended: _thread.LockType) -> None:
        try:
            _signal.pthread_sigmask(_signal.SIG_BLOCK, _NOT_OURS)
            seconds = _FIRST if self._first is None else self._first
            while not end.acquire(True, seconds):
                self._since = monotonic()
                seconds = self._task()
                self._since = inf
            if self._ends_for_good:
                self._last()
        finally:
            ended.release()

    def _tell(self) -> None:
        if self._end is not None and not self._told:
            self._told = True
            self._end.release()

    def _wait(self, until: float) -> None:
        if self._ended.acquire(True, max(0.0, until - monotonic())):
            self._end = None

    def _pause(self) -> None:
        with self._lock:
            self._pauses += 1
            # Of several threads that fork at once the first one ends it.
            if self._pauses > 1 or self._end is None:
                return
            self._tell()
            self._wait(min(self._since, monotonic()) + _PATIENCE)

    def _go_on(self) -> None:
        with self._lock:
            self._pauses -= 1
            if self._pauses or not self.started:
                return
            if self._end is None:
                self._begin()
            elif self._told and self._end.acquire(False):
                self._told = False  # it was busy all the time, and goes on
            elif self._told:
                self._begin()  # it has ended after all, too late for the fork

    def _begin_anew(self) -> None:
        self._renew()
        if self.started:
            self._begin()
