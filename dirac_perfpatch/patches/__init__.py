"""The catalogue: every patch, in the order in which they are put on and shown."""

from __future__ import annotations

from dirac_perfpatch.patches import (
    connection_checkout,
    connection_close,
    connection_eviction,
    dms_helpers,
    error_stack,
    extension_lookup,
    proxy_loading,
)

CATALOGUE = (
    extension_lookup.PATCH,
    error_stack.PATCH,
    proxy_loading.PATCH,
    dms_helpers.PATCH,
    connection_checkout.PATCH,
    connection_eviction.PATCH,
    connection_close.PATCH,
)
