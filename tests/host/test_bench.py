"""dirac-perfpatch bench: every patch is measured, in both states, and is on again afterwards. No figure is judged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import release

from dirac_perfpatch import cli, status
from dirac_perfpatch.patches import CATALOGUE, WAITED_FOR
from lab.hosts import state
from lab.mariadb import MariaDB

pytestmark = pytest.mark.patched


def _bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert cli.main(["bench", "--json", "--rounds", "1", *arguments]) == 0
    calls = json.loads(capsys.readouterr().out)["calls"]
    # What this host has in-tree is not measured.
    here = ("the host keeps the", "this release of the host")
    return [call for call in calls if not any(text in call["reason"] for text in here)]


def test_every_patch_has_two_figures(mariadb: MariaDB, capsys: pytest.CaptureFixture[str]) -> None:
    calls = _bench(capsys, "--db", "Accounting/AccountingDB")
    states = {patch.name: state(release(), patch.name) for patch in CATALOGUE}
    assert {call["patch"] for call in calls} == {p.name for p in CATALOGUE if p.cases and states[p.name] == "applied"}
    for call in calls:
        assert call["stock"] > 0 and call["patched"] > 0, call
        assert call["reason"] == ""
    assert {entry["name"]: entry["state"] for entry in status()} == states
    assert {entry["failures"] for entry in status()} == {0}


@pytest.mark.once
def test_without_a_database_the_pool_is_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    calls = _bench(capsys)
    skipped = {call["patch"] for call in calls if call["stock"] is None}
    assert skipped == {name for name, modules in WAITED_FOR.items() if "DIRAC.Core.Utilities.MySQL" in modules}
    assert all("--db" in call["reason"] for call in calls if call["patch"] in skipped)
