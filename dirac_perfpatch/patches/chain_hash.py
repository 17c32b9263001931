"""X509Chain.hash: a chain has one hash, whenever it is asked.

DIRAC 9.1.10 and later shorten the SHA-256 of a chain to 32 characters in the first answer, and keep and return all 64
from then on. The hash is a key: ``ProxyManagerClient.dumpProxyToFile`` finds by it the file to which it has written a
chain, and does not find it, so the second call writes a second file with the same private key.

Here every answer is the first one, as documented by the host ("32 byte hex-string is returned"). What the host keeps in
the chain stays as it is, so nothing is left when the patch is taken off. Earlier releases, with SHA-1, have no such
difference, and are left alone. Nothing is kept here, so threads, forks and signals need no thought.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dirac_perfpatch.patching import Case, Database, Fitting, InTree, Meter, Patch, Target, Timed, UnknownHost

# The host executes one file under both names, and has two classes.
_MODULES = ("DIRAC.Core.Security.X509Chain", "DIRAC.Core.Security.m2crypto.X509Chain")
_METHOD = "X509Chain.hash"
_LENGTH = 32


def _look(fitting: Fitting) -> None:
    method = fitting.resolve(_METHOD)
    while hasattr(method, "__wrapped__"):  # by the host, which first looks if there is a chain
        method = method.__wrapped__
    names = set(getattr(getattr(method, "__code__", None), "co_names", ()))
    if not names.issuperset(("_X509Chain__hash", "hexdigest")):
        raise UnknownHost(f"{_METHOD} is not the function that this patch knows")
    if "sha256" not in names:
        raise InTree("this release of the host always gives the same hash of a chain")
    raise InTree("the host keeps the hash of a chain", "returns a longer hash from the second call on", _put_on)


def _put_on(fitting: Fitting) -> None:
    original, guard = fitting.unbound(_METHOD), fitting.guard

    def hash(self: Any) -> Any:
        answer = original(self)
        if guard.off:
            return answer
        try:
            if answer["OK"]:
                answer["Value"] = answer["Value"][:_LENGTH]
        except Exception as error:
            guard.failed(error)
        return answer

    fitting.stand_in(_METHOD, hash, _check)


def _check(answer: Any, original: Any, args: Any, kwargs: Any) -> str:
    """The check against the host's own answer, of which the first part is never wrong."""
    stock = original(*args, **kwargs)
    same = answer["OK"] == stock["OK"] and (not stock["OK"] or stock["Value"][:_LENGTH] == answer["Value"])
    return "" if same else "a different hash"


def _chain() -> Any:
    from DIRAC.Core.Security.X509Chain import X509Chain

    from dirac_perfpatch.patches.proxy_loading import test_proxy

    chain = X509Chain()
    chain.loadProxyFromFile(test_proxy())
    return chain


def _ask(database: Database | None) -> Any:
    # Each chain once, which the host's own version answers right. How long the proxy is still valid is in the hash.
    return [len(_chain().hash()["Value"]) for _ in range(2)]


def _again(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    chain = _chain()
    yield lambda number: timed(chain.hash, number)


PATCH = Patch(
    name="chain_hash",
    targets=tuple(Target((module,), _METHOD, _look, _put_on) for module in _MODULES),
    ask=_ask,
    cases=(Case("X509Chain.hash()", _again),),
)
