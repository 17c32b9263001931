"""However DIRAC is started, nobody sees a difference, and the plugin is loaded and in order.

Each start is made twice, on real processes: with the plugin on and with it off. What is seen from outside must be the
same. Started elsewhere: services, also by HTTPS, and `DIRAC.initialize()` with a Configuration server, in
tests/service; the host's ProcessPool in test_comparison.py; threads, forks and signals in test_interruptions.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import downstream
import pytest
from conftest import make_proxy, release

from dirac_perfpatch.patches import AT_IMPORT, WAITED_FOR
from lab import processes
from lab.hosts import state

BIN = Path(sys.executable).parent
PYTHON = sys.executable

ASK = downstream.TELL + downstream.WORK
SAY = f"{ASK}\nprint(answers(), flush=True)\n"
# The least that loads the plugin.
LOOK = "from DIRAC import S_ERROR\nfrom DIRAC.Core.Utilities.Extensions import extensionsByPriority\n"
LOOK += "said = str([extensionsByPriority(), S_ERROR('on purpose')['CallStack']])\nprint(said)\n"
# What answers() uses.
USED = ("extension_lookup", "error_stack", "proxy_loading", "dms_helpers", "configuration_parsing", "json_dates")


class End(NamedTuple):
    """What is seen of a process from outside, and what it and its children told of the plugin."""

    code: int
    output: str
    errors: str
    told: list[Any]


class Place:
    """A folder with what is started: a proxy, the extension `Downstream`, and a module that makes each process tell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.telling, self.extension = folder / "telling", downstream.install(folder / "extension")
        self.telling.mkdir()
        (self.telling / "sitecustomize.py").write_text(f"import atexit\n{downstream.TELL}\natexit.register(tell)\n")
        make_proxy(folder / "proxy")

    def starts(
        self,
        *command: Any,
        text: str = "",
        used: Sequence[str] = USED,
        off: bool = False,
        seen: Callable[[str], str] = lambda text: text,
        **variables: Any,
    ) -> End:
        """Start a command with the plugin on, and with it off, and compare.

        text: its input; used: the patches that must be applied; off: whether the plugin must have switched itself off;
        seen: what of the output is compared; variables: of its environment.
        Returns: the end of the first.
        """

        words = [str(part) for part in command]
        patched, stock = (self._start(word, words, text, variables) for word in ("on", "off"))
        assert (patched.code, seen(patched.output)) == (stock.code, seen(stock.output)), (patched.errors, stock.errors)
        assert set(seen(patched.errors).splitlines()) <= set(seen(stock.errors).splitlines())
        assert len(patched.told) == len(stock.told)
        for told in [*stock.told, *(patched.told if off else [])]:
            assert {found for _, found, *_ in told or []} <= {"off"}
        for told in [] if off else patched.told:
            check(told, used)
        return patched

    def _start(self, word: str, command: Sequence[str], text: str, variables: dict[str, Any]) -> End:
        folder = self.folder / "at" / word
        folder.mkdir(parents=True, exist_ok=True)
        reading, writing = os.pipe()
        environment = {
            **os.environ,
            "PYTHONPATH": f"{self.telling}{os.pathsep}{self.extension}",
            "X509_USER_PROXY": str(self.folder / "proxy"),
            **{name: str(value) for name, value in variables.items()},
            "TOLD": str(writing),
            "DIRAC_PERFPATCH": word,
        }
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(command, pass_fds=[writing], env=environment, cwd=folder, text=True, **streams)
        os.close(writing)
        with process, open(reading) as pipe:
            try:
                output, errors = process.communicate(text, timeout=60)
            finally:
                process.kill()
            return End(process.returncode, output, errors, [json.loads(line) for line in pipe])


def check(told: Any, used: Sequence[str]) -> None:
    """The plugin is loaded, all of it is in order, and these patches are applied."""
    assert [name for name, *_ in told] == list(WAITED_FOR)
    for name, found, failures, reason in told:
        wanted = {state(release(), name)} if name in used else {state(release(), name), "armed"}
        if name in AT_IMPORT:
            wanted.add("stood down")  # servers, and what was imported before the plugin
        assert found in wanted, (name, found, reason)
        assert not failures, (name, reason)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("starts"))


def without_times(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d([.,]\d+)?Z?( UTC)?|\d+\.\d\d ?(s\b|seconds|%)", "TIME", text)


def without_numbers(text: str) -> str:
    return re.sub(r"[\d.:,]*\d", "0", text)


def test_a_command(place: Place) -> None:
    end = place.starts(BIN / "dirac-proxy-info", used=USED[:3], seen=lambda text: re.sub(r"\d\d:\d\d:\d\d", "", text))
    assert "fakevo_user" in end.output
    assert len(end.told) == 1


def test_an_agent(place: Place) -> None:
    file = place.folder / "dirac.cfg"
    # In 8.0 each system has its instance in the setup.
    setup = "DataManagement = Lab\n"
    file.write_text(Path(os.environ["DIRACSYSCONFIG"]).read_text().replace(setup, f"{setup}Downstream = Lab\n"))
    command = [BIN / "dirac-agent", "Downstream/QuietAgent", "-o", "MaxCycles=1"]
    end = place.starts(*command, seen=without_times, PYTHONPATH=place.extension, DIRACSYSCONFIG=file)
    assert end.code == 0
    assert "Cycle was successful" in end.output
    assert len(end.told) == 1


@pytest.fixture
def mind(place: Place, tmp_path: Path) -> Iterator[list[str]]:
    """A service that hands out tasks, and the options for those that want one."""
    port = processes.free_port()
    url = ["-o", f"/Systems/Downstream/URLs/Mind=dip://localhost:{port}/Downstream/Mind"]
    # The host searches for the messages of a service beside itself.
    import DIRAC

    beside = place.folder / "beside"
    beside.mkdir()
    (beside / "DIRAC").symlink_to(Path(DIRAC.__file__).parent)
    (beside / "Downstream").symlink_to(place.extension / "Downstream")
    log = tmp_path / "mind"
    options = ["-o", f"Port={port}", "-o", "Protocol=dip", "-o", "Authorization/Default=all", *url]
    environment = {**os.environ, "PYTHONPATH": f"{beside}{os.pathsep}{place.extension}"}
    service = processes.start([str(BIN / "dirac-service"), "Downstream/Mind", *options], log, environment)
    deadline = time.monotonic() + 60
    while "Listening at" not in log.read_text():
        assert service.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    yield [environment["PYTHONPATH"], *url]
    processes.stop([service])


@pytest.mark.once
def test_an_executor(place: Place, mind: list[str]) -> None:
    path, *url = mind
    end = place.starts(BIN / "dirac-executor", "Downstream/Quiet", *url, seen=without_times, PYTHONPATH=path)
    assert end.code == -15  # its mind ends it when it has the result
    assert "Connected to Downstream/Mind" in end.output
    assert len(end.told) == 1


@pytest.mark.once
def test_a_job_with_its_wrapper(place: Place) -> None:
    """All of it, without services and a proxy: it runs the payload, watches it, and cannot report."""
    from DIRAC.WorkloadManagementSystem.Utilities.Utils import createJobWrapper

    (place.folder / "wrapper").mkdir()
    job = {"JobID": "1", "Executable": "/bin/echo", "Arguments": "from the payload"}
    made = createJobWrapper("1", job, {}, {}, {}, wrapperPath=str(place.folder / "wrapper"), pythonPath=PYTHON)
    assert made["OK"], made
    wrapper, used = made["Value"]["JobWrapperPath"], ("extension_lookup", "error_stack", "configuration_parsing")
    end = place.starts(PYTHON, wrapper, used=used, seen=without_numbers, X509_USER_PROXY="/no/such/proxy")
    assert "from the payload" in end.output
    assert end.told


def test_a_script(place: Place) -> None:
    script = place.folder / "script.py"
    script.write_text(f"from DIRAC.Core.Base.Script import Script\nScript.parseCommandLine()\n{SAY}print(sys.argv)\n")
    end = place.starts(PYTHON, script, "an argument", seen=without_times)
    assert end.code == 0
    assert "an argument" in end.output
    assert len(end.told) == 1


CHILDREN = """
import multiprocessing

def child(number):
    said = answers()
    return plugin(), said

if __name__ == "__main__":
    print(answers())
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            told, said = pool.apply(child, [1])
            print(method, said, flush=True)
            tell(told)
"""


@pytest.mark.once
def test_children_of_multiprocessing(place: Place) -> None:
    script = place.folder / "children.py"
    script.write_text(ASK + CHILDREN)
    # Without what makes each process tell: they do not all have what they would tell it to.
    end = place.starts(PYTHON, script, PYTHONPATH=place.extension)
    assert end.code == 0
    assert [line.split()[0] for line in end.output.splitlines()[1:]] == ["fork", "spawn"]
    assert len(end.told) == 4


@pytest.mark.once
def test_pytest(place: Place) -> None:
    test = place.folder / "test_of_a_site.py"
    test.write_text(f"{ASK}\ndef test_one():\n    print(answers())\n    assert False\n")
    end = place.starts(PYTHON, "-m", "pytest", "-p", "no:cacheprovider", test, seen=without_times)
    assert end.code == 1
    assert "1 failed" in end.output
    assert len(end.told) == 1


@pytest.mark.once
@pytest.mark.parametrize("arguments", [["-i"], ["-c", "import code; code.interact()"]], ids=["python -i", "code"])
def test_a_prompt(arguments: list[str], place: Place) -> None:
    text = f"{LOOK}1 / 0\ndef ask():\n    return S_ERROR('at the prompt')\n\nask()['CallStack']\n"
    end = place.starts(PYTHON, *arguments, text=text, used=USED[:2])
    assert "ZeroDivisionError" in end.errors
    assert "in ask" in end.output or "in <module>" in end.output
    assert len(end.told) == 1


@pytest.mark.once
@pytest.mark.parametrize("flags", ["-O -I", "-OO -S", "-X dev -bb"])
def test_a_flag_of_python(flags: str, place: Place) -> None:
    path = os.pathsep.join(["/no/such/folder.zip", *(name for name in sys.path if "site-packages" in name)])
    end = place.starts(PYTHON, *flags.split(), "-c", f"{SAY}tell()", PYTHONPATH=path)
    assert end.code == 0
    assert len(end.told) == 1


@pytest.mark.once
def test_a_script_that_never_looks_for_extensions_runs_without_the_plugin(place: Place) -> None:
    end = place.starts(PYTHON, "-c", "import DIRAC; print(DIRAC.version, DIRAC.S_ERROR('x')['CallStack'])", off=True)
    assert end.told == [None]


WITHOUT_MYSQL = """
try:
    import DIRAC.Core.Utilities.MySQL
except ImportError as error:
    print(error)
from DIRAC.Interfaces.API.Dirac import Dirac
print(Dirac().ping("No", "Such"))
"""


@pytest.mark.once
def test_a_client_without_mysqlclient(place: Place) -> None:
    hidden = place.folder / "hidden"
    hidden.mkdir()
    (hidden / "MySQLdb.py").write_text("raise ModuleNotFoundError(\"No module named 'MySQLdb'\", name='MySQLdb')\n")
    path = os.pathsep.join(map(str, (hidden, place.telling)))
    end = place.starts(PYTHON, "-c", SAY + WITHOUT_MYSQL, seen=without_times, PYTHONPATH=path)
    assert "No module named 'MySQLdb'" in end.output
    (told,) = end.told
    assert {found for name, found, *_ in told if name.startswith("connection_")} == {"armed"}


# What runs a command where it may write nothing, by the error that it gets if it tries.
UNWRITABLE = {
    # May read everything, as if the installation were open to all.
    "Permission denied": [
        *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
        *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
    ],
    "Read-only file system": ["unshare", "--mount", "sh", "-c", 'mount -o remount,bind,ro / && exec "$@"', "sh"],
}


def unwritable() -> list[str]:
    """Another user, and a read-only mount where this machine permits one, as some containers do not."""
    told = "Read-only file system"
    mounts = not subprocess.run([*UNWRITABLE[told], "true"], stderr=subprocess.DEVNULL, check=False).returncode
    return ["Permission denied", *([told] if mounts else [])]


@pytest.mark.once
@pytest.mark.parametrize("told", unwritable())
def test_a_process_that_may_write_nothing_and_has_no_home(told: str, place: Place) -> None:
    if os.geteuid() != 0:
        pytest.fail("run as root: only root can become another user")
    write = "try:\n    open('made', 'w')\nexcept OSError as error:\n    print(error.strerror)\n"
    end = place.starts(*UNWRITABLE[told], PYTHON, "-c", SAY + write, HOME="/no/such/home")
    assert end.code == 0, end.errors
    assert end.output.splitlines()[-1] == told
    assert len(end.told) == 1


@pytest.mark.once
def test_a_bare_environment(place: Place) -> None:
    """As of cron or an init system."""
    bare = ["env", *(f"--unset={name}" for name in ("HOME", "USER", "LOGNAME", "PATH", "LANG"))]
    end = place.starts(*bare, PYTHON, "-c", LOOK, used=USED[:2])
    assert end.code == 0, end.errors
    assert len(end.told) == 1


@pytest.mark.once
@pytest.mark.parametrize(
    ("streams", "toggles"),
    [
        (">&-", "enabled: on"),
        # With something to tell.
        ("2>&-", "enabled: perhaps"),
        ("<&- >&- 2>&-", "enabled: perhaps"),
        ("2>/dev/full", "enabled: perhaps"),
    ],
)
def test_streams_that_are_closed_or_full(streams: str, toggles: str, place: Place) -> None:
    file = place.folder / "toggles.yaml"
    file.write_text(f"{toggles}\n")
    code = f"{LOOK}open('said', 'w').write(said)"
    shell = ["sh", "-c", f'exec "$@" {streams}', "sh"]
    off = toggles != "enabled: on"
    end = place.starts(*shell, PYTHON, "-c", code, used=USED[:2], off=off, DIRAC_PERFPATCH_CONFIG=file)
    assert end.code == 0
    texts = [(place.folder / "at" / word / "said").read_text() for word in ("on", "off")]
    assert texts[0] == texts[1] != ""
    assert len(end.told) == 1
