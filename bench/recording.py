"""What recording adds to a call whose patch is `ab`. Runs in the patched host."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from lab.arms import PATCHED, STOCK
from lab.inside import load

FRAMES = 20
ROUNDS = 40
REQUEST, STATEMENT = "a request by DISET", "an SQL statement"
# The functions at which outcomes are recorded, without what they do.
_EMPTY = """
class Handler:
    export_work = None
class Service:
    _name, _handler = "A/B", {"class": Handler}
    def _receiveAndCheckProposal(self, trid):
        return {"OK": True, "Value": (None, ("RPC", "work"))}
    def _processInThread(self, transport):
        self._receiveAndCheckProposal(1)
        RequestHandler()._RequestHandler__logRemoteQueryResponse({"OK": True}, 0.0)
class RequestHandler:
    def _RequestHandler__logRemoteQueryResponse(self, answer, seconds):
        pass
class MySQL:
    def _query(self, command):
        return {"OK": True}
    _update = _updatemany = lambda self: None
"""
# By arm: a cached call in the patched arm, and one of the fastest calls in stock.
CALLS = {PATCHED: "extensionsByPriority()", STOCK: f'S_ERROR("x"), {FRAMES} frames'}
_FRAMES_BELOW = 8  # the stack of the worker and of this module, which counts among FRAMES
# Short and many: the minima of few vary by the hundredth of a call that is to be seen.
_REPETITION_SECONDS = 0.0005
_REPETITIONS = 25


def compare() -> dict[str, dict[str, float]]:
    """In a worker of the patched host. Returns: by arm, {"plain": us per call, "recorded": us per call}."""
    extensions: Any = importlib.import_module("DIRAC.Core.Utilities.Extensions")
    load()
    error = importlib.import_module("DIRAC").S_ERROR
    return {
        PATCHED: _compare("extension_lookup", True, extensions.extensionsByPriority),
        STOCK: _compare("error_stack", False, lambda: _deep(FRAMES - _FRAMES_BELOW, error)),
    }


def compare_outcomes() -> dict[str, dict[str, float]]:
    """In a worker of the patched host. Returns: as compare(), by what is recorded for users: of empty functions."""
    patching: Any = importlib.import_module("dirac_perfpatch.patching")
    timed = importlib.import_module("dirac_perfpatch.bench").timed
    outcomes = importlib.import_module("dirac_perfpatch.comparison.outcomes").Outcomes()
    clock = importlib.import_module("dirac_perfpatch.comparison.clock")
    outcomes.windows = (clock.Window(0, 0.0, False, {}),)
    seams: Any = importlib.import_module("dirac_perfpatch.patches._outcomes")
    host: Any = ModuleType("host")
    exec(_EMPTY, vars(host))
    service, database = host.Service(), host.MySQL()
    calls = {REQUEST: lambda: service._processInThread(None), STATEMENT: lambda: database._query("")}
    best = {name: {"plain": float("inf"), "recorded": float("inf")} for name in calls}
    for _ in range(ROUNDS):
        fitting = patching.Fitting(host, {"outcomes": outcomes}, patching.Guard("outcomes", lambda reason: None))
        for kind in ("plain", "recorded"):
            if kind == "recorded":
                for put_on in (seams._put_on_request, seams._put_on_answer, seams._put_on_statements):
                    put_on(fitting)
            for name, call in calls.items():
                best[name][kind] = min(best[name][kind], timed(call, 100))
        fitting.undo()
    return best


def _deep(frames: int, error: Callable[[str], Any]) -> Any:
    return _deep(frames - 1, error) if frames else error("x")


def _compare(patch: str, patched: bool, call: Callable[[], Any]) -> dict[str, float]:
    """In turn, with the patch just on or off, and recorded in the same arm: of each, the 5th percentile."""
    loading: Any = importlib.import_module("dirac_perfpatch.loading")
    arms: Any = importlib.import_module("dirac_perfpatch.comparison.arms")
    toggle = importlib.import_module("dirac_perfpatch.toggles").Toggle("ab", {}, "process", 0.5, 3600)
    timed = importlib.import_module("dirac_perfpatch.bench").timed
    switch = loading.plugin.switches[patch]
    found: dict[str, list[float]] = {"plain": [], "recorded": []}
    for _ in range(ROUNDS):
        for name, times in found.items():
            switch.take_off()
            if name == "recorded":
                comparison = arms.Comparison(switch.patch, switch.guard, toggle, 10_000, patched)
                switch.put_on(comparison)
                timed(call, 200)
                # As the journal does every ten seconds: from now on as many calls are timed as in a running service.
                for recorder in comparison.recorders:
                    recorder.settle()
            elif patched:
                switch.put_on()
            number = max(1, int(_REPETITION_SECONDS / timed(call, 10) * 1e6))
            times += [timed(call, number) for _ in range(_REPETITIONS)]
    return {name: sorted(times)[len(times) // 20] for name, times in found.items()}
