"""A/B in processes of a real host: each arm runs what it should, and no recorded call is lost."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import in_tree, run

from lab.mariadb import MariaDB

pytestmark = pytest.mark.patched

# What every command of the host does first; then it imports something more, which starts the plugin.
_LOAD = """
import importlib.util
from DIRAC.Core.Utilities.Extensions import extensionsByPriority, getExtensionMetadata
extensionsByPriority()
importlib.util.find_spec("DIRACnext")
"""
_LOOP = (
    _LOAD
    + """
import os, time
import DIRAC
from DIRAC import S_ERROR
from DIRAC.Core.Security.X509Chain import X509Chain
proxy = os.path.join(os.path.dirname(DIRAC.__file__), "Core", "Security", "test", "certs", "voms", "proxy.pem")
def work(seconds):
    number, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        assert extensionsByPriority() == ["DIRAC"]
        assert getExtensionMetadata("DIRAC")["priority"] == 0
        assert len(S_ERROR("x")["CallStack"]) >= 2
        assert X509Chain().loadProxyFromFile(proxy)["OK"]
        number += 1
    return number
"""
)


def toggles(folder: Path, *patches: str, **comparison: Any) -> dict[str, str]:
    """Environment variables with toggles that compare these patches; the spool is in the folder."""
    settings = {"window_seconds": 0.2, "spool": folder / "spool", "check_one_in": 100, **comparison}
    lines = ["patches:", *(f"  {name}: ab" for name in patches)]
    lines += ["comparison:", *(f"  {name}: {value}" for name, value in settings.items())]
    path = folder / "patches.yaml"
    path.write_text("\n".join(lines) + "\n")
    return {"DIRAC_PERFPATCH_CONFIG": str(path)}


def done(answer: subprocess.CompletedProcess[str]) -> list[str]:
    assert answer.returncode == 0, answer.stderr
    assert "dirac-perfpatch: " not in answer.stderr, answer.stderr
    return answer.stdout.split()


def snapshots(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((folder / "spool").glob("*.json"))]


def calls(snapshot: dict[str, Any]) -> dict[str, Counter[str]]:
    """Calls by target and arm."""
    found: dict[str, Counter[str]] = {}
    for row in snapshot["series"]:
        found.setdefault(row["target"], Counter())[row["arm"]] += row["calls"]
    return found


SINGLE = ("extension_lookup", "error_stack", "proxy_loading")
TARGETS = {"extensionsByPriority", "getExtensionMetadata", "S_ERROR", "X509Chain.loadProxyFromFile"}


def test_by_time_both_arms_run_and_every_call_is_counted(tmp_path: Path) -> None:
    # Most calls are made while extension_lookup is patched: each patch needs pairs of windows in which it is, too.
    (number,) = done(run(_LOOP + "print(work(3))", **toggles(tmp_path, *SINGLE, window_seconds=0.1)))
    (snapshot,) = snapshots(tmp_path)
    assert snapshot["ended"] is True
    found = calls(snapshot)
    for target in TARGETS:
        # The host itself calls them a few times while it is imported.
        assert int(number) <= sum(found[target].values()) <= int(number) + 20
        assert min(found[target]["patched"], found[target]["stock"]) > 0
    states = snapshot["patches"]
    assert {states[name]["mode"] for name in SINGLE} == {"ab"}
    assert min(states[name]["checked"] for name in SINGLE) >= 3
    assert {states[name]["differences"] for name in SINGLE} == {0}
    blocks = [row for row in snapshot["blocks"] if row["target"] == "S_ERROR"]
    assert sum(row["calls"] for row in blocks) == sum(found["S_ERROR"].values())
    events = snapshot["events"]["proxy_loading"]
    assert events["hits"] + events["misses"] >= found["X509Chain.loadProxyFromFile"]["patched"]


@pytest.mark.once
def test_each_arm_runs_what_it_says(tmp_path: Path) -> None:
    """Stock walks over the distributions in each call, the patch only once."""
    code = (
        _LOOP
        + """
import DIRAC.Core.Utilities.Extensions as module
walks = []
real = module.metadata.entry_points
module.metadata.entry_points = lambda *args, **kwargs: walks.append(1) or real(*args, **kwargs)
work(2)
print(len(walks))
"""
    )
    (walks,) = done(run(code, **toggles(tmp_path, "extension_lookup")))
    (snapshot,) = snapshots(tmp_path)
    found = calls(snapshot)
    stock = sum(found[target]["stock"] for target in ("extensionsByPriority", "getExtensionMetadata"))
    checked = snapshot["patches"]["extension_lookup"]["checked"]
    # Plus one walk of the patch for each function, and calls from before the count began.
    assert int(walks) <= stock + checked + 4
    assert in_tree() or stock - 20 <= int(walks)
    assert found["extensionsByPriority"]["patched"] > 0


@pytest.mark.once
@pytest.mark.parametrize("arm", ["patched", "stock"])
def test_by_process_and_pinned(arm: str, tmp_path: Path) -> None:
    environment = toggles(tmp_path, "error_stack", by="process")
    done(run(_LOOP + "print(work(0.3))", DIRAC_PERFPATCH_ARM=arm, **environment))
    (snapshot,) = snapshots(tmp_path)
    assert {row["arm"] for row in snapshot["series"]} == {arm}
    assert snapshot["patches"]["error_stack"]["arm"] == arm
    assert snapshot["cpu_seconds"] > 0
    assert snapshot["resident_bytes"] > 10_000_000


@pytest.mark.once
def test_by_call_the_arms_are_mixed(tmp_path: Path) -> None:
    (number,) = done(run(_LOOP + "print(work(1))", **toggles(tmp_path, "error_stack", by="call", share=0.25)))
    (snapshot,) = snapshots(tmp_path)
    found = calls(snapshot)["S_ERROR"]
    assert int(number) <= sum(found.values()) <= int(number) + 20
    assert found["patched"] / sum(found.values()) == pytest.approx(0.25, abs=0.1)


@pytest.mark.parametrize("by", ["time", "call"])
def test_call_stacks_are_those_of_stock_in_both_arms(by: str, tmp_path: Path) -> None:
    code = (
        _LOAD
        + """
import time, traceback
from DIRAC import S_ERROR
def one():
    return S_ERROR("x")["CallStack"], traceback.format_stack()
end = time.monotonic() + 0.8  # two pairs of windows
while time.monotonic() < end:
    stack, wanted = one()
    assert [line.split(",")[0] for line in stack] == [line.split(",")[0] for line in wanted], (stack, wanted)
"""
    )
    done(run(code, **toggles(tmp_path, "error_stack", by=by)))
    assert min(calls(snapshots(tmp_path)[0])["S_ERROR"].values()) > 0


@pytest.mark.once
def test_a_difference_trips_the_patch_and_stock_answers(tmp_path: Path) -> None:
    code = (
        _LOOP
        + """
from DIRAC.Core.Utilities import Extensions
import dirac_perfpatch
import DIRAC.Core.Utilities.Extensions as module
# The result of the walk changes in the running process, which the patch does not notice.
work(0.1)
real = module.entrypointToExtension
module.entrypointToExtension = lambda entry_point: "Other" if real(entry_point) == "DIRAC" else real(entry_point)
for _ in range(200):
    answer = extensionsByPriority()
    if answer == ["Other"]:
        break
state = {entry["name"]: entry for entry in dirac_perfpatch.status()}["extension_lookup"]
print(answer[0], state["state"])
"""
    )
    environment = toggles(tmp_path, "extension_lookup", by="process", check_one_in=10)
    answer = run(code, DIRAC_PERFPATCH_ARM="patched", **environment)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == ["Other", "tripped"]
    assert answer.stderr.count("extensionsByPriority did not answer as stock does") == 1
    (snapshot,) = snapshots(tmp_path)
    assert snapshot["patches"]["extension_lookup"]["state"] == "tripped"
    assert snapshot["patches"]["extension_lookup"]["differences"] == 1


@pytest.mark.once
def test_a_patch_that_is_on_leaves_a_snapshot_when_it_trips(tmp_path: Path) -> None:
    code = (
        _LOAD
        + """
from DIRAC import S_ERROR
from dirac_perfpatch.patches import error_stack
def make(self, frame):
    raise RuntimeError
error_stack._Texts.make = make
for number in range(5):
    eval("S_ERROR(1)", {"S_ERROR": S_ERROR})
"""
    )
    environment = toggles(tmp_path)
    Path(environment["DIRAC_PERFPATCH_CONFIG"]).write_text(f"comparison:\n  spool: {tmp_path}/spool\n")
    answer = run(code, **environment)
    assert answer.returncode == 0, answer.stderr
    (snapshot,) = snapshots(tmp_path)
    assert snapshot["patches"]["error_stack"]["state"] == "tripped"
    assert snapshot["series"] == []


@pytest.mark.once
def test_children_count_for_themselves(tmp_path: Path) -> None:
    code = (
        _LOOP
        + """
import multiprocessing
def child(seconds):
    print("child", work(seconds), flush=True)
print("parent", work(0.5), flush=True)
process = multiprocessing.get_context("fork").Process(target=child, args=(0.7,))
process.start()
process.join()
if os.fork() == 0:
    print("child", work(0.7), flush=True)
    raise SystemExit
os.wait()
"""
    )
    words = done(run(code, **toggles(tmp_path, "error_stack")))
    told = [(words[place], int(words[place + 1])) for place in range(0, len(words), 2)]
    found = snapshots(tmp_path)
    assert len({snapshot["pid"] for snapshot in found}) == 3
    assert all(snapshot["ended"] for snapshot in found)
    counted = sorted(sum(calls(snapshot)["S_ERROR"].values()) for snapshot in found)
    assert all(0 <= seen - count <= 20 for seen, (_, count) in zip(counted, sorted(told, key=lambda entry: entry[1])))


def test_the_hosts_process_pool(tmp_path: Path) -> None:
    """Its workers end without atexit."""
    code = (
        _LOOP
        + """
from DIRAC.Core.Utilities.ProcessPool import ProcessPool
def task():
    for number in range(500):
        S_ERROR("x")
    return {"OK": True, "Value": number}
if __name__ == "__main__":
    pool = ProcessPool(2, 2, 10)
    for number in range(4):
        assert pool.createAndQueueTask(task, blocking=True)["OK"]
    pool.processAllResults(timeout=30)
    pool.finalize(timeout=20)
"""
    )
    script = tmp_path / "pool.py"
    script.write_text(code)
    answer = run(
        f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')", **toggles(tmp_path, "error_stack")
    )
    assert answer.returncode == 0, answer.stderr
    found = snapshots(tmp_path)
    assert len(found) >= 2
    assert sum(sum(calls(snapshot)["S_ERROR"].values()) for snapshot in found if "S_ERROR" in calls(snapshot)) >= 2000


@pytest.mark.once
def test_a_process_that_is_killed_leaves_its_last_snapshot(tmp_path: Path) -> None:
    code = (
        "from dirac_perfpatch.comparison import journal\njournal._SNAPSHOT_SECONDS = 0.2\n"
        + _LOOP
        + "print(work(1.5), flush=True); os.kill(os.getpid(), 9)"
    )
    answer = run(code, **toggles(tmp_path, "error_stack"))
    assert answer.returncode == -9
    (snapshot,) = snapshots(tmp_path)
    assert snapshot["ended"] is False
    assert 0 < sum(calls(snapshot)["S_ERROR"].values()) <= int(answer.stdout) + 20


@pytest.mark.once
def test_without_the_library_the_patch_is_on_and_says_so(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['ddsketch'] = None\n"
        + _LOOP
        + """
work(0.2)
import dirac_perfpatch
print(*(entry["state"] + "," + entry["mode"] for entry in dirac_perfpatch.status() if entry["name"] == "error_stack"))
"""
    )
    answer = run(code, **toggles(tmp_path, "error_stack"))
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == ["applied,on"]
    assert answer.stderr.count("dirac-perfpatch[ab]") == 1


@pytest.mark.once
def test_a_spool_that_cannot_be_written_is_reported_once(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("not a folder")
    answer = run(_LOOP + "print(work(0.3))", **toggles(tmp_path, "error_stack"))
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.count("dirac-perfpatch: ") == 1
    assert f"{tmp_path}/spool" in answer.stderr


def test_the_pool_pings_in_the_stock_arm_only(mariadb: MariaDB, tmp_path: Path) -> None:
    code = (
        _LOAD
        + f"""
import time
from DIRAC.Core.Utilities.MySQL import MySQL
db = MySQL({mariadb.host!r}, {mariadb.user!r}, {mariadb.password!r}, "AccountingDB", port={mariadb.port})
end = time.monotonic() + 3
while time.monotonic() < end:
    assert db._query("SELECT 1")["OK"]
"""
    )
    before = mariadb.pings()
    patches = ("connection_checkout", "connection_eviction", "connection_close")
    done(run(code, **toggles(tmp_path, *patches, window_seconds=0.4)))
    pings = mariadb.pings() - before
    (snapshot,) = snapshots(tmp_path)
    found = calls(snapshot)
    assert min(found["ConnectionPool.get"].values()) > 0
    # One for each stock checkout, plus those of checks and those that find a closed connection.
    checked = snapshot["patches"]["connection_checkout"]["checked"]
    stock = 0 if in_tree() else found["ConnectionPool.get"]["stock"]  # which does without a ping there
    assert stock * 0.4 <= pings < stock * 1.3 + checked + 50
    assert {entry["state"] for name, entry in snapshot["patches"].items() if name in patches} == {"applied"}
    assert sum(found["MySQL._query"].values()) > 0
    assert sum(row["errors"] for row in snapshot["series"]) == 0
    assert snapshot["events"]["connection_checkout"]["pings saved"] > 0


@pytest.mark.once
def test_status_shows_a_running_process_whose_patch_has_tripped(tmp_path: Path) -> None:
    environment = toggles(tmp_path)
    code = (
        _LOOP
        + """
import subprocess, sys
from dirac_perfpatch import loading
work(0.1)
command = [os.path.join(os.path.dirname(sys.executable), "dirac-perfpatch"), "status"]
spool = loading.plugin.spool()
print(subprocess.run(command, capture_output=True).returncode)
loading.plugin.switches["error_stack"].trip("on purpose")
end = time.monotonic() + 20
while not (os.path.isdir(spool) and os.listdir(spool)):  # it is written in the background
    assert time.monotonic() < end
    time.sleep(0.1)
answer = subprocess.run(command, capture_output=True, text=True)
print(answer.returncode, os.getpid(), answer.stdout)
"""
    )
    answer = run(code, **environment)
    before, after, pid, *told = answer.stdout.split(maxsplit=3)
    assert (before, after) == ("0", "1"), answer.stderr
    assert f"error_stack has tripped in -c, process {pid}: on purpose" in told[0]
    (snapshot,) = snapshots(tmp_path)
    assert snapshot["ended"] is True
    later = run(_LOAD + "from dirac_perfpatch.cli import main; print(main(['status']))", **environment)
    assert later.stdout.endswith("\n0\n")
