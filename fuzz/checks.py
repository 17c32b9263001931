"""What must hold for any bytes: one check for each reader of the plugin. A check raises if it does not hold.

Each function here prepares one, and returns it.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dirac_perfpatch import editing, patches, toggles, yamlfile
from dirac_perfpatch.comparison import snapshot
from dirac_perfpatch.notices import OperatorError
from dirac_perfpatch.patching import Switch
from dirac_perfpatch.toggles import Toggles

Check = Callable[[bytes], None]

# What no reader does: see sys.addaudithook().
_NEVER: tuple[str, ...] = ("exec", "compile", "import", "pickle.", "marshal.", "subprocess.", "socket.", "ctypes.")
_NEVER += ("os.system", "os.exec", "os.posix_spawn", "os.fork")
_LONGEST_ERROR = 1000


class _Watch:
    """Notes what happens in this process between entry and exit that runs code or reaches out."""

    def __init__(self) -> None:
        self._found: list[str] | None = None
        # A hook stays for the life of the process.
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._found is not None and event.startswith(_NEVER):
            self._found.append(f"{event} {arguments!r:.200}")

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        found: list[str] = []
        self._found = found
        try:
            yield
        finally:
            self._found = None
        assert not found, found


def read_toggles() -> Check:
    """A file gives toggles, or an error that names the file and the line. Whatever gives toggles can be edited, or not,
    with an error; and both readers of YAML agree."""
    with contextlib.suppress(ImportError):
        import difflib  # noqa: F401

        import yaml  # noqa: F401
    # Before we watch: a file may be the reason to import these, as it may be for the above.
    importlib.import_module("dirac_perfpatch.trust")
    for name in patches.WAITED_FOR:
        patches.load(name)
    watch = _Watch()
    descriptor, path = tempfile.mkstemp(prefix="fuzz-", suffix=".yaml", dir=_memory())

    def agree(text: str) -> None:
        plain = yamlfile._read_plain(path, text)
        assert plain is None or repr(plain) == repr(yamlfile._read_yaml(path, text))

    lines = (b"\n", b"\r", b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xa9")

    def check(data: bytes) -> None:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, data, 0)
        with contextlib.suppress(UnicodeDecodeError):
            agree(data.decode().removeprefix("\ufeff"))
        try:
            with watch():
                found = toggles.read(path)
        except yamlfile.FileError as error:
            assert str(error).startswith(f"{path}:")
            assert 0 <= error.line <= sum(map(data.count, lines)) + 1
            assert error.text.isprintable()
            assert len(error.text) < _LONGEST_ERROR
            return
        assert type(found) is Toggles
        text = data.decode()
        try:
            edited = editing.edited(path, text, ["error_stack=off", "comparison.share=0.25"])
        except OperatorError as error:
            assert "cannot be edited" in str(error)
            return
        assert toggles.read(path, edited).patches["error_stack"].mode == toggles.OFF

    return check


def read_snapshots() -> Check:
    """A file gives a snapshot, which is written and read back as it is and can be served, or it is unusable."""
    from dirac_perfpatch.comparison.exporter import Totals

    watch = _Watch()

    def check(data: bytes) -> None:
        try:
            with watch():
                found = snapshot.parse(data)
        except snapshot.Unusable as error:
            assert len(str(error)) < _LONGEST_ERROR
            return
        text = json.dumps(found.data())
        assert snapshot.parse(text.encode()) == found
        assert snapshot.parse(data, blocks=False) == snapshot.parse(text.encode(), blocks=False)
        for label in (found.host, found.component, found.release, found.plugin, *found.patches):
            assert label.isprintable()
        Totals(0.0).update([found], [found])

    return check


def read_configurations() -> Check:
    """The patch makes of two texts what diraccfg makes of them: trees, copies, merged trees, texts and errors."""
    from diraccfg import CFG

    from dirac_perfpatch.patches._cfg import difference

    guard = _put_on("configuration_parsing").guard
    stock = {name: vars(CFG)[name].__wrapped__ for name in ("loadFromBuffer", "serialize", "clone", "mergeWith")}

    def same(ours: Any, its: Any) -> bool:
        return difference(ours, its) is None if isinstance(ours, CFG) else bool(ours == its)

    def parsed(text: str) -> Any:
        ours, its = CFG(), CFG()
        answer, other = _outcome(ours.loadFromBuffer, text), _outcome(stock["loadFromBuffer"], its, text)
        assert answer is ours or answer == other
        assert difference(ours, its) is None
        return ours

    def check(data: bytes) -> None:
        trees = [parsed(text) for text in data.decode(errors="replace").split("\0")[:2]]
        for tree in trees:
            assert tree.serialize("\t") == stock["serialize"](tree, "\t")
            assert same(tree.clone(), stock["clone"](tree))
        ours, its = (_outcome(merge, trees[0], trees[-1]) for merge in (CFG.mergeWith, stock["mergeWith"]))
        assert same(ours, its)
        assert guard.failures == 0

    return check


def read_dates() -> Check:
    """The patch decodes and encodes a text of JEncode, and dates in it, as DIRAC does."""
    module: Any = importlib.import_module("DIRAC.Core.Utilities.JEncode")
    guard = _put_on("json_dates").guard

    def both(call: Callable[..., Any], *arguments: Any) -> Any:
        guard.off = False
        ours = _outcome(call, *arguments)
        guard.off = True
        its = _outcome(call, *arguments)
        assert repr(ours) == repr(its), (ours, its)
        assert guard.failures == 0
        return ours

    def check(data: bytes) -> None:
        text = data.decode(errors="replace")
        both(module.decode, text)
        for name in ("dt", "date"):
            found = both(module.decode, json.dumps({"__dCls": name, "obj": text}))
            if isinstance(found, tuple) and found and isinstance(found[0], datetime.date):
                both(module.encode, found[0])

    return check


CHECKS: dict[str, Callable[[], Check]] = {
    "toggles": read_toggles,
    "snapshots": read_snapshots,
    "configurations": read_configurations,
    "dates": read_dates,
}


def _memory() -> str | None:
    """A folder in memory, if this machine has one."""
    folder = Path("/dev/shm")
    return str(folder) if os.access(folder, os.W_OK) else None


def _put_on(name: str) -> Switch:
    switch = Switch(patches.load(name), {})
    switch.put_on()
    assert switch.status()["state"] == "applied", switch.status()
    return switch


def _outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call returns, or its error."""
    try:
        return call(*arguments)
    except Exception as error:
        return type(error), str(error)
