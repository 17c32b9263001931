"""Debian's Prometheus scrapes the real exporter, and answers every query of the dashboard."""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Exporter

from lab.folder import CHECKOUT
from lab.prometheus import Prometheus
from lab.spools import ARMS, TARGETS, Process

RULES = CHECKOUT / "monitoring" / "alerts.yml"
DASHBOARD = json.loads((CHECKOUT / "monitoring" / "grafana-dashboard.json").read_text())
CATALOG = "DataManagement/FileCatalog"
COMPONENTS = (CATALOG, "Accounting/DataStore")
# Grafana's values of the dashboard's variables; short times, because Prometheus scrapes every second here.
VARIABLES = {"$host": ".*", "$component": ".*", "$patch": ".*", "$window": "20s", "$__range": "20s"}
VARIABLES["$__rate_interval"] = "10s"


@pytest.fixture
def prometheus(tmp_path: Path, exporter: Exporter) -> Iterator[Prometheus]:
    with Prometheus(tmp_path / "prometheus", [exporter.address], [RULES]) as server:
        server.wait(lambda: server.value("up") == 1, "the exporter is up")
        yield server


def test_prometheus_reads_the_right_values_and_they_outlive_the_file(
    spool: Path, exporter: Exporter, prometheus: Prometheus
) -> None:
    def has(expression: str, value: float) -> None:
        prometheus.wait(lambda: prometheus.value(expression) == value, f"{expression} is {value}")

    labels = f'host="h1.example.org",component="{CATALOG}",patch="error_stack",target="S_ERROR"'
    calls = "dirac_perfpatch_calls_total{" + labels
    processes = [Process(spool, CATALOG, pid=pid) for pid in range(3)]
    for process in processes:
        process.record("error_stack", "S_ERROR", "patched", 1600, errors=2)
        process.record("error_stack", "S_ERROR", "stock", 800, errors=1)
        process.write()
    has(calls + ',arm="patched"}', 4800)
    has(calls + ',arm="stock"}', 2400)
    has('sum(dirac_perfpatch_errors_total{arm="patched"})', 6)
    has("sum(dirac_perfpatch_call_seconds_count)", 450)
    has('sum(dirac_perfpatch_patch_processes{patch="error_stack",state="applied",mode="ab"})', 3)
    has("sum(dirac_perfpatch_tripped_processes)", 0)
    has("dirac_perfpatch_spool_files", 3)
    age = prometheus.value("time() - max(dirac_perfpatch_last_snapshot_timestamp_seconds)")
    assert age is not None
    assert 0 <= age < 20
    processes[0].write(ended=True)
    processes[0].path.unlink()
    has("dirac_perfpatch_spool_files", 2)
    processes[1].record("error_stack", "S_ERROR", "patched", 5)
    processes[1].write()
    has(calls + ',arm="patched"}', 4805)
    assert prometheus.value(f"resets({calls},arm='patched'}}[1m])") == 0
    # Prometheus and its rules see that a patch trips.
    processes[1].snapshot["patches"]["error_stack"]["state"] = "tripped"
    processes[1].write()
    prometheus.wait(lambda: _firing(prometheus) == {"PerfPatchTripped"}, "the alert fires")
    (alert,) = prometheus.alerts()
    assert alert["annotations"]["summary"] == f"error_stack has tripped in 1 processes of {CATALOG} on h1.example.org"
    exporter.process.send_signal(signal.SIGTERM)
    has('up{job="dirac-perfpatch"}', 0)


def _firing(prometheus: Prometheus) -> set[str]:
    return {alert["labels"]["alertname"] for alert in prometheus.alerts() if alert["state"] == "firing"}


def test_a_restart_of_the_exporter_is_no_burst_of_calls(spool: Path, tmp_path: Path) -> None:
    process = Process(spool, CATALOG)
    process.record("error_stack", "S_ERROR", "stock", 1_000_000, one_in=1000)
    process.write()
    with Exporter(spool) as first, Prometheus(tmp_path / "prometheus", [first.address]) as prometheus:
        total = "dirac_perfpatch_calls_total"
        prometheus.wait(lambda: prometheus.value(total) == 0, "the first exporter is scraped")
        process.record("error_stack", "S_ERROR", "stock", 300, one_in=100)
        process.write()
        prometheus.wait(lambda: prometheus.value(total) == 300, "the first exporter counts")
        first.process.terminate()
        first.process.wait()
        with Exporter(spool, port=int(first.address.split(":")[1])):
            prometheus.wait(lambda: prometheus.value(total) == 0, "the second exporter is scraped")
            process.record("error_stack", "S_ERROR", "stock", 40, one_in=10)
            process.write()
            prometheus.wait(lambda: prometheus.value(total) == 40, "the second exporter counts")
            increase = prometheus.value(f"increase({total}[1m])")
    # Not 340, because Prometheus extrapolates to the ends of the minute; but without the million.
    assert increase is not None
    assert 300 < increase < 3000


# The dashboard


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has scraped an exporter of busy processes for a while."""
    folder = tmp_path_factory.mktemp("busy")
    processes = [Process(folder / "spool", component, pid=pid) for pid, component in enumerate(COMPONENTS)]
    done = threading.Event()

    def work() -> None:
        while not done.wait(0.4):
            for process in processes:
                for patch, target in TARGETS:
                    for arm in ARMS:
                        process.record(patch, target, arm, 160, errors=1)
                    process.event(patch, "hits", 10)
                    process.snapshot["patches"][patch]["checked"] += 1
                for arm, seconds in zip(ARMS, (0.03, 0.01)):
                    process.outcome("error_stack", arm, f"{process.snapshot['component']} ping", 50, seconds, errors=1)
                process.write()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        with (
            Exporter(folder / "spool") as exporter,
            Prometheus(folder / "prometheus", [exporter.address], [RULES]) as server,
        ):
            enough = "min(increase(dirac_perfpatch_calls_total[20s])) > 1000"
            server.wait(lambda: server.query(enough), "there is something to show")
            yield server
    finally:
        done.set()
        thread.join()


def _panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def _filled(expression: str) -> str:
    for name in sorted(VARIABLES, key=len, reverse=True):
        expression = expression.replace(name, VARIABLES[name])
    return expression


@pytest.mark.parametrize("panel", _panels(), ids=lambda panel: panel["title"])
def test_every_panel_shows_something(busy: Prometheus, panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        expression = _filled(target["expr"])
        assert "$" not in expression
        found = busy.query(expression)
        assert found, expression
        assert all(math.isfinite(float(one["value"][1])) for one in found), expression
        # Every label of the legend exists.
        for name in target["legendFormat"].replace("{{", "\0{{").split("\0")[1:]:
            label = name[2 : name.index("}}")]
            assert all(label in one["metric"] for one in found), label


def test_the_ratio_is_that_of_the_times(busy: Prometheus) -> None:
    (panel,) = [panel for panel in _panels() if panel["type"] == "bargauge"]
    found = busy.query(_filled(panel["targets"][0]["expr"]))
    ratios = {(one["metric"]["patch"], one["metric"]["target"]): float(one["value"][1]) for one in found}
    assert set(ratios) == set(TARGETS)
    for target, (stock, patched) in TARGETS.items():
        assert ratios[target] == pytest.approx(stock / patched, rel=0.2)


def test_the_ratio_of_requests_is_that_of_the_times(busy: Prometheus) -> None:
    panels = [panel for panel in _panels() if panel["title"].startswith("Requests: ratio")]
    assert len(panels) == 2
    for panel in panels:
        found = busy.query(_filled(panel["targets"][0]["expr"]))
        assert {one["metric"]["method"] for one in found} == {f"{component} ping" for component in COMPONENTS}
        assert all(float(one["value"][1]) == pytest.approx(3, rel=0.05) for one in found)


def test_the_percentile_is_right_to_within_a_bucket(busy: Prometheus) -> None:
    (panel,) = [panel for panel in _panels() if panel["title"].startswith("95th")]
    found = busy.query(_filled(panel["targets"][0]["expr"]))
    assert len(found) == len(TARGETS) * 2
    for one in found:
        labels = one["metric"]
        middle = TARGETS[labels["patch"], labels["target"]][ARMS.index(labels["arm"])]
        assert 1 / 3.4 < float(one["value"][1]) / (middle * 1.64) < 3.4


def test_the_variables_offer_what_there_is(busy: Prometheus) -> None:
    asked = {one["name"]: one["query"]["query"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"}
    found = {}
    for name, query in asked.items():
        # Grafana's own label_values(SELECTOR, LABEL).
        selector, label = query[len("label_values(") : -1].rsplit(", ", 1)
        found[name] = {one["metric"][label] for one in busy.query(_filled(selector))}
    assert found["host"] == {"h1.example.org"}
    assert found["component"] == set(COMPONENTS)
    assert found["patch"] == {patch for patch, _ in TARGETS}


def test_the_annotation_s_question_can_be_asked(busy: Prometheus) -> None:
    for annotation in DASHBOARD["annotations"]["list"]:
        if not annotation.get("builtIn"):
            assert busy.query(_filled(annotation["expr"])) == []


def test_nothing_is_alarming_when_all_is_well(busy: Prometheus) -> None:
    deviation = "component_patch_target:dirac_perfpatch_errors:deviation6h"
    busy.wait(lambda: len(busy.query(deviation)) == len(TARGETS) * len(COMPONENTS), "the rules have run")
    assert busy.alerts() == []


def test_no_two_panels_overlap_and_each_has_its_own_id() -> None:
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
