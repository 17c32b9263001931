"""Libraries that DIRAC imports at the top of a module and uses inside functions are imported at their first use.

Every command pays for them, and most never use them. CPU time of an import by a module that has all else, measured with
``-X importtime`` (a third of it is the measurement), and of ``import DIRAC.Interfaces.API.Dirac`` as a whole:

=========================  =======================================================  ==========  ==========
module of the host         what it imports at its top, with all that this imports   8.0.86      9.1.8
=========================  =======================================================  ==========  ==========
``DiracX``                 the client of DiracX: generated code, pydantic, httpx    not there   52 %
``Modificator``            ``diracxVerifyConfig``, which imports the same           not there   (9.0.28)
``TornadoBaseClient``      ``requests``                                             16 %        4 %
``X509Certificate``        ``asn1_utils``, with pyasn1 and its modules              12 %        9 %
``FileCatalog``            ``FCConditionParser``, with pyparsing                    8 %         3 %
=========================  =======================================================  ==========  ==========

``DiracX`` reaches nearly every module through ``ProxyInfo``. In 9.0.28, ``Modificator`` comes with the API, through
``CSAPI``. Not deferred, because they are used while modules are executed: ``requests`` in ``FrameworkSystem.Utilities.
diracx`` (a session is made), pyasn1 and pyparsing themselves (class bodies), M2Crypto, psutil; nor what costs little.

How: the module's own code is executed, with other names for those libraries in the code of its import statements (its
``co_names``). These names lead to stand-ins, which nobody else can import. Afterwards the names that the statements
bound are taken out of the module, and each function that uses one gets code that runs the import statements first. They
put the real objects where the host would have put them, and the host's code back into the functions.

Why the answer is the same:

- No other module sees a stand-in. ``getattr``, ``from module import name``, ``hasattr``, ``inspect``, ``pickle`` and
  ``mock.patch`` find the real object: the module has a ``__getattr__`` and a ``__dir__`` until then. Only code that
  reads the module's dictionary, such as ``import *``, misses the names (the host has none for these modules).
- A name that is used while the module is executed (a decorator, a default, a base class, an annotation, an ``except``
  of the module itself) is not deferred, and we look for that in the code, not in the table. The one exception is the
  base class of ``_ContextAdapter``: the class is as hidden as the names, and gets its base before anyone sees it.
- If any function that uses a name cannot be found (in a closure, say), everything is imported at once. If the module
  cannot be executed with the stand-ins, it is executed again as the host wrote it.
- If a library is not installed, nothing is deferred, and the host's own statement raises, or falls back to another.
  The deferred statements have the host's ``try`` and ``except``, too. A library that is there but cannot be imported
  raises the same error at its first use, where stock raises it at the start of every command.
- Types in annotations are strings there (``from __future__ import annotations``).

Two threads that use a library first at once both import it, and the import system makes one wait, as with any import in
a function. It detects a deadlock between two imports. None can arise with the host's locks: the libraries take none,
and every other module of the host that the deferred ones import has been imported before (a test looks).

A signal handler cannot use what its own thread is in the middle of importing. So the main thread blocks the signals
that have a handler meanwhile, and the handler runs just after the import. Ctrl-C and signals that kill act at once. If
another thread of the host takes the signal, the handler may run earlier and get an ImportError.

A fork while another thread imports would leave a lock held in the child, for good. So before a fork everything is
imported: if another thread is importing it, the fork waits for that. From then on, nothing is deferred in that process
and its children. (``subprocess`` forks in this sense only with ``preexec_fn``.) That costs what stock has paid at the
start. Should an import fail there, the fork goes on, and the child tries it itself.

Servers import everything at their start, where nobody waits for an answer: see ``_SERVERS``.

Which processes gain depends on when DIRAC first looks for its extensions, which loads us; what it has imported by then
stays as it is, and status says so. Read off 8.0.86 and 9.1.8:

- ``dirac-*`` commands: before ``main``, with nothing of the table imported, except by the few that import it at the top
  of their script (``dirac-proxy-init``, ``dirac-login``).
- ``dirac-agent``: as commands from 9.0 on; in 8.0 after all imports. ``dirac-service``: after all imports.
- ``Script.parseCommandLine()`` in a user's script or a job wrapper, ``DIRAC.initialize()``, or the import of the API
  alone: after DiracX and requests. A script gains all of it by looking first:
  ``from DIRAC.Core.Utilities.Extensions import extensionsByPriority; extensionsByPriority()``.

Nothing that DIRAC imports earlier calls anybody's code. A ``.pth`` file would load us first everywhere: the API alone
would then take 0.59 s of CPU instead of 1.40 on 9.1.8 (``make bench-starts``, which has both rows). But every Python of
that environment would execute it, also pip, other programs and the interpreter that is to uninstall it; a mistake in it
could not be switched off, and every start would pay for it. We do not install one.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # not signal, which spends time on making enumerations
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any, NamedTuple

from dirac_perfpatch.patching import (
    Database,
    Fitting,
    Guard,
    InTree,
    NotAsked,
    Patch,
    Target,
    TooLate,
    UnknownHost,
    swap_code,
)

# A request must not wait for an import; a start may.
_SERVERS = ("dirac-service", "dirac-executor", "tornado-start-all", "tornado-start-CS")
_TOO_LATE = "the module was imported before the plugin was loaded, or before this patch was on"
_OPTIMIZED = 1  # inspect.CO_OPTIMIZED: the code of a function, which runs when it is called
_ASYNC = 0x80 | 0x100 | 0x200  # inspect.CO_COROUTINE, CO_ITERABLE_COROUTINE, CO_ASYNC_GENERATOR
_FAULTS = {_signal.SIGSEGV, _signal.SIGBUS, _signal.SIGFPE, _signal.SIGILL}


class _Entry(NamedTuple):
    """What is deferred in one module of the host.

    Args:
        module: The module.
        names: The names that its import statements bind, by the library that they name.
        statement: The statements.
        needs: What must be installed, besides the module's own package.
        file: Below DIRAC's folder; the entry is for releases that have it.
        base: A class of the module, and the path of its base, if that is in what is deferred.
    """

    module: str
    names: dict[str, tuple[str, ...]]
    statement: str
    needs: tuple[str, ...]
    file: str = ""
    base: tuple[str, str] = ("", "")

    def bound(self) -> tuple[str, ...]:
        """All names that are deferred."""
        names = [name for names in self.names.values() for name in names]
        return (*names, self.base[0]) if self.base[0] else tuple(names)


_TABLE = (
    _Entry(
        "DIRAC.Core.Security.DiracX",
        {
            "diracx.client.sync": ("SyncDiracClient",),
            "diracx.core.models.auth": ("TokenResponse",),
            "diracx.core.preferences": ("DiracxPreferences",),
            "diracx.core.utils": ("serialize_credentials",),
        },
        """
try:
    from diracx.client.sync import SyncDiracClient
except ImportError:
    from diracx.client import DiracClient as SyncDiracClient
from diracx.core.models.auth import TokenResponse
from diracx.core.preferences import DiracxPreferences
from diracx.core.utils import serialize_credentials
""",
        (
            "diracx.client.sync",
            "diracx.core.models.auth",
            "diracx.core.preferences",
            "diracx.core.utils",
            "pydantic",
            "pydantic_settings",
            "azure.core",
            "jwt",
        ),
        "Core/Security/DiracX.py",
    ),
    _Entry(
        "DIRAC.ConfigurationSystem.private.Modificator",
        {"DIRAC.FrameworkSystem.Utilities.diracx": ("diracxVerifyConfig",)},
        "from DIRAC.FrameworkSystem.Utilities.diracx import diracxVerifyConfig",
        ("diracx.client.sync", "diracx.cli.internal.legacy", "diracx.core.config.schema", "pydantic", "cachetools"),
        "FrameworkSystem/Utilities/diracx.py",
    ),
    _Entry(
        "DIRAC.Core.Tornado.Client.private.TornadoBaseClient",
        {"requests": ("requests",)},
        "import requests",
        ("requests", "urllib3", "idna", "certifi"),
        base=("_ContextAdapter", "requests.adapters.HTTPAdapter"),
    ),
    *(
        _Entry(
            module,
            {"DIRAC.Core.Security.m2crypto": ("asn1_utils",)},
            "from DIRAC.Core.Security.m2crypto import asn1_utils",
            ("pyasn1.codec.der.decoder", "pyasn1_modules.rfc3281"),
        )
        # One file, from which the host makes two modules.
        for module in ("DIRAC.Core.Security.X509Certificate", "DIRAC.Core.Security.m2crypto.X509Certificate")
    ),
    _Entry(
        "DIRAC.Resources.Catalog.FileCatalog",
        {"DIRAC.Resources.Catalog.FCConditionParser": ("FCConditionParser",)},
        "from DIRAC.Resources.Catalog.FCConditionParser import FCConditionParser",
        ("pyparsing",),
    ),
)

# By module: what was deferred, also after it was imported; and why nothing was. Each step is one operation on a
# dictionary.
_deferred: dict[str, _Deferred] = {}
_reasons: dict[str, str] = {}
_claims: dict[str, object] = {}
_forked = False


class _Deferred:
    """The imports that a module of the host has yet to do.

    Args:
        entry: The module's.
        module: The module, which has been executed.
        hidden: The class whose base is deferred, or None.
    """

    def __init__(self, entry: _Entry, module: ModuleType, hidden: Any) -> None:
        self.module = module
        self.spec = vars(module).get("__spec__")
        self._entry = entry
        self._hidden = hidden
        self._ended = False
        self._undoing: list[Any] = []

    def begin(self, functions: Iterator[FunctionType], wanted: set[CodeType]) -> bool:
        """Have the functions with the wanted code import first. Returns: whether all of them were found."""
        for function in functions:
            code = function.__code__
            plain = not code.co_freevars and not code.co_flags & _ASYNC and "__wrapped__" not in vars(function)
            if plain and code in wanted:
                wanted.discard(code)
                _, undo = swap_code(function, self._importing)
                self._undoing.append(undo)
        if wanted:
            return False

        def __getattr__(name: str) -> Any:
            if name not in self._entry.bound():
                raise AttributeError(f"module {self.module.__name__!r} has no attribute {name!r}")
            self.end()
            return vars(self.module)[name]

        names = vars(self.module)
        names["__getattr__"] = __getattr__
        names["__dir__"] = lambda: [*names.keys() - {"__getattr__", "__dir__"}, *self._entry.bound()]
        return True

    def _importing(self, stock: Any) -> Any:
        def imports_first(*args: Any, **kwargs: Any) -> Any:
            self.end()
            return stock(*args, **kwargs)

        return imports_first

    def undo(self) -> None:
        """Give the functions the host's code back."""
        for undo in self._undoing:
            undo()

    def end(self) -> None:
        """Do the imports, and leave the module as stock has it; again if another thread is doing the same.

        Raises what the imports raise, and then everything is as before.
        """
        if self._ended:
            return
        names = vars(self.module)
        imported: dict[str, Any] = {"__name__": self.module.__name__}
        code = compile(self._entry.statement, f"<imports of {self.module.__name__}>", "exec")
        before = None
        handled = _handled_signals() if threading.current_thread() is threading.main_thread() else set()
        if handled:
            before = _signal.pthread_sigmask(_signal.SIG_BLOCK, handled)
        try:
            exec(code, imported)
        finally:
            if before is not None:
                _signal.pthread_sigmask(_signal.SIG_SETMASK, before)
        name, path = self._entry.base
        if name:
            first, *others = path.split(".")
            base = imported[first]
            for other in others:
                base = getattr(base, other)
            self._hidden.__bases__ = (base,)
            imported[name] = self._hidden
        for name in self._entry.bound():
            names.setdefault(name, imported[name])  # a test may have put something of its own there
        self.undo()
        # Whoever missed a name and now looks for __getattr__ finds one of the two: nothing runs between the two looks.
        for name in ("__getattr__", "__dir__"):
            names.pop(name, None)
        self._ended = True


class _StandIn(ModuleType):
    """Stands in for a library in the import statements of one module, while that is executed.

    Args:
        entry: The module's.
        library: The library. Names that are not deferred are imported from it.
    """

    def __init__(self, entry: _Entry, library: str) -> None:
        super().__init__(library)
        self._library, self._bound = library, entry.names[library]
        if entry.base[0]:
            path = entry.base[1].split(".")[1:]
            value: Any = type(path[-1], (), {})
            for name in reversed(path):
                value = SimpleNamespace(**{name: value})
            vars(self).update(vars(value))

    def __getattr__(self, name: str) -> Any:
        if name in self._bound:
            return self  # deleted before anyone sees it
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(__import__(self._library, None, None, (name,), 0), name)


class _Loader(SourceFileLoader):
    """The host's loader, made to execute a module with its imports deferred, once."""

    entry: _Entry
    guard: Guard

    def exec_module(self, module: ModuleType) -> None:
        entry, guard = vars(self).pop("entry"), vars(self).pop("guard")
        self.__class__ = SourceFileLoader  # type: ignore[assignment]  # as the host finds it in its spec
        if guard.off or not _execute(entry, guard, module, self):
            self.exec_module(module)


def _handled_signals() -> set[int]:
    """The signals with a handler of the host, which may use anything. Ctrl-C, or a signal that kills, does at once."""
    signals = _signal.valid_signals() - _FAULTS
    handlers = {number: _signal.getsignal(number) for number in signals}
    return {n for n, handler in handlers.items() if callable(handler) and handler is not _signal.default_int_handler}


def _prepare(entry: _Entry) -> Any:
    def prepare(spec: ModuleSpec, guard: Guard) -> None:
        if type(spec.loader) is SourceFileLoader:  # not one that rewrites assertions, or measures coverage
            vars(spec.loader).update(entry=entry, guard=guard)
            spec.loader.__class__ = _Loader

    return prepare


def _execute(entry: _Entry, guard: Guard, module: ModuleType, loader: SourceFileLoader) -> bool:
    """Execute a module with its imports deferred. Returns: whether that was possible; if not, it is untouched."""
    code = loader.get_code(module.__name__)
    stand_ins: dict[str, ModuleType] = {}
    try:
        reason = _why_not(entry)
        if reason or code is None:
            _reasons[entry.module] = reason
            return False
        ours = _rewritten(code, entry, stand_ins)
        wanted = set(_users(code, set(entry.bound())))
        _watch_forks()
    except UnknownHost as unknown:
        _reasons[entry.module] = str(unknown)
        return False
    except Exception as error:
        guard.failed(error)
        return False
    before = dict(vars(module))

    def again(reason: str) -> bool:
        vars(module).clear()
        vars(module).update(before)
        _reasons[entry.module] = reason
        return False

    sys.modules.update(stand_ins)
    try:
        exec(ours, vars(module))
    except Exception:
        return again("the module could not be executed without these imports")
    finally:
        for alias in stand_ins:
            sys.modules.pop(alias, None)
    taken = {name: vars(module).pop(name, None) for name in (*stand_ins, *entry.bound())}
    deferred = _Deferred(entry, module, taken.get(entry.base[0]))
    taken.clear()
    # The dictionary, the variable and the argument refer to it. Anything else would show it to the host.
    if any(sys.getrefcount(stand_in) > 3 for stand_in in stand_ins.values()):
        return again("the module also keeps what it imports somewhere else")
    if not deferred.begin(_functions(module), wanted):
        deferred.undo()
        return again("a function that uses the imports was not found")
    _deferred[entry.module] = deferred
    if _forked:  # meanwhile, by another thread
        deferred.end()
    return True


def _why_not(entry: _Entry) -> str:
    if _forked:
        return "this process has forked"
    program = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
    if program in _SERVERS:
        return f"{program} imports everything at its start"
    missing = [name for name in entry.needs if not _is_installed(name)]
    return f"{missing[0]} is not installed" if missing else ""


def _is_installed(name: str) -> bool:
    """Whether a module can be found, without importing it or a package above it."""
    if name in sys.modules:
        return True
    path = None
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:end]), path)
        if spec is None:
            return False
        path = spec.submodule_search_locations
    return True


def _rewritten(code: CodeType, entry: _Entry, stand_ins: dict[str, ModuleType]) -> CodeType:
    """The code of a module that imports stand-ins, which are put into the dictionary; may raise UnknownHost."""
    names = list(code.co_names)
    for library in entry.names:
        if library not in names:
            raise UnknownHost(f"the module does not import {library} at its top")
        # Without dots, or `import` would look for packages. No such module can exist.
        alias = f"dirac-perfpatch: {library} for {entry.module}".replace(".", "/")
        stand_ins[alias] = _StandIn(entry, library)
        names[names.index(library)] = alias
    if "__getattr__" in names:
        raise UnknownHost("the module has a __getattr__ of its own")
    bound = {*entry.bound(), *entry.names}
    for part in _executed(code):
        loaded = [name for name in _loaded(part) if name in bound]
        if loaded and (loaded, part) != ([entry.base[1].partition(".")[0]], code):
            raise UnknownHost(f"the module uses {loaded[0]} when it is imported")
    return code.replace(co_names=tuple(names))


def _executed(code: CodeType) -> Iterator[CodeType]:
    """The code of a module, and of the classes in it, which runs when the module is imported."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and not constant.co_flags & _OPTIMIZED:
            yield from _executed(constant)


def _loaded(code: CodeType) -> Iterator[str]:
    """The names that such code reads, once for each time."""
    import opcode  # only in processes that need it

    loads = {opcode.opmap.get(name) for name in ("LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")}
    argument = 0
    for at in range(0, len(code.co_code), 2):
        operation = code.co_code[at]
        argument = argument << 8 | code.co_code[at + 1]
        if operation == opcode.EXTENDED_ARG:
            continue
        if operation in loads:
            yield code.co_names[argument]
        argument = 0


def _users(code: CodeType, names: set[str]) -> Iterator[CodeType]:
    """The code of the functions of a module that use a name, themselves or in a function inside."""
    for part in _executed(code):
        for constant in part.co_consts:
            if isinstance(constant, CodeType) and constant.co_flags & _OPTIMIZED and _uses(constant, names):
                yield constant


def _uses(code: CodeType, names: set[str]) -> bool:
    inside = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return not names.isdisjoint(code.co_names) or any(_uses(constant, names) for constant in inside)


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    """The functions of a module and of its classes, also those that are decorated."""
    seen: set[int] = set()
    left: list[Any] = list(vars(module).values())
    while left:
        found = left.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, FunctionType):
            if found.__globals__ is vars(module):
                yield found
            for cell in found.__closure__ or ():
                with suppress(ValueError):  # an empty one
                    left.append(cell.cell_contents)
        elif isinstance(found, type) and found.__module__ == module.__name__:
            left.extend(vars(found).values())
        elif isinstance(found, (staticmethod, classmethod)):
            left.append(found.__func__)
        elif isinstance(found, property):
            left.extend((found.fget, found.fset, found.fdel))
        if not isinstance(found, (type, ModuleType)):
            with suppress(AttributeError):  # not getattr(), which an object may answer with anything
                left.append(object.__getattribute__(found, "__dict__").get("__wrapped__"))


def _watch_forks() -> None:
    claim = object()
    if _claims.setdefault("forks", claim) is claim:
        # It registers functions that take and release a lock. If it was imported while a fork has begun, as by DiracX,
        # only the second one would be called.
        __import__("concurrent.futures.thread")
        os.register_at_fork(before=_before_fork)


def _before_fork() -> None:
    global _forked
    _forked = True
    for deferred in list(_deferred.values()):
        with suppress(Exception):  # the child tries again when it needs it
            deferred.end()


def _look(entry: _Entry) -> Any:
    def look(fitting: Fitting) -> None:
        deferred, names = _deferred.get(entry.module), vars(fitting.module)
        if deferred and deferred.module is fitting.module and deferred.spec is names.get("__spec__"):
            return
        if not names.keys() >= set(entry.bound()):
            wanted = {*entry.names, *entry.bound()}
            if any(_uses(function.__code__, wanted) for function in _functions(fitting.module)):
                raise InTree("the host imports it where it is used")
            raise InTree("the host does not import it")
        if sys.modules.get(entry.module) is fitting.module:  # not what preview compiles
            raise TooLate(_reasons.get(entry.module) or _TOO_LATE)

    return look


def _put_on(entry: _Entry) -> Any:
    def put_on(fitting: Fitting) -> None:
        fitting.undoing.append(_deferred[entry.module].end)

    return put_on


def _has(entry: _Entry) -> bool:
    """Whether the release of the host has what an entry is about; True if there is no host.

    The host need not have been imported: whoever lists all patches may do so before.
    """
    import importlib.util

    spec = None
    with suppress(ValueError):  # a DIRAC that has been made by hand
        spec = importlib.util.find_spec("DIRAC")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return not folders or any(os.path.exists(os.path.join(folder, entry.file)) for folder in folders)


def _ask(database: Database | None) -> Any:
    import importlib

    answers = []
    for entry in filter(_has, _TABLE):
        module = importlib.import_module(entry.module)
        for name in entry.bound():
            found = getattr(module, name, None)
            answers.append((entry.module, name, getattr(found, "__module__", None), getattr(found, "__name__", None)))
    if not answers:
        raise NotAsked("there is no DIRAC")
    return answers


PATCH = Patch(
    name="lazy_imports",
    targets=tuple(
        Target((entry.module,), entry.bound()[0], _look(entry), _put_on(entry), _prepare(entry), changes=())
        # First what every release has, because status shows the reason of the first.
        for entry in sorted(_TABLE, key=lambda entry: bool(entry.file))
        if _has(entry)
    ),
    ask=_ask,
    calls_stand_alone=False,
)
