"""Where the host is installed, and that it never lists us as an extension."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

import dirac_perfpatch
from dirac_perfpatch import host, waking

PRIORITY = dirac_perfpatch._PRIORITY
Metadata = Callable[[], "dict[str, Any]"]


@pytest.fixture(autouse=True)
def _loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waking, "wait", lambda report: None)


# Two look-ups like the host's: one collects names by priority and warns if a priority is not unique, the other one asks
# an extension by its name.


def extensionsByPriority(installed: list[tuple[str, Metadata]]) -> list[str]:
    found = defaultdict(list)
    for name, metadata in installed:
        found[metadata()["priority"]].append(name)
    names = []
    for priority, group in sorted(found.items(), reverse=True):
        if len(group) != 1:
            print(f"WARNING: {priority} is the priority of {group}", file=sys.stderr)
        names.extend(sorted(group))
    return names


def getExtensionMetadata(installed: list[tuple[str, Metadata]], wanted: str) -> dict[str, Any]:
    found = defaultdict(list)
    for name, metadata in installed:
        found[name].append(metadata())
    return found[wanted][0]


US = ("dirac_perfpatch", dirac_perfpatch.extension_metadata)


def _other(name: str, priority: int) -> tuple[str, Metadata]:
    return name, lambda: {"priority": priority}


DIRAC, LHCB, BELLE = _other("DIRAC", 0), _other("LHCbDIRAC", 10), _other("BelleDIRAC", 20)


@pytest.mark.parametrize(
    ("installed", "names"),
    [
        ([US], []),
        ([US, DIRAC], ["DIRAC"]),
        ([DIRAC, US], ["DIRAC"]),
        ([LHCB, US, DIRAC, BELLE], ["BelleDIRAC", "LHCbDIRAC", "DIRAC"]),
        ([US, _other("Same", PRIORITY), DIRAC], ["DIRAC", "Same"]),
        ([_other("Same", PRIORITY), US, DIRAC], ["DIRAC", "Same"]),
        ([_other("Lowest", PRIORITY - 1), US, DIRAC], ["DIRAC", "Lowest"]),
        # Two entry points, or two copies on the path.
        ([US, DIRAC, US], ["DIRAC"]),
    ],
)
def test_we_are_not_listed_and_there_is_no_warning(
    installed: list[tuple[str, Metadata]], names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert extensionsByPriority(installed) == names
    assert capsys.readouterr() == ("", "")


def test_the_host_still_warns_about_others(capsys: pytest.CaptureFixture[str]) -> None:
    same = [_other("B", PRIORITY), _other("A", PRIORITY), DIRAC, _other("Zero", 0), US]
    assert extensionsByPriority(same) == ["DIRAC", "Zero", "A", "B"]
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    assert "dirac_perfpatch" not in "".join(warnings)


def test_a_failing_load_does_not_make_us_an_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(report: object) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(waking, "wait", fail)
    monkeypatch.setattr(dirac_perfpatch, "_reported", True)
    assert extensionsByPriority([DIRAC, US]) == ["DIRAC"]


def test_a_caller_that_asks_for_our_metadata_by_name_gets_it() -> None:
    assert getExtensionMetadata([DIRAC, US], "dirac_perfpatch") == {"priority": PRIORITY}
    assert getExtensionMetadata([US, DIRAC], "DIRAC") == {"priority": 0}


def test_our_metadata_is_the_caller_s_own() -> None:
    dirac_perfpatch.extension_metadata()["priority"] = 5
    assert dirac_perfpatch.extension_metadata() == {"priority": PRIORITY}


def test_other_callers_keep_their_variables() -> None:
    kept: defaultdict[Any, list[Any]] = defaultdict(list)
    host.hide(sys._getframe(), PRIORITY)
    assert kept == {}


def test_an_unknown_kind_of_look_up_is_left_alone() -> None:
    """We are listed after all others, and nothing breaks."""

    def extensionsByPriority(installed: list[tuple[str, Metadata]]) -> list[str]:
        counts: defaultdict[str, int] = defaultdict(int)
        pairs = []
        for name, metadata in installed:
            pairs.append((metadata()["priority"], name))
        return [name for _, name in sorted(pairs, reverse=True)] + list(counts)

    assert extensionsByPriority([US, DIRAC, LHCB]) == ["LHCbDIRAC", "DIRAC", "dirac_perfpatch"]


@pytest.mark.parametrize(
    ("root", "answer"), [("/opt/dirac", "/opt/dirac"), (None, None), ("", None), ("no attribute", None)]
)
def test_the_root_is_that_of_the_host(root: str | None, answer: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("DIRAC")
    if root != "no attribute":
        fake.rootPath = root  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "DIRAC", fake)
    assert host.root_path() == answer


def test_without_a_host_there_is_no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "DIRAC", raising=False)
    assert host.root_path() is None
