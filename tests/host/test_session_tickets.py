"""A service makes no session tickets while the patch is on; everything else in its TLS is as in stock."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import run, stock
from DIRAC.Core.DISET.private.Transports import M2SSLTransport
from test_socket_nodelay import connection, listening, messages_pass

from dirac_perfpatch import loading
from dirac_perfpatch.patches import session_tickets
from dirac_perfpatch.patching import UnknownHost

NAME = "session_tickets"
SSLTransport = M2SSLTransport.SSLTransport
CERTIFICATES = os.path.join(os.path.dirname(sys.modules["DIRAC"].__file__ or ""), "Core", "Security", "test", "certs")


def failures() -> int:
    return int(loading.plugin.switches[NAME].guard.failures)


def connect(*arguments: Any, **options: Any) -> dict[str, Any]:
    """What a client, which is not DIRAC's, gets from a connection.

    In a thread of its own: OpenSSL keeps errors by thread, and M2Crypto would find those that Python leaves.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_connect, *arguments, **options).result()


def _connect(server: Any, port: int, session: Any = None, most: Any = ssl.TLSVersion.TLSv1_3) -> dict[str, Any]:
    served: list[Any] = []
    received = b""

    def serve() -> None:
        transport = server.acceptConnection()["Value"]
        try:
            served.append(transport.handshake()["OK"])
        except TypeError as error:
            served.append(str(error))
            # Not closed: OpenSSL writes to its descriptor when it is freed, and by then that is another connection's.
            transport.oSocket.socket.shutdown(socket.SHUT_RDWR)
            return
        served.append(transport.sendData("a message")["OK"])
        served.append(transport.peerCredentials["DN"])
        served.append(transport.receiveData())
        transport.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    CONTEXT.maximum_version = most
    with CONTEXT.wrap_socket(socket.create_connection(("localhost", port), 10), session=session) as client:
        with contextlib.suppress(OSError):
            received = client.recv(100)
            client.sendall(b"4:de3;")
        thread.join(10)
        found = client.session
        version, resumed = client.version(), client.session_reused
    return {"received": received, "served": served, "session": found, "version": version, "resumed": resumed}


CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
CONTEXT.check_hostname, CONTEXT.verify_mode = False, ssl.CERT_NONE
CONTEXT.load_cert_chain(*(os.path.join(CERTIFICATES, "host", name) for name in ("hostcert.pem", "hostkey.pem")))


def without_session(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name != "session"}


def test_no_ticket_is_made_for_connections_that_are_accepted_while_the_patch_is_on() -> None:
    with listening() as (server, port):
        patched = connect(server, port)
        with stock(NAME):
            unpatched = connect(server, port)
        again = connect(server, port)
    assert unpatched["session"].has_ticket
    assert not patched["session"].has_ticket
    assert not again["session"].has_ticket
    assert without_session(patched) == without_session(unpatched)
    assert patched["version"] == "TLSv1.3"
    assert patched["served"][0]
    assert failures() == 0


def test_a_session_of_tls_1_2_is_as_in_stock() -> None:
    with listening() as (server, port):
        patched = connect(server, port, most=ssl.TLSVersion.TLSv1_2)
        with stock(NAME):
            unpatched = connect(server, port, most=ssl.TLSVersion.TLSv1_2)
    assert without_session(patched) == without_session(unpatched)
    assert patched["version"] == "TLSv1.2"
    assert patched["session"].has_ticket == unpatched["session"].has_ticket


def test_a_client_that_comes_with_a_ticket_of_stock_fails_as_in_stock() -> None:
    """A service learns no chain of certificates from a session that is resumed."""
    with listening() as (server, port):
        with stock(NAME):
            ticket = connect(server, port)["session"]
            unpatched = connect(server, port, ticket)
            ticket = connect(server, port)["session"]
        patched = connect(server, port, ticket)
    assert without_session(patched) == without_session(unpatched)
    assert patched["resumed"]
    assert patched["served"] == ["'NoneType' object is not iterable"]


def test_clients_of_the_host_notice_nothing() -> None:
    def learned() -> Any:
        with connection() as ends:
            assert messages_pass(*ends)
            return ends[1].peerCredentials["DN"]

    patched = learned()
    with stock(NAME):
        assert learned() == patched


def test_our_failure_is_counted_and_the_handshake_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """An SSL object without an address, which OpenSSL must never be given."""
    found = []

    class Transport:
        class oSocket:  # noqa: N801
            ssl = "none"

            @staticmethod
            def setup_ssl() -> None:
                found.append("the host's")
                raise OSError("no")

    assert not SSLTransport.handshake_multipleSteps(Transport())["OK"]
    assert found == ["the host's"]
    assert failures() == 1


def test_an_openssl_without_the_function_is_not_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_tickets, "_FUNCTION", "SSL_no_such_function")
    with pytest.raises(UnknownHost, match="has no SSL_no_such_function"):
        session_tickets._openssl_function()
    monkeypatch.delitem(sys.modules, session_tickets._EXTENSION)
    with pytest.raises(UnknownHost):
        session_tickets._openssl_function()


def test_a_handshake_inside_the_accept_stands_down() -> None:
    """As the host is set up, nothing calls what the patch would change; that is no failure."""
    answer = run(
        "from DIRAC.Core.Utilities.Extensions import extensionsByPriority\n"
        "extensionsByPriority()\n"
        "import json, dirac_perfpatch, DIRAC.Core.DISET.private.Transports.M2SSLTransport\n"
        f"print(json.dumps([e for e in dirac_perfpatch.status() if e['name'] == '{NAME}']))",
        DIRAC_M2CRYPTO_SPLIT_HANDSHAKE="no",
    )
    [entry] = json.loads(answer.stdout.splitlines()[-1])
    assert (entry["state"], entry["reason"].partition(":")[0]) == ("stood down", "DIRAC_M2CRYPTO_SPLIT_HANDSHAKE=no")
    assert NAME not in answer.stderr
