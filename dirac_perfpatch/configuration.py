"""What the host's own Configuration System says about us, in the section PerfPatch of its /Operations.

The host's modules are looked at when the host has imported them, and never imported from here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

SECTION = "PerfPatch"
_DATA = "DIRAC.ConfigurationSystem.Client.ConfigurationData"
_OPERATIONS = "DIRAC.ConfigurationSystem.Client.Helpers.Operations"


class State(NamedTuple):
    """What an answer depends on.

    Args:
        merged: The object that holds the configuration; the host makes a new one whenever anything in it changes. Held,
            so that its identity cannot come back for another object. None as long as the host has none.
        operations: The host's class that knows the VO of the process; None as long as the host has not loaded it.
    """

    merged: Any
    operations: Any

    def same(self, other: State) -> bool:
        """Whether both are of the same objects. Not ``==``, which would compare all that is in them."""
        return self.merged is other.merged and self.operations is other.operations


def state() -> State:
    """The state of now."""
    data = getattr(sys.modules.get(_DATA), "gConfigurationData", None)
    return State(getattr(data, "mergedCFG", None), getattr(sys.modules.get(_OPERATIONS), "Operations", None))


def sections(now: State) -> list[tuple[str, Mapping[str, Any]]]:
    """Our sections where the host itself would look, the most general first.

    Args:
        now: The state to answer for.

    Returns:
        The path of each that is there, with its options as text and its subsections as mappings.
    """
    if now.merged is None:
        return []
    places = [f"{place.rstrip('/')}/{SECTION}" for place in _places(now.operations)]
    found = ((place, now.merged.getAsDict(place)) for place in places)
    return [(place, said) for place, said in found if said]


def _places(operations: Any) -> list[str]:
    if operations is None:
        return ["/Operations/Defaults"]
    # The host's way from a process to its VO, and, in 8.0, its setup. It looks at the configuration and the proxy.
    return list(operations()._Operations__getSearchPaths())
