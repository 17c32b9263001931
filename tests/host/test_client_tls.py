"""checkSanity and the client's TLS context: never another identity, never a CA that is no longer trusted."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CHANGES, DAMAGES, kept_by, make_proxy, rename_over, run, stock
from DIRAC import S_OK
from DIRAC.Core.DISET.private.Protocols import gProtocolDict
from DIRAC.Core.DISET.private.Transports import M2SSLTransport, SSLTransport
from DIRAC.Core.DISET.private.Transports.SSL import M2Utils
from DIRAC.Core.Security import X509Chain as chain_module
from forking import in_a_child
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from M2Crypto import SSL

from dirac_perfpatch import loading
from dirac_perfpatch.patches import _files, client_tls
from dirac_perfpatch.patching import without_stacks

CERTIFICATES = Path(chain_module.__file__).parents[1] / "test" / "certs"
CA = (CERTIFICATES / "ca" / "ca.cert.pem").read_bytes()
CA_HASH = "b236481c.0"
HOST = {
    "DIRAC_X509_HOST_CERT": str(CERTIFICATES / "host" / "hostcert.pem"),
    "DIRAC_X509_HOST_KEY": str(CERTIFICATES / "host" / "hostkey.pem"),
}
USER_DN, HOST_DN = "/O=Dirac Computing/O=CERN/CN=MrUser", "/O=Dirac Computing/O=CERN/CN=VOBox"
URL = ("localhost", 1)
PAUSE = 1.2 * _files.TICK


def authorities(folder: Path) -> Path:
    """A folder of CAs, with a link beside the file, as the bundles of IGTF have it."""
    folder.mkdir()
    (folder / "CA.pem").write_bytes(CA)
    (folder / CA_HASH).symlink_to("CA.pem")
    return folder


@pytest.fixture
def cas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = authorities(tmp_path / "certificates")
    monkeypatch.setenv("X509_CERT_DIR", str(folder))
    return folder


@pytest.fixture
def identity(proxy: Path, cas: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The proxy in use, with CAs and a host certificate beside it."""
    monkeypatch.setenv("X509_USER_PROXY", str(proxy))
    for name, value in HOST.items():
        monkeypatch.setenv(name, value)
    return proxy


def library() -> Any:
    """OpenSSL as M2Crypto uses it, which has no names for all that it can tell."""
    openssl = ctypes.CDLL(sys.modules["M2Crypto._m2crypto"].__file__)
    openssl.SSL_CTX_get0_certificate.restype = ctypes.c_void_p
    openssl.SSL_CTX_get0_certificate.argtypes = [ctypes.c_void_p]
    openssl.i2d_X509.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    openssl.SSL_session_reused.argtypes = [ctypes.c_void_p]
    return openssl


def presented(context: Any) -> bytes:
    """The certificate that a context presents to a server."""
    openssl = library()
    certificate = openssl.SSL_CTX_get0_certificate(int(context.ctx))
    buffer = ctypes.create_string_buffer(openssl.i2d_X509(certificate, None))
    openssl.i2d_X509(certificate, ctypes.byref(ctypes.c_void_p(ctypes.addressof(buffer))))
    return buffer.raw


def context(**kwargs: Any) -> Any:
    return M2SSLTransport.getM2SSLContext(**kwargs)


def stock_context(**kwargs: Any) -> Any:
    """What the host's own function makes, while the patch stays on and keeps what it has."""
    return M2SSLTransport.getM2SSLContext.__wrapped__(**kwargs)


def outcome(make: Any, kwargs: dict[str, Any]) -> Any:
    try:
        made = make(**kwargs)
    except Exception as error:
        return type(error), str(error).replace("/proc/self/fd", "a descriptor of ours")
    return presented(made), made.get_verify_mode(), made.get_verify_depth()


def check(**kwargs: Any) -> Any:
    return without_stacks(SSLTransport.checkSanity(URL, kwargs))


def stock_check(**kwargs: Any) -> Any:
    return without_stacks(SSLTransport.checkSanity.__wrapped__(URL, kwargs))


def warm(**kwargs: Any) -> Any:
    """Ask until the context is one that was kept, which must happen."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        kept = context(**kwargs)
        if kept is context(**kwargs):
            return kept
        time.sleep(PAUSE)
    raise AssertionError("never kept")


def warm_check(monkeypatch: pytest.MonkeyPatch, **kwargs: Any) -> Any:
    """Ask until the answer comes from what was kept, which must happen."""
    with monkeypatch.context() as patched:
        loads: list[Any] = []
        for host_class, name in (
            (SSLTransport.X509Chain, "loadChainFromFile"),
            (SSLTransport.X509Certificate, "loadFromFile"),
        ):
            patched.setattr(host_class, name, counting(getattr(host_class, name), loads))
        for _ in range(20):
            loads.clear()
            answer = check(**kwargs)
            if not loads:
                break
            time.sleep(PAUSE)
        assert not loads
    return answer


def counting(method: Any, loads: list[Any]) -> Any:
    def load(self: Any, path: Any) -> Any:
        loads.append(path)
        return method(self, path)

    return load


class Server:
    """A real server of the host's, that tells each client whom it saw."""

    def __init__(self, folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patched:
            for name, value in {**HOST, "X509_CERT_DIR": str(folder)}.items():
                patched.setenv(name, value)
            self._listening = M2SSLTransport.SSLTransport(("", 0), bServerMode=True)
            assert self._listening.initAsServer()["OK"]
        self.port = self._listening.oSocket.socket.getsockname()[1]
        self._ends = False
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            answer = self._listening.acceptConnection()
            if self._ends:
                return
            if answer["OK"]:
                threading.Thread(target=self._serve, args=(answer["Value"],), daemon=True).start()

    def _serve(self, transport: Any) -> None:
        if transport.handshake()["OK"]:
            seen = transport.getConnectingCredentials()
            serial = seen["x509Chain"].getCertInChain()["Value"].getSerialNumber()["Value"]
            transport.sendData(S_OK([seen["DN"], str(serial)]))
        with contextlib.suppress(Exception):
            transport.close()

    def close(self) -> None:
        # Not while the thread accepts: it would go on with the next socket that gets the same number.
        self._ends = True
        while self._accepting.is_alive():
            socket.create_connection(("localhost", self.port)).close()
            self._accepting.join(0.1)
        self._listening.oSocket.socket.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(authorities(tmp_path_factory.mktemp("server") / "certificates"))
    yield running
    running.close()


def call(server: Server, **kwargs: Any) -> Any:
    """Whom the server saw, as DN and serial number."""
    transport = M2SSLTransport.SSLTransport(("localhost", server.port), timeout=20, **kwargs)
    answer = transport.initAsClient()
    assert answer["OK"], answer
    try:
        return transport.receiveData()["Value"]
    finally:
        transport.close()


def trusts(server: Server, **kwargs: Any) -> bool:
    """Whether a client trusts the server."""
    try:
        call(server, **kwargs)
    except SSL.SSLError as error:
        assert any(text in str(error) for text in ("certificate verify failed", "no start line")), error
        return False
    return True


def serial(path: Path) -> str:
    chain = chain_module.X509Chain()
    chain.loadChainFromFile(str(path))
    return str(chain.getCertInChain()["Value"].getSerialNumber()["Value"])


KINDS: list[dict[str, Any]] = [{}, {"useCertificates": True}, {"skipCACheck": True}, {"sslCiphers": "AES256-SHA"}]


@pytest.mark.parametrize("kwargs", KINDS)
def test_a_kept_context_is_the_same(kwargs: Any, identity: Path) -> None:
    warm(**kwargs)
    assert outcome(context, kwargs) == outcome(stock_context, kwargs)


def test_a_kept_context_makes_full_handshakes(identity: Path, server: Server) -> None:
    kept = warm()
    for _ in range(2):
        transport = M2SSLTransport.SSLTransport(("localhost", server.port))
        assert transport._SSLTransport__ctx is kept
        assert transport.initAsClient()["OK"]
        assert transport.receiveData()["Value"] == [USER_DN, serial(identity)]
        assert not library().SSL_session_reused(int(transport.oSocket.ssl))
        transport.close()


@pytest.mark.parametrize("change", CHANGES)
def test_a_renewed_proxy_counts_at_once(
    change: Any, identity: Path, proxies: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for round_ in range(3):
        warm()
        warm_check(monkeypatch)
        change(identity, proxies[(round_ + 1) % 3])
        assert check() == stock_check()
        assert presented(context()) == presented(stock_context())


def test_a_proxy_that_changes_all_the_time(identity: Path, proxies: list[bytes], tmp_path: Path) -> None:
    """Within one tick of the file system's clock a file can change without a trace in its times."""
    fresh = tmp_path / "fresh"
    wanted = []
    for content in proxies:
        fresh.write_bytes(content)
        wanted.append(presented(stock_context(proxyLocation=str(fresh))))
    end = time.monotonic() + 1
    rounds = 0
    while time.monotonic() < end or rounds < 20:
        rounds += 1
        descriptor = os.open(identity, os.O_WRONLY)
        os.write(descriptor, proxies[rounds % 3])
        os.close(descriptor)
        made = [context(skipCACheck=True) for _ in range(2)]
        assert made[0] is not made[1]
        assert list(map(presented, made)) == [wanted[rounds % 3]] * 2


def test_the_check_tells_the_group_of_the_renewed_proxy(identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert warm_check(monkeypatch)["Value"] == {"DN": USER_DN, "group": "fakevo_user"}
    make_proxy(identity, group="another_group")
    assert check()["Value"] == {"DN": USER_DN, "group": "another_group"} == stock_check()["Value"]


def test_a_proxy_that_has_expired_since(identity: Path, logged: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    user = CERTIFICATES / "user"
    chain = chain_module.X509Chain()
    chain.loadChainFromFile(str(user / "usercert.pem"))
    chain.loadKeyFromFile(str(user / "userkey.pem"))
    assert chain.generateProxyToFile(str(identity), 2, strength=2048)["OK"]
    assert warm_check(monkeypatch)["OK"]
    time.sleep(3)
    assert logged == []
    patched = check()
    messages = logged.copy()
    assert "has expired" in patched["Message"]
    assert patched == stock_check()
    assert logged == messages * 2


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What checkSanity logs."""
    lines: list[Any] = []
    monkeypatch.setattr(SSLTransport, "gLogger", Recorder(lines))
    return lines


class Recorder:
    def __init__(self, lines: list[Any]) -> None:
        self._lines = lines

    def error(self, *words: Any) -> None:
        self._lines.append(words)


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("given", [True, False])
def test_a_damaged_proxy_gives_the_error_of_stock(
    kind: str, given: bool, identity: Path, logged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kwargs = {"proxyLocation": str(identity)} if given else {}
    warm(**kwargs)
    warm_check(monkeypatch, **kwargs)
    DAMAGES[kind](identity)
    for _ in range(4):  # more often than the guard forgives
        assert outcome(context, kwargs) == outcome(stock_context, kwargs)
        answers = []
        for ask in (check, stock_check):
            logged.clear()
            try:
                answers.append((ask(**kwargs), logged.copy()))
            except Exception as error:
                answers.append((type(error), str(error), logged.copy()))
        assert answers[0] == answers[1]
        time.sleep(PAUSE)
    assert loading.plugin.switches["client_tls"].guard.failures == 0


@pytest.mark.parametrize(
    "kwargs",
    [
        {"proxyString": "no proxy"},
        {"proxyString": 5},
        {"proxyString": None},
        {"proxyLocation": ""},
        {"proxyLocation": "/no/such/proxy"},
        {"proxyLocation": "a\0b"},
        {"proxyLocation": 10**6},
        {"proxyLocation": "/no/such/proxy", "useCertificates": True},
        {"useCertificates": True, "proxyString": "no proxy"},
        {"sslMethods": "TLSv1"},
        {"sslMethods": None},
        {"sslMethods": ["TLSv1"]},
        {"sslCiphers": "no such cipher"},
    ],
)
def test_odd_arguments_give_the_answer_of_stock(kwargs: Any, identity: Path, logged: list[Any]) -> None:
    answers: list[Any] = []
    for ask in (check, check, stock_check):
        logged.clear()
        try:
            answers.append((ask(**kwargs), logged.copy()))
        except Exception as error:
            answers.append((type(error), str(error), logged.copy()))
        time.sleep(PAUSE)
    assert answers == answers[-1:] * 3
    made = [outcome(context, kwargs), time.sleep(PAUSE), outcome(context, kwargs), outcome(stock_context, kwargs)]
    assert made[0] == made[2] == made[3]


def test_the_location_in_use_counts(
    identity: Path, proxies: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, link = tmp_path / "other", tmp_path / "link"
    other.write_bytes(proxies[1])
    link.symlink_to(identity)
    seen = {}
    for name, kwargs in {
        "environment": {},
        "other": {"proxyLocation": str(other)},
        "link": {"proxyLocation": str(link)},
        "host": {"useCertificates": True},
        "both": {"useCertificates": True, "proxyLocation": str(other)},
    }.items():
        warm(**kwargs)
        assert outcome(context, kwargs) == outcome(stock_context, kwargs)
        assert warm_check(monkeypatch, **kwargs) == stock_check(**kwargs)
        seen[name] = presented(context(**kwargs))
    assert len({seen["environment"], seen["other"], seen["host"]}) == 3
    monkeypatch.setenv("X509_USER_PROXY", str(other))
    assert presented(context()) == seen["other"]
    link.unlink()
    link.symlink_to(other)
    assert presented(context(proxyLocation=str(link))) == seen["other"]
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    shutil.copyfile(CERTIFICATES / "user" / "usercert.pem", certificate)
    shutil.copyfile(CERTIFICATES / "user" / "userkey.pem", key)
    monkeypatch.setenv("DIRAC_X509_HOST_CERT", str(certificate))
    monkeypatch.setenv("DIRAC_X509_HOST_KEY", str(key))
    assert check(useCertificates=True)["Value"] == {"DN": USER_DN}
    assert presented(context(useCertificates=True)) not in seen.values()


def test_a_certificate_that_is_the_same_with_another_key(identity: Path, monkeypatch: Any, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    shutil.copyfile(HOST["DIRAC_X509_HOST_KEY"], key)
    monkeypatch.setenv("DIRAC_X509_HOST_KEY", str(key))
    kwargs = {"useCertificates": True}
    warm(**kwargs)
    shutil.copyfile(CERTIFICATES / "user" / "userkey.pem", key)
    assert outcome(context, kwargs) == outcome(stock_context, kwargs)
    assert issubclass(outcome(context, kwargs)[0], Exception)


def switched_while_a_context_is_made(monkeypatch: Any, away: Any, back: Any) -> None:
    """Between the two looks at the files, when the host's code reads them."""
    begin, read = SSL.Context.__init__, SSL.Context.set_verify

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        away()
        begin(self, *args, **kwargs)

    def set_verify(self: Any, *args: Any, **kwargs: Any) -> None:
        back()
        read(self, *args, **kwargs)

    monkeypatch.setattr(SSL.Context, "__init__", init)
    monkeypatch.setattr(SSL.Context, "set_verify", set_verify)


@pytest.mark.parametrize("how", ["environment", "link", "rename"])
def test_another_proxy_while_the_context_is_made(
    how: str, identity: Path, proxies: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a thread that uses the proxy of somebody else for a while: it must not be kept as ours."""
    other, link, aside = tmp_path / "other", tmp_path / "link", tmp_path / "aside"
    other.write_bytes(proxies[1])
    link.symlink_to(identity)
    kwargs: dict[str, Any] = {} if how == "environment" else {"proxyLocation": str(link)}
    wanted = presented(stock_context(**kwargs))

    def away() -> None:
        if how == "environment":
            os.environ["X509_USER_PROXY"] = str(other)
        elif how == "link":
            link.unlink()
            link.symlink_to(other)
        else:
            identity.rename(aside)
            other.rename(identity)

    def back() -> None:
        if how == "environment":
            os.environ["X509_USER_PROXY"] = str(identity)
        elif how == "link":
            link.unlink()
            link.symlink_to(identity)
        else:
            identity.rename(other)
            aside.rename(identity)

    with monkeypatch.context() as patched:
        switched_while_a_context_is_made(patched, away, back)
        for _ in range(4):
            context(**kwargs)
            time.sleep(PAUSE)
    assert presented(context(**kwargs)) == wanted
    assert presented(warm(**kwargs)) == wanted


def test_a_ca_that_is_removed_counts_at_once(identity: Path, cas: Path, server: Server) -> None:
    warm()
    for _ in range(2):
        assert trusts(server)  # now the context has the CA
        assert context() is context()
        (cas / CA_HASH).unlink()
        assert not trusts(server)
        assert trusts(server, skipCACheck=True)
        (cas / CA_HASH).symlink_to("CA.pem")
        assert trusts(server)
        warm()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("place", ["beside", "elsewhere"])
def test_a_ca_that_is_rewritten_counts_at_once(
    change: Any, place: str, identity: Path, cas: Path, server: Server, tmp_path: Path
) -> None:
    path = cas / "CA.pem"
    if place == "elsewhere":
        path = tmp_path / "CA.pem"
        path.write_bytes(CA)
        (cas / CA_HASH).unlink()
        (cas / CA_HASH).symlink_to(path)
    warm()
    assert trusts(server)
    change(path, b"no" + CA[2:])  # not a CA any more, and as long
    assert not trusts(server)
    change(path, CA)
    assert trusts(server)


def test_a_ca_behind_two_links(identity: Path, cas: Path, server: Server, tmp_path: Path) -> None:
    """They might be switched and switched back while a context reads the CA, so nothing is kept."""
    real, link = authorities(tmp_path / "real"), tmp_path / "link"
    link.symlink_to(real)
    (cas / CA_HASH).unlink()
    (cas / CA_HASH).symlink_to(link / "CA.pem")
    for _ in range(4):
        assert context() is not context()
        time.sleep(PAUSE)
    assert trusts(server)


def test_another_folder_of_cas_while_a_kept_context_is_in_use(
    identity: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL reads a CA in the handshake: what it finds in the other folder must not stay in the kept context."""
    full, empty, link = authorities(tmp_path / "full"), tmp_path / "empty", tmp_path / "link"
    empty.mkdir()
    link.symlink_to(empty)
    monkeypatch.setenv("X509_CERT_DIR", str(link))
    warm()
    transport = M2SSLTransport.SSLTransport(("localhost", server.port))
    link.unlink()
    link.symlink_to(full)
    with contextlib.suppress(SSL.SSLError):
        transport.initAsClient()
    assert trusts(server)
    link.unlink()
    link.symlink_to(empty)
    assert not trusts(server)


def test_the_folder_of_cas_in_use_counts(
    identity: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm()
    assert trusts(server)
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("X509_CERT_DIR", str(tmp_path / "empty"))
    assert not trusts(server)
    monkeypatch.setenv("X509_CERT_DIR", str(tmp_path / "none"))
    assert outcome(context, {}) == outcome(stock_context, {})
    assert check() == stock_check()


def test_no_cas_at_all(identity: Path, logged: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    warm()
    warm_check(monkeypatch)
    monkeypatch.setattr(SSLTransport.Locations, "getCAsLocation", lambda: None)
    assert outcome(context, {}) == outcome(stock_context, {})
    assert check() == stock_check()
    assert logged == [("No CAs found!",)] * 2


@pytest.mark.own_lines
def test_two_identities_in_two_threads(identity: Path, server: Server, proxies: list[bytes], tmp_path: Path) -> None:
    """Under load, while one of them is renewed all the time."""
    other = tmp_path / "other"
    other.write_bytes(proxies[1])
    wanted = [
        ({}, [[USER_DN, serial(identity)]]),
        ({"useCertificates": True}, [[HOST_DN, serial(Path(HOST["DIRAC_X509_HOST_CERT"]))]]),
        ({"proxyLocation": str(other)}, [[USER_DN, serial(other)]]),
    ]
    rename_over(other, proxies[2])
    wanted[2][1].append([USER_DN, serial(other)])
    # DIRAC reads a proxy twice, also where it answers in our place because the file has just changed.
    wanted[2][1].append("SSLError('key values mismatch')")
    stop, wrong = threading.Event(), []

    def calls(kwargs: dict[str, Any], expected: list[Any]) -> None:
        while not stop.is_set():
            try:
                seen = call(server, **kwargs)
            except Exception as error:
                seen = repr(error)
            if seen not in expected:
                wrong.append((kwargs, seen))

    def renew() -> None:
        while not stop.wait(0.15):
            rename_over(other, proxies[1 + int(time.monotonic() * 10) % 2])

    threads = [threading.Thread(target=calls, args=one) for one in wanted for _ in range(2)]
    threads.append(threading.Thread(target=renew))
    for thread in threads:
        thread.start()
    time.sleep(2)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


USERS = """
import ctypes, json, os, time
from DIRAC.Core.Utilities.Extensions import extensionsByPriority
extensionsByPriority()
from DIRAC.Core.DISET.private.Transports import M2SSLTransport, SSLTransport
os.environ.update(X509_USER_PROXY={proxy!r}, X509_CERT_DIR={cas!r})
def ask():
    try:
        made = bool(M2SSLTransport.getM2SSLContext(proxyLocation={proxy!r}))
    except Exception as error:
        made = str(error).split(":")[0]
    try:
        answer = SSLTransport.checkSanity(("localhost", 1), dict(proxyLocation={proxy!r}))
        return made, answer["OK"], answer.get("Message")
    except Exception as error:
        return made, repr(error)
answers = [time.sleep(0.1) or ask() for _ in range(4)]
{change}
answers.append(ask())
{back}
answers.append(ask())
print(json.dumps(answers))
"""


@pytest.mark.parametrize("how", ["os.seteuid", "ctypes.CDLL(None).setfsuid"])
def test_a_user_who_may_not_read_the_proxy(how: str, reachable_proxy: Path) -> None:
    """Kept by a thread that could, and asked for after the rights are gone. setfsuid(2) leaves the effective user."""
    if os.geteuid() != 0:
        pytest.fail("run as root: only root can become another user")
    cas = authorities(reachable_proxy.parent / "certificates")
    code = USERS.format(proxy=str(reachable_proxy), cas=str(cas), change=f"{how}(65534)", back=f"{how}(0)")
    patched, unpatched = run(code), run(code, DIRAC_PERFPATCH="off")
    answers, wanted = [json.loads(ran.stdout.splitlines()[-1]) for ran in (patched, unpatched)]
    assert answers == wanted
    assert [answer[1] is True for answer in answers] == [True] * 4 + [False, True]


def test_a_user_who_may_not_read_the_cas(reachable_proxy: Path) -> None:
    """What another has read of them stays in that one's context."""
    cas = authorities(reachable_proxy.parent / "certificates")
    folder = _files.CAFolder()
    for _ in range(3):
        with contextlib.suppress(LookupError):
            mine = folder.look(str(cas))
        time.sleep(PAUSE)
    (cas / "CA.pem").chmod(0o600)
    seen = folder.look(str(cas))
    libc = ctypes.CDLL(None)
    libc.setfsuid(65534)
    try:
        assert folder.look(str(cas)) != seen
    finally:
        libc.setfsuid(0)
    assert folder.look(str(cas)) == seen != mine


def test_a_pipe_is_left_to_the_host(identity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To open it would wake who writes to it, and take what is in it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = Path(HOST["DIRAC_X509_HOST_CERT"]).read_bytes()
    monkeypatch.setenv("DIRAC_X509_HOST_CERT", str(pipe))
    for _ in range(2):
        writer = threading.Thread(target=pipe.write_bytes, args=(content,))
        writer.start()
        assert check(useCertificates=True)["Value"]["DN"] == HOST_DN
        writer.join()


def test_what_a_caller_does_to_its_answer(identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = warm_check(monkeypatch)
    SSLTransport.checkSanity(URL, {})["Value"].clear()
    assert check() == answer


def test_all_callers_are_reached(identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BaseClient's table holds the function, and delegation still gets the host's own classes."""
    warm_check(monkeypatch)
    assert gProtocolDict["dips"]["sanity"] is SSLTransport.checkSanity
    assert SSLTransport.X509Chain is chain_module.X509Chain
    assert SSLTransport.delegate.__globals__["X509Chain"] is chain_module.X509Chain


class Claims:
    """A wrapper that claims to be what it wraps, as wrapt's do."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped, self.calls = wrapped, 0

    def __eq__(self, other: object) -> bool:
        return bool(self.wrapped == other)

    def __hash__(self) -> int:
        return hash(self.wrapped)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.wrapped(*args, **kwargs)


def test_what_others_put_into_the_module_counts_at_once(identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check runs as a copy, which is used for as long as the names of the module mean the same."""
    answer = warm_check(monkeypatch)
    for name in ("S_OK", "X509Chain"):
        claims = Claims(getattr(SSLTransport, name))
        with monkeypatch.context() as patched:
            patched.setattr(SSLTransport, name, claims)
            assert check() == answer
            assert claims.calls == 1
            assert check() == answer
            assert claims.calls == 2
        assert check() == answer
        assert claims.calls == 2
    with monkeypatch.context() as patched:
        patched.setattr(SSLTransport, "isinstance", None, raising=False)  # a name that was not there
        with pytest.raises(TypeError, match="not callable"):
            check(proxyString="")
    assert check(proxyString="") == stock_check(proxyString="")


def test_what_is_not_kept(identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kwargs in ({"proxyString": identity.read_text()}, {"bServerMode": True}):
        for _ in range(3):
            assert outcome(context, kwargs) == outcome(stock_context, kwargs)
            assert context(**kwargs) is not context(**kwargs)
            time.sleep(PAUSE)
    kept = warm()
    assert M2SSLTransport.getM2SSLContext(kept) is kept  # a context that is given is configured, not replaced
    monkeypatch.setattr(M2Utils, "DEBUG_M2CRYPTO", True)
    assert context() is not context()


def test_the_hosts_defaults_count(identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = warm()
    monkeypatch.setattr(M2Utils, "DEFAULT_SSL_CIPHERS", "AES256-SHA")
    assert context() is not kept
    assert context(sslMethods="TLSv1") is not kept
    assert context(sslCiphers="AES128-SHA") is not kept


def test_a_network_file_system_is_not_trusted(identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "_LOCAL_TYPES", frozenset())
    monkeypatch.setattr(_files, "_local", {})
    for _ in range(3):
        assert context() is not context()
        assert check() == stock_check()
        time.sleep(PAUSE)


def test_a_child_makes_its_own_context(identity: Path, server: Server) -> None:
    """A lock in the kept one may have been held by another thread during the fork."""
    kept = warm()
    assert in_a_child(lambda: context() is kept) is False
    assert in_a_child(lambda: call(server)[0]) == USER_DN
    assert context() is kept


def test_a_child_does_not_free_the_contexts_of_its_parent(identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[int] = []
    monkeypatch.setattr(SSL.Context, "m2_ssl_ctx_free", staticmethod(lambda context: freed.append(1)))
    warm()
    gc.collect()  # what other tests left, which is the host's and so is freed anywhere

    def forgotten() -> int:
        freed.clear()
        store().clear()
        gc.collect()
        return len(freed)

    assert in_a_child(forgotten) == 0
    assert forgotten() == 1


def store() -> Any:
    """What keeps the contexts."""
    return kept_by("client_tls")[-1]


def test_contexts_that_nobody_needs_are_forgotten(identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With their private keys, and without a call: when Python collects garbage."""
    alive = weakref.ref(warm())
    monkeypatch.setattr(store(), "next_sweep", 0.0)
    gc.collect()
    assert alive() is not None
    monkeypatch.setattr(_files, "_UNUSED_SECONDS", 0.01)
    monkeypatch.setattr(store(), "next_sweep", 0.0)
    time.sleep(0.02)
    gc.collect()
    gc.collect()
    assert alive() is None


def test_no_more_contexts_than_the_limit(identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts = store()
    monkeypatch.setattr(contexts, "_limit", 4)
    for number in range(8):
        context(sslMethods=f"TLSv1:{number}")
        assert len(contexts._entries) <= 4


def test_taking_off_leaves_nothing(identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = M2SSLTransport.getM2SSLContext
    alive = weakref.ref(warm())
    warm_check(monkeypatch)
    hooks = [one._collected for one in kept_by("client_tls")]
    assert len(hooks) == 2
    with stock("client_tls"):
        assert M2SSLTransport.getM2SSLContext is M2Utils.getM2SSLContext is ours.__wrapped__
        assert not hasattr(SSLTransport.checkSanity, "__wrapped__")
        gc.collect()
        assert alive() is None
        assert not any(hook in gc.callbacks for hook in hooks)
        assert ours() is not ours()


@pytest.mark.parametrize("target", ["check", "context"])
def test_a_failure_of_ours_is_counted_and_stock_answers(
    target: str, identity: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*args: Any) -> Any:
        raise RuntimeError("ours")

    monkeypatch.setattr(_files, "readable_state", fails)
    guard = loading.plugin.switches["client_tls"].guard
    for _ in range(2):
        if target == "check":
            assert check() == stock_check()
        else:
            assert outcome(context, {}) == outcome(stock_context, {})
    assert guard.failures == 2


def test_a_failure_under_our_names_only_is_counted(identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the host's code needs more than we give it, its time must not be spent twice for ever."""
    monkeypatch.setattr(client_tls, "SimpleNamespace", lambda **names: None)
    guard = loading.plugin.switches["client_tls"].guard
    for _ in range(4):  # the first two are too early to keep anything
        assert outcome(context, {}) == outcome(stock_context, {})
        time.sleep(PAUSE)
    assert guard.failures == 2


def test_what_stock_asks_besides(identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another question to the loaded chain is answered by the host's object."""
    warm_check(monkeypatch)
    stand_in = client_tls._StandIn(_identities(), SSLTransport.X509Chain)
    stand_in.loadChainFromFile(str(identity))
    assert stand_in.hasExpired()["Value"] is False
    assert stand_in.getNumCertsInChain()["Value"] == 2


def _identities() -> Any:
    (found,) = (one for one in gc.get_objects() if type(one) is client_tls._Identities and one._kept._entries)
    return found


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from(["proxy", "other"]), st.integers(0, 5)),
        st.tuples(st.just("replace"), st.sampled_from(["proxy", "other"]), st.integers(0, 5)),
        st.tuples(st.just("remove"), st.sampled_from(["proxy", "other", "link"]), st.just(0)),
        st.tuples(st.just("link"), st.sampled_from(["proxy", "other"]), st.just(0)),
        st.tuples(st.just("environment"), st.sampled_from(["proxy", "other", "link", "none"]), st.just(0)),
        st.tuples(st.just("CA"), st.sampled_from(["add", "remove", "rewrite"]), st.just(0)),
        st.tuples(st.just("wait"), st.just(""), st.just(0)),
        st.tuples(st.just("wait"), st.just(""), st.just(0)),
    ),
    min_size=4,
    max_size=10,
)


@pytest.fixture(scope="module")
def contents(proxies: list[bytes]) -> list[bytes]:
    user = CERTIFICATES / "user"
    both = (user / "usercert.pem").read_bytes() + (user / "userkey.pem").read_bytes()
    return [*proxies, both, b"", b"rubbish" + proxies[0][7:]]


@given(steps=STEPS)
@settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False)
def test_any_sequence_of_changes(steps: list[tuple[str, str, int]], contents: list[bytes]) -> None:
    """After each step, both functions answer as stock does, whatever is asked."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patched:
        folder = Path(name)
        patched.setenv("X509_CERT_DIR", str(authorities(folder / "certificates")))
        patched.setenv("X509_USER_PROXY", str(folder / "proxy"))
        lines: list[Any] = []
        patched.setattr(SSLTransport, "gLogger", Recorder(lines))
        for file in ("proxy", "other"):
            (folder / file).write_bytes(contents[0])
        questions: list[dict[str, Any]] = [
            {},
            {"proxyLocation": str(folder / "other")},
            {"proxyLocation": str(folder / "link"), "skipCACheck": True},
        ]
        for step, what, number in steps:
            _take(step, what, contents[number], folder, patched)
            for kwargs in questions:
                for _ in range(2):  # the second may be from what the first kept
                    assert outcome(context, kwargs) == outcome(stock_context, kwargs)
                    answers = []
                    for ask in (check, stock_check):
                        lines.clear()
                        try:
                            answers.append((ask(**kwargs), lines.copy()))
                        except Exception as error:
                            answers.append((type(error), str(error), lines.copy()))
                    assert answers[0] == answers[1]
    assert loading.plugin.switches["client_tls"].guard.failures == 0


def _take(step: str, what: str, content: bytes, folder: Path, patched: pytest.MonkeyPatch) -> None:
    path = folder / what
    if step == "write":
        path.write_bytes(content)
    elif step == "replace":
        rename_over(path, content)
    elif step == "remove":
        path.unlink(missing_ok=True)
    elif step == "link":
        (folder / "link").unlink(missing_ok=True)
        (folder / "link").symlink_to(path)
    elif step == "environment":
        patched.setenv("X509_USER_PROXY", str(path))
    elif step == "CA":
        ca = folder / "certificates" / CA_HASH
        if what == "add":
            ca.with_name(f"0123456{len(list(ca.parent.iterdir())) % 10}.0").write_bytes(CA)
        elif what == "remove":
            ca.unlink(missing_ok=True)
        else:
            ca.with_name("CA.pem").write_bytes(CA)
    else:
        time.sleep(PAUSE)
