"""The comparisons of this process: beginning one, and describing the process in its snapshots."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from dirac_perfpatch.comparison.arms import Comparison, arm_of_process
from dirac_perfpatch.comparison.journal import Journal
from dirac_perfpatch.comparison.snapshot import State
from dirac_perfpatch.comparison.spool import component, host_name
from dirac_perfpatch.notices import say_once
from dirac_perfpatch.patching import Switch
from dirac_perfpatch.toggles import Toggle


class Comparisons:
    """The patches of this process that are compared with stock.

    Args:
        switches: By name, those of all patches.
    """

    def __init__(self, switches: Mapping[str, Switch]) -> None:
        self._switches = switches
        self._journal = Journal("", self._describe)

    def begin(self, switch: Switch, toggle: Toggle, check_one_in: int, spool: str | None) -> None:
        """Put a patch on and compare it with stock. If it cannot be compared, it is just put on. Never raises.

        Args:
            switch: Of the patch; it is off.
            toggle, check_one_in: As for :class:`Comparison`.
            spool: The folder for snapshots; None if it is not known.
        """
        comparison = None
        try:
            import ddsketch.mapping  # noqa: F401  # here, not in the middle of a call

            patched = arm_of_process(switch.patch.name, host_name(), component(sys.argv), toggle.share, os.environ)
            comparison = Comparison(switch.patch, switch.guard, toggle, check_one_in, patched)
            self._journal_in(spool).add(comparison)
        except Exception as error:
            say_once(
                f"{switch.patch.name}: cannot be compared with stock, so it is on: {type(error).__name__}: {error} "
                "(a comparison needs dirac-perfpatch[ab])"
            )
            comparison = None
        switch.put_on(comparison)

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
        patches, events = {}, {}
        for name, switch in list(self._switches.items()):
            entry = switch.status()
            patches[name] = State(entry["state"], entry["reason"], entry["mode"], entry["failures"])
            if counted := switch.guard.events:
                events[name] = counted
        versions = {"release": _version("DIRAC"), "plugin": _version("dirac-perfpatch")}
        return {**versions, "patches": patches, "events": events}


@functools.cache
def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
