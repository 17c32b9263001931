"""A TCP proxy between a client and a server that can be slow, and can fail the way networks do: silently."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable

from . import processes

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)
_TCP_REPAIR = 19  # linux/tcp.h: a socket in repair mode closes without a packet to its peer; needs CAP_NET_ADMIN
_CHUNK = 65536


def can_vanish() -> bool:
    """Whether forget() also makes our kernel forget connections, so that the client's keepalive probes notice."""
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
        except OSError:
            return False
        return True


class Proxy:
    """Forwards its own loopback port to a server's. A context manager that ends it and closes its connections.

    target: (host, port) of the server; delay: seconds that everything takes in each direction. A slow proxy does not
    stall and forgets nothing.
    """

    def __init__(self, target: tuple[str, int], delay: float = 0.0) -> None:
        self.port = processes.free_port()
        self._target = target
        self._delay = delay
        # What is on its way: when it arrives, where, and what; nothing for the end of the connection.
        self._travelling: deque[tuple[float, socket.socket, bytes]] = deque()
        # Python's epoll waits whole milliseconds.
        self._selector = selectors.SelectSelector() if delay else selectors.DefaultSelector()
        self._partners: dict[socket.socket, socket.socket] = {}
        self._clients: set[socket.socket] = set()
        self._forgotten: set[socket.socket] = set()
        self._stalled = self._ended = False
        self._orders: list[Callable[[], None]] = []
        self._wake_read, self._wake_write = os.pipe()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stall(self) -> None:
        """Stop forwarding, in both directions, and accept no connections; nothing is closed."""
        self._order(lambda: self._pause(True))

    def go_on(self) -> None:
        """Forward again, beginning with what has been waiting since stall()."""
        self._order(lambda: self._pause(False))

    def forget(self) -> None:
        """Lose every connection, like a firewall that drops idle ones or a host that has rebooted.

        The client is not told; whatever it sends then, or has sent since stall(), is answered with a reset.
        """
        self._order(self._forget)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._order(self._end)
        self._thread.join()

    def _order(self, order: Callable[[], None]) -> None:
        """Make the proxy's own thread do it, and wait: only that thread uses sockets and selector."""
        done = threading.Event()

        def obey() -> None:
            order()
            done.set()

        self._orders.append(obey)
        os.write(self._wake_write, b"x")
        done.wait(10)

    def _run(self) -> None:
        while not self._ended:
            for key, _ in self._selector.select(self._arrive()):
                if key.fileobj == self._wake_read:
                    os.read(self._wake_read, 1)
                    self._orders.pop(0)()
                elif key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket):
                    self._readable(key.fileobj)
        for connection in self._clients | self._partners.keys():
            connection.close()
        self._listener.close()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _arrive(self) -> float | None:
        """Deliver what has arrived. Returns: the seconds until something else arrives; None if nothing travels."""
        while self._travelling:
            when, connection, data = self._travelling[0]
            if (wait := when - time.monotonic()) > 0:
                return wait
            self._travelling.popleft()
            if connection not in self._partners:
                continue
            try:
                if data:
                    connection.sendall(data)
                    continue
            except OSError:  # it has gone, which nothing else will tell its partner
                self._drop(self._partners[connection])
            self._drop(connection)
        return None

    def _end(self) -> None:
        self._ended = True

    def _pause(self, stalled: bool) -> None:
        if stalled == self._stalled:
            return
        self._stalled = stalled
        for connection in [self._listener, *self._partners]:
            if stalled:
                self._selector.unregister(connection)
            else:
                self._selector.register(connection, selectors.EVENT_READ)

    def _forget(self) -> None:
        for client in list(self._clients - self._forgotten):
            server = self._partners[client]
            active = False
            # An answer on its way still arrives: a client with nothing more to send would wait for it for ever.
            with contextlib.suppress(OSError):
                client.sendall(server.recv(_CHUNK, socket.MSG_DONTWAIT))
                active = True
            self._drop(server)
            # Vanishing could discard what has not yet left for the client, or what the client is just sending.
            if active or not self._vanish(client):
                self._forgotten.add(client)  # reset as soon as it sends something

    def _vanish(self, client: socket.socket) -> bool:
        """Close silently, so that the kernel resets what arrives later, including the client's keepalive probes.

        Returns: False if that is not possible: it is not permitted, or the client has sent something that is unread.
        """
        with contextlib.suppress(OSError):
            client.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
            return False
        try:
            client.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
        except OSError:
            return False
        self._drop(client)
        return True

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                client.close()
                return
            server.settimeout(None)
            self._clients.add(client)
            for one, other in ((client, server), (server, client)):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._partners[one] = other
                self._selector.register(one, selectors.EVENT_READ)

    def _readable(self, connection: socket.socket) -> None:
        if connection not in self._partners:
            return  # closed while handling an earlier event
        if connection in self._forgotten:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            self._drop(connection)
            return
        partner = self._partners[connection]
        try:
            data = connection.recv(_CHUNK)
            if self._delay:
                self._travelling.append((time.monotonic() + self._delay, partner, data))
            elif data:
                partner.sendall(data)
            else:
                self._drop(partner)
            if data:
                return
        except OSError:
            self._drop(partner)
        self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        self._partners.pop(connection, None)
        self._clients.discard(connection)
        self._forgotten.discard(connection)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection)
        connection.close()
