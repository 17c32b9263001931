"""Reading the toggles again while the process runs.

The file is looked at every two seconds, with one ``stat``. A change is read when the file has stayed as it is for half
a second, so that one which is being written is not read half. What cannot be used changes nothing: the operator is told
once, and told again when it is good. Nor does what has vanished, is empty or says less than it did, unless it says
``enabled``: see :func:`dirac_perfpatch.toggles.draft_again`. The host's configuration, if the file allows it, is
treated in the same way: it lacks our section also while the host is reading it anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from dirac_perfpatch import configuration, host, toggles
from dirac_perfpatch.notices import say, say_once

# Seconds between two looks, and to the second look at what has changed.
_PAUSE = 2.0
_SETTLING = 0.5

Sections = list[tuple[str, Mapping[str, Any]]]


class Follower:
    """Keeps the patches of this process as the toggles say.

    Args:
        bring: Makes every patch what toggles say, and returns what has changed, in words.
        draft: What was read at the start; None if it could not be used.
        path: Where it was read.
        problem: Why it could not be used; empty if it could.
        environment: Where the variable that names a file is looked up.
    """

    def __init__(
        self,
        bring: Callable[[toggles.Toggles], list[str]],
        draft: toggles.Draft | None,
        path: str,
        problem: str,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._bring = bring
        self._environment = environment
        self._draft = draft
        self._path = path
        # What was seen of the file last, and of the one that was read last. Nothing so far: the process has read one at
        # its start, but that may have changed since.
        self._seen: Any = None
        self._read: Any = None
        self._configuration = configuration.State(None, None)
        # The last ones that could be used.
        self._sections: Sections = []
        # What the patches were brought to.
        self._applied = self._draft and self._draft.toggles()
        self._problems = {"file": problem, "configuration": ""}

    def look(self) -> float:
        """Look once, and do what follows from it. Never raises.

        Returns:
            After how many seconds to look again.
        """
        try:
            return self._look()
        except Exception as error:
            say_once(f"{type(error).__name__}: {error}; the toggles stay as they are")
            return _PAUSE

    def _look(self) -> float:
        if self._path == toggles.SHIPPED:  # from a file that was there we do not go back to it
            self._path = toggles.find(host.root_path(), self._environment)
        seen = _stamp(self._path)
        if seen != self._seen:
            self._seen = seen
            return _SETTLING
        if seen != self._read:
            self._read_file(seen)
        if self._draft is not None:
            self._look_at_configuration(self._draft)
            self._apply(self._draft)
        return _PAUSE

    def _read_file(self, seen: Any) -> None:
        draft, problem = self._draft, ""
        try:
            draft = toggles.draft_again(self._path, draft) if draft else toggles.draft(self._path)
        except toggles.ToggleError as error:
            problem = str(error)
        if _stamp(self._path) != seen:
            return  # it has changed meanwhile: the next look sees that
        self._read, self._draft = seen, draft
        self._tell("file", problem, f"{self._path} can be used again")

    def _look_at_configuration(self, draft: toggles.Draft) -> None:
        follow = draft.comparison.follow_configuration
        now = configuration.state() if follow else configuration.State(None, None)
        if now.same(self._configuration):
            return
        self._configuration = now
        problem = ""
        try:
            sections = configuration.sections(now)
            wanted = _with_sections(draft, sections).toggles()
            if follow and not any("enabled" in said for _, said in sections):
                self._refuse_less(_with_sections(draft, self._sections + sections).toggles(), wanted)
            self._sections = sections
        except toggles.ToggleError as error:
            problem = str(error)
        except Exception as error:  # the host's own code, too, answers here
            problem = f"/Operations of the configuration cannot be read: {type(error).__name__}: {error}"
        self._tell("configuration", problem, "/Operations of the configuration can be used again")

    def _refuse_less(self, kept: toggles.Toggles, wanted: toggles.Toggles) -> None:
        if kept[1:] != wanted[1:]:
            places = " and ".join(place for place, _ in self._sections)
            reason = "as if the configuration could not be read; complete it, or say `enabled` there, too"
            raise toggles.ToggleError(f"{places} leaves out what it said before, {reason}")

    def _apply(self, draft: toggles.Draft) -> None:
        wanted = _with_sections(draft, self._sections).toggles()
        if wanted == self._applied:
            return
        changes = self._bring(wanted)
        self._applied = wanted
        if changes:
            say(f"toggles read again from {wanted.source}: {', '.join(changes)}")

    def _tell(self, what: str, problem: str, relief: str) -> None:
        """Say a problem when it is new, and the relief when there is none any more."""
        if problem and problem != self._problems[what]:
            say(f"{problem}; the toggles stay as they are")
        elif not problem and self._problems[what]:
            say(relief)
        self._problems[what] = problem


def _with_sections(draft: toggles.Draft, sections: Sections) -> toggles.Draft:
    for place, said in sections:
        draft = toggles.override(draft, place, said)
    return draft


def _stamp(path: str) -> Any:
    """What tells a file from the one that was there before; for one that is not there, why."""
    try:
        found = os.stat(path)
    except OSError as error:
        return path, error.errno
    return path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
