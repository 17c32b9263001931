"""Times the patches' targets and the requests from outside, in a process of either arm. Runs in the host's Python.

The probe is put on last, on top of the plugin's wrappers or of stock code alike, so that it costs both arms the same.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

from lab import inside

# The modules that a target may be in, and its path there: the arguments of dirac_perfpatch.patching.Target that say so.
Target = tuple[list[str], str]
_targets: list[Target] = []

# target or "request METHOD" -> nanoseconds of each call. Appending to a list needs no lock.
times: dict[str, list[int]] = {}


def expect(targets: list[Target]) -> None:
    """Say what install() is to time. This process may be one without the plugin, which cannot know."""
    _targets[:] = targets


def install() -> None:
    """Put timers on the targets in the modules that are loaded. Call it once, when everything is loaded."""
    for modules, path in _targets:
        # A target that has moved is re-exported from where it was, so the first place is the one.
        module = next(filter(None, map(sys.modules.get, modules)), None)
        owner, _, name = path.rpartition(".")
        if module and owner:
            _replace_method(path, getattr(module, owner), name)
        elif module:
            _replace_everywhere(path, getattr(module, name))


def install_in_service(targets: list[Target]) -> None:
    """The same in a service, and time what it does for each request."""
    expect(targets)
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
