"""The catalogue: every patch, in the order in which they are put on and shown.

The module of a patch is imported when one of the host's modules that it waits for is loaded: most commands need only a
few patches.
"""

from __future__ import annotations

import importlib
from typing import Any

# By the name of each patch, which is that of its module here: the modules of the host that hold its targets.
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
    "socket_nodelay": ("DIRAC.Core.DISET.private.Transports.M2SSLTransport",),
    "client_tls": (
        "DIRAC.Core.DISET.private.Transports.SSLTransport",
        "DIRAC.Core.DISET.private.Transports.M2SSLTransport",
    ),
    "https_client": ("DIRAC.Core.Tornado.Client.private.TornadoBaseClient",),
    "registry_lookup": ("DIRAC.ConfigurationSystem.Client.Helpers.Registry",),
    "certificate_extensions": ("DIRAC.Core.Security.m2crypto.asn1_utils",),
    "session_tickets": ("DIRAC.Core.DISET.private.Transports.M2SSLTransport",),
    "peer_credentials": ("DIRAC.Core.DISET.private.Transports.SSL.M2Utils",),
    "configuration_options": ("DIRAC.ConfigurationSystem.private.ConfigurationData",),
    "request_memory": ("DIRAC.Core.DISET.private.Service",),
    "log_records": ("DIRAC.FrameworkSystem.private.standardLogging.Logging",),
    "configuration_parsing": ("diraccfg.cfg",),
    "local_options": ("DIRAC.ConfigurationSystem.private.ConfigurationData",),
    "json_dates": ("DIRAC.Core.Utilities.JEncode",),
    "lazy_imports": (
        "DIRAC.Core.Security.DiracX",
        "DIRAC.ConfigurationSystem.private.Modificator",
        "DIRAC.Core.Tornado.Client.private.TornadoBaseClient",
        "DIRAC.Core.Security.X509Certificate",
        "DIRAC.Core.Security.m2crypto.X509Certificate",
        "DIRAC.Resources.Catalog.FileCatalog",
    ),
    "chain_hash": ("DIRAC.Core.Security.X509Chain", "DIRAC.Core.Security.m2crypto.X509Chain"),
    "failed_lookups": (
        "DIRAC.AccountingSystem.DB.AccountingDB",
        "DIRAC.DataManagementSystem.DB.FileCatalogComponents.FileManager.FileManagerBase",
    ),
}
# Patches that change how their modules are executed. So their own modules are imported before the first of these is
# executed, and they cannot be compared: what they change happens once.
AT_IMPORT = ("lazy_imports",)


def load(name: str) -> Any:
    """The declaration of a patch, a :class:`dirac_perfpatch.patching.Patch`."""
    return importlib.import_module(f"{__name__}.{name}").PATCH


def __getattr__(name: str) -> Any:
    """``CATALOGUE``: the declarations of all patches. Not made before it is used, because that imports them all."""
    if name == "CATALOGUE":
        return tuple(map(load, WAITED_FOR))
    raise AttributeError(f"module {__name__} has no attribute {name}")
