"""dirac-perfpatch: makes an unmodified DIRAC faster and its MySQL connection pool safer, from outside.

DIRAC calls :func:`extension_metadata` through this package's entry point in the group ``dirac`` and does not catch its
exceptions: one would stop every DIRAC command on the machine. So this module imports only ``sys`` at the top;
everything else happens inside the function's own ``try``.
"""

from __future__ import annotations

import sys
from typing import Any

# Only the host's look-up of extensions reads this, and host.hide() removes us from its result. Negative: a host that
# lists us all the same puts us after DIRAC itself (0) and all its extensions.
_PRIORITY = -8524


def extension_metadata() -> dict[str, Any]:
    """Have the plugin started when it is needed, and return the metadata of an extension. Never raises.

    Returns:
        A new dictionary with ``priority``, the only key that the host's look-up reads.
    """
    try:
        from dirac_perfpatch import host

        # First: whatever fails after it, we are not listed as an extension.
        host.hide(sys._getframe(1), _PRIORITY)
        from dirac_perfpatch import waking

        waking.wait(_report_not_loaded)
    except Exception as error:
        _report_not_loaded(error)
    return {"priority": _PRIORITY}


def status() -> list[dict[str, Any]]:
    """Report the state of each patch in this process.

    Returns:
        One plain dictionary per patch, in the order of the catalogue, with at least ``name``, ``state`` (``applied``,
        ``armed``, ``off``, ``stood down``, ``tripped`` or ``failed``), ``reason`` (a sentence, or an empty string) and
        ``targets`` (a list of dictionaries with ``module``, ``attribute``, ``state`` and ``reason``). Every state is
        ``off`` until the host has looked for its extensions in this process.
    """
    from dirac_perfpatch import loading, waking

    if waking.asked:
        waking.start()
    return loading.plugin.status()


_reported = False


def _report_not_loaded(error: Exception) -> None:
    global _reported
    if _reported:
        return
    _reported = True
    try:
        text = " ".join(str(error).split())
        # Not notices: that module may be the broken one. Not print(): if stderr is None it writes to stdout.
        sys.stderr.write(f"dirac-perfpatch: {type(error).__name__}: {text}; DIRAC runs unpatched\n")
    except Exception:
        return  # stderr is closed or missing
