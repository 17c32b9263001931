"""DMSHelpers: the map of sites and storage elements is derived once per VO and configuration.

Each ``DMSHelpers`` object derives its map of sites and storage elements from the configuration when it is first asked,
4.5 ms for 120 sites, and the host makes a new object for nearly every question. The map depends only on the
configuration and on what the object's ``Operations`` found out about VO and setup, so we keep it for these.

Why the answer is the same: every change of the configuration, also a local one, makes a new merged object
(``_configuration``). So a map is valid for one such object, and it is kept only if the object was the same before and
after the derivation. The host checks whether a refresh is due whenever it reads the configuration, and so do we. A
helper that is made without a VO follows the proxy in use, because the host's own constructor runs every time.

Each object owns what it returns, as in the host: plain dictionaries and sets, copied for it.

DIRAC 9.1.9 and later have one object per VO, for ever. So ``DMSHelpers()`` keeps the VO of the first proxy; a map that
a caller changes is changed for all; a subclass gets the object of its base; an object is emptied while it is in use
when a new version of the configuration comes, and a change without a new version is not seen; and up to 9.1.16 a deep
copy overwrites the object of ``DMSHelpers()``, or raises. There every call makes an object again, as in stock, and the
map comes from us as above. From 9.1.17 on a copy is the object itself, and a pickle is a call of ``DMSHelpers``: left
as is.

- From 9.1.16 on ``isSameSiteSE`` and ``_getLocalSitesForSE`` keep their answers in the object, also failed ones, and
  share them. The host's functions below those caches run instead. The caches and their locks are taken out of our
  objects, which could not be copied with them, and are given back when the patch is taken off.
- From 9.1.20 on ``resolveSEGroup`` keeps its answers until the process ends, whatever becomes of the configuration,
  also the one of a read that failed; it shares its list, and does not distinguish the order of the elements, nor a text
  from a list. The host's function below the cache runs instead.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from dirac_perfpatch.patches._configuration import Configuration
from dirac_perfpatch.patching import Case, Database, Fitting, InTree, Meter, NotAsked, Patch, Target, Timed

_MODULE = "DIRAC.DataManagementSystem.Utilities.DMSHelpers"
_METHOD = "DMSHelpers.getSiteSEMapping"
_OPERATIONS = "_DMSHelpers__opsHelper"
_VERSION = "_DMSHelpers__csVersion"
_GROUPS = "resolveSEGroup"
# What 9.1.16 and later add to each object, and the methods that use it.
_CACHES = {"_isSameSiteSE_cache", "_isSameSiteSE_lock", "_getLocalSitesForSE_cache", "_getLocalSitesForSE_lock"}
_CACHED = ("isSameSiteSE", "_getLocalSitesForSE")
_CHANGED = (_METHOD, *(f"DMSHelpers.{name}" for name in ("__init__", "__new__", *_CACHED)))
_NO_VERSION = object()  # equal to no version of the configuration
# More VOs than any installation serves.
_MAX_VOS = 200


class _Derived(NamedTuple):
    """What one derivation made."""

    configuration: Any  # held, so that its identity cannot come back for another object
    mapping: dict[Any, dict[str, set[str]]]
    storage_elements: set[str]
    sites: set[str]

    def give(self, helper: Any) -> None:
        """Give a helper its own copies."""
        helper.storageElementSet = set(self.storage_elements)
        helper.siteSet = set(self.sites)
        # The map last: to another thread that uses the same helper it means that all three are there.
        helper.siteSEMapping = _copied(self.mapping)


def _copied(mapping: dict[Any, dict[str, set[str]]]) -> dict[Any, dict[str, set[str]]]:
    return {level: {site: set(elements) for site, elements in sites.items()} for level, sites in mapping.items()}


class _Maps:
    """Stands in for getSiteSEMapping, and remembers the maps.

    No lock: they are in one dictionary that is replaced and never changed. If two threads derive at once, one map may
    get lost, and is derived again.
    """

    def __init__(self, fitting: Fitting) -> None:
        self._guard = fitting.guard
        self._type = fitting.resolve("DMSHelpers")
        self._original = fitting.unbound(_METHOD)
        self._s_ok = fitting.resolve("S_OK")
        self._configuration = Configuration()
        self._derived: dict[Any, _Derived] = {}

    def get(self, helper: Any) -> Any:
        """The map of a helper, as the host's method returns it."""
        # The host, too, returns what the object already has without looking at the configuration.
        if self._guard.off or helper.siteSEMapping:
            return self._original(helper)
        self._configuration.refresh_if_due()
        try:
            configuration = self._configuration.in_use()
            operations = helper.__dict__[_OPERATIONS]
            key = (type(operations), *operations.__dict__.values())
            derived = self._derived.get(key)
            if derived is not None and derived.configuration is configuration:
                derived.give(helper)
                return self._s_ok(helper.siteSEMapping)
        except Exception as error:
            self._guard.failed(error)
            return self._original(helper)
        return self._derive(helper, key, configuration)

    def check(self, answer: Any, original: Any, args: Any, kwargs: Any) -> str:
        """The check against stock, on its own helpers: the caller may have changed what is in its helper."""
        ours, stock = self._scratch(args[0]), self._scratch(args[0])
        if self.get(ours)["OK"] != original(stock)["OK"]:
            return "a different answer"
        names = ("siteSEMapping", "storageElementSet", "siteSet")
        return "" if all(getattr(ours, name) == getattr(stock, name) for name in names) else "a different map"

    def _scratch(self, helper: Any) -> Any:
        """A helper without a map, which nobody else has."""
        scratch = object.__new__(self._type)
        scratch.siteSEMapping, scratch.storageElementSet, scratch.siteSet = {}, set(), set()
        scratch.__dict__[_OPERATIONS] = helper.__dict__[_OPERATIONS]
        return scratch

    def _derive(self, helper: Any, key: Any, configuration: Any) -> Any:
        self._guard.note("derivations")
        # Not on the helper: the host's method sets the map first, and then the sets.
        scratch = self._scratch(helper)
        answer = self._original(scratch)
        if not answer["OK"]:
            return answer
        try:
            derived = _Derived(configuration, scratch.siteSEMapping, scratch.storageElementSet, scratch.siteSet)
            # Not after a refresh in between, which may have mixed two configurations. The host keeps no empty map.
            if any(derived.mapping.values()) and self._configuration.in_use() is configuration:
                self._keep(key, derived)
            derived.give(helper)
            return self._s_ok(helper.siteSEMapping)
        except Exception as error:
            self._guard.failed(error)
            return self._original(helper)

    def _keep(self, key: Any, derived: _Derived) -> None:
        # Those of earlier configurations would be harmless, but each holds megabytes.
        current = [item for item in self._derived.items() if item[1].configuration is derived.configuration]
        self._derived = dict([*current[1 - _MAX_VOS :], (key, derived)])


class _Own:
    """Makes an object at each call of ``DMSHelpers`` where the host shares one per VO.

    No lock: each step is one operation on a dictionary.
    """

    def __init__(self, fitting: Fitting) -> None:
        self._fitting = fitting
        self._guard = fitting.guard
        # Those that we have made, by id. The others are the host's: shared, and left as they are.
        self._made: dict[int, weakref.ref[Any]] = {}
        self._sizes: dict[str, int] = {}  # of the caches that were taken out

    def put_on(self) -> None:
        fitting, methods = self._fitting, vars(self._fitting.resolve("DMSHelpers"))
        fitting.undoing.append(methods["_instances"].clear)
        fitting.undoing.append(self._give_back)
        for name in _CACHED:
            if hasattr(methods[name], "__wrapped__"):
                fitting.replace(f"DMSHelpers.{name}", self._uncached(f"DMSHelpers.{name}"))
        fitting.replace("DMSHelpers.__init__", self._init(methods["__init__"]))
        fitting.replace("DMSHelpers.__new__", staticmethod(self._new(methods["__new__"].__func__)))

    def _new(self, hosts: Any) -> Any:
        def new(cls: type, *args: Any, **kwargs: Any) -> Any:
            if self._guard.off:
                return hosts(cls, *args, **kwargs)
            helper: Any = object.__new__(cls)
            number = id(helper)
            self._made[number] = weakref.ref(helper, lambda _: self._made.pop(number, None))
            helper._vo = args[0] if args else kwargs.get("vo", False)  # as the host does from 9.1.17 on
            return helper

        return functools.update_wrapper(new, hosts)

    def _init(self, hosts: Any) -> Any:
        def init(helper: Any, *args: Any, **kwargs: Any) -> None:
            if not self._guard.off and id(helper) in self._made:
                setattr(helper, _VERSION, _NO_VERSION)  # or the host's function does nothing
                hosts(helper, *args, **kwargs)
                self._take_out(helper)
            else:
                hosts(helper, *args, **kwargs)

        return functools.update_wrapper(init, hosts)

    def _take_out(self, helper: Any) -> None:
        attributes = vars(helper)
        for name in _CACHES.intersection(attributes):
            self._sizes[name] = getattr(attributes.pop(name), "maxsize", 0)
        if self._guard.off:  # the patch is being taken off, perhaps after this object's turn
            self._give_back_to(helper)

    def _give_back(self) -> None:
        """Let the host's methods work on our objects."""
        for reference in list(self._made.values()):
            helper: Any = reference()
            if helper is not None:
                self._give_back_to(helper)

    def _give_back_to(self, helper: Any) -> None:
        module = self._fitting.module
        for name, size in list(self._sizes.items()):
            vars(helper).setdefault(name, module.LRUCache(maxsize=size) if size else module.Lock())

    def _uncached(self, path: str) -> Any:
        hosts, uncached = self._fitting.unbound(path), self._fitting.resolve(path).__wrapped__

        def method(helper: Any, *args: Any, **kwargs: Any) -> Any:
            # Without its caches, the host's method cannot run on an object of ours, in the other arm either.
            whole = not self._sizes.keys() - vars(helper).keys()
            return (hosts if self._guard.off and whole else uncached)(helper, *args, **kwargs)

        return functools.update_wrapper(method, uncached)


def _look(fitting: Fitting) -> None:
    fitting.expect("DMSHelpers.__init__", "Operations", "siteSEMapping", "storageElementSet", "siteSet", _OPERATIONS)
    fitting.expect(_METHOD, "siteSEMapping", "storageElementSet", "siteSet", _OPERATIONS)
    if "_instances" in vars(fitting.resolve("DMSHelpers")):
        fitting.expect("DMSHelpers.__init__", _VERSION)
        wrong = "keeps the first proxy's VO, and changes while it is in use"
        raise InTree("the host shares one helper per VO", wrong, _replace)


def _replace(fitting: Fitting) -> None:
    _Own(fitting).put_on()
    _put_on(fitting)


def _look_at_groups(fitting: Fitting) -> None:
    if not hasattr(fitting.resolve(_GROUPS), "__wrapped__"):
        raise InTree("this release of the host does not keep the answers")
    wrong = "keeps its answers when the configuration changes, and hands one list to all callers"
    raise InTree("the host keeps the answers itself", wrong, _replace_groups)


def _replace_groups(fitting: Fitting) -> None:
    guard = fitting.guard

    def make(uncached: Callable[..., Any], hosts: Callable[..., Any]) -> Callable[..., Any]:
        def resolveSEGroup(*args: Any, **kwargs: Any) -> Any:
            return (hosts if guard.off else uncached)(*args, **kwargs)

        return resolveSEGroup

    fitting.replace_cached(_GROUPS, make)


def _put_on(fitting: Fitting) -> None:
    maps = _Maps(fitting)

    def getSiteSEMapping(self: Any) -> Any:
        return maps.get(self)

    fitting.stand_in(_METHOD, getSiteSEMapping, maps.check)


def _ask(database: Database | None) -> Any:
    from DIRAC.DataManagementSystem.Utilities.DMSHelpers import DMSHelpers

    answers = []
    for vo in ("", "no such vo") * 2:
        helper = DMSHelpers(vo=vo)
        mapping = helper.getSiteSEMapping()
        if not mapping["OK"]:
            raise NotAsked(f"no storage elements are configured here: {mapping['Message']}")
        answers.append((mapping["Value"], helper.getSites(), helper.getStorageElements()))
    return answers


def _made_up_sites(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    """A configuration of ``size`` sites, in this process only."""
    from DIRAC.ConfigurationSystem.Client.ConfigurationData import gConfigurationData
    from DIRAC.ConfigurationSystem.private.Refresher import gRefresher
    from DIRAC.DataManagementSystem.Utilities import DMSHelpers as module

    gRefresher.disable()  # for good: nothing must be fetched in between
    before = gConfigurationData.mergedCFG
    gConfigurationData.mergedCFG = type(before)().loadFromDict(_configuration(size))
    try:
        if not module.DMSHelpers(vo="fakevo").getSiteSEMapping()["OK"]:
            raise NotAsked("this host does not take a configuration of made-up sites")
        yield lambda number: timed(lambda: module.DMSHelpers(vo="fakevo").getSiteSEMapping(), number)
    finally:
        gConfigurationData.mergedCFG = before


def _configuration(sites: int) -> dict[str, Any]:
    """Sites with two SEs each; every tenth disk SE has an alias, every tenth tape SE a derived SE."""
    elements: dict[str, Any] = {}
    places: dict[str, Any] = {}
    for number in range(sites):
        disk, tape = f"SITE{number:03}-disk", f"SITE{number:03}-tape"
        elements[disk] = {"BackendType": "Test"}
        elements[tape] = {"BackendType": "Test"}
        if number % 10 == 0:
            elements[f"{disk}-alias"] = {"Alias": disk}
            elements[f"{tape}-user"] = {"BaseSE": tape}
        places[f"LCG.Site{number:03}.ch"] = {"SE": f"{disk}, {tape}"}
    groups = {"Tier1-disk": ", ".join(f"SITE{number:03}-disk" for number in range(0, sites, 3))}
    by_protocol = {"LCG.Site000.ch": "Tier1-disk", "LCG.Site001.ch": "LCG.Site000.ch"}
    return {
        "DIRAC": {"Configuration": {"Version": f"{sites} sites"}},
        "Resources": {"StorageElements": elements, "StorageElementGroups": groups, "Sites": {"LCG": places}},
        "Operations": {"Defaults": {"SiteSEMappingByProtocol": by_protocol}},
    }


PATCH = Patch(
    name="dms_helpers",
    targets=(
        Target((_MODULE,), _METHOD, _look, _put_on, changes=_CHANGED),
        Target((_MODULE,), _GROUPS, _look_at_groups, _replace_groups),
    ),
    ask=_ask,
    cases=(Case("getSiteSEMapping()", _made_up_sites, (120,), (10, 30, 120, 500), "sites"),),
)
