"""Messages go to standard error only, one line each, once per process."""

from __future__ import annotations

import io
import sys
import threading
import time
from typing import Any

import pytest

from dirac_perfpatch import notices
from dirac_perfpatch.notices import say_once


@pytest.fixture(autouse=True)
def _forget_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_said", {})


def test_a_line_is_written_once_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("one", "two", "one", "one", "two"):
        say_once(text)
    assert capsys.readouterr() == ("", "dirac-perfpatch: one\ndirac-perfpatch: two\n")


def test_a_signal_handler_that_writes_while_its_thread_is_writing(child: Any) -> None:
    """It may come at any line of say_once, so nothing there may wait for its own thread."""
    answer = child(
        "import signal, sys\n"
        "from dirac_perfpatch.notices import say_once\n"
        "def handle(*_): say_once('from the handler')\n"
        "signal.signal(signal.SIGALRM, handle)\n"
        "def trace(frame, event, arg):\n"
        "    if frame.f_code.co_name == 'say_once' and event == 'line': signal.raise_signal(signal.SIGALRM)\n"
        "    return trace\n"
        "sys.settrace(trace)\n"
        "say_once('one')\n"
    )
    assert answer.stderr.splitlines() == ["dirac-perfpatch: from the handler", "dirac-perfpatch: one"]


def test_a_text_of_several_lines_becomes_one(capsys: pytest.CaptureFixture[str]) -> None:
    say_once("first\n  second\r\n\tthird\u2028fourth\n")
    say_once("first second third fourth")
    assert capsys.readouterr().err == "dirac-perfpatch: first second third fourth\n"


def test_many_threads_write_a_line_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(dict):  # type: ignore[type-arg]
        """Gives other threads time between the check and the note."""

        def __contains__(self, text: object) -> bool:
            found = super().__contains__(text)
            time.sleep(0.005)
            return found

    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(notices, "_said", Slow())
    barrier = threading.Barrier(8)

    def say() -> None:
        barrier.wait()
        for number in range(5):
            say_once(f"number {number}")

    threads = [threading.Thread(target=say) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(stream.getvalue().split("\n")) == sorted(["", *(f"dirac-perfpatch: number {n}" for n in range(5))])


@pytest.mark.parametrize("meanwhile", ["notices.say_once('handler')", "child()"])
def test_a_signal_handler_or_a_fork_in_the_middle_of_it(child: Any, meanwhile: str) -> None:
    code = f"""
import os, sys, threading
from dirac_perfpatch import notices
def child():
    def fork():
        if not os.fork():
            notices.say_once("child")
            os._exit(0)
        os.wait()
    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
class Said(dict):
    def add(self, line):
        self.setdefault(line, None)
    def setdefault(self, line, value):
        if not self:
            self["begun"] = None
            {meanwhile}
        return super().setdefault(line, value)
notices._said = Said()
notices.say_once("first")
"""
    other = "handler" if "handler" in meanwhile else "child"
    answer = child(code, PYTHONWARNINGS="ignore")  # Python warns of the fork
    assert answer.stderr == f"dirac-perfpatch: {other}\ndirac-perfpatch: first\n"


class _Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError("disk full")


@pytest.mark.parametrize("stream", [None, "closed", _Broken(), object()])
def test_without_a_standard_error_nothing_is_raised_and_nothing_is_written_elsewhere(
    stream: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Above all not to standard output, which scripts parse."""
    if stream == "closed":
        stream = io.StringIO()
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    say_once("anything")
    monkeypatch.undo()
    assert capsys.readouterr() == ("", "")


def test_a_stream_that_cannot_encode_a_character(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", stream)
    say_once("the file /home/zoë/patches.yaml")
    say_once("plain")
    stream.seek(0)
    assert "plain" in stream.read()


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full"])
def test_a_process_without_standard_error(child: Any, closed: str) -> None:
    answer = child(
        "import subprocess, sys\n"
        'code = \'from dirac_perfpatch.notices import say_once; say_once(1 * "x"); print("done")\'\n'
        f"subprocess.run(['sh', '-c', '\"$0\" -c \"$1\" {closed}', sys.executable, code], check=True)"
    )
    assert (answer.stdout, answer.stderr) == ("done\n", "")
