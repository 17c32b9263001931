"""The plugin's own part of a start. Runs in the patched host, in a process that has not loaded DIRAC yet."""

from __future__ import annotations

import functools
import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

CLIENT = "DIRAC.Interfaces.API.Dirac"


class _Stopwatch:
    """Adds up the time spent in some functions; nested calls count once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    def time(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - start

        return timed


def own_part() -> dict[str, float]:
    """Import what a client and the services import. Returns: the plugin's share of that time, in milliseconds."""
    # By name, as their attributes are replaced.
    entry_point_class: Any = importlib.import_module("importlib_metadata").EntryPoint
    watch = _Stopwatch()
    after_load: list[float] = []
    original: Callable[..., Any] = entry_point_class.load

    def load_plugin(entry_point: Any) -> Any:
        function = original(entry_point)
        # The function itself must not be wrapped: it inspects its caller. It only imports and starts the plugin.
        plugin: Any = importlib.import_module("dirac_perfpatch.loading").plugin
        switch = importlib.import_module("dirac_perfpatch.patching").Switch
        start = watch.time(plugin.start)

        def start_and_note() -> None:
            start()
            after_load.append(watch.seconds)

        plugin.start = start_and_note
        # When the modules of its targets are imported, a patch is imported and applied.
        plugin._load = watch.time(plugin._load)
        switch._put_on = watch.time(switch._put_on)
        return function

    def load_entry_point(entry_point: Any) -> Any:
        ours = entry_point.value.startswith("dirac_perfpatch:") and "dirac_perfpatch" not in sys.modules
        return watch.time(load_plugin)(entry_point) if ours else original(entry_point)

    entry_point_class.load = load_entry_point
    importlib.import_module(CLIENT)
    catalogue = importlib.import_module("dirac_perfpatch.patches").CATALOGUE
    for target in (target for patch in catalogue for target in patch.targets):
        importlib.import_module(target.modules[0])
    both, load = watch.seconds * 1000, after_load[0] * 1000
    return {"load": load, "hooks": both - load, "both": both}
