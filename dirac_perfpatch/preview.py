"""Forecast what a patch does to a module that is not imported, for ``dirac-perfpatch status``.

Importing the modules of all targets takes seconds, and some need libraries that only a server has. So a stand-in is
compiled from the source of the module: it has the functions, with their code, and the classes, but none of the module
runs. The target's own ``look`` judges the stand-in as it would the module.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType

from dirac_perfpatch.patching import ARMED, FAILED, STOOD_DOWN, Fitting, Guard, NotHere, Target

_CACHES = ("cache", "lru_cache", "cached", "cachedmethod")
_CACHED = "_cached"  # the name of functools.cache in a stand-in


def foresee(target: Target, replaces: bool = True, forced: bool = False) -> tuple[str, str]:
    """Return the state and reason of a target after the import of its module; ``armed`` if it will be applied.

    Args:
        target: Its declaration.
        replaces, forced: As for :meth:`dirac_perfpatch.patching.Target.judge`.
    """
    for name in target.modules:
        try:
            module = _stand_in(name)
            put_on, why = target.judge(Fitting(module, {}, Guard("", lambda reason: None)), replaces, forced)
        except (ModuleNotFoundError, NotHere):
            continue
        except Exception as error:  # the source may be anything
            return FAILED, f"{type(error).__name__}: {error}"
        if put_on is None:
            return STOOD_DOWN, why
        return ARMED, f"when {name} is imported, {why}" if why else f"will be applied when {name} is imported"
    return ARMED, f"there is no {target.modules[0]} here"


@functools.cache  # three patches look at one module
def _stand_in(name: str) -> ModuleType:
    """Make the stand-in of a module. Imports only the packages above it."""
    spec = importlib.util.find_spec(name)
    source = getattr(spec.loader, "get_source", lambda name: None)(name) if spec else None
    if spec is None or source is None:
        raise ModuleNotFoundError(name)
    tree = ast.fix_missing_locations(ast.Module([*_definitions(ast.parse(source))], []))
    module = ModuleType(name)
    vars(module)[_CACHED] = functools.cache
    # With this flag, annotations are not evaluated.
    code = compile(tree, spec.origin or name, "exec", annotations.compiler_flag, dont_inherit=True)
    exec(code, vars(module))
    return module


def _definitions(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield statements that bind the same names as a module or class, and run none of its code."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield _undressed(child)
        elif isinstance(child, ast.ClassDef):
            child.bases, child.keywords, child.decorator_list = [], [], []
            child.body = [*_definitions(child), ast.Pass()]
            yield child
        elif isinstance(child, ast.Import) and all(alias.name in sys.modules for alias in child.names):
            yield child  # loaded already: nothing runs
        elif isinstance(child, ast.alias) and child.name != "*":
            yield _something((child.asname or child.name).partition(".")[0])
            # Never runs, but calls of what a module imports are compiled in another way.
            yield ast.If(ast.Constant(False), [ast.Import([child])], [])
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield _something(child.id)
        elif not isinstance(child, (ast.Lambda, ast.comprehension)):  # which have a scope of their own
            yield from _definitions(child)


def _undressed(function: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.stmt:
    """Return a function without its defaults and decorators, except a cache.

    Other decorators are assumed to leave the code visible; only ``check`` finds out.
    """
    arguments = function.args
    arguments.defaults, arguments.kw_defaults = [], [None] * len(arguments.kwonlyargs)
    decorators = [ast.unparse(decorator).partition("(")[0] for decorator in function.decorator_list]
    is_cached = any(name.rpartition(".")[2] in _CACHES for name in decorators)
    function.decorator_list = [ast.Name(_CACHED, ast.Load())] if is_cached else []
    return function


def _something(name: str) -> ast.stmt:
    return ast.Assign([ast.Name(name, ast.Store())], ast.Constant(None))
