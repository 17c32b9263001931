"""The comparisons of this process: how one is begun, and what a snapshot says besides the figures."""

from __future__ import annotations

import functools
import os
import sys
from contextlib import suppress
from importlib import metadata
from typing import Any

from dirac_perfpatch import host, loading
from dirac_perfpatch.comparison.arms import Comparison, arm_of_process
from dirac_perfpatch.comparison.keeper import Keeper
from dirac_perfpatch.comparison.spool import component, default_folder, host_name
from dirac_perfpatch.notices import say_once
from dirac_perfpatch.patching import Switch


def begin(switch: Switch, trial: Any, settings: Any) -> None:
    """Arm a patch in comparison with stock; without, if that cannot be done here. Never raises.

    Args:
        switch: Of the patch; it is off.
        trial: How calls are divided: ``by``, ``share`` and ``window_seconds``.
        settings: ``spool`` and ``check_one_in`` of the toggles.
    """
    comparison = None
    try:
        import ddsketch.mapping  # noqa: F401  # now, and not in the middle of a call

        patch = switch.patch.name
        patched = arm_of_process(patch, host_name(), component(sys.argv), trial.share, os.environ)
        comparison = Comparison(switch.patch, switch.guard, trial, settings.check_one_in, patched)
        keeper(settings.spool).add(comparison)
    except Exception as error:
        say_once(
            f"{switch.patch.name}: cannot be compared with stock: {type(error).__name__}: {error}; it is on instead "
            "(a comparison needs what dirac-perfpatch[ab] brings)"
        )
        comparison = None
    switch.arm(comparison)


def write_states(folder: str) -> None:
    """Leave a snapshot now, also if nothing is compared: a patch has tripped. Never raises.

    Args:
        folder: The spool of the toggles, or an empty string.
    """
    with suppress(LookupError):
        keeper(folder).write()


@functools.lru_cache(maxsize=1)
def keeper(folder: str) -> Keeper:
    """The keeper of this process.

    Args:
        folder: The spool of the toggles; empty for the one below the root of the DIRAC installation.

    Raises:
        LookupError: There is no such root.
    """
    path = folder or default_folder(host.root_path())
    if path is None:
        raise LookupError("nobody says where the spool is: set comparison.spool")
    return Keeper(path, _describe)


def _describe() -> dict[str, Any]:
    patches, events = {}, {}
    for name, switch in list(loading.switches.items()):
        entry = switch.status()
        patches[name] = {key: entry[key] for key in ("state", "reason", "failures", "mode")}
        if switch.guard.events:
            events[name] = dict(switch.guard.events)
    return {"release": _version("DIRAC"), "plugin": _version("dirac-perfpatch"), "patches": patches, "events": events}


@functools.cache
def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
