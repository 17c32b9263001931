"""A start: whatever is broken, the host gets its answer, and one line says what happened."""

from __future__ import annotations

import compileall
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from dirac_perfpatch import updating
from dirac_perfpatch.patches import CATALOGUE, WAITED_FOR
from dirac_perfpatch.patching import Target

NAMES = [patch.name for patch in CATALOGUE]
WAITING = len([*NAMES, "keep_on_update"])
ANSWER = '{"priority": -8524}'

# Asks as the host does, several times, and once from another thread. Then the host imports something, even if only to
# find that it is missing.
ASK = """
import importlib.util, json, threading
from dirac_perfpatch import extension_metadata
answers = []
def ask():
    answers.append(extension_metadata())
for _ in range(3):
    ask()
thread = threading.Thread(target=ask)
thread.start()
thread.join()
assert answers == [answers[0]] * 4
print(json.dumps(answers[0]))
importlib.util.find_spec("DIRACnext")
"""

STATES = """
from dirac_perfpatch import status
print(json.dumps([(entry["name"], entry["state"], entry["reason"]) for entry in status()]))
"""


@pytest.fixture
def forced(tmp_path: Path) -> str:
    """The path of toggles that patch invented hosts, whose code is of no release."""
    path = tmp_path / "forced.yaml"
    path.write_text("enabled: on\nforce: on\n")
    return str(path)


# A module of the host for two patches: one replaces a name in the module, the other one wraps a method.
HOST = """
import sys
import traceback

def S_OK(value=None):
    return {"OK": True, "Value": value}

def S_ERROR(message):
    stack = traceback.format_stack()
    stack.pop()
    return {"OK": False, "Message": message, "CallStack": stack}

class ConnectionPool:
    def __init__(self):
        self._ConnectionPool__assigned = {}

    def get(self, name):
        self.clean()
        return self._ConnectionPool__getWithRetry(name)

    def clean(self):
        pass

    def _ConnectionPool__getWithRetry(self, name):
        return S_OK(name)
"""


@pytest.fixture
def copy(tmp_path: Path, package: Path) -> Path:
    """A folder with a copy of the package that a test may break, compiled: most tests start it several times."""
    compileall.compile_dir(package, quiet=2)
    folder = tmp_path / "copy"
    # But for the bytecode that tests on another Python are just writing.
    shutil.copytree(package, folder / "dirac_perfpatch", ignore=shutil.ignore_patterns("*.pyc.*"))
    return folder


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A folder with modules that have the names of the host's."""
    folder = tmp_path / "host" / "DIRAC" / "Core" / "Utilities"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent, folder.parent.parent):
        (package / "__init__.py").touch()
    (folder / "ReturnValues.py").write_text(HOST)
    (folder / "MySQL.py").write_text(HOST)
    return tmp_path / "host"


def _lines(answer: Any) -> list[str]:
    assert answer.returncode == 0, answer.stderr
    return answer.stderr.splitlines()


# All is well


def test_a_healthy_start_is_silent_and_arms_everything(child: Any) -> None:
    answer = child("import json" + STATES + ASK + STATES)
    assert _lines(answer) == []
    before, metadata, after = answer.stdout.splitlines()
    assert json.loads(before) == [[name, "off", "DIRAC has not looked for its extensions yet"] for name in NAMES]
    assert metadata == ANSWER
    assert [(name, state) for name, state, _ in json.loads(after)] == [(name, "armed") for name in NAMES]


def test_a_start_imports_nothing_that_takes_time(child: Any) -> None:
    """Every DIRAC command would pay for PyYAML, wrapt or asyncio; and no module of the host."""
    answer = child(
        ASK + "import sys\n"
        "slow = 'yaml wrapt asyncio importlib_metadata MySQLdb M2Crypto DIRAC DIRACCommon'.split()\n"
        "print([name for name in slow if name in sys.modules])"
    )
    assert answer.stdout.splitlines() == [ANSWER, "[]"]


def test_a_start_imports_no_patch_that_nothing_waits_for(child: Any, tmp_path: Path) -> None:
    """Commands that never connect to a database do not pay for the patches of the pool."""
    folder = _strange_host(tmp_path, ["DIRAC.Core.Utilities.Extensions"])
    answer = child(
        ASK + "import sys\n"
        "def ours():\n"
        "    return sorted(name for name in sys.modules if name.startswith('dirac_perfpatch.patches.'))\n"
        "print(ours(), 'dirac_perfpatch.updating' in sys.modules)\n"
        "import DIRAC.Core.Utilities.Extensions\n"
        "print(ours())",
        folder,
    )
    assert answer.stdout.splitlines() == [ANSWER, "[] False", "['dirac_perfpatch.patches.extension_lookup']"]


def test_the_package_s_own_module_imports_nothing(child: Any) -> None:
    """An import that fails there would not be guarded."""
    code = "import sys; before = set(sys.modules); import dirac_perfpatch; print(sorted(set(sys.modules) - before))"
    code = "import typing, __future__; " + code
    assert child(code).stdout == "['dirac_perfpatch']\n"


def test_a_patch_that_is_less_effective_without_another_says_so(child: Any, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("patches:\n  connection_checkout: off\n")
    answer = child(ASK + STATES, DIRAC_PERFPATCH_CONFIG=str(tmp_path / "my.yaml"))
    states = {name: (state, reason) for name, state, reason in json.loads(answer.stdout.splitlines()[1])}
    assert states["connection_checkout"] == ("off", f"switched off by {tmp_path / 'my.yaml'}")
    wanting = [patch.name for patch in CATALOGUE if "connection_checkout" in patch.wants]
    assert wanting
    for name in wanting:
        assert states[name][0] == "armed"
        assert "less effective without connection_checkout" in states[name][1]


def test_patches_that_are_off_wait_for_nothing(child: Any, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(
        "keep_on_update: off\npatches:\n" + "".join(f"  {name}: off\n" for name in NAMES if name != "error_stack")
    )
    answer = child(
        ASK + "from dirac_perfpatch import imports\nprint(sorted(imports._waiting))",
        DIRAC_PERFPATCH_CONFIG=str(tmp_path / "my.yaml"),
    )
    assert "'DIRAC.Core.Utilities.ReturnValues'" in answer.stdout
    assert "MySQL" not in answer.stdout
    assert "Extensions" not in answer.stdout


BEFORE = """
import sys
from dirac_perfpatch import extension_metadata
extension_metadata()
def ours():
    return sorted(name.partition(".")[2] for name in sys.modules if name.startswith("dirac_perfpatch."))
"""


def test_until_the_host_imports_more_nothing_is_read_or_patched(child: Any, host: Path, forced: str) -> None:
    """Commands that have all that they need before the look-up, and end soon, do not pay for a start."""
    code = """
import DIRAC.Core.Utilities.ReturnValues as values, traceback
"""
    after = """
import importlib.util, sched
print(ours(), values.traceback is traceback)
importlib.util.find_spec("DIRAC.Core.Utilities.MySQL")
print("loading" in ours(), values.traceback is traceback)
"""
    answer = child(code + BEFORE + after, host, DIRAC_PERFPATCH_CONFIG=forced)
    assert answer.stdout.splitlines() == ["['background', 'host', 'imports', 'waking'] True", "True False"]
    assert answer.stderr == ""


def test_what_the_host_imports_at_that_moment_is_prepared(child: Any, tmp_path: Path) -> None:
    """A patch that changes how a module is executed is in time, also for the very module that starts the plugin."""
    name = "DIRAC.Core.Security.X509Certificate"
    folder = _strange_host(tmp_path, [name])
    code = """
import DIRAC.Core.Security
"""
    after = f"""
import {name}
from dirac_perfpatch.patches import lazy_imports
print(lazy_imports._reasons)
"""
    said = child(code + BEFORE + after, folder).stdout
    assert name in said


def test_if_the_host_imports_nothing_more_it_starts_after_seconds(child: Any, host: Path, forced: str) -> None:
    code = """
import time, traceback
import DIRAC.Core.Utilities.ReturnValues as values
from dirac_perfpatch import background
background._FIRST = 0.01
"""
    after = """
end = time.monotonic() + 10
while values.traceback is traceback and time.monotonic() < end:
    time.sleep(0.01)
print(values.traceback is traceback)
"""
    assert child(code + BEFORE + after, host, DIRAC_PERFPATCH_CONFIG=forced).stdout == "False\n"


def test_a_child_that_is_forked_while_the_thread_starts_it_does_not_wait_for_the_thread(child: Any, host: Path) -> None:
    code = """
import os, signal, threading
import DIRAC.Core.Utilities.ReturnValues
from dirac_perfpatch import background
background._FIRST, begun = 0.01, threading.Event()
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "dirac_perfpatch.loading":
            begun.set()
            threading.Event().wait(5)
"""
    after = """
sys.meta_path.insert(0, Slow())
begun.wait(10)
pid = os.fork()
if not pid:
    signal.alarm(10)
    import DIRAC.Core.Utilities.MySQL
    os._exit(0)
print(os.waitpid(pid, 0)[1])
os._exit(0)
"""
    assert child(code + BEFORE + after, host).stdout == "0\n"


@pytest.mark.parametrize("word", ["off", " No", "0", "false"])
def test_switched_off_by_the_environment_it_never_starts(child: Any, host: Path, word: str) -> None:
    after = """
import DIRAC.Core.Utilities.ReturnValues
print(ours())
"""
    answer = child(BEFORE + after, host, DIRAC_PERFPATCH=word)
    assert answer.stdout == "['background', 'host', 'imports', 'waking']\n"


def test_switched_off_between_the_look_up_and_the_start_it_stays_off(child: Any, host: Path) -> None:
    code = """
from dirac_perfpatch import background, live
background._FIRST, live._PAUSE, live._SETTLING = 1, 0.01, 0.01
"""
    after = """
import json, os, time
os.environ["DIRAC_PERFPATCH"] = "off"
import DIRAC.Core.Utilities.ReturnValues
time.sleep(1.3)
"""
    answer = child(code + BEFORE + after + STATES, host)
    assert {state for _, state, _ in json.loads(answer.stdout)} == {"off"}
    assert answer.stderr == ""


def test_threads_that_start_at_once_start_once_and_none_waits(child: Any) -> None:
    """The starting thread may wait for an import of a thread that asks, so that thread must not wait for the start."""
    code = (
        SLOW
        + """
answered = []
threads = [threading.Thread(target=lambda: answered.append(ask())) for _ in range(8)]
for thread in threads:
    thread.start()
while len(answered) < 7:
    time.sleep(0.001)
print(len(reads), len(loading.plugin._waiting))
go_on.set()
for thread in threads:
    thread.join()
print(len(reads), len(loading.plugin._waiting), len(answered))
"""
    )
    assert child(code).stdout == f"1 0\n1 {WAITING} 8\n"


# Reading the first file takes until go_on is set.
SLOW = """
import os, sys, threading, time
from dirac_perfpatch import background, extension_metadata, loading, status, toggles, waking
real, go_on, reads = toggles.read, threading.Event(), []
def read(*args):
    reads.append(1)
    if len(reads) == 1:
        go_on.wait(15)
    return real(*args)
toggles.read = read
def ask():  # and import, as the host does
    answer = extension_metadata()
    waking.start()
    return answer
"""


@pytest.mark.parametrize("asks", [True, False])
def test_a_child_that_was_forked_during_a_start_starts_anew(child: Any, asks: bool) -> None:
    """Whether or not it asks for the extensions again, it neither hangs nor stays half patched."""
    code = f"""
from dirac_perfpatch import live
background._FIRST, live._SETTLING = 0.01, 60  # the thread does not read the file again
thread = threading.Thread(target=ask)
thread.start()
while not reads:
    time.sleep(0.001)
pid = os.fork()
if not pid:
    if {asks}:
        print(ask(), flush=True)
    end = time.monotonic() + 5
    while {{entry["state"] for entry in status()}} != {{"armed"}} and time.monotonic() < end:
        time.sleep(0.01)
    print({{entry["state"] for entry in status()}}, len(os.listdir("/proc/self/task")), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
go_on.set()
thread.join()
print({{entry["state"] for entry in status()}}, len(reads))
"""
    answer = child(SLOW + code, PYTHONWARNINGS="ignore")  # Python warns of the fork
    child_said = [ANSWER.replace('"', "'")] * asks + ["{'armed'} 2"]
    assert (answer.stdout.splitlines(), answer.stderr) == ([*child_said, "{'armed'} 1"], "")


def test_a_start_that_imports_a_module_whose_importing_thread_asks(child: Any, tmp_path: Path) -> None:
    """If a call waited for the start, the two threads would wait for each other."""
    folder = tmp_path / "libraries"
    folder.mkdir()
    (folder / "wrapt.py").write_text("import sys\nsys.inside.set()\nsys.arming.wait(10)\nsys.ask()\n")
    code = """
sys.inside, sys.arming, sys.ask = threading.Event(), threading.Event(), ask
thread = threading.Thread(target=__import__, args=("wrapt",), daemon=True)
thread.start()
sys.inside.wait(10)
def take_up(name):
    sys.arming.set()
    import wrapt
loading.plugin._take_up = take_up
go_on.set()
print(ask())
"""
    assert child(SLOW + code, folder).stdout == ANSWER.replace('"', "'") + "\n"


def test_a_signal_handler_that_asks_during_a_start(child: Any) -> None:
    code = """
import signal
signal.signal(signal.SIGALRM, lambda *_: (print(ask()), go_on.set()))
signal.setitimer(signal.ITIMER_REAL, 0.1)
print(ask(), len(loading.plugin._waiting))
"""
    assert child(SLOW + code).stdout == f"{{'priority': -8524}}\n{{'priority': -8524}} {WAITING}\n"


def test_a_status_during_a_start(child: Any) -> None:
    code = """
real_take_up = loading.plugin._take_up
def take_up(name):
    real_take_up(name)
    status()
loading.plugin._take_up = take_up
go_on.set()
print(ask(), {entry["state"] for entry in status()})
"""
    answer = child(SLOW + code)
    assert (answer.stdout, answer.stderr) == ("{'priority': -8524} {'armed'}\n", "")


def test_a_nonsense_word_in_the_variable_keeps_the_host_stock(child: Any) -> None:
    """Also later, when the file is read again, which would switch everything on."""
    code = """
from dirac_perfpatch import live
background._FIRST = live._PAUSE = live._SETTLING = 0.01
go_on.set()
extension_metadata()
time.sleep(0.3)
print({entry["state"] for entry in status()}, len(os.listdir("/proc/self/task")))
"""
    answer = child(SLOW + code, DIRAC_PERFPATCH="of")
    assert answer.stdout == "{'off'} 1\n"
    assert answer.stderr == "dirac-perfpatch: DIRAC_PERFPATCH=of: must be on or off; DIRAC runs unpatched\n"


def test_a_start_inside_a_start_does_not_hang(child: Any) -> None:
    """A start may import a module that looks for extensions again."""
    code = """
from dirac_perfpatch import extension_metadata, toggles, waking
real = toggles.read
def read(*args):
    print(extension_metadata(), waking.start())
    return real(*args)
toggles.read = read
print(extension_metadata(), waking.start())
"""
    assert child(code).stdout == "{'priority': -8524} True\n" * 2


# Something is broken


def _sources(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.py"))


BREAKABLE = ["host", "imports", "loading", "notices", "patching", "toggles", "yamlfile", "patches/__init__"]
BREAKABLE += ["background", "waking"]
PATCH_MODULES = [f"patches/{name}" for name in (*NAMES, "_connections")]
UPDATES = "DIRAC.FrameworkSystem.Service.SystemAdministratorHandler"


FAULTS = {
    "syntax": "def broken(:\n",
    "raises": "raise ImportError('broken\\non purpose')\n",
    "import": "from dirac_perfpatch import no_such_name\n",
    "missing": None,
}


@pytest.mark.parametrize(
    ("name", "fault"),
    [(name, "raises") for name in BREAKABLE] + [(name, fault) for name in ("host", "loading") for fault in FAULTS],
)
def test_a_broken_module_of_ours_does_not_reach_the_host(copy: Path, child: Any, name: str, fault: str) -> None:
    _break(copy, name, fault)
    answer = child(ASK, copy)
    assert answer.stdout == ANSWER + "\n"
    lines = _lines(answer)
    assert len(lines) == 1
    assert lines[0].startswith("dirac-perfpatch: ")
    assert lines[0].endswith("; DIRAC runs unpatched")


def _break(copy: Path, name: str, fault: str) -> None:
    source = FAULTS[fault]
    path = copy / "dirac_perfpatch" / f"{name}.py"
    if source is None:
        path.unlink()
    else:
        path.write_text(source)


@pytest.mark.simulation
@pytest.mark.parametrize(
    ("name", "fault"),
    [(name, "raises") for name in PATCH_MODULES] + [("patches/error_stack", fault) for fault in FAULTS],
)
def test_a_broken_module_of_a_patch_stops_that_patch_only(
    copy: Path, child: Any, tmp_path: Path, name: str, fault: str
) -> None:
    """It is imported inside an import of the host, which goes on; until then there is no message."""
    _break(copy, name, fault)
    broken = [name.partition("/")[2]]
    if broken[0] in ("_connections", "connection_checkout"):  # which the others import
        broken = [name for name in NAMES if name.startswith("connection_")]
    modules = sorted({module for name in broken for module in WAITED_FOR[name]})
    folder = _strange_host(tmp_path, modules)
    code = f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\nprint('imported')\n"
    answer = child(ASK + "import sys; print('asked', file=sys.stderr)\n" + code + STATES, copy, folder)
    asked, *told = [line for line in _lines(answer) if "cannot patch" not in line]
    metadata, imported, states = answer.stdout.splitlines()
    assert (asked, metadata, imported) == ("asked", ANSWER, "imported")
    assert sorted(line.split(": ")[1] for line in told) == sorted(broken)
    assert all(line.endswith("; DIRAC runs its own code there") for line in told)
    found = {name: state for name, state, _ in json.loads(states)}
    assert [found[name] for name in broken] == ["failed"] * len(broken)
    others = {state for name, state in found.items() if not {*WAITED_FOR[name]} & {*modules}}
    assert others == {"armed"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_updating_is_reported_when_it_is_needed(copy: Path, child: Any, tmp_path: Path, fault: str) -> None:
    _break(copy, "updating", fault)
    folder = _strange_host(tmp_path, [UPDATES])
    assert child(ASK, copy).stderr == ""
    answer = child(f"{ASK}import {UPDATES}\nprint('imported')", copy, folder)
    assert answer.stdout == f"{ANSWER}\nimported\n"
    [line] = _lines(answer)
    assert line.startswith("dirac-perfpatch: keep_on_update: ")
    assert line.endswith("; an update of DIRAC will leave the plugin out")


def _strange_host(tmp_path: Path, modules: Iterable[str]) -> Path:
    """A folder with empty modules of these names."""
    folder = tmp_path / "strange"
    for module in modules:
        path = folder.joinpath(*module.split("."))
        path.mkdir(parents=True, exist_ok=True)
        for parent in (path, *path.parents):
            if parent == folder:
                break
            (parent / "__init__.py").touch()
    return folder


@pytest.mark.parametrize(
    "content", [None, "patches: [\n", "patches:\n  error_stack: on\n", "enabled: on\nkeep_on_update: on\n", "\xff"]
)
def test_a_broken_shipped_file_does_not_reach_the_host(copy: Path, child: Any, content: str | None) -> None:
    path = copy / "dirac_perfpatch" / "patches.yaml"
    path.unlink()
    if content is not None:
        path.write_text(content, encoding="latin-1")
    answer = child(ASK, copy)
    assert answer.stdout == ANSWER + "\n"
    assert len(_lines(answer)) == 1
    assert answer.stderr.endswith("; DIRAC runs unpatched\n")


FAIL = "from dirac_perfpatch import loading\ndef fail():\n    raise {}\nloading.plugin.start = fail\n"


@pytest.mark.parametrize(
    "error",
    [
        "RuntimeError('on purpose')",
        "RuntimeError('in\\ntwo lines')",
        "RecursionError()",
        "MemoryError()",
        "UnicodeDecodeError('utf-8', b'x', 0, 1, 'bad')",
    ],
)
def test_a_start_that_raises_does_not_reach_the_host(child: Any, error: str) -> None:
    answer = child(f"{FAIL.format(error)}{ASK}")
    assert answer.stdout == ANSWER + "\n"
    assert len(_lines(answer)) == 1
    assert answer.stderr.startswith("dirac-perfpatch: ")


def test_an_error_that_cannot_even_be_shown_does_not_reach_the_host(child: Any) -> None:
    error = "type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})"
    answer = child(f"{FAIL.format(error)}{ASK}")
    assert answer.stdout == ANSWER + "\n"
    assert len(_lines(answer)) <= 1


def test_a_start_that_raised_shows_in_the_status(child: Any) -> None:
    """It must not look as if no start had been tried."""
    code = "from dirac_perfpatch import toggles\ndef fail(*args):\n    raise RuntimeError('on purpose')\n"
    answer = child(code + "toggles.read = fail\n" + ASK + STATES)
    states = json.loads(answer.stdout.splitlines()[1])
    assert [(name, state) for name, state, _ in states] == [(name, "off") for name in NAMES]
    assert all("on purpose" in reason for _, _, reason in states)


@pytest.mark.parametrize(
    "stream",
    [
        "sys.stderr = None",
        "sys.stderr.close()",
        "sys.stderr = object()",
        "import os; os.close(2)",
        "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 2)",
    ],
)
@pytest.mark.parametrize("break_start", ["", "loading.plugin.start = None", "toggles.SHIPPED = '/no/such/file'"])
def test_a_start_without_standard_error(child: Any, stream: str, break_start: str) -> None:
    """The line must not go to standard output instead, which scripts parse."""
    code = f"import sys\nfrom dirac_perfpatch import loading, toggles\n{break_start}\n{stream}\n{ASK}"
    assert child(code).stdout == ANSWER + "\n"


@pytest.mark.parametrize("fault", ["raise ImportError('broken')", "def broken(:", "", "raise SystemError('odd')"])
def test_a_start_needs_none_of_the_libraries(child: Any, tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "libraries"
    folder.mkdir()
    for library in ("yaml", "wrapt", "importlib_metadata"):
        (folder / f"{library}.py").write_text(fault)
    answer = child(ASK + STATES, folder)
    assert _lines(answer) == []
    metadata, states = answer.stdout.splitlines()
    assert metadata == ANSWER
    assert [state for _, state, _ in json.loads(states)] == ["armed"] * len(NAMES)


@pytest.mark.parametrize("fault", ["raise ImportError('broken')", "def broken(:", "", "FunctionWrapper = None"])
def test_a_broken_wrapt_leaves_the_methods_stock_and_the_rest_patched(
    child: Any, tmp_path: Path, host: Path, fault: str, forced: str
) -> None:
    folder = tmp_path / "libraries"
    folder.mkdir()
    (folder / "wrapt.py").write_text(fault)
    code = """
from DIRAC.Core.Utilities import MySQL, ReturnValues
print(MySQL.ConnectionPool().get("db"), len(ReturnValues.S_ERROR("no")["CallStack"]))
"""
    answer = child(ASK + code + STATES, folder, host, DIRAC_PERFPATCH_CONFIG=forced)
    lines = _lines(answer)
    _, calls, states = answer.stdout.splitlines()
    assert calls == "{'OK': True, 'Value': 'db'} 1"
    found = {name: state for name, state, _ in json.loads(states)}
    assert (found["error_stack"], found["connection_checkout"]) == ("applied", "failed")
    told = [line for line in lines if "connection_checkout" in line]
    assert len(told) == 1
    assert told[0].startswith(
        "dirac-perfpatch: connection_checkout: cannot patch DIRAC.Core.Utilities.MySQL.Connection"
    )
    assert told[0].endswith("; DIRAC runs its own code there")


@pytest.mark.parametrize("fault", ["raise ImportError('broken\\non purpose')", "def broken(:"])
def test_a_broken_pyyaml_is_reported_when_a_file_needs_it(child: Any, tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "libraries"
    folder.mkdir()
    (folder / "yaml.py").write_text(fault)
    (tmp_path / "my.yaml").write_text("patches: {error_stack: off}\n")
    answer = child(ASK, folder, DIRAC_PERFPATCH_CONFIG=str(tmp_path / "my.yaml"))
    assert answer.stdout == ANSWER + "\n"
    lines = _lines(answer)
    assert len(lines) == 1
    assert lines[0].startswith(f"dirac-perfpatch: {tmp_path / 'my.yaml'}: cannot be read without PyYAML (")
    assert lines[0].endswith("; DIRAC runs unpatched")


# The catalogue


def _targets() -> list[Target]:
    return [target for patch in CATALOGUE for target in patch.targets]


def test_names_and_targets_are_unique() -> None:
    assert len(set(NAMES)) == len(NAMES)
    places = [(module, target.attribute) for target in _targets() for module in target.modules]
    assert len(set(places)) == len(places)
    assert all(module.partition(".")[0] in ("DIRAC", "DIRACCommon", "diraccfg") for module, _ in places)
    assert {name for patch in CATALOGUE for name in patch.wants} <= set(NAMES)


def test_the_catalogue_waits_for_the_modules_of_the_targets() -> None:
    """A module that is missing there is never patched."""
    for patch, (name, modules) in zip(CATALOGUE, WAITED_FOR.items()):
        assert patch.name == name
        assert {module for target in patch.targets for module in target.modules} == set(modules)
    assert updating.SWITCH.patch.targets[0].modules == (UPDATES,)


def test_no_patch_takes_a_strange_host_for_its_own(tmp_path: Path, child: Any) -> None:
    """Empty modules of the right names: every patch fails with a message, or has nothing to do, and changes nothing."""
    modules = {module for target in _targets() for module in target.modules}
    folder = _strange_host(tmp_path, modules)
    code = f"""
import importlib
before = {{name: dict(vars(importlib.import_module(name))) for name in {sorted(modules)!r}}}
print(all(set(vars(importlib.import_module(name))) <= set(before[name]) for name in before))
"""
    answer = child(ASK + code + STATES, folder)
    lines = _lines(answer)
    _, unchanged, states = answer.stdout.splitlines()
    assert unchanged == "True"
    found = {name: state for name, state, _ in json.loads(states)}
    assert found.pop("lazy_imports") == "stood down"  # they import nothing
    assert set(found.values()) == {"failed"}
    assert all("cannot patch" in line and "DIRAC runs its own code there" in line for line in lines)


@pytest.mark.parametrize("name", ["dirac_perfpatch/cli.py", "dirac_perfpatch/__init__.py"])
def test_the_copy_is_the_package(copy: Path, name: str) -> None:
    """Otherwise the tests with broken modules would break nothing."""
    assert name in _sources(copy)
    assert {f"dirac_perfpatch/{path}.py" for path in (*BREAKABLE, *PATCH_MODULES)} <= set(_sources(copy))
