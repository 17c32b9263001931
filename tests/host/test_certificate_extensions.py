"""The extensions of certificates: the same answers and exceptions as in stock, for every certificate."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import M2Crypto
import pytest
from conftest import make_proxy, release, stock
from DIRAC.Core.Security import X509Chain as chains
from DIRAC.Core.Security.m2crypto import DIRAC_GROUP_OID, VOMS_EXTENSION_OID, asn1_utils
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyasn1.type import univ

from dirac_perfpatch import loading
from dirac_perfpatch.patches import certificate_extensions
from lab.hosts import state

CERTIFICATES = os.path.join(os.path.dirname(os.path.dirname(asn1_utils.__file__)), "test", "certs")
OIDS = (DIRAC_GROUP_OID, VOMS_EXTENSION_OID, "2.5.29.15", "1.2.3.4")

NAMES = [
    name
    for name in ("retrieveExtension", "decodeDIRACGroup", "decodeVOMSExtension")
    if state(release(), "certificate_extensions", name) == "applied"
]
# What no release before 9.0 keeps by itself.
retrieving = pytest.mark.patched("certificate_extensions", "retrieveExtension")


class Certificate:
    """Any DER, also what OpenSSL would not read."""

    def __init__(self, der: Any) -> None:
        self.as_der = lambda: der


def _certificates(path: str) -> list[Any]:
    chain = chains.X509Chain()
    assert chain.loadChainFromFile(path)["OK"]
    return [certificate._X509Certificate__certObj for certificate in chain._certList]


def _made(*extensions: tuple[str, str], version: int = 2) -> Any:
    """A new certificate with extensions, which are not checked."""
    (issuer,) = _certificates(os.path.join(CERTIFICATES, "user", "usercert.pem"))
    made = M2Crypto.X509.X509()
    made.set_version(version)
    made.set_subject(issuer.get_subject())
    made.set_issuer(issuer.get_subject())
    made.set_pubkey(issuer.get_pubkey())
    made.set_not_before(issuer.get_not_before())
    made.set_not_after(issuer.get_not_after())
    for name, value in extensions:
        made.add_ext(M2Crypto.X509.new_extension(name, value))
    return _signed(made)


def _signed(certificate: Any) -> Any:
    key = M2Crypto.EVP.load_key(os.path.join(CERTIFICATES, "user", "userkey.pem"))
    certificate.sign(key, "sha256")
    return certificate


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Certificates of a CA, a host, a user and two proxies, of which one has a VOMS extension; and unusual ones."""
    proxy = tmp_path_factory.mktemp("proxy") / "proxy"
    make_proxy(proxy)
    paths = [os.path.join(CERTIFICATES, *path) for path in (("ca", "ca.cert.pem"), ("host", "hostcert.pem"))]
    found = [one for path in [*paths, str(proxy)] for one in _certificates(path)]
    found += _certificates(os.path.join(CERTIFICATES, "voms", "proxy.pem"))[:1]
    group = DIRAC_GROUP_OID
    found += [_made(version=0), _made(), _made(("1.2.3.4", "ASN1:IA5:one"), ("1.2.3.4", "ASN1:IA5:two"))]
    found += [_made((group, f"ASN1:{kind}:x")) for kind in ("IA5", "UTF8", "INT", "NULL")[:2]]
    return [*found, _made((VOMS_EXTENSION_OID, "ASN1:IA5:x")), _made((group, "ASN1:IA5:"))]


@pytest.fixture
def voms() -> Any:
    """A certificate with a VOMS extension."""
    return _certificates(os.path.join(CERTIFICATES, "voms", "proxy.pem"))[0]


def _outcome(function: Callable[..., Any], *args: Any) -> Any:
    try:
        answer = function(*args)
    except Exception as error:
        return type(error), str(error)
    return type(answer), answer, getattr(answer, "tagSet", None)


Question = tuple[str, tuple[Any, ...]]


def _outcomes(questions: list[Question]) -> list[Any]:
    """The outcomes, which are those of the host's own functions, also when they were kept."""
    with stock("certificate_extensions"):
        wanted = [_outcome(getattr(asn1_utils, name), *args) for name, args in questions]
    for _ in range(2):
        assert [_outcome(getattr(asn1_utils, name), *args) for name, args in questions] == wanted
    return wanted


def both(name: str, *args: Any) -> Any:
    return _outcomes([(name, args)])[0]


def asked(certificate: Any, numbers: Sequence[str] = OIDS) -> list[Any]:
    """The outcomes of the questions about a certificate."""
    numbers = numbers if "retrieveExtension" in NAMES else ()
    questions: list[Question] = [("retrieveExtension", (certificate, number)) for number in numbers]
    return _outcomes([*questions, *((name, (certificate,)) for name in NAMES if name != "retrieveExtension")])


def decodings() -> int:
    return loading.plugin.switches["certificate_extensions"].guard.events.get("decodings", 0)


def failures() -> int:
    return loading.plugin.switches["certificate_extensions"].guard.failures


def test_the_same_answers_as_stock(real: list[Any]) -> None:
    outcomes = [outcome for certificate in real for outcome in asked(certificate)]
    kinds = {outcome[0] for outcome in outcomes}
    assert kinds >= {dict, LookupError}
    assert failures() == 0


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_changed_certificate_has_the_outcome_of_stock(real: list[Any], data: st.DataObject) -> None:
    """Broken or not: the same answer, or the same exception with the same text."""
    der = bytearray(data.draw(st.sampled_from(real)).as_der())
    at = data.draw(st.integers(0, len(der) - 1))
    how = data.draw(st.sampled_from(["changed", "changed near an extension", "removed", "added", "cut", "longer"]))
    if how == "changed near an extension":
        numbers = [univ.ObjectIdentifier(number).asTuple()[-2:] for number in OIDS]
        places = [der.find(bytes(number)) for number in numbers if max(number) < 128]
        assume(places and max(places) > 0)
        at = min(len(der) - 1, max(places) + data.draw(st.integers(-12, 12)))
    if how.startswith("changed"):
        der[at] = data.draw(st.sampled_from([0, 1, 0x30, 0x80, 0xA3, 0xFF, der[at] ^ 1, der[at] ^ 0x20]))
    elif how == "removed":
        del der[at]
    elif how == "added":
        der.insert(at, data.draw(st.integers(0, 255)))
    elif how == "cut":
        del der[at:]
    else:
        der += b"\x00\x00"
    asked(Certificate(bytes(der)), [data.draw(st.sampled_from(OIDS))])
    assert failures() == 0


@pytest.mark.parametrize("der", [b"", b"\x30\x00", b"\x30\x80\x00\x00", None, "text", bytearray(b"\x30\x00"), 5])
def test_what_is_no_certificate(der: Any) -> None:
    outcomes = asked(Certificate(der))
    assert all(issubclass(outcome[0], Exception) for outcome in outcomes)
    for name in NAMES:
        args = (None, "1.2.3.4")[: 2 if name == "retrieveExtension" else 1]
        assert both(name, *args)[0] is AttributeError
    assert failures() == 0


@retrieving
def test_the_first_of_two_extensions_with_one_number(real: list[Any]) -> None:
    certificate = _made(("1.2.3.4", "ASN1:IA5:one"), ("1.2.3.4", "ASN1:IA5:two"))
    kind, content, tags = both("retrieveExtension", certificate, "1.2.3.4")
    assert (kind, bytes(content)[2:], tags) == (univ.OctetString, b"one", univ.OctetString.tagSet)


@retrieving
@pytest.mark.parametrize(
    "number", ["1.2.3", "", "1.02.3.4", (1, 2, 3, 4), univ.ObjectIdentifier("1.2.3.4"), "x", None, []]
)
def test_the_number_is_taken_as_in_stock(number: Any) -> None:
    certificate = _made(("1.2.3.4", "ASN1:IA5:one"))
    found = both("retrieveExtension", certificate, number)
    assert (found[0] is univ.OctetString) == (number not in ("1.2.3", "", "x", None, []))
    assert failures() == 0


@retrieving
def test_a_certificate_is_decoded_once_for_all_questions() -> None:
    certificate = _made((DIRAC_GROUP_OID, "ASN1:IA5:group"))
    before = decodings()
    for _ in range(3):
        assert asn1_utils.decodeDIRACGroup(certificate) == "group"
        assert asn1_utils.hasVOMSExtension(certificate) is False
        with pytest.raises(LookupError):
            asn1_utils.retrieveExtension(certificate, "1.2.3")
    assert decodings() == before + 2  # the certificate, and the group


def test_a_voms_extension_is_decoded_once(voms: Any) -> None:
    first = asn1_utils.decodeVOMSExtension(voms)
    before = decodings()
    assert asn1_utils.decodeVOMSExtension(voms) == first
    assert decodings() == before


@retrieving
def test_a_certificate_that_is_signed_anew_is_decoded_anew() -> None:
    certificate = _made(("1.2.3.4", "ASN1:IA5:one"))
    with pytest.raises(LookupError):
        asn1_utils.decodeDIRACGroup(certificate)
    certificate.add_ext(M2Crypto.X509.new_extension(DIRAC_GROUP_OID, "ASN1:IA5:new"))
    _signed(certificate)
    assert both("decodeDIRACGroup", certificate)[1] == "new"


def test_a_caller_that_changes_an_answer_harms_nobody(voms: Any) -> None:
    for _ in range(3):
        answer = asn1_utils.decodeVOMSExtension(voms)
        assert type(answer["fqan"]) is list and answer["fqan"]
        answer["fqan"].clear()
        answer["vo"] = "mine"
        del answer["subject"]
    assert both("decodeVOMSExtension", voms)[1]["fqan"]


def test_so_many_certificates_and_no_more(monkeypatch: pytest.MonkeyPatch, voms: Any) -> None:
    monkeypatch.setattr(certificate_extensions, "_MAX_CERTIFICATES", 3)
    der = voms.as_der()
    # pyasn1 returns what follows a certificate, and the host does not look at it.
    several = [Certificate(der + bytes([number])) for number in range(5)]
    for one in several:
        asn1_utils.decodeVOMSExtension(one)
    before = decodings()
    for one in several[-3:]:
        asn1_utils.decodeVOMSExtension(one)
    assert decodings() == before
    asn1_utils.decodeVOMSExtension(several[0])
    assert decodings() > before


def test_threads_that_ask_at_once_get_the_answers_of_stock(real: list[Any]) -> None:
    wanted = _outcomes([("decodeVOMSExtension", (certificate,)) for certificate in real])
    found: list[Any] = []
    with stock("certificate_extensions"):
        pass  # nothing is kept now
    barrier = threading.Barrier(6)

    def ask() -> None:
        barrier.wait()
        found.append([_outcome(asn1_utils.decodeVOMSExtension, certificate) for certificate in real])

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 6


@pytest.mark.parametrize("where", ["get", "put"])
def test_a_failure_of_ours_is_counted_and_the_host_answers(
    where: str, monkeypatch: pytest.MonkeyPatch, voms: Any
) -> None:
    def broken(*args: Any) -> Any:
        raise RuntimeError

    with stock("certificate_extensions"):
        wanted = asn1_utils.decodeVOMSExtension(voms)
        monkeypatch.setattr(certificate_extensions._Kept, where, broken)
    assert asn1_utils.decodeVOMSExtension(voms) == wanted
    assert 1 <= failures() <= len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_taken_off_the_hosts_own_code_runs(name: str) -> None:
    function = getattr(asn1_utils, name)
    patched = function.__code__
    with stock("certificate_extensions"):
        assert function.__code__.co_filename == asn1_utils.__file__
        assert not hasattr(function, "__wrapped__")
    assert getattr(asn1_utils, name) is function
    assert function.__code__.co_filename == patched.co_filename != asn1_utils.__file__


def test_check_asks_for_a_group_and_its_second_answer_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with stock("certificate_extensions"):
        wanted = certificate_extensions.PATCH.ask(None)
    assert any("perfpatch" in str(answer) for answer in wanted)
    assert certificate_extensions.PATCH.ask(None) == wanted
    decoded = []
    real = asn1_utils.der_decode

    def counted(octets: Any, asn1Spec: Any = None, **kwargs: Any) -> Any:
        decoded.append(type(asn1Spec).__name__)
        return real(octets, asn1Spec=asn1Spec, **kwargs)

    monkeypatch.setattr(asn1_utils, "der_decode", counted)
    assert certificate_extensions.PATCH.ask(None) == wanted
    assert "IA5String" not in decoded
