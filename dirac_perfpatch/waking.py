"""When the plugin starts: before the host imports another one of its modules, or else after two seconds.

Many commands have imported all that they need before the host looks for its extensions, and end soon after. For
``dirac-version``, which takes 0.2 s, a start would take 4 to 7 % more, and nothing would gain from it. So the look-up
itself only makes the finder of :mod:`imports` and the thread ready. The host's own code runs until the start, as it did
before the look-up. What is imported at that moment is patched as if the start had been at the look-up, because the
finder is called before it.
"""

from __future__ import annotations

import sys
import threading  # noqa: F401  # not first by our thread, which it would then take for the main thread
from collections.abc import Callable

from dirac_perfpatch import host, imports
from dirac_perfpatch.background import DAY, Background

# Whether the host has looked for its extensions.
asked = False
# Called with the reason if the modules that a start needs cannot be imported.
_report: Callable[[Exception], None] = lambda error: None  # noqa: E731


def wait(report: Callable[[Exception], None]) -> None:
    """Have the plugin started later. If the environment switches it off, it starts only when its status is asked for.

    Args:
        report: Called with the reason if the modules that a start needs cannot be imported. It must not raise.
    """
    global asked, _report
    if asked:
        return
    asked, _report = True, report
    on = host.is_switched_on()
    if on:
        imports.before_next(start)
        background.start()
    elif on is None:
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
        _report(error)
        return False
    return True


def _look_again() -> float:
    # A child that is forked while this thread imports our modules would wait for them for ever.
    imports.forget_next()
    if not start():
        return DAY  # what is broken stays so
    from dirac_perfpatch import loading

    return loading.plugin.look_again()


def _write_states() -> None:
    plugin = getattr(sys.modules.get("dirac_perfpatch.loading"), "plugin", None)  # None: not started
    if plugin is not None:
        plugin.write_states()


background = Background(_look_again, last=_write_states)
