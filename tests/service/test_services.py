"""Real services, a real database, DIRAC's own client: the plugin loads in each, and answers are those of stock."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import questions

from dirac_perfpatch import cli
from dirac_perfpatch.patches import AT_IMPORT
from lab import clients, inside
from lab.arms import PATCHED, STOCK
from lab.folder import library
from lab.hosts import IN_TREE, Host, state
from lab.installation import Installation
from lab.mariadb import MariaDB

FILE_CATALOG = "DataManagement/FileCatalog"
DATA_STORE = "Accounting/DataStore"


@pytest.fixture(scope="session")
def host() -> Host:
    from importlib.metadata import version

    return Host(version("DIRAC"), "{}.{}".format(*sys.version_info), Path(sys.prefix))


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    with MariaDB(tmp_path_factory.mktemp("mariadb")) as running:
        yield running


@pytest.fixture(scope="session")
def installations(
    host: Host, database: MariaDB, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Installation]]:
    """Two of them in one environment: with the plugin, and with everything switched off."""
    folder = tmp_path_factory.mktemp("installations")
    modules = library(folder / "library", "lab", "tests/service/questions.py")
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(
                Installation(host, database, folder / name, modules, env={"DIRAC_PERFPATCH": word}, prefix=f"{name}_")
            )
            for name, word in ((PATCHED, "on"), (STOCK, "off"))
        }


def work(installation: Installation, rounds: int, tag: str) -> dict[str, Any]:
    return dict(installation.ask(clients.work, rounds, tag))


def failures(report: dict[str, Any]) -> list[str]:
    return [failure for entry in report.values() for failure in entry["failures"]]


def states(installation: Installation, service: str) -> dict[str, str]:
    return dict(installation.call(service, inside.plugin_states))


def test_what_the_plugin_does_in_each_service(installations: dict[str, Installation], host: Host) -> None:
    for service in (FILE_CATALOG, DATA_STORE):
        seen = states(installations[PATCHED], service)
        # What acts when a module is imported comes too late in a service.
        needed = {name: found for name, found in seen.items() if found != "armed" and name not in AT_IMPORT}
        assert needed == {name: state(host.release, name) for name in needed}
        assert {"extension_lookup", "error_stack", "proxy_loading", "connection_checkout"} <= set(needed)
        assert {"connection_eviction", "connection_close"} <= set(needed)
        assert set(states(installations[STOCK], service).values()) == {"off"}


def test_the_same_work_without_a_failure_and_without_pings(
    installations: dict[str, Installation], database: MariaDB, host: Host
) -> None:
    pings = {}
    for name, installation in installations.items():
        work(installation, 1, "warm")
        before = database.pings()
        assert failures(work(installation, 3, "work")) == []
        pings[name] = database.pings() - before
    if host.release != IN_TREE:
        assert pings[STOCK] > 100
    assert pings[PATCHED] * 10 <= max(pings[STOCK], 100)


def test_the_answers_are_those_of_stock(installations: dict[str, Installation]) -> None:
    answers = {}
    for name, installation in installations.items():
        with installation.client() as client:
            answers[name] = client.call(questions.ask)
            assert "dirac-perfpatch: " not in client.log.read_text()
    assert answers[PATCHED] == answers[STOCK]
    assert len(answers[STOCK]) == 36


def careful(installations: dict[str, Installation], host: Host) -> dict[str, Installation]:
    """Those that lose no statement with a connection. The host's own changes do."""
    return {name: one for name, one in installations.items() if name == PATCHED or host.release != IN_TREE}


def test_connections_that_are_killed_between_requests_cost_nothing(
    installations: dict[str, Installation], database: MariaDB, host: Host
) -> None:
    for name, installation in careful(installations, host).items():
        for number in range(4):
            database.kill_idle(database.user)
            assert failures(work(installation, 1, f"{name}-killed-{number}")) == []


def test_a_database_that_restarts(installations: dict[str, Installation], database: MariaDB, host: Host) -> None:
    database.restart()
    for installation in careful(installations, host).values():
        assert failures(work(installation, 1, "restarted")) == []


def test_nothing_of_ours_in_the_logs(installations: dict[str, Installation], host: Host) -> None:
    for installation in careful(installations, host).values():
        for service in installation.services:
            log = installation.log(service).read_text()
            assert "dirac-perfpatch: " not in log
            assert "Traceback" not in log


# From here on the toggles change, and the logs say so.


DEFAULTS = "enabled: on\n"


def toggles(installation: Installation) -> Path:
    """The file that the services of an installation look for."""
    return installation.folder / "server" / "etc" / "patches.yaml"


def set_toggles(installation: Installation, *settings: str) -> None:
    # The user's client may be at work.
    assert installation.ask(cli.main, ["set", "--file", str(toggles(installation)), *settings], admin=True) == 0


def becomes(
    installation: Installation, wanted: dict[str, str], service: str = FILE_CATALOG, what: str = "state"
) -> bool:
    """Wait for states of patches, or their modes, for as long as an operator would call it seconds."""
    deadline = time.monotonic() + 10
    while True:
        seen = {entry["name"]: entry[what] for entry in installation.call(service, inside.plugin_status)}
        if wanted.items() <= seen.items():
            return True
        assert time.monotonic() < deadline, (wanted, seen, installation.log(service).read_text()[-2000:])
        time.sleep(0.2)


def has_nodelay(installation: Installation) -> bool:
    """Whether its catalogue sets TCP_NODELAY on a new connection, before the handshake."""
    address = ("localhost", installation.layout.ports[FILE_CATALOG])
    with socket.create_connection(address) as client, socket.create_connection(address) as next_one:

        def option(end: socket.socket) -> int | None:
            answer: int | None = installation.call(FILE_CATALOG, questions.nodelay, end.getsockname()[1])
            return answer

        # One thread accepts, so it has done with the first when it has the next one.
        deadline = time.monotonic() + 10
        while option(next_one) is None:
            assert time.monotonic() < deadline, "not accepted"
            time.sleep(0.05)
        return option(client) == 1


def test_a_service_sets_nodelay_from_the_next_connection_on(installations: dict[str, Installation]) -> None:
    installation = installations[PATCHED]
    assert (has_nodelay(installation), has_nodelay(installations[STOCK])) == (True, False)
    set_toggles(installation, "socket_nodelay=off")
    assert becomes(installation, {"socket_nodelay": "off"})
    assert not has_nodelay(installation)
    toggles(installation).write_text(DEFAULTS)
    assert becomes(installation, {"socket_nodelay": "applied"})
    assert has_nodelay(installation)


def test_a_patch_is_switched_off_and_on_in_a_running_service(
    installations: dict[str, Installation], database: MariaDB, host: Host
) -> None:
    installation = installations[PATCHED]
    there = state(host.release, "connection_checkout")
    # Not asked for from here on. Its DataStore would insert what waits once in a minute, with pings of its own.
    installations[STOCK].stop()

    def pings() -> int:
        work(installation, 1, "warm")
        before = database.pings()
        assert failures(work(installation, 1, "switched")) == []
        return database.pings() - before

    assert pings() < 10
    set_toggles(installation, "connection_checkout=off")
    assert becomes(installation, {"connection_checkout": "off", "error_stack": there})
    assert becomes(installation, {"connection_checkout": "off"}, DATA_STORE)
    if host.release != IN_TREE:
        assert pings() > 30
    toggles(installation).write_text("patches:\n  connection_checkout: of\n")
    time.sleep(4)
    assert becomes(installation, {"connection_checkout": "off"})
    assert installation.log(FILE_CATALOG).read_text().count("connection_checkout must be on, off or ab") == 1
    toggles(installation).unlink()
    time.sleep(4)
    assert becomes(installation, {"connection_checkout": "off"}), "a file that vanishes switches nothing on"
    toggles(installation).write_text(DEFAULTS)
    for service in (FILE_CATALOG, DATA_STORE):
        assert becomes(installation, {"connection_checkout": there}, service)
    assert pings() < 10


def test_switching_under_load_fails_no_request(installations: dict[str, Installation], host: Host) -> None:
    installation = installations[PATCHED]
    there = state(host.release, "connection_checkout")
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work, installation, 8, "switching")
        for word, wanted in (("off", "off"), ("on", there)) * 2:
            set_toggles(installation, f"enabled={word}")
            assert becomes(installation, {"connection_checkout": wanted, "connection_close": wanted})
        assert failures(working.result()) == []


def test_a_patch_under_comparison_is_switched_off_in_a_running_service(
    installations: dict[str, Installation], tmp_path: Path
) -> None:
    installation = installations[PATCHED]

    def snapshot(wanted: Callable[[Any], bool]) -> Any:
        """The catalogue's snapshot, when it is as wanted; one is written every 10 s."""
        deadline = time.monotonic() + 25
        while True:
            pid = installation.running[FILE_CATALOG].process.pid
            found = [json.loads(path.read_text()) for path in tmp_path.glob(f"*.{pid}.*.json")]
            if found and wanted(found[0]):
                return found[0]
            assert time.monotonic() < deadline, found
            time.sleep(0.2)

    def checkouts(found: Any) -> dict[str, int]:
        return {row["arm"]: row["calls"] for row in found["series"] if row["target"] == "ConnectionPool.get"}

    def requests(found: Any, patch: str) -> dict[str, set[str]]:
        """What was requested, by the arm of a patch."""
        names = [name for _, name, _ in found["outcomes"]["methods"]]
        arms: dict[str, set[str]] = {}
        for window in found["outcomes"]["windows"]:
            arms.setdefault(window["arms"].get(patch), set()).update(names[row[0]] for row in window["rows"])
        return arms

    patches = ("connection_checkout", "connection_eviction", "connection_close", "error_stack")
    set_toggles(installation, f"comparison.spool={tmp_path}", "comparison.window_seconds=1")
    set_toggles(installation, *(f"{name}=ab" for name in patches))
    assert becomes(installation, dict.fromkeys(patches, "ab"), what="mode")
    time.sleep(2)  # windows of one second that began before that are over
    assert failures(work(installation, 10, "compared")) == []
    before = snapshot(lambda found: len(checkouts(found)) == 2)
    assert before["component"] == FILE_CATALOG
    assert {before["patches"][name]["mode"] for name in patches} == {"ab"}
    assert sum(entry.get("differences", 0) for entry in before["patches"].values()) == 0

    set_toggles(installation, "connection_checkout=off")
    between = snapshot(lambda found: found["patches"]["connection_checkout"]["state"] == "off")
    assert failures(work(installation, 2, "no longer compared")) == []
    after = snapshot(lambda found: found["written"] > between["written"] + 10)
    assert requests(before, "connection_checkout").keys() == {"patched", "stock"}
    assert checkouts(between) == checkouts(after)
    assert sum(checkouts(after).values()) >= sum(checkouts(before).values()) > 0
    assert after["patches"]["connection_eviction"]["mode"] == "ab"
    felt = requests(after, "error_stack")
    for arm in ("patched", "stock"):
        assert "SQL" in felt[arm]
        assert any(name.startswith(f"{FILE_CATALOG} ") for name in felt[arm])
    assert {f"{FILE_CATALOG} addFile", f"{FILE_CATALOG} createDirectory"} <= felt["patched"] | felt["stock"]
    assert "connection_checkout" not in after["outcomes"]["windows"][-1]["arms"]
    assert installation.call(FILE_CATALOG, questions.are_recorded)
    toggles(installation).write_text(DEFAULTS)
    assert becomes(installation, {"connection_checkout": "applied"})
    assert not installation.call(FILE_CATALOG, questions.are_recorded)


@pytest.mark.own_lines
def test_the_configuration_system_overrides_the_file(installations: dict[str, Installation], host: Host) -> None:
    installation = installations[PATCHED]
    there = state(host.release, "connection_checkout")
    of_vo = "/Operations/fakevo/Defaults/PerfPatch" if host.release.startswith("8.") else "/Operations/fakevo/PerfPatch"

    def set_options(section: str, options: dict[str, str]) -> None:
        installation.set_options({f"{section}/{name}": value for name, value in options.items()})
        installation.ask(clients.refresh, *map(installation.url, (FILE_CATALOG, DATA_STORE)), admin=True)

    defaults = "/Operations/Defaults/PerfPatch"
    set_options(defaults, {"connection_checkout": "off"})
    time.sleep(4)
    assert becomes(installation, {"connection_checkout": there}), "the file does not allow it"
    set_toggles(installation, "comparison.follow_configuration=on")
    assert becomes(installation, {"connection_checkout": "off", "error_stack": there})
    assert becomes(installation, {"connection_checkout": "off"}, DATA_STORE)
    set_options(defaults, {"connection_checkout": "on", "error_stack": "maybe"})
    time.sleep(4)
    assert becomes(installation, {"connection_checkout": "off", "error_stack": there})
    told = f"dirac-perfpatch: {defaults}/error_stack: error_stack must be on, off or ab, or a mapping with `enabled:`; "
    assert installation.log(FILE_CATALOG).read_text().count(told + "it is 'maybe'; the toggles stay as they are") == 1
    set_options(defaults, {"error_stack": "off"})
    assert becomes(installation, {"connection_checkout": there, "error_stack": "off"})
    set_options(of_vo, {"error_stack": "on", "proxy_loading/enabled": "off", "proxy_loading/max_proxies": "10"})
    assert becomes(installation, {"connection_checkout": there, "error_stack": there, "proxy_loading": "off"})
    toggles(installation).write_text(DEFAULTS)
    assert becomes(installation, {"proxy_loading": there})
    for service in installation.services:
        assert "Traceback" not in installation.log(service).read_text()
