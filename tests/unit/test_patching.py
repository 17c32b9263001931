"""A patch is applied when its module is complete, taken off without a trace, and harmless to the host if it fails."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any

import pytest

from dirac_perfpatch import imports, notices
from dirac_perfpatch.comparison.recording import Recorder
from dirac_perfpatch.patching import (
    Fitting,
    Guard,
    InTree,
    NotHere,
    Patch,
    Switch,
    Target,
    UnknownHost,
    without_stacks,
)

Module = Callable[[str, str], ModuleType]
SECRET = "password=hunter2"


@pytest.fixture(autouse=True)
def _forget_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_said", {})


def _fine(fitting: Fitting) -> None:
    pass


def _fitting(host: ModuleType) -> Fitting:
    return Fitting(host, {}, Guard("a_patch", lambda reason: None))


def _wrapping(path: str, wrapper: Callable[..., Any]) -> Callable[[Fitting], None]:
    """A wrapper gets the fitting first, then wrapt's arguments."""
    return lambda fitting: fitting.wrap(path, functools.partial(wrapper, fitting))


def _louder(fitting: Fitting, wrapped: Any, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    answer = wrapped(*args, **kwargs)
    return answer if fitting.guard.off else answer.upper()


def _failing(fitting: Fitting, wrapped: Any, instance: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    if not fitting.guard.off:
        try:
            raise RuntimeError(SECRET)
        except RuntimeError as error:
            fitting.guard.failed(error)
    return wrapped(*args, **kwargs)


def _patch(*targets: Target) -> Patch:
    return Patch("a_patch", targets, lambda database: None)


def _target(
    put_on: Callable[[Fitting], None], look: Callable[[Fitting], None] = _fine, modules: tuple[str, ...] = ("host",)
) -> Target:
    return Target(modules, "Pool.get", look, put_on)


def _switch(put_on: Callable[[Fitting], None], look: Callable[[Fitting], None] = _fine, **options: Any) -> Switch:
    return Switch(_patch(_target(put_on, look)), options)


HOST = """
class Pool:
    def __init__(self):
        self.calls = 0

    def get(self, name="none", *, end="."):
        self.calls += 1
        return name + end

    @classmethod
    def make(cls, name):
        return cls.__name__ + name

    @staticmethod
    def join(first, second):
        return first + second


class Small(Pool):
    pass


def function():
    return "stock"
"""


def _states(switch: Switch) -> list[Any]:
    status = switch.status()
    return [status["state"], *(target["state"] for target in status["targets"])]


# Applied and taken off


def test_armed_applied_and_off_again(modules: Any) -> None:
    modules("host", HOST)
    switch = _switch(_wrapping("Pool.get", _louder))
    assert _states(switch) == ["off", "off"]
    switch.put_on()
    assert _states(switch) == ["armed", "armed"]
    assert switch.status()["reason"] == "waits for host"
    host = importlib.import_module("host")
    original = host.Pool.get.__wrapped__
    assert switch.status() == {
        "name": "a_patch",
        "state": "applied",
        "reason": "",
        "targets": [{"module": "host", "attribute": "Pool.get", "state": "applied", "reason": ""}],
        "failures": 0,
        "mode": "on",
    }
    pool, bound = host.Pool(), host.Pool().get
    assert (pool.get("a", end="!"), host.Small().get(), bound("b")) == ("A!", "NONE.", "B.")
    switch.take_off()
    assert _states(switch) == ["off", "off"]
    assert vars(host.Pool)["get"] is original
    assert type(original) is FunctionType
    assert (pool.get("a", end="!"), host.Small().get(), bound("b")) == ("a!", "none.", "b.")


def test_a_module_that_another_thread_executes_by_hand_is_patched_when_it_is_complete(
    modules: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in sys.modules before it is executed; a target that is found incomplete is tried again."""
    path = modules("host", "import sys\nsys.in_the_middle()\n" + HOST)
    arrived, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(sys, "in_the_middle", lambda: (arrived.set(), go_on.wait(10)), raising=False)
    spec = importlib.util.spec_from_file_location("host", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "host", module)
    thread = threading.Thread(target=spec.loader.exec_module, args=(module,))
    thread.start()
    assert arrived.wait(10)
    switch = _switch(lambda fitting: fitting.wrap("Pool.get", functools.partial(_louder, fitting)))
    switch.put_on()
    assert switch.status()["state"] == "failed"
    go_on.set()
    thread.join(10)
    assert switch.status()["state"] == "applied"
    switch.take_off()


def test_taken_off_before_its_module_came(modules: Any) -> None:
    modules("host", HOST)
    switch = _switch(_wrapping("Pool.get", _louder))
    switch.put_on()
    switch.take_off()
    assert imports._waiting == {}
    assert importlib.import_module("host").Pool().get("a") == "a."
    assert _states(switch) == ["off", "off"]


def test_taken_off_while_its_callback_is_being_called(module: Module) -> None:
    """Another thread has already fetched the callback, and calls it."""
    switch = _switch(_wrapping("Pool.get", _louder))
    switch.put_on()
    [(_, callback)] = imports._waiting
    switch.take_off()
    host = module("host", HOST)
    callback(host)
    assert host.Pool().get("a") == "a."
    assert type(vars(host.Pool)["get"]) is FunctionType
    assert _states(switch) == ["off", "off"]


def test_on_and_off_many_times(module: Module) -> None:
    host = module("host", HOST)
    original = vars(host.Pool)["get"]
    switch = _switch(_wrapping("Pool.get", _louder))
    for _ in range(3):
        switch.put_on()
        switch.put_on()
        assert host.Pool().get("a") == "A."
        assert vars(host.Pool)["get"].__wrapped__ is original  # once, not twice
        switch.take_off()
        switch.take_off()
        assert vars(host.Pool)["get"] is original


@pytest.mark.parametrize(
    ("path", "call"),
    [
        ("Pool.get", lambda host: host.Pool().get("a")),
        ("Pool.make", lambda host: host.Small.make("a")),
        ("Pool.make", lambda host: host.Pool().make("a")),
        ("Pool.join", lambda host: host.Pool.join("a", second="b")),
        ("Pool.join", lambda host: host.Small().join("a", "b")),
    ],
)
def test_every_kind_of_method(module: Module, path: str, call: Callable[[ModuleType], str]) -> None:
    host = module("host", HOST)
    stock, original = call(host), vars(host.Pool)[path.partition(".")[2]]
    switch = _switch(_wrapping(path, _louder))
    switch.put_on()
    assert call(host) == stock.upper()
    switch.take_off()
    assert call(host) == stock
    assert vars(host.Pool)[path.partition(".")[2]] is original


def test_a_wrapper_of_other_code_around_ours_stays(module: Module) -> None:
    host = module("host", HOST)
    switch = _switch(_wrapping("Pool.get", _louder))
    switch.put_on()
    ours = host.Pool.get
    host.Pool.get = theirs = lambda self, name: "theirs " + ours(self, name)
    assert host.Pool().get("a") == "theirs A."
    switch.take_off()
    assert host.Pool.get is theirs
    assert host.Pool().get("a") == "theirs a."


def test_a_wrapper_keeps_the_signature_and_source_of_the_original(module: Module) -> None:
    import inspect

    host = module("host", HOST)
    before = inspect.signature(host.Pool.get), host.Pool.get.__qualname__, inspect.getsource(host.Pool.get)
    _switch(_wrapping("Pool.get", _louder)).put_on()
    assert (inspect.signature(host.Pool.get), host.Pool.get.__qualname__, inspect.getsource(host.Pool.get)) == before
    assert inspect.isfunction(host.Pool.get.__wrapped__)


def test_replace_and_back(module: Module) -> None:
    host = module("host", HOST)
    original, ours, fitting = host.function, lambda: "ours", _fitting(host)
    fitting.replace("function", ours)
    assert host.function is ours
    fitting.undo()
    assert host.function is original
    fitting.replace("function", ours)
    host.function = theirs = lambda: "theirs"
    fitting.undo()
    fitting.undo()
    assert host.function is theirs


def test_several_changes_are_undone_in_reverse_order(module: Module) -> None:
    host = module("host", HOST)
    original, fitting = host.function, _fitting(host)
    fitting.replace("function", lambda: "one")
    fitting.replace("function", lambda: "two")
    fitting.undo()
    assert host.function is original


def test_a_target_that_moved_between_releases(modules: Any) -> None:
    """The second module only re-exports the class, so it is not the place to patch."""
    modules("new_place", HOST)
    modules("old_place", "from new_place import Pool")

    def look(fitting: Fitting) -> None:
        if fitting.resolve("Pool").__module__ != fitting.module.__name__:
            raise NotHere

    put_on = _wrapping("Pool.get", _louder)
    for first in ("new_place", "old_place"):
        switch = Switch(_patch(_target(put_on, look, ("new_place", "old_place"))), {})
        switch.put_on()
        assert _states(switch) == ["armed", "armed"]
        importlib.import_module(first)
        importlib.import_module("old_place")
        [target] = switch.status()["targets"]
        assert (target["module"], target["state"]) == ("new_place", "applied")
        assert sys.modules["old_place"].Pool().get("a") == "A."
        switch.take_off()
        assert sys.modules["old_place"].Pool().get("a") == "a."
        del sys.modules["new_place"], sys.modules["old_place"]


@pytest.mark.parametrize("places", [("not_in_this_release", "host"), ("host", "not_in_this_release")])
def test_once_a_target_is_found_its_other_places_are_not_waited_for(module: Module, places: tuple[str, str]) -> None:
    module("host", HOST)
    switch = Switch(_patch(_target(_wrapping("Pool.get", _louder), modules=places)), {})
    switch.put_on()
    assert _states(switch) == ["applied", "applied"]
    waiting = dict(imports._waiting)
    switch.take_off()
    assert waiting == {}


def test_two_targets_each_when_its_module_comes(modules: Any) -> None:
    modules("host", HOST)
    modules("host_two", HOST)
    put_on = _wrapping("Pool.get", _louder)
    switch = Switch(_patch(_target(put_on), _target(put_on, modules=("host_two",))), {})
    switch.put_on()
    importlib.import_module("host")
    assert _states(switch) == ["applied", "applied", "armed"]
    assert switch.status()["reason"] == "waits for host_two"
    importlib.import_module("host_two")
    assert _states(switch) == ["applied", "applied", "applied"]
    assert switch.status()["reason"] == ""
    switch.take_off()
    assert _states(switch) == ["off", "off", "off"]


def test_options_reach_the_patch(module: Module) -> None:
    host = module("host", HOST)

    def wrapper(fitting: Fitting, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        return wrapped(*args, **kwargs) * fitting.options["times"]

    _switch(_wrapping("Pool.get", wrapper), times=3).put_on()
    assert host.Pool().get("a") == "a.a.a."


# What is not patched


def _raising(error: Exception) -> Callable[..., Any]:
    def fail(fitting: Fitting) -> Any:
        raise error

    return fail


def test_a_host_that_has_the_change_itself(module: Module, capsys: pytest.CaptureFixture[str]) -> None:
    host = module("host", HOST)
    original = vars(host.Pool)["get"]
    switch = _switch(_wrapping("Pool.get", _louder), _raising(InTree("the host remembers it itself")))
    switch.put_on()
    assert _states(switch) == ["stood down", "stood down"]
    assert switch.status()["reason"] == "the host remembers it itself"
    assert vars(host.Pool)["get"] is original
    assert capsys.readouterr().err == ""
    switch.take_off()
    assert _states(switch) == ["off", "off"]
    switch.put_on()
    assert _states(switch) == ["stood down", "stood down"]
    assert vars(host.Pool)["get"] is original


def test_a_host_that_has_the_change_itself_but_wrong(module: Module) -> None:
    host = module("host", HOST)
    original = vars(host.Pool)["get"]
    wrong = InTree("the host remembers it itself", "answers wrongly", lambda fitting: fitting.wrap("Pool.get", _louder))
    switch = _switch(_raising(AssertionError()), _raising(wrong))
    for replaces in (True, False, True):
        switch.configure({}, replaces)
        switch.put_on()
        state = "applied" if replaces else "stood down"
        assert _states(switch) == [state, state]
        why = "replaces the host's own version, which answers wrongly"
        left = "the host remembers it itself; left to it, although its version answers wrongly"
        assert switch.status()["reason"] == (why if replaces else left)
        assert (vars(host.Pool)["get"] is original) is not replaces
        switch.take_off()
        assert vars(host.Pool)["get"] is original


@pytest.mark.parametrize("step", ["look", "put_on"])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnknownHost("get is not the function that is known"), "get is not the function that is known"),
        (KeyError("odd"), "KeyError: 'odd'"),
        (RecursionError("deep"), "RecursionError: deep"),
        (ImportError("no wrapt"), "ImportError: no wrapt"),
    ],
)
def test_a_target_that_cannot_be_patched_stays_stock_and_is_reported(
    module: Module, step: str, error: Exception, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    host = module("host", HOST)
    original = vars(host.Pool)["get"]
    put_on = _wrapping("Pool.get", _louder) if step == "look" else _raising(error)
    switch = _switch(put_on, _raising(error) if step == "look" else _fine)
    switch.put_on()
    assert _states(switch) == ["failed", "failed"]
    assert switch.status()["reason"] == reason
    assert vars(host.Pool)["get"] is original
    assert capsys.readouterr().err == (
        f"dirac-perfpatch: a_patch: cannot patch host.Pool.get: {reason}; DIRAC runs its own code there\n"
    )


def test_what_cannot_be_patched_is_named_by_the_module_that_was_found(
    module: Module, capsys: pytest.CaptureFixture[str]
) -> None:
    module("host", HOST)
    target = _target(_raising(UnknownHost("strange")), modules=("not_in_this_release", "host"))
    switch = Switch(_patch(target), {})
    switch.put_on()
    switch.take_off()
    assert "cannot patch host.Pool.get: strange" in capsys.readouterr().err


def test_a_patch_that_fails_half_way_undoes_its_changes(module: Module) -> None:
    host = module("host", HOST)
    # Identities, because a wrapper of wrapt is equal to what it wraps.
    seen = [{name: id(value) for name, value in vars(owner).items()} for owner in (host, host.Pool)]
    code = host.function.__code__

    def put_on(fitting: Fitting) -> None:
        fitting.wrap("Pool.get", functools.partial(_louder, fitting))
        fitting.wrap("Pool.make", functools.partial(_louder, fitting))
        fitting.take_over("function", _shouting)
        fitting.replace("Small", None)
        fitting.wrap("Pool.no_such_method", functools.partial(_louder, fitting))

    switch = _switch(put_on)
    switch.put_on()
    assert switch.status()["reason"] == "host has no Pool.no_such_method"
    assert [{name: id(value) for name, value in vars(owner).items()} for owner in (host, host.Pool)] == seen
    assert host.function.__code__ is code


def test_a_warning_is_written_once_and_stays_in_status(module: Module, capsys: pytest.CaptureFixture[str]) -> None:
    module("host", HOST)
    switch = _switch(lambda fitting: fitting.warn("weaker than in stock"))
    switch.put_on()
    assert _states(switch) == ["applied", "applied"]
    assert switch.status()["reason"] == "weaker than in stock"
    switch.take_off()
    assert switch.status()["reason"] == ""
    switch.put_on()
    assert switch.status()["reason"] == "weaker than in stock"
    assert capsys.readouterr().err == "dirac-perfpatch: weaker than in stock\n"


def test_the_host_s_import_goes_on_when_a_patch_fails(modules: Any, capsys: pytest.CaptureFixture[str]) -> None:
    modules("host", HOST)
    switch = _switch(_raising(ZeroDivisionError("oh")))
    switch.put_on()
    assert importlib.import_module("host").Pool().get("a") == "a."
    assert _states(switch) == ["failed", "failed"]
    assert capsys.readouterr().err.count("\n") == 1


def test_one_failed_target_does_not_hold_up_the_other(module: Module) -> None:
    host, two = module("host", HOST), module("host_two", HOST)
    put_on = _wrapping("Pool.get", _louder)
    switch = Switch(_patch(_target(_raising(KeyError(1))), _target(put_on, modules=("host_two",))), {})
    switch.put_on()
    assert _states(switch) == ["failed", "failed", "applied"]
    assert (host.Pool().get("a"), two.Pool().get("a")) == ("a.", "A.")


@pytest.mark.parametrize("path", ["Missing.get", "Pool.missing", "missing", "Small.get", "Pool.get.deeper"])
def test_a_path_that_the_host_does_not_have(module: Module, path: str) -> None:
    """An inherited method does not count: wrapped there, it would miss the callers of the parent class."""
    fitting = _fitting(module("host", HOST))
    with pytest.raises(UnknownHost, match=f"host has no {path}"):
        fitting.resolve(path)


def test_resolve_does_not_bind(module: Module) -> None:
    host = module("host", HOST)
    fitting = _fitting(host)
    assert isinstance(fitting.resolve("Pool.make"), classmethod)
    assert isinstance(fitting.resolve("Pool.join"), staticmethod)
    assert fitting.resolve("function") is host.function


# The guard


def _fail_once(guard: Guard, text: str = SECRET) -> None:
    try:
        raise ValueError(text)
    except ValueError as error:
        guard.failed(error)


def test_the_guard_counts_reports_once_and_trips_at_its_limit(capsys: pytest.CaptureFixture[str]) -> None:
    tripped: list[str] = []
    guard = Guard("a_patch", tripped.append)
    for count in range(1, Guard.LIMIT + 3):
        _fail_once(guard)
        assert guard.failures == count
        assert len(tripped) == (count >= Guard.LIMIT)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"dirac-perfpatch: a_patch: ValueError at {__file__}:")
    assert lines[0].endswith("; the host's own code answers this call")
    assert tripped[0].startswith(f"its own code failed {Guard.LIMIT} times, last with ValueError at {__file__}:")
    assert SECRET not in lines[0] + tripped[0]


def test_the_guard_reports_each_place_once(capsys: pytest.CaptureFixture[str]) -> None:
    guard = Guard("a_patch", lambda reason: None)
    _fail_once(guard)
    try:
        int("x")
    except ValueError as error:
        guard.failed(error)
    _fail_once(guard)
    guard.failed(ValueError("never raised"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[2] == "dirac-perfpatch: a_patch: ValueError at an unknown line; the host's own code answers this call"


def test_many_threads_that_fail_trip_it_once() -> None:
    tripped: list[str] = []
    guard = Guard("a_patch", tripped.append)
    barrier = threading.Barrier(16)

    def fail() -> None:
        barrier.wait()
        for _ in range(20):
            _fail_once(guard)

    threads = [threading.Thread(target=fail) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (guard.failures, len(tripped)) == (320, 1)


def test_a_tripped_patch_is_off_for_good(module: Module, capsys: pytest.CaptureFixture[str]) -> None:
    """Also for a bound method that was fetched before; and status says why."""
    host = module("host", HOST)
    original = vars(host.Pool)["get"]
    switch = _switch(_wrapping("Pool.get", _failing))
    switch.put_on()
    pool = host.Pool()
    early = pool.get
    for _ in range(Guard.LIMIT):
        assert switch.status()["state"] == "applied"
        assert pool.get("a") == "a."
    assert vars(host.Pool)["get"] is original
    assert early is not pool.get
    for _ in range(5):
        assert (early("b"), pool.get("c")) == ("b.", "c.")
    status = switch.status()
    assert (status["state"], status["failures"]) == ("tripped", Guard.LIMIT)
    assert status["reason"].startswith(
        f"its own code failed {Guard.LIMIT} times, last with RuntimeError at {__file__}:"
    )
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("dirac-perfpatch: a_patch: tripped: its own code failed")
    assert lines[1].endswith("; DIRAC runs its own code from now on in this process")
    assert SECRET not in str([lines, status])
    assert pool.calls == Guard.LIMIT + 10  # the host's function ran once for each call


def test_a_tripped_patch_is_not_put_on_again(module: Module) -> None:
    host = module("host", HOST)
    original = vars(host.Pool)["get"]
    switch = _switch(_wrapping("Pool.get", _louder))
    switch.put_on()
    switch.trip("for a reason")
    switch.put_on()
    assert switch.status()["state"] == "tripped"
    assert vars(host.Pool)["get"] is original
    assert host.Pool().get("a") == "a."


def test_a_patch_that_cannot_be_taken_off_passes_calls_through(module: Module) -> None:
    host = module("host", HOST)

    def fail() -> None:
        raise OSError(SECRET)

    def put_on(fitting: Fitting) -> None:
        fitting.wrap("Pool.get", functools.partial(_louder, fitting))
        fitting.undoing.append(fail)

    switch = _switch(put_on)
    switch.put_on()
    assert host.Pool().get("a") == "A."
    switch.trip("for a reason")
    assert host.Pool().get("a") == "a."
    status = switch.status()
    assert (status["state"], status["reason"]) == ("tripped", "for a reason; cannot be taken off: OSError")


# Functions that any code may hold


def _shouting(stock: Callable[..., str]) -> Callable[..., str]:
    return lambda *args, **kwargs: stock(*args, **kwargs).upper()


_HOLDERS = {
    "a module": "from host import function\ndef call(): return function()",
    "another name": "from host import function as other\ndef call(): return other()",
    "a static method": "from host import function\nclass Holder: held = staticmethod(function)\ncall = Holder().held",
    "a slot": "import host\nclass Holder: __slots__ = 'call'\nholder = Holder()\nholder.call = host.function\n"
    "call = lambda: holder.call()",
    "a closure": "import host\ndef make(held):\n    return lambda: held()\ncall = make(host.function)",
    "a container": "import host\nheld = [({1: host.function},)]\ndef call(): return held[0][0][1]()",
    "a default": "import host\ndef call(held=host.function): return held()",
    "a partial": "import functools, host\ncall = functools.partial(host.function)",
    "a decorator": "import functools, host\n@functools.wraps(host.function)\ndef call(): return call.__wrapped__()",
}


@pytest.mark.parametrize("source", _HOLDERS.values(), ids=_HOLDERS.keys())
def test_take_over_reaches_every_caller_and_leaves_the_function_as_it_was(module: Module, source: str) -> None:
    host, holder = module("host", HOST), module("holder", source)
    original, code = host.function, host.function.__code__
    for _ in range(3):
        fitting = _fitting(host)
        fitting.take_over("function", _shouting)
        assert (holder.call(), host.function()) == ("STOCK", "STOCK")
        late = module("user_late", "from host import function as mine")
        assert late.mine() == "STOCK"
        assert host.function is original
        fitting.undo()
        assert (holder.call(), late.mine()) == ("stock", "stock")
        assert original.__code__ is code


def test_take_over_reaches_below_our_own_stand_in_and_both_go_in_any_order(module: Module) -> None:
    host = module("host_below", "class Thing:\n    def speak(self):\n        return 'word'\n")
    original, code = host.Thing.speak, host.Thing.speak.__code__

    def record(path: str, ours: Any, original: Any, check: Any) -> Any:
        return Recorder("a_patch", path, ours, original).stand_in(None)  # in the stock arm

    for first in (0, 1):
        # That of a comparison: its code is in the package.
        stand_in, below = Fitting(host, {}, Guard("a_patch", lambda reason: None), record), _fitting(host)
        stand_in.stand_in("Thing.speak", lambda thing: "ours")
        below.take_over("Thing.speak", _shouting)
        assert host.Thing().speak() == "WORD"
        assert not below.replaced()
        for fitting in (stand_in, below) if first else (below, stand_in):
            fitting.undo()
        assert host.Thing.__dict__["speak"] is original
        assert original.__code__ is code


def test_take_over_passes_the_arguments_on(module: Module) -> None:
    host = module("host", "def function(a, b='b', *more, c='c', **named):\n    return a + b + c + repr((more, named))")
    calls: list[tuple[tuple[str, ...], dict[str, str]]] = [
        (("x",), {}),
        (("x", "y", "z"), {"c": "w", "d": "v"}),
        ((), {"a": "x", "b": "y"}),
    ]
    unpatched = [host.function(*args, **kwargs) for args, kwargs in calls]
    fitting = _fitting(host)
    fitting.take_over("function", _shouting)
    assert [host.function(*args, **kwargs) for args, kwargs in calls] == [text.upper() for text in unpatched]
    with pytest.raises(TypeError):
        host.function()


def test_take_over_leaves_code_that_other_code_assigned(module: Module) -> None:
    host = module("host", HOST)
    fitting = _fitting(host)
    fitting.take_over("function", _shouting)
    theirs = host.function.__code__ = (lambda: "theirs").__code__
    fitting.undo()
    assert host.function.__code__ is theirs


def test_a_closure_and_what_it_wraps_are_left_as_they_were(module: Module) -> None:
    source = (
        "import functools\ndef plain(): return 'stock'\ndef kept(wrapped):\n    known = []\n"
        "    @functools.wraps(wrapped)\n"
        "    def inner():\n        if not known: known.append(wrapped())\n        return known[0]\n    return inner\n"
        "function = kept(plain)"
    )
    host = module("host", source)
    held, code, wrapped = host.function, host.function.__code__, host.function.__wrapped__
    fitting = _fitting(host)
    for _ in range(2):
        fitting.take_over("function", _shouting)
        assert (held(), host.function is held, held.__wrapped__ is wrapped) == ("STOCK", True, True)
        fitting.undo()
        assert (held(), held.__code__ is code, held.__wrapped__ is wrapped) == ("stock", True, True)


def test_a_function_is_replaced_in_every_module(module: Module) -> None:
    source = "import functools\n@functools.cache\ndef function(): return 'stock'"
    host = module("host", source)
    before, original = module("before", "from host import function"), host.function
    sys.modules["odd"] = None  # type: ignore[assignment]
    try:
        fitting = _fitting(host)
        fitting.replace_everywhere("function", lambda: "ours")
        during = module("during", "from host import function")
        assert [one.function() for one in (host, before, during)] == ["ours"] * 3
        fitting.undo()
    finally:
        del sys.modules["odd"]
    assert all(one.function is original for one in (host, before, during))


@pytest.mark.parametrize(
    "source",
    [
        "function = dict",
        "class function: pass",
        "import functools\n@functools.lru_cache()\ndef function(): return 'stock'",
    ],
)
def test_take_over_refuses_what_is_not_a_plain_function(module: Module, source: str) -> None:
    host = module("host", source)
    original, code = host.function, getattr(host.function, "__code__", None)
    with pytest.raises(UnknownHost, match="^function is not a plain function$"):
        _fitting(host).take_over("function", _shouting)
    assert host.function is original
    assert getattr(original, "__code__", None) is code


def test_threads_that_call_while_a_function_is_taken_over_get_an_answer(module: Module) -> None:
    host = module("host", "def function():\n    return ''.join(map(str, 'stock'))")
    function = host.function
    stop, answers = threading.Event(), set()

    def call() -> None:
        while not stop.is_set():
            answers.add(function())

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(2000):
        fitting = _fitting(host)
        fitting.take_over("function", _shouting)
        function()
        fitting.undo()
    stop.set()
    for thread in threads:
        thread.join()
    assert answers <= {"stock", "STOCK"}
    assert function() == "stock"


# Odds and ends


def test_without_stacks_takes_out_the_call_stacks_only() -> None:
    error = {"OK": False, "Message": "m", "CallStack": ["a", "b"]}
    assert without_stacks([error, (error, {"deep": error}), "CallStack", 1]) == [
        {"OK": False, "Message": "m"},
        [{"OK": False, "Message": "m"}, {"deep": {"OK": False, "Message": "m"}}],
        "CallStack",
        1,
    ]
    assert error["CallStack"] == ["a", "b"]


def test_threads_that_switch_at_once_leave_the_original(module: Module) -> None:
    host = module("host", HOST)
    original = vars(host.Pool)["get"]
    switch = _switch(_wrapping("Pool.get", _louder))
    stop = threading.Event()
    wrong: list[str] = []

    def call() -> None:
        while not stop.is_set():
            answer = host.Pool().get("a")
            if answer not in ("a.", "A."):
                wrong.append(answer)

    def flip() -> None:
        for _ in range(100):
            switch.put_on()
            switch.take_off()

    callers = [threading.Thread(target=call) for _ in range(2)]
    flippers = [threading.Thread(target=flip) for _ in range(3)]
    for thread in callers + flippers:
        thread.start()
    for thread in flippers:
        thread.join()
    stop.set()
    for thread in callers:
        thread.join()
    switch.take_off()
    assert wrong == []
    assert vars(host.Pool)["get"] is original
