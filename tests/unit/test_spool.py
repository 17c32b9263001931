"""The spool: the file of a process, its format, and cleaning up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dirac_perfpatch.comparison import spool, spool_reading
from dirac_perfpatch.comparison.snapshot import Block, Series, Sketch, State, parse
from dirac_perfpatch.comparison.spool import Spool, component, default_folder, process_of
from dirac_perfpatch.comparison.spool_reading import read_spools

Child = Callable[..., "subprocess.CompletedProcess[str]"]
CONTENT = {"release": "9.1.8", "plugin": "0.1.0", "patches": {}, "series": [], "blocks": [], "events": {}}


BEGAN = 1_700_000_000_123_456_789


def old(path: Path, seconds: float) -> Path:
    path.write_text("{}")
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def test_a_process_has_one_file_that_is_replaced_whole(tmp_path: Path) -> None:
    process = Spool()
    for ended in (False, True):
        assert process.write(str(tmp_path / "not" / "there" / "yet"), CONTENT, ended)
        (path,) = (tmp_path / "not" / "there" / "yet").iterdir()
        assert json.loads(path.read_text())["ended"] is ended
    (found,) = read_spools([str(tmp_path)]).snapshots
    assert (found.pid, found.release, found.ended) == (os.getpid(), "9.1.8", True)
    assert found.cpu_seconds > 0
    assert found.resident_bytes > 1_000_000


# As version 0.1.0 wrote it.
OLD = b"""{"format": 1, "host": "h", "component": "A/B", "release": "9.1.8", "plugin": "0.1.0", "pid": 7,
"started": 1e9, "written": 1000000060.5, "ended": true, "cpu_seconds": 0.5, "resident_bytes": 1000, "patches": {
"p": {"state": "applied", "reason": "", "failures": 1, "mode": "ab", "by": "time", "share": 0.5, "window_seconds": 60,
"arm": "stock", "checked": 3, "differences": 0}, "q": {"state": "armed", "reason": "no", "failures": 0, "mode": "on"}},
"series": [{"patch": "p", "target": "f", "arm": "stock", "calls": 20, "errors": 2, "timed": 3, "seconds": 0.25,
"sketch": {"accuracy": 0.01, "zero": 1, "bins": {"-500": 1, "-10": 1}}}], "blocks": [
{"patch": "p", "target": "f", "arm": "stock", "block": 2, "pair": 1, "start": 1e9, "seconds": 60.0, "calls": 19,
"errors": 2, "timed": 3, "mean": 0.1, "median": 0.2}, {"patch": "p", "target": "f", "arm": "stock", "block": 4,
"pair": 2, "start": 1000000060.0, "seconds": 0.5, "calls": 1, "errors": 0, "timed": 0, "mean": null, "median": null}],
"events": {"p": {"hits": 4}}}"""


def test_the_format_stays_as_it_is() -> None:
    found = parse(OLD)
    assert json.loads(json.dumps(found.data())) == json.loads(OLD)
    assert parse(json.dumps(found.data()).encode()) == found
    assert found.patches == {
        "p": State("applied", "", "ab", 1, "time", 0.5, 60, "stock", 3),
        "q": State("armed", "no", "on", 0),
    }
    assert found.series == (Series("p", "f", "stock", 20, 2, 3, 0.25, Sketch(0.01, 1, {-500: 1, -10: 1})),)
    assert found.blocks[1] == Block("p", "f", "stock", 4, 2, 1000000060.0, 0.5, 1, 0, 0, 0, 0)


def test_two_processes_of_one_number_have_two_files(tmp_path: Path) -> None:
    """Process numbers are used again, in a container even after a fork."""
    for _ in range(2):
        Spool().write(str(tmp_path), CONTENT, True)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    process, stop = Spool(), threading.Event()
    content = {**CONTENT, "events": {"p": {f"event {number}": number for number in range(5000)}}}

    def write() -> None:
        while not stop.is_set():
            process.write(str(tmp_path), content, False)

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
os.replace = lambda *paths, **folders: os.kill(os.getpid(), 9)
Spool().write({str(tmp_path)!r}, {CONTENT!r}, False)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    (half,) = tmp_path.iterdir()
    found = read_spools([str(tmp_path)])
    assert (found.snapshots, found.complaints) == ((), ())
    os.utime(half, (0, 0))
    Spool().clean(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_what_is_cleaned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day = 86400.0
    stays = {old(tmp_path / f"h.{number}.{BEGAN}.json", number * day) for number in range(4)}
    old(tmp_path / f"h.8.{BEGAN}.json", 8 * day)
    old(tmp_path / f".h.9.{BEGAN}.json.0f", 3600)
    stays.add(old(tmp_path / f".h.10.{BEGAN}.json.0f", 10))
    Spool().clean(str(tmp_path))
    assert set(tmp_path.iterdir()) == stays
    monkeypatch.setattr(spool, "_MOST_FILES", 2)
    Spool().clean(str(tmp_path))
    assert {path.name for path in tmp_path.glob("*.json")} == {f"h.0.{BEGAN}.json", f"h.1.{BEGAN}.json"}
    Spool().clean(str(tmp_path / "no such folder"))


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["/opt/bin/dirac-service", "DataManagement/FileCatalog"], "DataManagement/FileCatalog"),
        (["dirac-agent", "-ddd", "WorkloadManagement/PilotStatusAgent", "x"], "WorkloadManagement/PilotStatusAgent"),
        (["dirac-executor", "-o", "LogLevel=DEBUG", "WorkloadManagement/Optimizers"], "WorkloadManagement/Optimizers"),
        (["dirac-service"], "dirac-service"),
        (["dirac-service", "--cfg", "/opt/etc/a.cfg"], "dirac-service"),
        (["/opt/bin/tornado-start-all", "-ddd"], "tornado-start-all"),
        (["/opt/bin/dirac-proxy-info", "--file", "some/path"], "dirac-proxy-info"),
        (["upload.py", "--password", "s3cr/et"], "upload.py"),
        (["dirac-service", "-o", "/DIRAC/Password=s3cr/et"], "dirac-service"),
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


def test_only_snapshots_of_ours_are_cleaned_away(tmp_path: Path) -> None:
    """The operator may have named a folder with other files."""
    year = 365 * 86400.0
    victim = old(tmp_path / f"victim.1.{BEGAN}.json", 0)
    stays = {victim} | {
        old(tmp_path / name, year)
        for name in (
            "package.json",
            "h.1.2.json",
            f"h.1.{BEGAN}.json.bak",
            f".h.1.{BEGAN}.json",
            ".state.json.tmp",
            f"h.1.{BEGAN}.JSON",
            "notes.txt",
        )
    }
    link, folder, pipe = (tmp_path / f"{name}.1.{BEGAN}.json" for name in ("link", "folder", "pipe"))
    link.symlink_to(victim)
    folder.mkdir()
    os.mkfifo(pipe)
    for path in (link, folder, pipe):
        os.utime(path, (0, 0), follow_symlinks=False)
    Spool().clean(str(tmp_path))
    assert set(tmp_path.iterdir()) == stays | {link, folder, pipe}


def test_of_thousands_of_files_the_newest_stay(tmp_path: Path) -> None:
    for number in range(2100):
        old(tmp_path / f"h.{number}.{BEGAN}.json", number)
    Spool().clean(str(tmp_path))
    assert {int(path.name.split(".")[1]) for path in tmp_path.iterdir()} == set(range(2000))


def test_however_many_files_there_are_a_cleaning_looks_at_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_MOST_ENTRIES", 10)
    for number in range(25):
        old(tmp_path / f"h.{number}.{BEGAN}.json", 8 * 86400.0)
    left = []
    for _ in range(3):
        Spool().clean(str(tmp_path))
        left.append(len(list(tmp_path.iterdir())))
    assert left == [15, 5, 0]


def test_of_too_many_files_those_of_the_newest_processes_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever their names begin with, in each folder."""
    monkeypatch.setattr(spool_reading, "_MOST_FILES", 3)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for number in (3, 1, 4, 0, 2):
            data = {**json.loads(OLD), "host": folder, "pid": number}
            (tmp_path / folder / f"h{9 - number}.{number}.{BEGAN + number}.json").write_text(json.dumps(data))
    found = read_spools([str(tmp_path)])
    assert sorted((one.host, one.pid) for one in found.snapshots) == [(a, n) for a in "ab" for n in (2, 3, 4)]
    assert found.complaints == tuple(
        f"{tmp_path / folder}: 3 of 5 files are read, of the newest processes" for folder in "ab"
    )


def test_the_process_of_a_file_is_known_without_reading_it(tmp_path: Path) -> None:
    Spool().write(str(tmp_path), CONTENT, False)
    (path,) = tmp_path.iterdir()
    assert process_of(str(path)) == os.getpid()
    for name in ("notes.json", f".h.1.{BEGAN}.json", f"h.1.{BEGAN}.json.0f", f"h.x.{BEGAN}.json"):
        assert process_of(str(tmp_path / name)) is None


def test_a_link_in_the_place_of_the_file_is_replaced_not_followed(tmp_path: Path) -> None:
    folder, victim, process = tmp_path / "spool", tmp_path / "victim", Spool()
    victim.write_text("precious")
    process.write(str(folder), CONTENT, False)
    (path,) = folder.iterdir()
    path.unlink()
    path.symlink_to(victim)
    process.write(str(folder), CONTENT, True)
    assert victim.read_text() == "precious"
    assert path.is_file()
    assert not path.is_symlink()


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_a_folder_that_others_can_write_to_is_left_alone(mode: int, tmp_path: Path) -> None:
    there = old(tmp_path / f"h.8.{BEGAN}.json", 365 * 86400.0)
    tmp_path.chmod(mode)
    with pytest.raises(PermissionError, match="others can write to the folder"):
        Spool().write(str(tmp_path), CONTENT, False)
    Spool().clean(str(tmp_path))
    assert list(tmp_path.iterdir()) == [there]


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(PermissionError, match="belongs to somebody else"):
        Spool().write(str(tmp_path), CONTENT, False)
    # No message if we could not write there anyway, as in an installation that all users share.
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    assert not Spool().write(str(tmp_path), CONTENT, False)
    assert list(tmp_path.iterdir()) == []


def test_whatever_the_umask_is_only_we_can_write_to_what_we_make(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Spool().write(str(tmp_path / "spool"), CONTENT, True)
    finally:
        os.umask(before)
    (path,) = (tmp_path / "spool").iterdir()
    assert [oct(one.stat().st_mode & 0o777) for one in (path.parent, path)] == ["0o755", "0o644"]


# A process that compares a patch and writes often.
COMPARE = """
import os, signal, sys, threading, time
from dirac_perfpatch.comparison import journal
from dirac_perfpatch.comparison.arms import Comparison
from dirac_perfpatch.comparison.clock import Clock
from dirac_perfpatch.comparison.journal import Journal
from dirac_perfpatch.comparison.snapshot import State
from dirac_perfpatch.patching import Guard, Patch
from dirac_perfpatch.toggles import Toggle
journal._SNAPSHOT_SECONDS = journal._LOOK_SECONDS = 0.02
def compare():
    guard = Guard("p", lambda reason: None)
    comparison = Comparison(Patch("p", (), lambda database: None), guard, Toggle("ab", {}, "time", 0.5, 10), 0, True)
    ours.add(comparison, Clock(0.5, 10))
    return comparison
def describe():
    patches = {"p": State("applied", "", "ab", 0)}
    return {"release": "", "plugin": "", "patches": patches, "events": {}}
def fork():
    began = time.monotonic()
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return time.monotonic() - began
def until(true):
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
folder = sys.argv[1] if len(sys.argv) > 1 else os.getcwd() + "/spool"
ours = Journal(folder, describe)
"""
HANGS = """
real = os.replace
inside = []
def hang(*paths, **folders):
    inside.append(1)
    time.sleep(60)
os.replace = hang
compare()
until(lambda: inside)
"""


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_others_put_where_we_write_is_not_followed_and_not_waited_for(
    kind: str, child: Child, tmp_path: Path
) -> None:
    """Whoever can write there learns the name of the next file from the first one."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    code = f"""
os.mkdir(folder)
os.chmod(folder, 0o777)
compare()
end = time.monotonic() + 1
while time.monotonic() < end:
    for name in os.listdir(folder):
        half = os.path.join(folder, "." + name + ".tmp")
        if name[0] != "." and not os.path.lexists(half):
            os.symlink({str(victim)!r}, half) if {kind!r} == "link" else os.mkfifo(half)
    time.sleep(0.001)
print(fork() < 0.5)
"""
    answer = child(COMPARE + code)
    assert (answer.returncode, answer.stdout) == (0, "True\n")
    assert victim.read_text() == "precious"
    assert answer.stderr.count("others can write to the folder") == 1


def test_a_file_system_that_hangs_keeps_neither_fork_nor_exit_nor_who_takes_a_patch_off(child: Child) -> None:
    code = """
print(*(fork() < 0.5 for _ in range(3)))
began = time.monotonic()
compare().leave()
print(time.monotonic() - began < 0.1)
"""
    began = time.monotonic()
    answer = child(COMPARE + HANGS + code)
    assert answer.stdout.split() == ["True"] * 4, answer.stderr
    assert time.monotonic() - began < 6


def test_a_process_that_forks_all_the_time_does_not_wait_and_still_writes(child: Child) -> None:
    code = """
real = describe
ours._describe = lambda: (time.sleep(0.3), real())[1]
compare()
forks, end = [], time.monotonic() + 2
while time.monotonic() < end:
    forks.append(fork())
print(sorted(forks)[len(forks) * 9 // 10] < 0.1, os.listdir(folder) != [])
"""
    assert child(COMPARE + code).stdout == "True True\n"


def test_a_child_of_multiprocessing_ends_while_the_file_system_hangs(child: Child) -> None:
    code = """
import multiprocessing
process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.1,))
process.start()
process.join(4)
print(process.exitcode)
process.kill()
"""
    assert child(COMPARE + HANGS + code).stdout == "0\n"


def test_a_full_disk_is_reported_once_and_when_there_is_space_it_goes_on(child: Child, tmp_path: Path) -> None:
    code = """
import resource
compare()
until(lambda: os.path.isdir(folder) and any(name[0] != "." for name in os.listdir(folder)))
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
time.sleep(0.3)
(name,) = os.listdir(folder)
before = os.stat(os.path.join(folder, name)).st_mtime_ns
print(1)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
until(lambda: os.stat(os.path.join(folder, name)).st_mtime_ns > before)
"""
    answer = child(COMPARE + code)
    assert (answer.returncode, answer.stdout) == (0, "1\n"), answer.stderr
    told = f"dirac-perfpatch: comparison: {tmp_path}/spool: File too large; no snapshot was written\n"
    assert answer.stderr == told
    assert len(read_spools([str(tmp_path)]).snapshots) == 1


def test_who_is_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    code = (
        COMPARE + "journal._SNAPSHOT_SECONDS = journal._LOOK_SECONDS = 0\ncompare()\nprint(flush=True)\ntime.sleep(60)"
    )
    for number in range(10):
        spool = tmp_path / str(number)
        with subprocess.Popen([sys.executable, "-c", code, str(spool)], stdout=subprocess.PIPE) as process:
            assert process.stdout
            process.stdout.readline()
            while not list(spool.glob("*.json")):
                assert process.poll() is None
                time.sleep(0.01)
            time.sleep(0.05 + number / 1000)
            process.kill()
    found = read_spools([str(tmp_path)])
    assert (len(found.snapshots), found.complaints) == (10, ())


def test_a_signal_handler_that_does_what_its_thread_is_doing(child: Child) -> None:
    """The handler puts patches on and off and forks, at any point of code that does the same."""
    code = """
turns = 0
def turn(*_):
    global turns
    turns += 1
    comparison = compare()
    comparison.resume()
    comparison.leave()
    if turns % 50 == 0:
        fork()
signal.signal(signal.SIGALRM, turn)
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
end = time.monotonic() + 1.5
while time.monotonic() < end:
    turn()
signal.setitimer(signal.ITIMER_REAL, 0)
last = compare()
def handler(*_):
    last.leave()
    last._guard.off = True
signal.signal(signal.SIGALRM, handler)
with last._lock:
    signal.raise_signal(signal.SIGALRM)
    last.resume()
print(last._guard.off)
"""
    assert child(COMPARE + code).stdout == "True\n"


def test_a_fork_while_another_thread_changes_a_comparison(child: Child) -> None:
    """The child does not have the thread that holds the comparison's lock, and goes on without it."""
    code = """
first = compare()
held, over = threading.Event(), threading.Event()
def change():
    with first._lock:
        held.set()
        over.wait()
threading.Thread(target=change).start()
held.wait()
pid = os.fork()
if not pid:
    signal.alarm(5)
    first.resume()
    compare().leave()
    os._exit(0)
status = os.waitpid(pid, 0)[1]
over.set()
print(status)
"""
    assert child(COMPARE + code).stdout == "0\n"


def test_the_folder_changes_and_the_process_has_one_file_in_each(child: Child, tmp_path: Path) -> None:
    code = """
ours.folder = folder + "1"
comparison = compare()
call = comparison.record("f", lambda: 1, lambda: 2, None)
call()
until(lambda: os.path.isdir(folder + "1") and os.listdir(folder + "1"))
ours.folder = folder + "2"
call()
print(len(os.listdir("/proc/self/task")))
"""
    assert child(COMPARE + code).stdout == "2\n"
    (found,) = read_spools([str(tmp_path)]).snapshots
    assert sum(one.calls for one in found.series) == 2
    assert len(list(tmp_path.glob("spool?/*.json"))) == 2
