"""DMSHelpers: the map of sites and storage elements is derived once per VO and configuration.

Each ``DMSHelpers`` object derives its map of sites and storage elements from the configuration when it is first asked,
4.5 ms for 120 sites, and the host makes a new object for nearly every question. The map depends on nothing but the
configuration and what the object's ``Operations`` found out about VO and setup, so we keep it for these. Making the
object takes 6 us more, nearly all of it for looking up the VO and the setup, so we keep these, too.

The same answer: the configuration is recognised by the object that holds it merged: the host makes a new one whenever
the configuration is refreshed or an option is set, also locally (``ConfigurationData.sync``), which a comparison of
versions would miss. What is kept is kept only if that object was the same before and after it was found out. Only who
changes the merged object itself, which nothing in the host does, must call ``sync`` to have it seen. The host looks
whether a refresh is due whenever it reads the configuration, so we do that, too. A helper that is made without a VO
follows the proxy in use, by the host's own constructor, every time.

Each object owns what it returns, as in the host, yet nothing is copied for who does not look at it: the map is lent
(:mod:`dirac_perfpatch.patches._lent`), and ``siteSet`` and ``storageElementSet`` are copied when the attribute is first
read. So all that anybody gets are dictionaries and sets of its own, and copies and pickles have nothing else in them.
"""

from __future__ import annotations

import gc
import sys
from collections import OrderedDict
from typing import Any, NamedTuple

from dirac_perfpatch.patches._lent import lend, lock
from dirac_perfpatch.patching import Database, InTree, NotAsked, Patch, Site, Target

_MODULE = "DIRAC.DataManagementSystem.Utilities.DMSHelpers"
# Where the configuration of the process is. Whatever DMSHelpers reads comes from there, so they are loaded.
_CONFIGURATION = "DIRAC.ConfigurationSystem.Client.ConfigurationData"
_REFRESHER = "DIRAC.ConfigurationSystem.private.Refresher"
_INIT = "DMSHelpers.__init__"
_METHOD = "DMSHelpers.getSiteSEMapping"
_OPERATIONS = "_DMSHelpers__opsHelper"
# More VOs than any installation serves.
_MAX_VOS = 200


class _Names(set):
    """A set that is in several helpers. It is only in their ``__dict__``: see :class:`_OwnSet`."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return set, (list(self),)


class _OwnSet:
    """In the class, in the place of an attribute of its objects: makes the set that an object has its own when read."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, helper: Any, owner: Any = None) -> Any:
        if helper is None:
            raise AttributeError(f"type object {owner.__name__!r} has no attribute {self.name!r}")
        try:
            value = helper.__dict__[self.name]
        except KeyError:
            raise AttributeError(f"{type(helper).__name__!r} object has no attribute {self.name!r}") from None
        return self.own(helper) if type(value) is _Names else value

    def __set__(self, helper: Any, value: Any) -> None:
        helper.__dict__[self.name] = value

    def __delete__(self, helper: Any) -> None:
        self.__get__(helper)
        del helper.__dict__[self.name]

    def own(self, helper: Any) -> Any:
        """What the object has; its own from now on."""
        with lock:  # threads that use the same object have one set
            value = helper.__dict__[self.name]
            if type(value) is _Names:
                value = helper.__dict__[self.name] = set(value)
            return value


def _attributes(operations: Any) -> dict[str, Any]:
    """What the host's constructor sets, in its order."""
    return {
        "siteSEMapping": {},
        "storageElementSet": set(),
        "siteSet": set(),
        _OPERATIONS: operations,
        "failoverSEs": None,
        "archiveSEs": None,
        "notForJobSEs": None,
    }


class _Made(NamedTuple):
    """The ``Operations`` that the host's constructor made for a VO."""

    configuration: Any  # held, so that the identity cannot come back for another object
    operations: type
    found: dict[str, Any]

    def copy(self) -> Any:
        operations: Any = object.__new__(self.operations)
        operations.__dict__.update(self.found)
        return operations


class _Derived(NamedTuple):
    """What one derivation made."""

    configuration: Any
    mapping: dict[Any, dict[str, set[str]]]
    storage_elements: _Names
    sites: _Names


class _Kept(OrderedDict):
    """What is known of the configuration in use. An entry is put in whole and never changed: readers need no lock."""

    def keep(self, key: Any, value: Any) -> None:
        with lock:
            # Not only for right answers: a configuration takes megabytes.
            for stale in [other for other, kept in self.items() if kept.configuration is not value.configuration]:
                del self[stale]
            self[key] = value
            if len(self) > _MAX_VOS:
                self.popitem(last=False)


class _Helpers:
    """What stands in for methods of DMSHelpers, with what it remembers."""

    def __init__(self, site: Site) -> None:
        self._guard = site.guard
        self._namespace = vars(site.module)
        self._type = site.resolve("DMSHelpers")
        self._init = site.resolve(_INIT)
        self._original = site.resolve(_METHOD)
        self._s_ok = site.resolve("S_OK")
        self._data = sys.modules[_CONFIGURATION].gConfigurationData
        self._refresher = sys.modules[_REFRESHER].gRefresher
        self._made = _Kept()
        self._derived = _Kept()

    def make(self, helper: Any, vo: Any) -> None:
        """Initialise a helper, as the host's constructor does."""
        # Without a VO that of the proxy in use counts. A subclass may have other ways to set attributes.
        if self._guard.off or not vo or type(vo) is not str or type(helper) is not self._type:
            self._init(helper, vo)
            return
        self._refresher.refreshConfigurationIfNeeded()
        try:
            configuration = self._data.mergedCFG
            made: Any = self._made.get(vo)
            known = made is not None and made.configuration is configuration
            if known and made.operations is self._namespace["Operations"]:
                helper.__dict__.update(_attributes(made.copy()))
                return
        except Exception as error:
            self._guard.failed(error)
            self._init(helper, vo)
            return
        self._init(helper, vo)
        self._keep_made(vo, configuration, helper)

    def _keep_made(self, vo: str, configuration: Any, helper: Any) -> None:
        try:
            found = vars(helper)[_OPERATIONS]
            # A constructor that sets anything else is not the one that we know.
            if vars(helper) == _attributes(found) and self._data.mergedCFG is configuration:
                self._made.keep(vo, _Made(configuration, type(found), dict(vars(found))))
        except Exception as error:
            self._guard.failed(error)

    def get(self, helper: Any) -> Any:
        """The map of a helper, as the host's method returns it."""
        # The host, too, returns what the object already has, without a look at the configuration.
        if self._guard.off or helper.siteSEMapping:
            return self._original(helper)
        self._refresher.refreshConfigurationIfNeeded()
        try:
            configuration = self._data.mergedCFG
            operations = helper.__dict__[_OPERATIONS]
            key = (type(operations), *operations.__dict__.values())
            derived = self._derived.get(key)
            if derived is not None and derived.configuration is configuration:
                return self._s_ok(self._give(derived, helper))
        except Exception as error:
            self._guard.failed(error)
            return self._original(helper)
        return self._derive(helper, operations, key, configuration)

    def check(self, answer: Any, original: Any, args: Any, kwargs: Any) -> str:
        """The check against stock, on objects of its own: what the caller has got may have been changed since."""
        helper = args[0]
        ours, stock = (object.__new__(type(helper)) for _ in range(2))
        for scratch in (ours, stock):
            scratch.__dict__.update(_attributes(helper.__dict__[_OPERATIONS]))
        if self.get(ours)["OK"] != original(stock)["OK"]:
            return "another answer"
        names = ("siteSEMapping", "storageElementSet", "siteSet")
        return "" if all(getattr(ours, name) == getattr(stock, name) for name in names) else "another map"

    def _give(self, derived: _Derived, helper: Any) -> Any:
        mapping = lend(derived.mapping)
        # The map last: another thread that uses the same object takes it to mean that all are there.
        if type(helper) is self._type:
            attributes = helper.__dict__
            attributes["storageElementSet"] = derived.storage_elements
            attributes["siteSet"] = derived.sites
            attributes["siteSEMapping"] = mapping
        else:
            helper.storageElementSet = set(derived.storage_elements)
            helper.siteSet = set(derived.sites)
            helper.siteSEMapping = mapping
        return mapping

    def _derive(self, helper: Any, operations: Any, key: Any, configuration: Any) -> Any:
        self._guard.note("derivations")
        # On an object that nobody else has: the host's method sets the map first, and then the sets.
        scratch = object.__new__(self._type)
        scratch.__dict__.update(_attributes(operations))
        answer = self._original(scratch)
        if answer["OK"]:
            self._keep_derived(key, configuration, scratch)
            helper.storageElementSet = scratch.storageElementSet
            helper.siteSet = scratch.siteSet
            helper.siteSEMapping = scratch.siteSEMapping
        return answer

    def _keep_derived(self, key: Any, configuration: Any, helper: Any) -> None:
        try:
            mapping = {
                level: {site: set(elements) for site, elements in sites.items()}
                for level, sites in helper.siteSEMapping.items()
            }
            sets = _Names(helper.storageElementSet), _Names(helper.siteSet)
            derived = _Derived(configuration, mapping, *sets)
            # Not if it was refreshed while it was derived: it may be of both.
            if any(mapping.values()) and self._data.mergedCFG is configuration:
                self._derived.keep(key, derived)
        except Exception as error:
            self._guard.failed(error)


def _look(site: Site) -> None:
    helpers = site.resolve("DMSHelpers")
    if "_instances" in vars(helpers):
        raise InTree("the host shares the helpers itself")
    site.expect(_INIT, "Operations", *_attributes(None))
    site.expect(_METHOD, "siteSEMapping", "storageElementSet", "siteSet", _OPERATIONS)


def _put_on(site: Site) -> None:
    helpers, sets = site.resolve("DMSHelpers"), [_OwnSet("storageElementSet"), _OwnSet("siteSet")]
    ours = _Helpers(site)
    make, get = ours.make, ours.get

    def __init__(self: Any, vo: Any = False) -> None:
        make(self, vo)

    def getSiteSEMapping(self: Any) -> Any:
        return get(self)

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        _own_sets(self)  # they are one set in an object and in its shallow copy
        return super(helpers, self).__reduce_ex__(protocol)

    def _own_sets(helper: Any) -> None:
        for own_set in sets:
            if own_set.name in helper.__dict__:
                own_set.own(helper)

    def own_all() -> None:
        for candidate in gc.get_objects():
            if issubclass(type(candidate), helpers):
                _own_sets(candidate)

    for own_set in sets:
        site.add(helpers, own_set.name, own_set)
    site.add(helpers, "__reduce_ex__", __reduce_ex__)
    # Undone when the stand-ins, which share the sets, are off again, and before what makes them the objects' own.
    site.undoing.append(own_all)
    site.stand_in(_INIT, __init__)
    site.stand_in(_METHOD, getSiteSEMapping, ours.check)


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


PATCH = Patch(
    name="dms_helpers",
    targets=(Target((_MODULE,), "DMSHelpers", _look, _put_on),),
    ask=_ask,
)
