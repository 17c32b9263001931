"""Functions that any process of a host can run through lab.worker. Nothing of the host is imported before that."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from typing import Any


def load() -> None:
    """Do what every DIRAC command does first, and import something more, which starts the plugin if it is installed."""
    from DIRAC.Core.Utilities.Extensions import extensionsByPriority

    extensionsByPriority()
    importlib.util.find_spec("DIRACnext")  # there need not be such a module


def plugin_status() -> list[dict[str, Any]]:
    """The plugin's status in this process; empty if it was never loaded."""
    plugin = sys.modules.get("dirac_perfpatch")
    return list(plugin.status()) if plugin else []


def plugin_states() -> dict[str, str]:
    """The state of each patch in this process: see plugin_status()."""
    return {entry["name"]: entry["state"] for entry in plugin_status()}


def cpu_seconds() -> float:
    """The CPU time that this process has used so far."""
    return time.process_time()


def insert_pending_records() -> None:
    """In a DataStore's process: insert pending records now, as its timer does once a minute."""
    from DIRAC.AccountingSystem.Service.DataStoreHandler import DataStoreHandler

    database = DataStoreHandler._DataStoreHandler__acDB
    threading.Thread(target=database.loadPendingRecords, daemon=True).start()
