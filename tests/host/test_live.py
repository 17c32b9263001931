"""The section of the host's configuration, in a process of the real host; a real server is in the service tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import release, run

START = """
import sys
from DIRAC.Core.Utilities.Extensions import extensionsByPriority
extensionsByPriority()
from dirac_perfpatch import live, loading, status, waking
waking.start()  # as the next import of the host does
waking.background._pause()
follower = loading.plugin.follower()
from DIRAC.ConfigurationSystem.Client.ConfigurationData import gConfigurationData
helper = "DIRAC.ConfigurationSystem.Client.Helpers.Operations"

def option(path, value):
    gConfigurationData.setOptionInCFG(path, value)

def off():
    follower.look()
    follower.look()
    return sorted(name for name, toggle in loading.plugin.toggles.items() if not toggle.on)

def write(text):
    open(sys.argv[-1], "w").write(text)
"""
FOLLOW = "comparison:\n  follow_configuration: on\n"


@pytest.fixture
def told(tmp_path: Path) -> object:
    def told(code: str, text: str = FOLLOW) -> tuple[list[str], list[str]]:
        """What it has printed, and what the operator was told."""
        file = tmp_path / "my.yaml"
        file.write_text(text)
        answer = run(START.replace("sys.argv[-1]", repr(str(file))) + code, DIRAC_PERFPATCH_CONFIG=str(file))
        assert answer.returncode == 0, answer.stderr
        lines = [line for line in answer.stderr.splitlines() if line.startswith("dirac-perfpatch: ")]
        return answer.stdout.splitlines(), [line.partition(": ")[2].replace(str(file), "FILE") for line in lines]

    return told


def _section(vo: str) -> str:
    return f"/Operations/{vo}/Defaults/PerfPatch" if release().startswith("8.") else f"/Operations/{vo}/PerfPatch"


def test_a_section_overrides_the_file_and_that_of_the_vo_overrides_the_defaults(told: object) -> None:
    code = f"""
option("/Operations/Defaults/PerfPatch/error_stack", "off")
option("/Operations/Defaults/PerfPatch/dms_helpers", "off")
print(off(), helper in sys.modules)
option("{_section("vo")}/dms_helpers", "on")
option("{_section("other")}/proxy_loading", "off")
option("/DIRAC/VirtualOrganization", "vo")
import DIRAC.ConfigurationSystem.Client.Helpers.Operations
print(off())
print(loading.plugin.source.partition(", ")[2])
write("enabled: on\\n")
print(off())
"""
    said, lines = told(code)  # type: ignore[operator]
    both = "['dms_helpers', 'error_stack']"
    assert said == [f"{both} False", "['error_stack']", f"/Operations/Defaults/PerfPatch, {_section('vo')}", "[]"]
    assert len(lines) == 3


def test_the_file_must_allow_it(told: object) -> None:
    code = """
option("/Operations/Defaults/PerfPatch/error_stack", "off")
print(off())
"""
    assert told(code, "enabled: on\n") == (["[]"], [])  # type: ignore[operator]


def test_a_wrong_section_changes_nothing_and_the_last_right_one_stays(told: object) -> None:
    code = """
option("/Operations/Defaults/PerfPatch/error_stack", "off")
print(off())
option("/Operations/Defaults/PerfPatch/proxy_loadin", "off")
print(off())
option("/Operations/Defaults/Other", "x")
write("patches:\\n  dms_helpers: off\\ncomparison:\\n  follow_configuration: on\\n")
print(off())
gConfigurationData.deleteOptionInCFG("/Operations/Defaults/PerfPatch/proxy_loadin")
option("/Operations/Defaults/PerfPatch/error_stack", "on")
print(off())
"""
    said, lines = told(code)  # type: ignore[operator]
    assert said == ["['error_stack']"] * 2 + ["['dms_helpers', 'error_stack']", "['dms_helpers']"]
    place = "/Operations/Defaults/PerfPatch"
    assert lines == [
        f"toggles read again from FILE, {place}: error_stack off",
        f"{place}/proxy_loadin: unknown key 'proxy_loadin'; did you mean proxy_loading?; the toggles stay as they are",
        f"toggles read again from FILE, {place}: dms_helpers off",
        "/Operations of the configuration can be used again",
        f"toggles read again from FILE, {place}: error_stack on",
    ]


def test_a_section_that_vanishes_changes_nothing_unless_it_says_enabled(told: object) -> None:
    """While the host reads a new configuration, or when it could not, its copy lacks the section for a while."""
    code = """
from diraccfg import CFG
section = "/Operations/Defaults/PerfPatch"
def without():
    gConfigurationData.deleteOptionInCFG(section + "/error_stack")
    print(off())
option(section + "/error_stack", "off")
print(off())
without()
option(section + "/error_stack", "off")
print(off())
whole = gConfigurationData.mergedCFG
for lost in (CFG(), CFG()):
    gConfigurationData.mergedCFG = lost
    print(off())
write("patches:\\n  dms_helpers: off\\ncomparison:\\n  follow_configuration: on\\n")
print(off())
gConfigurationData.mergedCFG = whole
print(off())
option(section + "/enabled", "on")
without()
"""
    said, lines = told(code)  # type: ignore[operator]
    both = "['dms_helpers', 'error_stack']"
    assert said == ["['error_stack']"] * 5 + [both, both, "['dms_helpers']"]
    place = "/Operations/Defaults/PerfPatch"
    lost = (
        f"{place}: settings have vanished, as if the configuration could not be read; restore them, or also set "
        "`enabled` there; the toggles stay as they are"
    )
    again = "/Operations of the configuration can be used again"
    assert lines == [
        f"toggles read again from FILE, {place}: error_stack off",
        *[lost, again] * 1,
        lost,
        f"toggles read again from FILE, {place}: dms_helpers off",
        again,
        f"toggles read again from FILE, {place}: error_stack on",
    ]


def test_whatever_the_host_raises_the_toggles_stay(told: object) -> None:
    code = """
option("/Operations/Defaults/PerfPatch/error_stack", "off")
print(off())
import DIRAC.ConfigurationSystem.Client.Helpers.Operations as module
class Operations:
    def __init__(self):
        raise RuntimeError("on purpose")
module.Operations = Operations
option("/Operations/Defaults/PerfPatch/error_stack", "on")
print(off())
"""
    said, lines = told(code)  # type: ignore[operator]
    assert said == ["['error_stack']"] * 2
    assert lines[-1] == (
        "/Operations of the configuration cannot be read: RuntimeError: on purpose; the toggles stay as they are"
    )
