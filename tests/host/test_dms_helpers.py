"""DMSHelpers: right for every VO and configuration, and nobody's answer is anybody else's."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
from conftest import SITES, changed, mapping, release, run, stock, vo_option
from DIRAC import gConfig
from DIRAC.ConfigurationSystem.Client.ConfigurationData import gConfigurationData
from DIRAC.ConfigurationSystem.private.Refresher import gRefresher
from DIRAC.Core.Utilities import DEncode, JEncode
from DIRAC.DataManagementSystem.Utilities import DMSHelpers as module
from DIRAC.DataManagementSystem.Utilities.DMSHelpers import DOWNLOAD, LOCAL, PROTOCOL, DMSHelpers
from hypothesis import given, settings
from hypothesis import strategies as st

from dirac_perfpatch import loading
from dirac_perfpatch.patches import dms_helpers
from dirac_perfpatch.patching import without_stacks

pytestmark = pytest.mark.patched


def derivations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every look at the list of storage elements, which each derivation takes."""
    seen = []
    real = gConfig.getSections

    def counted(path: str, *args: Any, **kwargs: Any) -> Any:
        if "StorageElements" in path:
            seen.append(path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(gConfig, "getSections", counted)
    return seen


def test_the_same_answers_as_stock() -> None:
    def ask() -> list[Any]:
        answers: list[Any] = []
        for vo in ("fakevo", "other", False, "fakevo"):
            helper = DMSHelpers(vo=vo)
            answers += [helper.getSiteSEMapping(), helper.getSites(), helper.getStorageElements()]
            answers += [helper.getTiers(tier=1), helper.getShortSiteNames(), helper.getShortSiteNames(False)]
            for se in ("SITE000-disk", "SITE000-disk-alias", "SITE003-tape", "no such SE"):
                answers += [_plain(helper.getSitesForSE(se, level)) for level in ("LOCAL", "PROTOCOL", "DOWNLOAD")]
                answers += [helper.isSEFailover(se), helper.isSEArchive(se), helper.isSEForJobs(se)]
                answers.append(_plain(helper.getLocalSiteForSE(se)))
            for site in ("LCG.Site000.ch", "LCG.Site001.ch", "Site002", "no such site"):
                answers += [_plain(helper.getSEsForSite(site)), _plain(helper.getSEsAtSite(site))]
        return answers

    patched = ask()
    with stock("dms_helpers"):
        assert ask() == patched
    assert len(mapping()[LOCAL]) == SITES


def _plain(answer: dict[str, Any]) -> Any:
    return answer["Value"] if answer["OK"] else answer["Message"]


def test_is_derived_once(monkeypatch: pytest.MonkeyPatch) -> None:
    mapping()
    seen = derivations(monkeypatch)
    for _ in range(5):
        mapping()
        DMSHelpers(vo="fakevo").getStorageElements()
    assert seen == []
    with stock("dms_helpers"):
        mapping()
    assert seen


def test_a_caller_that_changes_an_answer_harms_nobody() -> None:
    wanted = mapping()
    changed = mapping()
    changed[LOCAL]["LCG.Site000.ch"].add("MINE")
    changed[LOCAL]["LCG.Mine.ch"] = {"MINE"}
    changed[PROTOCOL].clear()
    helper = DMSHelpers(vo="fakevo")
    helper.getSiteSEMapping()
    helper.siteSet.clear()
    helper.storageElementSet.add("MINE")
    assert mapping() == wanted
    assert "MINE" not in DMSHelpers(vo="fakevo").getStorageElements()
    assert DMSHelpers(vo="fakevo").getSites()


def test_the_proxy_in_use_decides_the_vo(monkeypatch: pytest.MonkeyPatch) -> None:
    """DMSHelpers() without a VO takes that of the proxy, at construction; each VO has sites of its own."""
    from DIRAC.ConfigurationSystem.Client.Helpers import Operations as operations

    in_use = ["first"]
    # Which file the proxy is in is the client's matter; the VO of its group is what stock asks for.
    monkeypatch.setattr(operations, "getVOfromProxyGroup", lambda: {"OK": True, "Value": in_use[0]})
    first, second = (vo_option(vo, "SiteSEMappingByProtocol/LCG.Site005.ch") for vo in ("first", "second"))
    with changed(first, "SITE006-disk"), changed(second, "SITE007-disk"):
        for _ in range(2):
            for vo, se in (("first", "SITE006-disk"), ("second", "SITE007-disk")):
                in_use[0] = vo
                assert mapping(vo=False)[PROTOCOL]["LCG.Site005.ch"] == {se}
                assert mapping(vo=vo)[PROTOCOL]["LCG.Site005.ch"] == {se}
        in_use[0] = "first"
        helper = DMSHelpers()
        in_use[0] = "second"
        assert helper.getSiteSEMapping()["Value"][PROTOCOL]["LCG.Site005.ch"] == {"SITE006-disk"}


@pytest.mark.parametrize("new_version", [True, False])
def test_a_changed_configuration_is_seen(new_version: bool) -> None:
    """With a new version as a refresh brings it, and without one, as a local change is."""
    path = "/Resources/Sites/LCG/LCG.Site000.ch/SE"
    before = gConfig.getValue(path)
    assert "CHANGED" not in mapping()[LOCAL]["LCG.Site000.ch"]
    gConfigurationData.setOptionInCFG(path, f"{before}, CHANGED")
    if new_version:
        gConfigurationData.generateNewVersion()
    try:
        assert "CHANGED" in mapping()[LOCAL]["LCG.Site000.ch"]
    finally:
        gConfigurationData.setOptionInCFG(path, before)
    assert "CHANGED" not in mapping()[LOCAL]["LCG.Site000.ch"]


def test_an_object_keeps_the_map_that_it_has_as_in_stock() -> None:
    path = "/Resources/Sites/LCG/LCG.Site000.ch/SE"
    before = gConfig.getValue(path)
    helper = DMSHelpers(vo="fakevo")
    first = helper.getSiteSEMapping()["Value"]
    gConfigurationData.setOptionInCFG(path, f"{before}, CHANGED")
    try:
        assert helper.getSiteSEMapping()["Value"] is first
    finally:
        gConfigurationData.setOptionInCFG(path, before)


def _shallow(helper: Any) -> Any:
    return copy.copy(helper)


def _pickled(helper: Any) -> Any:
    return pickle.loads(pickle.dumps(helper))


GETTERS: dict[str, Callable[[Any], Any]] = {
    "map": lambda helper: helper.getSiteSEMapping(),
    "a site of the map": lambda helper: helper.getSiteSEMapping()["Value"][LOCAL].get("LCG.Site001.ch"),
    "items": lambda helper: list(helper.getSiteSEMapping()["Value"][LOCAL].items()),
    "level": lambda helper: helper.siteSEMapping.get(PROTOCOL),
    "sites": lambda helper: helper.getSites(),
    "tiers": lambda helper: helper.getTiers(withStorage=True),
    "short names": lambda helper: helper.getShortSiteNames(False),
    "elements": lambda helper: helper.getStorageElements(),
    "set of sites": lambda helper: helper.siteSet,
    "set of elements": lambda helper: helper.storageElementSet,
    "sites for": lambda helper: helper.getSitesForSE("SITE000-disk"),
    "local sites for": lambda helper: helper.getSitesForSE("SITE003-tape", "LOCAL"),
    "local site for": lambda helper: helper.getLocalSiteForSE("SITE001-disk"),
    "elements for": lambda helper: helper.getSEsForSite("LCG.Site000.ch"),
    "elements at": lambda helper: helper.getSEsAtSite("LCG.Site001.ch"),
    "elements in": lambda helper: helper.getSEsAtCountry("ch", "LOCAL"),
    "same site": lambda helper: helper.isSameSiteSE("SITE001-disk", "SITE001-tape"),
    "for jobs": lambda helper: helper.isSEForJobs("SITE000-disk"),
    "protocols": lambda helper: helper.getAccessProtocols(),
    "attributes": lambda helper: sorted(vars(helper)),
}
CHANGES: dict[str, Callable[[Any], Any]] = {
    "element at a site": lambda helper: helper.getSiteSEMapping()["Value"][LOCAL]["LCG.Site001.ch"].add("MINE"),
    "site without elements": lambda helper: helper.siteSEMapping[LOCAL].pop("LCG.Site003.ch"),
    "level": lambda helper: helper.siteSEMapping[PROTOCOL].clear(),
    "all sites": lambda helper: [elements.add("ALL") for elements in helper.siteSEMapping[LOCAL].values()],
    "map": lambda helper: helper.siteSEMapping.clear(),
    "sites": lambda helper: helper.siteSet.add("LCG.Mine.ch"),
    "elements": lambda helper: helper.storageElementSet.clear(),
    "other sites": lambda helper: setattr(helper, "siteSet", {"LCG.Other.ch"}),
    "no set of elements": lambda helper: delattr(helper, "storageElementSet"),
}
COPIES = {"copy": _shallow, "deepcopy": copy.deepcopy, "pickle": _pickled}


def outcome(use: Callable[[Any], Any], helper: Any) -> Any:
    try:
        # A copy: what is compared must not change with the helper.
        return copy.deepcopy(without_stacks(use(helper)))
    except (KeyError, AttributeError) as error:
        return type(error)


class Stock(DMSHelpers):  # type: ignore[misc]
    """A helper as the host makes it."""

    def getSiteSEMapping(self) -> Any:
        return DMSHelpers.getSiteSEMapping.__wrapped__(self)


STEPS = st.one_of(
    st.tuples(st.just("new"), st.sampled_from(["fakevo", "other", False])),
    st.tuples(st.just("ask"), st.sampled_from(sorted(GETTERS))),
    st.tuples(st.just("change"), st.sampled_from(sorted(CHANGES))),
    st.tuples(st.just("copy"), st.sampled_from(sorted(COPIES))),
    st.tuples(st.just("configure"), st.sampled_from(["", "SITE009-disk"])),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(STEPS, st.integers(0, 5)), max_size=20))
def test_whatever_is_done_to_helpers_they_are_as_in_stock(steps: list[tuple[tuple[str, Any], int]]) -> None:
    path = "/Resources/Sites/LCG/LCG.Site001.ch/SE"
    normal = gConfig.getValue(path)
    helpers = [(DMSHelpers(vo="fakevo"), Stock(vo="fakevo"))]
    with changed(path, normal):
        for (step, what), number in steps:
            ours, theirs = helpers[number % len(helpers)]
            if step == "new":
                helpers.append((DMSHelpers(vo=what), Stock(vo=what)))
            elif step == "ask":
                assert outcome(GETTERS[what], ours) == outcome(GETTERS[what], theirs)
            elif step == "change":
                assert outcome(CHANGES[what], ours) == outcome(CHANGES[what], theirs)
            elif step == "copy":
                helpers.append((COPIES[what](ours), COPIES[what](theirs)))
            else:
                gConfigurationData.setOptionInCFG(path, f"{normal}, {what}")
        for ours, theirs in helpers:
            for name, use in GETTERS.items():
                assert outcome(use, ours) == outcome(use, theirs), name
    assert loading.plugin.switches["dms_helpers"].guard.failures == 0


@pytest.mark.parametrize("copied", sorted(COPIES))
@pytest.mark.parametrize("kept", [False, True])
def test_copies_are_made_of_dictionaries_and_sets(copied: str, kept: bool) -> None:
    gConfigurationData.sync()
    if kept:
        mapping()
    helper = DMSHelpers(vo="fakevo")
    helper.getSiteSEMapping()
    other = COPIES[copied](helper)
    assert type(vars(other)["siteSet"]) is type(vars(other)["storageElementSet"]) is set
    assert type(other.siteSet) is type(other.storageElementSet) is set
    assert other.getSiteSEMapping() == helper.getSiteSEMapping()
    assert other.getStorageElements() == helper.getStorageElements()
    if "__copy__" in vars(DMSHelpers) and copied != "pickle":  # from 9.1.17 on
        assert other is helper
    elif copied == "copy":
        assert (other.siteSet, other.siteSEMapping) == (helper.siteSet, helper.siteSEMapping)
        assert other.siteSet is helper.siteSet
        assert other.siteSEMapping is helper.siteSEMapping
    else:
        levels = other.siteSEMapping
        parts = [levels, *levels.values(), *levels[LOCAL].values()]
        assert {type(part) for part in parts} == {dict, set}
        assert levels is not helper.siteSEMapping


def test_a_pickle_is_read_by_a_process_without_the_plugin() -> None:
    mapping()
    helper = DMSHelpers(vo="fakevo")
    helper.getSiteSEMapping()
    other = DMSHelpers(vo="fakevo")
    other.getSiteSEMapping()
    pickled = pickle.dumps([helper, helper.getSiteSEMapping(), vars(other)])
    assert b"perfpatch" not in pickled
    code = (
        f"import pickle, sys; helper, answer, attributes = pickle.loads({pickled!r});"
        "print(len(answer['Value'][1]), len(helper.getSites()), len(attributes['siteSet']), 'perfpatch' in sys.modules)"
    )
    answer = run(code, DIRAC_PERFPATCH="off")
    assert answer.stdout.split()[-4:] == [str(SITES)] * 3 + ["False"], answer.stderr


def test_what_is_sent_is_as_in_stock() -> None:
    """A caller puts lists in the place of the sets, which are not sent by either encoding, and sends that."""
    sets_refused = (KeyError, TypeError)
    for encode in (DEncode.encode, JEncode.encode):
        for part in (mapping(), mapping()[LOCAL]):
            with pytest.raises(sets_refused):
                encode(part)
        for level in (LOCAL, PROTOCOL):
            part = mapping()[level]
            for site in part:
                part[site] = sorted(part[site])
            assert encode(part) == encode(dict(part))
            whole = mapping()
            for number in whole:
                whole[number] = {site: sorted(elements) for site, elements in whole[number].items()}
            assert encode(whole) == encode(dict(whole))
    assert json.loads(json.dumps(mapping()[LOCAL], default=sorted))["LCG.Site003.ch"] == [
        "SITE003-disk",
        "SITE003-tape",
    ]


def test_a_configuration_without_sites_is_sent_as_in_stock() -> None:
    before = gConfigurationData.mergedCFG
    tree = {"Resources": {"StorageElements": {"SE": {}}, "Sites": {}}}
    gConfigurationData.mergedCFG = type(before)().loadFromDict(tree)
    try:
        for _ in range(2):
            # A VO that the host has cached nothing for, because the version is the same.
            assert DEncode.encode(mapping("never asked")) == DEncode.encode({LOCAL: {}, PROTOCOL: {}, DOWNLOAD: {}})
    finally:
        gConfigurationData.mergedCFG = before


def test_no_way_leads_to_what_somebody_else_has() -> None:
    """Also past the attributes; and all is of the host's own types."""
    mapping()
    helpers = [DMSHelpers(vo="fakevo") for _ in range(2)]
    for helper in helpers:
        helper.getSiteSEMapping()
    one, other = ([*vars(helper).values(), *_inside(helper.siteSEMapping)] for helper in helpers)
    containers = [part for part in one if isinstance(part, (dict, set))]
    assert {type(part) for part in containers} == {dict, set}
    assert len(containers) > SITES
    assert set(map(id, containers)).isdisjoint(map(id, other))
    assert not hasattr(DMSHelpers, "siteSet")


def _inside(mapping: dict[Any, Any]) -> list[Any]:
    return [part for level in mapping.values() for part in (level, *level.values())]


def test_a_helper_that_another_thread_derives_is_never_half_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host sets the map before the sets of sites and storage elements."""
    gConfigurationData.sync()
    helper, seen = DMSHelpers(vo="fakevo"), []
    real = gConfig.getSections

    def look_in_between(path: str, *args: Any, **kwargs: Any) -> Any:
        # What the host asks last, with the map set and the sets not.
        seen.append((bool(helper.siteSEMapping), bool(helper.siteSet)))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(gConfig, "getSections", look_in_between)
    assert len(helper.getSites()) == SITES
    assert set(seen) == {(False, False)}
    assert helper.siteSEMapping


def test_operations_of_another_class_are_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    mapping()

    class Special(module.Operations):  # type: ignore[misc]
        def getOptionsDict(self, path: str) -> Any:
            return {"OK": True, "Value": {}}

    monkeypatch.setattr(module, "Operations", Special)
    for _ in range(2):
        assert type(vars(DMSHelpers(vo="fakevo"))["_DMSHelpers__opsHelper"]) is Special
        assert mapping()[PROTOCOL] == {}
    monkeypatch.undo()
    assert type(vars(DMSHelpers(vo="fakevo"))["_DMSHelpers__opsHelper"]) is module.Operations
    assert mapping()[PROTOCOL]


def test_the_vo_of_the_configuration_goes_before_that_of_the_caller() -> None:
    """As does the setup, in 8.0: what was found out for a VO is not kept for another configuration."""

    def found() -> Any:
        operations = vars(vars(DMSHelpers(vo="fakevo"))["_DMSHelpers__opsHelper"])
        return operations["_Operations__vo"], operations.get("_Operations__setup")

    vo, setup = found()
    assert vo == "fakevo"
    with changed("/DIRAC/VirtualOrganization", "global"), changed("/DIRAC/Setup", "another"):
        assert [found() for _ in range(2)] == [("global", "another" if release().startswith("8.") else None)] * 2
    assert found() == (vo, setup)


def test_a_helper_of_another_setup_has_the_map_of_that_setup() -> None:
    """In 8.0; later the setup says nothing."""
    wanted = {"SITE006-disk"} if release().startswith("8.") else None
    path = "/Operations/elsewhere/SiteSEMappingByProtocol/LCG.Site005.ch"
    with changed(path, "SITE006-disk"):
        with changed("/DIRAC/Setup", "elsewhere"):
            helper = DMSHelpers(vo="fakevo")
        assert "LCG.Site005.ch" not in mapping()[PROTOCOL]
        assert helper.getSiteSEMapping()["Value"][PROTOCOL].get("LCG.Site005.ch") == wanted
        assert "LCG.Site005.ch" not in mapping()[PROTOCOL]


def test_a_due_refresh_is_noticed_as_in_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client refreshes its configuration when it is read and has become old."""
    mapping()
    looked: list[int] = []
    monkeypatch.setattr(gRefresher, "refreshConfigurationIfNeeded", lambda: looked.append(1))
    helper = DMSHelpers(vo="fakevo")
    assert looked
    looked.clear()
    helper.getSiteSEMapping()
    assert looked
    looked.clear()
    helper.getSiteSEMapping()
    assert not looked


def test_what_is_known_of_an_old_configuration_is_forgotten() -> None:
    """It would hold the whole configuration."""
    import weakref

    class Configuration(type(gConfigurationData.mergedCFG)):  # type: ignore[misc]
        pass

    before = gConfigurationData.mergedCFG
    for vo in ("first", "second", "third"):
        mapping(vo)
    gConfigurationData.mergedCFG = old = Configuration().loadFromDict(before.getAsDict())
    for vo in ("first", "second", "third"):
        mapping(vo)
    forgotten = weakref.ref(old)
    gConfigurationData.mergedCFG = before
    del old
    mapping("first")
    assert forgotten() is None


def test_a_subclass_has_a_map_of_its_own() -> None:
    class Special(DMSHelpers):  # type: ignore[misc]
        pass

    for _ in range(2):
        first = Special(vo="fakevo")
        first.getSiteSEMapping()["Value"][LOCAL].clear()
        first.siteSet.clear()
        assert mapping()[LOCAL]
        assert Special(vo="fakevo").getSiteSEMapping()["Value"] == mapping()
        assert len(Special(vo="fakevo").getSites()) == SITES


def test_a_subclass_that_keeps_its_attributes_elsewhere() -> None:
    class Special(DMSHelpers):  # type: ignore[misc]
        def __init__(self, vo: Any = False) -> None:
            self.elsewhere: dict[str, Any] = {}
            super().__init__(vo=vo)

        @property
        def siteSet(self) -> Any:
            return self.elsewhere["siteSet"]

        @siteSet.setter
        def siteSet(self, value: Any) -> None:
            self.elsewhere["siteSet"] = value

    for _ in range(3):
        DMSHelpers(vo="fakevo")
        helper = Special(vo="fakevo")
        assert helper.elsewhere == {"siteSet": set()}
        assert len(helper.getSites()) == SITES
        assert type(helper.elsewhere["siteSet"]) is set
        helper.siteSet.clear()


@pytest.mark.own_lines
def test_threads_never_see_half_a_map() -> None:
    """While the configuration is refreshed all the time, every object has all sites and storage elements."""
    stop, wrong = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            helper = DMSHelpers(vo="fakevo")
            if len(helper.getSites()) != SITES or len(helper.getSiteSEMapping()["Value"][LOCAL]) != SITES:
                wrong.append(len(helper.getSites()))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(60):
        gConfigurationData.generateNewVersion()
        threading.Event().wait(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_nothing_is_kept_of_a_configuration_that_changed_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    gConfigurationData.sync()
    real = module.resolveSEGroup
    before = gConfig.getValue("/Resources/Sites/LCG/LCG.Site000.ch/SE")

    def refresh_meanwhile(*args: Any, **kwargs: Any) -> Any:
        gConfigurationData.setOptionInCFG("/Resources/Sites/LCG/LCG.Site000.ch/SE", f"{before}, CHANGED")
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, "resolveSEGroup", refresh_meanwhile)
        assert "CHANGED" not in mapping()[LOCAL]["LCG.Site000.ch"]
    try:
        assert "CHANGED" in mapping()[LOCAL]["LCG.Site000.ch"]
    finally:
        gConfigurationData.setOptionInCFG("/Resources/Sites/LCG/LCG.Site000.ch/SE", before)


def test_nothing_is_kept_of_two_configurations_when_the_first_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    gConfigurationData.sync()
    before = gConfigurationData.mergedCFG
    tree = before.getAsDict()
    tree["DIRAC"]["VirtualOrganization"] = "global"
    del tree["Resources"]["Sites"]["LCG"]["LCG.Site003.ch"]
    meanwhile = type(before)().loadFromDict(tree)
    real_init, real_sections = module.Operations.__init__, gConfig.getSections

    def init_meanwhile(*args: Any, **kwargs: Any) -> None:
        gConfigurationData.mergedCFG = meanwhile
        real_init(*args, **kwargs)

    def sections_meanwhile(*args: Any, **kwargs: Any) -> Any:
        gConfigurationData.mergedCFG = meanwhile
        return real_sections(*args, **kwargs)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(module.Operations, "__init__", init_meanwhile)
            DMSHelpers(vo="fakevo")
        gConfigurationData.mergedCFG = before
        helper = DMSHelpers(vo="fakevo")
        assert vars(vars(helper)["_DMSHelpers__opsHelper"])["_Operations__vo"] == "fakevo"
        with monkeypatch.context() as patch:
            patch.setattr(gConfig, "getSections", sections_meanwhile)
            helper.getSiteSEMapping()
    finally:
        gConfigurationData.mergedCFG = before
    assert len(mapping()[LOCAL]) == SITES


def test_so_many_vos_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(201):
        mapping(f"vo {number}")
    seen = derivations(monkeypatch)
    mapping("vo 1")
    assert not seen
    mapping("vo 0")
    assert seen


def test_the_made_up_sites_of_the_bench_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the map by protocol names a site that does not exist, the host logs a fatal error, and maps nothing."""
    gConfigurationData.sync()
    tree = dms_helpers._configuration(3)
    monkeypatch.setattr(gConfigurationData, "mergedCFG", type(gConfigurationData.mergedCFG)().loadFromDict(tree))
    found = mapping()
    assert set(found[LOCAL]) == {"LCG.Site000.ch", "LCG.Site001.ch", "LCG.Site002.ch"}
    assert found[PROTOCOL] == {"LCG.Site000.ch": {"SITE000-disk"}, "LCG.Site001.ch": found[LOCAL]["LCG.Site000.ch"]}
