"""Changing settings changes nothing else in the file."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import stat
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dirac_perfpatch import editing, toggles
from dirac_perfpatch.editing import change, edited
from dirac_perfpatch.notices import OperatorError
from dirac_perfpatch.patches import AT_IMPORT, WAITED_FOR

SHIPPED = Path(toggles.SHIPPED).read_text(encoding="utf-8")
PATH = "/etc/patches.yaml"


@pytest.fixture(scope="module")
def file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "patches.yaml"


@pytest.mark.parametrize(
    ("before", "setting", "after"),
    [
        ("patches:\n  error_stack: on\n", "error_stack=off", "patches:\n  error_stack: off\n"),
        ("patches:\n  error_stack: on\n", "error_stack=ab", "patches:\n  error_stack: ab\n"),
        ("patches:\n  error_stack:   on   # why\n", "error_stack=off", "patches:\n  error_stack:   off   # why\n"),
        ("patches:\n   'error_stack' : On\n", "error_stack=off", "patches:\n   'error_stack' : off\n"),
        ("patches: # all\n    dms_helpers: on", "error_stack=off",
         "patches: # all\n    dms_helpers: on\n    error_stack: off"),
        ("patches:\n  error_stack:\n    # why\n    recheck_seconds: 1\n", "error_stack=off",
         "patches:\n  error_stack:\n    enabled: off\n    # why\n    recheck_seconds: 1\n"),
        ("patches:\n  error_stack:\n    enabled: on\n", "error_stack.enabled=off",
         "patches:\n  error_stack:\n    enabled: off\n"),
        ("patches:\n  error_stack: on # why\n\n  # then\n  dms_helpers: on\n", "error_stack.recheck_seconds=2",
         "patches:\n  error_stack: # why\n    enabled: on\n    recheck_seconds: 2\n\n  # then\n  dms_helpers: on\n"),
        ("patches:\n  error_stack:\n      enabled: on\n\n  # next\n", "error_stack.by=call",
         "patches:\n  error_stack:\n      enabled: on\n      by: call\n\n  # next\n"),
        ("patches:\n  dms_helpers: on\n  # more\n\nenabled: on\n", "error_stack.recheck_seconds=2",
         "patches:\n  dms_helpers: on\n  error_stack:\n    recheck_seconds: 2\n  # more\n\nenabled: on\n"),
        ("patches:\n# none\n", "error_stack=off", "patches:\n  error_stack: off\n# none\n"),
        ("# nothing\n\n", "enabled=off", "# nothing\n\nenabled: off\n"),
        ("", "error_stack=off", "patches:\n  error_stack: off\n"),
        ("enabled: on\r\n\r\n", "error_stack=off", "enabled: on\r\n\r\npatches:\r\n  error_stack: off\r\n"),
        ("\ufeffenabled: on\n", "enabled=off", "\ufeffenabled: off\n"),
        ("  enabled: on\n", "keep_on_update=off", "  enabled: on\n  keep_on_update: off\n"),
        ("in_tree: replace\n", "in_tree=leave", "in_tree: leave\n"),
        ("patches:\n  dms_helpers: on\n", "dms_helpers.in_tree=leave",
         "patches:\n  dms_helpers:\n    enabled: on\n    in_tree: leave\n"),
        ("enabled: on\n", "comparison.window_seconds=30", "enabled: on\ncomparison:\n  window_seconds: 30\n"),
        ("comparison:\n  share: 0.2\n", "comparison.share=.5", "comparison:\n  share: 0.5\n"),
        ("comparison:\n  by: call\n", "comparison.spool=/a b", 'comparison:\n  by: call\n  spool: "/a b"\n'),
        ('comparison:\n  spool: "/a #b" # c\n', "comparison.spool=", 'comparison:\n  spool: "" # c\n'),
        ("patches: {error_stack: on}\n", "enabled=off", "patches: {error_stack: on}\nenabled: off\n"),
    ],
)  # fmt: skip
def test_one_setting_changes_one_thing(before: str, setting: str, after: str) -> None:
    assert edited(PATH, before, [setting]) == after


def test_settings_are_judged_together(file: Path) -> None:
    wanted = ["comparison.by=call", "connection_checkout=ab", "connection_checkout.by=process"]
    file.write_text(edited(PATH, SHIPPED, wanted))
    assert toggles.read(str(file)).patches["connection_checkout"].by == "process"
    with pytest.raises(OperatorError, match="connection_checkout cannot be compared by call"):
        edited(PATH, SHIPPED, wanted[:2])


def test_whatever_the_shipped_file_has_at_its_top_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shipped.yaml").write_text(SHIPPED + "new_key: on\n")
    monkeypatch.setattr(toggles, "SHIPPED", str(tmp_path / "shipped.yaml"))
    for key in ("enabled", "keep_on_update", "force", "new_key"):
        assert edited(PATH, f"{key}: on\n", [f"{key}=off"]) == f"{key}: off\n"


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ("error_stack", "error_stack: write PATCH=on, PATCH=off, PATCH=ab or PATCH.OPTION=VALUE"),
        ("a.b.c=1", "a.b.c=1: write PATCH=on, PATCH=off, PATCH=ab or PATCH.OPTION=VALUE"),
        ("eror_stack=on", f"unknown patch 'eror_stack'; did you mean error_stack?; {PATH} was not changed"),
        ("error_stack=of", "error_stack must be on, off or ab, or a mapping with `enabled:`; it is 'of'; "),
        ("error_stack=on\n  dms_helpers: off", "enabled of error_stack must be on, off or ab; "),
        ("error_stack.recheck_seconds=soon", "recheck_seconds of error_stack must be a number of seconds, such as 1; "
         f"it is 'soon'; {PATH} was not changed"),
        ("connection_checkout.idle_ping_seconds=-1",
         f"idle_ping_seconds of connection_checkout must be from 0 to 1000000000, not -1; {PATH} was not changed"),
        ("comparison.share=-.5", "share of comparison must be from 0 to 1, not -0.5; "),
        ("error_stack.recheck_seconds=1e1", "recheck_seconds of error_stack must be a number of seconds, such as 1; "
         "it is '1e1'; "),
        ("error_stack.recheck=1", "unknown option of error_stack 'recheck'; did you mean recheck_seconds?; "),
        ("enabled={}", "enabled must be on or off (or true or false); it is '{}'; "),
        ("comparison=on", "unknown patch 'comparison'; known: "),
        ("comparison.windows=1", "unknown key of comparison 'windows'; did you mean window_seconds?; "),
        ("comparison.spool=here", 'spool of comparison must be the full path of a folder, or "" for the default; '),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_reported_and_changes_nothing(file: Path, setting: str, error: str) -> None:
    text = (
        "enabled: on\npatches:\n  error_stack:\n    enabled: on\n"
        if "\n" in setting
        else "patches:\n  dms_helpers: on\n"
    )
    with pytest.raises(OperatorError) as caught:
        edited(PATH, text, [setting])
    assert str(caught.value).startswith(error)
    file.write_text(text)
    with pytest.raises(OperatorError):
        change(str(file), ["enabled=off", setting])
    assert file.read_text() == text
    assert os.listdir(file.parent) == [file.name]


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("patches: {error_stack: on}\n", "error_stack=off"),
        ("patches: {error_stack: on}\n", "dms_helpers=off"),
        ("patches:\n  error_stack: {enabled: on}\n", "error_stack=off"),
        ("patches:\n  error_stack: {enabled: on}\n", "error_stack.recheck_seconds=1"),
        ("{enabled: on}\n", "enabled=off"),
        ("{enabled: on}\n", "error_stack=off"),
        ("enabled:\n  on\n", "enabled=off"),
        ("enabled: on\n...\n", "error_stack=off"),
        ("? enabled\n: on\n", "enabled=off"),
        ("enabled: on\r\npatches:\n  error_stack: on\n", "error_stack=off"),
    ],
)
def test_a_style_that_cannot_be_edited_is_reported(text: str, setting: str) -> None:
    toggles.read(PATH, text)
    with pytest.raises(OperatorError) as caught:
        edited(PATH, text, [setting])
    assert str(caught.value) == f"{PATH} is written in a style that cannot be edited line by line; change it by hand"


def test_a_broken_file_is_reported_with_its_line(file: Path) -> None:
    file.write_text("enabled: on\npatchs:\n  error_stack: on\n")
    with pytest.raises(OperatorError) as caught:
        change(str(file), ["error_stack=off"])
    assert str(caught.value) == f"{file}:2: unknown key 'patchs'; did you mean patches?; it was not changed"


def test_the_file_keeps_its_mode_and_owner_and_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real" / "my.yaml", tmp_path / "link.yaml"
    real.parent.mkdir()
    real.write_text("enabled: on\n")
    real.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(real, 65534, 65534)
    before = real.stat()
    link.symlink_to(real)
    with real.open() as reader:
        assert change(str(link), ["enabled=off"])
        assert reader.read() == "enabled: on\n"  # who reads it meanwhile gets all of the old one
    after = real.stat()
    assert real.read_text() == "enabled: off\n"
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert link.is_symlink()
    assert os.listdir(real.parent) == [real.name]


def test_a_file_that_is_not_there_is_made_of_the_shipped_one(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "patches.yaml"
    assert not change(str(path), ["error_stack=off"])
    assert path.read_text() == edited(PATH, SHIPPED, ["error_stack=off"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


# Several at once


def _at_once(*functions: Callable[[], Any]) -> list[int]:
    """Run each in its own process, all starting together. Returns their exit codes."""
    ready, go = os.pipe()
    children = []
    for function in functions:
        pid = os.fork()
        if not pid:
            code = 1
            try:
                os.close(go)
                os.read(ready, 1)
                function()
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    os.close(ready)
    os.close(go)
    return [os.waitpid(pid, 0)[1] for pid in children]


@pytest.mark.parametrize("there", [True, False])
def test_of_several_that_change_the_file_at_once_none_loses_its_change(tmp_path: Path, there: bool) -> None:
    wanted = [f"{name}=off" for name in WAITED_FOR] + ["error_stack.recheck_seconds=7"]
    for turn in range(2):
        path = tmp_path / str(turn) / "patches.yaml"
        if there:
            path.parent.mkdir()
            path.write_text(SHIPPED)
        codes = _at_once(*(functools.partial(change, str(path), [setting]) for setting in wanted))
        assert codes == [0] * len(wanted)
        assert path.read_text() == edited(PATH, SHIPPED, wanted)
        assert os.listdir(path.parent) == [path.name]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "patches.yaml"
    path.write_text(SHIPPED)

    def flip() -> None:
        for turn in range(40):
            change(str(path), [f"error_stack={('off', 'ab')[turn % 2]}"])

    def read() -> None:
        texts = {edited(PATH, SHIPPED, [f"error_stack={word}"]) for word in ("on", "off", "ab")}
        end = time.monotonic() + 1
        while time.monotonic() < end:
            assert path.read_text() in texts

    assert _at_once(flip, flip, flip, read) == [0] * 4


def test_a_lock_that_is_not_released_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the lock of a suspended process."""
    path = tmp_path / "patches.yaml"
    path.write_text("enabled: on\n")
    monkeypatch.setattr(editing, "_PATIENCE", 0.1)
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_SH)
        with pytest.raises(OperatorError) as caught:
            change(str(path), ["enabled=off"])
    finally:
        os.close(folder)
    assert str(caught.value) == f"another process has locked {tmp_path}; nothing was changed: try again"
    assert path.read_text() == "enabled: on\n"
    assert change(str(path), ["enabled=off"])


# Whatever happens meanwhile


def test_one_that_is_killed_in_the_middle_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "patches.yaml"
    path.write_text("enabled: on\n")
    monkeypatch.setattr(os, "fsync", lambda _: os.kill(os.getpid(), 9))
    assert _at_once(lambda: change(str(path), ["enabled=off"])) == [9]
    assert path.read_text() == "enabled: on\n"
    monkeypatch.undo()
    assert change(str(path), ["enabled=off"])  # the lock has ended with the process


@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_leaves_the_old_file_or_none(tmp_path: Path, child: Any, there: bool) -> None:
    path = tmp_path / "etc" / "patches.yaml"
    path.parent.mkdir()
    if there:
        path.write_text(SHIPPED)
    code = f"""
import resource, signal
from dirac_perfpatch.editing import change
from dirac_perfpatch.notices import OperatorError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    change({str(path)!r}, ["error_stack=off"])
except OperatorError as error:
    print(error)
"""
    assert child(code).stdout == f"{path} cannot be written: File too large\n"
    assert os.listdir(path.parent) == [path.name] * there
    assert not there or path.read_text() == SHIPPED


# What belongs to the file

USER_OBJ, USER, GROUP_OBJ, MASK, OTHER = 1, 2, 4, 16, 32
NOBODY = 65534


def _access_list(*entries: tuple[int, int, int]) -> bytes:
    """Build an access list from tags, permissions and ids, in the format of the extended attribute."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def _list_for_nobody(permissions: int) -> bytes:
    none = 0xFFFFFFFF
    return _access_list(
        (USER_OBJ, 6, none), (USER, permissions, NOBODY), (GROUP_OBJ, 0, none), (MASK, 6, none), (OTHER, 0, none)
    )


def test_the_file_keeps_its_access_list_and_attributes(tmp_path: Path) -> None:
    """The group bits are the mask of an access list: as a plain mode they would let the group in."""
    path = tmp_path / "patches.yaml"
    path.write_text("enabled: on\n")
    os.setxattr(path, "system.posix_acl_access", _list_for_nobody(4))
    os.setxattr(path, "user.why", b"because")
    before = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert change(str(path), ["enabled=off"])
    assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_an_access_list_that_the_folder_gives_to_new_files_lets_nobody_in(tmp_path: Path) -> None:
    path = tmp_path / "patches.yaml"
    path.write_text("enabled: on\n")
    path.chmod(0o660)
    os.setxattr(tmp_path, "system.posix_acl_default", _list_for_nobody(6))
    assert change(str(path), ["enabled=off"])
    assert "system.posix_acl_access" not in os.listxattr(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_the_file_keeps_its_group_in_a_folder_that_gives_another_one(tmp_path: Path) -> None:
    """As root; others cannot change the group."""
    path = tmp_path / "patches.yaml"
    path.write_text("enabled: on\n")
    group = path.stat().st_gid
    if os.geteuid() == 0:
        os.chown(tmp_path, 0, NOBODY)
        tmp_path.chmod(0o2755)
    assert change(str(path), ["enabled=off"])
    assert path.stat().st_gid == group


@pytest.mark.parametrize(
    ("name", "kept"),
    [("system.posix_acl_access", False), ("user.why", False), ("security.selinux", True), ("trusted.lov", True)],
)
def test_an_attribute_that_may_not_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kept: bool
) -> None:
    """What decides who may read the file must be kept; attributes of the system are the system's."""
    path = tmp_path / "patches.yaml"
    path.write_text("enabled: on\n")

    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "listxattr", lambda file: [name] if file == str(path) else [])
    monkeypatch.setattr(os, "getxattr", lambda *_: b"x")
    monkeypatch.setattr(os, "setxattr", refused)
    if kept:
        assert change(str(path), ["enabled=off"])
    else:
        with pytest.raises(OperatorError) as caught:
            change(str(path), ["enabled=off"])
        assert str(caught.value) == f"{path} cannot be written: Operation not permitted"
    assert path.read_text() == ("enabled: off\n" if kept else "enabled: on\n")
    assert os.listdir(tmp_path) == [path.name]


def test_a_signature_of_the_old_content_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "patches.yaml"
    path.write_text("enabled: on\n")
    given: list[str] = []
    monkeypatch.setattr(os, "listxattr", lambda file: ["security.ima", "security.evm", "security.selinux"])
    monkeypatch.setattr(os, "getxattr", lambda *_: b"x")
    monkeypatch.setattr(os, "setxattr", lambda file, name, value: given.append(name))
    assert change(str(path), ["enabled=off"])
    assert given == ["security.selinux"]


def test_a_file_system_without_attributes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "patches.yaml"
    path.write_text("enabled: on\n")

    def unknown(*_: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "listxattr", unknown)
    assert change(str(path), ["enabled=off"])
    assert path.read_text() == "enabled: off\n"


def test_an_emptied_file_can_be_set(tmp_path: Path) -> None:
    """A full disk leaves one, and switching off must work then."""
    path = tmp_path / "patches.yaml"
    path.touch()
    assert change(str(path), ["enabled=off"])
    assert path.read_text() == "enabled: off\n"


# Random files: each patch and section in one of the forms that people write, with comments and blank lines anywhere.
OPTIONS = {
    "error_stack": ["recheck_seconds"],
    "proxy_loading": ["max_proxies"],
    "connection_checkout": ["idle_ping_seconds", "keepalive_seconds"],
}
MODES = st.sampled_from(["on", "off", "ab", "true", "No"])
NUMBERS = st.integers(1, 999).map(str)
NOISE = st.sampled_from([""] * 6 + ["\n", "# é: on\n", "\n  # x: {\n\n", "      #\n"])
TAIL = st.sampled_from([""] * 4 + ["  ", " # on", "   # off: é"])


@st.composite
def _files(draw: st.DrawFn) -> str:
    step = " " * draw(st.integers(1, 4))
    lines = [draw(NOISE)]

    def line(depth: int, key: str, value: str = "") -> None:
        key = draw(st.sampled_from([key] * 5 + [f'"{key}"', f"'{key}'"]))
        lines.append(f"{step * depth}{key}:{' ' + value if value else ''}{draw(TAIL)}\n{draw(NOISE)}")

    def patches() -> None:
        names = draw(st.lists(st.sampled_from(list(WAITED_FOR)), unique=True))
        line(0, "patches")
        for name in names:
            said = draw(st.lists(st.sampled_from(["enabled", "share", *OPTIONS.get(name, [])]), unique=True))
            modes = st.sampled_from(["on", "off"]) if name in AT_IMPORT else MODES
            line(1, name, "" if said else draw(modes))
            for option in said:
                values = {"enabled": modes, "share": st.sampled_from(["0", "1", "0.25"])}
                line(2, option, draw(values.get(option, NUMBERS)))

    def comparison() -> None:
        line(0, "comparison")
        for key in draw(st.lists(st.sampled_from(["share", "window_seconds", "check_one_in"]), unique=True)):
            line(1, key, "1" if key == "share" else draw(NUMBERS))

    sections = {
        "enabled": lambda: line(0, "enabled", draw(st.sampled_from(["on", "off"]))),
        "patches": patches,
        "comparison": comparison,
    }
    for name in draw(st.lists(st.sampled_from(list(sections)), unique=True)):
        sections[name]()
    text = "".join(lines)
    end = draw(st.sampled_from(["\n"] * 3 + ["\r\n"]))
    mark = draw(st.sampled_from([""] * 3 + ["\ufeff"]))
    return mark + (text.rstrip("\n") if draw(st.booleans()) else text).replace("\n", end)


@st.composite
def _settings(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from([*WAITED_FOR, "enabled", "comparison"]))
    if name == "enabled":
        return f"enabled={draw(st.sampled_from(['on', 'off']))}"
    if name == "comparison":
        return draw(st.sampled_from(["comparison.by=process", "comparison.share=0.125", "comparison.spool=/a b/#c"]))
    option = draw(st.sampled_from(["enabled", *OPTIONS.get(name, [])]))
    return (
        f"{name}={draw(st.sampled_from(['on', 'off', *(['ab'] if name not in AT_IMPORT else [])]))}"
        if option == "enabled"
        else f"{name}.{option}={draw(NUMBERS)}"
    )


def _said(found: toggles.Toggles) -> dict[str, object]:
    """Return every setting by its name."""
    names = {
        f"{part}.{key}".removesuffix(".enabled").removeprefix("."): value
        for part, said in found.settings.items()
        for key, value in said.items()
    }
    return {"enabled": names.pop(""), **names}


@pytest.mark.simulation
@settings(max_examples=300)
@given(_files(), _settings())
def test_whatever_the_file_only_the_setting_changes_and_all_comments_stay(text: str, setting: str) -> None:
    before = _said(toggles.read(PATH, text))
    changed = edited(PATH, text, [setting])
    after = _said(toggles.read(PATH, changed))
    name, _, word = setting.partition("=")
    value = after.pop(name)
    before.pop(name, None)
    assert after == before
    assert ({True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)) == word
    # Lines are changed in their value, or added; none is lost, and none of the others is touched.
    old, new = text.splitlines(), changed.splitlines()
    assert [line for line in old if line.strip()[:1] in ("#", "")] == [
        line for line in new if line.strip()[:1] in ("#", "")
    ]
    assert sum(line.count("#") for line in old) <= sum(line.count("#") for line in new)
    assert len(set(old) - set(new)) <= 1
    assert edited(PATH, changed, [setting]) == changed
