"""A file that somebody could have changed who is not trusted is refused, with the reason, and others are read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dirac_perfpatch import host, toggles, trust
from dirac_perfpatch.yamlfile import FileError

STRANGER = 54321
Own = Callable[..., None]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that nobody distrusts."""
    path = tmp_path / "root" / "etc" / "patches.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("patches:\n  error_stack: off\n")
    for made in (path.parent.parent, path.parent):
        made.chmod(0o755)
    path.chmod(0o644)
    return path


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Own:
    """Give a file to another user or group, as far as this process can see: only root can do it."""
    given: dict[str, dict[int, int]] = {}

    def seen(real: Callable[[Any], os.stat_result]) -> Callable[[Any], os.stat_result]:
        def look(path: Any) -> os.stat_result:
            found = real(path)
            return os.stat_result(given.get(str(path), {}).get(at, value) for at, value in enumerate(found))

        return look

    monkeypatch.setattr(trust, "os", SimpleNamespace(**{**vars(os), "lstat": seen(os.lstat), "stat": seen(os.stat)}))

    def own(path: Path, user: int | None = None, group: int | None = None) -> None:
        given[str(path)] = {at: one for at, one in ((4, user), (5, group)) if one is not None}

    return own


def reads(path: Path) -> bool:
    return not toggles.read(str(path)).patches["error_stack"].on


def refused(path: Path) -> str:
    """The reason, without the name of the file."""
    for read in (toggles.read, lambda name: toggles.read_again(name, toggles.read(toggles.SHIPPED))):
        with pytest.raises(FileError) as caught:
            read(str(path))
    text = str(caught.value)
    assert text.startswith(f"{path}: is not trusted, because ")
    return text.partition("because ")[2]


def test_what_everybody_can_write_to_is_refused(file: Path) -> None:
    assert reads(file)
    for place, mode in ((file, 0o646), (file.parent, 0o757), (file.parent.parent, 0o777)):
        before = place.stat().st_mode
        place.chmod(mode)
        assert refused(file) == f"{place} can be changed by everybody; chmod o-w {place}"
        place.chmod(before)
    assert reads(file)


def test_in_a_folder_with_the_sticky_bit_others_can_change_only_their_own(file: Path, own: Own) -> None:
    file.parent.chmod(0o1777)
    assert reads(file)
    own(file, STRANGER)
    assert refused(file) == f"{file} belongs to the user {STRANGER}; chown root {file}"
    file.chmod(0o444)  # the owner can change that
    assert STRANGER in map(int, filter(str.isdigit, refused(file).replace(";", "").split()))


@pytest.mark.parametrize("strange", ["link", "folder of the link", "destination", "folder of the destination"])
def test_a_link_to_what_others_can_change_is_refused(file: Path, tmp_path: Path, own: Own, strange: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    link, relative = folder / "link", folder / "relative"
    link.symlink_to(file)
    relative.symlink_to("../folder/./link")
    assert reads(link)
    assert reads(relative)
    places = {"link": link, "folder of the link": folder, "destination": file, "folder of the destination": file.parent}
    own(places[strange], STRANGER)
    for one in (link, relative):
        assert refused(one) == f"{places[strange]} belongs to the user {STRANGER}; chown root {places[strange]}"


def test_the_way_is_the_one_that_the_kernel_goes(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one that remains when `..` is cut out of the name."""
    (tmp_path / "elsewhere").symlink_to(file.parent)
    odd = Path(f"{tmp_path}//elsewhere/./../etc/patches.yaml")
    assert reads(odd)
    monkeypatch.chdir(file.parent.parent)
    assert reads(Path("etc/patches.yaml"))
    file.parent.parent.chmod(0o777)
    for path in (f"{tmp_path}//elsewhere/./../etc/patches.yaml", "etc/patches.yaml"):
        with pytest.raises(FileError, match=f"{file.parent.parent} can be changed by everybody"):
            toggles.read(path)


def test_a_group_may_write_if_it_can_change_what_runs_anyway(
    file: Path, own: Own, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (file, file.parent):
        place.chmod(place.stat().st_mode | 0o020)
        assert reads(file), "our own group"
        own(place, group=STRANGER)
        assert refused(file) == f"{place} can be changed by the group {STRANGER}; chmod g-w {place}"
        monkeypatch.setattr(host, "root_path", lambda: str(file.parent.parent))
        own(file.parent.parent, group=STRANGER)
        assert reads(file), "that of the installation"
        own(file.parent.parent)
        own(place, group=0)
        assert reads(file), "that of root"
        own(place)
        place.chmod(place.stat().st_mode & ~0o020)


@pytest.mark.parametrize("place", ["code", "root of DIRAC", "/"])
def test_who_can_change_what_runs_anyway_is_trusted(
    file: Path, own: Own, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The owner of an image's files, of a shared installation, or who stands for root in a container."""
    own(file, STRANGER)
    assert refused(file)
    monkeypatch.setattr(host, "root_path", lambda: str(file.parent.parent))
    own({"code": Path(trust.__file__), "root of DIRAC": file.parent.parent, "/": Path("/")}[place], STRANGER)
    assert reads(file)


def test_what_is_mounted_read_only_is_trusted(file: Path, own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a ConfigMap, a folder that everybody could write to, or a file of the user who started a container."""
    own(file, STRANGER)
    file.parent.chmod(0o777)
    monkeypatch.setattr(trust.os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_RDONLY))
    assert reads(file)


def test_the_reason_is_in_the_notice_and_in_status(file: Path, child: Any) -> None:
    file.chmod(0o666)
    code = """
import json
from dirac_perfpatch import extension_metadata, status
extension_metadata()
print(json.dumps([(entry["state"], entry["reason"]) for entry in status()]))
"""
    answer = child(code, DIRAC_PERFPATCH_CONFIG=str(file))
    text = f"{file}: is not trusted, because {file} can be changed by everybody; chmod o-w {file}"
    assert answer.stderr == f"dirac-perfpatch: {text}; DIRAC runs unpatched\n"
    assert {tuple(entry) for entry in json.loads(answer.stdout)} == {("off", text)}
