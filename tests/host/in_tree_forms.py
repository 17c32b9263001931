"""What docs/in-tree.md says of the releases between 9.1.8 and 9.1.22, on each in which a target has a new form.

A stage of its own: the released wheels are put over the dependencies of 9.1.22. No other stage collects this file.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from conftest import run
from test_in_tree import answers

from lab import hosts
from lab.mariadb import MariaDB

REPLACES = "replaces the host's own version"
SINCE_9_1_9 = {"extension_lookup", "error_stack", "proxy_loading", "dms_helpers"}
SINCE_9_1_9 |= {"connection_checkout", "connection_eviction", "connection_close"}
SINCE_9_1_10 = SINCE_9_1_9 | {"chain_hash"}
SINCE_9_1_13 = SINCE_9_1_10 | {"failed_lookups"}
# Each release in which a target that a patch treats differently has a new form (the table of docs/in-tree.md), with the
# patches that replace something there; chain_hash and failed_lookups stand down where they do not.
FORMS = {"9.1.9": SINCE_9_1_9, "9.1.10": SINCE_9_1_10, "9.1.12": SINCE_9_1_10}
FORMS |= dict.fromkeys(("9.1.13", "9.1.14", "9.1.15", "9.1.16", "9.1.17", "9.1.18", "9.1.20"), SINCE_9_1_13)


@pytest.mark.parametrize("release", FORMS)
def test_a_form_is_known_and_right(release: str, mariadb: MariaDB) -> None:
    here = hosts.Host(hosts.IN_TREE, hosts.DEFAULT_PYTHON, Path(sys.prefix))
    overlay = hosts.overlay(here, release)
    path = os.pathsep.join([str(overlay), os.environ["PYTHONPATH"]])
    found, patches = answers(mariadb, PYTHONPATH=path)
    assert set(found.values()) == {"right"}, found
    assert {name for name, (_, reason) in patches.items() if REPLACES in reason} == FORMS[release]
    stands_down = {name for name, (state, _) in patches.items() if state == "stood down"}
    assert stands_down == SINCE_9_1_13 - FORMS[release]
    version = run("import DIRAC; print(DIRAC.version, DIRAC.__file__)", PYTHONPATH=path).stdout.split()
    assert version == [release, str(overlay / "DIRAC" / "__init__.py")]
