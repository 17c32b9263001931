"""DISET sockets: TCP_NODELAY is set on each connection by TLS, at both ends.

DISET leaves Nagle's algorithm on: the kernel holds a small segment back while an earlier one is not acknowledged, and
the other end delays its acknowledgement by up to 40 ms if it has nothing to send. A request begins with a TLS
handshake, after which an OpenSSL server sends session tickets (TLS 1.3), and with a proposal, which the server accepts
before it gets the arguments. The tickets need no answer, so the acceptance waits for the client's delayed
acknowledgement of them: 40 ms in nearly every request, because DISET opens a connection per request. Without the
wait such an exchange takes 29 ms instead of 69 (keys of 4096 bits). With TCP_NODELAY (tcp(7)) the kernel sends each
segment at once. A client writes once and then reads, so nearly all of the gain is the server's; the client has the
option for uploads, which it sends in several writes.

The same answer: the option changes when bytes are sent, never which. DISET writes a whole message at a time, so it does
not lead to many small segments. If the option cannot be set, because the peer has gone or the socket is not a TCP
socket, the connection stays as the host made it; if something is wrong with it, the host finds out as in stock.

Not the transport without TLS: it reads all that has arrived, and looks at the rest only when more arrives. There a
message sent right after an answer, such as an executor's first task, would wait for ever if both arrive together, which
Nagle's algorithm prevents. A read by TLS ends with the record, which is a message or a part of one.

Where: a server's connection when it is accepted, a client's when it is connected. In both, that is the end of the
host's own function. With a split handshake, the host's default, a server's connection has the option before the
handshake. With DIRAC_M2CRYPTO_SPLIT_HANDSHAKE=no the handshake happens inside the accept, as it does inside a client's
connect: then the option is in force from the first message on, which is where the wait was, and setting it sends what
is held back. The listening socket is left alone, because its connections would inherit the option, also after the patch
is taken off.

Nothing is kept, so threads, forks and signals need no thought. A connection that is open when the patch is applied or
taken off stays as it is until it is closed.

What a comparison does not see: it records the accept and the connect, which take as long in both arms. What the patch
saves is in the requests that follow. By call, each connection is in one arm; the two ends are in different processes,
with arms of their own, so a request is only in stock if both ends are.

The seam is the code of the functions: SSLTransport has the accept under two names.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

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
)

_TLS = "DIRAC.Core.DISET.private.Transports.M2SSLTransport"
# Of the server of a question: loopback also for the IPv6 socket that the host prefers, where no name has an IPv6
# address.
_LOOPBACK = "::ffff:127.0.0.1"
_ANSWER_SECONDS = 10.0


def _target(module: str, path: str, names: tuple[str, ...], find: Callable[[Any, Any], Any]) -> Target:
    """The target for one function of a transport, which has a connection when it returns.

    Args:
        module: The transport's.
        path: Of the function.
        names: That its code uses.
        find: Given the transport and the function's answer, returns the connection's transport.
    """
    owner = path.partition(".")[0]

    def look(fitting: Fitting) -> None:
        for name in (path, f"{owner}.initAsServer"):
            if "TCP_NODELAY" in fitting.names_in(name):
                raise InTree("the host sets the option itself")
        fitting.expect(path, *names)

    def put_on(fitting: Fitting) -> None:
        guard = fitting.guard

        def make(stock: Callable[..., Any]) -> Callable[..., Any]:
            def connected(transport: Any) -> Any:
                answer = stock(transport)
                if guard.off:
                    return answer
                try:
                    if answer["OK"]:
                        find(transport, answer).oSocket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                except OSError:
                    guard.note("connections without the option")
                except Exception as error:
                    guard.failed(error)
                return answer

            return connected

        fitting.take_over(path, make)

    return Target((module,), path, look, put_on)


def _accepted(transport: Any, answer: Any) -> Any:
    return answer["Value"]


def _connected(transport: Any, answer: Any) -> Any:
    return transport


@contextmanager
def server(options: dict[str, Any]) -> Iterator[int]:
    """A server of the host's that sends back what it receives, two messages per connection. Yields its port.

    Args:
        options: Of its transport.
    """
    from DIRAC.Core.DISET.private.Transports.M2SSLTransport import SSLTransport

    server = SSLTransport((_LOOPBACK, 0), bServerMode=True, **options)
    try:
        server.initAsServer()
    except OSError as error:
        raise NotAsked(f"no server can listen on loopback here: {error}") from None
    ending = False

    def serve() -> None:
        while not ending:
            with suppress(Exception):  # a connection that fails is its client's to report
                connection = server.acceptConnection()["Value"]
                if connection.handshake()["OK"]:
                    for _ in range(2):
                        connection.sendData(connection.receiveData())
                connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    port = server.oSocket.getsockname()[1]
    try:
        yield port
    finally:
        ending = True
        with suppress(OSError):
            socket.create_connection(("localhost", port), _ANSWER_SECONDS).close()
        thread.join(_ANSWER_SECONDS)
        with suppress(Exception):  # a listening socket is not connected, which the host's shutdown minds
            server.close()


def exchange(port: int, options: dict[str, Any]) -> list[bool]:
    """Connect and send two messages in turn, as every request does. Returns whether each step worked.

    Not the errors: the host's text depends on when the other end closes.
    """
    from DIRAC.Core.DISET.private.Transports.M2SSLTransport import SSLTransport

    client = SSLTransport(("localhost", port), timeout=_ANSWER_SECONDS, **options)
    worked = [client.initAsClient()["OK"]]
    if worked[0]:
        for message in ("a proposal", "the arguments"):
            client.sendData(message)
            worked.append(client.receiveData() == message)
        client.close()
    return worked


def with_tls() -> dict[str, Any]:
    """The options of a transport, for either end, with the host's own test certificate."""
    import DIRAC
    from DIRAC.Core.DISET.private.Transports.M2SSLTransport import SSL

    folder = os.path.join(os.path.dirname(DIRAC.__file__), "Core", "Security", "test", "certs")
    authority = os.path.join(folder, "ca", "ca.cert.pem")
    certificate, key = (os.path.join(folder, "host", name) for name in ("hostcert.pem", "hostkey.pem"))
    if not all(map(os.path.exists, (authority, certificate, key))):
        raise NotAsked("this host came without its test certificates")
    context = SSL.Context()
    context.load_cert(certificate, key)
    context.load_verify_locations(cafile=authority)
    context.set_verify(SSL.verify_peer | SSL.verify_fail_if_no_peer_cert, 10)
    return {"ctx": context}


def _ask(database: Database | None) -> Any:
    options = with_tls()
    with server(options) as port:
        return [exchange(port, options) for _ in range(2)]


def _requests(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    options = with_tls()
    with server(options) as port:
        yield lambda number: timed(lambda: exchange(port, options), number)


PATCH = Patch(
    name="socket_nodelay",
    targets=(
        _target(_TLS, "SSLTransport.acceptConnection_multipleSteps", ("accept", "setClientSocket"), _accepted),
        _target(_TLS, "SSLTransport.acceptConnection_singleStep", ("accept", "setClientSocket"), _accepted),
        _target(_TLS, "SSLTransport.initAsClient", ("connect", "oSocket", "getpeername"), _connected),
    ),
    ask=_ask,
    cases=(Case("a connection and two messages", _requests),),
)
