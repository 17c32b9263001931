"""The TLS handshake of a service: no session tickets are made.

After the handshake of TLS 1.3 an OpenSSL server sends two session tickets, with which a client may resume the session
later. A ticket holds the whole session, including the client's certificate, and OpenSSL decodes all of it again to
make one. That takes a sixth of the CPU that a service spends on a short request, because DISET opens a connection per
request. No DIRAC client ever uses a ticket: each makes a new SSL object and never gives it a session. Nor could it: the
service learns no chain of certificates from a session that is resumed, and fails. We set the number of tickets to none
before the handshake.

The same answer: a server need not send tickets (RFC 8446, 4.6.1), and a client without one makes a full handshake. The
certificates, what is verified and every byte of DISET are the same. A session of TLS 1.2 is left alone, because its
ticket is part of the handshake, and a client that has a ticket from before fails as in stock.

The number is set for the one connection, in its SSL object, so a connection that is open when the patch is applied or
taken off stays as it is, and nothing has to be undone. M2Crypto does not offer the setting. We call OpenSSL's function
in the library that M2Crypto is linked with, which we find through M2Crypto's own module, so it is never another OpenSSL
of the process. If that library does not have the function (before 1.1.1), the patch is not applied.

With DIRAC_M2CRYPTO_SPLIT_HANDSHAKE=no the handshake happens inside the accept, out of our reach; the patch stands
down then.

Nothing is kept, so threads, forks and signals need no thought. The call changes one field and keeps the interpreter's
lock.

The seam is the code of the function: SSLTransport has it under two names.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from typing import Any, cast

from dirac_perfpatch.patching import (
    Case,
    Database,
    Fitting,
    Meter,
    OutOfReach,
    Patch,
    Target,
    Timed,
    UnknownHost,
)

_MODULE = "DIRAC.Core.DISET.private.Transports.M2SSLTransport"
_HANDSHAKE = "SSLTransport.handshake_multipleSteps"
# M2Crypto's own library, which the transport has loaded.
_EXTENSION = "M2Crypto._m2crypto"
_FUNCTION = "SSL_set_num_tickets"


def _openssl_function() -> Callable[[int, int], int]:
    """OpenSSL's function that sets the number of tickets of a connection, given the address of its SSL object."""
    try:
        # A symbol is looked for in this file, then in the libraries that it is linked with, and nowhere else.
        function: Any = getattr(ctypes.PyDLL(sys.modules[_EXTENSION].__file__), _FUNCTION)
    except (KeyError, OSError, AttributeError) as error:
        raise UnknownHost(f"the OpenSSL of M2Crypto has no {_FUNCTION}") from error
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    function.restype = ctypes.c_int
    return cast(Callable[[int, int], int], function)


def _look(fitting: Fitting) -> None:
    fitting.expect(_HANDSHAKE, "oSocket", "setup_ssl", "set_accept_state", "accept_ssl")
    if getattr(fitting.resolve("SSLTransport.handshake"), "__name__", "") == "handshake_singleStep":
        raise OutOfReach("DIRAC_M2CRYPTO_SPLIT_HANDSHAKE=no: the handshake happens inside the accept, out of reach")


def _put_on(fitting: Fitting) -> None:
    guard = fitting.guard
    set_number = _openssl_function()

    def make(stock: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def handshake(transport: Any) -> Any:
            if not guard.off:
                try:
                    set_number(int(transport.oSocket.ssl), 0)
                except Exception as error:
                    guard.failed(error)
            return stock(transport)

        return handshake

    fitting.take_over(_HANDSHAKE, make)


def _ask(database: Database | None) -> Any:
    from dirac_perfpatch.patches.socket_nodelay import exchange, server, with_tls

    options = with_tls()
    with server(options) as port:
        return [exchange(port, options) for _ in range(2)]


def _connections(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    from dirac_perfpatch.patches.socket_nodelay import exchange, server, with_tls

    options = with_tls()
    with server(options) as port:
        yield lambda number: timed(lambda: exchange(port, options), number)


PATCH = Patch(
    name="session_tickets",
    targets=(Target((_MODULE,), _HANDSHAKE, _look, _put_on),),
    ask=_ask,
    cases=(Case("a TLS connection and two messages", _connections),),
)
