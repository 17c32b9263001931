"""The call stacks of error_stack are those of the standard library, to the byte, in every way to get there.

``S_ERROR`` formats the stack from its own frame and drops the last entry. Both ways are asked here from one frame and
one line, and whatever lies above is made by hypothesis.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import linecache
import os
import sys
import threading
import time
import traceback
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dirac_perfpatch.patches import error_stack
from dirac_perfpatch.patching import Fitting, Guard, InTree, NotHere, Switch, UnknownHost

Rest = tuple[Any, ...]
FormatStack = Callable[..., "list[str]"]


class _Asked:
    """Ours, with its guard, which no test may make fail: a stack that the standard library gave us proves nothing."""

    def __init__(self, recheck_seconds: float) -> None:
        self.texts = error_stack._Texts(recheck_seconds)
        self.tripped: list[str] = []
        self.guard = Guard("error_stack", self.tripped.append)
        self.format_stack = error_stack._make_format_stack(self.texts, self.guard)

    def check(self) -> None:
        assert (self.guard.failures, self.guard.off, self.tripped) == (0, False, [])


@pytest.fixture
def ours() -> Iterator[_Asked]:
    asked = _Asked(1e9)
    yield asked
    asked.check()


def error(format_stack: FormatStack) -> list[str]:
    """What S_ERROR does."""
    stack = format_stack()
    stack.pop()
    return stack


def both(asked: _Asked) -> tuple[list[str], list[str]]:
    """Ours and the standard library's, from one place."""
    found = []
    for format_stack in (asked.format_stack, traceback.format_stack):
        found.append(error(format_stack))
    return found[0], found[1]


def assert_equal(asked: _Asked, call: Callable[[Callable[[], Any]], Any] = lambda ask: ask()) -> list[str]:
    """Ask twice, so that the second time all is known, from below a call that a test makes."""
    found: list[tuple[list[str], list[str]]] = []
    for _ in range(2):
        call(lambda: found.append(both(asked)))
    assert len(found) == 2
    for mine, stock in found:
        assert mine == stock
    asked.check()
    return found[-1][0]


# Ways to call on. Each one is given what is left of the chain and passes it to step().


def step(rest: Rest) -> Any:
    if not rest:
        return ASK()
    way, number = rest[0]
    return way(number, rest[1:])


ASK: Callable[[], Any] = list


def by_function(number: int, rest: Rest) -> Any:
    return step(rest)


def by_lambda(number: int, rest: Rest) -> Any:
    return (lambda: (lambda left: step(left or ()))(rest))()


def by_comprehension(number: int, rest: Rest) -> Any:
    return [step(left) for left in [rest]], {step(left) is None for left in []}


def by_generator(number: int, rest: Rest) -> Any:
    def inner() -> Iterator[Any]:
        yield 1
        yield step(rest)

    def outer() -> Iterator[Any]:
        yield from inner()

    return list(outer()), next(step(left) for left in [()]) if number < 0 else None


def by_class_body(number: int, rest: Rest) -> Any:
    class Body:
        first = 1
        value = step(rest)

    return Body


def by_many_lines(number: int, rest: Rest) -> Any:
    return (
        max(
            1,
            2,
        ),
        step(
            # The call begins above.
            tuple(
                left
                for left in rest
            )
        ),
    )  # fmt: skip


def _decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


@_decorated
@_decorated
@_decorated
@_decorated
@_decorated
def by_decorators(number: int, rest: Rest) -> Any:
    return step(rest)


def by_exec(number: int, rest: Rest) -> Any:
    space = {"step": step, "rest": rest}
    exec("def run():\n    return step(rest)\nrun()", space)
    exec("\n" * number + "step(rest) if 0 else run()", space)


def by_exec_with_a_name(number: int, rest: Rest) -> Any:
    """Names of files that do not exist, that are empty, that hold what a name should not."""
    name = ["/no/such/file.py", "", "<made up>", "no_such.py", "<", "/no/such\nline.py", "ünï.py", "a\tb"][number % 8]
    exec(compile("def run():\n    return step(rest)\nrun()", name, "exec"), {"step": step, "rest": rest})


def by_same_line(number: int, rest: Rest) -> Any:
    return by_same_line(number - 1, rest) if number else step(rest)


def by_two_lines(number: int, rest: Rest) -> Any:
    if number:
        return by_two_lines(number - 1, rest)
    return step(rest)


def by_each_other(number: int, rest: Rest) -> Any:
    return by_the_other(number - 1, rest) if number else step(rest)


def by_the_other(number: int, rest: Rest) -> Any:
    return by_each_other(number - 1, rest) if number else step(rest)


# Two places on one line: the instructions differ, the texts do not.
def by_one_line(number: int, rest: Rest) -> Any: return step(rest) if not number else by_one_line(number - 1, rest) if number % 2 else by_one_line(number - 1, rest)  # noqa: E501, E704 # fmt: skip


def by_lambdas_on_one_line(number: int, rest: Rest) -> Any:
    again = lambda left: again(left - 1) if left else (lambda: step(rest))()  # noqa: E731
    return again(number)


def by_method(number: int, rest: Rest) -> Any:
    class Thing:
        @property
        def value(self) -> Any:
            return step(rest)

        def __enter__(self) -> Any:
            return self.value

        def __exit__(self, *_: Any) -> None:
            pass

    with Thing():
        pass


def by_builtin(number: int, rest: Rest) -> Any:
    """Frames of C functions do not show."""
    return sorted([rest, rest], key=lambda left: [step(left), 1][1] if left is rest else 0) and list(map(step, [rest]))


def by_exception(number: int, rest: Rest) -> Any:
    try:
        raise ValueError
    except ValueError:
        with contextlib.suppress(KeyError):
            return step(rest)
        raise
    finally:
        number += 1


def by_async(number: int, rest: Rest) -> Any:
    async def last() -> Any:
        return step(rest)

    async def first() -> Any:
        return await last()

    with contextlib.suppress(StopIteration):
        first().send(None)


# Ways through files. Each file has one function, run(step, rest).

RUN = "def run(step, rest):\n    return step(rest)  # {}\n"


def _load(path: Path) -> Callable[..., Any]:
    space: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    exec(compile(path.read_bytes(), str(path), "exec"), space)
    return space["run"]


@pytest.fixture(scope="module")
def through_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("files")
    runs: list[Callable[..., Any]] = []
    same = "def run(step, rest):\n    return step(rest)\n"
    for name in ("same_one.py", "same_two.py"):
        (folder / name).write_text(same)
        runs.append(_load(folder / name))
    # The code is equal, and the file is no part of that; the texts differ in the file's name.
    assert runs[0].__code__ == runs[1].__code__
    # Equal code objects in files whose source differs.
    (folder / "same_three.py").write_text(same.replace("step(rest)", "step(rest)  # another source"))
    runs.append(_load(folder / "same_three.py"))
    assert runs[0].__code__ == runs[2].__code__
    (folder / "latin.py").write_bytes(("# -*- coding: latin-1 -*-\n" + RUN.format("é ß")).encode("latin-1"))
    (folder / "utf8_bom.py").write_bytes(b"\xef\xbb\xbf" + RUN.format("é ✓").encode())
    (folder / "utf16_lie.py").write_bytes(b"# -*- coding: cp1252 -*-\n" + RUN.format("\x80").encode("latin-1"))
    (folder / "crlf.py").write_bytes(RUN.format("ends").replace("\n", "\r\n").encode())
    (folder / "tabs.py").write_text("def run(step, rest):\n\treturn step(rest)\t\t# tabs\x0c \n")
    (folder / "no_end.py").write_text(RUN.format("no line end").rstrip("\n"))
    (folder / "deep.py").write_text("\n" * 3000 + RUN.format("far down"))
    runs += [
        _load(folder / f"{name}.py") for name in ("latin", "utf8_bom", "utf16_lie", "crlf", "tabs", "no_end", "deep")
    ]
    # Sources that are gone, or are no longer what is running, or cannot be decoded any more. Before Python 3.10 the
    # standard library raises a SyntaxError for the last, so S_ERROR does.
    gone = ["gone", "shorter", "other", "folder"] + ["undecodable"] * (sys.version_info >= (3, 10))
    for name in gone:
        (folder / f"{name}.py").write_text(RUN.format(name))
        runs.append(_load(folder / f"{name}.py"))
    (folder / "gone.py").unlink()
    (folder / "shorter.py").write_text("x = 1\n")
    (folder / "other.py").write_text("# one more line\n" + RUN.format("other"))
    if "undecodable" in gone:
        (folder / "undecodable.py").write_bytes(b"# \xff\xff\n# \xff\n")
    (folder / "folder.py").unlink()
    (folder / "folder.py").mkdir()
    # A module that is only in an archive: its loader knows the source.
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        archive.writestr("stack_text_zipped.py", RUN.format("zipped ✓"))
    sys.path.insert(0, str(folder / "archive.zip"))
    runs.append(importlib.import_module("stack_text_zipped").run)
    FILES[:] = runs
    yield
    FILES.clear()
    sys.path.remove(str(folder / "archive.zip"))
    del sys.modules["stack_text_zipped"]


FILES: list[Callable[..., Any]] = []


def by_file(number: int, rest: Rest) -> Any:
    return FILES[number % len(FILES)](step, rest)


WAYS = [way for name, way in sorted(globals().items()) if name.startswith("by_")]


@pytest.mark.usefixtures("through_files")
@settings(max_examples=150)
@given(
    chain=st.lists(st.tuples(st.sampled_from(WAYS), st.integers(0, 19)), max_size=9).map(tuple),
    forget=st.booleans(),
)
@example(chain=(), forget=True)
@example(chain=tuple((by_file, number) for number in range(16)), forget=True)
@example(chain=tuple((by_file, number) for number in (0, 1, 0, 1, 2, 0)), forget=False)
@example(chain=tuple((way, 5) for way in WAYS), forget=True)
def test_any_chain_of_calls(ours_for_all: _Asked, chain: Rest, forget: bool) -> None:
    """Most of the time with what was kept from all the chains before."""
    global ASK
    if forget:
        ours_for_all.texts.forget()
        linecache.clearcache()
    found: list[tuple[list[str], list[str]]] = []
    ASK = lambda: found.append(both(ours_for_all))  # noqa: E731
    for _ in range(2):
        step(chain)
    assert len(found) >= 2
    for mine, stock in found:
        assert mine == stock
    ours_for_all.check()


@pytest.fixture(scope="module")
def ours_for_all() -> _Asked:
    return _Asked(1e9)


@pytest.mark.parametrize("way", [by_same_line, by_two_lines, by_each_other, by_one_line, by_lambdas_on_one_line])
@pytest.mark.parametrize("depth", range(13))
def test_repeated_lines_are_collapsed_as_the_standard_library_does(
    ours: _Asked, way: Callable[..., Any], depth: int
) -> None:
    def call(ask: Callable[[], Any]) -> None:
        global ASK
        ASK = ask
        way(depth, ())

    stack = assert_equal(ours, call)
    if way is by_same_line:
        repeated = [line for line in stack if "[Previous line repeated" in line]
        assert repeated == ([f"  [Previous line repeated {depth - 2} more time{'s' * (depth > 3)}]\n"] * (depth > 2))


def test_runs_next_to_each_other(ours: _Asked) -> None:
    def call(ask: Callable[[], Any]) -> None:
        global ASK
        ASK = ask
        step(((by_same_line, 6), (by_lambdas_on_one_line, 7), (by_same_line, 3), (by_two_lines, 9)))

    assert sum("[Previous line repeated" in line for line in assert_equal(ours, call)) >= 3


def test_a_very_deep_stack(ours: _Asked) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)

    def down(left: int, ask: Callable[[], Any]) -> Any:
        if left % 2:
            return down(left - 1, ask)
        return down(left - 1, ask) if left else ask()

    try:
        assert len(assert_equal(ours, lambda ask: down(5000, ask))) > 5000
    finally:
        sys.setrecursionlimit(limit)


def test_a_thread_s_stack_is_its_own(ours: _Asked) -> None:
    wrong: list[Any] = []
    barrier = threading.Barrier(8)

    def run(number: int) -> None:
        barrier.wait()
        for turn in range(60):
            if number == 0:
                ours.texts.forget()
            way = WAYS[(number + turn) % len(WAYS)]
            if way in (by_file, by_builtin, by_comprehension):
                continue
            found: list[Any] = []
            local = types.FunctionType(
                step.__code__, {**globals(), "ASK": lambda found=found: found.append(both(ours))}
            )
            space = {**globals(), "step": local}
            types.FunctionType(way.__code__, space, way.__name__, None, way.__closure__)(turn % 6, ())
            wrong.extend(pair for pair in found if pair[0] != pair[1])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_caller_may_change_what_it_gets(ours: _Asked) -> None:
    for _ in range(3):
        mine, stock = both(ours)
        assert mine == stock
        mine[:] = ["changed"] * 5


def test_without_a_caller_there_is_an_empty_stack(ours: _Asked) -> None:
    """S_ERROR called by a C function in a thread of its own: nothing is above it."""
    import _thread

    found: list[Any] = []
    done = threading.Event()
    formats = iter([ours.format_stack, traceback.format_stack])

    def asked() -> None:
        for format_stack in formats:
            stack = format_stack()
            stack.pop()
            found.append(stack)
        done.set()

    _thread.start_new_thread(asked, ())
    assert done.wait(10)
    assert found == [[], []]


@pytest.mark.parametrize("limit", [0, 1, 2, 5, 1000, -1, -5, None])
def test_the_limit_of_the_process_is_obeyed(ours: _Asked, monkeypatch: pytest.MonkeyPatch, limit: int | None) -> None:
    def outer(ask: Callable[[], Any]) -> Any:
        return inner(ask)

    def inner(ask: Callable[[], Any]) -> Any:
        return ask()

    found: list[Any] = []

    def call() -> None:
        for format_stack in (ours.format_stack, traceback.format_stack):
            found.append(format_stack())

    monkeypatch.setattr(sys, "tracebacklimit", limit, raising=False)
    outer(call)
    outer(call)
    monkeypatch.delattr(sys, "tracebacklimit")
    assert found[0] == found[1]
    assert found[2] == found[3]
    assert_equal(ours, outer)


def test_arguments_are_those_of_the_standard_library(ours: _Asked) -> None:
    frame = sys._getframe()
    for arguments in ((frame,), (frame, 1), (None, 2), (None, -2), (frame.f_back, 3), (None, 0)):
        found = []
        for format_stack in (ours.format_stack, traceback.format_stack):
            found.append(format_stack(*arguments))
        assert found[0] == found[1]
    found = []
    for format_stack in (ours.format_stack, traceback.format_stack):
        found.append(format_stack(limit=2, f=frame))
    assert found[0] == found[1]


def test_a_guard_that_is_off_leaves_it_to_the_standard_library(ours: _Asked) -> None:
    ours.texts.kept = None  # type: ignore[assignment]
    ours.guard.off = True
    mine, stock = both(ours)
    assert mine == stock
    ours.guard.off = False


def test_a_failure_is_counted_and_answered_by_the_standard_library() -> None:
    asked = _Asked(1e9)
    asked.texts.kept = None  # type: ignore[assignment]
    for count in range(1, Guard.LIMIT + 1):
        mine, stock = both(asked)
        assert mine == stock
        assert asked.guard.failures == count
    assert len(asked.tripped) == 1


class _Loader:
    """Knows the source of a module that is in no file."""

    def __init__(self, source: str | None | Exception) -> None:
        self.source = source

    def get_source(self, name: str) -> str | None:
        if isinstance(self.source, Exception):
            raise self.source
        return self.source


def _loaded(source: str | None | Exception) -> Callable[..., Any]:
    space = {"__name__": "stack_text_loaded", "__loader__": _Loader(source)}
    exec(compile(RUN.format("loaded"), "/no/such/loaded.py", "exec"), space)
    return space["run"]  # type: ignore[return-value]


@pytest.mark.parametrize(("source", "shown"), [(RUN.format("the loader's"), True), ("x = 1", False), (None, False)])
def test_a_source_that_a_loader_knows(ours: _Asked, source: str | None, shown: bool) -> None:
    linecache.clearcache()
    run = _loaded(source)
    stack = assert_equal(ours, lambda ask: run(lambda rest: ask(), ()))
    assert any("# the loader's" in line for line in stack) == shown


def test_where_the_standard_library_fails_so_do_we_and_it_is_no_failure_of_ours(ours: _Asked) -> None:
    """A source that cannot be decoded, before Python 3.10; a loader that raises, in all."""
    for number in range(2 * Guard.LIMIT):
        linecache.clearcache()
        run = _loaded(SyntaxError(f"no encoding {number}"))
        for format_stack in (ours.format_stack, traceback.format_stack):
            linecache.clearcache()
            with pytest.raises(SyntaxError, match=f"no encoding {number}"):
                run(lambda rest, format_stack=format_stack: error(format_stack), ())
    linecache.clearcache()
    assert_equal(ours)  # the guard has counted nothing


def test_an_undecodable_source_is_answered_as_the_standard_library_does(ours: _Asked, tmp_path: Path) -> None:
    (tmp_path / "undecodable.py").write_text(RUN.format("was fine"))
    run = _load(tmp_path / "undecodable.py")
    (tmp_path / "undecodable.py").write_bytes(b"# \xff\xff\n# \xff\n")
    answers = []
    for format_stack in [ours.format_stack, traceback.format_stack] * Guard.LIMIT:
        try:
            answers.append(run(lambda rest, format_stack=format_stack: error(format_stack), ()))
        except SyntaxError as raised:
            answers.append(str(raised))
    assert answers == [answers[0]] * len(answers)


def test_frozen_code(ours: _Asked, modules: Callable[[str, str], Path]) -> None:
    """Whatever an import passes through before a module's own code."""
    modules("stack_text_imported", "import stack_text_asker\nstack_text_asker.ask()\n")

    def call(ask: Callable[[], Any]) -> None:
        asker = types.ModuleType("stack_text_asker")
        asker.ask = ask  # type: ignore[attr-defined]
        sys.modules["stack_text_asker"] = asker
        try:
            importlib.import_module("stack_text_imported")
        finally:
            del sys.modules["stack_text_asker"], sys.modules["stack_text_imported"]

    assert sum("<frozen importlib._bootstrap>" in line for line in assert_equal(ours, call)) >= 3


def test_texts_are_kept(ours: _Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this patch is for: once all is known, neither the standard library nor the file system is asked."""
    asked: list[Any] = []
    real = linecache.checkcache

    def checkcache(filename: Any = None) -> None:
        asked.append(filename)
        real(filename)

    monkeypatch.setattr(linecache, "checkcache", checkcache)
    counts = []
    for _ in range(4):
        asked.clear()
        error(ours.format_stack)
        counts.append(len(asked))
    assert counts[0] > 10
    assert counts[-1] == 0


def test_code_that_is_made_for_ever_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch, ours: _Asked) -> None:
    """And an identity that comes back for another code object does not bring back the old one's text."""
    monkeypatch.setattr(error_stack, "_MAX_TEXTS", 50)
    for number in range(400):
        space: dict[str, Any] = {}
        exec(compile(f"def run_{number}(ask):\n" + "\n" * (number % 7) + " ask()", f"<made {number}>", "exec"), space)
        stack = assert_equal(ours, space[f"run_{number}"])
        assert any(f"<made {number}>" in line and f"run_{number}" in line for line in stack)
        assert len(ours.texts.kept.texts) <= 50
        assert len(ours.texts.kept.codes) <= 50


def test_what_is_kept_is_held_and_watched_whenever_a_thread_forgets() -> None:
    """A text whose code object is not held could be found for another object that gets its identity; one whose file is
    not watched would never change. Another thread makes texts between any two steps of forgetting."""

    others: list[str] = []

    class Texts(error_stack._Texts):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if forgetting and not others:
                others.append("is making texts")
                for _ in range(2):
                    self.make(frame)
                others.clear()

    forgetting = False
    frame = sys._getframe()
    linecache.getline(__file__, 1)
    texts = Texts(1e9)
    forgetting = True
    texts.forget()
    assert texts.kept.texts
    assert {code for code, _ in texts.kept.texts} <= set(texts.kept.codes)
    assert set(texts.kept.files) == {frame.f_code.co_filename}


# Sources that change


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(error_stack, "time", clock)
    return clock


class _Source:
    """A source file that is running, and that a test edits."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stamp = 1_000_000_000
        self.write("as it was")
        self.run = _load(path)

    def write(self, comment: str) -> None:
        self.path.write_text(f"def run(ask):\n    return ask()  # {comment}\n")
        self.stamp += 10
        os.utime(self.path, (self.stamp, self.stamp))

    def grow(self, before: str, after: str) -> None:
        self.path.write_text(before + self.path.read_text() + after)

    def line(self, stack: list[str]) -> str:
        """What the stack shows of the line: its comment, or nothing."""
        [text] = [line for line in stack if str(self.path) in line]
        return text.partition("# ")[2].rstrip("\n")


@pytest.fixture
def source(tmp_path: Path) -> _Source:
    return _Source(tmp_path / "edited.py")


def _mine(asked: _Asked, source: _Source) -> str:
    found: list[list[str]] = []
    source.run(lambda: found.append(error(asked.format_stack)))
    asked.check()
    return source.line(found[0])


CHANGES = {
    "growing at its end": lambda source: source.grow("", "\nmore = 1\n"),
    "growing at its beginning": lambda source: source.grow("more = 1\n", ""),
    "edited": lambda source: source.write("edited, and longer"),
    "edited to the same size": lambda source: source.write("as is was"),
    "touched": lambda source: os.utime(source.path, (5, 5)),
    "deleted": lambda source: source.path.unlink(),
    "shorter": lambda source: source.path.write_text("x = 1\n"),
    "replaced": lambda source: (source.path.with_suffix(".new").write_text("\n    # by another\n"),
                                source.path.with_suffix(".new").replace(source.path)),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_with_recheck_0_a_change_shows_at_once(source: _Source, change: Callable[[_Source], Any]) -> None:
    asked = _Asked(0)
    assert_equal(asked, source.run)
    assert _mine(asked, source) == "as it was"
    change(source)
    assert_equal(asked, source.run)
    source.write("and once more")
    stack = assert_equal(asked, source.run)
    assert source.line(stack) == "and once more"


@pytest.mark.parametrize("seconds", [1, 2.5, 60])
def test_with_recheck_a_change_shows_within_that_time(source: _Source, clock: _Clock, seconds: float) -> None:
    asked = _Asked(seconds)
    for number in range(4):
        assert_equal(asked, source.run)
        before = _mine(asked, source)
        source.write(f"edited {number}")
        assert _mine(asked, source) == before  # kept: nobody looks at the files in between
        clock.now += seconds
        assert _mine(asked, source) == f"edited {number}"
        assert_equal(asked, source.run)
        clock.now += seconds / 2


def test_a_source_that_is_deleted_and_written_again(source: _Source, clock: _Clock) -> None:
    """As an update does that is not atomic: the stack shows the line again once it is back."""
    asked = _Asked(1)
    assert_equal(asked, source.run)
    source.path.unlink()
    clock.now += 1
    assert _mine(asked, source) == ""
    assert_equal(asked, source.run)
    source.write("back again")
    clock.now += 1
    assert _mine(asked, source) == "back again"
    assert_equal(asked, source.run)


def test_a_source_that_was_not_there_and_comes(source: _Source, clock: _Clock) -> None:
    asked = _Asked(1)
    source.path.unlink()
    assert_equal(asked, source.run)
    assert _mine(asked, source) == ""
    source.write("here now")
    clock.now += 1
    assert _mine(asked, source) == "here now"


def test_a_change_that_somebody_else_saw_first(source: _Source, clock: _Clock) -> None:
    """A log that formats a traceback re-reads the file; after that the file alone does not look changed to anyone."""
    asked = _Asked(1)
    assert_equal(asked, source.run)
    source.write("seen by another")
    source.run(traceback.format_stack)
    clock.now += 1
    assert _mine(asked, source) == "seen by another"
    assert_equal(asked, source.run)


def test_a_cleared_linecache_is_no_reason_for_another_answer(ours: _Asked, source: _Source) -> None:
    stacks = []
    for _ in range(2):
        linecache.clearcache()
        stacks.append(assert_equal(ours, source.run))
    assert stacks[0] == stacks[1]


def test_a_change_while_a_text_is_made(source: _Source, clock: _Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread reads the new source when our text, of the old one, has just been made: that is not kept."""
    asked, real = _Asked(1), traceback.StackSummary.format

    def format_then_edit(summary: traceback.StackSummary) -> list[str]:
        texts = list(real(summary))
        if summary[0].filename == str(source.path) and "as it was" in texts[0]:
            source.write("edited meanwhile")
            linecache.checkcache(str(source.path))
            linecache.getlines(str(source.path))
        return texts

    with monkeypatch.context() as patched:
        patched.setattr(traceback.StackSummary, "format", format_then_edit)
        assert _mine(asked, source) == "as it was"
    clock.now += 1
    assert _mine(asked, source) == "edited meanwhile"
    assert_equal(asked, source.run)


def test_a_change_between_two_frames_of_one_file(source: _Source, clock: _Clock) -> None:
    """All that is kept of a file comes from one reading of it."""
    asked = _Asked(1)
    other = _load(source.path)
    assert_equal(asked, source.run)
    source.write("edited in between")
    linecache.checkcache(str(source.path))
    assert_equal(asked, other)  # the first frame that reads the new source
    clock.now += 1
    assert _mine(asked, source) == "edited in between"
    assert_equal(asked, lambda ask: source.run(lambda: other(ask)))


def test_a_source_that_comes_and_cannot_be_decoded_is_no_failure_of_ours(source: _Source, clock: _Clock) -> None:
    """Of a frame that is not in the stack: the standard library does not look at it."""
    asked = _Asked(1)
    source.path.unlink()
    assert_equal(asked, source.run)
    source.path.write_bytes(b"# \xff\xff\n# \xff\n")
    for _ in range(2 * Guard.LIMIT):
        clock.now += 1
        assert_equal(asked)


def test_threads_that_ask_while_a_source_changes(source: _Source) -> None:
    """Each stack has the line as it was at one time or another, and all have the last one in the end."""
    asked = _Asked(0.001)
    comments = {"as it was", *(f"change {number}" for number in range(40))}
    stop, wrong = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            stack = source.run(lambda: error(asked.format_stack))
            # Stock, too, shows nothing of a file that is being written at this moment.
            if source.line(stack) not in comments | {""} or "in ask\n" not in stack[-3]:
                wrong.append(stack)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(40):
        new = source.path.with_suffix(".new")
        new.write_text(f"def run(ask):\n    return ask()  # change {number}\n")
        os.utime(new, (number, number))
        new.replace(source.path)
        time.sleep(0.001)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    time.sleep(0.002)
    assert _mine(asked, source) == "change 39"
    assert_equal(asked, source.run)


# On the module that defines S_ERROR

HOST = """
import traceback

def S_ERROR(message, callStack=None):
    if callStack is None:
        callStack = traceback.format_stack()
        callStack.pop()
    return {"OK": False, "Message": message, "CallStack": callStack}

def other():
    return traceback.format_exc()
"""


def _switch(**options: Any) -> Switch:
    [target] = error_stack.PATCH.targets
    patch = error_stack.PATCH._replace(targets=(target._replace(modules=("stack_host",)),))
    return Switch(patch, {"recheck_seconds": 1, **options})


def test_every_caller_is_reached_and_left_again(module: Callable[[str, str], types.ModuleType]) -> None:
    host = module("stack_host", HOST)
    early = module("stack_user", "from stack_host import S_ERROR as bound_before")
    switch = _switch()
    switch.put_on()
    assert switch.status()["state"] == "applied"
    assert type(host.traceback) is not types.ModuleType
    answers = []
    for patched in (True, False):
        switch.put_on() if patched else switch.take_off()
        answers.append(
            [early.bound_before("x"), host.S_ERROR("y"), host.S_ERROR("z", callStack=["given"]), host.other()]
        )
    assert answers[0] == answers[1]
    assert host.traceback is traceback
    assert "test_every_caller_is_reached" in answers[0][0]["CallStack"][-1]


def test_the_stand_in_has_all_of_the_module(ours: _Asked) -> None:
    stand_in = error_stack._Traceback(ours.format_stack)
    assert stand_in.format_exc is traceback.format_exc
    assert stand_in.StackSummary is traceback.StackSummary
    with pytest.raises(AttributeError, match="no_such_name"):
        stand_in.no_such_name  # noqa: B018


IN_TREE = "import linecache, sys\ndef _formatStackCached(skip=1): return sys._getframe(skip), linecache.cache\n"


@pytest.mark.parametrize(
    ("source", "answer"),
    [
        (HOST, None),
        (HOST.replace("format_stack", "extract_stack"), UnknownHost),
        (HOST.replace("traceback.format_stack", "_formatStackCached"), UnknownHost),
        (HOST.replace("traceback.format_stack", "_formatStackCached") + IN_TREE, InTree),
        ("S_ERROR = dict", UnknownHost),
        ("", UnknownHost),
        (HOST.replace("callStack.pop()", "del callStack[-1]"), UnknownHost),
        (HOST + "traceback = None", UnknownHost),
        ("import traceback\nfrom stack_elsewhere import S_ERROR", NotHere),
    ],
)
def test_looks_before_it_replaces(
    module: Callable[[str, str], types.ModuleType], source: str, answer: type[Exception] | None
) -> None:
    module("stack_elsewhere", HOST)
    host = module("stack_host", source)
    before = dict(vars(host))
    fitting = Fitting(host, {"recheck_seconds": 1}, Guard("error_stack", lambda reason: None))
    if answer is None:
        error_stack._look(fitting)
    else:
        with pytest.raises(answer):
            error_stack._look(fitting)
    assert dict(vars(host)) == before
