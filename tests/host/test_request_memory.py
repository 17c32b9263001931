"""A service does not look its memory up for requests; what it reports is as in stock."""

from __future__ import annotations

import mmap
import os
import time
from typing import Any

import psutil
import pytest
from conftest import stock
from DIRAC.Core.DISET.private import Service as module
from forking import in_a_child
from serving import serve

from dirac_perfpatch.patches.request_memory import _LAST, _METHOD, _service

NAME = "request_memory"
METHOD = _METHOD.split(".")[1]


def report(service: Any) -> Any:
    return getattr(service, METHOD)()


def more_memory() -> mmap.mmap:
    """64 MiB that the process did not have: a large object may take what it has, but does not use."""
    pages = mmap.mmap(-1, 64 << 20)
    for place in range(0, len(pages), mmap.PAGESIZE):
        pages[place] = 1
    return pages


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list with an entry for each time that psutil was asked for a process."""
    found: list[str] = []

    class Process(psutil.Process):
        def __init__(self) -> None:
            found.append("asked")
            super().__init__()

    monkeypatch.setattr(module.psutil, "Process", Process)
    return found


def test_a_request_does_not_ask_for_memory(asked: list[str]) -> None:
    assert serve(("RPC", "work"), "done")["Value"] == "done"
    assert asked == []
    with stock(NAME):
        assert serve(("RPC", "work"), "done")["Value"] == "done"
    assert asked == ["asked"]


def test_the_times_are_those_of_stock() -> None:
    service = _service(False)
    with stock(NAME):
        before = report(service)
    now, cpu, memory = report(service)
    assert memory is None
    assert before[0] <= now == getattr(service, _LAST) <= time.time()
    assert before[1] <= cpu == pytest.approx(sum(os.times()[::2][:2]), abs=1)


def test_a_monitored_service_reports_its_memory(asked: list[str]) -> None:
    service = _service(True)
    with stock(NAME):
        memory = report(service)[2]
    ballast = more_memory()
    assert report(service)[2] == pytest.approx(memory + 64, abs=16)
    assert len(ballast)
    report(service)
    assert len(asked) == 2  # one of them in stock


def test_a_child_reports_its_own_memory() -> None:
    service = _service(True)
    report(service)

    def difference() -> float:
        ballast = more_memory()
        found = float(report(service)[2]) - psutil.Process().memory_info().rss / 1048576
        len(ballast)
        return found

    assert abs(in_a_child(difference)) < 8


def test_a_clock_that_has_gone_back() -> None:
    """The host itself leaves the memory out, and the time of the last report as it is."""
    for monitored in (False, True):
        service = _service(monitored)
        later = time.time() + 1000
        setattr(service, _LAST, later)
        patched = report(service)
        with stock(NAME):
            unpatched = report(service)
        assert patched[2] is None is unpatched[2]
        assert getattr(service, _LAST) == later


def test_errors_are_those_of_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psutil's answer a monitored service has no report, and the request is served."""

    def fail() -> None:
        raise OSError("no /proc")

    monkeypatch.setattr(module.psutil.Process, "memory_info", lambda self: fail())
    for service in (_service(True), module.Service.__new__(module.Service)):
        errors = []
        for _ in range(2):
            with pytest.raises((OSError, AttributeError)) as raised:
                report(service)
            errors.append(str(raised.value))
            with stock(NAME), pytest.raises((OSError, AttributeError)) as raised:
                report(service)
            errors.append(str(raised.value))
        assert len(set(errors)) == 1
    assert serve(("RPC", "work"), "done")["Value"] == "done"
