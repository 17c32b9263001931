"""DJSONDecoder and DJSONEncoder: dates in plain form are read and written without strptime and strftime.

JEncode, which HTTPS services use, and DISET if DIRAC_USE_JSON_ENCODE says so, sends dates as texts. To decode 1,000
rows with two dates takes 17 ms, nearly all of it in ``strptime``, and to encode them 10 ms. With ``fromisoformat`` and
``isoformat`` these take 3 and 5 ms.

The same answer: only a text of exactly the form that the host's encoder writes, in ASCII digits, is read our way. Of
such texts, ``strptime`` and ``fromisoformat`` accept the same ones, with the same result. All others go to the host's
method: one-digit numbers, digits of other scripts, white space, 24:00, leap seconds, dates that do not exist, and other
types. We write only exact ``datetime`` and ``date`` objects without a time zone, from the year 1000 on: what
``strftime`` writes before it depends on the platform.

Nothing is kept, and nothing is locked; ``strptime`` has a lock, which a fork in another thread may leave held for ever
in the child. The dictionary of a date, which ``json`` made for this call, keeps its ``__dCls``; the host's method takes
it out. Not seen: other formats that are assigned to the module while a process runs.

The seam is the methods of the two classes, which ``json`` looks up for each text.
"""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

from dirac_perfpatch.patching import Case, Database, Fitting, Meter, Patch, Target, Timed, UnknownHost, same_answer

_MODULE = "DIRAC.Core.Utilities.JEncode"
_DECODE, _ENCODE = "DJSONDecoder.dict_to_object", "DJSONEncoder.default"
_CLASS = "__dCls"
_FORMATS = {"DATETIME_DEFAULT_FORMAT": "%Y-%m-%d %H:%M:%S", "DATETIME_DEFAULT_DATE_FORMAT": "%Y-%m-%d"}
# fromisoformat() takes more forms, which differ between releases of Python.
_DATETIME = re.compile(r"\d{4}-\d\d-\d\d (?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d", re.ASCII).fullmatch
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII).fullmatch
# From here on, strftime() writes four digits everywhere.
_FIRST_YEAR = 1000


def _function(found: Any) -> Any:
    """The host's function, below a static method and our wrapper."""
    found = getattr(found, "__func__", found)
    return getattr(found, "__wrapped__", found)


def _look(path: str, *names: str) -> Callable[[Fitting], None]:
    def look(fitting: Fitting) -> None:
        for constant in _FORMATS:
            fitting.resolve(constant)
        code = getattr(_function(fitting.resolve(path)), "__code__", None)
        if not set(getattr(code, "co_names", ())).issuperset(names):
            raise UnknownHost(f"{path} is not the function that this patch knows")

    return look


def _check_formats(fitting: Fitting) -> None:
    for name, value in _FORMATS.items():
        if fitting.resolve(name) != value:
            raise UnknownHost(f"{name} is not {value}")


def _put_on_decode(fitting: Fitting) -> None:
    _check_formats(fitting)
    guard, host_datetime = fitting.guard, fitting.resolve("datetime")
    found = fitting.resolve(_DECODE)
    if not isinstance(found, staticmethod):
        raise UnknownHost(f"{_DECODE} is not a static method")
    stock = found.__func__

    def dict_to_object(dataDict: Any) -> Any:
        if guard.off or type(dataDict) is not dict:
            return stock(dataDict)
        if _CLASS not in dataDict:
            return dataDict
        try:
            name, text = dataDict[_CLASS], dataDict.get("obj")
            if type(name) is str and type(text) is str:
                if name == "dt" and _DATETIME(text):
                    return host_datetime.datetime.fromisoformat(text)
                if name == "date" and _DATE(text):
                    return host_datetime.datetime.fromisoformat(text).date()
        except ValueError:  # no such date: an error of the host's
            pass
        except Exception as error:
            guard.failed(error)
        return stock(dataDict)

    called = fitting.compared(_DECODE, dict_to_object, stock, _check_decoded)
    fitting.replace(_DECODE, staticmethod(functools.update_wrapper(called, stock)))


def _check_decoded(answer: Any, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Of dates only: the host's method has taken the class out of the other dictionaries."""
    data = (*args, *kwargs.values())[0]
    return "" if _CLASS not in data or original(dict(data)) == answer else "a different answer"


def _put_on_encode(fitting: Fitting) -> None:
    _check_formats(fitting)
    guard, stock = fitting.guard, fitting.unbound(_ENCODE)
    date_and_time, date = datetime.datetime, datetime.date

    def default(self: Any, obj: Any) -> Any:
        if guard.off:
            return stock(self, obj)
        kind = type(obj)
        if kind is date_and_time and obj.tzinfo is None and obj.year >= _FIRST_YEAR:
            return {_CLASS: "dt", "obj": obj.isoformat(" ", "seconds")}
        if kind is date and obj.year >= _FIRST_YEAR:
            return {_CLASS: "date", "obj": obj.isoformat()}
        return stock(self, obj)

    fitting.stand_in(_ENCODE, default, same_answer)


def _rows(number: int) -> list[Any]:
    """Rows as of a table of jobs."""
    moment = datetime.datetime(2024, 2, 28, 23, 59, 58)
    steps = (moment + datetime.timedelta(seconds=61 * row) for row in range(number))
    return [[row, "LCG.Site.org", "Done", when, when.date()] for row, when in enumerate(steps)]


def _ask(database: Database | None) -> Any:
    from DIRAC.Core.Utilities import JEncode

    early, late = datetime.datetime(1, 2, 3, 4, 5, 6), datetime.datetime.max
    utc = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
    text = JEncode.encode([_rows(10), late, late.date(), utc, b"bytes", {"a": (1, None)}])
    answers: list[Any] = [text, JEncode.decode(text), JEncode.encode([early, early.date()])]
    for name in ("dt", "date"):
        for odd in (
            "2020-1-2 3:4:5",
            "2020-02-30 00:00:00",
            "2020-01-01 24:00:00",
            "2020-1-2",
            "",
            " 2020-01-01",
            None,
        ):
            try:
                answers.append(JEncode.DJSONDecoder.dict_to_object({_CLASS: name, "obj": odd}))
            except Exception as error:
                answers.append(f"{type(error).__name__}: {error}")
    return answers


def _decode_case(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    from DIRAC.Core.Utilities import JEncode

    text = JEncode.encode(_rows(size))
    yield lambda number: timed(lambda: JEncode.decode(text), number)


def _encode_case(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    from DIRAC.Core.Utilities import JEncode

    rows = _rows(size)
    yield lambda number: timed(lambda: JEncode.encode(rows), number)


PATCH = Patch(
    name="json_dates",
    targets=(
        Target((_MODULE,), _DECODE, _look(_DECODE, "pop", "datetime", "strptime", *_FORMATS), _put_on_decode),
        Target((_MODULE,), _ENCODE, _look(_ENCODE, "datetime", "strftime", *_FORMATS), _put_on_encode),
    ),
    ask=_ask,
    cases=(
        Case("JEncode.decode, two dates each", _decode_case, (1000,), (1000,), "rows"),
        Case("JEncode.encode, two dates each", _encode_case, (1000,), (1000,), "rows"),
    ),
)
