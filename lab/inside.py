"""What any process of a host can be asked to do, through lab.worker. Imports nothing of the host before it is asked."""

from __future__ import annotations

import sys
import threading
from typing import Any


def load() -> None:
    """What every DIRAC command does first, and what loads the plugin where it is installed."""
    from DIRAC.Core.Utilities.Extensions import extensionsByPriority

    extensionsByPriority()


def plugin_status() -> list[dict[str, Any]]:
    """What the plugin says of itself in this process; nothing where it was never loaded."""
    plugin = sys.modules.get("dirac_perfpatch")
    return list(plugin.status()) if plugin else []


def plugin_states() -> dict[str, str]:
    """The state of each patch in this process: see plugin_status()."""
    return {entry["name"]: entry["state"] for entry in plugin_status()}


def insert_pending_records() -> None:
    """Have the DataStore, whose process this is, do now what its timer does once in a minute: insert what waits."""
    from DIRAC.AccountingSystem.Service.DataStoreHandler import DataStoreHandler

    database = DataStoreHandler._DataStoreHandler__acDB
    threading.Thread(target=database.loadPendingRecords, daemon=True).start()
