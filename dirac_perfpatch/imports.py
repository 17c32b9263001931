"""Calls back when a module of the host is complete, without importing it and without touching its loader.

``wrapt.register_post_import_hook`` calls back at once for any module in ``sys.modules``, even if it is still being
executed and has no classes yet; and when we load, some modules of the host are usually half imported. The import system
itself says when a module is complete: it sets ``spec._initializing`` to True before it executes the module, and to
False afterwards (``importlib._bootstrap._load_unlocked``, from Python 3.4 to 3.14). So we give the spec a class in
which that attribute is a property. If a future Python stops setting it, targets stay armed and the host runs stock.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType
from typing import Any

Callback = Callable[[ModuleType], None]

# The packages of the host, and of those of its extensions that are named after it.
_HOST = "DIRAC"

# Pairs of a module's name and a callback. No lock: every step is one operation on it, which no thread, signal handler
# or fork can interrupt.
_waiting: dict[tuple[str, Callback], None] = {}
# What is called once, before the host imports another module.
_before_next: list[Callable[[], Any]] = []
# By module: what is called with each spec that is found for it.
_preparing: dict[str, Callable[[ModuleSpec], None]] = {}


def when_complete(name: str, callback: Callback) -> None:
    """Call back when a module has been imported, in that thread, before the import statement returns; at once if it is.

    If another thread begins or ends the import at this very moment, or if the module is executed without the import
    system, the call may come as late as the next import of any module. If another thread executes the module without
    the import system, the call may come too early.

    Args:
        name: The module's full name. It is not imported.
        callback: Called once, with the module. It must not raise: the exception would reach the host's import.
    """
    _waiting[name, callback] = None
    _take_place()
    _look(name)


def forget(name: str, callback: Callback) -> None:
    """Cancel :func:`when_complete` with the same name and an equal callback; no effect if that has been called."""
    _waiting.pop((name, callback), None)


def before_execution(name: str, prepare: Callable[[ModuleSpec], None]) -> None:
    """Call back whenever the import system has found a module, before it executes it, until :func:`prepare_no_longer`.

    Args:
        name: The module's full name. One callback per module.
        prepare: Called with the spec, which may never be executed. It must not raise.
    """
    _preparing[name] = prepare
    _take_place()


def prepare_no_longer(name: str) -> None:
    """Cancel :func:`before_execution`."""
    _preparing.pop(name, None)


def before_next(callback: Callable[[], Any]) -> None:
    """Call back once, before the host imports another one of its modules: in that thread, inside the import statement.

    Args:
        callback: What it asks for with the functions above counts for that module, too. It must not raise.
    """
    _before_next.append(callback)
    _take_place()


def forget_next() -> None:
    """Cancel :func:`before_next`, unless its call has begun."""
    _before_next.clear()


def look() -> set[str]:
    """Call back for modules completed unseen: by hand, lazily, or just when their callback was registered.

    Returns:
        The names of all modules that were waited for.
    """
    names = {name for name, _ in list(_waiting)}
    # To intersect a dictionary's keys with a set is atomic if all of them are plain strings.
    for name in sys.modules.keys() & names:
        module = sys.modules.get(name)
        # Not a stand-in for the module, which is neither imported nor executed.
        if _own(module, "__spec__") is not None or "__builtins__" in (_own(module, "__dict__") or {}):
            _look(name)
    return names


def _take_place() -> None:
    """Have the finder in ``sys.meta_path``, where it stays.

    An import in another thread goes through that list by position. If the finder were taken out, that import would pass
    over the next one, and might not find a module that exists. (If two threads come here at once, it may be there
    twice, and only looks twice.)
    """
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def _look(name: str) -> None:
    """Call back if a module is complete, watch it if it is being imported."""
    module = sys.modules.get(name)
    spec = _own(module, "__spec__")
    if _is_initializing(spec):
        _watch(spec)
    # Not "else": the import may have ended before the watch began.
    if module is not None and not _is_initializing(spec) and not _is_to_be_executed(module, spec):
        _tell(name)


def _is_initializing(spec: Any) -> bool:
    return bool(getattr(spec, "__dict__", {}).get("_initializing"))


def _is_to_be_executed(module: Any, spec: Any) -> bool:
    """Whether a module that the import system does not execute has not been executed yet, or not to its end.

    A caller may put it into ``sys.modules`` and call ``spec.loader.exec_module``, at once or, as
    :class:`importlib.util.LazyLoader` does, at the first access to an attribute.
    """
    names = _own(module, "__dict__") or {}
    if "__builtins__" not in names and str(getattr(spec, "origin", None)).endswith(".py"):
        return True  # execution sets __builtins__ first
    # In this thread only: walking the frames of another, running thread crashes Python 3.11. If another thread is
    # executing the module, the target is not found, and Switch.catch_up() tries again later.
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals is names and frame.f_code.co_name == "<module>":
            return True
        frame = frame.f_back
    return False


def _own(module: Any, name: str) -> Any:
    """An attribute of a module, without triggering the execution of a lazy module."""
    with suppress(AttributeError):
        return object.__getattribute__(module, name)
    return None


def _tell(name: str) -> None:
    module = sys.modules.get(name)
    if module is None:
        return  # its import failed; the finder waits for the next attempt
    keys = [key for key in list(_waiting) if key[0] == name]
    # pop() gives a callback to one thread only, so it is called once. All are popped before the first call: an import
    # by the first callback would otherwise call the others inside it.
    callbacks = [key[1] for key in keys if _waiting.pop(key, "gone") is None]
    _take_place()
    for callback in callbacks:
        callback(module)


class _WatchedSpec(ModuleSpec):
    """The spec of a module being imported; calls back when the import system marks the module as complete."""

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
    # Not other code's subclass of ModuleSpec, on which that code relies; targets in such a module stay armed.
    if type(spec) is ModuleSpec:
        spec.__class__ = _WatchedSpec


class _Finder:
    """Comes first in ``sys.meta_path``, and watches the spec that other finders return for what is waited for."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if _before_next and name.startswith(_HOST):
            with suppress(IndexError):  # another thread has taken it
                _before_next.pop()()
        if not _waiting and not _preparing:
            return None
        # Another thread may have asked the finders for a module before its callback was registered, and have stored it
        # in sys.modules after we looked there; and the import system takes a complete module out of sys.modules for a
        # moment. So every later import, beginning with the module's own, looks again.
        if name not in look() and name not in _preparing:
            return None
        for finder in list(sys.meta_path):
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find else None
            if spec is not None:
                _watch(spec)
                prepare = None
                while _preparing.get(name) is not prepare:  # it may have put another one in its place
                    prepare = _preparing.get(name)
                    if prepare is not None:
                        prepare(spec)
                return spec
        return None


_finder = _Finder()
