"""When the plugin starts: before the host imports another one of its modules, or else after two seconds.

Many commands have imported all that they need before the host looks for its extensions, and end soon after. For
``dirac-version``, which takes 0.2 s, a start would take 4 to 7 % more, and nothing would gain from it. So the look-up
itself only makes the finder of :mod:`imports` and the thread ready. The host's own code runs until the start, as it did
before the look-up. What is imported at that moment is patched as if the start had been at the look-up, because the
finder is called before it.
"""

from __future__ import annotations

import os
import sys
import threading  # noqa: F401  # not first by our thread, which it would then take for the main thread

from dirac_perfpatch import imports
from dirac_perfpatch.background import Background

SWITCH_VARIABLE = "DIRAC_PERFPATCH"
ON_WORDS = ("", "on", "true", "yes", "1")
OFF_WORDS = ("off", "false", "no", "0")

# Seconds until the thread looks again if there is nothing to do.
DAY = 86400.0

# Whether the host has looked for its extensions.
asked = False


def wait() -> None:
    """Have the plugin started later. If the environment switches it off, it starts only for who asks for its status."""
    global asked
    if asked:
        return
    asked = True
    word = os.environ.get(SWITCH_VARIABLE, "").strip().lower()
    if word in ON_WORDS:
        imports.before_next(start)
        background.start()
    elif word not in OFF_WORDS:
        start()  # which reports it


def start() -> bool:
    """Start the plugin, unless that has been done. Never raises: it may run inside an import of the host.

    Returns:
        Whether the modules that this needs could be imported.
    """
    try:
        from dirac_perfpatch import loading

        loading.plugin.start()
    except Exception as error:
        from dirac_perfpatch import report_not_loaded

        report_not_loaded(error)
        return False
    return True


def _look_again() -> float:
    if not start():
        return DAY
    from dirac_perfpatch import loading

    return loading.plugin.look_again()


def _write_states() -> None:
    plugin = getattr(sys.modules.get("dirac_perfpatch.loading"), "plugin", None)  # None: not started
    if plugin is not None:
        plugin.write_states()


background = Background(_look_again, last=_write_states)
