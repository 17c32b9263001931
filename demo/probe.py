"""Times the nine targets and the requests from outside, in a process of either arm. Runs in the host's Python.

The probe is put on last, on top of the plugin's wrappers or of stock code alike, so that it costs both arms the same.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

from lab import inside

# Functions that other modules have bound under their own name: the probe replaces each of those names.
FUNCTIONS = {
    "extensionsByPriority": ("DIRAC.Core.Utilities.Extensions", "extensionsByPriority"),
    "getExtensionMetadata": ("DIRAC.Core.Utilities.Extensions", "getExtensionMetadata"),
    "S_ERROR": ("DIRACCommon.Core.Utilities.ReturnValues", "S_ERROR"),
}
METHODS = {
    # Not the m2crypto package's own name for it: nearly all of DIRAC imports it under this one, a module of its own.
    "X509Chain.loadProxyFromFile": ("DIRAC.Core.Security.X509Chain", "X509Chain", "loadProxyFromFile"),
    "DMSHelpers.getSiteSEMapping": (
        "DIRAC.DataManagementSystem.Utilities.DMSHelpers",
        "DMSHelpers",
        "getSiteSEMapping",
    ),
    "ConnectionPool.get": ("DIRAC.Core.Utilities.MySQL", "ConnectionPool", "get"),
    "MySQL._except": ("DIRAC.Core.Utilities.MySQL", "MySQL", "_except"),
    "AccountingDB.insertRecordDirectly": (
        "DIRAC.AccountingSystem.DB.AccountingDB",
        "AccountingDB",
        "insertRecordDirectly",
    ),
    "DirectoryTreeBase.getDirectorySize": (
        "DIRAC.DataManagementSystem.DB.FileCatalogComponents.DirectoryManager.DirectoryTreeBase",
        "DirectoryTreeBase",
        "getDirectorySize",
    ),
    "PilotStatusAgent.execute": (
        "DIRAC.WorkloadManagementSystem.Agent.PilotStatusAgent",
        "PilotStatusAgent",
        "execute",
    ),
}
TARGETS = [*FUNCTIONS, *METHODS]

# target or "request METHOD" -> nanoseconds of each call. Appending to a list needs no lock.
times: dict[str, list[int]] = {}


def install() -> None:
    """Put timers on the targets in the modules that are loaded. Call it once, when everything is loaded."""
    for label, (module, name) in FUNCTIONS.items():
        if module in sys.modules:
            _replace_everywhere(label, getattr(sys.modules[module], name))
    for label, (module, owner, name) in METHODS.items():
        if module in sys.modules:
            _replace_method(label, getattr(sys.modules[module], owner), name)


def install_in_service() -> None:
    """The same in a service, and time what it does for each request."""
    install()
    _time_requests()


def counts() -> dict[str, Any]:
    """What was counted in this process: {"times": ..., "plugin": what the plugin says of itself}."""
    return {"times": times, "plugin": inside.plugin_status()}


def _replace_everywhere(label: str, original: Any) -> None:
    durations = times.setdefault(label, [])

    @functools.wraps(original)
    def timed(*args: Any, **kwargs: Any) -> Any:
        if "callStack" in kwargs:
            # An S_ERROR that walks no stack: DIRAC makes thousands when it looks options up, and no patch is about it.
            return original(*args, **kwargs)
        start = perf_counter_ns()
        try:
            return original(*args, **kwargs)
        finally:
            durations.append(perf_counter_ns() - start)

    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is original:
                setattr(module, name, timed)


def _replace_method(label: str, owner: type, name: str) -> None:
    durations = times.setdefault(label, [])
    # From the class's own dictionary: getattr would bind it, and a wrapper needs to be bound per call to see its self.
    original = owner.__dict__[name]

    @functools.wraps(original)
    def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        start = perf_counter_ns()
        try:
            return original.__get__(self, owner)(*args, **kwargs)
        finally:
            durations.append(perf_counter_ns() - start)

    setattr(owner, name, timed)


def _time_requests() -> None:
    """Time a request from the arguments' arrival to the answer's dispatch."""
    from DIRAC.Core.DISET.RequestHandler import RequestHandler

    name = "_RequestHandler__RPCCallFunction"
    original: Callable[..., Any] = RequestHandler.__dict__[name]

    def timed(self: Any, method: str, args: Any) -> Any:
        start = perf_counter_ns()
        try:
            return original(self, method, args)
        finally:
            times.setdefault(f"request {method}", []).append(perf_counter_ns() - start)

    setattr(RequestHandler, name, timed)
