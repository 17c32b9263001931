"""A dictionary of sets that many get without a copy of it: each set is copied when it is handed out.

A lent dictionary is a ``dict`` whose C level is filled with the sets of the original, which are shared. So whoever
reads it past its methods, as ``==``, ``repr`` and serialisers written in C may, reads the right thing. Every method
that could give a set away, or change the dictionary, puts copies in the place of the shared sets first: of one set
when one is asked for, of all when all are asked for or a few were already. From then on it is an :class:`_Owned`, which
has the methods of ``dict`` itself, at their speed. What is copied or pickled becomes a ``dict`` proper.

What cannot be hidden is ``type(lent) is dict``. DIRAC's ``DEncode`` looks the type up in a table, where a nonempty lent
dictionary is refused as the sets in it are. A caller may put lists in the place of the sets and send that: so the type
of an owned one is equal to ``dict``, and is found there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

# So many are copied one by one. Whoever asks for more reads all, and for 120 all at once takes 10 us instead of 50.
_ONE_BY_ONE = 3

# Held while what is shared is replaced, so that two threads get the same copy, and no copy is put over what a caller
# has stored. Reentrant, for a destructor or a signal handler that comes to us in the middle of it.
lock = threading.RLock()
# A child that was forked in the middle of it does it again: what was handed out is noted.
os.register_at_fork(after_in_child=lock._at_fork_reinit)  # type: ignore[attr-defined]


class _EqualsDict(type):
    def __eq__(cls, other: object) -> bool:
        return other is dict or cls is other

    def __hash__(cls) -> int:
        return hash(dict)


class _Container(dict):
    __slots__ = ("_handed_out",)
    _handed_out: dict[Any, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        # For callers that make another of the same type, as dataclasses.asdict does.
        return dict(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (), None, None, iter(self.items())


class _Owned(_Container, metaclass=_EqualsDict):
    """What is in it is in nothing else of ours."""

    __slots__ = ()


class _Lent(_Container):
    __slots__ = ()
    _copy: Callable[[Any], Any]

    def __iter__(self) -> Any:
        # The same as dict's, but that it is there makes dict(lent), {**lent} and update(lent) use our __getitem__.
        return dict.__iter__(self)

    def __getitem__(self, key: Any) -> Any:
        with lock:
            value = dict.__getitem__(self, key)
            handed_out = self._handed_out
            if key in handed_out or not isinstance(self, _Lent):
                return value
            value = handed_out[key] = self._copy(value)
            dict.__setitem__(self, key, value)
            if len(handed_out) == _ONE_BY_ONE:
                _own(self)
            return value

    def get(self, key: Any, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default


def _own(lent: Any) -> None:
    with lock:
        if isinstance(lent, _Lent):
            # All keys are there already, so nothing that iterates over it is disturbed.
            dict.update(lent, zip(dict.keys(lent), map(lent._copy, dict.values(lent))))
            dict.update(lent, lent._handed_out)
            lent.__class__ = _Owned  # type: ignore[assignment]


def _owning_first(name: str) -> Callable[..., Any]:
    method = getattr(dict, name)

    def owning_first(self: Any, *args: Any, **kwargs: Any) -> Any:
        _own(self)
        return method(self, *args, **kwargs)

    owning_first.__name__ = name
    return owning_first


for _name in (
    *("__setitem__", "__delitem__", "__or__", "__ror__", "__ior__"),
    *("clear", "copy", "items", "pop", "popitem", "setdefault", "update", "values"),
):
    setattr(_Lent, _name, _owning_first(_name))


class _LentSets(_Lent):
    __slots__ = ()
    _copy = set


class _LentMappings(_Lent):
    __slots__ = ()

    @staticmethod
    def _copy(sets: dict[Any, Any]) -> Any:
        return _lend(_LentSets, sets) if sets else {}


def _lend(kind: Any, original: dict[Any, Any]) -> Any:
    lent = dict.__new__(kind)
    dict.update(lent, original)
    lent._handed_out = {}
    return lent


def lend(mappings: dict[Any, dict[Any, set[Any]]]) -> dict[Any, dict[Any, set[Any]]]:
    """Dictionaries of dictionaries of sets, not all empty, as somebody's own.

    Args:
        mappings: The originals, which must not change any more.
    """
    return _lend(_LentMappings, mappings)
