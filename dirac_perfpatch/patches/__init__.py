"""The catalogue: every patch, in the order in which they are put on and shown.

A patch's own module is imported when one of the host's modules that it waits for is there: most commands need few of
them, and every command would pay for all.
"""

from __future__ import annotations

import importlib
from typing import Any

# The name of each patch, which is the name of its module here, and the modules of the host that its targets are in.
WAITED_FOR: dict[str, tuple[str, ...]] = {
    "extension_lookup": ("DIRAC.Core.Utilities.Extensions",),
    "error_stack": ("DIRACCommon.Core.Utilities.ReturnValues", "DIRAC.Core.Utilities.ReturnValues"),
    "proxy_loading": ("DIRAC.Core.Security.X509Chain", "DIRAC.Core.Security.m2crypto.X509Chain"),
    "dms_helpers": ("DIRAC.DataManagementSystem.Utilities.DMSHelpers",),
    "connection_checkout": ("DIRAC.Core.Utilities.MySQL",),
    "connection_eviction": ("DIRAC.Core.Utilities.MySQL",),
    "connection_close": (
        "DIRAC.Core.Utilities.MySQL",
        "DIRAC.AccountingSystem.DB.AccountingDB",
        "DIRAC.DataManagementSystem.DB.FileCatalogComponents.DirectoryManager.DirectoryTreeBase",
        "DIRAC.WorkloadManagementSystem.Agent.PilotStatusAgent",
    ),
    "https_client": ("DIRAC.Core.Tornado.Client.private.TornadoBaseClient",),
}


def load(name: str) -> Any:
    """The declaration of a patch, a :class:`dirac_perfpatch.patching.Patch`."""
    return importlib.import_module(f"{__name__}.{name}").PATCH


def __getattr__(name: str) -> Any:
    """``CATALOGUE``: the declarations of all patches. Made when it is asked for, because that imports them all."""
    if name == "CATALOGUE":
        return tuple(map(load, WAITED_FOR))
    raise AttributeError(f"module {__name__} has no attribute {name}")
