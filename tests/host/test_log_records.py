"""Records are shown or suppressed as in stock, and callers get the same answers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import stock
from DIRAC import gLogger
from DIRAC.FrameworkSystem.private.standardLogging.Logging import Logging

from dirac_perfpatch import loading

NAME = "log_records"
LEVELS = ("debug", "verbose", "info", "warn", "notice", "error", "always", "fatal", "exception")


class Backend(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        names = ("varmessage", "spacer", "customname", "componentname", "local_name", "levelname", "headerIsShown")
        self.written.append((record.getMessage(), record.funcName, *(vars(record).get(name) for name in names)))


@pytest.fixture
def channel() -> Iterator[Any]:
    made = gLogger.getSubLogger("test_log_records")
    backend = made.backend = Backend()
    before = made._logger.level
    made._logger.addHandler(backend)
    made._logger.propagate = False
    yield made
    made._logger.removeHandler(backend)
    made._logger.propagate = True
    made._logger.setLevel(before)


def both(channel: Any, function: Any) -> Any:
    """What a function answers and what is written meanwhile, which is as in stock."""

    def found() -> Any:
        channel.backend.written = []
        return function(), channel.backend.written

    patched = found()
    with stock(NAME):
        assert found() == patched
    return patched


def test_every_level_of_record_at_every_level_of_logger(channel: Any) -> None:
    def answers() -> list[Any]:
        answers = []
        for level in (*channel.getAllPossibleLevels(), 1, 12, logging.NOTSET):
            channel._logger.setLevel(level) if isinstance(level, int) else channel.setLevel(level)
            for name in LEVELS:
                for target in (channel, channel.getLocalSubLogger("local")):
                    try:
                        answers.append(getattr(target, name)("a message", "a detail"))
                    except (AttributeError, TypeError) as error:  # at a level that DIRAC does not know
                        answers.append(str(error))
        return answers

    answers, written = both(channel, answers)
    assert {True, False} <= set(answers)
    assert written


def test_a_change_of_level_counts_at_once(channel: Any) -> None:
    def answers() -> list[Any]:
        found = []
        for level in ("NOTICE", "DEBUG", "ERROR", "DEBUG"):
            channel.setLevel(level)
            found.append(channel.debug("a message"))
        return found

    assert both(channel, answers)[0] == [False, True, False, True]


def test_the_level_of_the_parent_counts(channel: Any) -> None:
    def answers() -> list[Any]:
        found = []
        child = channel.getSubLogger("child")
        for level in ("DEBUG", "ERROR"):
            channel.setLevel(level)
            found += [child.info("a message"), child.getLevel()]
        return found

    assert both(channel, answers)[0] == [True, "DEBUG", False, "ERROR"]


def test_what_python_disables(channel: Any) -> None:
    def answers() -> list[Any]:
        channel.setLevel("DEBUG")
        logging.disable(logging.ERROR)
        try:
            found = [channel.debug("a message"), channel.fatal("a message")]
        finally:
            logging.disable(logging.NOTSET)
        channel._logger.disabled = True
        found.append(channel.debug("a message"))
        channel._logger.disabled = False
        return found

    assert both(channel, answers)[0] == [True, True, True]


def test_a_level_that_was_changed_behind_pythons_back(channel: Any) -> None:
    """Python keeps whether a level is enabled, until a level is set in its own way."""

    def answers() -> list[Any]:
        channel.setLevel("DEBUG")
        found = [channel.debug("a message")]
        channel._logger.level = logging.ERROR
        return [*found, channel.debug("a message"), channel.info("a message")]

    both(channel, answers)


def test_a_message_that_is_not_a_text_is_converted(channel: Any) -> None:
    class Message:
        converted = 0

        def __str__(self) -> str:
            Message.converted += 1
            return "a text"

    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    channel.setLevel("NOTICE")
    assert channel.debug("a message", Message()) is False
    assert Message.converted == 1
    assert channel.debug(Message(), "a text") is False  # the host does not convert this one either
    assert Message.converted == 1
    with pytest.raises(RuntimeError):
        channel.debug("a message", Broken())
    assert loading.plugin.switches[NAME].guard.failures == 0


def test_levels_and_contexts_that_the_host_refuses(channel: Any) -> None:
    channel.setLevel("NOTICE")
    for arguments in (
        ("high", "a", "b"),
        (None, "a", "b"),
        (10, "a", "b", False, 1),
        (10, "a", "b", False, {"name": 1}),
    ):
        outcomes = []
        for _ in range(2):
            try:
                outcomes.append(channel._createLogRecord(*arguments))
            except Exception as error:
                outcomes.append(type(error))
            try:
                outcomes.append(Logging._createLogRecord.__wrapped__(channel, *arguments))
            except Exception as error:
                outcomes.append(type(error))
        assert len(set(outcomes)) == 1
    assert loading.plugin.switches[NAME].guard.failures == 0


def test_a_logger_of_another_class_decides_itself(channel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(logging.Logger):
        asked = 0

        def log(self, *arguments: Any, **options: Any) -> None:
            self.asked += 1

    logger = Counting("counting", logging.ERROR)
    monkeypatch.setattr(channel, "_logger", logger)
    channel.debug("a message")
    assert logger.asked == 1


def test_nothing_is_prepared_for_a_suppressed_record(channel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    channel.setLevel("NOTICE")
    monkeypatch.setattr(logging.Logger, "log", lambda *arguments, **options: pytest.fail("asked"))
    assert channel.debug("a message", "a detail") is False
