"""DMSHelpers: the map of sites and storage elements is derived once per VO and configuration.

Each ``DMSHelpers`` object derives its map of sites and storage elements from the configuration when it is first asked,
4.5 ms for 120 sites, and the host makes a new object for nearly every question. The map depends on nothing but the
configuration and the VO, so we keep it for both, and each object gets its own copy.

The same answer: the VO is what the host's own constructor resolved, also from the proxy in use. The configuration is
recognised by the object that holds it merged: the host makes a new one whenever the configuration is refreshed or an
option is set, also locally (``ConfigurationData.sync``), which a comparison of versions would miss. A map is only kept
if that object was the same before and after it was derived. Each object owns the dictionaries and sets that it
returns, as in the host, so copies, pickles and callers that change them behave as before.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from typing import Any, NamedTuple

from dirac_perfpatch.patching import Database, InTree, NotAsked, Patch, Site, Target

_MODULE = "DIRAC.DataManagementSystem.Utilities.DMSHelpers"
# The module that holds the configuration of the process. Whatever DMSHelpers reads comes from there, so it is loaded.
_CONFIGURATION = "DIRAC.ConfigurationSystem.Client.ConfigurationData"
_METHOD = "DMSHelpers.getSiteSEMapping"
# More VOs than any installation serves.
_MAX_VOS = 200


class _Derived(NamedTuple):
    """What one derivation made; never handed out itself."""

    configuration: Any  # held, so that the identity cannot come back for another object
    mapping: dict[Any, dict[str, set[str]]]
    storage_elements: frozenset[str]
    sites: frozenset[str]


class _Mapper:
    """What stands in for getSiteSEMapping, with what it remembers."""

    def __init__(self, site: Site) -> None:
        self._guard = site.guard
        self._original = site.resolve(_METHOD)
        self._s_ok = site.resolve("S_OK")
        self._derived: OrderedDict[tuple[type, Any], _Derived] = OrderedDict()
        # For making room only: an entry is put in whole and never changed, so readers need no lock.
        self._lock = threading.Lock()

    def get(self, helper: Any) -> Any:
        """The map of a helper, as the host's method returns it."""
        # The host, too, returns what the object already has, without a look at the configuration.
        if self._guard.off or helper.siteSEMapping:
            return self._original(helper)
        try:
            configuration = sys.modules[_CONFIGURATION].gConfigurationData.mergedCFG
            # A subclass may derive something else from the same configuration.
            key = (type(helper), helper._DMSHelpers__opsHelper._Operations__vo)
            derived = self._derived.get(key)
            if derived is not None and derived.configuration is configuration:
                _give(derived, helper)
                return self._s_ok(helper.siteSEMapping)
        except Exception as error:
            self._guard.failed(error)
            return self._original(helper)
        answer = self._original(helper)
        if answer["OK"]:
            self._keep(key, configuration, helper)
        return answer

    def _keep(self, key: tuple[type, Any], configuration: Any, helper: Any) -> None:
        try:
            derived = _Derived(
                configuration,
                _copy(helper.siteSEMapping),
                frozenset(helper.storageElementSet),
                frozenset(helper.siteSet),
            )
            if sys.modules[_CONFIGURATION].gConfigurationData.mergedCFG is not configuration:
                return  # refreshed while it was derived: it may be of both
            with self._lock:
                self._derived[key] = derived
                if len(self._derived) > _MAX_VOS:
                    self._derived.popitem(last=False)
        except Exception as error:
            self._guard.failed(error)


def _copy(mapping: dict[Any, dict[str, set[str]]]) -> dict[Any, dict[str, set[str]]]:
    return {level: dict(zip(sites, map(set, sites.values()))) for level, sites in mapping.items()}


def _give(derived: _Derived, helper: Any) -> None:
    helper.storageElementSet = set(derived.storage_elements)
    helper.siteSet = set(derived.sites)
    # Last: another thread that uses the same object takes this one to mean that all are there.
    helper.siteSEMapping = _copy(derived.mapping)


def _look(site: Site) -> None:
    helpers = site.resolve("DMSHelpers")
    if "_instances" in vars(helpers):
        raise InTree("the host shares the helpers itself")
    site.expect(_METHOD, "siteSEMapping", "storageElementSet", "siteSet", "_DMSHelpers__opsHelper")


def _put_on(site: Site) -> None:
    get = _Mapper(site).get

    def getSiteSEMapping(self: Any) -> Any:
        return get(self)

    site.stand_in(_METHOD, getSiteSEMapping)


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
