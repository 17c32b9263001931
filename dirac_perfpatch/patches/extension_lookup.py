"""extensionsByPriority and getExtensionMetadata: the installed distributions are searched once.

To answer either, the host reads the entry points of every installed distribution, 5 to 7 ms a call, and it asks dozens
of times while a command starts. What is installed does not change under a running process (an update ends with a
restart), so we keep what one search found.

Why the answer is the same: the list is the one that the host's own function returned, copied for each caller. Metadata
is asked of the extension's own function at every call, as the host does, so each caller owns what it gets; only the way
to that function is kept. The host searches along ``sys.path``, so if ``sys.path`` changes, we search again. Not seen
until the process restarts: a distribution that is installed or removed in a directory that is on the path already.

No lock: threads that ask at once search at once, as in stock. So does a signal handler, or an extension that asks while
the search loads it.

Some fifteen modules bind the two functions by name, and others may hold them otherwise; so their code is replaced.

DIRAC 9.1.9 and later keep both answers for ever (``functools.cache``) and hand one object to all callers: whoever
changes it changes it for all. There is no code to replace in such an object, so ours takes its place under its name in
every module, those that are imported later included. Not reached: a default, a closure, a list or another name that
holds the host's object; its holders go on sharing an answer among themselves, and never with ours.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

from dirac_perfpatch.patching import (
    Case,
    Database,
    Fitting,
    InTree,
    Meter,
    Patch,
    Target,
    Timed,
    UnknownHost,
    same_answer,
)

_MODULE = "DIRAC.Core.Utilities.Extensions"


class _OncePerPath:
    """Keeps what a function without arguments returns, until ``sys.path`` changes."""

    def __init__(self, compute: Callable[[], Any]) -> None:
        self._compute = compute
        # In one attribute, so that a reader gets an answer with its own path.
        self._kept: tuple[list[str], Any] = ([], None)

    def get(self) -> Any:
        path, answer = self._kept
        if path != sys.path:
            path = list(sys.path)
            answer = self._compute()
            self._kept = (path, answer)
        return answer


Make = Callable[[Callable[..., Any], Callable[..., Any]], Callable[..., Any]]


def _list(fitting: Fitting) -> Make:
    """Given the function that searches and the host's own, make ours."""
    guard = fitting.guard

    def make(search: Callable[..., Any], hosts: Callable[..., Any]) -> Callable[..., Any]:
        found = _OncePerPath(search)

        def extensionsByPriority() -> Any:
            if guard.off:
                return hosts()
            try:
                return found.get().copy()
            except AttributeError as error:  # only by our own fault: the host returns a list
                guard.failed(error)
                return hosts()

        return extensionsByPriority

    return make


def _metadata(fitting: Fitting) -> Make:
    guard, module = fitting.guard, fitting.module

    def search() -> dict[str, Callable[[], Any]]:
        functions: dict[str, Callable[[], Any]] = {}
        for entry_point in module.metadata.entry_points().select(group="dirac"):
            name = module.entrypointToExtension(entry_point)
            if name not in functions:  # the host, too, takes the first
                functions[name] = functools.lru_cache(maxsize=1)(entry_point.load)
        return functions

    def make(uncached: Callable[..., Any], hosts: Callable[..., Any]) -> Callable[..., Any]:
        loaders = _OncePerPath(search)

        def getExtensionMetadata(extensionName: Any) -> Any:
            if guard.off:
                return hosts(extensionName)
            try:
                function = loaders.get()[extensionName]()
            except Exception:  # unknown, or cannot be loaded: answers or raises what it always does
                return uncached(extensionName)
            return function()

        return getExtensionMetadata

    return make


def _target(name: str, ours: Callable[[Fitting], Make]) -> Target:
    def look(fitting: Fitting) -> None:
        function = fitting.resolve(name)
        uncached = getattr(function, "__wrapped__", None) if hasattr(function, "cache_info") else function
        if not isinstance(uncached, FunctionType) or "entry_points" not in uncached.__code__.co_names:
            raise UnknownHost(f"{name} is not the function that this patch knows")
        if uncached is not function:
            raise InTree("the host keeps the answer itself", "hands one object to all callers", replace)

    def put_on(fitting: Fitting) -> None:
        fitting.take_over(name, lambda stock: ours(fitting)(stock, stock), same_answer)

    def replace(fitting: Fitting) -> None:
        fitting.replace_cached(name, ours(fitting))

    return Target((_MODULE,), name, look, put_on)


def _ask(database: Database | None) -> Any:
    from DIRAC.Core.Utilities.Extensions import extensionsByPriority, getExtensionMetadata

    extensions = extensionsByPriority()
    return extensions, [getExtensionMetadata(name) for name in [*extensions, "no such extension"]]


def _calls(name: str, *args: str) -> Callable[[int, Database | None, Timed], Iterator[Meter]]:
    def prepare(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
        from DIRAC.Core.Utilities import Extensions

        yield lambda number: timed(functools.partial(getattr(Extensions, name), *args), number)

    return prepare


PATCH = Patch(
    name="extension_lookup",
    targets=(
        _target("extensionsByPriority", _list),
        _target("getExtensionMetadata", _metadata),
    ),
    ask=_ask,
    cases=(
        Case("extensionsByPriority()", _calls("extensionsByPriority"), growth=(1,)),
        Case('getExtensionMetadata("DIRAC")', _calls("getExtensionMetadata", "DIRAC"), growth=(1,)),
    ),
)
