"""retrieveExtension, decodeDIRACGroup and decodeVOMSExtension: a certificate is decoded once.

To find one extension, such as the group of a proxy, the host decodes the whole certificate with pyasn1, which takes 2
to 5 ms. It does so for each certificate of a chain, for the group and for the VOMS extension, at every question. From
9.0 on it keeps the extensions and the group, but still decodes a VOMS extension, 1.6 ms, at every call; there only
decodeVOMSExtension is changed. We keep what was found in a certificate.

The same answer: it depends on nothing but the certificate's DER, which is the key, so nothing that is kept can be
stale. We ask the certificate for its DER at every call, because a certificate can be changed and signed again. The
host's own functions and pyasn1 do the decoding: OpenSSL accepts certificates that pyasn1 refuses, and a parser of our
own would have to refuse the same ones. If something cannot be decoded, the host's function raises, and nothing is kept.

Each caller owns what it gets: a text, or a dictionary with a list of its own. An OctetString of pyasn1 is immutable:
its own ``clone()`` returns the same object.

No lock: each step is one operation on a dictionary. Threads that ask at once decode at once, as in stock, and so does a
signal handler. We keep certificates, which are public, and never a key. The oldest go first.

The seam is the code of the functions: other modules call them, and they call each other.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

from dirac_perfpatch.patches import _files
from dirac_perfpatch.patching import (
    Case,
    Database,
    Fitting,
    InTree,
    Meter,
    NotAsked,
    Patch,
    Target,
    Timed,
    same_answer,
    without_stacks,
)

_MODULE = "DIRAC.Core.Security.m2crypto.asn1_utils"
_IN_TREE = "the host keeps the extensions itself"
# As many as the host keeps from 9.0 on; a few KB each.
_MAX_CERTIFICATES = 1024
# In seconds. No multiple of a day, so that the days that are left do not change from one answer to the next.
_LIFETIME = 36 * 3600

# The number of an extension, and its content.
Extensions = list[tuple[tuple[int, ...], Any]]


class _Kept:
    """What was found in certificates, by their DER."""

    def __init__(self, fitting: Fitting) -> None:
        self._found: dict[bytes, Any] = {}
        # Once the patch is off: error_stack may keep the code that leads to this object.
        fitting.undoing.append(self._found.clear)

    def get(self, der: bytes) -> Any:
        return self._found.get(der)

    def put(self, der: bytes, found: Any) -> None:
        self._found[der] = found
        for oldest in list(self._found)[:-_MAX_CERTIFICATES]:
            self._found.pop(oldest, None)


def _put_on_retrieve(fitting: Fitting) -> None:
    guard, kept = fitting.guard, _Kept(fitting)
    decode, rfc2459, univ = (fitting.resolve(name) for name in ("der_decode", "rfc2459", "univ"))

    def extensions_of(der: bytes) -> Extensions:
        found: Extensions | None = kept.get(der)
        if found is None:
            guard.note("decodings")
            certificate, _ = decode(der, asn1Spec=rfc2459.Certificate())
            extensions = certificate["tbsCertificate"]["extensions"]
            found = [(extension["extnID"].asTuple(), extension["extnValue"]) for extension in extensions]
            kept.put(der, found)
        return found

    def make(stock: Callable[..., Any]) -> Callable[..., Any]:
        def retrieveExtension(m2Cert: Any, extensionOID: Any) -> Any:
            if guard.off:
                return stock(m2Cert, extensionOID)
            try:
                extensions = extensions_of(m2Cert.as_der())
                wanted = univ.ObjectIdentifier(extensionOID).asTuple()
                content = next((content for number, content in extensions if number == wanted), None)
            except Exception as error:
                answer = stock(m2Cert, extensionOID)  # raises if there is no such certificate or number
                guard.failed(error)
                return answer
            if content is None:
                raise LookupError(f"Could not find extension with OID {extensionOID}")
            return content

        return retrieveExtension

    fitting.take_over("retrieveExtension", make, same_answer)


def _put_on_decoder(name: str, own: Callable[[Any], Any]) -> Callable[[Fitting], None]:
    """Make a ``put_on`` for a function whose argument is a certificate.

    Args:
        name: The function's.
        own: Copies an answer, so that callers and we share nothing that can be changed.
    """

    def put_on(fitting: Fitting) -> None:
        guard, kept = fitting.guard, _Kept(fitting)

        def make(stock: Callable[..., Any]) -> Callable[..., Any]:
            def decode(m2cert: Any) -> Any:
                if guard.off:
                    return stock(m2cert)
                try:
                    der = m2cert.as_der()
                    found = kept.get(der)
                    if found is not None:
                        return own(found)
                except Exception as error:
                    answer = stock(m2cert)  # raises if this is no certificate
                    guard.failed(error)
                    return answer
                guard.note("decodings")
                answer = stock(m2cert)
                try:
                    kept.put(der, own(answer))
                except Exception as error:
                    guard.failed(error)
                return answer

            return decode

        fitting.take_over(name, make, same_answer)

    return put_on


def _own_dictionary(found: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if type(value) is list else value for name, value in found.items()}


def _look(name: str, in_tree: str, *names: str) -> Callable[[Fitting], None]:
    def look(fitting: Fitting) -> None:
        if in_tree in fitting.names_in(name):
            raise InTree(_IN_TREE)
        fitting.expect(name, *names)

    return look


def test_chain() -> Any:
    """The chain of the host's own test proxy, which has a VOMS extension, but no group."""
    from DIRAC.Core.Security.X509Chain import X509Chain

    from dirac_perfpatch.patches.proxy_loading import test_proxy

    chain = X509Chain()
    chain.loadProxyFromFile(test_proxy())
    return chain


def group_chain() -> Any:
    """The chain of a proxy that has a group. It is the same one at each call in a process."""
    from DIRAC.Core.Security.X509Chain import X509Chain

    chain = X509Chain()
    chain.loadChainFromString(_group_proxy())
    return chain


@functools.cache
def _group_proxy() -> str:
    """A proxy that the host makes for its own test user. Nothing is written."""
    from DIRAC.Core.Security.X509Chain import X509Chain

    from dirac_perfpatch.patches.proxy_loading import test_proxy

    user = os.path.join(os.path.dirname(os.path.dirname(test_proxy())), "user")
    chain = X509Chain()
    for loaded in (
        chain.loadChainFromFile(os.path.join(user, "usercert.pem")),
        chain.loadKeyFromFile(os.path.join(user, "userkey.pem")),
    ):
        if not loaded["OK"]:
            raise NotAsked(f"this host came without its test user: {loaded['Message']}")
    # With the user's own key: to make another takes a tenth of a second.
    made = chain.generateProxyToString(_LIFETIME, diracGroup="perfpatch", proxyKey=chain._keyObj)
    if not made["OK"]:
        raise NotAsked(f"this host cannot make a proxy: {made['Message']}")
    proxy: str = made["Value"]
    return proxy


def _ask(database: Database | None) -> Any:
    from DIRAC.Core.Security.m2crypto import DIRAC_GROUP_OID, VOMS_EXTENSION_OID, asn1_utils

    chains = [test_chain(), group_chain()]
    answers: list[Any] = [(chain.getVOMSData(), chain.getDIRACGroup(ignoreDefault=True)) for chain in chains]
    for certificate in (chain.getCertInChain(position)["Value"] for chain in chains for position in (0, 1)):
        answers += [certificate.getVOMSData(), certificate.hasVOMSExtensions()]
        for number in (DIRAC_GROUP_OID, VOMS_EXTENSION_OID, "1.2.3"):
            try:
                answers.append(asn1_utils.retrieveExtension(certificate._X509Certificate__certObj, number))
            except LookupError as error:
                answers.append(str(error))
    return without_stacks(answers)


def _voms_data(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    chain = test_chain()
    yield lambda number: timed(chain.getVOMSData, number)


def _group(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    from DIRAC.Core.Security.m2crypto import asn1_utils

    if hasattr(asn1_utils, "_extensionsFromCertDER"):
        raise NotAsked(_IN_TREE)
    chain = group_chain()
    yield lambda number: timed(lambda: chain.getDIRACGroup(ignoreDefault=True), number)


def _proxy_info(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    from DIRAC.Core.Security.m2crypto import asn1_utils
    from DIRAC.Core.Security.ProxyInfo import getProxyInfo

    from dirac_perfpatch.patches.proxy_loading import test_proxies

    if hasattr(asn1_utils, "_extensionsFromCertDER"):
        raise NotAsked(_IN_TREE)

    with test_proxies(1) as (path,):
        yield lambda number: timed(lambda: getProxyInfo(path), number)


PATCH = Patch(
    name="certificate_extensions",
    targets=(
        Target(
            (_MODULE,),
            "retrieveExtension",
            _look("retrieveExtension", "_extensionsFromCertDER", "as_der", "der_decode", "rfc2459", "univ"),
            _put_on_retrieve,
        ),
        Target(
            (_MODULE,),
            "decodeDIRACGroup",
            _look("decodeDIRACGroup", "_decodeDIRACGroup", "retrieveExtension", "der_decode", "asOctets"),
            _put_on_decoder("decodeDIRACGroup", str),
        ),
        Target(
            (_MODULE,),
            "decodeVOMSExtension",
            _look("decodeVOMSExtension", "_decodeVOMSExtension", "retrieveExtension", "der_decode", "asDateTime"),
            _put_on_decoder("decodeVOMSExtension", _own_dictionary),
        ),
    ),
    ask=_ask,
    cases=(
        Case("X509Chain.getVOMSData", _voms_data, growth=(1,)),
        Case("X509Chain.getDIRACGroup", _group),
        Case("getProxyInfo", _proxy_info, settle_seconds=2 * _files.TICK),
    ),
)
