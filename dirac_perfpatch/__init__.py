"""dirac-perfpatch: makes an unmodified DIRAC faster and its MySQL connection pool safer, from outside.

DIRAC calls :func:`extension_metadata` for the entry point that this package registers in the group ``dirac``. Nothing
guards that call: an exception here would take down every DIRAC command on the machine. So this module imports nothing
but ``sys`` at its top, and all that follows happens inside the function's own guard.
"""

from __future__ import annotations

import sys
from typing import Any

# Only the host's stock look-up ever reads this, and then puts our name on a list that hides it: see host.hide().
# Negative, so that a host that would list us all the same puts us after DIRAC itself (0) and all its extensions.
_PRIORITY = -8524


def extension_metadata() -> dict[str, Any]:
    """Load the patches, once per process, and answer the host's question for an extension's metadata.

    Returns:
        A new dictionary with ``priority``, the only key that the host's look-up reads. Never raises.
    """
    try:
        from dirac_perfpatch import host

        # First, so that nothing that fails after it makes us an extension.
        host.hide(sys._getframe(1), _PRIORITY)
        from dirac_perfpatch import loading

        loading.plugin.start()
    except Exception as error:  # whatever it is, the host goes on
        _say_not_loaded(error)
    return {"priority": _PRIORITY}


def status() -> list[dict[str, Any]]:
    """Say for each patch what it does in this process.

    Returns:
        One plain dictionary per patch, in the order of the catalogue, with at least ``name``, ``state`` (``applied``,
        ``armed``, ``off``, ``stood down``, ``tripped`` or ``failed``), ``reason`` (a sentence, or an empty string) and
        ``targets`` (a list of dictionaries with ``module``, ``attribute``, ``state`` and ``reason``). Everything is
        ``off`` as long as the host has not looked for its extensions in this process.
    """
    from dirac_perfpatch import loading

    return loading.plugin.status()


_said_not_loaded = False


def _say_not_loaded(error: Exception) -> None:
    global _said_not_loaded
    if _said_not_loaded:
        return
    _said_not_loaded = True
    try:
        text = " ".join(str(error).split())  # one line, whatever the text
        # Not print(): it would take standard output for a missing stderr. Not notices: it may be what is broken.
        sys.stderr.write(f"dirac-perfpatch: {type(error).__name__}: {text}; DIRAC runs unpatched\n")
    except Exception:
        return  # a closed or missing stderr is no reason to stop the host
