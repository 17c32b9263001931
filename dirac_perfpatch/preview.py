"""What a patch would do to a module that this process has not imported: for ``dirac-perfpatch status``.

To import the modules of all targets takes seconds, and some of them need libraries that only a server has. So a
stand-in of the module is made from its source: it has the module's functions, with their code, and its classes, and
nothing of the module itself runs. The target's own ``look`` then says of it what it would say of the module.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType

from dirac_perfpatch.patching import ARMED, FAILED, STOOD_DOWN, Fitting, Guard, InTree, NotHere, Target

_CACHES = ("cache", "lru_cache")
_CACHED = "_cached"  # what a stand-in knows as functools.cache


def foresee(target: Target) -> tuple[str, str]:
    """Say what becomes of a target when its module is imported.

    Args:
        target: Of a patch that is on.

    Returns:
        Its state and the reason: ``armed`` if it will be applied, ``stood down`` or ``failed`` if it will be that.
    """
    for name in target.modules:
        try:
            module = _stand_in(name)
            target.look(Fitting(module, {}, Guard("", lambda reason: None)))
        except (ModuleNotFoundError, NotHere):
            continue
        except InTree as fact:
            return STOOD_DOWN, str(fact)
        except Exception as error:  # the host's source may be anything
            return FAILED, f"{type(error).__name__}: {error}"
        return ARMED, f"will be applied when {name} is imported"
    return ARMED, f"there is no {target.modules[0]} here"


@functools.cache  # three patches look at one module
def _stand_in(name: str) -> ModuleType:
    """A module that has the definitions of the one of that name. Imports the packages above it only."""
    spec = importlib.util.find_spec(name)
    source = getattr(spec.loader, "get_source", lambda name: None)(name) if spec else None
    if source is None:
        raise ModuleNotFoundError(name)
    tree = ast.fix_missing_locations(ast.Module([*_definitions(ast.parse(source))], []))
    module = ModuleType(name)
    vars(module)[_CACHED] = functools.cache
    # With the flag of that feature no annotation is evaluated.
    code = compile(tree, name, "exec", annotations.compiler_flag, dont_inherit=True)
    exec(code, vars(module))
    return module


def _definitions(node: ast.AST) -> Iterator[ast.stmt]:
    """Statements that bind the names which a module or a class binds, and execute nothing of it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield _undressed(child)
        elif isinstance(child, ast.ClassDef):
            child.bases, child.keywords, child.decorator_list = [], [], []
            child.body = [*_definitions(child), ast.Pass()]
            yield child
        elif isinstance(child, ast.Import) and all(alias.name in sys.modules for alias in child.names):
            yield child  # which imports nothing
        elif isinstance(child, ast.alias) and child.name != "*":
            yield _something((child.asname or child.name).partition(".")[0])
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield _something(child.id)
        elif not isinstance(child, (ast.Lambda, ast.comprehension)):  # these have names of their own
            yield from _definitions(child)


def _undressed(function: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.stmt:
    """A function without its defaults and decorators.

    A cache stays visible. Any other decorator is taken to let the code through; only ``check`` can tell if it does.
    """
    arguments = function.args
    arguments.defaults, arguments.kw_defaults = [], [None] * len(arguments.kwonlyargs)
    decorators = [ast.unparse(decorator).partition("(")[0] for decorator in function.decorator_list]
    is_cached = any(name.rpartition(".")[2] in _CACHES for name in decorators)
    function.decorator_list = [ast.Name(_CACHED, ast.Load())] if is_cached else []
    return function


def _something(name: str) -> ast.stmt:
    return ast.Assign([ast.Name(name, ast.Store())], ast.Constant(None))
