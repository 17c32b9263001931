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
from types import FrameType, ModuleType
from typing import Any

Callback = Callable[[ModuleType], None]

# The names of modules, each with a callback. No lock: every step is one operation on it, which no thread, signal
# handler or fork can interrupt.
_waiting: dict[tuple[str, Callback], None] = {}


def when_complete(name: str, callback: Callback) -> None:
    """Call back with the module once it has been imported; at once if it has been already.

    Args:
        name: The module's full name. It is not imported.
        callback: Called once, in the thread that imports the module, before the import statement returns. (If
            another thread begins or ends its import at this very moment, or it is executed without the import system:
            at the next import of anything, at the latest. If another thread executes it without the import system, it
            may come too early.) It must not raise: the exception would be raised into the host's import.
    """
    _waiting[name, callback] = None
    _take_place()
    _look(name)


def forget(name: str, callback: Callback) -> None:
    """Take back :func:`when_complete`; nothing happens if the callback was called already.

    Args:
        name: The module's full name.
        callback: Equal to the one that was given then.
    """
    _waiting.pop((name, callback), None)
    _take_place()


def look() -> set[str]:
    """Tell of the modules that were completed unseen: by hand, lazily, or just when somebody began to wait.

    Returns:
        The names of all that were waited for.
    """
    names = {name for name, _ in list(_waiting)}
    # The intersection of a set and a view of a dictionary with plain strings is one step for other threads.
    for name in sys.modules.keys() & names:
        module = sys.modules.get(name)
        # Not of somebody's stand-in for a module, which is neither imported nor executed.
        if _own(module, "__spec__") is not None or "__builtins__" in _dictionary(module):
            _look(name)
    return names


def _take_place() -> None:
    """Be in ``sys.meta_path`` while something is waited for."""
    # Not "if": another thread may do the same, or the opposite, at the same time.
    while bool(_waiting) != (_finder in sys.meta_path):
        if _waiting:
            sys.meta_path.insert(0, _finder)
        else:
            with suppress(ValueError):
                sys.meta_path.remove(_finder)


def _look(name: str) -> None:
    """Tell if a module is complete, and watch it if it is being imported."""
    module = sys.modules.get(name)
    spec = _own(module, "__spec__")
    if _is_initializing(spec):
        _watch(spec)
    # Not "else": it may have been completed before the watch began.
    if module is not None and not _is_initializing(spec) and not _is_to_be_executed(module, spec):
        _tell(name)


def _is_initializing(spec: Any) -> bool:
    return bool(getattr(spec, "__dict__", {}).get("_initializing"))


def _is_to_be_executed(module: Any, spec: Any) -> bool:
    """Whether a module that the import system does not execute is still to be executed, or being executed.

    Somebody may put it into ``sys.modules`` and call ``spec.loader.exec_module``, now or, as
    :class:`importlib.util.LazyLoader` does, when the first attribute is asked for.
    """
    names = _dictionary(module)
    if "__builtins__" not in names and str(getattr(spec, "origin", None)).endswith(".py"):
        return True  # executing it puts them there, first of all
    # In this thread only: to walk the frames of a thread that runs crashes Python 3.11. Whoever finds a module that
    # another thread is executing incomplete, tries again later.
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals is names and frame.f_code.co_name == "<module>":
            return True
        frame = frame.f_back
    return False


def _dictionary(module: Any) -> Any:
    return _own(module, "__dict__") or {}


def _own(module: Any, name: str) -> Any:
    """An attribute, without executing a module that is lazy."""
    with suppress(AttributeError):
        return object.__getattribute__(module, name)
    return None


def _tell(name: str) -> None:
    module = sys.modules.get(name)
    if module is None:
        return  # its import failed; the finder waits for the next try
    keys = [key for key in list(_waiting) if key[0] == name]
    # Only one of several threads gets it out, so each callback is called once. All before the first is called: what
    # that one imports would call the others inside of it.
    callbacks = [key[1] for key in keys if _waiting.pop(key, "gone") is None]
    _take_place()
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
            _look(self.name)


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
        if name not in look():
            return None
        for finder in list(sys.meta_path):
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find else None
            if spec is not None:
                _watch(spec)
                return spec
        return None


_finder = _Finder()
