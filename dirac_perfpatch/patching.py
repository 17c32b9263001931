"""What a patch is, and how one is put on and taken off.

A :class:`Patch` is a declaration, made once in a module of :mod:`dirac_perfpatch.patches`. A :class:`Switch` is what
this process makes of it: it waits for the modules of the patch's targets, looks at each target before it replaces it,
and keeps what is needed to undo that. A :class:`Guard` stands between a patch's own code and the host.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import FunctionType, ModuleType
from typing import Any, NamedTuple, Optional

from dirac_perfpatch import imports
from dirac_perfpatch.locks import Tally, reentrant_lock
from dirac_perfpatch.notices import say_once

# States of a patch and of a target, in the words of the documentation.
APPLIED = "applied"
ARMED = "armed"
OFF = "off"
STOOD_DOWN = "stood down"
TRIPPED = "tripped"
FAILED = "failed"

# More than anybody puts around one function.
_MOST_WRAPPERS = 100
# Seconds for which an import of the host waits while another thread changes targets.
_PATIENCE = 1.0

Undo = Callable[[], None]
Wrapper = Callable[[Any, Any, Sequence[Any], Mapping[str, Any]], Any]
# Of what it is given see Fitting.compared().
Check = Callable[[Any, Callable[..., Any], "tuple[Any, ...]", "dict[str, Any]"], str]
Record = Callable[[str, Callable[..., Any], Callable[..., Any], Optional[Check]], Callable[..., Any]]
# Given a number of calls, makes them and returns the microseconds that each took. What is called is looked up anew
# each time, because a patch may have been put on or taken off in the meantime.
Meter = Callable[[int], float]
# Given what is to be called and how often, the same.
Timed = Callable[[Callable[[], Any], int], float]


class InTree(Exception):
    """Raised by a target's ``look`` when the host has the change itself."""


class NotHere(Exception):
    """Raised by a target's ``look`` when this release of the host has the target in another module."""


class UnknownHost(Exception):
    """Raised by a target's ``look`` when the target is neither the stock code nor the host's own change."""


class NoWrapt(Exception):
    """Raised when wrapt is missing or broken. Said once, not for each target that needs it."""


class NotAsked(Exception):
    """Raised by a patch's ``ask`` when the question cannot be put on this machine; the text says what is missing."""


def without_stacks(answer: Any) -> Any:
    """An answer of the host's with the call stacks of its ``S_ERROR`` taken out, for comparing.

    The stack of an error that a wrapped function returns has the wrapper's frame in it.
    """
    if isinstance(answer, dict):
        return {key: without_stacks(value) for key, value in answer.items() if key != "CallStack"}
    if isinstance(answer, (list, tuple)):
        return [without_stacks(value) for value in answer]
    return answer


def same_answer(answer: Any, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The check of a target whose answers can be compared with ``==``; see :meth:`Fitting.compared`."""
    return "" if original(*args, **kwargs) == answer else "another answer"


class Guard:
    """Stands between a patch's own code and the host: a failure is counted, said once, and trips the patch after a few.

    Wrappers read ``off`` before they do anything, and call the host's function when it is set. It is a plain attribute
    so that this costs next to nothing: threads see a change at their next call, which is all that is promised.
    """

    LIMIT = 3

    def __init__(self, name: str, trip: Callable[[str], None]) -> None:
        self.off = False
        self._name = name
        self._trip = trip
        self.begin_anew()

    def begin_anew(self) -> None:
        """Count from zero, as in a child of a fork."""
        # No lock: a signal handler may call what its thread is in, and what a fork finds locked stays so in the child.
        self._failures = Tally()
        self._events: dict[str, Tally] = {}

    def renewed(self) -> Guard:
        """A guard for when the patch is put on again, off so far, which goes on counting.

        With this one off for good, ours that somebody has wrapped, and that could not be taken off, passes all through.
        """
        guard = Guard(self._name, self._trip)
        guard.off, guard._failures, guard._events = True, self._failures, self._events
        return guard

    @property
    def failures(self) -> int:
        """How often the patch's own code failed."""
        return self._failures.value

    @property
    def events(self) -> dict[str, int]:
        """What was noted, and how often."""
        return {event: tally.value for event, tally in self._events.copy().items()}

    def failed(self, error: BaseException) -> None:
        """Note that the patch's own code failed and that the host's function answered instead. Never raises.

        Args:
            error: What was raised. Only its type and the place are told, never its text: that may hold a secret.
        """
        trips = self._failures.add() + 1 == self.LIMIT
        what = f"{type(error).__name__} at {_place(error)}"
        say_once(f"{self._name}: {what}; the host's own code answers this call")
        if trips:
            self._trip(f"its own code failed {self.LIMIT} times, last with {what}")

    def differs(self, target: str, difference: str) -> None:
        """Note that an answer was not the one that stock gives, which trips the patch at once. Never raises.

        Args:
            target: What was called.
            difference: What is different, without secrets.
        """
        self._trip(f"{target} did not answer as stock does: {difference}")

    def note(self, event: str) -> None:
        """Count an event that is rare, such as a miss of a cache.

        Args:
            event: Its name, in the plural.
        """
        (self._events.get(event) or self._events.setdefault(event, Tally())).add()


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    if trace is None:
        return "an unknown line"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


def _run_ours(*arguments: Any, **named: Any) -> Any:
    """Its code is the pattern of what :meth:`Fitting.take_over` puts in; its one constant is what is called."""
    ours: Any = "ours"
    return ours(*arguments, **named)


def _is_ours(function: Any) -> bool:
    return os.path.dirname(__file__) in getattr(getattr(function, "__code__", None), "co_filename", "")


def _reaches(found: Any, ours: Any) -> bool:
    """Whether an attribute is ours, or somebody's wrapper that leads to ours."""
    for _ in range(_MOST_WRAPPERS):
        if found is ours or getattr(found, "__code__", None) is ours:
            return True
        found = getattr(found, "__wrapped__", None)
    return False


class Fitting:
    """What a target is put on with.

    Args:
        module: The target's.
        options: Of the patch.
        guard: Of the patch.
        record: While the patch is compared with stock: makes what is called instead of ours or the host's function.
    """

    def __init__(
        self, module: ModuleType, options: Mapping[str, Any], guard: Guard, record: Record | None = None
    ) -> None:
        self.module = module
        self.options = options
        self.guard = guard
        self._record = record
        self._spec = vars(module).get("__spec__")
        self._places: list[tuple[str, Any]] = []  # the path of each attribute that was set, and what it was set to
        self.warnings: list[str] = []
        self.undoing: list[Undo] = []

    def is_reloaded(self) -> bool:
        """Whether the module has been executed again since: by ``importlib.reload``, or because it was removed."""
        module = sys.modules.get(self.module.__name__, self.module)
        return module is not self.module or vars(module).get("__spec__") is not self._spec

    def replaced(self) -> str:
        """The path of an attribute that somebody has set to something of theirs that does not lead to ours, or ""."""
        for path, ours in self._places:
            try:
                found = self.resolve(path)
            except UnknownHost:
                return path
            if not _reaches(found, ours):
                return path
        return ""

    def undo(self) -> None:
        """Take back what was done here, the last first; also when only some of it was."""
        while self.undoing:
            self.undoing.pop()()

    def warn(self, text: str) -> None:
        """Tell the operator that with this patch something is weaker than in stock: now, and as reason in status.

        Args:
            text: What is lost, and when.
        """
        self.warnings.append(text)
        say_once(text)

    def resolve(self, path: str) -> Any:
        """The object at a dotted path in the module, read from the class's own dictionary, so that it is not bound.

        Raises:
            UnknownHost: There is no such object.
        """
        owner: Any = self.module
        for name in path.split(".") if path else ():
            if name not in vars(owner):
                raise UnknownHost(f"{self.module.__name__} has no {path}")
            owner = vars(owner)[name]
        return owner

    def unbound(self, path: str) -> Callable[..., Any]:
        """The host's method as a function that is called with the instance first.

        Not simply what is in the class: a wrapper that somebody put there first is told the instance only when it is
        bound, as Python does.

        Raises:
            UnknownHost: There is no such object.
        """
        found = self.resolve(path)
        if type(found) is FunctionType:  # not isinstance: wrapt's wrappers say so of themselves
            return found

        def call(instance: Any, *args: Any, **kwargs: Any) -> Any:
            return found.__get__(instance, type(instance))(*args, **kwargs)

        return call

    def names_in(self, path: str) -> set[str]:
        """The global names and attributes that a function's code uses; none if it is not a plain function.

        Raises:
            UnknownHost: There is no such object.
        """
        found = self.resolve(path)
        # Ours of before, which somebody has wrapped or put back, only calls what is beneath it.
        while _is_ours(found):
            found = found.__wrapped__
        return set(getattr(getattr(found, "__code__", None), "co_names", ()))

    def expect(self, path: str, *names: str) -> None:
        """Refuse a function whose code does not use all of these names.

        Raises:
            UnknownHost: It does not, or there is no such function.
        """
        if not self.names_in(path).issuperset(names):
            raise UnknownHost(f"{path} is not the function that this patch knows")

    def compared(
        self, path: str, ours: Callable[..., Any], original: Callable[..., Any], check: Check | None = None
    ) -> Callable[..., Any]:
        """What is to be called where ours would be: ours itself, unless the patch is compared with stock.

        Args:
            path: What is called, as it is shown.
            ours: The patched function.
            original: The host's.
            check: Given an answer of ours, the host's function and the arguments, says what is different in stock.
        """
        return ours if self._record is None else self._record(path, ours, original, check)

    def wrap(self, path: str, wrapper: Wrapper) -> None:
        """Wrap a method where all its callers find it, in the dictionary of its class.

        Args:
            path: ``Class.method``.
            wrapper: Called as wrapt calls wrappers: function, instance, arguments, keyword arguments.
        """
        # Imported at the first use: it takes 30 to 50 ms in the versions from 2.0 on, because they import asyncio,
        # and most commands never import a module that has a method to wrap.
        try:
            import wrapt
        except Exception as error:
            raise NoWrapt(f"wrapt cannot be imported: {type(error).__name__}: {error}") from None
        original = self.resolve(path)
        ours = wrapt.FunctionWrapper(original, wrapper)

        def bound(self: Any, *args: Any, **kwargs: Any) -> Any:
            return ours.__get__(self, type(self))(*args, **kwargs)

        compared = self.compared(path, bound, self.unbound(path))
        self.replace(path, ours if compared is bound else functools.update_wrapper(compared, original))

    def stand_in(self, path: str, ours: Callable[..., Any], check: Check | None = None) -> None:
        """Put a plain function in the place of a method that is called so often that wrapt's wrapper would tell.

        Binding and calling that wrapper takes 0.5 to 2 us, as much as all the rest of a warm checkout.

        Args:
            path: ``Class.method``.
            ours: Called as the method is, with the instance first.
            check: As for :meth:`compared`.
        """
        ours = self.compared(path, ours, self.unbound(path), check)
        self.replace(path, functools.update_wrapper(ours, self.resolve(path)))

    def replace(self, path: str, ours: Any) -> None:
        """Set an attribute of the module or of a class in it, until it is undone.

        If somebody else has replaced ours when it is undone, theirs stays, and ours, which the guard has switched off
        by then, passes every call through.

        Args:
            path: Of the attribute, which is there.
            ours: What it shall be.

        Raises:
            UnknownHost: There is no such attribute.
        """
        owner_path, _, name = path.rpartition(".")
        owner, original = self.resolve(owner_path), self.resolve(path)
        setattr(owner, name, ours)
        self._places.append((path, ours))

        def undo() -> None:
            if vars(owner).get(name) is ours:
                setattr(owner, name, original)

        self.undoing.append(undo)

    def take_over(
        self, path: str, make: Callable[[Callable[..., Any]], Callable[..., Any]], check: Check | None = None
    ) -> None:
        """Have a function of the module run ours, whoever calls it and under whatever name, until it is undone.

        Names that other modules bound cannot all be reached: one may be in a closure, a default or a list. So the
        function stays the object that it is, and its code is replaced by code that calls ours. That is one assignment:
        a call that another thread has begun ends in the code that it began in.

        Args:
            path: Of a plain function, without a closure.
            make: Given the host's function as another object, which keeps the code, returns ours.
            check: As for :meth:`compared`.

        Raises:
            UnknownHost: It is something else.
        """
        function = self.resolve(path)
        if not isinstance(function, FunctionType) or function.__closure__:
            raise UnknownHost(f"{path} is not a plain function")
        code = function.__code__
        stock = FunctionType(code, function.__globals__, function.__name__, function.__defaults__)
        stock.__kwdefaults__ = function.__kwdefaults__
        pattern = _run_ours.__code__
        called = self.compared(path, make(stock), stock, check)
        constants = tuple(called if constant == "ours" else constant for constant in pattern.co_consts)
        ours = function.__code__ = pattern.replace(co_name=code.co_name, co_consts=constants)
        # Where ``inspect`` looks for the signature and the source.
        function.__dict__["__wrapped__"] = stock
        self._places.append((path, ours))

        def undo() -> None:
            if function.__code__ is ours:
                function.__code__ = code
            if function.__dict__.get("__wrapped__") is stock:
                del function.__dict__["__wrapped__"]

        self.undoing.append(undo)


class Target(NamedTuple):
    """One function or class of the host that a patch speeds up or makes safer.

    Args:
        modules: Full name of the module that defines it; several names if it moved between releases of the host.
        attribute: Its path in that module, as Python finds it there.
        look: Given the fitting, returns if the target is the stock code that the patch was written for; raises
            :class:`InTree`, :class:`NotHere` or :class:`UnknownHost` if it is not. Changes nothing.
        put_on: Given the fitting, replaces the target by means of the fitting, which can undo that.
    """

    modules: tuple[str, ...]
    attribute: str
    look: Callable[[Fitting], None]
    put_on: Callable[[Fitting], None]


class Database(NamedTuple):
    """A database of the host's that questions may be put to; only ``SELECT`` is sent.

    Args:
        host: Name or address of the server.
        port: TCP port.
        user: Name of the account.
        password: Of the account.
        name: Of the database.
    """

    host: str
    port: int
    user: str
    password: str
    name: str

    def __repr__(self) -> str:
        """Without the password."""
        return f"{type(self).__name__}({self.host}:{self.port}, {self.user}, {self.name})"


class Case(NamedTuple):
    """One call of the host by which a patch is benchmarked.

    Args:
        name: The call, as it is shown.
        prepare: Given a size, perhaps a database, and :func:`dirac_perfpatch.bench.timed`, makes ready what the call
            needs, yields what measures it, and gives back what it took. Raises :class:`NotAsked` when that cannot be
            had on this machine.
        sizes: Those that ``dirac-perfpatch bench`` measures.
        growth: Those that ``make bench`` measures, and draws if there are several; none to leave the call out there.
        unit: What a size counts, in the plural; empty if the call has no size.
        in_turn: Whether so many calls in a row, one for each of the size, are needed to touch everything once.
        settle_seconds: Without calls, during the warm-up, until what the patch keeps is kept.
    """

    name: str
    prepare: Callable[[int, Database | None, Timed], Iterator[Meter]]
    sizes: tuple[int, ...] = (1,)
    growth: tuple[int, ...] = ()
    unit: str = ""
    in_turn: bool = False
    settle_seconds: float = 0.0

    def label(self, size: int) -> str:
        """The call with its size, for a table."""
        if not self.unit:
            return self.name
        return f"{self.name}, {size} {self.unit if size > 1 else self.unit[:-1]}"


class Patch(NamedTuple):
    """The declaration of a patch.

    Args:
        name: As in the YAML.
        targets: What it touches, each put on when its own module is there.
        ask: Puts a question to the host that is installed, through the targets, and returns an answer that can be
            compared: asked with the patch on and again with it off, it must be equal. Raises :class:`NotAsked`.
        cases: What is measured to show what the patch does.
        calls_stand_alone: Whether a call leaves nothing for the next one to meet, so that single calls can be compared.
        wants: Names of the patches without which this one gives less; said in status when they are off.
        spares: What the calls of the patched arm spared, and the event that stands for a call that did not.
    """

    name: str
    targets: tuple[Target, ...]
    ask: Callable[[Database | None], Any]
    cases: tuple[Case, ...] = ()
    calls_stand_alone: bool = True
    wants: tuple[str, ...] = ()
    spares: tuple[str, str] | None = None


class _TargetState:
    """What has become of one target in this process."""

    def __init__(self, target: Target) -> None:
        self.declared = target
        self.module = target.modules[0]  # where it is, or the first place where it may be
        self.state = OFF
        self.reason = ""
        # The last one is of the module as it is now, the others of what was there before.
        self.fittings: list[Fitting] = []
        self.callback: imports.Callback | None = None
        # Failed on something that was not there: perhaps another thread was executing the module by hand.
        self.incomplete = False

    def look(self) -> tuple[str, str]:
        """The state and the reason, by what is there now."""
        replaced = self.fittings[-1].replaced() if self.state == APPLIED else ""
        if replaced:
            return FAILED, f"somebody has replaced {replaced} since; their code runs there"
        return self.state, self.reason


# Held while targets of any patch change: the patches of the pool share what they put on.
_changing = reentrant_lock()


class Switch:
    """One patch in this process: puts its targets on as their modules come, and takes them off again."""

    def __init__(self, patch: Patch, options: Mapping[str, Any], on_trip: Callable[[], None] = lambda: None) -> None:
        self.patch = patch
        self._on_trip = on_trip
        self.guard = Guard(patch.name, self.trip)
        self._options = options
        self._targets = [_TargetState(target) for target in patch.targets]
        self._tripped = ""
        self._comparison: Any = None

    def configure(self, options: Mapping[str, Any]) -> None:
        """Change the options; they are taken up when the patch is put on again."""
        self._options = options

    def put_on(self, comparison: Any = None) -> None:
        """Put on what is there, and wait for the rest; nothing if the patch has tripped. Never raises.

        Args:
            comparison: With stock, a :class:`dirac_perfpatch.comparison.arms.Comparison`, until it is taken off again.
        """
        if self._tripped:
            return
        self.guard.off = False
        self._comparison = comparison
        if comparison is not None:
            comparison.resume()
        for target in self._targets:
            if target.state in (OFF, FAILED):
                self._wait_for(target)

    def _wait_for(self, target: _TargetState) -> None:
        def complete(module: ModuleType) -> None:
            self._put_on(target, module)

        target.state, target.reason, target.incomplete = ARMED, f"waits for {target.module}", False
        target.callback = complete
        try:
            for module in target.declared.modules:
                imports.when_complete(module, complete)
        except Exception as error:
            self._fail(target, error)

    def _put_on(self, target: _TargetState, module: ModuleType) -> None:
        """Runs inside an import of the host, so it must not raise, and must not wait for a thread that waits for that
        import: one that puts on something else, and imports what it needs for that. What gives up here is armed, and
        :meth:`catch_up` tries again."""
        if not _changing.acquire(timeout=_PATIENCE):
            return
        try:
            if target.state == ARMED:
                self._put_on_now(target, module)
        finally:
            _changing.release()

    def _put_on_now(self, target: _TargetState, module: ModuleType) -> None:
        record = None if self._comparison is None else self._comparison.record
        fitting = Fitting(module, self._options, self.guard, record)
        name = target.module
        try:
            target.module = module.__name__
            target.declared.look(fitting)
            target.declared.put_on(fitting)
        except NotHere:
            target.module = name
            return
        except InTree as fact:
            target.state, target.reason = STOOD_DOWN, str(fact)
        except Exception as error:
            with suppress(Exception):  # what cannot be undone is passed through by the guard
                fitting.undo()
            self._fail(target, error)
        else:
            target.fittings.append(fitting)
            target.state, target.reason = APPLIED, "; ".join(fitting.warnings)
        self._stop_waiting(target)
        if self._tripped:  # by a signal handler, in the middle of this
            self._take_off_one(target)

    def catch_up(self) -> None:
        """Look again for modules that are waited for or were not complete, and put targets on again whose module was
        executed again.

        What was put on before stays: who holds an object of the module as it was calls that one. Never raises.
        """
        with _changing:
            for target in self._targets:
                reloaded = target.fittings and target.fittings[-1].is_reloaded()
                if target.state == ARMED or target.incomplete or reloaded:
                    self._stop_waiting(target)
                    self._wait_for(target)

    def _fail(self, target: _TargetState, error: Exception) -> None:
        if isinstance(error, NoWrapt):
            target.state, target.reason = FAILED, str(error)
            say_once(f"{error}; DIRAC runs its own code where a patch needs it")
            return
        target.incomplete = isinstance(error, UnknownHost)
        text = str(error) if target.incomplete else f"{type(error).__name__}: {error}"
        target.state, target.reason = FAILED, text
        where = f"{target.module}.{target.declared.attribute}"
        say_once(f"{self.patch.name}: cannot patch {where}: {text}; DIRAC runs its own code there")

    def take_off(self) -> list[str]:
        """Put every original back and wait for nothing any more. Calls that are under way end as they began.

        Returns:
            What could not be taken off, in words; the guard is off, so the host's own code runs all the same.
        """
        failures = []
        with _changing:
            if self._comparison is not None:
                self._comparison.leave()  # before the guard, which it sets
                self._comparison = None
            self.guard.off = True
            self.guard = self.guard.renewed()
            for target in self._targets:
                try:
                    self._take_off_one(target)
                except Exception as error:
                    target.state, target.reason = FAILED, f"taking it off failed with {type(error).__name__}"
                    failures.append(target.reason)
        return failures

    def _take_off_one(self, target: _TargetState) -> None:
        self._stop_waiting(target)
        while target.fittings:
            target.fittings[-1].undo()
            target.fittings.pop()
        target.state, target.reason, target.incomplete = OFF, "", False

    def _stop_waiting(self, target: _TargetState) -> None:
        if target.callback is not None:
            for module in target.declared.modules:
                imports.forget(module, target.callback)
        target.callback = None

    def trip(self, reason: str) -> None:
        """Take the patch off for the rest of this process because it cannot be trusted. Never raises.

        Args:
            reason: A sentence for the operator.
        """
        with _changing:
            self._tripped = "; ".join([reason, *self.take_off()])
        say_once(f"{self.patch.name}: tripped: {reason}; DIRAC runs its own code from now on in this process")
        with suppress(Exception):  # who cannot be told
            self._on_trip()

    def status(self) -> dict[str, Any]:
        """This patch's entry of :func:`dirac_perfpatch.status`."""
        self.catch_up()
        with _changing:
            found = [(target, *target.look()) for target in self._targets]
            targets = [
                {"module": f.module, "attribute": f.declared.attribute, "state": state, "reason": reason}
                for f, state, reason in found
            ]
            state, reason = self._summary([(state, reason) for _, state, reason in found])
        return {
            "name": self.patch.name,
            "state": state,
            "reason": reason,
            "targets": targets,
            "failures": self.guard.failures,
            "mode": self._mode(),
        }

    def _mode(self) -> str:
        if self._comparison is not None:
            return "ab"
        return "off" if self.guard.off else "on"

    def _summary(self, targets: list[tuple[str, str]]) -> tuple[str, str]:
        """The patch is what the worst of its targets is; it is applied when all that this process has loaded are."""
        if self._tripped:
            return TRIPPED, self._tripped
        found: dict[str, str] = {}
        for state, reason in targets:
            found.setdefault(state, reason)
        if APPLIED in found and FAILED not in found:
            return APPLIED, "; ".join(filter(None, (found[APPLIED], found.get(ARMED, ""))))
        for state in (FAILED, STOOD_DOWN, ARMED):
            if state in found:
                return state, found[state]
        return OFF, ""
