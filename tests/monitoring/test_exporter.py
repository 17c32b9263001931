"""The command `dirac-perfpatch export`: what a scrape answers, whatever happens to the spool."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import pytest
from conftest import Exporter

from dirac_perfpatch.comparison import exporter as exporting
from dirac_perfpatch.comparison.journal import Journal
from dirac_perfpatch.comparison.recording import Recorder
from dirac_perfpatch.comparison.snapshot import State
from dirac_perfpatch.comparison.spool import Spool, host_name
from lab.spools import TARGETS, Process, felt, write

ERROR_STACK = ("error_stack", "S_ERROR")
CATALOG = "DataManagement/FileCatalog"
STORE = "Accounting/DataStore"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def _process(spool: Path, pid: int = 1, calls: int = 1600, component: str = CATALOG) -> Process:
    process = Process(spool, component, pid=pid)
    process.record(*ERROR_STACK, "patched", calls, errors=7)
    process.write()
    return process


# Counting


def test_counters_are_sums_over_the_processes_of_a_component(spool: Path, exporter: Exporter) -> None:
    for pid, component in enumerate([CATALOG, CATALOG, STORE]):
        _process(spool, pid, component=component)
    labels = {"host": "h1.example.org", "patch": "error_stack", "target": "S_ERROR", "arm": "patched"}
    assert exporter.value("calls_total", component=CATALOG, **labels) == 3200
    assert exporter.value("calls_total", component=STORE, **labels) == 1600
    assert exporter.value("errors_total", component=CATALOG, **labels) == 14
    assert exporter.value("call_seconds_count", component=CATALOG, **labels) == 200
    assert not [key for key in exporter.scrape() if {"pid", "1"} & {part for pair in key[1] for part in pair}]


def test_numbers_of_a_patch_and_its_events(spool: Path, exporter: Exporter) -> None:
    for pid in (1, 2):
        process = Process(spool, CATALOG, pid=pid)
        process.snapshot["patches"]["proxy_loading"].update(failures=1, checked=20, differences=2)
        process.event("proxy_loading", "misses", 4)
        process.write()
    for name, value in {"failures": 2, "checks": 40, "differences": 4, "events": 8}.items():
        assert exporter.value(f"{name}_total", component=CATALOG, patch="proxy_loading") == value
    assert exporter.value("events_total", patch="proxy_loading", event="misses") == 8
    assert exporter.value("differences_total", patch="error_stack") == 0


def test_times_are_in_the_buckets_that_they_belong_to(spool: Path, exporter: Exporter) -> None:
    process = Process(spool, CATALOG)
    for number, (patch, target) in enumerate(TARGETS):
        process.record(patch, target, "stock", 16_000 + number, spread=2.0)
    process.write()
    found = exporter.scrape()
    for series in process.snapshot["series"]:
        mine = {name: series[name] for name in ("patch", "target", "arm")}.items()
        buckets = {
            float(dict(labels)["le"]): value
            for (name, labels), value in found.items()
            if name == "dirac_perfpatch_call_seconds_bucket" and labels >= mine
        }
        bounds = sorted(buckets)
        assert len(bounds) < 20
        times = process.times[series["patch"], series["target"], series["arm"]]
        # The sketch is accurate to 1 %.
        for bound in bounds:
            low, high = (sum(time <= bound * near for time in times) for near in (0.98, 1.02))
            assert low <= buckets[bound] <= high
        (total,) = [v for (n, labels), v in found.items() if n.endswith("call_seconds_sum") and labels >= mine]
        assert total == pytest.approx(series["seconds"])


def test_a_time_that_the_clock_could_not_see_is_in_the_first_bucket(spool: Path, exporter: Exporter) -> None:
    process = _process(spool, calls=0)
    process.snapshot["series"][0]["sketch"]["zero"] = 3
    process.write()
    assert exporter.value("call_seconds_bucket", le="1e-07", patch="error_stack") == 3


def test_a_snapshot_of_the_plugin_s_own_is_read(spool: Path, exporter: Exporter) -> None:
    # No patch is compared and one has tripped, so the snapshot has no arms.
    tripped = State("tripped", "", "off", 3)
    content = {"release": "9.1.8", "plugin": "0.1.0", "patches": {"error_stack": tripped}, "events": {}}
    Journal(str(spool), lambda: content).show()
    end = time.monotonic() + 10
    while not list(spool.glob("*.json")):  # it is written in the background
        assert time.monotonic() < end
        time.sleep(0.01)
    assert exporter.value("spool_unreadable_files") == 0
    assert exporter.value("failures_total", host=host_name(), patch="error_stack") == 3
    assert exporter.value("tripped_processes", host=host_name(), patch="error_stack") == 1
    recorder = Recorder("error_stack", "S_ERROR", lambda: {"OK": False}, lambda: {"OK": False})
    function = recorder.stand_in(lambda: True)
    for _ in range(100):
        function()
    recorder.settle()
    (series,) = recorder.series()
    Spool().write(str(spool), {**content, "series": [series], "blocks": []}, ended=False)
    labels = {"patch": "error_stack", "target": "S_ERROR", "arm": "patched"}
    assert exporter.value("calls_total", **labels) == exporter.value("errors_total", **labels) == 100
    assert exporter.value("call_seconds_count", **labels) == series.timed > 0
    assert exporter.value("call_seconds_sum", **labels) == pytest.approx(series.seconds)


# Requests, statements and cycles


def _felt(process: Process, method: str, number: int, patch: str = "error_stack", **more: Any) -> None:
    for arm, seconds in (("stock", 0.02), ("patched", 0.01)):
        process.outcome(patch, arm, method, number, seconds, **more)


def test_outcomes_are_sums_over_the_processes_of_a_component(spool: Path, exporter: Exporter) -> None:
    for pid, component in enumerate([CATALOG, CATALOG, STORE]):
        process = Process(spool, component, pid=pid)
        _felt(process, f"{component} ping", 100, errors=3, mixed=2)
        _felt(process, "SQL", 500, kind="statement")
        _felt(process, f"{component} ping", 10, patch="proxy_loading")
        process.write()
    ping = {"component": CATALOG, "method": f"{CATALOG} ping", "kind": "request"}
    mine = {**ping, "patch": "error_stack", "arm": "patched", "host": "h1.example.org"}
    assert exporter.value("outcomes_total", **mine) == 200
    assert exporter.value("outcome_errors_total", **mine) == 6
    assert exporter.value("outcome_seconds_total", **mine) == pytest.approx(2)
    assert exporter.value("outcome_cpu_seconds_total", **mine) == pytest.approx(1.6)
    assert exporter.value("outcome_seconds_total", **{**mine, "arm": "stock"}) == pytest.approx(4)
    assert exporter.value("outcomes_total", **{**mine, "patch": "proxy_loading"}) == 20
    assert exporter.value("outcomes_total", component=CATALOG, kind="statement", method="SQL", arm="stock") == 1000
    assert exporter.value("mixed_outcomes_total", **ping) == 8
    assert not [key for key in exporter.scrape() if "pid" in dict(key[1])]


def test_what_a_process_served_stays_when_its_file_goes(spool: Path, exporter: Exporter) -> None:
    first = Process(spool, CATALOG, pid=1)
    _felt(first, "ping", 100)
    first.write()
    assert exporter.value("outcomes_total", arm="stock") == 100
    first.path.unlink()
    second = Process(spool, CATALOG, pid=2)
    _felt(second, "ping", 10)
    second.write()
    assert exporter.value("outcomes_total", arm="stock") == 110
    _felt(second, "ping", 5)
    second.write()
    assert exporter.value("outcomes_total", arm="stock") == 115


def test_a_restarted_exporter_counts_new_outcomes_only(spool: Path, export: Callable[[Path], Exporter]) -> None:
    process = Process(spool, CATALOG)
    _felt(process, "ping", 100)
    process.write()
    time.sleep(0.01)
    exporter = export(spool)
    assert [v for (n, _), v in exporter.scrape().items() if n == "dirac_perfpatch_outcomes_total"] == [0, 0]
    _felt(process, "ping", 7)
    process.write()
    assert exporter.value("outcomes_total", arm="stock") == 7


def test_a_component_has_a_bounded_number_of_methods_the_frequent_first(spool: Path, exporter: Exporter) -> None:
    process = Process(spool, CATALOG, pid=1)
    for number in range(30):
        _felt(process, f"method{number}", 1 + number)
    _felt(process, "SQL", 1000, kind="statement")
    process.write()
    other = Process(spool, STORE, pid=2)
    _felt(other, "commit", 1)
    other.write()

    def methods() -> dict[str, float]:
        return {
            dict(labels)["method"]: value
            for (name, labels), value in exporter.scrape().items()
            if name == "dirac_perfpatch_outcomes_total" and {("arm", "stock"), ("component", CATALOG)} <= labels
        }

    found = methods()
    rare = 30 - (exporting.MOST_METHODS - 1)
    assert set(found) == {"SQL", "other", *(f"method{number}" for number in range(rare, 30))}
    assert found["other"] == sum(range(1, rare + 1))
    assert exporter.value("outcomes_total", method="commit", arm="stock") == 1
    # Whatever becomes frequent later, and whoever invents names: the series stay those, and nothing is lost.
    for number in range(3, 6):
        later = Process(spool, CATALOG, pid=number)
        for name in ("method0", f"invented{number}"):
            _felt(later, name, 100_000)
        later.write()
    assert set(methods()) == set(found)
    assert methods()["other"] == found["other"] + 600_000
    assert sum(methods().values()) == sum(found.values()) + 600_000


@pytest.mark.parametrize("state", ["armed", "stood down", "failed"])
def test_a_patch_without_effect_has_no_arms_and_only_what_follows_counts(
    spool: Path, exporter: Exporter, state: str
) -> None:
    process = Process(spool, CATALOG)
    for patch in ("error_stack", "proxy_loading"):
        _felt(process, "ping", 10, patch=patch)
    process.snapshot["patches"]["error_stack"].update(state=state)
    process.write()
    assert exporter.value("outcomes_total", patch="proxy_loading", arm="stock") == 10
    assert exporter.value("outcomes_total") == 20
    process.snapshot["patches"]["error_stack"].update(state="applied")
    _felt(process, "ping", 3)
    process.write()
    assert exporter.value("outcomes_total", patch="error_stack", arm="stock") == 3
    assert exporter.value("outcome_seconds_total", patch="error_stack", arm="stock") == pytest.approx(0.06)
    assert exporter.value("outcomes_total") == 26


def test_outcomes_that_the_plugin_recorded_are_served(spool: Path, exporter: Exporter) -> None:
    document = felt(numpy.random.default_rng(1), {"error_stack": 2.0}, pairs=30)
    document.update(started=time.time(), written=time.time())
    write(spool, [document])
    seconds = {
        arm: exporter.value("outcome_seconds_total", arm=arm, kind="request", method=f"{CATALOG} addFile")
        / exporter.value("outcomes_total", arm=arm, kind="request", method=f"{CATALOG} addFile")
        for arm in ("stock", "patched")
    }
    assert 1.4 < seconds["stock"] / seconds["patched"] < 2.8
    windows = document["outcomes"]["windows"]
    assert exporter.value("outcomes_total") == sum(row[1] for window in windows for row in window["rows"])
    assert exporter.value("spool_unreadable_files") == 0


# Counters never decrease


def test_what_a_process_did_stays_when_its_file_goes(spool: Path, exporter: Exporter) -> None:
    first = _process(spool, 1, 100)
    assert exporter.value("calls_total") == 100
    _process(spool, 2, 10)
    first.path.unlink()
    assert exporter.value("calls_total") == 110
    assert exporter.value("calls_total") == 110


def test_a_file_that_was_away_for_a_while_is_not_counted_twice(spool: Path, exporter: Exporter) -> None:
    process = _process(spool, 1, 100)
    _process(spool, 2, 10)
    assert exporter.value("calls_total") == 110
    os.rename(spool, spool.with_name("away"))
    assert exporter.value("calls_total") == 110
    assert exporter.value("spool_readable") == 0
    os.rename(spool.with_name("away"), spool)
    process.record(*ERROR_STACK, "patched", 5)
    process.write()
    assert exporter.value("calls_total") == 115
    assert exporter.value("spool_readable") == 1


def test_a_file_that_is_broken_for_a_while_keeps_its_share(spool: Path, exporter: Exporter) -> None:
    process = _process(spool, 1, 100)
    assert exporter.value("calls_total") == 100
    process.path.write_text(process.path.read_text()[:300])
    assert (exporter.value("calls_total"), exporter.value("spool_unreadable_files")) == (100, 1)
    process.write()
    assert (exporter.value("calls_total"), exporter.value("spool_unreadable_files")) == (100, 0)


@pytest.mark.parametrize("place", ["", "zz/"])
def test_of_several_files_of_a_process_the_one_that_was_written_last_counts(
    spool: Path, exporter: Exporter, place: str
) -> None:
    # A copy of the spool below it, in the order of the paths before or after the newest file.
    newest = spool / "new"
    process = Process(newest, CATALOG, pid=1)
    process.record(*ERROR_STACK, "patched", 10)
    process.write()
    copy = spool / f"{place}copy" / process.path.name
    copy.parent.mkdir(parents=True)
    shutil.copy(process.path, copy)
    process.snapshot["patches"]["error_stack"].update(state="tripped")
    process.record(*ERROR_STACK, "patched", 990)
    process.write()
    mine = {"patch": "error_stack"}
    assert exporter.value("calls_total", **mine) == 1000
    process.record(*ERROR_STACK, "patched", 1)
    process.write()
    assert exporter.value("calls_total", **mine) == 1001
    assert exporter.value("patch_processes", **mine) == exporter.value("tripped_processes", **mine) == 1
    assert exporter.value("processes") == 1
    # The copy is made anew, of less, while the other file is away.
    os.rename(newest, spool.with_name("away"))
    copy.write_text(copy.read_text() + "\n")
    assert exporter.value("calls_total", **mine) == 1001
    os.rename(spool.with_name("away"), newest)
    assert exporter.value("calls_total", **mine) == 1001


def test_what_a_process_did_before_the_exporter_is_not_counted_from_an_older_copy(
    spool: Path, export: Callable[[Path], Exporter]
) -> None:
    process = Process(spool / "new", CATALOG, pid=1)
    process.record(*ERROR_STACK, "patched", 10)
    process.write()
    copy = spool / "copy" / process.path.name
    copy.parent.mkdir()
    shutil.copy(process.path, copy)
    process.record(*ERROR_STACK, "patched", 990)
    process.write()
    time.sleep(0.01)
    exporter = export(spool)
    assert exporter.value("calls_total") == 0
    process.record(*ERROR_STACK, "patched", 7)
    process.write()
    assert exporter.value("calls_total") == 7


def test_restarts_of_a_process_make_no_new_series(spool: Path, exporter: Exporter) -> None:
    process = _process(spool, 1, 10)
    series = set(exporter.scrape())
    for pid in range(2, 30):
        process.path.unlink()
        process = _process(spool, pid, 10)
        found = exporter.scrape()
        assert set(found) == series
    assert exporter.value("calls_total") == 290


def test_a_pid_that_is_used_again_is_another_process(spool: Path, exporter: Exporter) -> None:
    _process(spool, 1, 100)
    assert exporter.value("calls_total") == 100
    _process(spool, 1, 30)
    assert exporter.value("calls_total") == 130


def test_a_restarted_exporter_begins_at_zero(spool: Path, export: Callable[[Path], Exporter]) -> None:
    process = _process(spool, 1, 100)
    time.sleep(0.01)
    exporter = export(spool)
    # The series exists, so Prometheus sees the next call as an increase.
    assert [v for (n, _), v in exporter.scrape().items() if n == "dirac_perfpatch_calls_total"] == [0]
    process.record(*ERROR_STACK, "patched", 7)
    process.write()
    assert exporter.value("calls_total") == 7


def test_what_happens_before_the_first_scrape_is_counted(spool: Path, export: Callable[[Path], Exporter]) -> None:
    process = _process(spool, 1, 100)
    time.sleep(0.01)
    exporter = export(spool)
    process.record(*ERROR_STACK, "patched", 7)
    process.write()
    assert exporter.value("calls_total") == 7


def test_thousands_of_processes_that_ended_are_counted_once(spool: Path, exporter: Exporter) -> None:
    old = _process(spool, 1, 10)
    for batch in (1, 2):
        others = [_process(spool, pid, 100) for pid in range(batch * 1000, batch * 1000 + 600)]
        assert exporter.value("calls_total") == 10 + batch * 60_000
        for other in others:
            other.path.unlink()
    # More processes have vanished than are remembered, but this one never did.
    exporter.scrape()
    old.write()
    assert exporter.value("calls_total") == 120_010
    # These existed before the folder was away.
    others = [_process(spool, pid, 100) for pid in range(5000, 6200)]
    assert exporter.value("calls_total") == 240_010
    os.rename(spool, spool.with_name("away"))
    exporter.scrape()
    os.rename(spool.with_name("away"), spool)
    others[0].write()
    assert exporter.value("calls_total") == 240_010


def test_a_file_that_has_not_changed_costs_nothing_at_a_scrape(spool: Path, exporter: Exporter) -> None:
    process = Process(spool, CATALOG)
    process.fill()
    content = process.snapshot
    for pid in range(20):
        copy = Process(spool, CATALOG, pid=pid)
        copy.snapshot = {**content, "pid": pid}
        copy.write(ended=True)
    first = exporter.value("spool_reading_seconds")
    assert exporter.value("spool_reading_seconds") < first / 4


# States


def test_the_states_of_a_patch_in_the_processes_that_live(spool: Path, exporter: Exporter) -> None:
    now = time.time()
    for pid, state in enumerate(["applied", "applied", "tripped", "stood down", "tripped", "tripped"]):
        process = Process(spool, CATALOG, pid=pid)
        process.snapshot["patches"]["error_stack"].update(state=state, mode="on" if pid == 1 else "ab")
        process.write(ended=pid == 4, written=now - 300 if pid == 5 else None)
    mine = {"component": CATALOG, "patch": "error_stack"}
    assert exporter.value("patch_processes", state="applied", mode="ab", **mine) == 1
    assert exporter.value("patch_processes", state="applied", mode="on", **mine) == 1
    assert exporter.value("patch_processes", state="stood down", **mine) == 1
    # Not the one that has ended and the one that was killed.
    assert exporter.value("patch_processes", state="tripped", **mine) == 1
    assert exporter.value("tripped_processes", **mine) == 1
    assert exporter.value("tripped_processes", component=CATALOG, patch="dms_helpers") == 0
    assert exporter.value("processes", release="9.1.8", plugin="0.1.0", component=CATALOG) == 4


def test_the_newest_snapshot_of_each_component(spool: Path, exporter: Exporter) -> None:
    now = round(time.time())
    Process(spool, CATALOG, pid=1).write(written=now - 3000)
    Process(spool, CATALOG, pid=2).write(written=now - 2000)
    Process(spool, STORE, pid=3).write(written=now - 1000)
    Process(spool, "Ended/Service", pid=4).write(ended=True)
    Process(spool, "Killed/LongAgo", pid=5).write(written=now - 90_000)
    assert exporter.value("last_snapshot_timestamp_seconds", component=CATALOG) == now - 2000
    assert exporter.value("last_snapshot_timestamp_seconds", component=STORE) == now - 1000
    # No component that ended normally, or has been silent for a day.
    assert exporter.value("last_snapshot_timestamp_seconds", component="Ended/Service") == 0
    assert exporter.value("last_snapshot_timestamp_seconds", component="Killed/LongAgo") == 0


# Damage


def test_broken_files_are_counted_and_the_others_are_read(spool: Path, exporter: Exporter) -> None:
    process = _process(spool, 1, 100)
    broken = {"cut": b'{"format": 1, "host"', "binary": b"\xff\x00", "list": b"[]", "new": b'{"format": 99}', "no": b""}
    for name, content in broken.items():
        (spool / f"{name}.json").write_bytes(content)
    (spool / ".h.1.1.json.tmp").write_bytes(b"half")
    hard: list[dict[str, Any]] = [{"pid": 2**31}, {"started": 1e17}, {"written": float("nan")}, {"host": 10**400}]
    hard += [{"series": [{**process.snapshot["series"][0], "sketch": sketch}]} for sketch in _sketches()]
    for number, changes in enumerate(hard):
        (spool / f"hard{number}.json").write_text(json.dumps({**process.snapshot, **changes}))
    (spool / "link.json").symlink_to(process.path)
    os.mkfifo(spool / "pipe.json")
    (spool / os.fsdecode(b"\x1b[2J\xff'\"<b>\n.json")).write_text("{")
    assert exporter.value("calls_total") == 100
    assert exporter.value("spool_files") == 1
    assert exporter.value("spool_unreadable_files") == len(broken) + len(hard) + 3


def _sketches() -> list[dict[str, Any]]:
    bins: list[Any] = [{"9" * 400: 1}, {"-" + "9" * 5000: 1}, {"1": 10**400}, {"1": float("inf")}, {"x": 1}, []]
    return [{"accuracy": 0.01, "zero": 0, "bins": one} for one in bins] + [{"accuracy": 5e-324, "zero": 0, "bins": {}}]


def test_labels_that_a_file_makes_up_cannot_break_a_scrape(spool: Path, exporter: Exporter) -> None:
    process = Process(spool, CATALOG)
    process.snapshot["component"] = 'a"b\\c\nd{}=é\u2028\ud800\x1b[2J\0'
    process.record(*ERROR_STACK, "patched", 5)
    process.event("error_stack", 'x"} 1\ny', 3)
    process.write()
    assert exporter.value("calls_total") == 5
    assert exporter.value("events_total") == 3


def test_a_folder_that_is_not_there_yet(tmp_path: Path, export: Callable[[Path], Exporter]) -> None:
    exporter = export(tmp_path / "later" / "spool")
    assert exporter.value("spool_readable") == 0
    _process(tmp_path / "later" / "spool", 1, 100)
    assert (exporter.value("spool_readable"), exporter.value("calls_total")) == (1, 100)
    shutil.rmtree(tmp_path / "later")
    assert (exporter.value("spool_readable"), exporter.value("calls_total")) == (0, 100)


def test_scrapes_at_the_same_time_count_nothing_twice(spool: Path, exporter: Exporter) -> None:
    processes = [_process(spool, pid, 0) for pid in range(10)]
    for round_ in range(1, 6):
        for process in processes:
            process.record(*ERROR_STACK, "patched", 100)
            process.write()
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: exporter.value("calls_total"), range(4)))
        assert found == [1000.0 * round_] * 4


def test_a_file_system_that_hangs_does_not_gather_scrapes(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_PATIENCE", 0.1)
    collector, end = exporting.SpoolCollector(spool), threading.Event()
    monkeypatch.setattr(collector, "_read", lambda: (end.wait(10), ([], [], 0))[1])
    first = threading.Thread(target=collector.collect)
    first.start()
    try:
        with pytest.raises(TimeoutError):
            collector.collect()
    finally:
        end.set()
        first.join()
    assert collector.collect()


# The command


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(exporter: Exporter, number: signal.Signals) -> None:
    exporter.scrape()
    # A client that connects and sends nothing does not delay it.
    host, port = exporter.address.split(":")
    with socket.create_connection((host, int(port))):
        exporter.process.send_signal(number)
        assert exporter.process.wait(5) == 0
    assert (exporter.process.communicate()[0], exporter.log.read_text()) == (b"", "")


def test_a_port_that_is_taken_is_reported_in_one_line(spool: Path, exporter: Exporter, run_export: Run) -> None:
    host, port = exporter.address.split(":")
    done = run_export("--spool", str(spool), "--address", host, "--port", port)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"dirac-perfpatch: cannot listen on {host}:{port}: .*in use\n", done.stderr)


@pytest.mark.parametrize("arguments", [["--port", "70000"], ["--address", "no.such.host.invalid"]])
def test_nonsense_to_listen_on_is_reported_in_one_line(spool: Path, run_export: Run, arguments: list[str]) -> None:
    done = run_export("--spool", str(spool), *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert arguments[1] in done.stderr


def test_without_the_client_library_one_line_says_what_to_install(spool: Path, run_export: Run) -> None:
    done = run_export("--spool", str(spool), before="sys.modules['prometheus_client'] = None")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "pip install 'dirac-perfpatch[export]'" in done.stderr


def test_without_dirac_and_without_a_folder_one_line_says_so(run_export: Run) -> None:
    done = run_export()
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no DIRAC can be imported" in done.stderr


def test_the_plugin_loads_without_the_client_library(run_export: Run) -> None:
    done = run_export("--help", before="import dirac_perfpatch.cli; assert 'prometheus_client' not in sys.modules")
    assert (done.returncode, done.stderr) == (0, "")
    assert "18524" in done.stdout
