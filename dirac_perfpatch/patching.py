"""The declaration of a patch, and how a process applies a patch and takes it off.

A :class:`Patch` is a declaration, made once in a module of :mod:`dirac_perfpatch.patches`. A :class:`Switch` applies it
in this process: it waits for the modules of the patch's targets, inspects each target before it changes it, and keeps
what is needed to undo the change. A :class:`Guard` protects the host from failures of the patch's own code.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple, Optional

from dirac_perfpatch import imports, known
from dirac_perfpatch.locks import Tally, reentrant_lock
from dirac_perfpatch.notices import say_once

# The states of a patch and of a target, as the documentation names them.
APPLIED = "applied"
ARMED = "armed"
OFF = "off"
STOOD_DOWN = "stood down"
TRIPPED = "tripped"
FAILED = "failed"

# How the reason ends if a target stays off because its code is unknown.
_FORCE = "`force: true` applies the patch all the same"
_GENERATOR = 0x20  # inspect.CO_GENERATOR
# Seconds for which an import of the host waits while another thread changes targets.
_PATIENCE = 1.0

Wrapper = Callable[[Any, Any, Sequence[Any], Mapping[str, Any]], Any]
# See Fitting.compared() for its arguments.
Check = Callable[[Any, Callable[..., Any], "tuple[Any, ...]", "dict[str, Any]"], str]
Record = Callable[[str, Callable[..., Any], Callable[..., Any], Optional[Check]], Callable[..., Any]]
# Makes a number of calls and returns the microseconds per call. It looks up the function each time, because the patch
# may have been applied or taken off since.
Meter = Callable[[int], float]
# Calls a function a number of times and returns the microseconds per call.
Timed = Callable[[Callable[[], Any], int], float]


class Refusal(Exception):
    """A patch, or a part of it, cannot be used on this host; the text is the reason, for the operator."""


class InTree(Refusal):
    """Raised by a target's ``look``: the host has the change itself.

    Args:
        fact: What the host does, for the operator.
        wrong: What its version of the change gets wrong, after "which"; empty if nothing.
        replace: If it is wrong: given the fitting, puts ours in the place of the host's version. The host's version is
            the other arm of a comparison, and what runs once the guard is off; a check compares with the answer of the
            uncached code. Undoing leaves nothing in the host's cache.
    """

    def __init__(self, fact: str, wrong: str = "", replace: Callable[[Fitting], None] | None = None) -> None:
        super().__init__(fact)
        self.wrong = wrong
        self.replace = replace

    def outcome(self, replaces: bool) -> tuple[Callable[[Fitting], None] | None, str]:
        """How to replace the host's version, or None to stand down; and why.

        Args:
            replaces: Whether the operator wants the host's version to be replaced where it is wrong.
        """
        if self.replace is None:
            return None, str(self)
        if not replaces:
            return None, f"{self}; left to it, although its version {self.wrong}"
        return self.replace, f"replaces the host's own version, which {self.wrong}"


class TooLate(InTree):
    """Raised by a target's ``look``: the module was imported before the patch could change how it is executed."""


class OutOfReach(InTree):
    """Raised by a target's ``look``: the host is set up so that it never calls the target."""


class NotHere(Refusal):
    """Raised by a target's ``look``: this release of the host has the target in another module."""


class UnknownHost(Refusal):
    """Raised by a target's ``look``: the target is neither the stock code nor the host's own version of the change."""


class NoWrapt(Refusal):
    """Raised if wrapt is missing or broken; reported once, not for each target that needs it."""


class NotAsked(Refusal):
    """Raised by a patch's ``ask`` or a case: this machine lacks what the call needs."""


def without_stacks(answer: Any) -> Any:
    """Copy an answer of the host for a comparison, without the call stacks that ``S_ERROR`` puts into it.

    If the function is wrapped, the stack contains the wrapper's frame.
    """
    if isinstance(answer, dict):
        return {key: without_stacks(value) for key, value in answer.items() if key != "CallStack"}
    if isinstance(answer, (list, tuple)):
        return [without_stacks(value) for value in answer]
    return answer


def same_answer(answer: Any, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The check for targets whose answers can be compared with ``==``; see :meth:`Fitting.compared`."""
    return "" if original(*args, **kwargs) == answer else "a different answer"


def against(uncached: Callable[..., Any], check: Check = same_answer) -> Check:
    """The check for a target that the host has in-tree: it compares with the uncached function.

    The host's own answer may come from the cache that we replace because it is wrong.
    """
    return lambda answer, original, args, kwargs: check(answer, uncached, args, kwargs)


class Guard:
    """Counts the failures of a patch's own code, reports each place once, and trips the patch at the limit.

    A wrapper reads ``off`` first and, if it is set, calls the host's function. It is a plain attribute because reading
    it must cost next to nothing; other threads see a change at their next call, and nothing more is promised.
    """

    LIMIT = 3

    def __init__(self, name: str, trip: Callable[[str], None]) -> None:
        self.off = False
        self._name = name
        self._trip = trip
        self.begin_anew()

    def begin_anew(self) -> None:
        """Count from zero, as in a child of a fork."""
        # No lock: a signal handler may re-enter its own thread, and a lock that is held during a fork stays held in
        # the child.
        self._failures = Tally()
        self._events: dict[str, Tally] = {}

    def renewed(self) -> Guard:
        """A guard for the next time that the patch is applied: off for now, with the same counters.

        The old guard stays off for good. So a wrapper of ours that could not be removed, because other code has wrapped
        it, passes every call through.
        """
        guard = Guard(self._name, self._trip)
        guard.off, guard._failures, guard._events = True, self._failures, self._events
        return guard

    @property
    def failures(self) -> int:
        """The number of failures of the patch's own code."""
        return self._failures.value

    @property
    def events(self) -> dict[str, int]:
        """The events that were noted, with their numbers."""
        return {event: tally.value for event, tally in self._events.copy().items()}

    def failed(self, error: BaseException) -> None:
        """Count a failure of the patch's own code, after which the host's function answers. Never raises.

        Only the type and the place of the error are reported: its text may contain a secret.
        """
        trips = self._failures.add() + 1 == self.LIMIT
        what = f"{type(error).__name__} at {_place(error)}"
        say_once(f"{self._name}: {what}; the host's own code answers this call")
        if trips:
            self._trip(f"its own code failed {self.LIMIT} times, last with {what}")

    def differs(self, target: str, difference: str) -> None:
        """Trip the patch at once because a target's answer differs from stock, and say how. Never raises."""
        self._trip(f"{target} did not answer as stock does: {difference}")

    def note(self, event: str) -> None:
        """Count a rare event, such as a cache miss. Its name is in the plural."""
        (self._events.get(event) or self._events.setdefault(event, Tally())).add()


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    if trace is None:
        return "an unknown line"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


def _run_ours(*arguments: Any, **named: Any) -> Any:
    """The pattern of the code that :meth:`Fitting.take_over` assigns; ours replaces its one constant."""
    ours: Any = "ours"
    return ours(*arguments, **named)


def _generate_ours(*arguments: Any, **named: Any) -> Any:
    """The pattern for generators: Python 3.13 warns if a function is given code of another kind."""
    ours: Any = "ours"
    return (yield from ours(*arguments, **named))


def _is_ours(function: Any) -> bool:
    return os.path.dirname(__file__) in getattr(getattr(function, "__code__", None), "co_filename", "")


def _is_wrapper_of_ours(found: Any) -> bool:
    """Whether an object is a wrapper of ours itself. Other proxies pass on what we would look at."""
    kind = type(found)
    if kind is getattr(sys.modules.get("wrapt"), "FunctionWrapper", None):
        return _is_ours(found._self_wrapper)
    return _is_ours(found) if kind is FunctionType else kind.__module__.partition(".")[0] == __package__


def _is_taken_over(function: Any) -> bool:
    code, patterns = function.__code__, (_run_ours.__code__, _generate_ours.__code__)
    return any(
        (code.co_filename, code.co_firstlineno) == (pattern.co_filename, pattern.co_firstlineno) for pattern in patterns
    )


def _reaches(found: Any, ours: Any) -> bool:
    """Whether an object is ours, or wraps ours."""
    for _ in range(known.MOST_WRAPPERS):
        if found is ours or getattr(found, "__code__", None) is ours:
            return True
        found = getattr(found, "__wrapped__", None)
    return False


def _rebind(name: str, before: Any, after: Any) -> None:
    """Set a variable in every loaded module in which it refers to a given object."""
    for module in list(sys.modules.values()):
        with suppress(Exception):  # whatever somebody has put there
            variables = object.__getattribute__(module, "__dict__")  # the plain way, which loads no lazy module
            if variables.get(name) is before:
                variables[name] = after


def _unbound(method: Any) -> Callable[..., Any]:
    """A method as a function that takes the instance first. A wrapper is bound, or it would not learn the instance."""
    if type(method) is FunctionType:  # not isinstance(): wrapt's wrappers claim to be functions
        return method

    def call(instance: Any, *args: Any, **kwargs: Any) -> Any:
        return method.__get__(instance, type(instance))(*args, **kwargs)

    return call


class Fitting:
    """Changes one target in one module, and undoes the change.

    Args:
        module: The host's module that defines the target.
        options: The patch's.
        guard: The patch's.
        record: In a comparison with stock, makes what is called instead of ours or the host's function.
    """

    def __init__(
        self, module: ModuleType, options: Mapping[str, Any], guard: Guard, record: Record | None = None
    ) -> None:
        self.module = module
        self.options = options
        self.guard = guard
        self._record = record
        self._spec = vars(module).get("__spec__")
        self._places: list[tuple[str, Any]] = []  # the path of each changed attribute, and its new value or code
        self.warnings: list[str] = []
        self.undoing: list[Callable[[], None]] = []

    def is_reloaded(self) -> bool:
        """Whether the module was executed again, by ``importlib.reload`` or after its removal from ``sys.modules``."""
        module = sys.modules.get(self.module.__name__, self.module)
        return module is not self.module or vars(module).get("__spec__") is not self._spec

    def replaced(self) -> str:
        """The path of an attribute in which other code has put something that does not wrap ours, or ""."""
        for path, ours in self._places:
            with suppress(UnknownHost):
                if _reaches(self.resolve(path), ours):
                    continue
            return path
        return ""

    def undo(self) -> None:
        """Undo the changes made so far, in reverse order."""
        while self.undoing:
            self.undoing.pop()()

    def warn(self, text: str) -> None:
        """Warn the operator, once and in status, of something that this patch makes weaker than in stock."""
        self.warnings.append(text)
        say_once(text)

    def resolve(self, path: str) -> Any:
        """The object at a dotted path in the module; raises :class:`UnknownHost` if there is none.

        A class's attribute is read from its own dictionary, so it is not bound and not inherited.
        """
        owner: Any = self.module
        for name in path.split(".") if path else ():
            if name not in vars(owner):
                raise UnknownHost(f"{self.module.__name__} has no {path}")
            owner = vars(owner)[name]
        return owner

    def unbound(self, path: str) -> Callable[..., Any]:
        """The host's method as a function that takes the instance first; raises :class:`UnknownHost`."""
        return _unbound(self.resolve(path))

    def names_in(self, path: str) -> set[str]:
        """The names that a plain function's code uses, or none for another object; raises :class:`UnknownHost`."""
        found = self.resolve(path)
        # An earlier wrapper of ours, which other code has wrapped or put back, only calls what it wraps.
        while _is_ours(found):
            found = found.__wrapped__
        return set(getattr(getattr(found, "__code__", None), "co_names", ()))

    def expect(self, path: str, *names: str) -> None:
        """Raise :class:`UnknownHost` unless there is a function at the path whose code uses all these names."""
        if not self.names_in(path).issuperset(names):
            raise UnknownHost(f"{path} is not the function that this patch knows")

    def unknown(self, paths: Iterable[str]) -> str:
        """The first of these paths where the code is not that of a release of the host that we know, or ""."""
        for path in paths:
            with suppress(UnknownHost):  # this release has none
                if not known.is_known(path, self.resolve(path), _is_wrapper_of_ours):
                    return path
        return ""

    def compared(
        self, path: str, ours: Callable[..., Any], original: Callable[..., Any], check: Check | None = None
    ) -> Callable[..., Any]:
        """The function to call instead of ours: ours itself, unless the patch is compared with stock.

        Args:
            path: The name of the function, as displayed.
            ours: The patched function.
            original: The host's.
            check: Given an answer of ours, the host's function and the arguments, says how stock differs, or "".
        """
        return ours if self._record is None else self._record(path, ours, original, check)

    def wrap(self, path: str, wrapper: Wrapper) -> None:
        """Wrap a method in its class, where all callers find it; raises :class:`NoWrapt` or :class:`UnknownHost`.

        Args:
            path: ``Class.method``.
            wrapper: Called as wrapt calls wrappers: function, instance, arguments, keyword arguments.
        """
        # Imported only here: from 2.0 on it takes 30 to 50 ms, because it imports asyncio, and most commands never
        # import a module with a method to wrap.
        try:
            import wrapt
        except Exception as error:
            raise NoWrapt(f"wrapt cannot be imported: {type(error).__name__}: {error}") from None
        original = self.resolve(path)
        ours = wrapt.FunctionWrapper(original, wrapper)
        function = _unbound(ours)
        called = self.compared(path, function, _unbound(original))
        self.replace(path, ours if called is function else functools.update_wrapper(called, original))

    def stand_in(self, path: str, ours: Callable[..., Any], check: Check | None = None) -> None:
        """Replace a method by a plain function, if it is called so often that the cost of wrapt's wrapper matters.

        Binding and calling that wrapper takes 0.5 to 2 us, as much as the rest of a warm checkout.

        Args:
            path: ``Class.method``.
            ours: Takes the method's arguments, with the instance first.
            check: As for :meth:`compared`.
        """
        ours = self.compared(path, ours, self.unbound(path), check)
        self.replace(path, functools.update_wrapper(ours, self.resolve(path)))

    def replace(self, path: str, ours: Any) -> None:
        """Set an existing attribute of the module, or of a class in it, until undone.

        If other code has replaced ours meanwhile, undoing leaves its value there. If that calls ours, ours passes every
        call through, because the guard is off by then. Raises :class:`UnknownHost` if there is no such attribute.
        """
        owner_path, _, name = path.rpartition(".")
        owner, original = self.resolve(owner_path), self.resolve(path)
        setattr(owner, name, ours)
        self._places.append((path, ours))

        def undo() -> None:
            if vars(owner).get(name) is ours:
                setattr(owner, name, original)

        self.undoing.append(undo)

    def replace_everywhere(self, path: str, ours: Any) -> None:
        """Replace a module's function under its name in every loaded module, until undone.

        For what :meth:`take_over` cannot change, such as an object of ``functools.cache``. Not reached: another name, a
        default, a closure, a list. A module that is imported meanwhile binds ours, and gets the original back, too.
        """
        original = self.resolve(path)
        self.undoing.append(functools.partial(_rebind, path, ours, original))
        self.replace(path, ours)
        _rebind(path, original, ours)

    def replace_cached(
        self, path: str, make: Callable[[Callable[..., Any], Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        """Put ours in the place of a function of the module whose answers the host keeps, until undone.

        Undoing empties the host's cache. A check compares with the function below the cache. Every caller is reached if
        the host's is a plain function, else those that :meth:`replace_everywhere` reaches.

        Args:
            path: What ``functools.cache`` or ``cachetools.cached`` has made; else :class:`UnknownHost` is raised.
            make: Given the function below the cache and the host's, returns ours.
        """
        hosts = self.resolve(path)
        uncached, kept = getattr(hosts, "__wrapped__", None), getattr(hosts, "cache", None)
        clear = getattr(hosts, "cache_clear", getattr(kept, "clear", None))  # the first is not in every cachetools
        if uncached is None or clear is None:
            raise UnknownHost(f"{path} keeps its answers in an unknown way")
        self.undoing.append(clear)
        if isinstance(hosts, FunctionType):
            self.take_over(path, lambda copied: make(uncached, copied), against(uncached))
            return
        ours = self.compared(path, make(uncached, hosts), hosts, against(uncached))
        functools.update_wrapper(ours, uncached).__dict__["cache_clear"] = clear
        self.replace_everywhere(path, ours)

    def take_over(
        self, path: str, make: Callable[[Callable[..., Any]], Callable[..., Any]], check: Check | None = None
    ) -> None:
        """Make a function of the module run ours, for every caller and under every name, until undone.

        Not all the names that other modules have bound can be found: one may be in a closure, a default or a list. So
        the function object stays, and its code is replaced by code that calls ours. That is one assignment: a call in
        progress in another thread ends in the code in which it began.

        Args:
            path: A plain function; anything else raises :class:`UnknownHost`. If another patch of ours stands in for
                it, the function below is meant, so the two may be undone in any order.
            make: Given a copy of the host's function, which keeps the original code, returns ours.
            check: As for :meth:`compared`.
        """
        function = self.resolve(path)
        while _is_ours(function) and not _is_taken_over(function):  # another patch stands in for it
            function = function.__wrapped__
        if not isinstance(function, FunctionType):
            raise UnknownHost(f"{path} is not a plain function")
        ours, undo = swap_code(function, lambda stock: self.compared(path, make(stock), stock, check))
        self._places.append((path, ours))
        self.undoing.append(undo)


def swap_code(
    function: FunctionType, make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> tuple[CodeType, Callable[[], None]]:
    """Give a function code that calls ours.

    Args:
        function: A plain function or a generator.
        make: Given a copy of the function, which keeps the original code, returns ours.

    Returns:
        The new code, and a function that undoes the change.
    """
    code, wrapped = function.__code__, function.__dict__.get("__wrapped__")
    stock = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    stock.__kwdefaults__ = function.__kwdefaults__
    pattern, called = (_generate_ours if code.co_flags & _GENERATOR else _run_ours).__code__, make(stock)
    constants = tuple(called if constant == "ours" else constant for constant in pattern.co_consts)
    # A function keeps its closure, so its code must have as many free variables; ours does not use them.
    ours = pattern.replace(co_name=code.co_name, co_consts=constants, co_freevars=code.co_freevars)
    function.__code__ = ours
    # Where inspect looks for the signature and the source.
    function.__dict__["__wrapped__"] = wrapped or stock

    def undo() -> None:
        if function.__code__ is ours:
            function.__code__ = code
        if wrapped is None and function.__dict__.get("__wrapped__") is stock:
            del function.__dict__["__wrapped__"]

    return ours, undo


class Target(NamedTuple):
    """One function or class of the host that a patch changes.

    Args:
        modules: The full name of the module that defines it; several names if it moved between releases of the host.
        attribute: Its path in that module.
        look: Given the fitting, returns if the target is the stock code that the patch was written for; otherwise
            raises :class:`InTree`, :class:`NotHere` or :class:`UnknownHost`. Changes nothing.
        put_on: Given the fitting, changes the stock code through it.
        prepare: Given the spec of the module before its execution, and the guard, changes how it is executed. Must not
            raise. Only for patches in :data:`dirac_perfpatch.patches.AT_IMPORT`, with one module per target.
        changes: The paths of the functions that must be code of a release of the host; None for the attribute alone.
    """

    modules: tuple[str, ...]
    attribute: str
    look: Callable[[Fitting], None]
    put_on: Callable[[Fitting], None]
    prepare: Callable[[ModuleSpec, Guard], None] | None = None
    changes: tuple[str, ...] | None = None

    def functions(self) -> tuple[str, ...]:
        """The paths of the functions that it changes."""
        return (self.attribute,) if self.changes is None else self.changes

    def judge(self, fitting: Fitting, replaces: bool, forced: bool) -> tuple[Callable[[Fitting], None] | None, str]:
        """How to put it on, or None to stand down; and why. Raises what ``look`` does, except :class:`InTree`.

        Args:
            fitting: Of the module, in which nothing is changed.
            replaces: Whether the host's own version of the change is replaced where it is wrong.
            forced: Whether code is changed that is of no known release of the host.
        """
        unknown = "" if forced else fitting.unknown(self.functions())
        put_on: Callable[[Fitting], None] | None = self.put_on
        why = ""
        try:
            self.look(fitting)
        except InTree as fact:
            put_on, why = fact.outcome(replaces)
        except UnknownHost:
            if not unknown:
                raise
        if unknown and put_on is not None:
            where = f"{fitting.module.__name__}.{unknown}"
            return None, f"{where} is not the code of any DIRAC release known to this version of the plugin; {_FORCE}"
        return put_on, why


class Database(NamedTuple):
    """A database of the host, for ``ask`` and the cases of a patch, which only send ``SELECT``."""

    host: str
    port: int
    user: str
    password: str
    name: str

    def __repr__(self) -> str:
        """Without the password."""
        return f"{type(self).__name__}({self.host}:{self.port}, {self.user}, {self.name})"


class Case(NamedTuple):
    """One call of the host that is measured with and without a patch.

    Args:
        name: The call, as displayed.
        prepare: A generator that sets up the call, yields a meter and cleans up. Given a size, a database or None, and
            :func:`dirac_perfpatch.bench.timed`. Raises :class:`NotAsked` if this machine lacks what the call needs.
        sizes: The sizes that ``dirac-perfpatch bench`` measures.
        growth: The sizes that ``make bench`` measures, and plots if there are several; empty to omit the call there.
        unit: What a size counts, in the plural; empty if the call has no size.
        in_turn: Whether it takes as many calls as the size to touch every item once.
        settle_seconds: How long the warm-up pauses between calls until the patch caches its answer.
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
        name: As in ``patches.yaml``.
        targets: What it changes; each target is changed when its own module is complete.
        ask: Calls the installed host through the targets and returns an answer that must be equal with the patch on
            and off. Raises :class:`NotAsked`.
        cases: The calls that are measured.
        calls_stand_alone: Whether a call has no effect on the next one, so that single calls can be compared.
        wants: Names of patches without which this one is less effective; status reports those that are off.
        spares: What the patched calls avoid, and the event that counts the calls which did not avoid it.
    """

    name: str
    targets: tuple[Target, ...]
    ask: Callable[[Database | None], Any]
    cases: tuple[Case, ...] = ()
    calls_stand_alone: bool = True
    wants: tuple[str, ...] = ()
    spares: tuple[str, str] | None = None


class _TargetState:
    """One target in this process."""

    def __init__(self, target: Target) -> None:
        self.declared = target
        self.module = target.modules[0]  # where it is; until that is known, the first place to look
        self.state = OFF
        self.reason = ""
        # The last one is of the present module, the others of the same module before it was executed again.
        self.fittings: list[Fitting] = []
        self.callback: imports.Callback | None = None
        # Failed because something was missing: another thread may be executing the module by hand.
        self.incomplete = False

    def entry(self) -> dict[str, str]:
        """This target's entry of :func:`dirac_perfpatch.status`."""
        state, reason = self.state, self.reason
        replaced = self.fittings[-1].replaced() if state == APPLIED else ""
        if replaced:
            state, reason = FAILED, f"other code has replaced {replaced}, and runs instead"
        return {"module": self.module, "attribute": self.declared.attribute, "state": state, "reason": reason}


# Held while targets of any patch change, because the patches of the pool share some changes.
_changing = reentrant_lock()


class Switch:
    """One patch in this process: applies it to its targets as their modules come, and takes it off."""

    def __init__(self, patch: Patch, options: Mapping[str, Any], on_trip: Callable[[], None] = lambda: None) -> None:
        self.patch = patch
        self._on_trip = on_trip
        self.guard = Guard(patch.name, self.trip)
        self.configure(options)
        self._targets = [_TargetState(target) for target in patch.targets]
        self._tripped = ""
        self._comparison: Any = None

    def configure(self, options: Mapping[str, Any], replaces: bool = True, forced: bool = False) -> None:
        """Set what the next :meth:`put_on` uses: the options, and those of :meth:`Target.judge`."""
        self._options, self._replaces, self._forced = options, replaces, forced

    def put_on(self, comparison: Any = None) -> None:
        """Apply the patch to the targets that are loaded and wait for the others, unless it has tripped. Never raises.

        Args:
            comparison: A :class:`dirac_perfpatch.comparison.arms.Comparison` with stock, until the next take_off().
        """
        if self._tripped:
            return
        self.guard.off = False
        self._comparison = comparison
        if comparison is not None:
            comparison.resume()
        for target in self._targets:
            if target.state in (OFF, FAILED) or unknown([target.entry()]):  # it may be another function by now
                self._wait_for(target)

    def _wait_for(self, target: _TargetState) -> None:
        target.state, target.reason, target.incomplete = ARMED, f"waits for {target.module}", False
        target.callback = callback = functools.partial(self._put_on, target)
        prepare = target.declared.prepare
        try:
            if prepare is not None:
                guard = self.guard
                imports.before_execution(target.module, lambda spec: prepare(spec, guard))
            for module in target.declared.modules:
                if target.callback is callback:  # not found in an earlier module
                    imports.when_complete(module, callback)
        except Exception as error:
            self._fail(target, error)

    def _put_on(self, target: _TargetState, module: ModuleType) -> None:
        """Runs inside an import of the host, so it must not raise. Nor must it wait for a thread that waits for this
        import, such as one that changes another target and imports what that needs. If it gives up, the target stays
        armed, and :meth:`catch_up` tries again."""
        if not _changing.acquire(timeout=_PATIENCE):
            return
        try:
            if target.state == ARMED:
                self._put_on_now(target, module)
        finally:
            _changing.release()

    def _put_on_now(self, target: _TargetState, module: ModuleType) -> None:
        comparison = self._comparison  # read once: a signal handler may take the patch off
        record = None if comparison is None else comparison.record
        fitting = Fitting(module, self._options, self.guard, record)
        name = target.module
        try:
            target.module = module.__name__
            put_on, why = target.declared.judge(fitting, self._replaces, self._forced)
            if put_on is not None:
                put_on(fitting)
        except NotHere:
            target.module = name
            return
        except Exception as error:
            with suppress(Exception):  # what cannot be undone passes calls through once the guard is off
                fitting.undo()
            self._fail(target, error)
        else:
            if put_on is None:
                target.state, target.reason = STOOD_DOWN, why
            else:
                target.fittings.append(fitting)
                target.state, target.reason = APPLIED, "; ".join(filter(None, [why, *fitting.warnings]))
                if comparison is not None:
                    comparison.applied = True
        self._stop_waiting(target)
        if self._tripped:  # meanwhile, by a signal handler
            self._take_off_one(target)

    def catch_up(self) -> None:
        """Try again what is armed or was incomplete, and apply the patch to modules that were executed again.

        The changes to the earlier state of such a module stay, for those who still hold its objects. Never raises.
        """
        with _changing:
            for target in self._targets:
                reloaded = target.fittings and target.fittings[-1].is_reloaded()
                if target.state == ARMED or target.incomplete or reloaded:
                    self._stop_waiting(target)
                    self._wait_for(target)

    def _fail(self, target: _TargetState, error: Exception) -> None:
        target.incomplete = isinstance(error, UnknownHost)
        reason = str(error) if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"
        target.state, target.reason = FAILED, reason
        if isinstance(error, NoWrapt):
            say_once(f"{reason}; DIRAC runs its own code wherever a patch needs wrapt")
        else:
            where = f"{target.module}.{target.declared.attribute}"
            say_once(f"{self.patch.name}: cannot patch {where}: {reason}; DIRAC runs its own code there")

    def take_off(self) -> None:
        """Restore every original and stop waiting for modules. Calls in progress end as they began.

        A target that cannot be restored has failed. The guard is off, so it runs the host's own code all the same.
        """
        with _changing:
            if self._comparison is not None:
                self._comparison.leave()  # before the guard changes, which it sets
                self._comparison = None
            self.guard.off = True
            self.guard = self.guard.renewed()
            for target in self._targets:
                try:
                    self._take_off_one(target)
                except Exception as error:
                    target.state, target.reason = FAILED, f"cannot be taken off: {type(error).__name__}"

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
            if target.declared.prepare is not None:
                imports.prepare_no_longer(target.module)
        target.callback = None

    def trip(self, reason: str) -> None:
        """Take the patch off for the rest of this process because it cannot be trusted. Never raises."""
        with _changing:
            self.take_off()
            failures = [target.reason for target in self._targets if target.state == FAILED]
            self._tripped = "; ".join([reason, *failures])
        say_once(f"{self.patch.name}: tripped: {reason}; DIRAC runs its own code from now on in this process")
        with suppress(Exception):
            self._on_trip()

    def status(self) -> dict[str, Any]:
        """This patch's entry of :func:`dirac_perfpatch.status`."""
        self.catch_up()
        with _changing:
            targets = [target.entry() for target in self._targets]
            state, reason = self._summary(targets)
        mode = "off" if self.guard.off else "on"
        return {
            "name": self.patch.name,
            "state": state,
            "reason": reason,
            "targets": targets,
            "failures": self.guard.failures,
            "mode": mode if self._comparison is None else "ab",
        }

    def _summary(self, targets: list[dict[str, str]]) -> tuple[str, str]:
        """The state and the reason of the first target that failed, else is applied, stood down, armed or off."""
        if self._tripped:
            return TRIPPED, self._tripped
        found = {target["state"]: target["reason"] for target in reversed(targets)}  # the first reason of each state
        state = next(state for state in (FAILED, APPLIED, STOOD_DOWN, ARMED, OFF) if state in found)
        missing = found.get(ARMED, "") if state == APPLIED else ""
        return state, "; ".join(dict.fromkeys(filter(None, (found[state], missing, *unknown(targets)))))


def unknown(targets: Iterable[Mapping[str, str]]) -> list[str]:
    """The reasons of those entries of targets that stay off because their code is unknown."""
    return [target["reason"] for target in targets if target["reason"].endswith(_FORCE)]
