"""extensionsByPriority and getExtensionMetadata answer as stock does, for every caller, with one walk."""

from __future__ import annotations

import inspect
import sys
import threading
from pathlib import Path

import pytest
from conftest import in_tree, run, stock
from DIRAC.Core.Utilities import Extensions

pytestmark = pytest.mark.patched


def test_the_same_answers_as_stock() -> None:
    names = ["DIRAC", "dirac_perfpatch", "NoSuchDIRAC", "", None]
    patched = [Extensions.extensionsByPriority(), *(Extensions.getExtensionMetadata(name) for name in names)]
    with stock("extension_lookup"):
        assert patched == [Extensions.extensionsByPriority(), *(Extensions.getExtensionMetadata(n) for n in names)]


def test_a_caller_that_changes_an_answer_harms_nobody() -> None:
    Extensions.extensionsByPriority().append("MineDIRAC")
    Extensions.getExtensionMetadata("DIRAC")["setups"].clear()
    Extensions.getExtensionMetadata("DIRAC")["priority"] = 7
    assert Extensions.extensionsByPriority() == ["DIRAC"]
    assert Extensions.getExtensionMetadata("DIRAC")["priority"] == 0
    assert Extensions.getExtensionMetadata("DIRAC")["setups"]


def test_threads_that_start_together_get_the_answer_of_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may walk at once, as in stock; afterwards nobody walks."""
    walks = []
    real = Extensions.metadata.entry_points

    def counted(*args: object, **kwargs: object) -> object:
        walks.append(threading.current_thread())
        return real(*args, **kwargs)

    monkeypatch.setattr(Extensions.metadata, "entry_points", counted)
    monkeypatch.setattr(sys, "path", [*sys.path, "/a/folder/that/changes/the/path"])
    barrier = threading.Barrier(16)
    answers = []

    def start() -> None:
        barrier.wait()
        answers.append((Extensions.extensionsByPriority(), Extensions.getExtensionMetadata("DIRAC")["priority"]))

    threads = [threading.Thread(target=start) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [(["DIRAC"], 0)] * 16
    walks.clear()
    start_again = (Extensions.extensionsByPriority(), Extensions.getExtensionMetadata("DIRAC")["priority"])
    assert (start_again, walks) == ((["DIRAC"], 0), [])


def test_the_functions_look_like_the_hosts() -> None:
    for function in (Extensions.extensionsByPriority, Extensions.getExtensionMetadata):
        patched = inspect.signature(function), inspect.getsource(function)
        with stock("extension_lookup"):
            hosts = getattr(Extensions, function.__name__)
            assert patched == (inspect.signature(hosts), inspect.getsource(hosts))
            assert in_tree() or "__wrapped__" not in vars(function)


def test_an_extension_that_comes_on_the_path_is_seen(tmp_path: Path) -> None:
    """As stock sees it: with its own priority, its own metadata, and gone again with the path."""
    info = tmp_path / "mydirac-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mydirac\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dirac]\nmetadata = MyDIRAC:extension_metadata\n")
    (tmp_path / "MyDIRAC").mkdir()
    (tmp_path / "MyDIRAC" / "__init__.py").write_text("def extension_metadata():\n    return {'priority': 10}\n")
    code = (
        "import sys\n"
        "from DIRAC.Core.Utilities import Extensions\n"
        "def e(): return Extensions.extensionsByPriority()\n"
        "def m(name): return Extensions.getExtensionMetadata(name)\n"
        "print(e(), e(), m('MyDIRAC'))\n"
        "import dirac_perfpatch; dirac_perfpatch.status()\n"  # starts it, as an import of the host does
        f"sys.path.append({str(tmp_path)!r})\n"
        "print(e(), m('MyDIRAC'))\n"
        "sys.path.pop()\n"
        "print(e(), m('MyDIRAC'))\n"
    )
    patched, unpatched = run(code), run(code, DIRAC_PERFPATCH="off")
    # DIRAC's own cache does not look again.
    assert in_tree() or patched.stdout == unpatched.stdout, patched.stderr
    assert patched.stdout.splitlines() == [
        "['DIRAC'] ['DIRAC'] None",
        "['MyDIRAC', 'DIRAC'] {'priority': 10}",
        "['DIRAC'] None",
    ]
