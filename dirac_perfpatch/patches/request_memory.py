"""Service.__startReportToMonitoring: the memory of the process is not looked up for each request.

A service calls this method before the handshake of each request, and it asks psutil for the process's memory, which
opens two files of /proc, one of which psutil reads only to know which process it is: 50 us when nothing else runs, 4 %
of the CPU of a short request under load. The request then uses the two times in the answer and drops the memory. Only
the report that a service sends every 30 seconds, if it is monitored, uses it.

The same answer: a service that is not monitored makes no such report, so for a request the third item is None, which
the host itself answers if the clock has gone backwards. A service that is monitored gets its memory as in stock, but
psutil's object for the process is kept: it holds nothing but which process it is. Everything else is the host's.

No lock: what is kept is one tuple, with the number of the process, which a fork changes.

The seam is the method in its class, whose name is private to it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from dirac_perfpatch.patching import Case, Database, Fitting, Meter, Patch, Target, Timed

_MODULE = "DIRAC.Core.DISET.private.Service"
_METHOD = "Service._Service__startReportToMonitoring"
_LAST = "_Service__monitorLastStatsUpdate"


def _look(fitting: Fitting) -> None:
    fitting.expect(_METHOD, "time", "os", "times", _LAST, "psutil", "Process", "memory_info", "rss")
    fitting.expect("Service._processInThread", "_Service__startReportToMonitoring", "_Service__endReportToMonitoring")
    fitting.expect("Service.__init__", "activityMonitoring", _LAST)


def _put_on(fitting: Fitting) -> None:
    guard, stock, psutil = fitting.guard, fitting.unbound(_METHOD), fitting.resolve("psutil")
    kept: tuple[int, Any] = (0, None)

    def memory() -> float:
        """Of this process, in MiB, as the host has it."""
        nonlocal kept
        pid, process = kept
        if pid != os.getpid():
            process = psutil.Process()
            kept = (os.getpid(), process)
        return float(process.memory_info().rss / (1024.0 * 1024.0))

    def __startReportToMonitoring(self: Any) -> Any:
        if guard.off:
            return stock(self)
        try:
            now = time.time()
            times = os.times()
            due = now >= getattr(self, _LAST)
            if due:
                setattr(self, _LAST, now)
            used = due and self.activityMonitoring
        except Exception as error:
            guard.failed(error)
            return stock(self)
        return now, times[0] + times[2], memory() if used else None

    fitting.stand_in(_METHOD, __startReportToMonitoring, _check)


def _check(answer: Any, original: Callable[..., Any], args: Any, kwargs: Any) -> str:
    now, cpu, memory = original(*args, **kwargs)
    near = 0 <= now - answer[0] < 60 and cpu >= answer[1]  # both were asked for one after the other
    same = answer[2] is None or abs(answer[2] - memory) < 100
    return "" if near and same and len(answer) == 3 else "a different answer"


def _service(monitored: bool) -> Any:
    from DIRAC.Core.DISET.private.Service import Service

    service: Any = Service.__new__(Service)
    vars(service).update({"activityMonitoring": monitored, _LAST: time.time()})
    return service


def _ask(database: Database | None) -> Any:
    answers = []
    for monitored in (False, True):
        now, cpu, memory = getattr(_service(monitored), _METHOD.split(".")[1])()
        answers.append((abs(now - time.time()) < 60, type(cpu).__name__))
    return answers, memory > 1


def _report(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    service = _service(False)
    yield lambda number: timed(getattr(service, _METHOD.split(".")[1]), number)


PATCH = Patch(
    name="request_memory",
    targets=(Target((_MODULE,), _METHOD, _look, _put_on),),
    ask=_ask,
    cases=(Case("Service.__startReportToMonitoring", _report, growth=(1,)),),
)
