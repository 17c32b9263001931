"""Which code is known: by its form, which is the same in every process, and through the host's own decorators only."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import wrapt
from conftest import Child

from dirac_perfpatch import known, preview
from dirac_perfpatch.patches import CATALOGUE
from dirac_perfpatch.patching import Fitting, Patch, Switch, Target, UnknownHost

VERSIONS = ("39", "310", "311", "312", "313")
SOURCE = '''
def host(name, *, deep=False):
    """What it does."""
    def within(one):
        return one in {"a", "b", "c", "d"} or one < 2
    return [within(each) for each in name if each != "x"]
'''
UNKNOWN = "host_one.host is not the code of any DIRAC release known to this version of the plugin; `force: true`"


def _function(source: str = SOURCE, file: str = "<string>") -> Any:
    space: dict[str, Any] = {"__name__": "DIRAC.some.module"}
    exec(compile(source, file, "exec", dont_inherit=True), space)
    return space["host"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_forms_of_every_target_are_there(version: str) -> None:
    modules = [importlib.import_module(f"dirac_perfpatch.known.{name}") for name in (f"py{version}", "sources")]
    forms, texts = (module.FORMS for module in modules)
    paths = {path for patch in CATALOGUE for target in patch.targets for path in target.functions()}
    assert paths == forms.keys() == texts.keys()
    assert all([*forms.values(), *texts.values()])
    assert sum(1 for patch in CATALOGUE for target in patch.targets if target.functions()) > 35


def test_a_form_is_the_same_in_every_process_and_wherever_the_file_is(child: Child) -> None:
    code = f"from dirac_perfpatch.known import form\nexec({SOURCE!r})\nprint(form(host.__code__))"
    found = {child(code, PYTHONHASHSEED=str(seed)).stdout.strip() for seed in range(3)}
    moved = "\n\n# a comment" + SOURCE.replace("What it does", "Something else")
    assert found == {known.form(_function().__code__), known.form(_function(moved, "/elsewhere.py").__code__)}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"x"', '"y"'),
        ('"c", ', ""),
        ("one < 2", "one <= 2"),
        ("one < 2", "one < 2.0"),
        ("*, deep", "deep"),
        ("deep=", "far="),
        ("    return [", "    print(name)\n    return ["),
        ("def within(one):", "def within(one, *more):"),
    ],
)
def test_another_form_is_what_runs_differently(before: str, after: str) -> None:
    assert SOURCE.count(before) == 1
    assert known.form(_function(SOURCE.replace(before, after)).__code__) != known.form(_function().__code__)


@pytest.fixture
def forms(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Say what the known form of the function is, with its mark."""
    form = known.form(_function().__code__)
    monkeypatch.setattr(known, "texts", lambda: {"host": "0123456789"})
    return lambda mark: monkeypatch.setattr(known, "forms", lambda: {"host": f"0123456789 {form}{mark}"})


@pytest.fixture
def other_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a Python that compiles all functions to code that is not in the data."""
    text = known.text_form(SOURCE.splitlines(keepends=True), "host")
    monkeypatch.setattr(known, "forms", lambda: {"host": "0123456789"})
    monkeypatch.setattr(known, "texts", lambda: {"host": f"0123456789 {text}"})


def _without_a_trace(function: Any) -> Any:
    return lambda name: function(name)[:]


def _of(package: str, decorate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A decorator that is defined in a module of a package."""

    def made(function: Any) -> Any:
        found = decorate(function)
        other = type(found)(found.__code__, {"__name__": f"{package}.utilities"}, "made", None, found.__closure__)
        vars(other).update(vars(found))
        return other

    return made


def _wraps(function: Any) -> Any:
    return functools.wraps(function)(lambda name: function(name)[:])


def _wrapt(function: Any) -> Any:
    return wrapt.FunctionWrapper(function, lambda wrapped, instance, args, kwargs: wrapped(*args, **kwargs))


DECORATORS: list[tuple[Callable[[Any], Any], bool]] = [
    (functools.cache, True),
    (_of("DIRAC", _wraps), True),
    (_of("diraccfg", _without_a_trace), True),
    (lambda function: function, True),
    (staticmethod, True),
    (_of("OurDIRAC", _wraps), False),
    (_of("DIRACOther", _without_a_trace), False),
    (_wrapt, False),
    (wrapt.ObjectProxy, False),
    (functools.partial, False),
    (lambda function: functools.cache(_wrapt(function)), False),
    (lambda function: _function(SOURCE.replace('"x"', '"y"')), False),
    (lambda function: None.__init__, False),
]


@pytest.mark.parametrize(("decorate", "answer"), DECORATORS)
def test_only_decorators_of_the_host_may_be_around_it(
    decorate: Callable[[Any], Any], answer: bool, forms: Callable[[str], None]
) -> None:
    forms(known.DECORATED)
    assert known.is_known("host", decorate(_function()), lambda found: False) is answer


def test_a_decorator_where_no_release_has_one_is_unknown(forms: Callable[[str], None]) -> None:
    forms("")
    assert known.is_known("host", _function(), lambda found: False)
    assert not known.is_known("host", functools.cache(_function()), lambda found: False)


def _patch(look: Callable[[Fitting], None] = lambda fitting: None) -> Patch:
    target = Target(("host_one",), "host", look, lambda fitting: fitting.replace("host", len))
    return Patch("a_patch", (target,), lambda database: None)


def _state(patch: Patch, forced: bool = False) -> tuple[str, str]:
    switch = Switch(patch, {})
    switch.configure({}, forced=forced)
    switch.put_on()
    entry = switch.status()
    switch.take_off()
    return entry["state"], entry["reason"]


def _refuses(fitting: Fitting) -> None:
    raise UnknownHost("another function")


def test_unknown_code_stays_unless_forced(
    module: Callable[[str, str], ModuleType], forms: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    forms("")
    host = module("host_one", SOURCE)
    assert _state(_patch()) == ("applied", "")
    host.host = edited = _function(SOURCE.replace('"x"', '"y"'))
    state, reason = _state(_patch())
    assert (state, reason[: len(UNKNOWN)]) == ("stood down", UNKNOWN)
    assert host.host is edited
    assert _state(_patch(_refuses))[0] == "stood down"
    assert capsys.readouterr().err == ""
    assert _state(_patch(), forced=True) == ("applied", "")
    assert _state(_patch(_refuses), forced=True) == ("failed", "another function")


def test_what_is_foreseen_is_what_comes(
    module: Callable[[str, str], ModuleType], forms: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    forms("")
    preview._stand_in.cache_clear()
    source = "from os import path\n" + SOURCE.replace("return one in", "return path.isabs(one) or one in")
    host = module("host_one", source)
    (target,) = _patch().targets
    assert preview.foresee(target) == _state(_patch())
    assert preview.foresee(target)[0] == "stood down"
    assert preview.foresee(target, forced=True)[0] == "armed"
    monkeypatch.setattr(known, "forms", lambda: {"host": known.form(host.host.__code__)})
    # With the import undone in the stand-in, calls of what is imported must still be compiled as in the module.
    assert preview.foresee(target) == ("armed", "will be applied when host_one is imported")
    preview._stand_in.cache_clear()


def test_what_is_unknown_is_looked_at_again_when_the_patch_is_put_on(
    module: Callable[[str, str], ModuleType], forms: Callable[[str], None]
) -> None:
    forms("")
    host = module("host_one", SOURCE)
    stock, switch = host.host, Switch(_patch(), {})
    host.host = _wrapt(stock)
    switch.put_on()
    assert switch.status()["state"] == "stood down"
    host.host = stock
    switch.put_on()
    assert switch.status()["state"] == "applied"
    switch.take_off()
    assert host.host is stock


@pytest.mark.usefixtures("other_python")
@pytest.mark.parametrize(
    ("source", "state"),
    [
        (SOURCE, "applied"),
        ("import os\n\n" + SOURCE + "\n# a comment\ndef other(): pass\n", "applied"),
        (SOURCE.replace('"x"', '"y"'), "stood down"),
        ("import functools\n@functools.cache" + SOURCE, "stood down"),
    ],
)
def test_code_that_is_unknown_is_known_by_its_text(
    source: str, state: str, module: Callable[[str, str], ModuleType]
) -> None:
    preview._stand_in.cache_clear()
    module("host_one", source)
    (target,) = _patch().targets
    assert _state(_patch())[0] == state
    assert preview.foresee(target)[0] == {"applied": "armed"}.get(state, state)
    preview._stand_in.cache_clear()


@pytest.mark.usefixtures("other_python")
def test_a_function_whose_text_is_not_there_is_unknown() -> None:
    assert not known.is_known("host", _function(file="/no/such.py"), lambda found: False)
    assert not known.is_known("host", _function(file=sys.executable), lambda found: False)


@pytest.mark.usefixtures("other_python")
def test_another_function_above_the_known_text_is_unknown(module: Callable[[str, str], ModuleType]) -> None:
    module("host_one", "host = lambda name: 1\ndef make():" + SOURCE.replace("\n", "\n    "))
    assert _state(_patch())[0] == "stood down"


def test_without_any_data_the_check_of_the_patch_decides(
    module: Callable[[str, str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("forms", "texts"):
        monkeypatch.setattr(known, name, dict)
    module("host_one", SOURCE)
    assert _state(_patch()) == ("applied", "")
    assert _state(_patch(_refuses)) == ("failed", "another function")


def test_one_unknown_target_is_told_beside_those_that_are_applied(
    module: Callable[[str, str], ModuleType], forms: Callable[[str], None]
) -> None:
    forms("")
    module("host_one", SOURCE.replace('"x"', '"y"') + "def other(): pass\n")
    other = Target(("host_one",), "other", lambda fitting: None, lambda fitting: fitting.replace("other", len))
    state, reason = _state(Patch("a_patch", (other, *_patch().targets), lambda database: None))
    assert state == "applied"
    assert reason.startswith(UNKNOWN)
