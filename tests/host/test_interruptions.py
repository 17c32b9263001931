"""A signal handler, a fork or a re-entry in the middle of our code hangs nothing, as stock never hangs there."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import in_tree, run, run_fresh, script

from lab.mariadb import MariaDB

pytestmark = [pytest.mark.patched, pytest.mark.own_lines]

WORKER = Path(__file__).with_name("interrupted_worker.py")

DONE = ["extensions", "proxy", "subject", "error", "sites", "registry", "certificate", "clients", "pool"]
DONE += ["recorded", "status", "switching"]


# Where a handler runs depends on the Python; that a child lacks the parent's other threads does not.
CASES = [pytest.param("signal", done) for done in DONE]
CASES += [pytest.param("fork", done, marks=pytest.mark.once) for done in DONE]
CASES += [pytest.param("exception", done, marks=pytest.mark.once) for done in DONE[1:10]]


@pytest.mark.parametrize(("what", "done"), CASES)
def test_an_interruption_at_any_line_hangs_nothing(what: str, done: str, proxy: Path, mariadb: MariaDB) -> None:
    """The handler, or the child, makes the same call that its thread, or a thread of its parent, is in the middle of.

    After an exception from a handler, the same call succeeds. No call imports anything, not even the first one: a child
    of a fork would wait for an import that another thread was in the middle of.
    """
    database = [mariadb.host, str(mariadb.port)]
    needs = dict.fromkeys(("pool", "recorded"), database)
    needs.update(dict.fromkeys(("proxy", "subject", "clients"), [str(proxy)]))
    # The signals' processes show that the first call imports nothing, and the others need not show it again.
    start = run_fresh if what == "signal" else run
    answer = start(script(WORKER, what, done, *needs.get(done, [])))
    assert answer.returncode == 0, answer.stderr
    assert int(answer.stdout.split()[-1]) >= 4  # lines of ours, or it met nothing
    # Our code did not fail, except where the worker makes it fail.
    assert done == "switching" or "own code" not in answer.stderr


def test_an_extension_that_asks_while_it_is_being_loaded(tmp_path: Path) -> None:
    """Its module asks for the extensions inside the first look-up, for which stock begins another look-up."""
    info = tmp_path / "mydirac-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mydirac\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dirac]\nmetadata = MyDIRAC:extension_metadata\n")
    (tmp_path / "MyDIRAC.py").write_text(
        "from DIRAC.Core.Utilities.Extensions import extensionsByPriority, getExtensionMetadata\n"
        "asked = []\n"
        "def extension_metadata():\n"
        "    if len(asked) < 2:\n"
        "        asked.append(1)\n"
        "        print(extensionsByPriority(), getExtensionMetadata('MyDIRAC'))\n"
        "    return {'priority': 10}\n"
    )
    code = (
        "import faulthandler, sys\n"
        "faulthandler.dump_traceback_later(20, exit=True)\n"
        "from DIRAC.Core.Utilities.Extensions import extensionsByPriority as e, getExtensionMetadata as m\n"
        "e()\n"
        f"sys.path.append({str(tmp_path)!r})\n"
        "print(e(), m('MyDIRAC'), e())\n"
    )
    patched, unpatched = run(code), run(code, DIRAC_PERFPATCH="off")
    assert patched.stdout, patched.stderr
    assert in_tree() or patched.stdout == unpatched.stdout  # in-tree the first answer stays, whatever is installed
