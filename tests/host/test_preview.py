"""What status says of a module that it has not imported is what becomes of it when it is imported: on every release."""

from __future__ import annotations

import json

from conftest import run_fresh

CODE = """
import json, sys
from DIRAC.Core.Utilities.Extensions import extensionsByPriority
extensionsByPriority()
from dirac_perfpatch import cli, preview, status
from dirac_perfpatch.patches import CATALOGUE
before = set(sys.modules)
foreseen = [(target.attribute, *preview.foresee(target)) for patch in CATALOGUE for target in patch.targets]
imported = [name for name in set(sys.modules) - before if not hasattr(sys.modules[name], "__path__")]
cli._load_targets()
seen = [[target[key] for key in ("attribute", "state", "reason")] for entry in status() for target in entry["targets"]]
print(json.dumps([foreseen, imported, seen]))
"""


def test_the_verdict_is_that_after_the_import() -> None:
    answer = run_fresh(CODE, DIRAC_PERFPATCH_CONFIG="")
    assert answer.returncode == 0, answer.stderr
    foreseen, imported, seen = json.loads(answer.stdout.splitlines()[-1])  # the host logs there
    assert {"DIRAC", "DIRACCommon", "MySQLdb", "M2Crypto"}.isdisjoint(name.partition(".")[0] for name in imported)
    # Of what it replaces it says why.
    said = [
        (name, "applied", reason.partition(" is imported, ")[2]) if state == "armed" else (name, state, reason)
        for name, state, reason in foreseen
    ]
    assert said == [tuple(one) for one in seen]
    assert len(said) > 8
