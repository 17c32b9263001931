"""Libraries are imported at their first use, and whoever looks finds what stock has. In processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import release, run, run_fresh

from dirac_perfpatch.patches import WAITED_FOR, lazy_imports

pytestmark = pytest.mark.patched("lazy_imports")

OLD = release().startswith("8.")
ENTRIES = [entry for entry in lazy_imports._TABLE if lazy_imports._has(entry)]
MODULES = [entry.module for entry in ENTRIES]
# A light module of the host, and a name that it has from a library.
LIGHT, NAME, LIBRARY = "DIRAC.Core.Tornado.Client.private.TornadoBaseClient", "requests", "requests"
LOOK = "from DIRAC.Core.Utilities.Extensions import extensionsByPriority; extensionsByPriority()\n"
LIBRARIES = ("diracx.client", "pydantic", "requests", "pyasn1", "pyparsing")

# What can be known about the modules: the names, and where each object comes from, and the code of each function.
KNOWN = f"""
import importlib, inspect, json, sys
from types import FunctionType
modules = [importlib.import_module(name) for name in {MODULES!r}]
def known(value):
    value = inspect.unwrap(value) if callable(value) and not isinstance(value, type) else value
    code = value.__code__.co_code.hex() if isinstance(value, FunctionType) else ""
    bases = [base.__qualname__ for base in value.__mro__] if isinstance(value, type) else []
    return [type(value).__name__, getattr(value, "__module__", ""), getattr(value, "__qualname__", ""), code, bases]
def everything():
    found = {{}}
    for module in modules:
        for name, value in list(vars(module).items()):
            if name not in ("__builtins__", "__cached__", "__spec__", "__loader__"):
                found[f"{{module.__name__}}:{{name}}"] = known(value)
            if isinstance(value, type) and value.__module__ == module.__name__:
                for inner, one in list(vars(value).items()):
                    found[f"{{module.__name__}}:{{name}}.{{inner}}"] = known(one)
    return found
"""


def ask(code: str, patched: bool = True, start: Any = run_fresh, **environment: str) -> Any:
    """Run code that prints JSON last.

    start: run_fresh, because that of run() has imported the libraries; run where this makes no difference.
    """
    answer = start(code, DIRAC_PERFPATCH="on" if patched else "off", **environment)
    assert answer.returncode == 0, answer.stderr
    assert "dirac-perfpatch" not in answer.stderr, answer.stderr
    assert "Exception ignored" not in answer.stderr, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


USES = (
    "for name in names: getattr(module, name)",
    "for name in names: exec(f'from {module.__name__} import {name}')",
    "assert all(hasattr(module, name) for name in names)",
    "assert set(names) <= set(dict(inspect.getmembers(module)))",
    "for value in [getattr(module, name) for name in names]:\n"
    "    if not isinstance(value, types.ModuleType): assert pickle.loads(pickle.dumps(value)) is value",
    "with mock.patch(f'{module.__name__}.{names[0]}', 7): assert vars(module)[names[0]] == 7",
)
OFF = "loading.plugin.switches['lazy_imports'].take_off()"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file in which no other patch is on."""
    path = tmp_path_factory.mktemp("toggles") / "patches.yaml"
    others = (f"  {name}: off\n" for name in WAITED_FOR if name != "lazy_imports")
    path.write_text("patches:\n" + "".join(others))
    return str(path)


@pytest.fixture(scope="module")
def stock() -> Any:
    return ask(LOOK + KNOWN + "print(json.dumps(everything()))", patched=False, start=run)


@pytest.mark.parametrize("uses", [USES, USES[3:] + USES[:3], (OFF,)], ids=["used", "used otherwise", "taken off"])
def test_afterwards_each_module_is_as_in_stock(uses: tuple[str, ...], stock: Any, alone: str) -> None:
    code = f"""
import pickle, sys, types
from unittest import mock
from dirac_perfpatch import loading, status
{KNOWN}
before = [name for name in {LIBRARIES!r} if name in sys.modules]
uses = {list(uses)!r}
for number, (module, names) in enumerate(zip(modules, {[entry.bound() for entry in ENTRIES]!r})):
    assert not set(names) & set(vars(module)) or uses == ["pass"], module
    assert set(names) <= set(dir(module)) or uses == ["pass"], module
    exec(uses[number % len(uses)])
    assert set(names) <= set(vars(module)), module
    if {uses == (OFF,)}: uses = ["pass"]
[state] = [entry for entry in status() if entry["name"] == "lazy_imports"]
print(json.dumps([before, everything(), state["state"], state["failures"]]))
"""
    start = run_fresh if uses == USES else run
    before, found, state, failures = ask(LOOK + code, start=start, DIRAC_PERFPATCH_CONFIG=alone)
    assert before == [] or start is run
    assert found == stock
    assert (state, failures) == ("off" if uses == (OFF,) else "applied", 0)


def test_calls_answer_as_in_stock() -> None:
    """Each function that uses a deferred name, called first with nothing imported."""
    code = f"""
import json, sys
def answer(function, *args):
    try:
        found = function(*args)
    except Exception as error:
        return [type(error).__name__, str(error)]
    if isinstance(found, dict) and "OK" in found:
        found = found["Value"] if found["OK"] else found["Message"]
    return repr(found).split(" at 0x")[0]
answers = []
from DIRAC.Core.Security.X509Chain import X509Chain
from pathlib import Path
import DIRAC
certs = Path(DIRAC.__file__).parent / "Core" / "Security" / "test" / "certs"
chain = X509Chain()
chain.loadChainFromFile(str(certs / "user" / "usercert.pem"))
one = chain.getCertInChain(0)["Value"]
for name in ("getDIRACGroup", "hasVOMSExtensions", "getVOMSData"):
    answers.append(answer(getattr(one, name)))
from DIRAC.Core.Tornado.Client.private import TornadoBaseClient as tornado
session = tornado._create_session(False)
answers.append([session["OK"], [base.__name__ for base in type(session["Value"].get_adapter("https://")).__mro__]])
from DIRAC.Resources.Catalog.FileCatalog import FileCatalog
answers.append(answer(lambda: type(FileCatalog(catalogs=["FileCatalog"]).condParser).__name__))
if not {OLD}:
    from DIRAC.Core.Security import DiracX
    answers.append(answer(lambda: DiracX.DiracXClient().__enter__()))
    answers.append(answer(DiracX.addTokenToPEM, "/no/such/file", "no_such_group"))
    from DIRAC.ConfigurationSystem.private.Modificator import Modificator
    answers.append(answer(lambda: Modificator().showCurrentDiff()))
print(json.dumps(answers))
"""
    assert ask(LOOK + code) == ask(LOOK + code, patched=False, start=run)


HIDING = """
import importlib.machinery, sys
find = importlib.machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name in {hidden!r} else find(name, path, target)
importlib.machinery.PathFinder.find_spec = find_spec
"""


MISSING = [("requests", LIGHT), ("pyasn1", "DIRAC.Core.Security.m2crypto.X509Certificate")]
MISSING += [("pyparsing", "DIRAC.Resources.Catalog.FileCatalog")]
MISSING += [] if OLD else [(name, "DIRAC.Core.Security.DiracX") for name in ("diracx.client.sync", "pydantic")]


@pytest.mark.parametrize(("hidden", "module"), MISSING)
def test_a_missing_library_gives_the_outcome_of_stock(hidden: str, module: str) -> None:
    code = HIDING.format(hidden=[hidden]) + LOOK + f"import importlib; importlib.import_module({module!r})"
    answers = [run_fresh(code, DIRAC_PERFPATCH=word) for word in ("on", "off")]
    ends = [(answer.returncode, answer.stderr.splitlines()[-1:]) for answer in answers]
    assert ends[0] == ends[1]
    assert ends[0][0]


@pytest.mark.parametrize("start", [0, 2, len(MODULES) - 1])
def test_in_whatever_order_the_modules_and_libraries_come(start: int, stock: Any, alone: str) -> None:
    libraries = [library for entry in ENTRIES for library in entry.names if not library.startswith("DIRAC")]
    order = [*reversed(MODULES), *libraries[:1], *MODULES, *libraries]
    order = order[start:] + order[:start]
    code = (
        f"{LOOK}import importlib\nfor name in {order!r}: importlib.import_module(name)\n{KNOWN}\n"
        f"for module, names in zip(modules, {[entry.bound() for entry in ENTRIES]!r}):\n"
        "    for name in names: getattr(module, name)\n"
        "print(json.dumps(everything()))"
    )
    assert ask(code, DIRAC_PERFPATCH_CONFIG=alone) == stock


def test_what_was_imported_before_the_plugin_stays_and_status_says_so() -> None:
    """As in a script that imports the API and never looks for extensions itself."""
    code = (
        "import json, DIRAC.Interfaces.API.Dirac\n"
        f"import dirac_perfpatch, {LIGHT} as module\n"
        "[entry] = [one for one in dirac_perfpatch.status() if one['name'] == 'lazy_imports']\n"
        f"print(json.dumps([entry, {NAME!r} in vars(module)]))"
    )
    entry, loaded = ask(code, start=run)
    states = {target["module"]: (target["state"], target["reason"]) for target in entry["targets"]}
    assert states[LIGHT] == ("stood down", lazy_imports._TOO_LATE)
    assert loaded
    assert entry["failures"] == 0
    assert {state for state, _ in states.values()} <= {"applied", "stood down", "armed"}


@pytest.mark.parametrize("program", lazy_imports._SERVERS)
def test_servers_import_everything_at_their_start(program: str) -> None:
    code = (
        f"import json, sys\nsys.argv[0] = '/opt/bin/{program}'\n{LOOK}import {LIGHT} as module, dirac_perfpatch\n"
        "[entry] = [one for one in dirac_perfpatch.status() if one['name'] == 'lazy_imports']\n"
        f"told = [target for target in entry['targets'] if target['module'] == {LIGHT!r}]\n"
        f"print(json.dumps([told[0]['state'], told[0]['reason'], {NAME!r} in vars(module)]))"
    )
    assert ask(code, start=run) == ["stood down", f"{program} imports everything at its start", True]


# The library takes its time, and says that it has begun.
SLOW = f"""
import importlib, json, os, signal, sys, threading, time
{LOOK}
module = importlib.import_module({LIGHT!r})
begun = threading.Event()
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "requests.adapters" and threading.current_thread() in threads:
            begun.set()
            time.sleep(0.5)
threads = []
sys.meta_path.insert(0, Slow())
"""


@pytest.mark.own_lines
def test_threads_that_use_it_first_at_once() -> None:
    code = """
answers = []
def use():
    answers.append(module._create_session(False)["OK"] and module.requests.Session.__name__)
threads += [threading.Thread(target=use) for _ in range(12)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(answers))
"""
    assert ask(SLOW + code) == ["Session"] * 12


@pytest.mark.own_lines
def test_a_fork_while_another_thread_imports() -> None:
    """The child would wait for ever for the import lock of a thread that it does not have."""
    code = """
thread = threading.Thread(target=lambda: module.requests)
threads.append(thread)
thread.start()
begun.wait()
child = os.fork()
if not child:
    signal.alarm(20)
    os._exit(0 if module._create_session(False)["OK"] and module.requests.Session else 1)
_, status = os.waitpid(child, 0)
thread.join()
print(json.dumps([status, module.requests.__name__, "__getattr__" in vars(module)]))
"""
    assert ask(SLOW + code) == [0, "requests", False]


@pytest.mark.own_lines
def test_after_a_fork_nothing_is_deferred() -> None:
    code = f"""
import json, os, sys
{LOOK}
import {MODULES[0]}
pending = {ENTRIES[0].bound()[0]!r} not in vars(sys.modules[{MODULES[0]!r}])
child = os.fork()
import {LIGHT}
ends = {ENTRIES[0].bound()[0]!r} in vars(sys.modules[{MODULES[0]!r}]), "requests" in sys.modules
if not child:
    os._exit(0 if all(ends) else 1)
print(json.dumps([pending, ends, os.waitpid(child, 0)[1]]))
"""
    assert ask(code) == [True, [True, True], 0]


@pytest.mark.own_lines
def test_a_fork_with_a_library_that_cannot_be_imported_goes_on() -> None:
    code = f"""
import json, os, sys
{LOOK}
import {LIGHT} as module
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "requests":
            raise ImportError("broken on purpose")
sys.meta_path.insert(0, Broken())
child = os.fork()
try:
    module.requests
except ImportError as error:
    told = str(error)
if not child:
    os._exit(0 if told == "broken on purpose" else 1)
print(json.dumps([told, os.waitpid(child, 0)[1]]))
"""
    assert ask(code) == ["broken on purpose", 0]


@pytest.mark.own_lines
def test_a_signal_handler_that_uses_what_its_own_thread_is_importing() -> None:
    code = """
threads.append(threading.main_thread())
told = []
def handler(number, frame):
    told.append(module.requests.Session.__name__)
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.1)
module.requests
print(json.dumps([told, signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()]))
"""
    assert ask(SLOW + code) == [["Session"], True]


@pytest.mark.own_lines
def test_a_signal_that_kills_does_so_in_the_middle_of_an_import() -> None:
    """A slow file system must not make a process deaf."""
    code = """
threads.append(threading.main_thread())
signal.setitimer(signal.ITIMER_REAL, 0.1)
module.requests
"""
    answer = run_fresh(SLOW.replace("time.sleep(0.5)", "time.sleep(30)") + code)
    assert answer.returncode == -signal.SIGALRM, answer.stderr


def test_the_imports_register_nothing_for_forks_and_import_no_other_module_of_the_host() -> None:
    """A lock taken before a fork that began earlier would be released without having been taken; and the import of
    another module of the host could wait for a thread that waits for a lock of ours."""
    code = f"""
import importlib, json, os, sys
{LOOK}
modules = [importlib.import_module(name) for name in {MODULES!r}]
import DIRAC.Interfaces.API.Dirac
before = {{name for name in sys.modules if name.startswith("DIRAC")}}
registered = []
real = os.register_at_fork
os.register_at_fork = lambda **hooks: registered.append(str(hooks)) if "before" in hooks else real(**hooks)
for module, names in zip(modules, {[entry.bound() for entry in ENTRIES]!r}):
    getattr(module, names[0])
print(json.dumps([registered, sorted(name for name in sys.modules if name.startswith("DIRAC") and name not in before)]))
"""
    registered, imported = ask(code)
    assert registered == []
    deferred = {f"{library}.{name}" for entry in ENTRIES for library, names in entry.names.items() for name in names}
    deferred |= {library for entry in ENTRIES for library in entry.names}
    deferred |= {name.rpartition(".")[0] for name in deferred}  # empty packages
    assert set(imported) <= deferred


@pytest.mark.own_lines
def test_on_again_after_off() -> None:
    code = f"""
import json
{LOOK}
import {LIGHT} as module, dirac_perfpatch
from dirac_perfpatch import loading
switch = loading.plugin.switches["lazy_imports"]
states = []
for step in (switch.take_off, switch.put_on):
    step()
    states.append([one["state"] for one in switch.status()["targets"] if one["module"] == {LIGHT!r}])
print(json.dumps([states, vars(module)["requests"].__name__]))
"""
    assert ask(code, start=run) == [[["off"], ["applied"]], "requests"]


@pytest.mark.own_lines
def test_switched_off_in_the_file_nothing_is_deferred(tmp_path: Path) -> None:
    path = tmp_path / "patches.yaml"
    path.write_text("patches:\n  lazy_imports: off\n")
    code = f"import json\n{LOOK}import {LIGHT} as module\nprint(json.dumps({NAME!r} in vars(module)))"
    assert ask(code, start=run, DIRAC_PERFPATCH_CONFIG=str(path)) is True


def test_the_host_reads_none_of_these_modules_dictionaries() -> None:
    """`import *` would miss what is deferred."""
    import DIRAC

    names = "|".join(re.escape(name.rpartition(".")[2]) for name in MODULES)
    star = re.compile(rf"from [\w.]*\b({names}) import \*")
    sources = Path(DIRAC.__file__).parent.rglob("*.py")
    assert [path for path in sources if star.search(path.read_text(errors="replace"))] == []


@pytest.mark.parametrize("command", ["dirac-version", "dirac-proxy-info", "dirac-wms-job-status"])
def test_a_command_says_what_it_says_in_stock(command: str) -> None:
    import subprocess

    answers = []
    for word in ("on", "off"):
        arguments = [str(Path(sys.executable).parent / command), *(["1"] if "status" in command else [])]
        environment = {**os.environ, "DIRAC_PERFPATCH": word, "X509_USER_PROXY": "/no/such/proxy"}
        answer = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False, timeout=60)
        said = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?( UTC)?", "", answer.stdout + answer.stderr)
        answers.append((answer.returncode, said))
    assert answers[0] == answers[1]
