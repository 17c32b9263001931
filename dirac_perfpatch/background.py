"""A background thread for what is done every few seconds, which never gets in the way of the host.

Started by ``_thread``, not ``threading``, it costs a command no import and no handshake, and the interpreter does not
wait for it at exit. It imports what it runs itself, once the process has lived for some seconds. It ends before a fork,
and parent and child each start a new one: a fork rarely interrupts it, and rarely causes the warning of Python 3.12
about a fork with several threads. (Python 3.13 counts them after the fork, when the parent's new one exists, and does
warn, if warnings are shown.) It also ends at exit, so that it is not stopped in the middle of a line to standard error.

A file system may hang, and the thread with it. So a fork waits for a run that has just begun, but never for input and
output; the exit waits for about a second, for all our threads together.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # not signal, which spends time on making enumerations
import _thread
import atexit
import os
from collections.abc import Callable
from math import inf
from time import monotonic

# Seconds that a task returns if it has nothing more to do.
DAY = 86400.0
# Seconds before the first run; most commands end sooner.
_FIRST = 2.0
# Seconds for which a fork waits for a run, counted from the run's beginning, and the exit for all threads together.
_PATIENCE = 1.0

# Our thread blocks the signals sent to the process: a host that has blocked one, to wait for it with sigwait(), would
# otherwise miss it or be killed by it. Not blocked are the signals of a fault in the thread itself.
_BLOCKED = _signal.valid_signals() - {_signal.SIGSEGV, _signal.SIGBUS, _signal.SIGFPE, _signal.SIGILL}

_exit_until: float | None = None


class Background:
    """Runs a task repeatedly in a thread of its own.

    Args:
        task: Returns the seconds until its next run. It must not raise.
        first: Seconds before the first run; None for two.
        last: Run by the thread at exit, which waits for it for about a second. It must not raise.
    """

    def __init__(
        self, task: Callable[[], float], first: float | None = None, last: Callable[[], None] = lambda: None
    ) -> None:
        self._task = task
        self._first = first
        self._last = last
        self.started = False
        self._renew()
        # Not in start(): a fork may happen while another thread is in there.
        os.register_at_fork(before=self._pause, after_in_parent=self._go_on, after_in_child=self._begin_anew)
        atexit.register(self.finish)

    def _renew(self) -> None:
        # New locks for a child of a fork: another thread of the parent may have held the old ones. Reentrant: a signal
        # handler may fork while its thread waits in _pause().
        self._lock = _thread.RLock()
        self._pauses = 0
        # Released to end the thread (None if there is none), released when it ends, whether it was told to end.
        self._end: _thread.LockType | None = None
        self._ended = _thread.allocate_lock()
        self._told = False
        self._ends_for_good = False
        # When the present run began; inf between two runs, -inf if nobody is to wait for it.
        self._since = inf

    def start(self) -> None:
        """Start the thread, once. Never raises; if the process can have no more threads, it goes on without."""
        with self._lock:
            if not self.started:
                self.started = True
                self._begin()

    def step_aside(self) -> bool:
        """Called by the task before slow work, such as writing a file: no one waits for the rest of the run.

        Returns:
            False if a fork or the exit is waiting already; then the task must postpone that work.
        """
        # _pause() does these two in the opposite order, so at least one of the two threads sees what the other has set.
        self._since = -inf
        return not self._told

    def finish(self) -> None:
        """At exit: have ``last`` run, and wait for it for about a second. Never raises."""
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
        # Before the thread starts: a signal handler that forks meanwhile would start another one.
        self._end, self._ended, self._told, self._since = end, ended, False, inf
        try:
            _thread.start_new_thread(self._run, (end, ended))
        except RuntimeError:  # too many threads, or the interpreter is exiting
            self._end = None

    def _run(self, end: _thread.LockType, ended: _thread.LockType) -> None:
        try:
            _signal.pthread_sigmask(_signal.SIG_BLOCK, _BLOCKED)
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
            # If several threads fork at once, the first one ends our thread.
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
                self._told = False  # it was busy all the time and has not seen it
            elif self._told:
                self._begin()  # it ended, but too late for the fork

    def _begin_anew(self) -> None:
        self._renew()
        if self.started:
            self._begin()
