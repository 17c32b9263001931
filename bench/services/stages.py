"""The CPU time that a service spends in the stages of a request. Runs in the service's process, in the host's Python.

Each stage is one function of the host, or of a library, that is wrapped while the service serves. The wrapper takes the
CPU time of its own thread, so that waiting and other threads do not count; it adds 1 to 2 us to each call.
"""

from __future__ import annotations

import functools
import importlib
import threading
import time
from collections.abc import Callable
from typing import Any

from lab import inside

# In order of display: the stage, and the function, as "module:path". The first is the whole request in its thread.
STAGES = {
    "request, in its thread": "DIRAC.Core.DISET.private.Service:Service._processInThread",
    "accept, in the main thread": "DIRAC.Core.DISET.private.Transports.M2SSLTransport:SSLTransport.acceptConnection",
    "TLS handshake in OpenSSL": "M2Crypto.SSL.Connection:Connection.accept_ssl",
    "who the client is": "DIRAC.Core.DISET.private.Transports.M2SSLTransport:getM2PeerInfo",
    "authorization": "DIRAC.Core.DISET.AuthManager:AuthManager.authQuery",
    "options of the configuration": "DIRAC.ConfigurationSystem.private.ConfigurationData:"
    "ConfigurationData.extractOptionFromCFG",
    "log records": "DIRAC.FrameworkSystem.private.standardLogging.Logging:Logging._createLogRecord",
    "memory of the process": "DIRAC.Core.DISET.private.Service:Service._Service__startReportToMonitoring",
    "messages received": "DIRAC.Core.DISET.private.Transports.BaseTransport:BaseTransport.receiveData",
    "messages sent": "DIRAC.Core.DISET.private.Transports.BaseTransport:BaseTransport.sendData",
    "close": "DIRAC.Core.DISET.private.Transports.M2SSLTransport:SSLTransport.close",
    "handler": "DIRAC.Core.DISET.RequestHandler:RequestHandler._RequestHandler__RPCCallFunction",
    "SQL statements": "DIRAC.Core.Utilities.MySQL:MySQL._query",
}

_undoing: list[Callable[[], None]] = []
_spent: dict[str, list[tuple[float, int]]] = {}


def start() -> float:
    """Wrap the stages. Returns: CPU seconds of the process so far."""
    stop()
    for stage, place in STAGES.items():
        module, _, path = place.partition(":")
        owner: Any = importlib.import_module(module)
        *owners, name = path.split(".")
        for part in owners:
            owner = getattr(owner, part)
        found = _spent[stage] = []
        original = vars(owner)[name]
        setattr(owner, name, _wrapped(original, found))
        _undoing.append(functools.partial(setattr, owner, name, original))
    return inside.cpu_seconds()


def stop() -> dict[str, Any]:
    """Unwrap the stages. Returns: "total" (CPU seconds of the process so far) and, by stage, (CPU seconds, calls)."""
    total = inside.cpu_seconds()
    while _undoing:
        _undoing.pop()()
    found = {stage: (sum(cpu for cpu, _ in spent), sum(calls for _, calls in spent)) for stage, spent in _spent.items()}
    _spent.clear()
    return {"total": total, "stages": found}


def _wrapped(original: Any, found: list[tuple[float, int]]) -> Any:
    # A call inside another of the same stage counts once.
    local = threading.local()

    def call(*arguments: Any, **named: Any) -> Any:
        if getattr(local, "inside", False):
            return original(*arguments, **named)
        local.inside = True
        before = time.thread_time()
        try:
            return original(*arguments, **named)
        finally:
            found.append((time.thread_time() - before, 1))
            local.inside = False

    return functools.update_wrapper(call, original)
