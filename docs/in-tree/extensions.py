"""DIRAC 9.1.9 and later: one caller's change to the list of extensions reaches all callers."""

from DIRAC.Core.Utilities.Extensions import extensionsByPriority, getExtensionMetadata


def tell(what: str, right: bool) -> None:
    print(f"{'right' if right else 'wrong'}: {what}")


extensionsByPriority().append("MineDIRAC")
tell("the list of extensions is the caller's own", "MineDIRAC" not in extensionsByPriority())
getExtensionMetadata("DIRAC")["mine"] = 1
tell("metadata of an extension is the caller's own", "mine" not in getExtensionMetadata("DIRAC"))
