"""setOptionInCFG and deleteOptionInCFG: a local option changes in the merged configuration, which is not made anew.

The host keeps a local and a remote configuration, and merges all of both into a third one for its readers whenever an
option is set locally: 80 ms for 1 MB, and Proxy.py does so twice for each block of code that runs with a user's proxy.
We make only the sections on the option's path anew, and take all others from the merged configuration that is there:
0.1 ms.

The same tree: if the merged configuration is what a merge of the two would give, and then one option of the local one
changes, a new merge differs only along its path. There, each section is merged from the same two sections as in the
host, in the same order. We know that the merged configuration is up to date if it is the one that the last merge made,
of the same two objects, and no ``CFG`` object of this process has changed since, except by the present call: all
methods that change one are counted. If anything else has changed, in another thread or by code that works on the trees
itself, all is merged, as in the host. The same goes for a change of the remote configuration, and for the first time in
a child of a fork, because another thread of the parent may have been in the middle of a change.

Readers: as in the host, the complete new tree takes the place of the old one in one assignment, and whoever holds the
old one sees it as it was. Our two trees share the sections that did not change, while the host's are separate; nothing
in the host changes a section of a merged configuration, a change that the next merge would lose. As in the host, a
section that only the local configuration has is the same object in the merged one. Whoever keeps something for the
merged object (``_configuration``) gets another object at each change, as in the host.

Not seen: one section that other code has put into the local and the remote configuration at different paths; code that
holds an old merged configuration and changes a section in it; code that writes to private attributes of ``CFG``.

The host's own methods change the local configuration and keep its readers out; ours begins where they merge. No lock
but diraccfg's, while sections are merged, as in the host. What is known of the last merge is one tuple that is
replaced. If two threads set options at once, one of them sees the other's change, and merges all.

Counting costs 0.2 us per change, so that a parse and a merge of all take some 5 % longer, unless configuration_parsing
is on, which changes trees without these methods.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from dirac_perfpatch.patches._cfg import NotPlain, Trees, changes, difference
from dirac_perfpatch.patching import Case, Database, Fitting, Meter, Patch, Target, Timed, UnknownHost

_MODULE = "DIRAC.ConfigurationSystem.private.ConfigurationData"
_CLASS = "ConfigurationData"
_SET, _DELETE, _SYNC = (f"{_CLASS}.{name}" for name in ("setOptionInCFG", "deleteOptionInCFG", "sync"))
_COMPRESSED = "_ConfigurationData__compressedConfigurationData"
# All that the host's sync() uses, because ours stands for all of it.
_USED_BY_SYNC = {"gLogger", "debug", "remoteCFG", "mergeWith", "localCFG", "mergedCFG", "remoteServerList"}
_USED_BY_SYNC |= {"extractOptionFromCFG", "configurationPath", "extend", "List", "fromChar", "uniqueElements"}
_USED_BY_SYNC |= {_COMPRESSED}
# The methods of CFG that change one, except reset().
_CHANGING = {"createNewSection", "setOption", "deleteKey", "copyKey", "appendToOption", "addKey", "renameKey"}
_CHANGING |= {"setComment", "sortByKey", "applyModifications"}
# Those that change nothing, or only through others.
_OTHERS = {"reset", "existsKey", "sortAlphabetically", "listOptions", "listSections", "listAll", "isSection"}
_OTHERS |= {
    "mergeWith",
    "isOption",
    "getRecursive",
    "getOption",
    "getAsCFG",
    "getAsDict",
    "getComment",
    "serialize",
    "clone",
}
_OTHERS |= {"getModifications", "loadFromFile", "loadFromBuffer", "loadFromDict", "writeToFile"}
_OTHERS |= {"_CFG__addEntry", "_CFG__recurse"}


class _Merged(NamedTuple):
    """What the last merge made of what. Weak references, because a configuration takes megabytes."""

    result: Any
    remote: Any
    local: Any
    changes: int  # of all trees in this process, when the merge began
    process: int


class _Call(NamedTuple):
    """A call that changes a local option."""

    path: str
    last: _Merged | None  # the last merge when the call began
    changes: int  # by this thread, when the call began


class _Thread(threading.local):
    """What this thread does."""

    call: _Call | None = None
    changes = 0  # of trees, since it began


_thread = _Thread()


class _Local:
    """Stands in for the host's sync() and notices the changes of trees."""

    def __init__(self, fitting: Fitting) -> None:
        self._guard = fitting.guard
        self._type = fitting.resolve(_CLASS)
        self._logger, self._lists = fitting.resolve("gLogger"), fitting.resolve("List")
        self._stock_sync = fitting.unbound(_SYNC)
        cfg = fitting.resolve("CFG")
        self._trees = Trees(cfg)
        self._along = sys.modules[cfg.__module__].gCFGSynchro(self._merge_along)
        self._last: _Merged | None = None

    def change(self, data: Any, path: Any, value: Any, cfg: Any, change: Callable[[], Any]) -> Any:
        """Make the host change an option, and sync() merge only what that changes."""
        # Making a text of another kind of value may change anything.
        if self._guard.off or type(value) is not str or type(path) is not str or (cfg and cfg is not data.localCFG):
            return change()
        before, _thread.call = _thread.call, _Call(path, self._last, _thread.changes)
        try:
            return change()
        finally:
            _thread.call = before

    def sync(self, data: Any) -> None:
        """The host's sync(), with as little merged as can be."""
        call, _thread.call = _thread.call, None
        if self._guard.off or type(data) is not self._type:
            return self._stock_sync(data)
        self._logger.debug("Updating configuration internals")
        merged = self._merged_for(data, call) if call else None
        if merged is None:
            self._guard.note("merges of all")
            merged = self._merge_all(data.remoteCFG, data.localCFG)
        data.mergedCFG = merged
        servers: list[Any] = []
        for tree in (data.localCFG, data.remoteCFG):
            found = data.extractOptionFromCFG(f"{data.configurationPath}/Servers", tree, disableDangerZones=True)
            if found:
                servers += self._lists.fromChar(found, ",")
        data.remoteServerList = self._lists.uniqueElements(servers)
        setattr(data, _COMPRESSED, None)
        return None

    def _merge_all(self, remote: Any, local: Any) -> Any:
        before, known, by_us = self._last, changes.value, _thread.changes
        merged = remote.mergeWith(local)
        known += _thread.changes - by_us
        last = _Merged(weakref.ref(merged), weakref.ref(remote), weakref.ref(local), known, os.getpid())
        # Not if a signal handler has set an option meanwhile, which counts as ours.
        self._last = last if self._last is before else None
        return merged

    def _merged_for(self, data: Any, call: _Call) -> Any:
        """The merged configuration after a change of one option, or None if all has to be merged."""
        last, merged, remote, local = call.last, data.mergedCFG, data.remoteCFG, data.localCFG
        if last is None or last.process != os.getpid():
            return None
        if last.result() is not merged or last.remote() is not remote or last.local() is not local:
            return None
        # The last merge is older than this call, so what has changed since is ours alone if it is as much as ours. Only
        # then look whether it is still the last: a signal handler that sets an option also counts as ours.
        known = last.changes + _thread.changes - call.changes
        if known != changes.value or last is not self._last:
            return None
        try:
            levels = [level.strip() for level in call.path.split("/") if level.strip()]
            merged = self._along(remote, local, merged, levels)
            self._last = last._replace(result=weakref.ref(merged), changes=known)
            return merged
        # An option here and a section there, which is an error of the host's; or another thread's change meanwhile, if
        # diraccfg uses no lock.
        except (NotPlain, KeyError, AttributeError, RuntimeError):
            return None
        except Exception as error:
            self._guard.failed(error)
            return None

    def _merge_along(self, remote: Any, local: Any, merged: Any, levels: list[str]) -> Any:
        """Merge the sections on a path; all others are as in the merged configuration."""
        here, *below = levels
        known = merged._CFG__dataDict

        def section(name: str, under: Any, upper: Any) -> Any:
            if name != here:
                return known[name]
            if upper is None:
                return self._trees.clone(under)
            if under is None:
                return upper
            return self._merge_along(under, upper, known[name], below) if below else self._trees.merge(under, upper)

        return self._trees.merge_level(remote, local, section)


def _count() -> None:
    # First the one that is for all threads: if this is interrupted in between, all is merged.
    changes.add()
    _thread.changes += 1


def _counting(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of CFG that counts as a change, once it is done."""

    def changing(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        finally:
            _count()

    return changing


def _resetting(method: Callable[..., Any]) -> Callable[..., Any]:
    """The same for reset(), with which every new CFG begins."""

    def reset(self: Any) -> Any:
        changes_something = bool(self._CFG__orderedList)
        try:
            return method(self)
        finally:
            if changes_something:
                _count()

    return reset


def _look(fitting: Fitting) -> None:
    fitting.resolve("CFG")
    fitting.expect(_SET, "localCFG", "dangerZoneStart", "createNewSection", "setOption", "dangerZoneEnd", "sync")
    fitting.expect(_DELETE, "localCFG", "dangerZoneStart", "listSections", "deleteKey", "dangerZoneEnd", "sync")
    if fitting.names_in(_SYNC) != _USED_BY_SYNC:
        raise UnknownHost(f"{_SYNC} is not the function that this patch knows")


def _put_on(fitting: Fitting) -> None:
    methods = {name for name, value in vars(fitting.resolve("CFG")).items() if callable(value) and name[:2] != "__"}
    unknown = methods - _CHANGING - _OTHERS
    if unknown:
        raise UnknownHost(f"CFG has methods that this patch does not know: {', '.join(sorted(unknown))}")
    local = _Local(fitting)
    stock_set, stock_delete = fitting.unbound(_SET), fitting.unbound(_DELETE)

    def setOptionInCFG(self: Any, path: Any, value: Any, cfg: Any = False, disableDangerZones: Any = False) -> Any:
        return local.change(self, path, value, cfg, lambda: stock_set(self, path, value, cfg, disableDangerZones))

    def deleteOptionInCFG(self: Any, path: Any, cfg: Any = False) -> Any:
        return local.change(self, path, "", cfg, lambda: stock_delete(self, path, cfg))

    def sync(self: Any) -> Any:
        return local.sync(self)

    # What notices the changes first, and so the last to be undone.
    for name in sorted(_CHANGING):
        _replace(fitting, f"CFG.{name}", _counting)
    _replace(fitting, "CFG.reset", _resetting)
    _replace(fitting, _SYNC, lambda stock: sync)
    fitting.stand_in(_SET, setOptionInCFG, _check)
    fitting.stand_in(_DELETE, deleteOptionInCFG, _check)


def _replace(fitting: Fitting, path: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Stand in for a method that is part of the calls that are compared."""
    fitting.replace(path, functools.update_wrapper(make(fitting.unbound(path)), fitting.resolve(path)))


def _check(answer: Any, original: Callable[..., Any], args: Any, kwargs: Any) -> str:
    data = args[0]
    return difference(data.mergedCFG, data.remoteCFG.mergeWith(data.localCFG)) or ""


def _ask(database: Database | None) -> Any:
    data = _made_up(2)
    answers = []
    for path, value in (
        ("/DIRAC/Security/UseServerCertificate", "yes"),
        ("/Users/user1/Email", "nobody@example.org"),
        ("/DIRAC/Configuration/Servers", "dips://a, dips://b"),
        ("/New/Section/Option", ""),
        ("/DIRAC/Security/UseServerCertificate", None),
        ("/Users/user1/Email", None),
        ("/Users/user1", None),
        ("/New/Section", None),
        ("/No/Such/Option", None),
    ):
        if value is None:
            data.deleteOptionInCFG(path)
        else:
            data.setOptionInCFG(path, value)
        answers.append((data.getMergedCFGAsString(), data.getServers(), data.extractOptionFromCFG(path)))
    return answers


def _made_up(kilobytes: int) -> Any:
    """A configuration of that size as from a server, with a small local one."""
    from DIRAC.ConfigurationSystem.private.ConfigurationData import ConfigurationData
    from diraccfg import CFG

    from dirac_perfpatch.patches.configuration_parsing import made_up

    data = ConfigurationData(False)
    data.mergeWithLocal(CFG().loadFromDict({"DIRAC": {"Security": {"UseServerCertificate": "no"}}, "LocalSite": {}}))
    text = "DIRAC\n{\n  VirtualOrganization = vo\n  Security\n  {\n    SkipCAChecks = no\n  }\n}\n"
    data.loadRemoteCFGFromMem(text + made_up(kilobytes))
    return data


def _set_case(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    data = _made_up(size)
    yield lambda number: timed(lambda: data.setOptionInCFG("/DIRAC/Security/UseServerCertificate", "yes"), number)


PATCH = Patch(
    name="local_options",
    targets=(Target((_MODULE,), _SET, _look, _put_on, changes=(_SET, _DELETE, _SYNC)),),
    ask=_ask,
    cases=(Case("setOptionInCFG", _set_case, (100,), (10, 100, 1000), "KB"),),
    wants=("configuration_parsing",),
)
