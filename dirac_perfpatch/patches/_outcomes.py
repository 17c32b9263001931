"""Where the host makes what users feel: requests, SQL statements and cycles of agents. For comparisons only.

This is no patch: it changes no answer, it is in no catalogue, and it has no toggle. It is declared like one, so that
the same machinery applies it, guards it and takes it off. ``comparison.running`` applies it while a patch is compared.

- A request by DISET: ``Service._processInThread``, which a service runs in a thread per connection, from the handshake
  until the connection is closed. The method is known once ``_receiveAndCheckProposal`` has received it; a connection
  that proposes nothing, such as that of a port scan, is not counted. The answer passes
  ``RequestHandler.__logRemoteQueryResponse``. A refused request is counted as such.
- A request by HTTPS: ``BaseRequestHandler._executeMethod``, which runs in a thread, too. What the event loop does is
  not seen, nor the check of the certificate, which runs in other threads.
- A statement: ``MySQL._query``, ``_update`` and ``_updatemany``, with the checkout of a connection. One that
  ``connection_eviction`` sends again counts twice.
- A cycle: ``AgentModule.am_go``, which sets up the shifter's proxy and runs ``execute``.

The code of these functions is replaced, not the attribute: the scheduler of agents has bound ``am_go`` before, and
``connection_eviction`` replaces the attributes of the three statements. So both may come and go in any order.

Names of methods come from clients. One that the handler does not have is not used as a name.

Threads, forks, signals: a request lives in a thread, and its name in a ``threading.local``. A failure of our code is
counted by the guard, and the host's answer is returned.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from dirac_perfpatch.patching import Database, Fitting, NotAsked, Patch, Target

_UNKNOWN = "unknown method"
# The kinds of comparison.snapshot, which is not imported here: nothing in patches knows of comparisons.
_REQUEST, _STATEMENT, _CYCLE = "request", "statement", "cycle"


class _Request:
    """A request by DISET in progress: its method, once it is known, and whether it has failed."""

    def __init__(self) -> None:
        self.name = ""
        self.failed = False


class _Current(threading.local):
    """The request of this thread."""

    request: _Request | None = None


_current = _Current()


def _has_failed(answer: Any) -> bool:
    return answer.__class__ is dict and not answer.get("OK", True)


def _recorded(fitting: Fitting, kind: str, describe: Callable[[Any], str]) -> Callable[[Any], Any]:
    """Given a method of the host, make one that records each call; ``describe`` names it from the instance."""
    outcomes, guard = fitting.options["outcomes"], fitting.guard

    def end(begun: Any, instance: Any, failed: bool) -> None:
        try:
            outcomes.end(begun, kind, describe(instance), failed)
        except Exception as error:
            guard.failed(error)

    def make(stock: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(instance: Any, *args: Any, **kwargs: Any) -> Any:
            if guard.off:
                return stock(instance, *args, **kwargs)
            begun = outcomes.begin()
            try:
                answer = stock(instance, *args, **kwargs)
            except Exception:
                end(begun, instance, True)
                raise
            end(begun, instance, _has_failed(answer))
            return answer

        return recorded

    return make


def _put_on_request(fitting: Fitting) -> None:
    outcomes, guard = fitting.options["outcomes"], fitting.guard

    def make(stock: Callable[..., Any]) -> Callable[..., Any]:
        def processInThread(service: Any, *args: Any, **kwargs: Any) -> Any:
            if guard.off:
                return stock(service, *args, **kwargs)
            request = _current.request = _Request()
            begun = outcomes.begin()
            try:
                answer = stock(service, *args, **kwargs)
            except Exception:
                request.failed = True
                raise
            else:
                request.failed |= _has_failed(answer)
                return answer
            finally:
                _current.request = None
                if request.name:
                    try:
                        outcomes.end(begun, _REQUEST, request.name, request.failed)
                    except Exception as error:
                        guard.failed(error)

        return processInThread

    def make_proposal(stock: Callable[..., Any]) -> Callable[..., Any]:
        def receiveAndCheckProposal(service: Any, *args: Any, **kwargs: Any) -> Any:
            answer = stock(service, *args, **kwargs)
            request = _current.request
            if request is not None and not guard.off:
                try:
                    request.failed = not answer["OK"]
                    method = "refused" if request.failed else _method(service, *answer["Value"][1][:2])
                    request.name = f"{service._name} {method}"
                except Exception as error:
                    guard.failed(error)
            return answer

        return receiveAndCheckProposal

    fitting.take_over("Service._receiveAndCheckProposal", make_proposal)
    fitting.take_over("Service._processInThread", make)


def _method(service: Any, action: str, method: str) -> str:
    handler = service._handler["class"]
    if action == "RPC":
        return method if hasattr(handler, f"export_{method}") else _UNKNOWN
    if action == "FileTransfer" and hasattr(handler, f"transfer_{method[:1].lower()}{method[1:]}"):
        return f"{action} {method}"
    return action


def _put_on_answer(fitting: Fitting) -> None:
    guard = fitting.guard

    def make(stock: Callable[..., Any]) -> Callable[..., Any]:
        def logRemoteQueryResponse(handler: Any, answer: Any, *args: Any, **kwargs: Any) -> Any:
            request = _current.request
            if request is not None and not guard.off:
                request.failed |= _has_failed(answer)
            return stock(handler, answer, *args, **kwargs)

        return logRemoteQueryResponse

    fitting.take_over("RequestHandler._RequestHandler__logRemoteQueryResponse", make)


def _put_on_https(fitting: Fitting) -> None:
    def describe(handler: Any) -> str:
        return f"{handler._fullComponentName} {handler._BaseRequestHandler__methodName}"

    fitting.take_over("BaseRequestHandler._executeMethod", _recorded(fitting, _REQUEST, describe))


def _put_on_statements(fitting: Fitting) -> None:
    for path in ("MySQL._query", "MySQL._update", "MySQL._updatemany"):
        fitting.take_over(path, _recorded(fitting, _STATEMENT, lambda database: "SQL"))


def _put_on_cycle(fitting: Fitting) -> None:
    def describe(agent: Any) -> str:
        return str(agent.am_getModuleParam("fullName"))

    fitting.take_over("AgentModule.am_go", _recorded(fitting, _CYCLE, describe))


def _expect(path: str, *names: str) -> Callable[[Fitting], None]:
    return lambda fitting: fitting.expect(path, *names)


def _ask(database: Database | None) -> Any:
    raise NotAsked("it changes no answer")


# It only records calls, so code that no release has is recorded, too: no target has `changes`.
PATCH = Patch(
    name="outcomes",
    targets=(
        Target(
            ("DIRAC.Core.DISET.private.Service",),
            "Service._processInThread",
            _expect("Service._processInThread", "handshake", "_receiveAndCheckProposal", "_processProposal"),
            _put_on_request,
            changes=(),
        ),
        Target(
            ("DIRAC.Core.DISET.RequestHandler",),
            "RequestHandler._RequestHandler__logRemoteQueryResponse",
            _expect("RequestHandler._rh_executeAction", "_RequestHandler__logRemoteQueryResponse"),
            _put_on_answer,
            changes=(),
        ),
        Target(
            ("DIRAC.Core.Tornado.Server.private.BaseRequestHandler",),
            "BaseRequestHandler._executeMethod",
            _expect("BaseRequestHandler._executeMethod", "methodObj", "initializeRequest"),
            _put_on_https,
            changes=(),
        ),
        Target(
            ("DIRAC.Core.Utilities.MySQL",),
            "MySQL._query",
            _expect("MySQL._except", "log"),
            _put_on_statements,
            changes=(),
        ),
        Target(
            ("DIRAC.Core.Base.AgentModule",),
            "AgentModule.am_go",
            _expect("AgentModule.am_go", "_AgentModule__executeModuleCycle"),
            _put_on_cycle,
            changes=(),
        ),
    ),
    ask=_ask,
)
