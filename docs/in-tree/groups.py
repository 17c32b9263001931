"""DIRAC 9.1.20 and later: resolveSEGroup keeps its first answer until the process ends."""

from DIRAC.ConfigurationSystem.Client.ConfigurationData import gConfigurationData
from DIRAC.Core.Utilities.Extensions import extensionsByPriority
from DIRAC.DataManagementSystem.Utilities.DMSHelpers import resolveSEGroup

extensionsByPriority()  # as every command does


def tell(what: str, right: bool) -> None:
    print(f"{'right' if right else 'wrong'}: {what}")


def configure(path, value):
    gConfigurationData.setOptionInCFG(f"/Resources/{path}", value)


resolveSEGroup("NOT-YET")
for se in ("ONE", "TWO", "NOT-YET"):
    configure(f"StorageElements/{se}/BackendType", "Test")
tell("an answer that failed is not kept", resolveSEGroup("NOT-YET") == ["NOT-YET"])

configure("StorageElementGroups/GROUP", "ONE")
resolveSEGroup("GROUP")
configure("StorageElementGroups/GROUP", "ONE, TWO")
gConfigurationData.generateNewVersion()
tell("a new configuration is seen", resolveSEGroup("GROUP") == ["ONE", "TWO"])

resolveSEGroup("TWO").append("MINE")
tell("the list is the caller's own", resolveSEGroup("TWO") == ["TWO"])

resolveSEGroup(["ONE", "TWO"])
tell("the order is the caller's", resolveSEGroup(["TWO", "ONE"]) == ["TWO", "ONE"])

resolveSEGroup("TWO,ONE")
tell("a text is not taken for a list", resolveSEGroup(["TWO,ONE"]) == [])
