"""Tell whether the host's functions are those of a release of DIRAC.

Bytecode differs between minor versions of Python, so each has a module with the forms of every function that a patch
changes. One is imported when the first target is judged. If the code is not among them, its text may be in `sources`:
another Python, or `python -O`, compiles it to other code. `python3 -m lab.known --write` makes all from the released
wheels.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from types import CodeType, FunctionType
from typing import Any

# Whose decorators may be around a function of the host.
_HOSTS = ("DIRAC", "DIRACCommon", "diraccfg", "cachetools")
_CACHED = type(functools.lru_cache(lambda: None))
# Appended to the form of a function behind a decorator.
DECORATED = "+"
# Those flags that tell a generator, a coroutine and the kinds of arguments; not those of `from __future__`.
_FLAGS = 0x3FF
# More wrappers than anyone puts around one function.
MOST_WRAPPERS = 100


def form(code: CodeType) -> str:
    """Return a short text that differs between functions that run differently; the same in every process.

    Names of files, lines and docstrings make no difference.
    """
    return _digest(repr(_parts(code)))


def text_form(lines: Sequence[str], name: str) -> str:
    """Return the same of the text of a function, from its `def` on.

    Args:
        lines: Of its file, from its first decorator or its `def` on.
        name: As in its `def`.
    """
    import inspect  # which takes 10 ms

    head = (f"def {name}(", f"async def {name}(")
    own = itertools.dropwhile(lambda line: not line.lstrip().startswith(head), lines)
    return _digest("".join(inspect.getblock([*own])))


def _written_form(code: CodeType) -> str:
    """The form of the text that a code was compiled from, if its file is there."""
    import linecache

    try:
        return text_form(linecache.getlines(code.co_filename)[code.co_firstlineno - 1 :], code.co_name)
    except Exception:  # the file may be anything
        return ""


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:10]


def _parts(code: CodeType) -> tuple[Any, ...]:
    constants = code.co_consts
    if constants and isinstance(constants[0], str) and not code.co_name.startswith("<"):
        constants = constants[1:]  # the docstring, or the first constant of a class or, from 3.13 on, of a function
    names = code.co_names, code.co_varnames, code.co_cellvars, code.co_freevars
    arguments = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & _FLAGS
    table = getattr(code, "co_exceptiontable", b"")  # from 3.11 on
    return code.co_code, table, names, arguments, [_constant(constant) for constant in constants]


def _constant(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _parts(value)
    if isinstance(value, tuple):
        return tuple(map(_constant, value))
    if isinstance(value, frozenset):  # in another order in each process
        return "frozenset", sorted(map(repr, value))
    return value


def forms() -> Mapping[str, str]:
    """Return the known forms of functions by their path, separated by spaces; none without data for this Python."""
    return _data("py{}{}".format(*sys.version_info))


def texts() -> Mapping[str, str]:
    """Return the same of their texts."""
    return _data("sources")


@functools.cache
def _data(module: str) -> Mapping[str, str]:
    try:
        found: Mapping[str, str] = importlib.import_module(f"{__name__}.{module}").FORMS
    except Exception:  # a damaged installation is treated as a new Python
        return {}
    return found


def is_known(path: str, found: Any, is_ours: Callable[[Any], bool]) -> bool:
    """Return whether an object of the host is a function of a release of DIRAC, or no function that we have forms of.

    Args:
        path: Of the function in its module.
        found: What is there.
        is_ours: Whether an object is a wrapper of this plugin.
    """
    if found is None:  # a stand-in of preview has None for what its module imports
        return True
    return (
        _leads_to(forms().get(path, "").split(), form, found, is_ours)
        or path not in texts()
        or _leads_to(texts()[path].split(), _written_form, found, is_ours)
    )


def _leads_to(
    known: Sequence[str], form_of: Callable[[CodeType], str], found: Any, is_ours: Callable[[Any], bool]
) -> bool:
    """Whether an object is a function of one of these forms, or such a function behind decorators of the host."""
    mark = ""
    for _ in range(MOST_WRAPPERS):
        kind = type(found)  # not isinstance(): wrapt's wrappers claim to be functions
        if kind in (staticmethod, classmethod):
            found = found.__func__
        elif is_ours(found):
            found = getattr(found, "__wrapped__", None)
        else:
            # A decorator may return the function itself, but none may be where no release has one.
            own = form_of(found.__code__) if kind is FunctionType else ""
            if own + mark in known or own + DECORATED in known:
                return True
            found, mark = _decorated(found), DECORATED
        if found is None:
            break
    return False


def _decorated(found: Any) -> Any:
    """The function below a decorator of the host; None if it is something else."""
    kind = type(found)
    module = found.__globals__.get("__name__") if kind is FunctionType else kind.__module__
    if kind is not _CACHED and str(module).partition(".")[0] not in _HOSTS:
        return None
    cells = [cell.cell_contents for cell in getattr(found, "__closure__", None) or ()]
    functions = [content for content in cells if type(content) is FunctionType]
    return getattr(found, "__wrapped__", functions[0] if len(functions) == 1 else None)
