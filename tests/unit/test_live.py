"""Toggles that change while a process runs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from dirac_perfpatch import background, toggles
from dirac_perfpatch.patches import WAITED_FOR

# A host with one module that a patch knows; the toggles are looked at a hundred times as often as in production.
HOST = """
import traceback

def S_OK(value=None):
    return {"OK": True, "Value": value}

def S_ERROR(message):
    stack = traceback.format_stack()
    stack.pop()
    return {"OK": False, "Message": message, "CallStack": stack}
"""
START = """
import os, sys, time
from pathlib import Path
from dirac_perfpatch import background, extension_metadata, known, live, loading, status, waking
known.forms = known.texts = dict  # this host is of no release
background._FIRST = live._PAUSE = 0.02
live._SETTLING = 0.005
import traceback
import DIRAC.Core.Utilities.ReturnValues as host
extension_metadata()
if waking.background.started:
    waking.start()  # as the next import of the host does
file = Path(os.environ["FILE"])

def on(name="error_stack"):
    return next(entry["state"] for entry in status() if entry["name"] == name)

def until(wanted, name="error_stack"):
    end = time.monotonic() + 10
    while on(name) != wanted:
        assert time.monotonic() < end, status()
        time.sleep(0.005)
    assert name != "error_stack" or (wanted == "applied") == (host.traceback is not traceback)

def write(text):
    file.with_suffix(".new").write_text(text)
    file.with_suffix(".new").rename(file)
"""


@pytest.fixture
def run(child: Any, tmp_path: Path) -> Any:
    folder = tmp_path / "host" / "DIRAC" / "Core" / "Utilities"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent, folder.parent.parent):
        (package / "__init__.py").touch()
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (folder.parent.parent / "__init__.py").write_text(f"rootPath = {str(root)!r}\n")
    (folder / "ReturnValues.py").write_text(HOST)
    file = root / "etc" / "patches.yaml"

    def run(code: str, text: str | None = None, before: str = "", **environment: str) -> tuple[list[str], list[str]]:
        """Return the lines of standard output and of standard error, with FILE for the path of the file."""
        if text is not None:
            file.write_text(text)
        answer = child(before + START + code, tmp_path / "host", FILE=str(file), **environment)
        assert answer.returncode == 0, answer.stderr
        told = [line.replace(str(file), "FILE") for line in answer.stderr.splitlines()]
        return answer.stdout.splitlines(), [line.replace("dirac-perfpatch: ", "") for line in told]

    return run


def test_a_patch_is_switched_off_and_on_again_in_a_running_process(run: Any) -> None:
    code = """
write("patches:\\n  error_stack: off\\n")
until("off")
print(next(entry["reason"] for entry in status() if entry["name"] == "error_stack") == f"switched off by {file}")
print("x" if host.S_ERROR("x")["CallStack"] else "")
write("patches:\\n  error_stack: on\\n")
until("applied")
write("enabled: off\\n")
until("off")
until("off", "dms_helpers")
write("enabled: on\\npatches:\\n  error_stack: ab\\n")
until("applied")
until("armed", "dms_helpers")
"""
    said, told = run(code, "patches:\n  error_stack: on\n")
    assert said == ["True", "x"]
    names = [*WAITED_FOR, "keep_on_update"]
    everything = ", ".join(f"{name} {{1}}" if name == "error_stack" else f"{name} {{0}}" for name in names)
    assert told == [
        "toggles read again from FILE: error_stack off",
        "toggles read again from FILE: error_stack on",
        "toggles read again from FILE: " + everything.format("off", "off"),
        "toggles read again from FILE: " + everything.format("on", "ab"),
    ]


LOOK = """
waking.background._pause()  # the thread of the process itself
def look():
    for _ in range(3):
        loading.plugin.look_again()
    return on()
"""
STAYS = "the toggles stay as they are"
ENOENT = "FILE: cannot be read: No such file or directory"
NOTHING = "FILE: says nothing; write `enabled: on` alone for the defaults, or `enabled: off`"
LESS = "FILE: has lost settings, and {}; restore them, or write `enabled: on` alone for the defaults"
NO_ENABLED = LESS.format("has no line `enabled:`, as if truncated")
CUT = LESS.format("ends in the middle of a line, as if truncated")
BEGINNING = LESS.format("is the beginning of its former text, as if truncated")


@pytest.mark.parametrize(
    ("off", "left", "problem"),
    [
        ("enabled: off\n", None, ENOENT),
        ("enabled: off\n", "", NOTHING),
        ("enabled: off\n", "\n# off since Monday\n", NOTHING),
        ("enabled: off\n", "patches:\n", NOTHING),
        ("enabled: off\n", "patches:\n  dms_helpers: on\n", NO_ENABLED),
        ("enabled: off\n", "enabled: o", "FILE:1: enabled must be on or off (or true or false); it is 'o'"),
        ("patches:\n  error_stack: off\n", "patches:\n  dms_helpers: off\n", NO_ENABLED),
        ("enabled: on\npatches:\n  error_stack: off\n", "enabled: on\npatches:\n  dms_helpers: on", CUT),
        ("enabled: on\npatches:\n  dms_helpers: off\n  error_stack: off\n",
         "enabled: on\npatches:\n  dms_helpers: off\n", BEGINNING),
    ],
)  # fmt: skip
def test_what_is_off_stays_off_when_the_file_is_lost(run: Any, off: str, left: str | None, problem: str) -> None:
    """The loss is reported once. When the file is back, it counts again."""
    code = f"""
off, left = {off!r}, {left!r}
print(look())
file.unlink() if left is None else write(left)
print(look(), look(), loading.plugin.source == str(file))
write(off)
print(look())
file.unlink() if left is None else write(left)
print(look())
write("enabled: on\\n")
print(look())
"""
    said, told = run(LOOK + code, off)
    assert said == ["off", "off off True", "off", "off", "applied"]
    assert told[:4] == [f"{problem}; {STAYS}", "FILE can be used again"] * 2
    assert [line.partition(":")[0] for line in told[4:]] == ["toggles read again from FILE"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("enabled: off\n", "enabled: on"),
        ("patches:\n  error_stack: off\n", "enabled: on"),
        ("enabled: on\npatches:\n  error_stack: off\n", "enabled: on\n"),
        ("patches:\n  error_stack: off\n", "# the defaults again\nenabled: on\npatches:\n  dms_helpers: off\n"),
        ("enabled: on\npatches:\n  error_stack: off\n", "enabled: on\nkeep_on_update: off\n"),
        # What is left out makes no difference.
        ("patches:\n  dms_helpers: on\n  error_stack: off\n", "patches:\n  error_stack: on"),
        ("enabled: on\npatches:\n  error_stack: off\n", "patches:\n  error_stack: on\n"),
    ],
)
def test_a_file_that_is_complete_is_taken_as_it_stands(run: Any, before: str, after: str) -> None:
    code = f"""
print(look())
write({after!r})
print(look())
"""
    said, told = run(LOOK + code, before)
    assert said == ["off", "applied"]
    assert [line.partition(":")[0] for line in told] == ["toggles read again from FILE"]


def test_a_file_that_comes_counts_and_does_not_go_again(run: Any) -> None:
    code = """
print(look(), loading.plugin.source == loading.toggles.SHIPPED)
write("")
print(look())
write("patches:\\n  error_stack: off\\n")
print(look(), loading.plugin.source == str(file))
file.unlink()
print(look(), loading.plugin.source == str(file))
write("enabled: on\\n")
print(look())
"""
    said, told = run(LOOK + code)
    assert said == ["applied True", "applied", "off True", "off True", "applied"]
    assert told[0] == f"{NOTHING}; {STAYS}"
    assert told[3] == f"{ENOENT}; {STAYS}"


def test_a_file_that_is_lost_between_the_start_and_the_first_look(run: Any) -> None:
    code = """
write("patches:\\n  error_stack: on\\n")
print(look())
"""
    assert run(LOOK + code, "enabled: off\n") == (["off"], [f"{NO_ENABLED}; {STAYS}"])


def test_a_start_with_an_empty_file_is_unpatched_until_the_file_is_back(run: Any) -> None:
    """Also after the empty file is removed: it may have said off."""
    code = """
print(look())
file.unlink()
print(look())
write("enabled: on\\n")
print(look())
"""
    said, told = run(LOOK + code, "")
    assert said == ["off", "off", "applied"]
    assert told[:3] == [f"{NOTHING}; DIRAC runs unpatched", f"{ENOENT}; {STAYS}", "FILE can be used again"]


def test_a_file_that_the_variable_names_is_followed_whatever_the_process_does_to_its_environment(
    run: Any, tmp_path: Path
) -> None:
    named = tmp_path / "named.yaml"
    named.write_text("enabled: off\n")
    code = f"""
from pathlib import Path
named = Path({str(named)!r})
os.environ.pop("DIRAC_PERFPATCH_CONFIG")
print(look())
write("enabled: on\\n")
print(look())
named.unlink()
print(look())
named.write_text("enabled: on\\n")
print(look())
"""
    assert run(LOOK + code, DIRAC_PERFPATCH_CONFIG=str(named))[0] == ["off", "off", "off", "applied"]


def test_a_file_that_flips_all_the_time(run: Any) -> None:
    """Only complete files are applied, so a patch is on only if one of them said so."""
    code = """
import threading
whole = ["enabled: off\\n", "enabled: off\\npatches:\\n  error_stack: ab\\n", "patches:\\n  error_stack: off\\n"]
broken = ["", "patches:\\n", "enabled: o", "enabled: on\\npatches:\\n  error_st", "enabled: on\\npat\\0", "\\xff"]
print(look())
waking.background._go_on()
seen, done = set(), threading.Event()
def watch():
    while not done.is_set():
        seen.add(on())
        time.sleep(0.001)
thread = threading.Thread(target=watch)
thread.start()
end = time.monotonic() + 2
turn = 0
while time.monotonic() < end:
    turn += 1
    file.write_bytes(whole[turn % 3].encode())
    time.sleep(turn % 7 / 200)
    file.write_bytes(broken[turn % 6].encode("latin-1"))
    time.sleep(turn % 5 / 200)
    if not turn % 4:
        file.unlink()
        time.sleep(turn % 3 / 50)
done.set()
thread.join()
print(seen)
write("enabled: on\\n")
until("applied")
"""
    assert run(LOOK + code, "enabled: off\n")[0] == ["off", "{'off'}"]


def test_what_was_executed_by_hand_is_taken_up_at_the_next_look_or_status(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "host" / "DIRAC" / "Core" / "Utilities" / "MySQL.py"
    path.write_text("import sys\nsys.ask()\n")
    code = f"""
import importlib.util
def executed():
    name = "DIRAC.Core.Utilities.MySQL"
    spec = importlib.util.spec_from_file_location(name, {str(path)!r})
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    print(states())
    sys.ask = lambda: print(states())
    spec.loader.exec_module(module)
def states():
    return sorted({{entry["state"] for entry in status() if "DIRAC.Core.Utilities.MySQL" in str(entry)}})
executed()
print(states())
del sys.modules["DIRAC.Core.Utilities.MySQL"]
write("enabled: off\\n")
look()
write("enabled: on\\n")
look()
executed()
look()
names = ("connection_checkout", "connection_eviction")
print(sorted({{one.state for name in names for one in loading.plugin.switches[name]._targets}}))
"""
    said, told = run(LOOK + code)
    assert said == [*["['armed']"] * 2, "['failed']"] * 2  # there is nothing in it


def test_a_change_right_after_the_start_is_seen(run: Any) -> None:
    """Before the first check, which cannot know what the file was at the start."""
    code = """
write("patches:\\n  error_stack: on\\n")
until("applied")
"""
    run(code, "patches:\n  error_stack: off\n")


def test_what_was_waited_for_is_no_longer(run: Any, tmp_path: Path) -> None:
    """A patch that is switched off before its module comes is not imported, nor is `updating`."""
    names = (
        "DIRAC.DataManagementSystem.Utilities.DMSHelpers",
        "DIRAC.FrameworkSystem.Service.SystemAdministratorHandler",
    )
    for name in names:
        path = tmp_path.joinpath("host", *name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True)
        path.touch()
        (path.parent / "__init__.py").touch()
        (path.parent.parent / "__init__.py").touch()
    code = f"""
write("enabled: off\\n")
until_end = time.monotonic() + 10
while loading.plugin.source != str(file):
    assert time.monotonic() < until_end
    time.sleep(0.005)
import importlib
ours = ("dirac_perfpatch.patches.dms_helpers", "dirac_perfpatch.updating")
def there():
    waking.background._pause(), waking.background._go_on()  # all that changes has changed
    return [name in sys.modules for name in ours]
there()
for name in {names!r}:
    importlib.import_module(name)
print(there())
write("enabled: on\\n")
until("applied")
print(there())
"""
    assert run(code)[0] == ["[False, False]", "[True, True]"]


def test_a_patch_that_is_switched_off_while_it_is_being_armed(run: Any) -> None:
    code = """
import threading
until("applied")
write("enabled: off\\n")
until("off")
switch = loading.plugin.switches.pop("error_stack")  # as if its module had not come yet
wanted = loading.toggles.read(loading.toggles.SHIPPED)
real = loading.plugin._set
inside = threading.Event()
def slow(switch, toggle):
    if threading.current_thread() is thread:
        inside.set()
        time.sleep(0.3)
    real(switch, toggle)
waking.background._pause()
loading.plugin._set = slow
loading.plugin.toggles["error_stack"] = wanted.patches["error_stack"]
thread = threading.Thread(target=loading.plugin._load, args=("error_stack",))
thread.start()
inside.wait()
loading.plugin.apply(loading.toggles.read("FILE", "enabled: off"))
thread.join()
print(loading.plugin.switches["error_stack"].status()["state"], host.traceback is traceback)
"""
    assert run(code)[0] == ["off True"]


def test_an_update_of_the_plugin_does_not_change_the_defaults_of_a_running_process(run: Any, tmp_path: Path) -> None:
    """The code that runs does not know the patches of the next version."""
    shipped = tmp_path / "shipped.yaml"
    text = Path(toggles.SHIPPED).read_text()
    shipped.write_text(text)
    newer = text.replace("patches:\n", "patches:\n  brand_new: on\n").replace("  json_dates: on", "  json_dates: off")
    code = f"""
print(look())
Path({str(shipped)!r}).write_text({newer!r})
print(look(), on("json_dates"))
write("enabled: on\\npatches:\\n  error_stack: off\\n")
print(look(), on("json_dates"))
"""
    said, told = run(LOOK + code, before=f"from dirac_perfpatch import toggles\ntoggles.SHIPPED = {str(shipped)!r}\n")
    assert said == ["applied", "applied armed", "off armed"]
    assert told == ["toggles read again from FILE: error_stack off"]


def test_only_what_makes_a_difference_is_touched(run: Any) -> None:
    """A patch that is on is not taken off if only the comparison changes."""
    code = """
until("applied")
waking.background._pause()
def apply(text):
    print(loading.plugin.apply(loading.toggles.read("FILE", text)))
apply("comparison:\\n  share: 0.1\\n")
apply("patches:\\n  error_stack: ab\\ncomparison:\\n  share: 0.1\\n")
apply("patches:\\n  error_stack: ab\\ncomparison:\\n  share: 0.2\\n")
apply("patches:\\n  error_stack: ab\\ncomparison:\\n  share: 0.2\\n  check_one_in: 7\\n")
apply("patches:\\n  error_stack:\\n    recheck_seconds: 2\\n")
apply("patches:\\n  error_stack: off\\n")
apply("patches:\\n  error_stack:\\n    enabled: off\\n    recheck_seconds: 3\\n")
"""
    changes = ["[]", *["['error_stack ab']"] * 3, "['error_stack on']", "['error_stack off']", "[]"]
    assert run(code)[0] == changes


def test_options_are_taken_up(run: Any) -> None:
    code = """
write("patches:\\n  error_stack:\\n    recheck_seconds: 7\\n")
until_end = time.monotonic() + 10
while loading.plugin.switches["error_stack"]._targets[-1].fittings[-1].options != {"recheck_seconds": 7}:
    assert time.monotonic() < until_end
    time.sleep(0.005)
print(on())
"""
    assert run(code)[0] == ["applied"]


def test_a_broken_file_changes_nothing_and_is_reported_once_each_time(run: Any) -> None:
    code = """
for word in ("a", "b"):
    write("patches:\\n  eror_stack: off\\n")
    end = time.monotonic() + 20
    while not loading.plugin.follower()._problems["file"] and time.monotonic() < end:
        time.sleep(0.01)
    print(on())
    write("patches:\\n  error_stack: off\\n  # " + word + "\\n")
    until("off")
    write("enabled: on\\n")
    until("applied")
"""
    said, told = run(code, "enabled: on\n")
    assert said == ["applied", "applied"]
    assert (
        told
        == [
            "FILE:2: unknown patch 'eror_stack'; did you mean error_stack?; the toggles stay as they are",
            "FILE can be used again",
            "toggles read again from FILE: error_stack off",
            "toggles read again from FILE: error_stack on",
        ]
        * 2
    )


def test_a_file_that_was_broken_at_the_start_is_mended(run: Any) -> None:
    code = """
time.sleep(0.2)
print(on(), loading.plugin.problem != "")
write("patches:\\n  dms_helpers: off\\n")
until("applied")
print(loading.plugin.problem)
"""
    said, told = run(code, "enabled: maybe\n")
    assert said == ["off True", ""]
    first = "FILE:1: enabled must be on or off (or true or false); it is 'maybe'"
    assert told[:2] == [f"{first}; DIRAC runs unpatched", "FILE can be used again"]


def test_a_file_that_is_being_written_is_not_read_half(run: Any) -> None:
    code = """
follower = loading.plugin.follower()
file.write_text("patches:\\n")
assert follower.look() == live._SETTLING
file.write_text("patches:\\n  error_stack: ab\\n")
assert follower.look() == live._SETTLING
file.write_text("patches:\\n  error_stack: on\\n")
assert follower.look() == live._SETTLING
assert follower._read is None
assert follower.look() == live._PAUSE
print(follower._file.patches["error_stack"].mode)
real = loading.toggles.read_again
def read_again(*args):
    found = real(*args)
    file.write_text("patches:\\n  error_stack: off\\n")
    return found
loading.toggles.read_again = read_again
file.write_text("patches:\\n  error_stack: ab\\n# longer\\n")
follower.look()
follower.look()
loading.toggles.read_again = real
follower.look()
print(follower._file.patches["error_stack"].mode)
follower.look()
print(follower._file.patches["error_stack"].mode)
"""
    # The thread of the process itself is kept out of it.
    code = "waking.background._pause()\n" + code
    assert run(code)[0] == ["on", "on", "off"]


def test_a_tripped_patch_stays_tripped(run: Any) -> None:
    code = """
loading.plugin.switches["error_stack"].trip("on purpose")
for text in ("error_stack: off", "error_stack: on", "error_stack:\\n    recheck_seconds: 3"):
    write(f"patches:\\n  {text}\\n")
    time.sleep(0.3)
    print(on())
until_end = time.monotonic() + 10
while loading.plugin.toggles["error_stack"].options["recheck_seconds"] != 3 and time.monotonic() < until_end:
    time.sleep(0.01)
time.sleep(0.3)
"""
    said, told = run(code)
    assert said == ["tripped"] * 3
    assert told[-1].endswith("error_stack on")


def test_switched_off_by_the_environment_it_stays_off_and_has_no_thread(run: Any) -> None:
    code = """
write("enabled: on\\n")
time.sleep(0.3)
print(on(), len(os.listdir("/proc/self/task")))
"""
    assert run(code, DIRAC_PERFPATCH="off") == (["off 1"], [])


def test_a_command_that_ends_soon_does_not_pay(child: Any) -> None:
    """Nothing is imported without need, and the exit does not wait."""
    code = """
import sys, threading
from dirac_perfpatch import extension_metadata
extension_metadata()
print("dirac_perfpatch.live" in sys.modules, threading.active_count())
"""
    began = time.monotonic()
    assert child(code).stdout.split() == ["False", "1"]
    assert time.monotonic() - began < background._FIRST


FORK = """
import signal
def child_follows():
    # A fork finds no thread of ours, and the child gets one.
    assert on() == "applied"
    write("patches:\\n  error_stack: off\\n")
    until("off")

def fork(inside):
    pid = os.fork()
    if not pid:
        code = 1
        try:
            inside()
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_children_of_a_fork_follow_and_so_does_the_parent(run: Any) -> None:
    code = """
until("applied")
fork(lambda: fork(child_follows))
until("off")
for _ in range(50):
    fork(lambda: None)
write("enabled: on\\n")
until("applied")
print(len(os.listdir("/proc/self/task")), sum(alone), len(alone))
"""
    # What is registered before ours runs after it.
    alone = """
import os, time
alone = []
def look():
    end = time.monotonic() + 1
    while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < end:
        pass
    alone.append(len(os.listdir("/proc/self/task")) == 1)
os.register_at_fork(before=look)
"""
    assert run(FORK + code, "enabled: on\n", before=alone)[0] == ["2 51 51"]


def test_a_fork_in_the_middle_of_a_change_waits_only_for_so_long(run: Any) -> None:
    """The child does the rest of the change, also when it did not wait for the end."""
    code = """
real = loading.plugin._take_up
working = []
def take_up(name):
    if name == "error_stack":
        working.append(1)
        time.sleep(SECONDS)
    real(name)
loading.plugin._take_up = take_up
def inside():
    global SECONDS
    SECONDS = 0
    extension_metadata()
    until("off")
    until("off", "dms_helpers")
for seconds, most in ((0.3, 1), (1.5, 1.4)):
    SECONDS = 0
    write("enabled: on\\n")
    until("applied")
    working.clear()
    SECONDS = seconds
    write("enabled: off\\n")
    while not working:
        time.sleep(0.001)
    began = time.monotonic()
    fork(inside)
    print(time.monotonic() - began < most)
    until("off")
time.sleep(1)
SECONDS = 0
write("enabled: on\\n")
until("applied")
print(len(os.listdir("/proc/self/task")))
"""
    assert run(FORK + code, "enabled: on\n")[0] == ["True", "True", "2"]


def test_threads_that_fork_at_once(run: Any) -> None:
    code = """
import threading
def some():
    for _ in range(20):
        fork(lambda: None)
threads = [threading.Thread(target=some) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
time.sleep(0.1)
print(len(os.listdir("/proc/self/task")))
write("patches:\\n  error_stack: off\\n")
until("off")
"""
    assert run(FORK + code, "enabled: on\n")[0] == ["2"]


def test_a_signal_handler_that_forks_while_a_fork_waits(run: Any) -> None:
    code = """
real = loading.plugin.apply
loading.plugin.apply = lambda wanted: (time.sleep(0.6), real(wanted))[1]
signal.signal(signal.SIGALRM, lambda *_: fork(lambda: None))
write("patches:\\n  error_stack: off\\n")
time.sleep(0.2)
signal.setitimer(signal.ITIMER_REAL, 0.1)
fork(lambda: None)
until("off")
time.sleep(0.1)
print(len(os.listdir("/proc/self/task")))
"""
    assert run(FORK + code, "enabled: on\n")[0] == ["2"]


BACKGROUND = """
waking.background._pause()
from dirac_perfpatch.background import Background
background._FIRST, background._PATIENCE = 0.01, 0.05
wait = ran = 0
def task():
    global ran
    ran += 1
    time.sleep(wait)
    return 0.01
ours = Background(task)
def threads():
    end = time.monotonic() + 0.3  # those that have just ended are gone by then
    while time.monotonic() < end and len(os.listdir("/proc/self/task")) > 1:
        time.sleep(0.01)
    return len(os.listdir("/proc/self/task")) - 1
ours.start()
"""


def test_it_goes_on_after_the_last_of_several_forks(run: Any) -> None:
    code = """
ours._pause(), ours._pause(), ours._go_on()
print(threads())
ours._go_on()
print(threads())
"""
    assert run(BACKGROUND + code)[0] == ["0", "1"]


def test_a_run_that_takes_longer_than_a_fork_waits_goes_on(run: Any) -> None:
    code = """
wait = 0.6
time.sleep(0.1)
ours._pause(), ours._pause(), ours._go_on(), ours._go_on()
wait = 0
print(threads(), ran)
time.sleep(0.6)
print(threads(), ran > 1)
"""
    assert run(BACKGROUND + code)[0] == ["1 1", "1 True"]


def test_it_has_ended_before_the_interpreter_does(run: Any) -> None:
    before = """
import atexit, os, time
def last():
    time.sleep(0.1)
    print(len(os.listdir("/proc/self/task")))
atexit.register(last)
"""
    assert run("until('applied')", before=before)[0] == ["1"]


def test_no_signal_of_the_process_comes_to_the_thread(run: Any) -> None:
    """A host that waits with sigwait() has blocked the signal in its own threads, and must not die from it."""
    code = """
import signal
time.sleep(0.1)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
for number in (signal.SIGUSR1, signal.SIGTERM):
    os.kill(os.getpid(), number)
    print(signal.sigwait({number}) == number)
"""
    assert run(BACKGROUND + code)[0] == ["True", "True"]


def test_no_more_threads_can_be_started(run: Any) -> None:
    code = """
import _thread
from dirac_perfpatch.background import Background
def refused(*_):
    raise RuntimeError("can't start new thread")
waking.background._pause()  # the thread of the process itself
real, _thread.start_new_thread = _thread.start_new_thread, refused
ran = []
Background(lambda: ran.append(1) or 0.01).start()
_thread.start_new_thread = real
fork(lambda: None)  # afterwards it is tried again
time.sleep(0.3)
print(bool(ran))
"""
    assert run(FORK + code)[0] == ["True"]


def test_an_exit_in_the_middle_of_a_change(run: Any) -> None:
    """The thread is not stopped while it writes to standard error, and does not keep the process."""
    code = """
loading.plugin.apply = lambda wanted: time.sleep(60)
write("patches:\\n  error_stack: off\\n")
time.sleep(0.3)
"""
    assert run(code, "enabled: on\n") == ([], [])


def test_forks_do_not_wait_for_a_run_that_hangs_but_once(run: Any) -> None:
    code = """
background._PATIENCE = 1
busy = Background(lambda: time.sleep(60), 0.0)
busy.start()
time.sleep(0.1)
began = time.monotonic()
for _ in range(5):
    fork(lambda: None)
print(time.monotonic() - began < 2)
"""
    assert run(FORK + BACKGROUND + code)[0] == ["True"]


def test_what_may_take_long_is_waited_for_by_no_fork(run: Any) -> None:
    code = """
background._PATIENCE = 1
def long():
    asked.append(slow.step_aside())
    time.sleep(60 if asked[-1] else 0)
    return 0.01
asked = []
slow = Background(long, 0.0)
slow.start()
while not asked:
    time.sleep(0.001)
began = time.monotonic()
fork(lambda: None)
print(time.monotonic() - began < 0.5, slow.step_aside())
slow._pause()
print(slow.step_aside())
"""
    assert run(FORK + BACKGROUND + code)[0] == ["True True", "False"]


def test_the_exit_waits_for_what_is_to_be_done_last_but_not_for_long(run: Any) -> None:
    assert run(BACKGROUND + "Background(lambda: 60, 0.0, lambda: print('last', flush=True)).start()")[0] == ["last"]
    code = """
background._PATIENCE = 1
hang = [Background(lambda: time.sleep(60), 0.0) for _ in range(4)]
for one in hang:
    one.start()
time.sleep(0.1)
"""
    began = time.monotonic()
    run(BACKGROUND + code)
    assert time.monotonic() - began < 3


def test_a_patch_that_trips_does_not_wait_for_the_file_system(run: Any, tmp_path: Path) -> None:
    """Its snapshot is written in the background, and also if the process ends at once."""
    trip = """
began = time.monotonic()
loading.plugin.switches["error_stack"].trip("on purpose")
print(time.monotonic() - began < 0.5)
"""
    hangs = "os.replace = lambda *paths, **folders: time.sleep(60)\n"
    toggles = f"comparison:\n  spool: {tmp_path}/spool\n"
    began = time.monotonic()
    said, told = run(hangs + trip + "time.sleep(0.5)\n" + trip, toggles)
    assert said == ["True", "True"]
    assert time.monotonic() - began < 6
    # On a busy machine, a second may be too short for the thread.
    assert run(f"from dirac_perfpatch import background\nbackground._PATIENCE = 60\n{trip}", toggles)[0] == ["True"]
    (path,) = (path for path in (tmp_path / "spool").iterdir() if path.name[0] != ".")
    snapshot = json.loads(path.read_text())
    assert (snapshot["ended"], snapshot["patches"]["error_stack"]["state"]) == (True, "tripped")


def test_however_often_the_folder_changes_there_is_one_thread(run: Any, tmp_path: Path) -> None:
    code = f"""
waking.background._pause()
for number in range(30):
    text = f"patches:\\n  error_stack: ab\\ncomparison:\\n  spool: {tmp_path}/spool{{number}}\\n"
    loading.plugin.apply(loading.toggles.read("FILE", text))
print(len(os.listdir("/proc/self/task")))
"""
    assert run(code)[0] == ["2"]
    assert len(list((tmp_path / "spool29").iterdir())) == 1


def test_a_file_that_others_can_write_to_meanwhile_changes_nothing(run: Any) -> None:
    code = """
for text in ("enabled: off\\n", "patches:\\n  error_stack: off\\n"):
    file.chmod(0o666)
    file.write_text(text)
    time.sleep(0.3)
    print(on())
file.chmod(0o644)
until("off")
"""
    said, told = run(code, "enabled: on\n")
    assert said == ["applied", "applied"]
    reason = "is not trusted, because FILE can be changed by everybody; chmod o-w FILE"
    assert told == [
        f"FILE: {reason}; the toggles stay as they are",
        "FILE can be used again",
        "toggles read again from FILE: error_stack off",
    ]
