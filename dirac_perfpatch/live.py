"""Read the toggles again while the process runs.

The file is checked every two seconds with one ``stat``. A change is read once the file has not changed for half a
second, so that a file that is still being written is not read. Unusable toggles change nothing: the operator is told
once, and again when they are good. A file that vanishes, is emptied or loses settings changes nothing either, unless it
says ``enabled``: see :func:`dirac_perfpatch.toggles.read_again`. The same holds for our section of the host's
configuration, if the file allows one: the section is missing while the host reads its configuration anew.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dirac_perfpatch import configuration, host, toggles
from dirac_perfpatch.notices import OperatorError, say, say_once
from dirac_perfpatch.toggles import Toggles

# Seconds between two checks of the file, and until a change of it is read.
_PAUSE = 2.0
_SETTLING = 0.5

_NO_CONFIGURATION = (None, None)


class Follower:
    """Keeps the patches of this process in line with the toggles.

    Args:
        bring: Applies toggles, and returns what changed, in words.
        read: The toggles that were read at the start; None if they could not be used.
        path: The file they were read from.
        problem: Why they could not be used; empty if they could.
        environment: Where the variable that names a file is looked up.
    """

    def __init__(
        self,
        bring: Callable[[Toggles], list[str]],
        read: Toggles | None,
        path: str,
        problem: str,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._bring = bring
        self._environment = environment
        self._path = path
        # The last usable file, and the last usable sections that are laid over it.
        self._file = read
        self._sections: list[tuple[str, Mapping[str, Any]]] = []
        self._applied = read
        # The stamps of the file when it was checked last and when it was read last. None: it may have changed since the
        # start read it.
        self._seen: Any = None
        self._read: Any = None
        # Held, so that no other object can get the same identity.
        self._configuration: tuple[Any, Any] = _NO_CONFIGURATION
        self._problems = {"file": problem, "configuration": ""}

    def look(self) -> float:
        """Check the file and the configuration once, and apply what changed. Never raises.

        Returns:
            The seconds until the next check.
        """
        try:
            return self._look()
        except Exception as error:
            say_once(f"{type(error).__name__}: {error}; the toggles stay as they are")
            return _PAUSE

    def _look(self) -> float:
        if self._path == toggles.SHIPPED:  # a user's file that vanishes does not bring the shipped one back
            self._path = toggles.find(host.root_path(), self._environment)
        seen = _stamp(self._path)
        if seen != self._seen:
            self._seen = seen
            return _SETTLING
        if seen != self._read:
            self._read_file(seen)
        if self._file is not None:
            self._look_at_configuration(self._file)
            self._apply(_lay_over(self._file, self._sections))
        return _PAUSE

    def _read_file(self, seen: Any) -> None:
        file, problem = self._file, ""
        try:
            file = toggles.read_again(self._path, file) if file else toggles.read(self._path)
        except OperatorError as error:
            problem = str(error)
        if _stamp(self._path) != seen:
            return  # it changed meanwhile: the next check sees that
        self._read, self._file = seen, file
        self._tell("file", problem, f"{self._path} can be used again")

    def _look_at_configuration(self, file: Toggles) -> None:
        now = configuration.state() if file.follow_configuration else _NO_CONFIGURATION
        if all(map(operator.is_, now, self._configuration)):
            return
        self._configuration = now
        problem = ""
        try:
            sections = configuration.sections(now)
            wanted = _lay_over(file, sections)
            may_lose = not file.follow_configuration or any("enabled" in said for _, said in sections)
            if not may_lose and _lay_over(file, self._sections + sections).effect != wanted.effect:
                places = " and ".join(place for place, _ in self._sections)
                reason = "as if the configuration could not be read; restore them, or also set `enabled` there"
                raise OperatorError(f"{places}: settings have vanished, {reason}")
            self._sections = sections
        except OperatorError as error:
            problem = str(error)
        except Exception as error:  # from the host's code
            problem = f"/Operations of the configuration cannot be read: {type(error).__name__}: {error}"
        self._tell("configuration", problem, "/Operations of the configuration can be used again")

    def _apply(self, wanted: Toggles) -> None:
        if self._applied and (wanted.source, wanted.effect) == (self._applied.source, self._applied.effect):
            return
        changes = self._bring(wanted)
        self._applied = wanted
        if changes:
            say(f"toggles read again from {wanted.source}: {', '.join(changes)}")

    def _tell(self, what: str, problem: str, relief: str) -> None:
        """Report a problem when it is new, and when there is none any more."""
        if problem and problem != self._problems[what]:
            say(f"{problem}; the toggles stay as they are")
        elif not problem and self._problems[what]:
            say(relief)
        self._problems[what] = problem


def _lay_over(file: Toggles, sections: Iterable[tuple[str, Mapping[str, Any]]]) -> Toggles:
    for place, said in sections:
        file = toggles.override(file, place, said)
    return file


def _stamp(path: str) -> Any:
    """Return what changes whenever the file does; for a missing file, why it is missing."""
    try:
        found = os.stat(path)
    except OSError as error:
        return path, error.errno
    return path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
