"""What a patch is, and how one is put on and taken off.

A :class:`Patch` is a declaration, made once in a module of :mod:`dirac_perfpatch.patches`. A :class:`Switch` is what
this process makes of it: it waits for the modules of the patch's targets, looks at each target before it replaces it,
and keeps what is needed to undo that. A :class:`Guard` stands between a patch's own code and the host.
"""

from __future__ import annotations

import functools
import gc
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType, FunctionType, ModuleType
from typing import Any

from dirac_perfpatch import imports
from dirac_perfpatch.notices import say_once

# States of a patch and of a target, in the words of the documentation.
APPLIED = "applied"
ARMED = "armed"
OFF = "off"
STOOD_DOWN = "stood down"
TRIPPED = "tripped"
FAILED = "failed"

Undo = Callable[[], None]
Wrapper = Callable[[Any, Any, Sequence[Any], Mapping[str, Any]], Any]


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


class Guard:
    """Stands between a patch's own code and the host: a failure is counted, said once, and trips the patch after a few.

    Wrappers read ``off`` before they do anything, and call the host's function when it is set. It is a plain attribute
    so that this costs next to nothing: threads see a change at their next call, which is all that is promised.
    """

    LIMIT = 3

    def __init__(self, name: str, trip: Callable[[str], None]) -> None:
        self.off = False
        self.failures = 0
        self._name = name
        self._trip = trip
        self._lock = threading.Lock()

    def failed(self, error: BaseException) -> None:
        """Note that the patch's own code failed and that the host's function answered instead. Never raises.

        Args:
            error: What was raised. Only its type and the place are told, never its text: that may hold a secret.
        """
        with self._lock:
            self.failures += 1
            trips = self.failures == self.LIMIT
        what = f"{type(error).__name__} at {_place(error)}"
        say_once(f"{self._name}: {what}; the host's own code answers this call")
        if trips:
            self._trip(f"its own code failed {self.LIMIT} times, last with {what}")


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    if trace is None:
        return "an unknown line"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


@dataclass(frozen=True)
class Site:
    """What a target is put on with: its module, the options of the patch, and the guard."""

    module: ModuleType
    options: Mapping[str, Any]
    guard: Guard
    warnings: list[str] = field(default_factory=list)
    undoing: list[Undo] = field(default_factory=list)

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
        for name in path.split("."):
            if name not in vars(owner):
                raise UnknownHost(f"{self.module.__name__} has no {path}")
            owner = vars(owner)[name]
        return owner

    def names_in(self, path: str) -> set[str]:
        """The global names and attributes that a function's code uses; none if it is not a plain function.

        Raises:
            UnknownHost: There is no such object.
        """
        return set(getattr(getattr(self.resolve(path), "__code__", None), "co_names", ()))

    def expect(self, path: str, *names: str) -> None:
        """Refuse a function whose code does not use all of these names.

        Raises:
            UnknownHost: It does not, or there is no such function.
        """
        if not self.names_in(path).issuperset(names):
            raise UnknownHost(f"{path} is not the function that this patch knows")

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
        owner_path, _, name = path.rpartition(".")
        owner, original = self.resolve(owner_path), self.resolve(path)
        self.replace(owner, name, wrapt.FunctionWrapper(original, wrapper))

    def stand_in(self, path: str, ours: Callable[..., Any]) -> None:
        """Put a plain function in the place of a method that is called so often that wrapt's wrapper would tell.

        Binding and calling that wrapper takes 0.5 to 2 us, as much as all the rest of a warm checkout.

        Args:
            path: ``Class.method``.
            ours: Called as the method is, with the instance first.
        """
        owner_path, _, name = path.rpartition(".")
        self.replace(self.resolve(owner_path), name, functools.update_wrapper(ours, self.resolve(path)))

    def replace(self, owner: Any, name: str, ours: Any) -> None:
        """Set an attribute of a module or class, until it is undone.

        If somebody else has replaced ours when it is undone, theirs stays, and ours, which the guard has switched off
        by then, passes every call through.

        Args:
            owner: The module or class; it has the attribute now.
            name: Of the attribute.
            ours: What it shall be.
        """
        original = vars(owner)[name]
        setattr(owner, name, ours)

        def undo() -> None:
            if vars(owner).get(name) is ours:
                setattr(owner, name, original)

        self.undoing.append(undo)

    def rebind(self, original: FunctionType, ours: FunctionType) -> None:
        """Replace a function under every name that any module has bound it to, until it is undone.

        Undoing reaches the names that got ours in the meantime, too.

        Args:
            original: The host's function.
            ours: What stands in for it, a plain function. What its closure holds may hold the original.

        Raises:
            UnknownHost: Something other than a module's namespace holds the function, so some callers would not be
                reached. Nothing has been changed then.
        """
        names, others = _holders(original, _reachable(ours))
        if others:
            raise UnknownHost(f"{original.__qualname__} is also held by {', '.join(others)}, which cannot be reached")
        if not any(namespace is vars(self.module) for namespace, _ in names):
            raise UnknownHost(f"who holds {original.__qualname__} cannot be seen: gc.freeze() hides it")
        for namespace, name in names:
            namespace[name] = ours
        self.undoing.append(functools.partial(_rebind_back, ours, original))


def _rebind_back(ours: FunctionType, original: FunctionType) -> None:
    for namespace, name in _holders(ours, set())[0]:
        namespace[name] = original


def _reachable(ours: FunctionType) -> set[int]:
    """The identities of what our stand-in holds the original with: its cells, what is in them, and their attributes."""
    cells = ours.__closure__ or ()
    held = [cell.cell_contents for cell in cells]
    attributes = [vars(value) for value in held if hasattr(value, "__dict__")]
    nested = [cell for value in held if isinstance(value, FunctionType) for cell in value.__closure__ or ()]
    return set(map(id, [vars(ours), *cells, *held, *attributes, *nested]))


def _holders(function: FunctionType, besides: set[int]) -> tuple[list[tuple[dict[str, Any], str]], list[str]]:
    """Who refers to a function.

    Args:
        function: The one that is asked for.
        besides: Identities of the objects that are left out.

    Returns:
        The module namespaces that have it, each with the name, and a word for each other container that has it.
    """
    namespaces = {id(vars(module)): vars(module) for module in list(sys.modules.values()) if type(module) is ModuleType}
    names, others = [], []
    # The collector knows every container, so a class attribute, a closure or a default argument is not missed.
    for holder in gc.get_referrers(function):
        if id(holder) in namespaces:
            # No comprehension: before Python 3.12 it would hold the function with a cell, and be found itself.
            for name, value in list(holder.items()):
                if value is function:
                    names.append((holder, name))
        elif id(holder) not in besides and not isinstance(holder, FrameType):
            others.append(f"a {type(holder).__name__}")
    return names, others


@dataclass(frozen=True)
class Target:
    """One function or class of the host that a patch speeds up or makes safer.

    Args:
        modules: Full name of the module that defines it; several names if it moved between releases of the host.
        attribute: Its path in that module.
        look: Given the site, returns if the target is the stock code that the patch was written for; raises
            :class:`InTree`, :class:`NotHere` or :class:`UnknownHost` if it is not. Changes nothing.
        put_on: Given the site, replaces the target by means of the site, which can undo that.
    """

    modules: tuple[str, ...]
    attribute: str
    look: Callable[[Site], None]
    put_on: Callable[[Site], None]


@dataclass(frozen=True)
class Database:
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
    password: str = field(repr=False)
    name: str


@dataclass(frozen=True)
class Patch:
    """The declaration of a patch.

    Args:
        name: As in the YAML.
        targets: What it touches, each put on when its own module is there.
        ask: Puts a question to the host that is installed, through the targets, and returns an answer that can be
            compared: asked with the patch on and again with it off, it must be equal. Raises :class:`NotAsked`.
        wants: Names of the patches without which this one gives less; said in status when they are off.
    """

    name: str
    targets: tuple[Target, ...]
    ask: Callable[[Database | None], Any]
    wants: tuple[str, ...] = ()


@dataclass
class _Fitting:
    """What has become of one target in this process."""

    target: Target
    module: str  # where it is, or the first place where it may be
    state: str = OFF
    reason: str = ""
    site: Site | None = field(default=None, repr=False)
    callback: imports.Callback | None = field(default=None, repr=False)


class Switch:
    """One patch in this process: puts its targets on as their modules come, and takes them off again."""

    def __init__(self, patch: Patch, options: Mapping[str, Any]) -> None:
        self.patch = patch
        self.guard = Guard(patch.name, self.trip)
        self._options = options
        self._fittings = [_Fitting(target, target.modules[0]) for target in patch.targets]
        self._tripped = ""
        # Held while targets change. Reentrant: putting one on may import wrapt, and the import may come back to us.
        self._lock = threading.RLock()

    def arm(self) -> None:
        """Put on what is there, and wait for the rest; nothing if the patch has tripped. Never raises."""
        if self._tripped:
            return
        self.guard.off = False
        for fitting in self._fittings:
            if fitting.state in (OFF, FAILED):
                self._arm_one(fitting)

    def _arm_one(self, fitting: _Fitting) -> None:
        def complete(module: ModuleType) -> None:
            self._put_on(fitting, module)

        fitting.state, fitting.reason = ARMED, f"waits for {fitting.module}"
        fitting.callback = complete
        try:
            for module in fitting.target.modules:
                imports.when_complete(module, complete)
        except Exception as error:
            self._fail(fitting, error)

    def _put_on(self, fitting: _Fitting, module: ModuleType) -> None:
        """Runs inside an import of the host, so it must not raise."""
        with self._lock:
            if fitting.state != ARMED:
                return
            site = Site(module, self._options, self.guard)
            name = fitting.module
            try:
                fitting.module = module.__name__
                fitting.target.look(site)
                fitting.target.put_on(site)
            except NotHere:
                fitting.module = name
                return
            except InTree as fact:
                fitting.state, fitting.reason = STOOD_DOWN, str(fact)
            except Exception as error:
                with suppress(Exception):  # what cannot be undone is passed through by the guard
                    site.undo()
                self._fail(fitting, error)
            else:
                fitting.site = site
                fitting.state, fitting.reason = APPLIED, "; ".join(site.warnings)
            self._stop_waiting(fitting)

    def _fail(self, fitting: _Fitting, error: Exception) -> None:
        if isinstance(error, NoWrapt):
            fitting.state, fitting.reason = FAILED, str(error)
            say_once(f"{error}; DIRAC runs its own code where a patch needs it")
            return
        text = str(error) if isinstance(error, UnknownHost) else f"{type(error).__name__}: {error}"
        fitting.state, fitting.reason = FAILED, text
        target = f"{fitting.module}.{fitting.target.attribute}"
        say_once(f"{self.patch.name}: cannot patch {target}: {text}; DIRAC runs its own code there")

    def take_off(self) -> list[str]:
        """Put every original back and wait for nothing any more. Calls that are under way end as they began.

        Returns:
            What could not be taken off, in words; the guard is off, so the host's own code runs all the same.
        """
        self.guard.off = True
        failures = []
        with self._lock:
            for fitting in self._fittings:
                try:
                    self._take_off_one(fitting)
                except Exception as error:
                    fitting.state, fitting.reason = FAILED, f"taking it off failed with {type(error).__name__}"
                    failures.append(fitting.reason)
        return failures

    def _take_off_one(self, fitting: _Fitting) -> None:
        self._stop_waiting(fitting)
        if fitting.site is not None:
            fitting.site.undo()
        if fitting.state in (APPLIED, ARMED, FAILED):
            fitting.state, fitting.reason = OFF, ""
        fitting.site = None

    def _stop_waiting(self, fitting: _Fitting) -> None:
        if fitting.callback is not None:
            for module in fitting.target.modules:
                imports.forget(module, fitting.callback)
        fitting.callback = None

    def trip(self, reason: str) -> None:
        """Take the patch off for the rest of this process because it cannot be trusted. Never raises.

        Args:
            reason: A sentence for the operator.
        """
        with self._lock:
            self._tripped = "; ".join([reason, *self.take_off()])
        say_once(f"{self.patch.name}: tripped: {reason}; DIRAC runs its own code from now on in this process")

    def status(self) -> dict[str, Any]:
        """This patch's entry of :func:`dirac_perfpatch.status`."""
        with self._lock:
            targets = [
                {"module": f.module, "attribute": f.target.attribute, "state": f.state, "reason": f.reason}
                for f in self._fittings
            ]
            state, reason = self._summary()
        return {
            "name": self.patch.name,
            "state": state,
            "reason": reason,
            "targets": targets,
            "failures": self.guard.failures,
        }

    def _summary(self) -> tuple[str, str]:
        """The patch is what the worst of its targets is; it is applied when all that this process has loaded are."""
        if self._tripped:
            return TRIPPED, self._tripped
        found: dict[str, _Fitting] = {}
        for fitting in self._fittings:
            found.setdefault(fitting.state, fitting)
        if FAILED in found:
            return FAILED, found[FAILED].reason
        if APPLIED in found:
            reasons = (found[APPLIED].reason, found[ARMED].reason if ARMED in found else "")
            return APPLIED, "; ".join(filter(None, reasons))
        for state in (STOOD_DOWN, ARMED):
            if state in found:
                return state, found[state].reason
        return OFF, ""
