"""Logging._createLogRecord: nothing is prepared for a record that its level suppresses.

gLogger.debug and the like make a text and a dictionary for the record, copy the display options into it and then ask
Python's logger, which drops the record if its level is below the logger's; twice more the level's name and number are
looked up. A service asks for 10 to 30 such records per request, a SQL statement for one. We ask for the level first.

The same answer: whether a record of a level is shown depends on the logger's effective level alone, which we ask for
with Python's own method at every call, so a change of a level counts at once. If the record's level is below it, the
host makes no record, calls no filter and no backend, and answers False; so do we. Everything else is left to the host:
records that are shown, a message that is not a text (because the host converts it, which may have an effect or fail),
a logger with a level that DIRAC does not know, and one of another class than Python's.

Not saved: what the caller has formatted before the call.

Nothing is kept, so threads, forks and signals need no thought.

The seam is the method in its class; LocalSubLogger calls it, too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from dirac_perfpatch.patching import Case, Database, Fitting, Meter, Patch, Target, Timed, same_answer

_MODULE = "DIRAC.FrameworkSystem.private.standardLogging.Logging"
_METHOD = "Logging._createLogRecord"
# Another class may have rules of its own.
_LOGGERS = (logging.Logger, logging.RootLogger)


def _look(fitting: Fitting) -> None:
    fitting.expect(_METHOD, "_componentName", "_customName", "_options", "_logger", "log", "LogLevels", "getLevel")


def _put_on(fitting: Fitting) -> None:
    guard, stock, levels = fitting.guard, fitting.unbound(_METHOD), fitting.resolve("LogLevels")
    known = frozenset(map(levels.getLevelValue, levels.getLevelNames()))

    def _createLogRecord(
        self: Any, level: Any, sMsg: Any, sVarMsg: Any, exc_info: Any = False, local_context: Any = None
    ) -> Any:
        if not guard.off:
            try:
                logger = self._logger
                plain = type(sVarMsg) is str and level in known and (not local_context or type(local_context) is dict)
                if plain and type(logger) in _LOGGERS and not logger.isEnabledFor(level):
                    effective = logger.getEffectiveLevel()
                    if effective in known and effective > level:
                        return False
            except Exception as error:
                guard.failed(error)
        return stock(self, level, sMsg, sVarMsg, exc_info, local_context)

    fitting.stand_in(_METHOD, _createLogRecord, same_answer)


def _ask(database: Database | None) -> Any:
    """What each level answers at each level of the logger, and which records reach a backend then."""
    from DIRAC.FrameworkSystem.Client.Logger import gLogger

    channel = gLogger.getSubLogger("dirac-perfpatch")
    written: list[Any] = []
    handler = logging.Handler()
    handler.emit = lambda record: written.append((record.levelno, record.getMessage(), vars(record)["varmessage"]))  # type: ignore[method-assign]
    logger, before, passes_on = channel._logger, channel._logger.level, channel._logger.propagate
    logger.addHandler(handler)
    logger.propagate = False  # nothing is to be shown
    answers = []
    try:
        for level in channel.getAllPossibleLevels():
            channel.setLevel(level)
            for name in ("debug", "verbose", "info", "warn", "notice", "error", "always", "fatal"):
                answers.append(getattr(channel, name)("a message", f"at {level}"))
                answers.append(getattr(channel.getLocalSubLogger("local"), name)("a message"))
            answers.append(channel.debug("not a text", 1))
    finally:
        logger.removeHandler(handler)
        logger.propagate = passes_on
        logger.setLevel(before)
    return answers, written


def _suppressed(size: int, database: Database | None, timed: Timed) -> Iterator[Meter]:
    from DIRAC.FrameworkSystem.Client.Logger import gLogger

    channel = gLogger.getSubLogger("dirac-perfpatch")
    before = channel._logger.level
    channel.setLevel("NOTICE")
    try:
        yield lambda number: timed(lambda: channel.debug("a message", "with a detail"), number)
    finally:
        channel._logger.setLevel(before)


PATCH = Patch(
    name="log_records",
    targets=(Target((_MODULE,), _METHOD, _look, _put_on),),
    ask=_ask,
    cases=(Case("gLogger.debug, suppressed", _suppressed, growth=(1,)),),
)
