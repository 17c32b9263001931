"""Times the patches' targets and the requests from outside, in a process of either arm. Runs in the host's Python.

The probe is installed last, on top of the plugin's wrappers or of stock code, so that it costs both arms the same.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

from lab import inside

# The modules that a target may be in, and its path there, as in dirac_perfpatch.patching.Target.
Target = tuple[list[str], str]
_targets: list[Target] = []

# By target or "request METHOD": nanoseconds of each call. Appending to a list needs no lock.
times: dict[str, list[int]] = {}


def expect(targets: list[Target]) -> None:
    """Set what install() is to time; a process without the plugin cannot know it."""
    _targets[:] = targets


def install() -> None:
    """Put timers on the targets in the loaded modules. Call this once, when everything is loaded."""
    for modules, path in _targets:
        # A target that has moved is re-exported from its old module, so the first module is the right one.
        module = next(filter(None, map(sys.modules.get, modules)), None)
        owner, _, name = path.rpartition(".")
        if module and owner:
            _replace_method(path, getattr(module, owner), name)
        elif module:
            _replace_everywhere(path, getattr(module, name))


def install_in_service(targets: list[Target]) -> None:
    """Do the same in a service, and time each request."""
    expect(targets)
    install()
    _time_requests()


def counts() -> dict[str, Any]:
    """The counts of this process: {"times": ..., "plugin": the plugin's status}."""
    return {"times": times, "plugin": inside.plugin_status()}


def _replace_everywhere(label: str, original: Any) -> None:
    durations = times.setdefault(label, [])

    @functools.wraps(original)
    def timed(*args: Any, **kwargs: Any) -> Any:
        if "callStack" in kwargs:
            # An S_ERROR that captures no stack: DIRAC makes thousands when it looks up options, which no patch affects.
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
    # From the class's own dictionary: getattr would bind it, and a wrapper must be bound per call to see its self.
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
    """Time requests from the arrival of their arguments until their answer is ready."""
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
