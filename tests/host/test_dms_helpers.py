"""DMSHelpers: right for every VO and configuration, and nobody's answer is anybody else's."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
from conftest import SITES, release, stock
from DIRAC import gConfig
from DIRAC.ConfigurationSystem.Client.ConfigurationData import gConfigurationData
from DIRAC.DataManagementSystem.Utilities import DMSHelpers as module
from DIRAC.DataManagementSystem.Utilities.DMSHelpers import LOCAL, PROTOCOL, DMSHelpers

pytestmark = pytest.mark.patched

# 8.0 has a level for the setup in the VO section.
LEVEL = "Defaults/" if release().startswith("8.") else ""


def mapping(vo: Any = "fakevo") -> Any:
    answer = DMSHelpers(vo=vo).getSiteSEMapping()
    assert answer["OK"], answer
    return answer["Value"]


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

    gConfigurationData.setOptionInCFG(
        f"/Operations/first/{LEVEL}SiteSEMappingByProtocol/LCG.Site005.ch", "SITE006-disk"
    )
    gConfigurationData.setOptionInCFG(
        f"/Operations/second/{LEVEL}SiteSEMappingByProtocol/LCG.Site005.ch", "SITE007-disk"
    )
    in_use = ["first"]
    # Which file the proxy is in is the client's matter; the VO of its group is what stock asks for.
    monkeypatch.setattr(operations, "getVOfromProxyGroup", lambda: {"OK": True, "Value": in_use[0]})
    try:
        for _ in range(2):
            for vo, se in (("first", "SITE006-disk"), ("second", "SITE007-disk")):
                in_use[0] = vo
                assert mapping(vo=False)[PROTOCOL]["LCG.Site005.ch"] == {se}
                assert mapping(vo=vo)[PROTOCOL]["LCG.Site005.ch"] == {se}
        in_use[0] = "first"
        helper = DMSHelpers()
        in_use[0] = "second"
        assert helper.getSiteSEMapping()["Value"][PROTOCOL]["LCG.Site005.ch"] == {"SITE006-disk"}
    finally:
        for vo in ("first", "second"):
            gConfigurationData.deleteOptionInCFG(f"/Operations/{vo}/{LEVEL}SiteSEMappingByProtocol/LCG.Site005.ch")


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


def test_copies_and_pickles() -> None:
    helper = DMSHelpers(vo="fakevo")
    helper.getSiteSEMapping()
    for other in (copy.copy(helper), copy.deepcopy(helper), pickle.loads(pickle.dumps(helper))):
        assert other.getSiteSEMapping() == helper.getSiteSEMapping()
        assert other.getStorageElements() == helper.getStorageElements()
    assert copy.deepcopy(helper).siteSEMapping is not helper.siteSEMapping


def test_a_subclass_has_a_map_of_its_own() -> None:
    class Special(DMSHelpers):  # type: ignore[misc]
        pass

    first = Special(vo="fakevo")
    first.getSiteSEMapping()["Value"][LOCAL].clear()
    assert mapping()[LOCAL]
    assert Special(vo="fakevo").getSiteSEMapping()["Value"] == mapping()


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
