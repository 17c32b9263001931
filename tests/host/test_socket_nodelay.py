"""DISET connections have TCP_NODELAY at both ends while the patch is on, and are as in stock otherwise."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import stock
from DIRAC.Core.DISET.private.Transports.M2SSLTransport import SSLTransport
from DIRAC.Core.DISET.private.Transports.PlainTransport import PlainTransport

from dirac_perfpatch import loading
from dirac_perfpatch.comparison.arms import Comparison
from dirac_perfpatch.patches.socket_nodelay import with_tls
from dirac_perfpatch.toggles import Toggle

NAME = "socket_nodelay"
both = pytest.mark.parametrize("transport", [PlainTransport, SSLTransport])
RESET_AT_CLOSE = struct.pack("ii", 1, 0)


def options_of(transport: Any) -> dict[str, Any]:
    return with_tls() if transport is SSLTransport else {}


@contextmanager
def listening(transport: Any) -> Iterator[tuple[Any, int]]:
    """A server's transport and its port."""
    server = transport(("::ffff:127.0.0.1", 0), bServerMode=True, **options_of(transport))
    assert server.initAsServer()["OK"]
    try:
        yield server, server.oSocket.getsockname()[1]
    finally:
        plain(server).close()


@contextmanager
def connection(transport: Any, accept: str = "acceptConnection") -> Iterator[tuple[Any, Any]]:
    """The transports at both ends of a connection, after the handshake: the client's and the server's."""
    answers: list[Any] = []

    def serve() -> None:
        answers.append(getattr(server, accept)())
        if answers[0]["OK"] and accept == "acceptConnection":
            answers.append(answers[0]["Value"].handshake())

    with listening(transport) as (server, port):
        if accept == "acceptConnection_singleStep":
            # M2Crypto 0.50 and later expect an attribute that only a connected socket has.
            server.oSocket.addr = ("localhost", port)
        thread = threading.Thread(target=serve)
        thread.start()
        client = transport(("localhost", port), timeout=10, **options_of(transport))
        connected = client.initAsClient()
        thread.join(10)
        assert connected["OK"], connected
        assert answers and all(answer["OK"] for answer in answers), answers
        yield client, answers[0]["Value"]
        client.close()


def plain(transport: Any) -> socket.socket:
    """Its socket: M2Crypto's getsockopt() fails without a length."""
    found = transport.oSocket
    return found if isinstance(found, socket.socket) else found.socket


def nodelay(*transports: Any) -> list[int]:
    return [plain(transport).getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for transport in transports]


def failures() -> int:
    return int(loading.plugin.switches[NAME].guard.failures)


def messages_pass(client: Any, server: Any) -> bool:
    for sender, receiver in ((client, server), (server, client)):
        assert sender.sendData(["a message"])["OK"]
        if receiver.receiveData() != ["a message"]:
            return False
    return True


@both
def test_both_ends_have_the_option(transport: Any) -> None:
    with connection(transport) as ends:
        assert nodelay(*ends) == [1, 1]
        assert messages_pass(*ends)
    assert failures() == 0


@both
def test_connections_made_in_stock_do_not_have_it_and_open_ones_keep_it(transport: Any) -> None:
    with connection(transport) as patched:
        with stock(NAME), connection(transport) as unpatched:
            assert nodelay(*unpatched, *patched) == [0, 0, 1, 1]
        with connection(transport) as patched_again:
            assert nodelay(*patched_again) == [1, 1]


@both
def test_a_server_that_is_listening_already_is_patched_and_leaves_nothing_behind(transport: Any) -> None:
    """The option is on each accepted connection, not on the listening socket, from which it would be inherited."""

    def accepted() -> Any:
        with socket.create_connection(("localhost", port)):
            return server.acceptConnection()["Value"]

    with stock(NAME):
        opened = listening(transport)
        server, port = opened.__enter__()
    assert nodelay(accepted(), server) == [1, 0]
    with stock(NAME):
        assert nodelay(accepted(), server) == [0, 0]
    opened.__exit__(None, None, None)


@both
@pytest.mark.parametrize("error", [OSError(9, "closed"), RuntimeError("ours")])
def test_a_connection_that_refuses_the_option_works(
    transport: Any, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(socket.socket):
        def setsockopt(self, level: int, *rest: Any) -> None:
            if level == socket.IPPROTO_TCP:
                raise error
            super().setsockopt(level, *rest)

    monkeypatch.setattr(socket, "socket", Refusing)
    with connection(transport) as ends:
        assert nodelay(*ends) == [0, 0]
        assert messages_pass(*ends)
    assert failures() == (2 if isinstance(error, RuntimeError) else 0)


def test_a_socket_of_another_kind(tmp_path: Path) -> None:
    """A Unix socket has no such option."""
    server = PlainTransport(("nowhere", 0), bServerMode=True)
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server.oSocket, socket.socket(socket.AF_UNIX) as client:
        server.oSocket.bind(path)
        server.oSocket.listen()
        client.connect(path)
        accepted = server.acceptConnection()
        assert accepted["OK"]
        client.sendall(b"2:de")
        assert accepted["Value"]._read() == {"OK": True, "Value": b"2:de"}
        accepted["Value"].close()
    assert failures() == 0


def outcome(function: Any) -> Any:
    """What a call answers, or the error that it raises."""
    try:
        answer = function()
    except Exception as error:
        return type(error), str(error)
    return answer["OK"], answer.get("Message")


@both
def test_failures_are_those_of_stock(transport: Any) -> None:
    """Nobody listens, a closed listening socket, a client in server mode, and a client that has gone already."""

    def failing() -> list[Any]:
        with listening(transport) as (server, port):
            found = [outcome(server.initAsClient) if transport is SSLTransport else None]
            with socket.create_connection(("localhost", port)) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
            found.append(outcome(server.acceptConnection))
        found.append(outcome(server.acceptConnection))
        closed = transport(("localhost", port), timeout=1, **options_of(transport))
        found.append(str(outcome(closed.initAsClient)).replace(str(port), "PORT"))
        return found

    patched = failing()
    with stock(NAME):
        assert failing() == patched
    assert failures() == 0
    assert patched[-1].startswith("(False, ")


def test_the_accept_that_includes_the_handshake_is_patched() -> None:
    """It is used with DIRAC_M2CRYPTO_SPLIT_HANDSHAKE=no."""

    def accepted() -> Any:
        with connection(SSLTransport, "acceptConnection_singleStep") as (_, server):
            return nodelay(server)

    assert accepted() == [1]
    with stock(NAME):
        assert accepted() == [0]
    assert failures() == 0


def test_by_call_each_connection_is_patched_or_stock() -> None:
    switch = loading.plugin.switches[NAME]
    with stock(NAME):
        comparison = Comparison(switch.patch, switch.guard, Toggle("ab", {}, "call", 0.5, 60), 0, True)
        switch.put_on(comparison)
        found: list[int] = []
        for _ in range(40):
            with connection(PlainTransport) as ends:
                found += nodelay(*ends)
        switch.take_off()
    assert set(found) == {0, 1}
    assert failures() == 0
