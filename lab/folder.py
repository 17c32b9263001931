"""Folders that are removed with this process: for the files of one run, and for what a host's process may import."""

from __future__ import annotations

import atexit
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]

_made: set[Path] = set()


def make(prefix: str) -> Path:
    """Create a temporary folder that is removed when this process ends.

    prefix: of its name.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    _made.add(folder)
    return folder


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder, kept only if something fails, because it has all the logs. prefix: see make()."""
    folder = make(prefix)
    try:
        yield folder
    except Exception:
        _made.discard(folder)
        print(f"the logs are in {folder}", file=sys.stderr)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def library(folder: Path, *paths: str) -> Path:
    """Make a folder for PYTHONPATH that contains only links to some packages or modules of the checkout.

    The checkout itself must never be importable in a host: the plugin would be found where it is not installed.
    paths: relative to the checkout. Returns: the folder.
    """
    folder.mkdir(parents=True)
    for path in paths:
        (folder / Path(path).name).symlink_to(CHECKOUT / path)
    return folder


@atexit.register
def remove_all() -> bool:
    """Remove every folder that make() created. Returns: whether all are gone."""
    for folder in list(_made):  # other threads may make more
        shutil.rmtree(folder, ignore_errors=True)
    return not any(folder.exists() for folder in list(_made))
