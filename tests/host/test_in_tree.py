"""What docs/in-tree.md says that DIRAC 9.1.9 and later get wrong: shown there, and right with the plugin everywhere.

Each script of docs/in-tree prints a line per fact, which begins with "right" or "wrong".
"""

from __future__ import annotations

import json
from pathlib import Path

from conftest import in_tree, run

from lab.folder import CHECKOUT
from lab.mariadb import MariaDB

IN_STOCK_TOO = "a child has a connection of its own"
RIGHT_AT_LAST = "a deep copy leaves other helpers alone"  # from 9.1.17 on
# In one process for all: importing the host takes longer than any of them.
CODE = """
import json, runpy, sys
sys.argv[1:] = {arguments!r}
for script in {scripts!r}:
    runpy.run_path(script)
import dirac_perfpatch
status = {{entry["name"]: [entry["state"], entry["reason"]] for entry in dirac_perfpatch.status()}}
print("status: " + json.dumps(status))
"""


def answers(mariadb: MariaDB, **environment: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The verdict of each fact that the scripts show; then the state and reason of each patch in status."""
    scripts = sorted(map(str, (CHECKOUT / "docs" / "in-tree").glob("*.py")))
    arguments = [mariadb.host, str(mariadb.port), mariadb.user, mariadb.password, "AccountingDB"]
    answer = run(CODE.format(arguments=arguments, scripts=scripts), **environment)
    assert answer.returncode == 0, answer.stderr
    lines = [line.partition(": ") for line in answer.stdout.splitlines()]
    found = {fact: verdict for verdict, _, fact in lines if verdict in ("right", "wrong")}
    assert len(found) > 20
    (status,) = (json.loads(rest) for word, _, rest in lines if word == "status")
    return found, status


def _answers(mariadb: MariaDB, **environment: str) -> dict[str, str]:
    return answers(mariadb, **environment)[0]


def test_what_is_wrong_in_tree_is_right_with_the_plugin(mariadb: MariaDB, tmp_path: Path) -> None:
    patched, unpatched = _answers(mariadb), _answers(mariadb, DIRAC_PERFPATCH="off")
    assert set(patched.values()) == {"right"}, patched
    assert patched.keys() == unpatched.keys()
    wrong = {fact for fact, verdict in unpatched.items() if verdict == "wrong"}
    assert wrong == (set(unpatched) - {RIGHT_AT_LAST} if in_tree() else {IN_STOCK_TOO}), unpatched
    toggles = tmp_path / "patches.yaml"
    toggles.write_text("in_tree: leave\n")
    left = _answers(mariadb, DIRAC_PERFPATCH_CONFIG=str(toggles))
    assert left == (unpatched if in_tree() else patched)
