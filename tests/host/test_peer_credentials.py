"""A service learns from a client's certificates what it learns in stock, each time."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import M2Crypto
import pytest
from conftest import changed, release, stock
from DIRAC.Core.DISET.private.Transports.SSL import M2Utils
from DIRAC.Core.Security.X509Chain import X509Chain
from test_socket_nodelay import connection

from dirac_perfpatch import bench, loading
from dirac_perfpatch.patches import peer_credentials
from dirac_perfpatch.patches.peer_credentials import _Connection, plain
from lab.configuration import GROUP, USER_DN

NAME = "peer_credentials"
# The group is one of the configuration's.
NOT_KEPT = {"no group", "proxy of a robot's"} if release().startswith("8.") else {"no group"}
CERTIFICATES = os.path.join(os.path.dirname(sys.modules["DIRAC"].__file__ or ""), "Core", "Security", "test", "certs")


def guard() -> Any:
    return loading.plugin.switches[NAME].guard


def found_out() -> int:
    return int(guard().events.get("chains", 0))


def loaded(path: Any) -> Any:
    chain = X509Chain()
    assert chain.loadChainFromFile(str(path))["OK"]
    chain.loadKeyFromFile(str(path))
    return chain


def proxy_of(chain: Any, path: Path, seconds: int = 3600, **options: Any) -> Any:
    assert chain.generateProxyToFile(str(path), seconds, strength=2048, **options)["OK"]
    path.chmod(0o600)
    return loaded(path)


def of_a_robot(user: Any) -> Any:
    """The chain of a proxy that a robot has made for one of its users (PUSP), with the robot's key."""
    made = X509Chain()
    made.loadChainFromString(user.generateProxyToString(3600, proxyKey=user._keyObj)["Value"])
    proxy = made._certList[0]._X509Certificate__certObj
    subject = user._certList[0]._X509Certificate__certObj.get_subject()
    subject.add_entry_by_txt("CN", M2Crypto.ASN1.MBSTRING_ASC, "user:somebody", len=-1, loc=-1, set=0)
    proxy.set_subject(subject)
    proxy.sign(user._keyObj, "sha256")
    return X509Chain(certList=made._certList, keyObj=user._keyObj)


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Chains of every kind that a service may see."""
    folder = tmp_path_factory.mktemp("chains")
    user = loaded(os.path.join(CERTIFICATES, "user", "usercert.pem"))
    assert user.loadKeyFromFile(os.path.join(CERTIFICATES, "user", "userkey.pem"))["OK"]
    host = loaded(os.path.join(CERTIFICATES, "host", "hostcert.pem"))
    authority = loaded(os.path.join(CERTIFICATES, "ca", "ca.cert.pem"))
    made = {
        "user": user,
        "host": host,
        "proxy": proxy_of(user, folder / "1", diracGroup=GROUP),
        "another": proxy_of(user, folder / "2", diracGroup=GROUP),
        "other group": proxy_of(user, folder / "3", diracGroup="dirac_admin"),
        "limited": proxy_of(user, folder / "4", diracGroup=GROUP, limited=True),
        "no group": proxy_of(user, folder / "5"),
    }
    made["proxy of a robot's"] = proxy_of(of_a_robot(user), folder / "8", diracGroup=GROUP)
    made["proxy of a proxy"] = proxy_of(made["proxy"], folder / "6")
    made["proxy of a limited one"] = proxy_of(made["limited"], folder / "7")
    for name, certificates in {
        "user and CA": [*user._certList, *authority._certList],
        "not signed by the next": [*host._certList, *user._certList],
        "proxy and CA": [*made["proxy"]._certList, *authority._certList],
        "proxy alone": made["proxy"]._certList[:1],
        "wrong order": made["proxy"]._certList[::-1],
    }.items():
        made[name] = X509Chain(certList=certificates)
    return made


def both(chain: Any) -> Any:
    """What is learned, which is what the host's own function learns."""
    ours = M2Utils.getM2PeerInfo(_Connection(chain))
    stocks = M2Utils.getM2PeerInfo.__wrapped__(_Connection(chain))
    assert 0 <= ours["secondsLeft"] - stocks["secondsLeft"] <= 1
    assert {**plain(ours), "secondsLeft": 0} == {**plain(stocks), "secondsLeft": 0}
    assert list(ours) == list(stocks)
    return ours


def test_every_kind_of_chain_in_every_order(chains: dict[str, Any]) -> None:
    for name, after in itertools.permutations(chains, 2):
        for chain in (chains[name], chains[after]):
            M2Utils.getM2PeerInfo(_Connection(chain))
    for chain in chains.values():
        before = found_out()
        learned = both(chain)
        assert found_out() - before == (learned["isProxy"] and not chains_named(chains, chain).isdisjoint(NOT_KEPT))
    assert guard().failures == 0


def chains_named(chains: dict[str, Any], chain: Any) -> set[str]:
    return {name for name, found in chains.items() if found is chain}


def test_each_caller_owns_what_it_gets(chains: dict[str, Any]) -> None:
    """A handler may change the dictionary, and the chain."""
    for _ in range(3):
        learned = both(chains["proxy"])
        del learned["x509Chain"]._certList[0]
        vars(learned["x509Chain"])["_X509Chain__isLimitedProxy"] = True
        learned.update(DN="/CN=somebody else", group="dirac_admin", username="root")


def test_the_chain_works_like_one_of_stock(chains: dict[str, Any]) -> None:
    both(chains["proxy"])
    chain = both(chains["proxy"])["x509Chain"]
    original = chains["proxy"]
    for method in (
        "isProxy",
        "isLimitedProxy",
        "getDIRACGroup",
        "getNotAfterDate",
        "getIssuerCert",
        "dumpChainToString",
    ):
        ours, theirs = (getattr(one, method)()["Value"] for one in (chain, original))
        assert str(ours) == str(theirs) or type(ours) is type(theirs)


def test_the_remaining_time_follows_the_clock(chains: dict[str, Any], tmp_path: Path) -> None:
    short = proxy_of(chains["user"], tmp_path / "proxy", 3, diracGroup=GROUP)
    found = []
    deadline = time.monotonic() + 20
    while not found or found[-1] and time.monotonic() < deadline:
        found.append(both(short)["secondsLeft"])
        time.sleep(0.2)
    assert found[0] > found[-1] == 0
    assert sorted(found, reverse=True) == found


def test_the_vo_follows_the_configuration(chains: dict[str, Any]) -> None:
    from DIRAC.ConfigurationSystem.Client.Helpers import Registry

    for vo in ("fakevo", "another", "fakevo"):
        with changed(f"/Registry/Groups/{GROUP}/VO", vo):
            for function in vars(Registry).values():
                getattr(function, "cache_clear", lambda: None)()
            learned = both(chains["proxy"])
            if not release().startswith("8."):
                assert learned["VO"] == vo


def test_the_group_of_a_proxy_without_one_follows_the_configuration(chains: dict[str, Any]) -> None:
    for group in (GROUP, "dirac_admin"):
        with changed("/Registry/Users/MrUser/DN", USER_DN), changed("/Registry/Users/MrUser/DefaultGroup", group):
            both(chains["no group"])


def test_so_does_the_group_of_a_proxy_of_a_robot(chains: dict[str, Any]) -> None:
    """In 8.0 the host does not look for it in the certificate that has one."""
    chain = chains["proxy of a robot's"]
    authority = str(chain._certList[-1].getIssuerDN()["Value"])
    found = []
    for group in (GROUP, "dirac_admin"):
        with changed("/Registry/Users/MrUser/DN", authority), changed("/Registry/Users/MrUser/DefaultGroup", group):
            found.append(both(chain).get("group"))
    assert found == [GROUP, "dirac_admin" if release().startswith("8.") else GROUP]


def test_for_a_proxy_without_a_group_only_the_host_looks_for_one(
    chains: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = type(chains["no group"]._certList[0])
    looks: list[int] = []
    real = certificate.getDIRACGroup

    def counted(*args: Any, **kwargs: Any) -> Any:
        looks.append(1)
        return real(*args, **kwargs)

    both(chains["no group"])
    monkeypatch.setattr(certificate, "getDIRACGroup", counted)
    found = []
    for ask in (M2Utils.getM2PeerInfo.__wrapped__, M2Utils.getM2PeerInfo):
        ask(_Connection(chains["no group"]))
        found.append(len(looks))
    assert found[1] == 2 * found[0] > 0


def test_a_connection_without_certificates_fails_as_in_stock() -> None:
    class Nobody:
        get_peer_cert = get_peer_cert_chain = lambda self: None

    for ask in (M2Utils.getM2PeerInfo, M2Utils.getM2PeerInfo.__wrapped__):
        with pytest.raises(TypeError):
            ask(Nobody())
    assert guard().failures == 0


def test_what_we_cannot_ask_for_the_host_finds_out(chains: dict[str, Any]) -> None:
    class Flaky(_Connection):
        failed = False

        def get_peer_cert(self) -> Any:
            if not self.failed:
                self.failed = True
                raise RuntimeError("only at first")
            return super().get_peer_cert()

    both(chains["limited"])
    assert M2Utils.getM2PeerInfo(Flaky(chains["limited"]))["isLimitedProxy"]
    assert guard().failures == 1


def test_real_connections() -> None:
    def learned() -> Any:
        with connection() as (_, server):
            return {**plain(server.peerCredentials), "secondsLeft": 0}

    patched = [learned(), learned()]
    with stock(NAME):
        assert patched == [learned()] * 2


def test_as_many_are_kept_as_allowed_and_none_once_it_is_off(
    chains: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_credentials, "_MAX_CHAINS", 2)
    with stock(NAME):
        pass
    before = found_out()
    for name in ("proxy", "another", "limited", "limited", "another", "proxy"):
        both(chains[name])
    assert found_out() - before == 4
    with stock(NAME):
        pass
    both(chains["proxy"])
    assert found_out() - before == 5


def test_threads(chains: dict[str, Any]) -> None:
    errors: list[Any] = []

    def work(name: str) -> None:
        try:
            for _ in range(20):
                both(chains[name])
        except BaseException as error:
            errors.append(error)

    names = ("proxy", "another", "limited", "host")
    threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors


def test_the_second_answer_of_check_comes_from_what_is_kept() -> None:
    def ask() -> list[Any]:
        answers: list[Any] = peer_credentials.PATCH.ask(None)
        return answers

    with stock(NAME):
        wanted = ask()
    assert ask() == wanted
    before = found_out()
    assert ask() == wanted
    kept = [answer for answer in wanted if answer.get("group") == "perfpatch"]
    assert kept
    assert found_out() - before == len(wanted) - len(kept)


def test_the_bench_measures_what_is_kept() -> None:
    (case,) = peer_credentials.PATCH.cases
    with contextlib.contextmanager(case.prepare)(1, None, bench.timed) as measure:
        measure(1)
        before = found_out()
        measure(5)
    assert found_out() == before
