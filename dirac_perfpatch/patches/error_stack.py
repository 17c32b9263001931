"""S_ERROR: the call stack is captured without a stat() per frame.

The host calls ``traceback.format_stack()`` for every error, even for the many that are expected. It formats every frame
anew, and asks the file system whether any file in the stack has changed: 38 to 122 us.

The text of a frame depends on its code object, the current line and the source file. So we keep the text by code object
and instruction, and look at the source files again after ``recheck_seconds``. An error then takes a twentieth of that.

Why the answer is the same: each text comes from the standard library, and its rule for repeated lines is applied to the
whole stack. Where it raises, because a source cannot be decoded, so do we.

When a text follows its source file:

- Edited (size or time of change differ), growing, removed or newly written: at the first error after
  ``recheck_seconds``. Stock shows it at once. 0 makes us look at every error, as stock does.
- Edited, but with the same size and time: never, as in stock.
- In an archive, or from a loader that knows the source: as first shown, until it is forgotten (in stock by
  ``linecache.clearcache()``; here when any file in the stacks changes).
- Without a source (``exec``, frozen code): there is nothing to follow.

The patch replaces the name ``traceback`` in the module that defines S_ERROR. S_ERROR itself is bound by name in
hundreds of modules, and this way all of them are reached.

DIRAC 9.1.9 and later format the stack themselves, without ``stat()``: no line is collapsed in a recursion, and an
edited source is never read again. There the patch replaces that function, ``_formatStackCached``, which S_ERROR calls
with the number of frames to skip. The answer is that of ``traceback.format_stack()`` without the frame of S_ERROR.
"""

from __future__ import annotations

import functools
import linecache
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from itertools import groupby
from types import CodeType, FrameType, FunctionType
from typing import Any, NamedTuple

from dirac_perfpatch.patching import (
    Case,
    Database,
    Fitting,
    Guard,
    InTree,
    Meter,
    NotHere,
    Patch,
    Target,
    Timed,
    UnknownHost,
)

# From 9.0 on the second only re-exports what the first defines; 8.0 has only the second.
_MODULES = ("DIRACCommon.Core.Utilities.ReturnValues", "DIRAC.Core.Utilities.ReturnValues")
# What S_ERROR calls from 9.1.9 on, instead of traceback.format_stack.
_IN_TREE = "_formatStackCached"
# Texts kept. A service returns errors from a few thousand places. At this many all are forgotten, so that a process
# that makes code objects for ever does not hold all of them.
_MAX_TEXTS = 20_000
# The standard library shows a repeated line three times, then how often it was repeated (bpo-26823).
_SHOWN = 3
# Call chains of real services pass through three or four functions of each file.
_STEPS_PER_FILE = 4


class _Cache(NamedTuple):
    """Texts by code object and instruction, and what they depend on."""

    texts: dict[tuple[int, int], str]
    codes: dict[int, CodeType]  # held, so that no other code object can get the same id
    files: dict[str, Any]  # what linecache had of each file when its texts were made


class _Texts:
    """The formatted texts of frames, kept by code object and instruction.

    Threads share one object without a lock. Each step is one operation on a dictionary, and a text that is made twice
    is the same text. ``forget`` replaces the cache instead of emptying it, so a thread that is in the middle of a stack
    goes on with the earlier texts, as if it had been a moment faster.
    """

    def __init__(self, recheck_seconds: float) -> None:
        self._recheck_seconds = recheck_seconds
        self.due = 0.0  # time.monotonic() of the next look at the files
        self.forget()

    def forget(self) -> None:
        self.kept = _Cache({}, {}, {})

    def recheck(self, now: float) -> None:
        """Forget everything if a source file is not what it was."""
        # First, so that other threads need not look as well. If two do, they see the same.
        self.due = now + self._recheck_seconds
        if any(_has_changed(filename, before) for filename, before in self.kept.files.copy().items()):
            self.forget()

    def make(self, frame: FrameType) -> str:
        """The text of one frame, from the standard library; kept if its file did not change meanwhile."""
        code, instruction = frame.f_code, frame.f_lasti
        kept = self.kept
        before = linecache.cache.get(code.co_filename)
        (text,) = traceback.StackSummary.extract(iter([(frame, frame.f_lineno)])).format()
        after = linecache.cache.get(code.co_filename)
        # All texts of a file must come from that reading of it which recheck() compares with.
        if kept.files.setdefault(code.co_filename, after) is not after or len(kept.texts) >= _MAX_TEXTS:
            self.forget()
        elif before is after:
            kept.codes[id(code)] = code
            kept.texts[id(code), instruction] = text
        return text


def _has_changed(filename: str, before: Any) -> bool:
    linecache.checkcache(filename)
    if linecache.cache.get(filename) is not before:
        return True
    # If there was no source when the text was made: the standard library looks for one at every call.
    try:
        return before is None and bool(linecache.updatecache(filename))
    except Exception:  # now there is one that cannot be decoded; formatting its frames raises, as in stock
        return True


def _collapsed(stack: list[str]) -> list[str]:
    lines = []
    for text, run in groupby(stack):
        repeated = len(list(run)) - _SHOWN
        lines += [text] * (min(repeated, 0) + _SHOWN)
        if repeated > 0:
            lines.append(f"  [Previous line repeated {repeated} more time{'s' if repeated > 1 else ''}]\n")
    return lines


class _Traceback:
    """Stands in for the module ``traceback`` in the one module that defines S_ERROR."""

    def __init__(self, format_stack: Callable[..., list[str]]) -> None:
        self.format_stack = format_stack

    def __getattr__(self, name: str) -> Any:
        return getattr(traceback, name)


def _make_format_stack(texts: _Texts, guard: Guard) -> Callable[..., list[str]]:
    # One function with local names: in a stack of five frames each look-up and each call counts.
    get_frame, monotonic, of_sys = sys._getframe, time.monotonic, vars(sys)

    def format_stack(
        f: FrameType | None = None, limit: int | None = None, caller: FrameType | None = None
    ) -> list[str]:
        # In the module's dictionary: getattr() for what is not there makes an exception, which takes as long as five
        # frames.
        if guard.off or f is not None or limit is not None or "tracebacklimit" in of_sys:
            return traceback.format_stack(f or caller or get_frame(1), limit)
        try:
            if monotonic() >= texts.due:
                texts.recheck(monotonic())
            kept = texts.kept.texts
            stack = [""]  # S_ERROR drops the last entry, which is its own frame
            last, repeated = "", False
            try:
                frame = get_frame(2) if caller is None else caller.f_back
            except ValueError:
                frame = None  # nothing in this thread called S_ERROR
            while frame is not None:
                try:
                    text = kept[id(frame.f_code), frame.f_lasti]
                except KeyError:
                    text = texts.make(frame)
                if text == last:
                    repeated = True
                stack.append(text)
                last = text
                frame = frame.f_back
            stack.reverse()
            return _collapsed(stack) if repeated else stack
        except Exception as error:
            # First: where the standard library raises as well, that is for the host to see and no failure of ours.
            stack = traceback.format_stack(caller or get_frame(1))
            guard.failed(error)
            return stack

    return format_stack


def _compared(fitting: Fitting, ours: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """Ours. While the patch is compared with stock: takes the frame of S_ERROR before other calls get in between."""

    def patched(caller: FrameType) -> list[str]:
        return ours(caller=caller)

    call = fitting.compared("S_ERROR", patched, traceback.format_stack, _same_but_last)
    if call is patched:
        return ours

    def format_stack(f: FrameType | None = None, limit: int | None = None) -> list[str]:
        if f is not None or limit is not None:
            return traceback.format_stack(f or sys._getframe(1), limit)
        answer: list[str] = call(sys._getframe(1))
        return answer

    return format_stack


def _same_but_last(answer: Any, original: Callable[..., Any], args: Any, kwargs: Any) -> str:
    """The check against stock, without the last entry, which S_ERROR drops."""
    return "" if original(*args, **kwargs)[:-1] == answer[:-1] else "a different call stack"


def _replace(fitting: Fitting) -> None:
    guard, hosts = fitting.guard, fitting.resolve(_IN_TREE)
    format_stack = _make_format_stack(_Texts(fitting.options["recheck_seconds"]), guard)
    get_frame = sys._getframe

    # A frame instead of its distance, because there may be other frames in between while the patch is compared.
    def patched(caller: FrameType | None) -> list[str]:
        return format_stack(caller=caller)[:-1]

    def of_host(caller: FrameType | None) -> list[str]:
        skip, frame = 0, get_frame()
        while frame is not caller and frame.f_back is not None:
            skip, frame = skip + 1, frame.f_back
        answer: list[str] = hosts(skip=skip + 2)
        return answer

    def check(answer: Any, original: Any, args: Any, kwargs: Any) -> str:
        return "" if traceback.format_stack(args[0])[:-1] == answer else "a different call stack"

    call = fitting.compared("S_ERROR", patched, of_host, check)

    def compared(skip: int = 1) -> Any:
        return call(get_frame(skip - 1))

    def formatStackCached(skip: int = 1) -> Any:
        return hosts(skip=skip + 1) if guard.off else format_stack(caller=get_frame(skip - 1))[:-1]

    ours = formatStackCached if call is patched else compared
    fitting.replace(_IN_TREE, functools.update_wrapper(ours, hosts))


def _look(fitting: Fitting) -> None:
    function = fitting.resolve("S_ERROR")
    if not isinstance(function, FunctionType):
        raise UnknownHost("S_ERROR is not a plain function")
    if function.__module__ != fitting.module.__name__:
        raise NotHere
    names = set(function.__code__.co_names)
    if _IN_TREE in names:
        fitting.expect(_IN_TREE, "_getframe", "linecache")
        wrong = "shows every line of a recursion, and never an edited source"
        raise InTree("the host itself captures the stack without stat()", wrong, _replace)
    if not names.issuperset(("format_stack", "pop")) or fitting.resolve("traceback") is not traceback:
        raise UnknownHost("S_ERROR is not the function that this patch knows")


def _put_on(fitting: Fitting) -> None:
    format_stack = _make_format_stack(_Texts(fitting.options["recheck_seconds"]), fitting.guard)
    fitting.replace("traceback", _Traceback(_compared(fitting, format_stack)))


def _ask(database: Database | None) -> Any:
    from DIRAC import S_ERROR

    def nested(depth: int) -> Any:
        return nested(depth - 1) if depth else S_ERROR(1, "asked by dirac-perfpatch check")

    # The host's own version (see above) answers differently where a line is repeated more often than it is shown.
    deep = () if hasattr(sys.modules[S_ERROR.__module__], _IN_TREE) else (_SHOWN, 10)
    return [nested(depth) for depth in (*range(_SHOWN), *deep)]


def _error(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    import _thread
    import collections
    import functools
    import queue
    import tempfile

    import DIRAC

    with tempfile.TemporaryDirectory(prefix="perfpatch-") as folder:
        steps = _steps(folder, size - 1)  # and the frame of timed()

        def measure(number: int) -> float:
            chain: list[Callable[..., Any]] = [*steps, timed, functools.partial(DIRAC.S_ERROR, "x")]
            run = functools.partial(chain[0], *chain[1:])
            answers: queue.SimpleQueue[float] = queue.SimpleQueue()
            # In a thread that has no Python frame but the steps: what calls them is written in C.
            _thread.start_new_thread(collections.deque, (map(answers.put, map(run, [number])), 0))
            return answers.get(timeout=60)

        yield measure


def _steps(folder: str, number: int) -> list[Callable[..., Any]]:
    """Functions that call their first argument with the others, no two of them on the same line of the same file."""
    steps: list[Callable[..., Any]] = []
    for file in range(-(-number // _STEPS_PER_FILE)):
        path = f"{folder}/steps_{file}.py"
        names = [f"step_{file}_{place}" for place in range(_STEPS_PER_FILE)]
        source = "".join(f"def {name}(inner, *arguments):\n    return inner(*arguments)\n\n" for name in names)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(source)
        namespace: dict[str, Any] = {}
        exec(compile(source, path, "exec"), namespace)
        steps += [namespace[name] for name in names]
    return steps[:number]


PATCH = Patch(
    name="error_stack",
    targets=(Target(_MODULES, "S_ERROR", _look, _put_on, changes=("S_ERROR", _IN_TREE)),),
    ask=_ask,
    cases=(Case('S_ERROR("x")', _error, (5, 20, 40), (1, 2, 5, 10, 20, 40, 80), "frames"),),
)
