"""DMSHelpers: the map of sites and storage elements is derived once per VO and configuration.

Each ``DMSHelpers`` object derives its map of sites and storage elements from the configuration when it is first asked,
4.5 ms for 120 sites, and the host makes a new object for nearly every question. The map depends only on the
configuration and on what the object's ``Operations`` found out about VO and setup, so we keep it for these.

Why the answer is the same: every change of the configuration, also a local one, makes a new merged object
(``_configuration``). So a map is valid for one such object, and it is kept only if the object was the same before and
after the derivation. The host checks whether a refresh is due whenever it reads the configuration, and so do we. A
helper that is made without a VO follows the proxy in use, because the host's own constructor runs every time.

Each object owns what it returns, as in the host: plain dictionaries and sets, copied for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from dirac_perfpatch.patches._configuration import Configuration
from dirac_perfpatch.patching import Case, Database, Fitting, InTree, Meter, NotAsked, Patch, Target, Timed

_MODULE = "DIRAC.DataManagementSystem.Utilities.DMSHelpers"
_METHOD = "DMSHelpers.getSiteSEMapping"
_OPERATIONS = "_DMSHelpers__opsHelper"
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
            return "another answer"
        names = ("siteSEMapping", "storageElementSet", "siteSet")
        return "" if all(getattr(ours, name) == getattr(stock, name) for name in names) else "another map"

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


def _look(fitting: Fitting) -> None:
    if "_instances" in vars(fitting.resolve("DMSHelpers")):
        raise InTree("the host shares the helpers itself")
    fitting.expect("DMSHelpers.__init__", "Operations", "siteSEMapping", "storageElementSet", "siteSet", _OPERATIONS)
    fitting.expect(_METHOD, "siteSEMapping", "storageElementSet", "siteSet", _OPERATIONS)


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
        places[f"LCG.Fitting{number:03}.ch"] = {"SE": f"{disk}, {tape}"}
    groups = {"Tier1-disk": ", ".join(f"SITE{number:03}-disk" for number in range(0, sites, 3))}
    by_protocol = {"LCG.Site000.ch": "Tier1-disk", "LCG.Site001.ch": "LCG.Site000.ch"}
    return {
        "DIRAC": {"Configuration": {"Version": f"{sites} sites"}},
        "Resources": {"StorageElements": elements, "StorageElementGroups": groups, "Sites": {"LCG": places}},
        "Operations": {"Defaults": {"SiteSEMappingByProtocol": by_protocol}},
    }


PATCH = Patch(
    name="dms_helpers",
    targets=(Target((_MODULE,), _METHOD, _look, _put_on),),
    ask=_ask,
    cases=(Case("getSiteSEMapping()", _made_up_sites, (120,), (10, 30, 120, 500), "sites"),),
)
