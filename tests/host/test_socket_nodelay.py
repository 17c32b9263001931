"""DISET connections have TCP_NODELAY at both ends while the patch is on, and are as in stock otherwise."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
RESET_AT_CLOSE = struct.pack("ii", 1, 0)


@contextmanager
def listening() -> Iterator[tuple[Any, int]]:
    """A server's transport and its port."""
    server = SSLTransport(("::ffff:127.0.0.1", 0), bServerMode=True, **with_tls())
    assert server.initAsServer()["OK"]
    try:
        yield server, server.oSocket.getsockname()[1]
    finally:
        plain(server).close()


@contextmanager
def connection(accept: str = "acceptConnection") -> Iterator[tuple[Any, Any]]:
    """The transports at both ends of a connection, after the handshake: the client's and the server's."""
    answers: list[Any] = []

    def serve() -> None:
        answers.append(getattr(server, accept)())
        if answers[0]["OK"] and accept == "acceptConnection":
            answers.append(answers[0]["Value"].handshake())

    with listening() as (server, port):
        if accept == "acceptConnection_singleStep":
            # M2Crypto 0.50 and later expect an attribute that only a connected socket has.
            server.oSocket.addr = ("localhost", port)
        thread = threading.Thread(target=serve)
        thread.start()
        client = SSLTransport(("localhost", port), timeout=10, **with_tls())
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


def test_both_ends_have_the_option() -> None:
    with connection() as ends:
        assert nodelay(*ends) == [1, 1]
        assert messages_pass(*ends)
    assert failures() == 0


def test_connections_made_in_stock_do_not_have_it_and_open_ones_keep_it() -> None:
    with connection() as patched:
        with stock(NAME), connection() as unpatched:
            assert nodelay(*unpatched, *patched) == [0, 0, 1, 1]
        with connection() as patched_again:
            assert nodelay(*patched_again) == [1, 1]


def test_a_server_that_is_listening_already_is_patched_and_leaves_nothing_behind() -> None:
    """The option is on each accepted connection, not on the listening socket, from which it would be inherited."""

    def accepted() -> Any:
        with socket.create_connection(("localhost", port)):
            return server.acceptConnection()["Value"]

    with stock(NAME):
        opened = listening()
        server, port = opened.__enter__()
    assert nodelay(accepted(), server) == [1, 0]
    with stock(NAME):
        assert nodelay(accepted(), server) == [0, 0]
    opened.__exit__(None, None, None)


@pytest.mark.parametrize("error", [OSError(9, "closed"), RuntimeError("ours")])
def test_a_connection_that_refuses_the_option_works(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(socket.socket):
        def setsockopt(self, level: int, *rest: Any) -> None:
            if level == socket.IPPROTO_TCP:
                raise error
            super().setsockopt(level, *rest)

    monkeypatch.setattr(socket, "socket", Refusing)
    with connection() as ends:
        assert nodelay(*ends) == [0, 0]
        assert messages_pass(*ends)
    assert failures() == (2 if isinstance(error, RuntimeError) else 0)


@pytest.mark.parametrize("transport", [PlainTransport, SSLTransport])
def test_a_message_right_after_an_answer_is_not_read_with_it(transport: Any) -> None:
    """As a mind sends the first task of an executor. Who waits for it looks at the socket alone."""
    options = with_tls() if transport is SSLTransport else {}

    def serve() -> None:
        connection = server.acceptConnection()["Value"]
        connection.handshake()
        for answer in ("accepted", "connected", "a task"):
            if answer != "a task":
                connection.receiveData()
            connection.sendData(answer)
        seen.wait(10)
        connection.close()

    seen = threading.Event()
    server = transport(("::ffff:127.0.0.1", 0), bServerMode=True, **options)
    assert server.initAsServer()["OK"]
    thread = threading.Thread(target=serve)
    thread.start()
    client = transport(("localhost", server.oSocket.getsockname()[1]), timeout=10, **options)
    assert client.initAsClient()["OK"]
    client.sendData("a proposal")
    assert client.receiveData() == "accepted"
    client.sendData("the arguments")
    time.sleep(0.01)  # it is busy
    assert client.receiveData() == "connected"
    assert select.select([plain(client)], [], [], 5)[0]
    assert client.receiveData() == "a task"
    seen.set()
    thread.join(10)
    client.close()
    plain(server).close()


def outcome(function: Any) -> Any:
    """What a call answers, or the error that it raises."""
    try:
        answer = function()
    except Exception as error:
        return type(error), str(error)
    return answer["OK"], answer.get("Message")


def test_failures_are_those_of_stock() -> None:
    """Nobody listens, a closed listening socket, a client in server mode, and a client that has gone already."""

    def failing() -> list[Any]:
        with listening() as (server, port):
            found = [outcome(server.initAsClient)]
            with socket.create_connection(("localhost", port)) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
            found.append(outcome(server.acceptConnection))
        found.append(outcome(server.acceptConnection))
        closed = SSLTransport(("localhost", port), timeout=1, **with_tls())
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
        with connection("acceptConnection_singleStep") as (_, server):
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
            with connection() as ends:
                found += nodelay(*ends)
        switch.take_off()
    assert set(found) == {0, 1}
    assert failures() == 0
