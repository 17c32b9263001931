"""Our section, PerfPatch, of /Operations in the host's Configuration System.

Modules of the host are used once the host has imported them; nothing here imports them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

SECTION = "PerfPatch"
_DATA = "DIRAC.ConfigurationSystem.Client.ConfigurationData"
_OPERATIONS = "DIRAC.ConfigurationSystem.Client.Helpers.Operations"


def state() -> tuple[Any, Any]:
    """Return what our sections depend on; compare by identity, because ``==`` would compare all content.

    Returns:
        The host's configuration, which every change replaces by a new object; and the host's class that knows the VO of
        the process. Each is None until the host has it.
    """
    data = getattr(sys.modules.get(_DATA), "gConfigurationData", None)
    return getattr(data, "mergedCFG", None), getattr(sys.modules.get(_OPERATIONS), "Operations", None)


def sections(now: tuple[Any, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return our sections in the places where the host would look, the most general first.

    Returns:
        The path of each that exists, with its options as text and its subsections as mappings.
    """
    merged, operations = now
    if merged is None:
        return []
    roots = ["/Operations/Defaults"]
    if operations is not None:
        # The host derives the VO of the process, and in 8.0 its setup, from the configuration and the proxy.
        roots = operations()._Operations__getSearchPaths()
    places = [f"{root.rstrip('/')}/{SECTION}" for root in roots]
    found = ((place, merged.getAsDict(place)) for place in places)
    return [(place, said) for place, said in found if said]
