"""DIRAC 9.1.9 and later: a proxy is served that is no longer in its file, or that this user may not read. As root."""

import os
import tempfile
from pathlib import Path

from DIRAC.Core.Security import X509Chain as module
from DIRAC.Core.Utilities.Extensions import extensionsByPriority

extensionsByPriority()  # as every command does
certificates = Path(module.__file__).parents[1] / "test/certs/user"


def tell(what: str, right: bool) -> None:
    print(f"{'right' if right else 'wrong'}: {what}")


def make():
    chain = module.X509Chain()
    assert chain.loadChainFromFile(str(certificates / "usercert.pem"))["OK"]
    assert chain.loadKeyFromFile(str(certificates / "userkey.pem"))["OK"]
    return chain.generateProxyToString(86400, diracGroup="a_group")["Value"]


def load(path):
    chain = module.X509Chain()
    answer = chain.loadProxyFromFile(str(path))
    return chain.dumpAllToString()["Value"] if answer["OK"] else None


made = {}
for _ in range(99):  # two of one length
    text = make()
    made.setdefault(len(text), []).append(text)
    if len(made[len(text)]) == 2:
        one, other = made[len(text)]
        break

with tempfile.TemporaryDirectory() as folder:
    os.chmod(folder, 0o711)
    path = Path(folder, "proxy")
    path.write_text(one)
    path.chmod(0o600)
    load(path)
    before = path.stat()
    path.write_text(other)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as within one tick of the clock
    tell("a proxy that was rewritten is served fresh", other.split("-----")[2] in load(path))
    load(path)
    os.seteuid(65534)
    tell("another user is not served the first one's key", load(path) is None)
    os.seteuid(0)
