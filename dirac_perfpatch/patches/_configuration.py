"""The configuration of the process, for patches that keep what they derive from it."""

from __future__ import annotations

import sys
from typing import Any

_DATA = "DIRAC.ConfigurationSystem.Client.ConfigurationData"
_REFRESHER = "DIRAC.ConfigurationSystem.private.Refresher"


class Configuration:
    """The configuration that the host's functions read. Whatever module reads it has loaded the host's objects."""

    def __init__(self) -> None:
        self._data = sys.modules[_DATA].gConfigurationData

    def refresh_if_due(self) -> None:
        """Do what the host does whenever it reads an option. What the host raises goes to the caller."""
        sys.modules[_REFRESHER].gRefresher.refreshConfigurationIfNeeded()

    def in_use(self) -> Any:
        """The configuration in use, as an object that is another one after every change.

        Compare it by identity, and hold it for as long as what was derived from it is kept, so that its identity cannot
        come back for another object. Derive from it with the host's functions, and keep the result only if the object
        is the same before and after.

        It is the merged configuration. The host makes a new one whenever the configuration is refreshed or an option is
        set, also locally (``ConfigurationData.sync``), which a comparison of versions would miss. Only code that
        changes the merged object itself, which nothing in the host does, must call ``sync`` to have the change seen.
        """
        return self._data.mergedCFG
