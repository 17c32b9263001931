"""The slow proxy of lab: everything takes its delay, and nothing is lost."""

from __future__ import annotations

import socket
import threading
import time

from lab.proxy import Proxy

DELAY = 0.02


def test_a_slow_proxy_delivers_everything_in_order_and_late() -> None:
    sent = bytes(range(256)) * 1000
    received = bytearray()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(65536):
                received.extend(data)
                connection.sendall(data[-1:])

    with socket.create_server(("127.0.0.1", 0)) as listener, Proxy(listener.getsockname(), DELAY) as proxy:
        thread = threading.Thread(target=serve)
        thread.start()
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            for _ in range(3):
                start = time.monotonic()
                client.sendall(b"x")
                assert client.recv(1) == b"x"
                assert time.monotonic() - start >= 2 * DELAY
            client.sendall(sent)
            while bytes(received) != b"xxx" + sent:
                assert client.recv(65536)
        thread.join(10)
        assert not thread.is_alive()
    assert bytes(received) == b"xxx" + sent
