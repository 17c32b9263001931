"""TornadoClient: never another identity, never a CA that is gone, and stock's answer wherever a context is not kept."""

from __future__ import annotations

import copy
import gc
import hashlib
import http.server
import itertools
import os
import pickle
import socket
import ssl
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import CHANGES, release, rewrite, rewrite_with_the_same_times, stock
from DIRAC.Core.Tornado.Client.private import TornadoBaseClient as module
from DIRAC.Core.Tornado.Client.TornadoClient import TornadoClient
from DIRAC.Core.Utilities.JEncode import encode
from forking import in_a_child
from M2Crypto import ASN1, EVP, RSA, X509

from dirac_perfpatch import loading
from dirac_perfpatch.patches import _files, https_client

DAY = 86400


class Authority:
    """A CA, and what it signs."""

    def __init__(self, name: str, key: Any) -> None:
        self.name, self.key = name, key
        self.pem = self._sign(name, key, b"", days=10)
        # X509_NAME_hash(3), which old versions of M2Crypto do not have, of a name with one part in small letters.
        part = b"\x06\x03\x55\x04\x03" + bytes((0x0C, len(name))) + name.encode()
        part = bytes((0x31, len(part) + 2, 0x30, len(part))) + part
        self.hash = f"{int.from_bytes(hashlib.sha1(part).digest()[:4], 'little'):08x}"

    def identity(self, name: str, key: Any, days: int = 2) -> bytes:
        """A certificate and its key, in one file as a proxy is."""
        return self._sign(name, key, b"", days) + key.as_pem(cipher=None)

    def server(self, key: Any) -> bytes:
        return self._sign("localhost", key, b"DNS:localhost", days=2) + key.as_pem(cipher=None)

    def _sign(self, name: str, key: Any, hosts: bytes, days: int) -> bytes:
        certificate = X509.X509()
        certificate.set_version(2)
        certificate.set_serial_number(next(SERIALS))
        for part, seconds in (("not_before", -9 * DAY), ("not_after", days * DAY)):
            when = ASN1.ASN1_UTCTIME()
            when.set_time(int(time.time()) + seconds)
            getattr(certificate, f"set_{part}")(when)
        certificate.set_pubkey(key)
        certificate.set_subject(_subject(name))
        certificate.set_issuer(_subject(self.name))
        if name == self.name:
            certificate.add_ext(X509.new_extension("basicConstraints", "CA:TRUE", 1))
        if hosts:
            certificate.add_ext(X509.new_extension("subjectAltName", hosts.decode()))
        certificate.sign(self.key, "sha256")
        return certificate.as_pem()


SERIALS = itertools.count(1)


def parts(identity: bytes) -> tuple[bytes, bytes]:
    """Certificate and key."""
    at = identity.rindex(b"-----BEGIN")
    return identity[:at], identity[at:]


def _subject(name: str) -> Any:
    subject = X509.X509_Name()
    subject.CN = name
    return subject


@pytest.fixture(scope="module")
def keys() -> list[Any]:
    made = [EVP.PKey() for _ in range(3)]
    for key in made:
        key.assign_rsa(RSA.gen_key(2048, 65537, callback=lambda *_: None))
    return made


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers each request, on a connection of its own, with who asked and over which version of TLS."""

    def setup(self) -> None:
        self.request = self.server.context.wrap_socket(self.request, server_side=True)  # type: ignore[attr-defined]
        super().setup()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        certificate = self.request.getpeercert()
        name = certificate["subject"][0][0][1] if certificate else ""
        body = encode({"OK": True, "Value": f"{name} {self.request.version()}"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *args: Any) -> None:
        """A client that refuses us is no news."""


class Grid:
    """A grid with a CA, a server, users, and a system with a CA of its own."""

    def __init__(self, folder: Path, keys: list[Any]) -> None:
        self.folder, self.keys = folder, keys
        self.authority, self.system = Authority("grid", keys[0]), Authority("system", keys[0])
        self.cas = folder / "cas"
        self.cas.mkdir()
        self.ca = self.cas / f"{self.authority.hash}.0"
        self.ca.write_bytes(self.authority.pem)
        self.system_file, self.system_folder = folder / "system.pem", folder / "system"
        self.system_file.write_bytes(self.system.pem)
        self.system_folder.mkdir()
        self.alice, self.bob = (self.authority.identity(name, key) for name, key in zip(("alice", "bob"), keys[1:]))
        self.proxy = self.write("proxy", self.alice)
        for path in (self.cas, self.system_folder):
            path.chmod(0o755)
        self.server = Server(("127.0.0.1", 0), Handler)
        self.serve_with(self.authority)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def serve_with(self, authority: Authority) -> None:
        """Let the server have a certificate of this CA."""
        path = self.write("server", authority.server(self.keys[2]))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        context.load_verify_locations(cadata=self.authority.pem.decode())
        context.verify_mode = ssl.CERT_OPTIONAL
        self.server.context = context  # type: ignore[attr-defined]

    def write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        path.chmod(0o600)
        return path

    def client(self, **options: Any) -> Any:
        url = f"https://localhost:{self.server.server_port}/Framework/Test"
        return TornadoClient(url, **{"useCertificates": False, "skipCACheck": False, **options})

    def ask(self, client: Any = None, **options: Any) -> str:
        """Who the server saw, or the error."""
        answer = (client or self.client(**options)).whoAmI()
        return str(answer["Value"] if answer["OK"] else answer["Message"])

    def post(self, session: Any, cert: Any) -> str:
        """The same through a session, with a certificate for this request."""
        url = f"https://localhost:{self.server.server_port}/"
        return str(session.post(url, data={"a": "b"}, cert=cert, timeout=20).text)

    def warm(self, **options: Any) -> str:
        """Ask until a context that was kept before is used, which must happen."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            before = kept_contexts()
            answer = self.ask(**options)
            if any(used > before[key] for key, used in kept_contexts().items() if key in before):
                return answer
            time.sleep(0.06)
        raise AssertionError("never kept")

    def in_stock(self, **options: Any) -> str:
        """The same, while the patch stays on and keeps what it has."""
        ours, module.ssl = module.ssl, ssl
        try:
            return self.ask(**options)
        finally:
            module.ssl = ours


def made() -> int:
    """How many contexts were made to be kept."""
    return loading.plugin.switches["https_client"].guard.events.get("contexts made", 0)


def new_session(verified: bool = True) -> Any:
    answer = module._create_session(verified=verified)
    assert answer["OK"], answer
    return answer["Value"]


def new_context() -> Any:
    return new_session().get_adapter("https://x").ssl_context


@pytest.fixture
def grid(keys: list[Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Grid]:
    # In a folder that every user may pass through.
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o711)
        made = Grid(Path(name), keys)
        monkeypatch.setenv("X509_CERT_DIR", str(made.cas))
        monkeypatch.setenv("X509_USER_PROXY", str(made.proxy))
        monkeypatch.setenv("SSL_CERT_FILE", str(made.system_file))
        monkeypatch.setenv("SSL_CERT_DIR", str(made.system_folder))
        for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSLKEYLOGFILE", "https_proxy", "HTTPS_PROXY"):
            monkeypatch.delenv(variable, raising=False)
        try:
            yield made
        finally:
            made.server.shutdown()
            made.server.server_close()


def test_clients_share_a_context_that_nobody_changes(grid: Grid) -> None:
    assert grid.in_stock() == "alice TLSv1.3" == grid.warm()
    before = made()
    client = grid.client()
    assert grid.ask(client) == grid.ask(client) == grid.ask() == "alice TLSv1.3"
    assert made() == before


def switch_link(path: Path, content: bytes) -> None:
    other = path.with_suffix(".other")
    other.write_bytes(content)
    path.unlink()
    path.symlink_to(other)


@pytest.mark.parametrize("change", [*CHANGES, switch_link])
def test_another_proxy_in_the_same_place_is_used_at_once(change: Any, grid: Grid) -> None:
    """Also by a client that is already there: each request makes a connection here."""
    grid.warm()
    client = grid.client()
    change(grid.proxy, grid.bob)
    assert grid.ask(client) == grid.ask() == "bob TLSv1.3"
    assert grid.warm() == "bob TLSv1.3"


def test_a_proxy_that_changes_all_the_time(grid: Grid) -> None:
    for number in range(12):
        with open(grid.proxy, "r+b") as stream:
            stream.truncate()
            stream.write((grid.alice, grid.bob)[number % 2])
        assert grid.ask() == f"{('alice', 'bob')[number % 2]} TLSv1.3"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda grid: grid.proxy.unlink(),
        lambda grid: grid.proxy.write_bytes(b""),
        lambda grid: grid.proxy.write_bytes(b"no certificate"),
        lambda grid: grid.proxy.write_bytes(parts(grid.alice)[0]),
        lambda grid: grid.proxy.write_bytes(grid.alice + grid.bob[:50]),
        lambda grid: grid.proxy.write_bytes(grid.alice[:-300]),
        lambda grid: grid.proxy.write_bytes(parts(grid.alice)[0] + parts(grid.bob)[1]),
        lambda grid: grid.proxy.write_bytes(grid.authority.identity("alice", grid.keys[1], days=-1)),
        lambda grid: grid.proxy.write_bytes(grid.system.identity("alice", grid.keys[1])),
    ],
    ids=[
        "removed",
        "empty",
        "text",
        "no key",
        "rubbish at its end",
        "half a key",
        "another key",
        "expired",
        "of another CA",
    ],
)
def test_a_bad_proxy_has_the_answer_of_stock(spoil: Callable[[Grid], Any], grid: Grid) -> None:
    grid.warm()
    spoil(grid)
    for _ in range(3):
        assert _plain(grid.ask()) == _plain(grid.in_stock())
        time.sleep(0.06)


def _plain(message: str) -> str:
    """Without the address of an object. What a server that hangs up causes depends on who is faster."""
    hung_up = ("alert", "EOF", "reset by peer", "Broken pipe", "Connection aborted", "RemoteDisconnected")
    return "refused by the server" if any(word in message for word in hung_up) else message


def test_a_proxy_of_another_effective_user(grid: Grid) -> None:
    assert grid.warm() == "alice TLSv1.3"
    os.seteuid(65534)
    try:
        refused, in_stock = grid.ask(), grid.in_stock()
    finally:
        os.seteuid(0)
    assert refused == in_stock and "Permission denied" in refused
    assert grid.ask() == "alice TLSv1.3"


def test_two_identities_in_two_threads(grid: Grid) -> None:
    """Certificate and key are loaded in two steps: threads with one context would present a mixture, or each other."""
    paths = {name: str(grid.write(name, content)) for name, content in (("alice", grid.alice), ("bob", grid.bob))}
    answers: dict[str, list[str]] = {name: [] for name in paths}

    def work(name: str) -> None:
        for _ in range(12):
            answers[name].append(grid.post(new_session(), paths[name]))

    threads = [threading.Thread(target=work, args=(name,)) for name in paths for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, found in answers.items():
        assert len(found) == 24 and all(f'"{name} TLSv1.3"' in answer for answer in found)
    before = made()
    grid.post(new_session(), paths["alice"])
    assert made() == before


def test_a_session_presents_what_each_request_names(grid: Grid) -> None:
    """And no certificate if none is named from the beginning, whatever others presented."""
    paths = [str(grid.write(name, content)) for name, content in (("alice", grid.alice), ("bob", grid.bob))]
    for _ in range(3):
        session = new_session()
        assert '"alice TLS' in grid.post(session, paths[0])
        assert '"bob TLS' in grid.post(session, paths[1])
        assert '" TLS' in grid.post(new_session(), None)
        time.sleep(0.06)


def test_a_link_that_is_switched_while_a_context_is_made(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    """To another proxy before it is read, and back: the context must not be kept for the first."""
    alice, bob = grid.write("alice", grid.alice), grid.write("bob", grid.bob)
    grid.proxy.unlink()
    grid.proxy.symlink_to(alice)

    def switch(target: Path) -> None:
        grid.proxy.unlink()
        grid.proxy.symlink_to(target)

    make = https_client._Contexts._make

    def switching(*args: Any) -> Any:
        switch(bob)
        try:
            return make(*args)
        finally:
            switch(alice)

    with monkeypatch.context() as patched:
        patched.setattr(https_client._Contexts, "_make", switching)
        for _ in range(3):
            grid.post(new_session(), str(grid.proxy))
            time.sleep(0.06)
    assert '"alice TLS' in grid.post(new_session(), str(grid.proxy))


def test_the_host_certificate(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in zip(("cert", "key"), parts(grid.bob)):
        monkeypatch.setenv(f"DIRAC_X509_HOST_{name.upper()}", str(grid.write(f"host{name}", content)))
    assert grid.warm(useCertificates=True) == "bob TLSv1.3"
    assert grid.warm() == "alice TLSv1.3"
    grid.write("hostkey", parts(grid.alice)[1])
    for _ in range(3):
        answer = grid.ask(useCertificates=True)
        assert "KEY_VALUES_MISMATCH" in answer and answer == grid.in_stock(useCertificates=True)
        time.sleep(0.06)


def test_a_proxy_location(grid: Grid) -> None:
    bob = str(grid.write("bob", grid.bob))
    presented = "alice" if release().startswith("8.") else "bob"  # 8.0 ignores it
    assert grid.warm() == "alice TLSv1.3"
    assert grid.warm(proxyLocation=bob) == grid.in_stock(proxyLocation=bob) == f"{presented} TLSv1.3"
    assert grid.ask() == "alice TLSv1.3"


def test_a_ca_of_the_grid_that_is_removed_added_or_rewritten(grid: Grid) -> None:
    """OpenSSL keeps the CAs that it has read from a folder in the context."""
    trusted = grid.warm()
    grid.ca.unlink()
    untrusted = grid.ask()
    assert "CERTIFICATE_VERIFY_FAILED" in untrusted and untrusted == grid.in_stock() == grid.ask()
    time.sleep(0.06)
    assert untrusted == grid.ask()
    grid.ca.write_bytes(grid.authority.pem)
    assert grid.ask() == trusted
    grid.warm()
    other = Authority("grid", grid.keys[1])  # the same name with another key
    rewrite_with_the_same_times(grid.ca, other.pem)
    rewritten = grid.ask()
    assert "CERTIFICATE_VERIFY_FAILED" in rewritten and rewritten == grid.in_stock()


def test_a_folder_of_cas_that_is_switched(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    empty, link = grid.folder / "empty", grid.folder / "link"
    empty.mkdir()
    monkeypatch.setenv("X509_CERT_DIR", str(link))
    for _ in range(3):
        link.symlink_to(grid.cas)
        assert grid.warm() == "alice TLSv1.3"
        link.unlink()
        link.symlink_to(empty)
        assert "CERTIFICATE_VERIFY_FAILED" in grid.ask()
        link.unlink()


def test_a_folder_of_cas_that_is_switched_during_a_handshake(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    """And back: what is read meanwhile must not stay in the context of the folder that was looked at."""
    empty, link = grid.folder / "empty", grid.folder / "link"
    empty.mkdir()
    link.symlink_to(empty)
    monkeypatch.setenv("X509_CERT_DIR", str(link))
    untrusted = grid.warm()
    assert "CERTIFICATE_VERIFY_FAILED" in untrusted
    do_handshake = ssl.SSLSocket.do_handshake

    def switching(connection: Any, *args: Any) -> Any:
        if connection.server_side:
            return do_handshake(connection, *args)
        link.unlink()
        link.symlink_to(grid.cas)
        try:
            return do_handshake(connection, *args)
        finally:
            link.unlink()
            link.symlink_to(empty)

    with monkeypatch.context() as patched:
        patched.setattr(ssl.SSLSocket, "do_handshake", switching)
        grid.ask()
    assert grid.ask() == untrusted


def test_the_cas_of_the_system(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock trusts them, too, in a file and in a folder, and wherever the variables say that they are."""
    grid.serve_with(grid.system)
    assert grid.warm() == "alice TLSv1.3" == grid.in_stock()
    grid.system_file.write_bytes(grid.authority.pem)
    removed = grid.ask()
    assert "CERTIFICATE_VERIFY_FAILED" in removed and removed == grid.in_stock()
    hashed = grid.system_folder / f"{grid.system.hash}.0"
    hashed.write_bytes(grid.system.pem)
    assert grid.ask() == "alice TLSv1.3" == grid.warm()
    hashed.unlink()
    assert grid.ask() == removed
    grid.system_file.write_bytes(grid.system.pem)
    assert grid.warm() == "alice TLSv1.3"
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    assert grid.ask() == removed == grid.in_stock()
    for _ in range(2):
        time.sleep(0.06)
        assert grid.ask() == removed
    hashed.write_bytes(grid.system.pem)
    assert grid.ask() == "alice TLSv1.3"
    monkeypatch.setenv("SSL_CERT_DIR", "/no/such/folder")
    assert grid.warm() == removed
    os.putenv("SSL_CERT_FILE", str(grid.system_file))  # behind the back of os.environ
    try:
        assert grid.ask() == "alice TLSv1.3" == grid.in_stock()
    finally:
        os.putenv("SSL_CERT_FILE", "/no/such/file")
    assert grid.ask() == removed


@pytest.mark.parametrize("capitals", [False, True])
def test_a_ca_of_the_system_that_is_rewritten_in_place(capitals: bool, grid: Grid) -> None:
    """In capitals, OpenSSL 3 finds it all the same. It stays in the context in which a handshake has read it."""
    name = f"{grid.system.hash}.0"
    hashed = grid.system_folder / (name.upper() if capitals else name)
    hashed.write_bytes(grid.system.pem)
    grid.system_file.write_bytes(grid.authority.pem)
    grid.serve_with(grid.system)
    trusted = grid.warm()
    assert trusted == grid.in_stock()
    assert capitals or trusted == "alice TLSv1.3"
    other = Authority("system", grid.keys[1])  # the same name with another key
    rewrite_with_the_same_times(hashed, other.pem)
    rewritten = grid.ask()
    assert "CERTIFICATE_VERIFY_FAILED" in rewritten and rewritten == grid.in_stock()


def test_revocation_lists(grid: Grid) -> None:
    """OpenSSL keeps those that it has read, whose states are not in the key."""
    before = made()
    for _ in range(3):
        context = new_context()
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
        with pytest.raises(ssl.SSLCertVerificationError, match="CRL"):
            _seen(grid, context)
        time.sleep(0.06)
    assert made() == before


def test_settings_belong_to_their_sessions(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    grid.warm()
    for variable, value in (
        ("DIRAC_HTTPS_SSL_METHOD_MAX", "TLSv1_2"),
        ("DIRAC_HTTPS_SSL_METHOD_MIN", "TLSv1_3"),
        ("DIRAC_HTTPS_SSL_CIPHERS", "ECDHE-RSA-AES128-GCM-SHA256"),
        ("DIRAC_HTTPS_SSL_CIPHERS", "no such cipher"),
        ("DIRAC_HTTPS_SSL_METHOD_MIN", "no such version"),
    ):
        with monkeypatch.context() as patched:
            patched.setenv(variable, value)
            for _ in range(3):
                assert grid.ask() == grid.in_stock()
                time.sleep(0.06)
        assert grid.ask() == "alice TLSv1.3"
    monkeypatch.setenv("DIRAC_HTTPS_SSL_METHOD_MAX", "TLSv1_2")
    assert grid.warm() == "alice TLSv1.2"


def test_whether_the_server_is_verified(grid: Grid) -> None:
    """A client that does not look lets no other one get away with it."""
    grid.warm()
    grid.serve_with(Authority("nobody", grid.keys[1]))
    assert grid.warm(skipCACheck=True) == "alice TLSv1.3" == grid.in_stock(skipCACheck=True)
    assert "CERTIFICATE_VERIFY_FAILED" in grid.ask()
    grid.serve_with(grid.authority)
    before = grid.ask()
    url = f"https://127.0.0.1:{grid.server.server_port}/Framework/Test"
    other_name = TornadoClient(url, useCertificates=False, skipCACheck=False)
    refused = grid.ask(other_name)
    with stock("https_client"):
        assert refused == grid.ask(TornadoClient(url, useCertificates=False, skipCACheck=False)) != before


def test_a_file_system_that_is_not_local(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept, and a session makes one context however many connections it makes."""
    monkeypatch.setattr(_files, "_local", {})
    monkeypatch.setattr(_files, "is_local", lambda path, device: False)
    before = made()
    client = grid.client()
    for content, name in ((grid.alice, "alice"), (grid.bob, "bob")):
        rewrite(grid.proxy, content)
        for _ in range(3):
            assert grid.ask(client) == grid.ask() == f"{name} TLSv1.3"
            time.sleep(0.06)
    assert made() == before
    context = client._TornadoBaseClient__session.get_adapter("https://x").ssl_context
    own = context._own[1]
    grid.ask(client)
    assert context._own[1] is own


def test_a_key_with_a_password(grid: Grid) -> None:
    encrypted = grid.keys[1].as_pem(callback=lambda *_: b"secret")
    path = str(grid.write("encrypted", parts(grid.alice)[0] + encrypted))
    for password in ("secret", lambda: b"secret"):
        for _ in range(3):
            context = new_context()
            context.load_cert_chain(path, password=password)
            assert _seen(grid, context) == "alice"
            time.sleep(0.06)
    context = new_context()
    context.load_cert_chain(path, password="wrong")
    with pytest.raises(ssl.SSLError):
        _seen(grid, context)


def _seen(grid: Grid, context: Any) -> str:
    """The name that the server saw."""
    context.load_verify_locations(None, str(grid.cas))
    plain = socket.create_connection(("127.0.0.1", grid.server.server_port))
    with context.wrap_socket(plain, server_hostname="localhost") as connection:
        connection.sendall(b"POST / HTTP/1.0\r\nContent-Length: 0\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(10_000), b""))
    return answer.partition(b'"Value": "')[2].partition(b" ")[0].decode()


def test_what_else_is_done_to_a_context_counts_for_it_alone(grid: Grid) -> None:
    plain, told = ssl.create_default_context(), new_context()
    assert told.get_ca_certs() == plain.get_ca_certs() and told.cert_store_stats() == plain.cert_store_stats()
    messages: list[Any] = []
    told._msg_callback = lambda *args: messages.append(args)
    assert _seen(grid, told) == "" and messages
    del messages[:]
    assert _seen(grid, new_context()) == "" and not messages
    by_data = new_context()
    by_data.load_verify_locations(cadata=grid.authority.pem.decode())
    assert _seen(grid, by_data) == "" and loading.plugin.switches["https_client"].guard.failures == 0
    told.load_verify_locations(cadata=grid.authority.pem.decode())
    assert told.cert_store_stats()["x509_ca"] == 2 and new_context().cert_store_stats()["x509_ca"] == 1
    with pytest.raises(FileNotFoundError):
        told.load_verify_locations("/no/such/file")
    with pytest.raises(TypeError):
        told.load_verify_locations()
    with pytest.raises(TypeError):
        told.load_cert_chain(None)


def test_a_bundle_of_cas(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    """requests takes it from the environment, and then ignores the folder of DIRAC."""
    bundle = grid.write("bundle", grid.authority.pem)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    assert grid.warm() == "alice TLSv1.3"
    for content in (grid.system.pem, b"rubbish", b""):
        rewrite(bundle, content)
        for _ in range(3):
            assert grid.ask() == grid.in_stock() != "alice TLSv1.3"
            time.sleep(0.06)


def test_copies_and_pickles_are_those_of_stock(grid: Grid) -> None:
    def outcomes() -> list[str]:
        found = []
        for thing in (new_session(), new_context(), grid.client()):
            for use in (pickle.dumps, copy.copy, *([] if isinstance(thing, TornadoClient) else [copy.deepcopy])):
                try:
                    found.append(type(use(thing)).__name__)
                except Exception as error:
                    found.append(repr(error))
        return found

    ours = outcomes()
    with stock("https_client"):
        assert outcomes() == ours


def test_stock_makes_what_others_want_made_otherwise(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def __init__(self, protocol: Any) -> None:
            self.verify_mode = self.verify_flags = 0
            self.load_default_certs = self.set_ciphers = print

    assert type(new_context()) is https_client.SSLContext
    with monkeypatch.context() as patched:
        patched.setattr(ssl, "SSLContext", Other)
        assert type(new_context()) is Other
    with monkeypatch.context() as patched:
        patched.setattr(ssl, "create_default_context", partial(Other, None))
        assert type(new_context()) is Other
    monkeypatch.setenv("SSLKEYLOGFILE", str(grid.folder / "keys"))
    assert type(new_context()) is ssl.SSLContext
    assert grid.ask() == "alice TLSv1.3"


def test_contexts_are_forgotten(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an hour without use, at the next garbage collection, and when the patch is taken off."""
    contexts = _contexts()
    for forget in (_an_hour_passes, lambda contexts, patched: contexts.kept.clear()):
        grid.warm()
        kept = [weakref.ref(entry.made) for entry in contexts.kept._entries.values() if entry.made]
        assert kept
        with monkeypatch.context() as patched:
            forget(contexts, patched)
        assert not [reference for reference in kept if reference() is not None]


def kept_contexts() -> dict[Any, float]:
    """When each kept context was last used, by its key."""
    return {key: entry.used for key, entry in list(_contexts().kept._entries.items()) if entry.made is not None}


def _contexts() -> Any:
    return new_context()._contexts


def _an_hour_passes(contexts: Any, patched: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    patched.setattr(time, "monotonic", lambda: now + 3700)
    gc.collect()
    contexts.kept.next_sweep = 0.0


def test_at_most_sixteen_are_kept(grid: Grid) -> None:
    paths = [str(grid.write(f"proxy{number}", grid.alice)) for number in range(20)]
    for path in paths:
        assert '"alice TLS' in grid.post(new_session(), path)
    assert len(_contexts().kept._entries) <= 16


def test_taking_it_off(grid: Grid) -> None:
    grid.warm()
    client = grid.client()
    hook = _contexts().kept._collected
    assert hook in gc.callbacks
    with stock("https_client"):
        assert module.ssl is ssl
        assert type(new_context()) is ssl.SSLContext
        assert hook not in gc.callbacks
        before = made()
        assert grid.ask(client) == "alice TLSv1.3"
        rewrite(grid.proxy, grid.bob)
        assert grid.ask(client) == "bob TLSv1.3"
        assert made() == before
    assert module.ssl is not ssl


def test_a_child_makes_its_own_context(grid: Grid) -> None:
    """A lock in the kept one may have been held by another thread during the fork."""
    grid.warm()
    client = grid.client()
    grid.ask(client)
    before = made()
    assert in_a_child(lambda: [grid.ask(client), made() - before]) == ["alice TLSv1.3", 1]
    assert (grid.ask(client), made()) == ("alice TLSv1.3", before)


def test_a_child_does_not_free_the_contexts_of_its_parent(grid: Grid) -> None:
    grid.warm()
    contexts = weakref.WeakSet(entry.made for entry in _contexts().kept._entries.values() if entry.made)

    def forgotten() -> int:
        before = len(contexts)
        _contexts().kept.clear()
        gc.collect()
        return before - len(contexts)

    assert in_a_child(forgotten) == 0
    assert forgotten() > 0


@pytest.mark.parametrize("broken", ["_look_at_defaults", "_make"])
def test_failures_of_ours_are_answered_by_stock(
    broken: str, grid: Grid, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any) -> Any:
        raise ZeroDivisionError

    grid.warm()  # a context is made once the folders of CAs have been seen for a while
    monkeypatch.setattr(https_client._Contexts, broken, fail)
    monkeypatch.setattr(_contexts(), "kept", _files.Kept(16))
    guard = loading.plugin.switches["https_client"].guard
    for number in range(4):
        assert grid.ask() == "alice TLSv1.3"
        assert guard.failures == min(number + 1, 3)
    assert loading.plugin.switches["https_client"].status()["state"] == "tripped"
    assert module.ssl is ssl
