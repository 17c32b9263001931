"""Dates are decoded and encoded as by the host, from every text and of every kind."""

from __future__ import annotations

import _strptime
import datetime
import json
import locale
import os
from collections.abc import Callable
from typing import Any

import pytest
from conftest import stock
from DIRAC.Core.Utilities import JEncode, MixedEncode
from hypothesis import given, settings
from hypothesis import strategies as st

from dirac_perfpatch import loading

DIGITS = st.sampled_from([*"0123456789", "٣", "３", "²", "+", "-", " ", "_", "x", ""])
PARTS = {
    "year": st.one_of(st.integers(0, 10000).map("{:04}".format), st.text("0123456789 -+", max_size=5)),
    "month": st.integers(0, 13).map("{:02}".format),
    "day": st.integers(0, 32).map("{:02}".format),
    "hour": st.integers(0, 25).map("{:02}".format),
    "minute": st.integers(0, 61).map("{:02}".format),
    "second": st.integers(0, 62).map("{:02}".format),
}
EXACT = {
    "dt": st.builds("{year}-{month}-{day} {hour}:{minute}:{second}".format, **PARTS),
    "date": st.builds("{year}-{month}-{day}".format, **PARTS),
}


@st.composite
def texts(draw: Any, name: str) -> str:
    """A date, with up to two pieces of it exchanged for something else."""
    found: str = draw(EXACT[name])
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(found)))
        middle = draw(st.one_of(DIGITS, st.sampled_from(["T", "\n", "\t", "  ", "Z", "+00:00", ".5", "W", ":"])))
        found = found[:at] + middle + found[at + draw(st.integers(0, 1)) :]
    return found


def outcome(call: Callable[..., Any], *args: Any) -> Any:
    try:
        found = call(*args)
    except Exception as error:
        return type(error), str(error)
    return type(found), found, getattr(found, "fold", None), getattr(found, "tzinfo", None)


def decoded(data: dict[str, Any]) -> Any:
    """What becomes of a dictionary, which is what the host's own method makes of it."""
    ours = outcome(JEncode.DJSONDecoder.dict_to_object, dict(data))
    assert ours == outcome(JEncode.DJSONDecoder.dict_to_object.__wrapped__, dict(data))
    return ours


@pytest.mark.parametrize("name", ["dt", "date"])
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_every_text_is_decoded_as_by_the_host(name: str, data: st.DataObject) -> None:
    text = data.draw(st.one_of(texts("dt"), texts("date"), st.text(max_size=20)))
    decoded({"__dCls": name, "obj": text})
    assert loading.plugin.switches["json_dates"].guard.failures == 0


@pytest.mark.parametrize(
    "text",
    [
        "2024-02-29 23:59:59",
        "2023-02-29 00:00:00",
        "0001-01-01 00:00:00",
        "0000-01-01 00:00:00",
        "0999-12-31 23:59:59",
        "9999-12-31 23:59:59",
        "2024-01-01 24:00:00",
        "2024-01-01 23:59:60",
        "2024-01-01 23:59:61",
        "2024-01-01T00:00:00",
        "2024-01-01  00:00:00",
        "2024-01-01\t00:00:00",
        "2024-01-01\n00:00:00",
        "2024-01-01 00:00:00\n",
        " 2024-01-01 00:00:00",
        "2024-1-1 0:0:0",
        "2024-01- 1 00:00:00",
        "2024-W01-1 00:00:00",
        "20240101 000000",
        "2024-01-01 00:00",
        "2024-01-01 00:00:00.5",
        "2024-01-01 00:00:0Z",
        "2024-01-01 00:00+01",
        "٢٠٢٤-01-01 00:00:00",
        "２０２４-01-01 00:00:00",
        "+024-01-01 00:00:00",
        "2024-01-01",
        "2024-02-30",
        "2024-1-1",
        "2024-W01-1",
        "0000-00-00",
        "20240101",
        "",
        "None",
    ],
)
def test_a_text_that_looks_like_a_date(text: str) -> None:
    decoded({"__dCls": "dt", "obj": text})
    decoded({"__dCls": "date", "obj": text})


def test_what_is_no_date() -> None:
    class Text(str):
        pass

    for data in (
        {},
        {"obj": "2024-01-01"},
        {"__dCls": "dt"},
        {"__dCls": "dt", "obj": None},
        {"__dCls": "dt", "obj": 5},
        {"__dCls": "dt", "obj": ["2024-01-01 00:00:00"]},
        {"__dCls": "dt", "obj": Text("2024-01-01 00:00:00")},
        {"__dCls": Text("date"), "obj": "2024-01-01"},
        {"__dCls": "dt", "obj": "2024-01-01 00:00:00", "more": 1},
        {"__dCls": "b64", "obj": "YWJj"},
        {"__dCls": "", "a": 1},
        {"__dCls": None, "a": 1},
        {"__dCls": 0, "a": 1},
        {"__dCls": 5, "a": 1},
        {"__dCls": [], "a": 1},
        {"__dCls": datetime.datetime(2024, 1, 1), "a": 1},
        {"__dCls": "Nothing", "__dMod": "DIRAC.Core.Utilities.JEncode"},
        {"__dCls": "Nothing", "__dMod": "no.module"},
        {"__dCls": "Nothing"},
    ):
        decoded(data)  # type: ignore[arg-type]
    same = {"a": {"b": 1}}
    assert JEncode.DJSONDecoder.dict_to_object(same) is same
    for odd in (None, 5, [], "a"):
        decode = JEncode.DJSONDecoder.dict_to_object
        assert outcome(decode, odd) == outcome(decode.__wrapped__, odd)


class _Later(datetime.datetime):
    def strftime(self, form: str) -> str:
        return "mine"


class _Zone(datetime.tzinfo):
    def utcoffset(self, when: Any) -> Any:
        raise LookupError("no offset")

    def dst(self, when: Any) -> Any:
        return None


MOMENTS = st.datetimes(timezones=st.one_of(st.none(), st.just(datetime.timezone.utc), st.just(_Zone())))
ODD = [_Later(2024, 1, 1), datetime.time(1, 2), datetime.timedelta(1), b"x", {1}, object, 1j]


@settings(max_examples=200, deadline=None)
@given(moment=st.one_of(MOMENTS, st.dates(), st.sampled_from(ODD)), fold=st.sampled_from([0, 1]))
def test_everything_is_encoded_as_by_the_host(moment: Any, fold: int) -> None:
    if isinstance(moment, datetime.datetime):
        moment = moment.replace(fold=fold)
    encoder = JEncode.DJSONEncoder()
    ours = outcome(encoder.default, moment)
    assert ours == outcome(JEncode.DJSONEncoder.default.__wrapped__, encoder, moment)
    assert loading.plugin.switches["json_dates"].guard.failures == 0


@pytest.mark.parametrize("year", [1, 9, 99, 999, 1000, 1900, 9999])
def test_a_year_is_written_as_on_this_platform(year: int) -> None:
    for moment in (datetime.datetime(year, 1, 2, 3, 4, 5, 678), datetime.date(year, 1, 2)):
        text = JEncode.encode([moment])
        with stock("json_dates"):
            assert text == JEncode.encode([moment])
        with stock("json_dates"):
            before = outcome(JEncode.decode, text)
        assert outcome(JEncode.decode, text) == before


def test_what_is_sent_arrives() -> None:
    rows = [
        [row, datetime.datetime(2024, 1, 1 + row), datetime.date(2024, 1, 1 + row), b"x", (1,)] for row in range(20)
    ]
    text = JEncode.encode({"OK": True, "Value": rows})
    answer, length = JEncode.decode(text)
    assert answer["Value"][3] == [3, datetime.datetime(2024, 1, 4), datetime.date(2024, 1, 4), b"x", [1]]
    assert length == len(text)
    assert MixedEncode.decode(text)[0] == answer
    with stock("json_dates"):
        assert JEncode.encode({"OK": True, "Value": rows}) == text
        assert JEncode.decode(text) == (answer, length)


def test_subclasses_of_the_coders() -> None:
    class Encoder(JEncode.DJSONEncoder):  # type: ignore[misc]
        def default(self, obj: Any) -> Any:
            return "a set" if isinstance(obj, set) else super().default(obj)

    moment = datetime.datetime(2024, 1, 1)
    text = json.dumps([{1}, moment], cls=Encoder)
    assert json.loads(text, cls=JEncode.DJSONDecoder) == ["a set", moment]


def test_the_locale_does_not_matter() -> None:
    before = locale.setlocale(locale.LC_TIME)
    for name in ("C", "de_DE.UTF-8", "ar_SA.UTF-8", "ja_JP.UTF-8"):
        try:
            locale.setlocale(locale.LC_ALL, name)
        except locale.Error:
            continue
        try:
            decoded({"__dCls": "dt", "obj": "2024-01-02 03:04:05"})
        finally:
            locale.setlocale(locale.LC_ALL, before)


def test_a_child_of_a_fork_does_not_need_the_lock_of_strptime() -> None:
    """Which another thread of the parent may have held at the fork: such a child of the host's hangs."""
    text = JEncode.encode([datetime.datetime(2024, 1, 1), datetime.date(2024, 1, 1)])
    with _strptime._cache_lock:  # type: ignore[attr-defined]
        child = os.fork()
        if not child:
            os._exit(0 if JEncode.decode(text)[0][1] == datetime.date(2024, 1, 1) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_other_formats_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    switch = loading.plugin.switches["json_dates"]
    with stock("json_dates"), monkeypatch.context() as patch:
        patch.setattr(JEncode, "DATETIME_DEFAULT_FORMAT", "%Y-%m-%d %H:%M:%S.%f")
        switch.put_on()
        assert {target["state"] for target in switch.status()["targets"]} == {"failed"}
        assert JEncode.decode(JEncode.encode(datetime.datetime(2024, 1, 1, 0, 0, 0, 5)))[0].microsecond == 5
        switch.take_off()


def test_taken_off_the_hosts_own_methods_are_back() -> None:
    places = ((JEncode.DJSONDecoder, "dict_to_object"), (JEncode.DJSONEncoder, "default"))
    patched = [vars(owner)[name] for owner, name in places]
    with stock("json_dates"):
        own = [vars(owner)[name] for owner, name in places]
        assert type(own[0]) is type(patched[0]) is staticmethod
        assert own[0].__func__ is patched[0].__func__.__wrapped__
        assert own[1] is patched[1].__wrapped__
        assert own[1].__code__.co_filename == JEncode.__file__
