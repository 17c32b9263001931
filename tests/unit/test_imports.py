"""Each callback is called once, when its module is complete, and the import system stays as it was."""

from __future__ import annotations

import importlib
import importlib.resources
import importlib.util
import inspect
import pickle
import sys
import threading
import time
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dirac_perfpatch import imports
from dirac_perfpatch.imports import forget, when_complete

Write = Callable[[str, str], Path]


class _Told:
    """A callback that notes its modules, and whether the last line of each had been executed."""

    def __init__(self) -> None:
        self.modules: list[Any] = []
        self.complete: list[bool] = []

    def __call__(self, module: ModuleType) -> None:
        self.modules.append(module)
        self.complete.append(hasattr(module, "LAST"))


@pytest.fixture
def told() -> _Told:
    return _Told()


def _finders() -> list[Any]:
    return [finder for finder in sys.meta_path if finder is imports._finder]


# When the callback is called


def test_a_module_that_is_imported_later(modules: Write, told: _Told) -> None:
    modules("later", "LAST = 1")
    when_complete("later", told)
    assert told.modules == []
    assert "later" not in sys.modules
    module = importlib.import_module("later")
    assert (told.modules, told.complete) == ([module], [True])


def test_a_module_that_was_imported_already(modules: Write, told: _Told) -> None:
    modules("already", "LAST = 1")
    module = importlib.import_module("already")
    when_complete("already", told)
    assert told.modules == [module]


def test_a_built_in_module(told: _Told) -> None:
    when_complete("sys", told)
    assert told.modules == [sys]


def test_the_callback_comes_before_the_import_statement_returns(modules: Write) -> None:
    """So no importer can bind a name that is about to be replaced."""
    modules("bound", "def answer(): return 'stock'")
    modules("binder", "from bound import answer")
    when_complete("bound", lambda module: setattr(module, "answer", lambda: "ours"))
    assert importlib.import_module("binder").answer() == "ours"


def test_a_module_that_is_half_imported(modules: Write, told: _Told) -> None:
    """As when the host loads us: one of its modules imports another one, which makes us wait for the first."""
    modules("half", "import half_helper\nBETWEEN = list(half_helper.told.modules)\nclass Late: pass\nLAST = 1")
    modules("half_helper", "import sys\nfrom dirac_perfpatch.imports import when_complete\ntold = sys.told\n"
            "when_complete('half', told)\nSEEN = hasattr(sys.modules['half'], 'Late'), list(told.modules)")  # fmt: skip
    sys.told = told  # type: ignore[attr-defined]
    try:
        module = importlib.import_module("half")
    finally:
        del sys.told  # type: ignore[attr-defined]
    assert sys.modules["half_helper"].SEEN == (False, [])
    assert module.BETWEEN == []
    assert (told.modules, told.complete) == ([module], [True])


@pytest.mark.parametrize("first", ["ring_a", "ring_b"])
def test_modules_that_import_each_other(modules: Write, first: str) -> None:
    modules("ring_a", "import ring_b\nclass A: pass\nLAST = 1")
    modules("ring_b", "import ring_a\nclass B: pass\nLAST = 1")
    told_a, told_b = _Told(), _Told()
    when_complete("ring_a", told_a)
    when_complete("ring_b", told_b)
    importlib.import_module(first)
    assert (told_a.complete, told_b.complete) == ([True], [True])


def test_an_import_that_fails_and_later_succeeds(modules: Write, told: _Told) -> None:
    path = modules("flaky", "class Flaky: pass\nraise OSError('not now')")
    when_complete("flaky", told)
    for _ in range(2):
        with pytest.raises(OSError, match="not now"):
            importlib.import_module("flaky")
    assert told.modules == []
    path.write_text("LAST = 'and now'")
    module = importlib.import_module("flaky")
    assert (told.modules, told.complete) == ([module], [True])


def test_a_half_imported_module_that_fails_and_later_succeeds(modules: Write, told: _Told) -> None:
    path = modules("broken", "import sys\nsys.wait()\nraise OSError('not now')")
    sys.wait = lambda: when_complete("broken", told)  # type: ignore[attr-defined]
    try:
        with pytest.raises(OSError, match="not now"):
            importlib.import_module("broken")
    finally:
        del sys.wait  # type: ignore[attr-defined]
    assert told.modules == []
    path.write_text("LAST = 'and now'")
    importlib.import_module("broken")
    assert told.complete == [True]


def test_a_module_that_does_not_exist_is_still_not_found(modules: Write, told: _Told) -> None:
    when_complete("no_such_module", told)
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module("no_such_module")
    assert caught.value.name == "no_such_module"
    assert importlib.util.find_spec("no_such_module") is None
    modules("no_such_module", "LAST = 1")
    importlib.import_module("no_such_module")
    assert told.complete == [True]


def test_a_package_and_its_submodule(modules: Write) -> None:
    modules("pack.sub", "LAST = 1")
    modules("pack", "from . import sub\nLAST = 1")
    order: list[str] = []
    when_complete("pack", lambda module: order.append(f"pack {hasattr(module, 'LAST')}"))
    when_complete("pack.sub", lambda module: order.append(f"sub {hasattr(module, 'LAST')}"))
    importlib.import_module("pack")
    assert order == ["sub True", "pack True"]
    assert sys.modules["pack"].sub is sys.modules["pack.sub"]


def test_waiting_for_a_submodule_imports_nothing(modules: Write, told: _Told) -> None:
    modules("parent.child", "LAST = 1")
    when_complete("parent.child", told)
    importlib.import_module("parent")
    assert "parent.child" not in sys.modules
    importlib.import_module("parent.child")
    assert told.complete == [True]


def test_a_module_that_replaces_itself_in_sys_modules(modules: Write, told: _Told) -> None:
    """The callback gets what importers get."""
    modules("replaced", "import sys\nclass Other: pass\nsys.modules[__name__] = Other()\nimport replaced_next\n"
            "sys.modules[__name__].LAST = 1")  # fmt: skip
    modules("replaced_next", "")
    when_complete("replaced", told)
    module = importlib.import_module("replaced")
    assert type(module).__name__ == "Other"
    assert (told.modules, told.complete) == ([module], [True])


def test_a_module_that_was_put_into_sys_modules_by_hand(monkeypatch: pytest.MonkeyPatch, told: _Told) -> None:
    module = ModuleType("by_hand")
    monkeypatch.setitem(sys.modules, "by_hand", module)
    when_complete("by_hand", told)
    assert told.modules == [module]


def test_a_name_that_is_blocked_in_sys_modules(monkeypatch: pytest.MonkeyPatch, modules: Write, told: _Told) -> None:
    modules("blocked", "LAST = 1")
    monkeypatch.setitem(sys.modules, "blocked", None)  # type: ignore[arg-type]
    when_complete("blocked", told)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("blocked")
    assert told.modules == []
    monkeypatch.undo()
    sys.path.insert(0, str(modules("other", "").parent))
    importlib.import_module("blocked")
    del sys.path[0], sys.modules["blocked"]
    assert told.complete == [True]


def test_a_namespace_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: _Told) -> None:
    (tmp_path / "no_init").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    when_complete("no_init", told)
    module = importlib.import_module("no_init")
    del sys.modules["no_init"]
    assert told.modules == [module]


def test_several_callbacks_in_their_order(modules: Write) -> None:
    modules("many", "")
    order: list[int] = []
    for number in range(5):
        when_complete("many", lambda module, number=number: order.append(number))
    importlib.import_module("many")
    assert order == [0, 1, 2, 3, 4]


def test_a_callback_may_import_and_may_wait_for_more(modules: Write, told: _Told) -> None:
    modules("one", "")
    modules("two", "LAST = 1")
    modules("three", "LAST = 1")

    def callback(module: ModuleType) -> None:
        when_complete("two", told)
        importlib.import_module("two")
        importlib.import_module("one")
        when_complete("one", told)
        when_complete("three", told)

    when_complete("one", callback)
    importlib.import_module("one")
    importlib.import_module("three")
    assert [module.__name__ for module in told.modules] == ["two", "one", "three"]


def test_an_import_by_a_callback_does_not_call_the_next_one_inside_it(modules: Write) -> None:
    modules("three_wait", "")
    modules("needed", "")
    order: list[str] = []

    def first(module: ModuleType) -> None:
        order.append("first begins")
        importlib.import_module("needed")
        order.append("first ends")

    when_complete("three_wait", first)
    when_complete("three_wait", lambda module: order.append("second"))
    when_complete("never_there", first)  # the finder stays
    importlib.import_module("three_wait")
    forget("never_there", first)
    assert order == ["first begins", "first ends", "second"]


def test_a_reload_does_not_call_back_again(modules: Write, told: _Told) -> None:
    modules("again", "LAST = 1")
    when_complete("again", told)
    module = importlib.import_module("again")
    importlib.reload(module)
    del sys.modules["again"]
    importlib.import_module("again")
    assert told.modules == [module]


# Cancelling


def test_a_callback_before_the_execution_gets_the_spec(modules: Write) -> None:
    modules("prepared", "LAST = 1")
    seen: list[Any] = []
    imports.before_execution("prepared", lambda spec: seen.append((spec.name, "prepared" in sys.modules)))
    assert len(_finders()) == 1
    importlib.import_module("prepared")
    assert seen == [("prepared", False)]
    imports.prepare_no_longer("prepared")
    importlib.reload(sys.modules["prepared"])
    assert len(seen) == 1


def test_a_callback_that_puts_another_one_in_its_place(modules: Write) -> None:
    modules("replacing", "LAST = 1")
    order: list[int] = []

    def first(spec: ModuleSpec) -> None:
        order.append(1)
        imports.prepare_no_longer("replacing")
        imports.before_execution("replacing", lambda spec: order.append(2))

    imports.before_execution("replacing", first)
    importlib.import_module("replacing")
    imports.prepare_no_longer("replacing")
    assert order == [1, 2]


def test_both_kinds_of_callback_for_one_module(modules: Write, told: _Told) -> None:
    modules("both", "LAST = 1")
    order: list[str] = []
    when_complete("both", told)
    imports.before_execution("both", lambda spec: order.append(f"before {len(told.modules)}"))
    importlib.import_module("both")
    imports.prepare_no_longer("both")
    assert (order, told.complete) == (["before 0"], [True])


def test_forget_before_the_import(modules: Write, told: _Told) -> None:
    modules("forgotten", "LAST = 1")
    other = _Told()
    when_complete("forgotten", told)
    when_complete("forgotten", other)
    forget("forgotten", told)
    importlib.import_module("forgotten")
    assert (told.modules, other.complete) == ([], [True])


def test_forget_while_the_module_is_being_imported(modules: Write, told: _Told) -> None:
    modules("changing", "import sys\nsys.change_of_mind()\nLAST = 1")
    when_complete("changing", told)
    sys.change_of_mind = lambda: forget("changing", told)  # type: ignore[attr-defined]
    try:
        importlib.import_module("changing")
    finally:
        del sys.change_of_mind  # type: ignore[attr-defined]
    assert told.modules == []


def test_forget_after_the_call_or_without_a_registration(modules: Write, told: _Told) -> None:
    modules("past", "")
    when_complete("past", told)
    importlib.import_module("past")
    forget("past", told)
    forget("past", told)
    forget("never", told)
    assert len(told.modules) == 1


# What is left behind


def test_the_finder_is_in_place_once_a_module_is_waited_for(modules: Write, told: _Told) -> None:
    modules("first", "")
    before = list(sys.meta_path)
    assert _finders() == []
    for name in ("first", "second"):
        when_complete(name, told)
    assert sys.meta_path == [imports._finder, *before]  # once
    importlib.import_module("first")
    forget("second", told)
    assert sys.meta_path == [imports._finder, *before]


def test_who_stops_waiting_does_not_disturb_an_import(modules: Write, told: _Told) -> None:
    """The import system goes through the finders by position, here and in other threads."""
    modules("wanted", "LAST = 1")

    class Finder:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            forget("another", told)

    finder = Finder()
    sys.meta_path.insert(sys.meta_path.index(PathFinder), finder)  # type: ignore[arg-type]
    try:
        when_complete("another", told)
        assert importlib.import_module("wanted").LAST == 1
    finally:
        sys.meta_path.remove(finder)


def test_a_module_that_was_watched_is_like_any_other(modules: Write, told: _Told) -> None:
    source = "import pickle\n\nclass Thing:\n    def method(self):\n        return 1\n\nLAST = 1\n"
    modules("watched.inner", source)
    (Path(sys.path[0]) / "watched" / "data.txt").write_text("data")
    modules("plain", source)
    when_complete("watched.inner", told)
    when_complete("watched", told)
    watched, plain = importlib.import_module("watched.inner"), importlib.import_module("plain")
    assert len(told.modules) == 2
    assert type(watched.__spec__) is ModuleSpec
    assert type(sys.modules["watched"].__spec__) is ModuleSpec
    assert vars(watched.__spec__).keys() == vars(plain.__spec__).keys()
    assert type(watched.__loader__) is type(plain.__loader__)
    assert watched.__spec__ == importlib.util.find_spec("watched.inner")
    assert vars(watched).keys() == vars(plain).keys()
    assert inspect.getsource(watched) == source
    assert inspect.getsource(watched.Thing.method) == "    def method(self):\n        return 1\n"
    assert importlib.resources.files("watched").joinpath("data.txt").read_text() == "data"
    assert type(pickle.loads(pickle.dumps(watched.Thing()))) is watched.Thing
    assert importlib.reload(watched) is watched


def test_finding_the_spec_of_a_module_does_not_call_back(modules: Write, told: _Told) -> None:
    modules("asked", "LAST = 1")
    when_complete("asked", told)
    spec = importlib.util.find_spec("asked")
    assert isinstance(spec, ModuleSpec)
    assert told.modules == []
    importlib.import_module("asked")
    assert told.complete == [True]


def test_a_spec_of_another_class_is_left_alone(modules: Write, told: _Told) -> None:
    """The module is imported as usual, and the callback is not called."""
    path = modules("special", "LAST = 1")

    class Spec(ModuleSpec):
        pass

    class Finder:
        def find_spec(self, name: str, path_: Any = None, target: Any = None) -> ModuleSpec | None:
            if name != "special":
                return None
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec is not None
            spec.__class__ = Spec
            return spec

    finder = Finder()
    sys.meta_path.insert(0, finder)
    try:
        when_complete("special", told)
        module = importlib.import_module("special")
        assert type(module.__spec__) is Spec
    finally:
        sys.meta_path.remove(finder)
        forget("special", told)


def test_an_error_of_another_finder_reaches_the_importer(told: _Told) -> None:
    class Finder:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            if name == "cursed":
                raise RuntimeError("the finder's own")

    finder = Finder()
    sys.meta_path.insert(0, finder)
    try:
        when_complete("cursed", told)
        with pytest.raises(RuntimeError, match="the finder's own"):
            importlib.import_module("cursed")
    finally:
        sys.meta_path.remove(finder)
        forget("cursed", told)


# Threads


@pytest.fixture
def _eager_threads() -> Any:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def _together(*functions: Callable[[], Any]) -> None:
    barrier = threading.Barrier(len(functions))
    errors: list[BaseException] = []

    def run(function: Callable[[], Any]) -> None:
        barrier.wait()
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert errors == []


@pytest.mark.usefixtures("_eager_threads")
def test_threads_that_import_and_wait_at_once(modules: Write) -> None:
    """Each callback exactly once and never early, in any order.

    If a thread registers when another has found the module but not yet stored it in sys.modules, the next import of any
    module calls back.
    """
    for number in range(100):
        name = f"raced{number}"
        modules(name, "import raced_helper" + str(number) + "\nclass A: pass\nLAST = 1")
        modules(f"raced_helper{number}", "")
        modules(f"raced_after{number}", "")
        told = [_Told() for _ in range(4)]
        waits = [lambda callback=callback, name=name: when_complete(name, callback) for callback in told]
        load = lambda name=name: importlib.import_module(name)  # noqa: E731
        _together(waits[0], load, waits[1], load, waits[2], load, waits[3])
        importlib.import_module(f"raced_after{number}")
        assert [callback.complete for callback in told] == [[True]] * 4


@pytest.mark.usefixtures("_eager_threads")
def test_threads_that_wait_for_a_module_just_as_it_completes(modules: Write) -> None:
    """A callback must not get lost between the look at a spec and the watch on it.

    The import system takes a complete module out of sys.modules and puts it back: for a thread that looked just then,
    the next import of any module calls back.
    """
    for number in range(100):
        name = f"ending{number}"
        modules(name, f"import sys\nsys.go.set()\nfor _ in range({number % 50 * 4}): pass\nLAST = 1")
        modules(f"ending_after{number}", "")
        told = [_Told() for _ in range(3)]
        sys.go = go = threading.Event()  # type: ignore[attr-defined]

        def wait(callback: _Told, name: str = name, go: threading.Event = go) -> None:
            go.wait()
            when_complete(name, callback)

        waits = [lambda callback=callback, wait=wait: wait(callback) for callback in told]
        _together(lambda name=name: importlib.import_module(name), *waits)
        importlib.import_module(f"ending_after{number}")
        assert [callback.complete for callback in told] == [[True]] * 3
    del sys.go  # type: ignore[attr-defined]


def test_two_threads_that_see_the_completion_at_once_call_back_once(
    modules: Write, told: _Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have seen that the module is complete; the first one is held there until the second is done."""
    modules("contested", "LAST = 1")
    importlib.import_module("contested")
    arrived, release = threading.Event(), threading.Event()
    real = imports._tell
    main = threading.current_thread()

    def slow(name: str) -> None:
        if threading.current_thread() is not main:
            arrived.set()
            assert release.wait(10)
        real(name)

    monkeypatch.setattr(imports, "_tell", slow)
    thread = threading.Thread(target=when_complete, args=("contested", told))
    thread.start()
    assert arrived.wait(10)
    imports._finder.find_spec("anything_else")  # sees it, and calls back
    assert len(told.modules) == 1
    release.set()
    thread.join(10)
    assert len(told.modules) == 1


def test_a_module_that_completes_between_the_look_and_the_watch(
    modules: Write, told: _Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spec's attribute has been set for the last time, so the watch alone would never end."""
    modules("closing", "import sys\nsys.started.set()\nassert sys.go_on.wait(10)\nLAST = 1")
    started, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(sys, "started", started, raising=False)
    monkeypatch.setattr(sys, "go_on", go_on, raising=False)
    thread = threading.Thread(target=importlib.import_module, args=("closing",))
    real = imports._watch

    def late(spec: Any) -> None:
        go_on.set()
        thread.join(10)
        real(spec)

    thread.start()
    assert started.wait(10)
    monkeypatch.setattr(imports, "_watch", late)
    when_complete("closing", told)
    assert told.complete == [True]


class _Slow(dict):  # type: ignore[type-arg]
    """Holds a thread that registers a callback, before or after it has stored it."""

    def __init__(self, before: bool) -> None:
        super().__init__()
        self.before = before
        self.arrived, self.go_on = threading.Event(), threading.Event()

    def _slowly(self, put: Callable[[], Any]) -> Any:
        found = None if self.before else put()
        self.arrived.set()
        self.go_on.wait(10)
        return put() if self.before else found

    def __setitem__(self, key: Any, value: Any) -> None:
        self._slowly(lambda: super(_Slow, self).__setitem__(key, value))

    def setdefault(self, key: Any, default: Any = None) -> Any:
        return self._slowly(lambda: super(_Slow, self).setdefault(key, default))


@pytest.mark.parametrize("before", [True, False])
def test_a_callback_registered_while_others_are_called_is_not_lost(
    modules: Write, told: _Told, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    modules("busy", "LAST = 1")
    importlib.import_module("busy")
    waiting = _Slow(before)
    monkeypatch.setattr(imports, "_waiting", waiting)
    waiter = threading.Thread(target=when_complete, args=("busy", told))
    waiter.start()
    assert waiting.arrived.wait(10)
    teller = threading.Thread(target=imports._tell, args=("busy",))
    teller.start()
    teller.join(0.2)
    assert not teller.is_alive()
    waiting.go_on.set()
    waiter.join(10)
    assert told.complete == [True]


def test_a_child_that_was_forked_while_a_thread_began_to_wait(modules: Write, child: Any) -> None:
    """The child does not have that thread, and must not wait for anything that only it could release."""
    code = """
import os, threading, time
from dirac_perfpatch import imports
class Slow(dict):
    def slowly(self, put, *args):
        inside.set()
        go_on.wait(15)
        return put(*args)
    def __setitem__(self, *args):
        self.slowly(super().__setitem__, *args)
    def setdefault(self, *args):
        return self.slowly(super().setdefault, *args)
inside, go_on = threading.Event(), threading.Event()
imports._waiting = Slow()
thread = threading.Thread(target=imports.when_complete, args=("json", lambda module: None))
thread.start()
inside.wait()
if not os.fork():
    go_on.set()
    imports.when_complete("json", lambda module: print("child", module.__name__, flush=True))
    import json
    os._exit(0)
os.wait()
go_on.set()
thread.join()
import json
print("parent", json.__name__)
"""
    assert child(code).stdout == "child json\nparent json\n"


@pytest.mark.usefixtures("_eager_threads")
def test_threads_that_register_and_cancel_leave_the_finder_in_its_place(told: _Told) -> None:
    def wait_and_forget() -> None:
        for number in range(200):
            when_complete(f"never_there_{number % 3}", told)
            forget(f"never_there_{number % 3}", told)

    for turn in range(5):
        stays = _Told()
        _together(*[wait_and_forget] * 5, lambda stays=stays: when_complete("never_there", stays))
        assert _finders(), turn
        forget("never_there", stays)


def test_a_module_found_before_it_was_waited_for_and_stored_after(modules: Write, told: _Told) -> None:
    """The other thread is held between asking the finders and storing the module; its next import calls back."""
    modules("between", "import between_helper\nLAST = 1")
    modules("between_helper", "")
    arrived, release = threading.Event(), threading.Event()

    class Finder:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
            if name != "between":
                return None
            spec = importlib.machinery.PathFinder.find_spec(name)
            arrived.set()
            assert release.wait(10)
            return spec

    finder = Finder()
    sys.meta_path.insert(0, finder)
    try:
        thread = threading.Thread(target=importlib.import_module, args=("between",))
        thread.start()
        assert arrived.wait(10)
        when_complete("between", told)
        release.set()
        thread.join(10)
    finally:
        sys.meta_path.remove(finder)
    assert told.complete == [True]


def test_a_slow_callback_holds_up_no_other_thread(modules: Write, told: _Told) -> None:
    modules("slow", "")
    modules("quick", "LAST = 1")
    entered, release = threading.Event(), threading.Event()

    def callback(module: ModuleType) -> None:
        entered.set()
        assert release.wait(10)

    when_complete("slow", callback)
    thread = threading.Thread(target=importlib.import_module, args=("slow",))
    thread.start()
    assert entered.wait(10)
    started = time.monotonic()
    worker = threading.Thread(target=lambda: (when_complete("quick", told), importlib.import_module("quick")))
    worker.start()
    worker.join(5)
    release.set()
    thread.join(10)
    worker.join(10)
    assert told.complete == [True]
    assert time.monotonic() - started < 5


# Modules that the import system does not execute


def _by_hand(path: Path, name: str) -> ModuleType:
    """As a plugin loader does: the module is in sys.modules before it is executed."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    return sys.modules[name]


def _execute(module: ModuleType) -> None:
    assert module.__spec__ is not None
    assert module.__spec__.loader is not None
    module.__spec__.loader.exec_module(module)


BY_HAND = "import sys\nsys.in_the_middle()\nimport other_module\nLAST = 1"


@pytest.mark.parametrize("begins", ["before it is there", "before it runs", "while it runs"])
@pytest.mark.parametrize("ends", ["import", "look"])
def test_a_module_that_is_executed_by_hand(
    modules: Write, told: _Told, monkeypatch: pytest.MonkeyPatch, begins: str, ends: str
) -> None:
    path = modules("by_hand", BY_HAND)
    modules("other_module", "")
    modules("one_more", "")
    wait = lambda: when_complete("by_hand", told)  # noqa: E731
    monkeypatch.setattr(sys, "in_the_middle", wait if begins == "while it runs" else imports.look, raising=False)
    if begins == "before it is there":
        wait()
    module = _by_hand(path, "by_hand")
    if begins == "before it runs":
        wait()
    imports.look()
    importlib.import_module("one_more")
    assert told.modules == []
    _execute(module)
    assert told.modules == []
    del sys.modules["one_more"]
    if ends == "import":
        importlib.import_module("one_more")
    else:
        imports.look()
    assert (told.modules, told.complete) == ([module], [True])


def test_a_module_without_a_spec_that_is_executed_by_hand(
    told: _Told, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = ModuleType("bare")
    monkeypatch.setitem(sys.modules, "bare", module)
    monkeypatch.setattr(sys, "in_the_middle", lambda: when_complete("bare", told), raising=False)
    exec(compile("import sys\nsys.in_the_middle()\nLAST = 1", "bare", "exec"), vars(module))
    assert told.modules == []
    imports.look()
    assert told.complete == [True]


def test_a_later_stand_in_does_not_call_back(told: _Told, monkeypatch: pytest.MonkeyPatch) -> None:
    when_complete("stand_in", told)
    monkeypatch.setitem(sys.modules, "stand_in", ModuleType("stand_in"))
    imports.look()
    forget("stand_in", told)
    assert told.modules == []


def _lazily(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("waits_first", [True, False])
def test_a_lazy_module_is_neither_executed_nor_reported_before_it_is_used(
    modules: Write, told: _Told, monkeypatch: pytest.MonkeyPatch, waits_first: bool
) -> None:
    path = modules("lazy", "import sys\nsys.in_the_middle()\nimport other_module\nLAST = 1")
    modules("other_module", "")
    modules("one_more", "")
    executed: list[int] = []
    monkeypatch.setattr(sys, "in_the_middle", lambda: (executed.append(1), imports.look()), raising=False)
    if waits_first:
        when_complete("lazy", told)
    module = _lazily(path, "lazy")
    if not waits_first:
        when_complete("lazy", told)
    imports.look()
    importlib.import_module("one_more")
    assert (executed, told.modules) == ([], [])
    assert module.LAST == 1
    imports.look()
    assert (executed, told.modules, told.complete) == ([1], [module], [True])


def test_a_finder_that_makes_modules_lazy(modules: Write, told: _Told) -> None:
    """As in programs that want to start fast: the import system says complete, but nothing was executed."""
    modules("slowly", "LAST = 1")

    class Finder:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
            spec = importlib.machinery.PathFinder.find_spec(name, path) if name == "slowly" else None
            if spec is not None:
                assert spec.loader is not None
                spec.loader = importlib.util.LazyLoader(spec.loader)
            return spec

    finder = Finder()
    sys.meta_path.insert(0, finder)
    try:
        when_complete("slowly", told)
        module = importlib.import_module("slowly")
        assert told.modules == []
        assert "LAST" not in object.__getattribute__(module, "__dict__")
        assert module.LAST == 1
        imports.look()
        assert told.complete == [True]
    finally:
        sys.meta_path.remove(finder)


@pytest.mark.usefixtures("_eager_threads")
def test_six_threads_that_import_execute_by_hand_and_look(modules: Write) -> None:
    """Each callback exactly once. (Early, perhaps, where another thread executes by hand: see test_patching.)"""
    for number in range(60):
        name = f"mixed{number}"
        path = modules(name, f"import mixed_helper{number}\nclass A: pass\nLAST = 1")
        modules(f"mixed_helper{number}", "")
        told = [_Told() for _ in range(2)]

        def by_hand(name: str = name, path: Path = path) -> None:
            if name not in sys.modules:
                _execute(_by_hand(path, name))

        _together(
            lambda name=name, told=told: when_complete(name, told[0]),
            by_hand,
            imports.look,
            lambda name=name: importlib.import_module(name),
            imports.look,
            lambda name=name, told=told: when_complete(name, told[1]),
        )
        imports.look()
        assert [len(callback.complete) for callback in told] == [1, 1]
