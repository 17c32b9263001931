"""DIRAC 9.1.9 and later: one DMSHelpers per VO, which is shared, emptied under its users, and out of date."""

import copy

from DIRAC.ConfigurationSystem.Client.ConfigurationData import gConfigurationData
from DIRAC.ConfigurationSystem.Client.Helpers import Operations
from DIRAC.Core.Utilities.Extensions import extensionsByPriority
from DIRAC.DataManagementSystem.Utilities.DMSHelpers import LOCAL, PROTOCOL, DMSHelpers

extensionsByPriority()  # as every command does
SITE = "/Resources/Sites/LCG/LCG.Ours.ch/SE"
for se in ("ONE", "TWO", "NEW"):
    gConfigurationData.setOptionInCFG(f"/Resources/StorageElements/{se}/BackendType", "Test")
gConfigurationData.setOptionInCFG(SITE, "ONE")
for vo, se in (("first", "ONE"), ("second", "TWO")):
    for setup in ("", "/Defaults"):  # 8.0 has the second
        gConfigurationData.setOptionInCFG(f"/Operations/{vo}{setup}/SiteSEMappingByProtocol/LCG.Ours.ch", se)


def tell(what: str, right: bool) -> None:
    print(f"{'right' if right else 'wrong'}: {what}")


def protocol(helper):
    return helper.getSiteSEMapping()["Value"][PROTOCOL]["LCG.Ours.ch"]


def of_proxy(vo):
    """DMSHelpers() for a process whose proxy is of this VO."""
    Operations.getVOfromProxyGroup = lambda: {"OK": True, "Value": vo}
    return DMSHelpers()


answers = [protocol(of_proxy(vo)) for vo in ("first", "second")]
tell("DMSHelpers() follows the proxy in use", answers == [{"ONE"}, {"TWO"}])

DMSHelpers("first").getSiteSEMapping()["Value"][LOCAL]["LCG.Mine.ch"] = {"MINE"}
tell("the map is the caller's own", "LCG.Mine.ch" not in DMSHelpers("first").getSiteSEMapping()["Value"][LOCAL])

gConfigurationData.setOptionInCFG(SITE, "ONE, NEW")  # without a new version, as local changes are
tell("a local change of the configuration is seen", "NEW" in DMSHelpers("first").getSEsAtSite("LCG.Ours.ch")["Value"])

held = DMSHelpers("held")
held.getSites()
gConfigurationData.generateNewVersion()
DMSHelpers("held")
tell("a helper in use is not emptied by a new version of the configuration", bool(held.siteSEMapping))


class Special(DMSHelpers):
    pass


tell("a subclass makes objects of the subclass", type(Special("first")) is Special)

another = DMSHelpers()
was = protocol(another)
try:
    copies = [(vo, protocol(copy.deepcopy(DMSHelpers(vo))), protocol(another)) for vo in ("first", "second")]
    right = copies == [(vo, protocol(DMSHelpers(vo)), was) for vo in ("first", "second")]
    tell("a deep copy leaves other helpers alone", right)
except TypeError as error:  # 9.1.16
    tell(f"a deep copy leaves other helpers alone ({error})", False)

gConfigurationData.setOptionInCFG("/Resources/Sites/LCG/LCG.Other.ch/SE", "TWO")
helper = DMSHelpers("sites")
helper.getSitesForSE("TWO", "LOCAL")["Value"].append("LCG.Mine.ch")
tell("the sites of an element are the caller's own", helper.getSitesForSE("TWO", "LOCAL")["Value"] == ["LCG.Other.ch"])
