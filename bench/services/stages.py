"""The CPU time that a service spends in the stages of a request. Runs in the service's process, in the host's Python.

Each stage is one function of the host, or of a library, that is wrapped while the service serves. The wrapper takes the
CPU time of its own thread, so that waiting and other threads do not count; it adds 1 to 2 us to each call.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from lab import inside

_ANY = {
    "authorization": "DIRAC.Core.DISET.AuthManager:AuthManager.authQuery",
    "options of the configuration": "DIRAC.ConfigurationSystem.private.ConfigurationData:"
    "ConfigurationData.extractOptionFromCFG",
    "log records": "DIRAC.FrameworkSystem.private.standardLogging.Logging:Logging._createLogRecord",
}
_MYSQL = "DIRAC.Core.Utilities.MySQL:MySQL"
_SQL = {
    "SQL queries": f"{_MYSQL}._query",
    "SQL updates": f"{_MYSQL}._update",
    "connections to the database": f"{_MYSQL}._getConnection",
    "values escaped for SQL": f"{_MYSQL}._escapeValues",
}
_CONNECTION = "M2Crypto.SSL.Connection:Connection"
_DISET = "DIRAC.Core.DISET"
_TRANSPORTS = f"{_DISET}.private.Transports"
_HTTPS = "DIRAC.Core.Tornado.Server.private.BaseRequestHandler:BaseRequestHandler"
_STREAM = "tornado_m2crypto.m2iostream:M2IOStream"
_AGENT = "DIRAC.Core.Base.AgentModule:AgentModule"
DISET, HTTPS, AGENT = "DISET", "HTTPS", "agent"
# By what the process is, in order of display: the stage, and the function, as "module:path".
STAGES = {
    DISET: {
        "request, in its thread": f"{_DISET}.private.Service:Service._processInThread",
        "accept, in the main thread": f"{_TRANSPORTS}.M2SSLTransport:SSLTransport.acceptConnection",
        "TLS handshake in OpenSSL": f"{_CONNECTION}.accept_ssl",
        "who the client is": f"{_TRANSPORTS}.M2SSLTransport:getM2PeerInfo",
        **_ANY,
        "memory of the process": f"{_DISET}.private.Service:Service._Service__startReportToMonitoring",
        "messages received": f"{_TRANSPORTS}.BaseTransport:BaseTransport.receiveData",
        "messages sent": f"{_TRANSPORTS}.BaseTransport:BaseTransport.sendData",
        "close": f"{_TRANSPORTS}.M2SSLTransport:SSLTransport.close",
        "handler": f"{_DISET}.RequestHandler:RequestHandler._RequestHandler__RPCCallFunction",
        "list of plotters": "DIRAC.AccountingSystem.private.MainReporter:PlottersList.__init__",
        "unit of the report": "DIRAC.AccountingSystem.private.Plotters.BaseReporter:BaseReporter._findUnitMagic",
        **_SQL,
    },
    HTTPS: {
        "TLS context": "tornado_m2crypto.m2netutil:ssl_options_to_m2_context",
        "events of connections": "tornado.iostream:BaseIOStream._handle_events",
        "TLS handshake in OpenSSL": f"{_CONNECTION}.accept_ssl",
        "prepare, in a thread": f"{_HTTPS}._BaseRequestHandler__prepare",
        "who the client is": f"{_HTTPS}._authzSSL",
        **_ANY,
        "method, in a thread": f"{_HTTPS}._executeMethod",
        **_SQL,
        "end of the request": f"{_HTTPS}.on_finish",
        "close": f"{_STREAM}.close_fd",
    },
    AGENT: {
        "cycle": f"{_AGENT}.am_go",
        "options of the agent": f"{_AGENT}.am_getOption",
        **_ANY,
        "request to a service": f"{_DISET}.private.InnerRPCClient:InnerRPCClient.executeRPC",
        "client of a service": "DIRAC.Core.Base.Client:Client._getRPC",
        "connection to a service": f"{_DISET}.private.BaseClient:BaseClient._connect",
        "TLS context": f"{_TRANSPORTS}.M2SSLTransport:getM2SSLContext",
        "TLS handshake in OpenSSL": f"{_CONNECTION}.connect_ssl",
        **_SQL,
    },
}

_undoing: list[Callable[[], None]] = []
_spent: dict[str, list[tuple[float, int]]] = {}


def start(kind: str) -> float:
    """Wrap the stages of a kind of process, as far as it has loaded their modules.

    Returns: CPU seconds of the process so far.
    """
    stop()
    for stage, place in STAGES[kind].items():
        module, _, path = place.partition(":")
        found: list[tuple[float, int]] = []
        _spent[stage] = found
        if module not in sys.modules:
            continue
        owner: Any = sys.modules[module]
        *owners, name = path.split(".")
        for part in owners:
            owner = getattr(owner, part)
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
