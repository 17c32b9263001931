"""Forks of a process whose other threads look for extensions, without the hang that stock has there."""

from __future__ import annotations

import functools
import os
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


def _locks() -> list[Any]:
    # A list, because looking at a lazy module imports more into it.
    classes = [one for one in list(vars(importlib_metadata).values()) if isinstance(one, type)]
    values = [value for one in classes for value in vars(one).values()]
    return [value.lock for value in values if isinstance(value, functools.cached_property) and hasattr(value, "lock")]


_LOCKS = _locks()
