"""The alert rules, checked by Debian's promtool: valid, firing when they should, and silent otherwise."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from lab.folder import CHECKOUT
from lab.prometheus import program

RULES = CHECKOUT / "monitoring" / "alerts.yml"
P = "dirac_perfpatch_"
PLACE = 'component="C",host="h1"'
PATCH = 'component="C",host="h1",patch="error_stack"'
EXPORTER = 'instance="h1:18524",job="dirac-perfpatch"'


def _errors(patched: str, stock: str, calls: str = "0+1000x600") -> dict[str, str]:
    """Totals of two hosts, one per minute, in promtool's notation; each host has half of the calls."""
    series = {}
    for host in ("h1", "h2"):
        for arm, errors in (("patched", patched), ("stock", stock)):
            labels = f'component="C",host="{host}",patch="error_stack",target="S_ERROR",arm="{arm}"'
            series[f"{P}calls_total{{{labels}}}"] = calls
            series[f"{P}errors_total{{{labels}}}"] = errors
    return series


DIFFER = 'component="C",patch="error_stack",severity="warning",target="S_ERROR"'

# By situation: the alert, the series, and for each time the labels of the firing alert, if any.
CASES: dict[str, tuple[str, dict[str, str], dict[str, str | None]]] = {
    "a process trips, and is restarted": (
        "PerfPatchTripped",
        {f"{P}tripped_processes{{{PATCH}}}": "0 0 2 2 0 0"},
        {"1m": None, "2m": PATCH + ',severity="warning"', "3m": PATCH + ',severity="warning"', "4m": None},
    ),
    "an answer differs, and an hour goes by": (
        "PerfPatchAnswersDiffer",
        {f"{P}differences_total{{{PATCH}}}": "0x5 1x100"},
        {"4m": None, "8m": PATCH + ',severity="critical"', "90m": None},
    ),
    "the exporter restarts, with an old difference behind it": (
        "PerfPatchAnswersDiffer",
        {f"{P}differences_total{{{PATCH}}}": "3x100 0x100"},
        {"90m": None, "102m": None, "150m": None},
    ),
    "a patch cannot be put on": (
        "PerfPatchFailed",
        {f'{P}patch_processes{{{PATCH},state="failed",mode="on"}}': "1x20"},
        {"4m": None, "6m": PATCH + ',severity="warning"'},
    ),
    "a patch is put on": (
        "PerfPatchFailed",
        {f'{P}patch_processes{{{PATCH},state="applied",mode="on"}}': "1x20"},
        {"15m": None},
    ),
    "patched calls fail, stock calls do not": (
        "PerfPatchErrorsDiffer",
        _errors(patched="0+5x600", stock="0x600"),
        {"2m": None, "25m": None, "120m": DIFFER},
    ),
    "stock calls fail more often": (
        "PerfPatchErrorsDiffer",
        _errors(patched="0+10x600", stock="0+20x600"),
        {"120m": DIFFER},
    ),
    "both fail as often": ("PerfPatchErrorsDiffer", _errors("0+10x600", "0+10x600"), {"120m": None, "590m": None}),
    "both fail nearly as often": ("PerfPatchErrorsDiffer", _errors("0+101x600", "0+100x600"), {"590m": None}),
    "none fails": ("PerfPatchErrorsDiffer", _errors("0x600", "0x600"), {"120m": None}),
    "nothing is called": ("PerfPatchErrorsDiffer", _errors("0x600", "0x600", calls="0x600"), {"120m": None}),
    "a handful of errors": ("PerfPatchErrorsDiffer", _errors("0x30 5x570", "0x600"), {"120m": None}),
    "it is over, and six hours go by": (
        "PerfPatchErrorsDiffer",
        _errors("0+5x120 600x900", "0x1021", calls="0+1000x1021"),
        {"120m": DIFFER, "560m": None},
    ),
    # promtool begins its series at the epoch.
    "snapshots are written": (
        "PerfPatchSnapshotsStale",
        {f"{P}last_snapshot_timestamp_seconds{{{PLACE}}}": "0+60x30"},
        {"5m": None, "20m": None},
    ),
    "snapshots are written no longer": (
        "PerfPatchSnapshotsStale",
        {f"{P}last_snapshot_timestamp_seconds{{{PLACE}}}": "0+60x10 600x30"},
        {"12m": None, "18m": None, "22m": PLACE + ',severity="warning"'},
    ),
    "the last process of a component ended in order": (
        "PerfPatchSnapshotsStale",
        {f"{P}last_snapshot_timestamp_seconds{{{PLACE}}}": "0+60x10 stale"},
        {"22m": None},
    ),
    "the spool folder is gone": (
        "PerfPatchSpoolUnreadable",
        {f"{P}spool_readable{{{EXPORTER}}}": "1x10 0x30", f"{P}spool_unreadable_files{{{EXPORTER}}}": "0x40"},
        {"9m": None, "20m": None, "27m": EXPORTER + ',severity="warning"'},
    ),
    "a file is broken and stays so": (
        "PerfPatchSpoolUnreadable",
        {f"{P}spool_readable{{{EXPORTER}}}": "1x40", f"{P}spool_unreadable_files{{{EXPORTER}}}": "0x10 1x30"},
        {"9m": None, "20m": None, "27m": EXPORTER + ',severity="warning"'},
    ),
    "a file is broken for a moment": (
        "PerfPatchSpoolUnreadable",
        {f"{P}spool_readable{{{EXPORTER}}}": "1x40", f"{P}spool_unreadable_files{{{EXPORTER}}}": "0x10 1x2 0x30"},
        {"27m": None},
    ),
    "the exporter is down": (
        "PerfPatchExporterDown",
        {f"up{{{EXPORTER}}}": "1x10 0x30"},
        {"9m": None, "14m": None, "17m": EXPORTER + ',severity="warning"'},
    ),
    "another exporter is down": ("PerfPatchExporterDown", {'up{instance="h1:9100",job="node"}': "0x40"}, {"30m": None}),
}


def _promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        [program("promtool"), *arguments], check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_rules_are_valid() -> None:
    assert "SUCCESS" in _promtool("check", "rules", RULES)


@pytest.mark.parametrize("told", CASES)
def test_an_alert_fires_when_it_should_and_not_otherwise(told: str, tmp_path: Path) -> None:
    alert, series, firing = CASES[told]
    question = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    answers = {
        when: [{"labels": f"{question[:-1]},{labels}}}", "value": 1}] if labels else []
        for when, labels in firing.items()
    }
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {"expr": question, "eval_time": when, "exp_samples": samples} for when, samples in answers.items()
        ],
    }
    path = tmp_path / "test.yml"
    # JSON is valid YAML.
    path.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
    _promtool("test", "rules", path)


def test_every_alert_has_a_case_where_it_fires_and_one_where_it_does_not() -> None:
    names = [line.split("alert: ")[1] for line in RULES.read_text().splitlines() if "- alert: " in line]
    assert set(names) == {alert for alert, _, firing in CASES.values() if any(firing.values())}
    assert set(names) == {alert for alert, _, firing in CASES.values() if None in firing.values()}
