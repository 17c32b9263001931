"""Forks: what a child answers; and of a process whose other threads look for extensions, where stock may hang."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import importlib_metadata


def fork() -> int:
    """As os.fork(), while no other thread holds a lock of importlib_metadata, for which a child would wait for ever.

    Before Python 3.12 a cached property has a lock: https://docs.python.org/3/library/functools.html
    """
    with ExitStack() as locked:
        for lock in _LOCKS:
            locked.enter_context(lock)
        return os.fork()


def in_a_child(question: Callable[[], Any]) -> Any:
    """What a child of a fork answers, by way of JSON."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            with open(writing, "w") as pipe:
                json.dump(question(), pipe)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading) as pipe:
        text = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return json.loads(text)


def _locks() -> list[Any]:
    # A list, because looking at a lazy module imports more into it.
    classes = [one for one in list(vars(importlib_metadata).values()) if isinstance(one, type)]
    values = [value for one in classes for value in vars(one).values()]
    return [value.lock for value in values if isinstance(value, functools.cached_property) and hasattr(value, "lock")]


_LOCKS = _locks()
