"""Our section, PerfPatch, of /Operations in the host's Configuration System.

Modules of the host are used once the host has imported them; nothing here imports them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

SECTION = "PerfPatch"
_DATA = "DIRAC.ConfigurationSystem.Client.ConfigurationData"
_OPERATIONS = "DIRAC.ConfigurationSystem.Client.Helpers.Operations"


class State(NamedTuple):
    """What our sections depend on.

    Args:
        merged: The host's configuration; None until there is one. Every change makes a new object. A reference is kept,
            so that no other object can get the same identity.
        operations: The host's class that knows the VO of the process; None until the host has loaded it.
    """

    merged: Any
    operations: Any

    def same(self, other: State) -> bool:
        """Whether the objects are identical. ``==`` would compare all their content."""
        return self.merged is other.merged and self.operations is other.operations


def state() -> State:
    """Return the present state."""
    data = getattr(sys.modules.get(_DATA), "gConfigurationData", None)
    return State(getattr(data, "mergedCFG", None), getattr(sys.modules.get(_OPERATIONS), "Operations", None))


def sections(now: State) -> list[tuple[str, Mapping[str, Any]]]:
    """Return our sections in the places where the host would look, the most general first.

    Returns:
        The path of each that exists, with its options as text and its subsections as mappings.
    """
    if now.merged is None:
        return []
    places = [f"{place.rstrip('/')}/{SECTION}" for place in _places(now.operations)]
    found = ((place, now.merged.getAsDict(place)) for place in places)
    return [(place, said) for place, said in found if said]


def _places(operations: Any) -> list[str]:
    if operations is None:
        return ["/Operations/Defaults"]
    # The host derives the VO of the process, and in 8.0 its setup, from the configuration and the proxy.
    return list(operations()._Operations__getSearchPaths())
