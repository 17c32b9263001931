"""Being told when a module of the host is complete, without importing it and without touching its loader.

``wrapt.register_post_import_hook`` fires at once for a module that is in ``sys.modules``, also while that module is
still being executed and its classes do not exist yet; and when we load, host modules usually are half imported. What
says "complete" is the import system itself: it sets ``spec._initializing = True`` before it executes a module and
``False`` after (``importlib._bootstrap._load_unlocked``, the same from Python 3.4 to 3.14). So we give the spec a
class in which that attribute is a property. If a future Python stops doing this, targets stay armed and the host runs
stock: visible and harmless.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from dirac_perfpatch.locks import reentrant_lock

Callback = Callable[[ModuleType], None]

_waiting: dict[str, list[Callback]] = {}
# Guards _waiting. Callbacks run outside of it: they may take long, and they may import.
_lock = reentrant_lock()


def when_complete(name: str, callback: Callback) -> None:
    """Call back with the module once it has been imported; at once if it has been already.

    Args:
        name: The module's full name. It is not imported.
        callback: Called once, in the thread that imports the module, before the import statement returns. (If
            another thread begins or ends its import at this very moment: at the next import of anything, at the
            latest.) It must not raise: the exception would be raised into the host's import.
    """
    with _lock:
        _waiting.setdefault(name, []).append(callback)
        if _finder not in sys.meta_path:
            sys.meta_path.insert(0, _finder)
    _look(name)


def forget(name: str, callback: Callback) -> None:
    """Take back :func:`when_complete`; nothing happens if the callback was called already.

    Args:
        name: The module's full name.
        callback: The very object that was given then.
    """
    # Not looked up first: a signal handler may do the same in between.
    with _lock, suppress(KeyError, ValueError):
        _waiting[name].remove(callback)
        _drop_if_empty(name)


def _drop_if_empty(name: str) -> None:
    if not _waiting.get(name):
        _waiting.pop(name, None)
    if not _waiting and _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


def _look(name: str) -> None:
    """Tell if a module is complete, and watch it if it is being imported."""
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    if _is_initializing(spec):
        _watch(spec)
    # Not "else": it may have been completed before the watch began.
    if module is not None and not _is_initializing(spec):
        _tell(name)


def _is_initializing(spec: Any) -> bool:
    return bool(getattr(spec, "__dict__", {}).get("_initializing"))


def _tell(name: str) -> None:
    module = sys.modules.get(name)
    if module is None:
        return  # its import failed; the finder waits for the next try
    with _lock:
        # Only one of several threads gets the list, so each callback is called once.
        callbacks = _waiting.pop(name, [])
        _drop_if_empty(name)
    for callback in callbacks:
        callback(module)


class _WatchedSpec(ModuleSpec):
    """A module's spec that tells when the import system has finished with the module."""

    @property
    def _initializing(self) -> bool:
        return bool(vars(self).get("_initializing", False))

    @_initializing.setter
    def _initializing(self, value: bool) -> None:
        vars(self)["_initializing"] = value
        if not value:
            self.__class__ = ModuleSpec  # type: ignore[assignment]
            _tell(self.name)


def _watch(spec: Any) -> None:
    # A subclass of ModuleSpec is somebody else's trick; its targets stay armed.
    if type(spec) is ModuleSpec:
        spec.__class__ = _WatchedSpec


class _Finder:
    """Stands first in ``sys.meta_path`` while a module is waited for, and marks the spec that the others find."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        # Another thread may have asked the finders for a module just before it was waited for, and have put it into
        # sys.modules just after that was looked at; and the import system takes a complete module out of there for a
        # moment. The imports that follow, first of all the module's own, find it.
        # (The intersection of two views of dictionaries with plain strings is one step for other threads.)
        for waited_for in _waiting.keys() & sys.modules.keys():
            if getattr(sys.modules.get(waited_for), "__spec__", None) is not None:
                _look(waited_for)
        if name not in _waiting:
            return None
        for finder in list(sys.meta_path):
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find else None
            if spec is not None:
                _watch(spec)
                return spec
        return None


_finder = _Finder()
