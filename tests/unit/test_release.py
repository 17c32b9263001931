"""The checks of a release notice what must not be published. `python3 -m release --short` makes them on real builds."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lab.folder import CHECKOUT
from release import bill, building, checks

INFO = "dirac_perfpatch-1.2.dist-info"
ROOT = "dirac_perfpatch-1.2"


@pytest.fixture(scope="module")
def package() -> dict[str, bytes]:
    """The content of the package's files in the checkout, by path."""
    return {name: (CHECKOUT / name).read_bytes() for name in building.tracked() if name.startswith("dirac_perfpatch/")}


def wheel(folder: Path, files: Mapping[str, bytes]) -> Path:
    path = folder / "dirac_perfpatch-1.2-py3-none-any.whl"
    metadata = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**files, **{f"{INFO}/{name}": b"" for name in metadata}}.items():
            archive.writestr(name, content)
    return path


def sdist(path: Path, files: Mapping[str, bytes], when: int = 0) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{ROOT}/{name}")
            entry.size, entry.mtime, entry.uname = len(content), when, f"user of {when}"
            archive.addfile(entry, io.BytesIO(content))
    return path


def test_a_wheel_of_exactly_the_package_is_right(tmp_path: Path, package: dict[str, bytes]) -> None:
    assert {"dirac_perfpatch/patches.yaml", "dirac_perfpatch/py.typed"} < set(package)
    assert checks.wheel_contents(wheel(tmp_path, package), "1.2").startswith(f"{len(package)} files")


@pytest.mark.parametrize(
    "name", ["tests/unit/test_x.py", "dirac_perfpatch/__pycache__/cli.cpython-311.pyc", "build/lib/old.py"]
)
def test_a_wheel_with_more_than_the_package_is_not(tmp_path: Path, package: dict[str, bytes], name: str) -> None:
    with pytest.raises(checks.CheckError, match=f"too much: {name}"):
        checks.wheel_contents(wheel(tmp_path, {**package, name: b""}), "1.2")


@pytest.mark.parametrize("name", ["dirac_perfpatch/patches.yaml", "dirac_perfpatch/py.typed"])
def test_nor_is_one_with_less(tmp_path: Path, package: dict[str, bytes], name: str) -> None:
    files = {path: content for path, content in package.items() if path != name}
    with pytest.raises(checks.CheckError, match=f"missing: {name}"):
        checks.wheel_contents(wheel(tmp_path, files), "1.2")


def test_nor_one_with_another_file_of_the_same_name(tmp_path: Path, package: dict[str, bytes]) -> None:
    files = {**package, "dirac_perfpatch/cli.py": b"# of yesterday\n"}
    with pytest.raises(checks.CheckError, match=r"not as in the checkout: dirac_perfpatch/cli\.py"):
        checks.wheel_contents(wheel(tmp_path, files), "1.2")


def test_an_sdist_may_not_have_a_test(tmp_path: Path, package: dict[str, bytes]) -> None:
    path = sdist(tmp_path / f"{ROOT}.tar.gz", {**package, "tests/test_x.py": b""})
    with pytest.raises(checks.CheckError, match=f"too much: {ROOT}/tests/test_x.py"):
        checks.sdist_contents(path, "1.2")


def test_an_sdist_that_is_packed_again_keeps_no_time_and_no_user(tmp_path: Path) -> None:
    files = {"b": b"two", "a": b"one"}
    first = sdist(tmp_path / "first.tar.gz", files, 1)
    other = sdist(tmp_path / "other.tar.gz", dict(reversed(files.items())), 2)
    assert first.read_bytes() != other.read_bytes()
    for path in (first, other):
        building._pack_again(path, 1000000000)
    assert first.read_bytes() == other.read_bytes()
    with tarfile.open(first) as archive:
        assert [(entry.name, entry.mtime, entry.uname) for entry in archive] == [
            (f"{ROOT}/a", 1000000000, ""),
            (f"{ROOT}/b", 1000000000, ""),
        ]


def test_two_builds_that_differ_are_named(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "x.whl" for folder in "ab"]
    for number, path in enumerate(paths):
        path.parent.mkdir()
        path.write_bytes(bytes([number]))
    with pytest.raises(checks.CheckError, match=r"two builds differ: x\.whl"):
        checks.same_bytes(paths[:1], paths[1:])
    assert checks.same_bytes(paths[:1], paths[:1])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# Changelog\n\n## 1.2\n\n- One.\n", "1.2, 1 entries"),
        ("# Changelog\n\n## Unreleased\n\n- One.\n- Two.\n\n## 1.1\n", "Unreleased, 2 entries: before you publish"),
    ],
)
def test_a_changelog_that_speaks_of_this_version(text: str, said: str) -> None:
    assert checks.changelog(text, "1.2").startswith(said)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("# Changelog\n\n## 1.1\n\n- One.\n", "the newest heading is 1.1"),
        ("# Changelog\n", "the newest heading is nothing"),
        ("# Changelog\n\n## 1.2\n\n## 1.1\n\n- One.\n", "there is nothing below 1.2"),
    ],
)
def test_a_changelog_that_does_not(text: str, why: str) -> None:
    with pytest.raises(checks.CheckError, match=why):
        checks.changelog(text, "1.2")


def bill_of(*names: str, version: str = "1.2", licensed: bool = True) -> dict[str, Any]:
    parts = [{"bom-ref": name, "name": name, "version": "1"} for name in names]
    if licensed:
        parts = [{**part, "licenses": [{"license": {"id": "MIT"}}]} for part in parts]
    direct = [name for name in names if name in checks.AT_RUN_TIME]
    needs = [{"ref": "main", "dependsOn": direct}, *({"ref": name} for name in names)]
    main = {"bom-ref": "main", "name": "dirac-perfpatch", "version": version}
    return {"metadata": {"component": main}, "components": parts, "dependencies": needs}


def test_a_bill_lists_what_is_needed_and_nothing_else() -> None:
    needed = sorted(checks.AT_RUN_TIME)
    assert bill.check(bill_of(*needed), "1.2") == "PyYAML 1, importlib_metadata 1, wrapt 1"
    for wrong, why in (
        (bill_of(*needed, "scipy"), "nothing needs scipy"),
        (bill_of("wrapt"), "needs wrapt"),
        (bill_of(*needed, version="1.1"), r"dirac-perfpatch 1\.1"),
        (bill_of(*needed, licensed=False), "no licence is known of PyYAML"),
    ):
        with pytest.raises(checks.CheckError, match=why):
            bill.check(wrong, "1.2")
