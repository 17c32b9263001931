"""The spool: a process's file in it, and what is cleaned away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dirac_perfpatch.comparison import spool
from dirac_perfpatch.comparison.spool import Spool, component, default_folder
from dirac_perfpatch.comparison.spool_reading import read_spools

CONTENT = {"release": "9.1.8", "plugin": "0.1.0", "patches": {}, "series": [], "blocks": [], "events": {}}


def old(path: Path, seconds: float) -> Path:
    path.write_text("{}")
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def test_a_process_has_one_file_that_is_replaced_whole(tmp_path: Path) -> None:
    process = Spool(str(tmp_path / "not" / "there" / "yet"))
    for ended in (False, True):
        process.write(CONTENT, ended)
        (path,) = (tmp_path / "not" / "there" / "yet").iterdir()
        assert json.loads(path.read_text())["ended"] is ended
    (found,) = read_spools([str(tmp_path)]).snapshots
    assert (found.pid, found.release, found.ended) == (os.getpid(), "9.1.8", True)
    assert found.cpu_seconds > 0
    assert found.resident_bytes > 1_000_000


def test_two_processes_of_one_number_have_two_files(tmp_path: Path) -> None:
    """Numbers of processes come again, also within one process after a fork in a container."""
    for _ in range(2):
        Spool(str(tmp_path)).write(CONTENT, True)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    process, stop = Spool(str(tmp_path)), threading.Event()
    content = {**CONTENT, "events": {"p": {f"event {number}": number for number in range(5000)}}}

    def write() -> None:
        while not stop.is_set():
            process.write(content, False)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(50):
            assert read_spools([str(tmp_path)]).complaints == ()
    finally:
        stop.set()
        thread.join()


def test_who_is_killed_while_writing_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    code = f"""
import os
from dirac_perfpatch.comparison.spool import Spool
os.replace = lambda *paths: os.kill(os.getpid(), 9)
Spool({str(tmp_path)!r}).write({CONTENT!r}, False)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    (half,) = tmp_path.iterdir()
    found = read_spools([str(tmp_path)])
    assert (found.snapshots, found.complaints) == ((), ())
    os.utime(half, (0, 0))
    Spool(str(tmp_path)).clean()
    assert list(tmp_path.iterdir()) == []


def test_what_is_cleaned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day = 86400.0
    stays = {old(tmp_path / f"h.{number}.json", number * day) for number in range(4)}
    old(tmp_path / "h.8.json", 8 * day)
    old(tmp_path / ".h.9.json.tmp", 3600)
    stays |= {old(tmp_path / ".h.10.json.tmp", 10), old(tmp_path / "notes.txt", 100 * day)}
    Spool(str(tmp_path)).clean()
    assert set(tmp_path.iterdir()) == stays
    monkeypatch.setattr(spool, "_MOST_FILES", 2)
    Spool(str(tmp_path)).clean()
    assert {path.name for path in tmp_path.glob("*.json")} == {"h.0.json", "h.1.json"}
    Spool(str(tmp_path / "no such folder")).clean()


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["/opt/bin/dirac-service", "DataManagement/FileCatalog"], "DataManagement/FileCatalog"),
        (["dirac-agent", "-ddd", "WorkloadManagement/PilotStatusAgent", "x"], "WorkloadManagement/PilotStatusAgent"),
        (["/opt/bin/dirac-proxy-info", "--file", "/some/path"], "dirac-proxy-info"),
        (["dirac-dms-add-file"], "dirac-dms-add-file"),
        (["-c"], "-c"),
        ([""], "python"),
        ([], "python"),
    ],
)
def test_what_runs_in_the_process(argv: list[str], name: str) -> None:
    assert component(argv) == name


def test_the_default_folder() -> None:
    assert default_folder("/opt/dirac") == "/opt/dirac/var/perfpatch-spool"
    assert default_folder(None) is None
