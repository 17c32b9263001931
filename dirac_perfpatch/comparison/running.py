"""The comparisons of this process: beginning one, and describing the process in its snapshots."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from dirac_perfpatch import patches
from dirac_perfpatch.comparison.arms import Comparison, arm_of_process
from dirac_perfpatch.comparison.clock import Clock
from dirac_perfpatch.comparison.journal import Journal
from dirac_perfpatch.comparison.snapshot import State
from dirac_perfpatch.comparison.spool import component, host_name
from dirac_perfpatch.notices import say_once
from dirac_perfpatch.patching import Switch
from dirac_perfpatch.toggles import Toggle

# The module among the patches that says where the host makes requests.
_OUTCOMES = "_outcomes"


class Comparisons:
    """The patches of this process that are compared with stock.

    Args:
        switches: By name, those of all patches.
    """

    def __init__(self, switches: Mapping[str, Switch]) -> None:
        self._switches = switches
        self._journal = Journal("", self._describe, self._follow)
        self._clocks: dict[tuple[float, float, bool], Clock] = {}
        self._seams: dict[str, Switch] = {}  # the one that records outcomes, once it is needed

    def begin(
        self, switch: Switch, toggle: Toggle, check_one_in: int, spool: str | None, together: bool = False
    ) -> None:
        """Put a patch on and compare it with stock. If it cannot be compared, it is just put on. Never raises.

        Args:
            switch: Of the patch; it is off.
            toggle, check_one_in: As for :class:`Comparison`.
            spool: The folder for snapshots; None if it is not known.
            together: Whether all patches with the same windows are in the same arm.
        """
        comparison = None
        try:
            import ddsketch.mapping  # noqa: F401  # here, not in the middle of a call

            patched = arm_of_process(switch.patch.name, host_name(), component(sys.argv), toggle.share, os.environ)
            key = Clock.key(toggle, together)
            clock = self._clocks.get(key) or self._clocks.setdefault(key, Clock(*key))
            comparison = Comparison(switch.patch, switch.guard, toggle, check_one_in, patched, self._follow)
            self._journal_in(spool).add(comparison, clock)
        except Exception as error:
            say_once(
                f"{switch.patch.name}: cannot be compared with stock, so it is on: {type(error).__name__}: {error} "
                "(a comparison needs dirac-perfpatch[ab])"
            )
            comparison = None
        switch.put_on(comparison)
        self._follow()

    def _follow(self) -> None:
        """Record outcomes while a patch has an arm, and otherwise change nothing of the host. In any thread.

        Of two threads that do this at once, the wrong one may be last; the journal's does it again every second.
        Never raises.
        """
        try:
            wanted = any(one.has_arm and one.ended is None for one in list(self._journal.comparisons))
            seams = self._seams.get(_OUTCOMES)
            if seams is None and wanted:
                made = Switch(patches.load(_OUTCOMES), {"outcomes": self._journal.outcomes})
                made.guard.off = True
                seams = self._seams.setdefault(_OUTCOMES, made)
            if seams is None or wanted is not seams.guard.off:
                return
            if wanted:
                seams.put_on()
            else:
                seams.take_off()
        except Exception as error:
            say_once(f"comparison: requests are not recorded: {type(error).__name__}: {error}")

    def write_states(self, spool: str | None, last: bool) -> None:
        """Write snapshots from now on, even if nothing is compared, because a patch has tripped.

        Args:
            spool: As for :meth:`begin`.
            last: The process ends: the calling thread writes, unless the journal's thread does anyway.

        Raises:
            LookupError: The folder is not known.
        """
        self._journal_in(spool).show(last)

    def _journal_in(self, spool: str | None) -> Journal:
        if spool is None:
            raise LookupError("the folder of the spool is not known: set comparison.spool")
        self._journal.folder = spool
        return self._journal

    def _describe(self) -> dict[str, Any]:
        for seams in self._seams.values():
            seams.catch_up()
        states, events = {}, {}
        for name, switch in list(self._switches.items()):
            entry = switch.status()
            states[name] = State(entry["state"], entry["reason"], entry["mode"], entry["failures"])
            if counted := switch.guard.events:
                events[name] = counted
        versions = {"release": _version("DIRAC"), "plugin": _version("dirac-perfpatch")}
        return {**versions, "patches": states, "events": events}


@functools.cache
def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
