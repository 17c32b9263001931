"""AccountingDB.__addKeyValue and FileManagerBase._getStatusInt: an answer that failed is not kept.

Both look up the number that a database has for a text, and insert the text if it is new. DIRAC keeps the answers from
9.1.14 and 9.1.13 on, also those that failed. If a connection is lost in the middle, the text has no number until the
process is restarted: no accounting record with that value (a site, a user) is ever stored again, and files are
registered with status 0, because some callers do not look at the error. It also hands one dictionary to all callers,
and takes ``1``, ``1.0`` and ``True`` for one value, which the database has as three.

Here a number is kept and a failure is not. ``AccountingDB`` keeps the numbers below its cache anyway, by the text, as
stock does; of ``_getStatusInt`` we keep those that were found, per object. So an answer is wrong only if somebody gives
a status another number while a service runs, which the host's own cache does not see either. Nothing in DIRAC does.

No lock: each step is one operation on a dictionary. In a child of a fork the host's locks may stay locked for ever;
ours takes none. Earlier releases keep no such answer and are left alone.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from dirac_perfpatch.patching import Case, Database, Fitting, InTree, Meter, Patch, Target, Timed

_KEYS = "AccountingDB._AccountingDB__addKeyValue"
_STATUS = "FileManagerBase._getStatusInt"


class _InPlaceOf:
    """Stands in the class for a method whose answers the host keeps with ``cachetools``.

    What it gives is called like the method, and has the attributes of the host's for those who ask for its ``cache``.

    Later versions of cachetools leave what they have bound in the object, where it would be found before ours. It is
    not, because we also define ``__set__``. What anybody else puts into the object is found there, as in stock.
    """

    def __init__(self, name: str, hosts: Any, call: Callable[..., Any]) -> None:
        self._name = name
        self._hosts = hosts
        self._call = call
        self.__wrapped__ = hosts.__wrapped__

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        found = vars(instance).get(self._name)
        if found is not None and not hasattr(found, "cache"):
            return found
        return _Bound(self._call, self._hosts, instance)

    def __set__(self, instance: Any, value: Any) -> None:
        vars(instance)[self._name] = value

    def __delete__(self, instance: Any) -> None:
        try:
            del vars(instance)[self._name]
        except KeyError:
            raise AttributeError(self._name) from None


class _Bound:
    def __init__(self, call: Callable[..., Any], hosts: Any, instance: Any) -> None:
        self._call, self._hosts, self._instance = call, hosts, instance

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(self._instance, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hosts.__get__(self._instance, type(self._instance)), name)


# Given the function below the host's cache, makes ours, which also takes what is kept for the object.
Make = Callable[[Callable[..., Any]], Callable[..., Any]]


def _in_place_of(fitting: Fitting, path: str, make: Make) -> None:
    cached, hosts, guard = fitting.resolve(path), fitting.unbound(path), fitting.guard
    ours = make(cached.__wrapped__)
    kept: dict[int, tuple[weakref.ref[Any], dict[Any, Any]]] = {}  # by the id of each object that was asked

    def call(instance: Any, *args: Any, **kwargs: Any) -> Any:
        if guard.off:
            return hosts(instance, *args, **kwargs)
        number = id(instance)
        found = kept.get(number)
        if found is None:
            found = kept[number] = weakref.ref(instance, lambda _: kept.pop(number, None)), {}
        return ours(found[1], instance, *args, **kwargs)

    def empty() -> None:
        for reference, _ in list(kept.values()):
            instance = reference()
            if instance is not None:
                bound = cached.__get__(instance, type(instance))
                getattr(bound, "cache_clear", bound.cache.clear)()

    fitting.undoing.append(empty)
    fitting.replace(path, _InPlaceOf(path.rpartition(".")[2], cached, call))


def _put_on_keys(fitting: Fitting) -> None:
    def make(uncached: Callable[..., Any]) -> Callable[..., Any]:
        return lambda kept, *args, **kwargs: uncached(*args, **kwargs)

    _in_place_of(fitting, _KEYS, make)


def _put_on_statuses(fitting: Fitting) -> None:
    s_ok = fitting.resolve("S_OK")

    def make(uncached: Callable[..., Any]) -> Callable[..., Any]:
        def getStatusInt(kept: dict[Any, Any], self: Any, status: Any, *args: Any, **kwargs: Any) -> Any:
            key = type(status), status
            if key in kept:
                return s_ok(kept[key])
            answer = uncached(self, status, *args, **kwargs)
            if answer["OK"]:
                kept[key] = answer["Value"]
            return answer

        return getStatusInt

    _in_place_of(fitting, _STATUS, make)


def _target(module: str, path: str, replace: Callable[[Fitting], None], *names: str) -> Target:
    def look(fitting: Fitting) -> None:
        if not hasattr(fitting.resolve(path), "__wrapped__"):
            fitting.expect(path, *names)
            raise InTree("this release of the host keeps no answer that failed")
        raise InTree("the host keeps the answers", "also keeps answers that failed", replace)

    return Target((module,), path, look, replace)


class _Database:
    """Answers 7, whatever it is asked. Not a real database, which others use: both functions insert what they do not
    find."""

    def _query(self, *args: Any, **kwargs: Any) -> Any:
        return {"OK": True, "Value": ((7,),)}


def _files() -> Any:
    from DIRAC.DataManagementSystem.DB.FileCatalogComponents.FileManager.FileManagerBase import FileManagerBase

    return FileManagerBase(_Database())


def _ask(database: Database | None) -> Any:
    files = _files()
    return [files._getStatusInt("AprioriGood", connection=True) for _ in range(2)]


def _status(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    files = _files()
    yield lambda number: timed(functools.partial(files._getStatusInt, "AprioriGood", connection=True), number)


PATCH = Patch(
    name="failed_lookups",
    targets=(
        _target("DIRAC.AccountingSystem.DB.AccountingDB", _KEYS, _put_on_keys, "insertFields"),
        _target(
            "DIRAC.DataManagementSystem.DB.FileCatalogComponents.FileManager.FileManagerBase",
            _STATUS,
            _put_on_statuses,
            "_update",
        ),
    ),
    ask=_ask,
    cases=(Case('FileManagerBase._getStatusInt("AprioriGood")', _status),),
)
