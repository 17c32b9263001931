"""getM2PeerInfo: what a service learns from a client's certificates is found out once per chain.

After each handshake a service finds out who the client is: for each certificate it checks whether the next one has
signed it (a signature is verified per proxy), compares and parses their names, looks for the proxy policy, the group
and the dates. That takes 0.8 to 1 ms of CPU per connection (8.0.86: 18 ms without ``certificate_extensions``), and a
client has the same chain for as long as its proxy lasts. We keep what was found, by the certificates themselves.

The same answer: the key is the DER of every certificate that the peer has sent in this handshake, in order, and all
that is kept follows from those bytes alone. What does not follow from them is found out each time, with the host's own
functions: the remaining time, from the clock, and the VO of the group, from the configuration. A proxy without a group
gets one from the configuration, so the host is asked each time; all that we keep is that there is no group in it, to
find out which takes 40 us. Nothing at all is kept for a chain in which anything fails.
OpenSSL itself verifies the chain in each handshake, against the CAs of that moment, before anything here is asked.

Each caller owns what it gets: a new dictionary of texts, numbers and booleans, and a new X509Chain with this
connection's own certificates, in the state in which its constructor would have left it.

Not seen: functions of X509Chain, X509Certificate or Registry that are replaced once a chain is kept.

No lock: each step is one operation on a dictionary. Threads that ask at once find out at once, as in stock, and so does
a signal handler. We keep certificates, which are public, and never a key. The oldest go first.

The seam is the code of the function, which the transport binds by name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any, NamedTuple

from dirac_perfpatch.patching import Case, Database, Fitting, Meter, Patch, Target, Timed, UnknownHost

_MODULE = "DIRAC.Core.DISET.private.Transports.SSL.M2Utils"
# A few KB each.
_MAX_CHAINS = 1000
# What the constructor of an X509Chain finds out about certificates.
_FOUND = ("_X509Chain__isProxy", "_X509Chain__isLimitedProxy", "_X509Chain__firstProxyStep")
# What getM2PeerInfo answers: these and, for a proxy, those. 8.0 has more for a proxy of a robot (PUSP), and no VO.
_ALWAYS = {"subject", "issuer", "secondsLeft", "isProxy", "isLimitedProxy", "validDN", "validGroup", "DN", "x509Chain"}
_OF_PROXIES = {"identity", "group", "VO", "subproxyUser"}


class _Found(NamedTuple):
    """What follows from the certificates of a chain."""

    info: dict[str, Any]  # the host's answer, with stand-ins for what does not
    chain: dict[str, Any]  # attributes of the X509Chain
    not_after: datetime  # UTC, without a time zone, as the host has it


class _Peers:
    """Who has which chain of certificates."""

    def __init__(self, fitting: Fitting) -> None:
        fitting.undoing.append(self.forget)
        self._guard = fitting.guard
        self._chain_class = fitting.resolve("X509Chain")
        if not set(_FOUND).issubset(vars(self._chain_class())):
            raise UnknownHost("X509Chain is not the class that this patch knows")
        beside = vars(sys.modules[self._chain_class.__module__])
        self._certificate_class, self._registry = beside["X509Certificate"], beside["Registry"]
        # None: for this chain the host is asked each time.
        self._kept: dict[tuple[bytes, ...], _Found | None] = {}

    def forget(self) -> None:
        """Forget what is kept, once the patch is off: error_stack may keep our code, and with that this object."""
        self._kept.clear()

    def info(self, connection: Any, stock: Callable[[Any], Any]) -> Any:
        """The host's answer."""
        info, key, failure = None, (), None
        try:
            certificates = [connection.get_peer_cert(), *connection.get_peer_cert_chain()]
            key = tuple([certificate.as_der() for certificate in certificates])
            found = self._kept.get(key)
            if found is not None:
                info = self._info_again(found, certificates)
        except Exception as error:
            failure = error
        if info is None:
            answer = stock(connection)  # raises if there is no such connection or certificate
            if failure is not None:
                self._guard.failed(failure)
            else:
                self._guard.note("chains")
                if key not in self._kept:
                    self._keep(key, answer)
            return answer
        if "VO" in info:
            info["VO"] = self._registry.getVOForGroup(info["group"])
        return info

    def _info_again(self, found: _Found, certificates: list[Any]) -> dict[str, Any]:
        chain = self._chain_class()
        chain._certList = [self._certificate_class(x509Obj=certificate) for certificate in certificates]
        vars(chain).update(found.chain)
        left = found.not_after - datetime.now(timezone.utc).replace(tzinfo=None)
        return {**found.info, "secondsLeft": max(0, int(left.total_seconds())), "x509Chain": chain}

    def _keep(self, key: tuple[bytes, ...], answer: dict[str, Any]) -> None:
        try:
            self._kept[key] = self._found(answer, len(key))
            for oldest in list(self._kept)[:-_MAX_CHAINS]:
                self._kept.pop(oldest, None)
        except Exception as error:
            self._guard.failed(error)

    def _found(self, answer: dict[str, Any], length: int) -> _Found | None:
        """What follows from the certificates, if that is all that the answer has."""
        chain = answer["x509Chain"]
        certificates = chain._certList
        if not _ALWAYS <= set(answer) <= _ALWAYS | _OF_PROXIES or len(certificates) != length:
            return None
        # Not whether any certificate has a group: for a PUSP, the host looks into one of them only.
        if answer["isProxy"] and not chain.getDIRACGroup(ignoreDefault=True)["Value"]:
            return None  # the group is one of the configuration's
        not_after = min(certificate.getNotAfterDate()["Value"] for certificate in certificates)
        info = {**answer, "x509Chain": None}
        return _Found(info, {name: vars(chain)[name] for name in _FOUND}, not_after)


def _look(fitting: Fitting) -> None:
    names = ("X509Chain", "generateX509ChainFromSSLConnection", "getCredentials", "isProxy", "isLimitedProxy")
    fitting.expect("getM2PeerInfo", *names)


def _put_on(fitting: Fitting) -> None:
    guard, peers = fitting.guard, _Peers(fitting)

    def make(stock: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def getM2PeerInfo(conn: Any) -> Any:
            return stock(conn) if guard.off else peers.info(conn, stock)

        return getM2PeerInfo

    fitting.take_over("getM2PeerInfo", make, _check)


class _Connection:
    """A connection whose peer has sent the certificates of a chain."""

    def __init__(self, chain: Any) -> None:
        self._certificates = [certificate._X509Certificate__certObj for certificate in chain._certList]

    def get_peer_cert(self) -> Any:
        return self._certificates[0]

    def get_peer_cert_chain(self) -> Any:
        return self._certificates[1:]


def plain(info: dict[str, Any]) -> dict[str, Any]:
    """What a service learned, so that two answers can be compared: the chain as data, the remaining time in days."""
    chain = info["x509Chain"]
    state = {name: value for name, value in vars(chain).items() if name != "_certList"}
    texts = [certificate.asPem() for certificate in chain._certList]
    return {**info, "secondsLeft": info["secondsLeft"] // 86400, "x509Chain": (type(chain).__name__, state, texts)}


def _check(answer: Any, original: Callable[..., Any], args: Any, kwargs: Any) -> str:
    ours, stock = dict(answer), original(*args, **kwargs)
    if abs(ours["secondsLeft"] - stock["secondsLeft"]) <= 2:  # the clock has gone on
        ours["secondsLeft"] = stock["secondsLeft"]
    return "" if plain(ours) == plain(stock) else "a different answer"


def _ask(database: Database | None) -> Any:
    from DIRAC.Core.DISET.private.Transports.SSL import M2Utils

    from dirac_perfpatch.patches.certificate_extensions import group_chain, test_chain

    # For the one without a group nothing is kept.
    connections = [_Connection(group_chain()), _Connection(test_chain())]
    return [plain(M2Utils.getM2PeerInfo(connection)) for connection in connections * 2]


def _proxy(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    from DIRAC.Core.DISET.private.Transports.SSL import M2Utils

    from dirac_perfpatch.patches.certificate_extensions import group_chain

    connection = _Connection(group_chain())
    yield lambda number: timed(lambda: M2Utils.getM2PeerInfo(connection), number)


PATCH = Patch(
    name="peer_credentials",
    targets=(Target((_MODULE,), "getM2PeerInfo", _look, _put_on),),
    ask=_ask,
    cases=(Case("getM2PeerInfo of a proxy", _proxy, growth=(1,)),),
)
