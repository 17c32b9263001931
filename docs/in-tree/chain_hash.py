"""DIRAC 9.1.10 and later: the hash of a chain is longer from the second time on, so nothing is found by it."""

from pathlib import Path

from DIRAC.Core.Security import X509Chain as module
from DIRAC.Core.Utilities.Extensions import extensionsByPriority

extensionsByPriority()  # as every command does
chain = module.X509Chain()
for load, name in ((chain.loadChainFromFile, "usercert.pem"), (chain.loadKeyFromFile, "userkey.pem")):
    assert load(str(Path(module.__file__).parents[1] / "test/certs/user" / name))["OK"]
proxy = module.X509Chain()
assert proxy.loadProxyFromString(chain.generateProxyToString(86400, diracGroup="a_group")["Value"])["OK"]
first, second = (proxy.hash()["Value"] for _ in range(2))
print(f"{'right' if first == second else 'wrong'}: a chain has one hash")
print(f"{len(first)} characters, then {len(second)}")
