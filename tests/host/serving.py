"""A service of the host that serves one request, without a network."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from DIRAC import S_ERROR, S_OK
from DIRAC.Core.DISET.private.Service import Service
from DIRAC.Core.DISET.RequestHandler import RequestHandler


class Handler(RequestHandler):
    types_work = [str]

    def export_work(self, wish: str) -> Any:
        if wish == "raise":
            raise ValueError("no")
        return S_ERROR("no") if wish == "fail" else S_OK(wish)

    def transfer_toClient(self, *arguments: Any) -> Any:
        return S_ERROR("no file")


class Pool:
    """The transports of a service, of which there is one, and what it has sent."""

    def __init__(self, transport: Any, arguments: tuple[Any, ...]) -> None:
        self.sent: list[Any] = []
        self._transport, self._arguments = transport, arguments
        self.close = self.sendAndClose = lambda trid, *answer: self.sent.extend(answer)

    def add(self, transport: Any) -> int:
        return 1

    def get(self, trid: int) -> Any:
        return self._transport

    def send(self, trid: int, answer: Any) -> Any:
        self.sent.append(answer)
        return S_OK()

    def receive(self, trid: int) -> Any:
        return S_OK(self._arguments)


def serve(proposal: Any, *arguments: Any, authorized: bool = True, shakes_hands: bool = True) -> Any:
    """What a service sends to a client that makes a proposal."""
    transport = SimpleNamespace(
        oSocket=SimpleNamespace(fileno=lambda: 0),
        handshake=lambda: S_OK() if shakes_hands else S_ERROR("no"),
        close=lambda: None,
        getConnectingCredentials=lambda: {"DN": "/CN=x", "username": "x", "group": "y"},
        getFormattedCredentials=lambda: "x",
        getRemoteAddress=lambda: ("127.0.0.1", 1),
        receiveData=lambda size: S_OK((("A/B", "setup", "vo"), proposal, "", "client")),
        setExtraCredentials=lambda credentials: None,
    )
    pool = Pool(transport, arguments)
    locks = SimpleNamespace(**dict.fromkeys(("lockGlobal", "unlockGlobal"), lambda: None))
    locks.lock = locks.unlock = lambda name: None
    info = {"serviceName": "A/B", "csPaths": []}
    Handler._rh__initializeClass(info, locks, SimpleNamespace(getTransportPool=lambda: pool), None)
    service: Any = Service.__new__(Service)
    vars(service).update(
        _name="A/B",
        _validNames=["A/B"],
        _actions={"auth": {"Connection": []}},
        _authMgr=SimpleNamespace(authQuery=lambda *arguments: authorized),
        _handler={"class": Handler},
        _serviceInfoDict=info,
        _startTime=0,
        _transportPool=pool,
        _lockManager=locks,
        _msgBroker=SimpleNamespace(),
        securityLogging=False,
        activityMonitoring=False,
        _Service__maxFD=0,
        _Service__monitorLastStatsUpdate=time.time(),
    )
    service._processInThread(transport)
    return pool.sent[-1] if pool.sent else None
