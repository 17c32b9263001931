"""A DIRAC service by HTTPS: `tornado-start-all`, in the host's Python.

DIRACOS brings a Tornado of DIRAC's own, 5.1.1+dirac.1, whose connections may be of another class and which asks the
connection for the peer's certificate. PyPI has only Tornado 5.1.1, which pip installs beside DIRAC and with which
`tornado-start-all` fails. This gives it what DIRAC uses of the other.
"""

from __future__ import annotations

import collections
import collections.abc
import importlib
import os
from typing import Any

_ALLOW_PROXY_CERTS = 0x40  # OpenSSL's X509_V_FLAG_ALLOW_PROXY_CERTS


def serve() -> None:
    """Serve all services with `Protocol = https` in the configuration, until the process is ended."""
    _complete_tornado()
    os.environ["DIRAC_USE_TORNADO_IOLOOP"] = "yes"
    from DIRAC.Core.Tornado.scripts.tornado_start_all import main

    main()


def _complete_tornado() -> None:
    # Tornado 5.1.1 is of a time when Python had this name.
    vars(collections).setdefault("MutableMapping", collections.abc.MutableMapping)
    # An M2Crypto before 0.42 that was built with OpenSSL 3 lacks it, so proxies would be refused.
    x509: Any = importlib.import_module("M2Crypto.X509")
    vars(x509).setdefault("verify_allow_proxy_certs", _ALLOW_PROXY_CERTS)
    import tornado.httputil
    import tornado.iostream
    import tornado.tcpserver

    stream: Any = tornado.iostream.SSLIOStream
    if hasattr(stream, "configure"):
        return

    # DIRAC names the class of a connection before the first one is accepted.
    def configure(name: str) -> None:
        from tornado.util import import_object
        from tornado_m2crypto.m2netutil import m2_wrap_socket

        chosen: Any = import_object(name)

        def connection(*args: Any, **kwargs: Any) -> Any:
            made = chosen(*args, **kwargs)
            made.initialize(*args, **kwargs)
            return made

        vars(tornado.tcpserver).update(SSLIOStream=connection, ssl_wrap_socket=m2_wrap_socket)

    stream.configure = configure
    request: Any = tornado.httputil.HTTPServerRequest
    for asked in ("get_ssl_certificate", "get_ssl_certificate_chain"):
        setattr(request, asked, lambda self, asked=asked: getattr(self.connection.stream, asked)())
