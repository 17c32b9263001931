"""The story of a start: read the toggles, arm the patches that are on, and keep what status needs.

Runs inside the host's first look-up of its extensions, which in turn runs inside some half finished import. Nothing
here imports a module of the host.
"""

from __future__ import annotations

import threading
from typing import Any

from dirac_perfpatch import host, toggles
from dirac_perfpatch.notices import say_once
from dirac_perfpatch.patches import CATALOGUE
from dirac_perfpatch.patching import OFF, Switch

switches: dict[str, Switch] = {}
source = "nothing yet"
problem = ""

_remarks: dict[str, str] = {}
_started = False
# Reentrant: arming may import wrapt, and whatever that imports may look for extensions again.
_lock = threading.RLock()


def start() -> None:
    """Load the toggles and arm the patches, once per process. Threads that come meanwhile wait until it is done."""
    global _started, source, problem
    with _lock:
        if _started:
            return
        _started = True
        try:
            wanted = toggles.load(host.root_path())
        except Exception as error:
            problem = str(error) if isinstance(error, toggles.ToggleError) else f"{type(error).__name__}: {error}"
            say_once(f"{problem}; DIRAC runs unpatched")
            return
        source = wanted.source
        for patch in CATALOGUE:
            toggle = wanted.patches.get(patch.name)
            if toggle is None or not toggle.on:
                _remarks[patch.name] = f"switched off by {source}"
                continue
            missing = [name for name in patch.wants if not wanted.patches[name].on]
            _remarks[patch.name] = f"gives less without {', '.join(missing)}" if missing else ""
            switches[patch.name] = Switch(patch, toggle.options)
            switches[patch.name].arm()
        if wanted.keep_on_update:
            _arm_keeping()


def _arm_keeping() -> None:
    """Never raises: the patches do not depend on it."""
    try:
        from dirac_perfpatch import keeping

        keeping.SWITCH.arm()
    except Exception as error:
        say_once(f"keep_on_update: {type(error).__name__}: {error}; an update of DIRAC will leave the plugin out")


def status() -> list[dict[str, Any]]:
    """See :func:`dirac_perfpatch.status`."""
    entries = []
    for patch in CATALOGUE:
        switch = switches.get(patch.name)
        if switch is not None:
            entry = switch.status()
            entry["reason"] = "; ".join(filter(None, (entry["reason"], _remarks[patch.name])))
        else:
            reason = problem or _remarks.get(patch.name) or "DIRAC has not looked for its extensions yet"
            targets = [
                {"module": target.modules[0], "attribute": target.attribute, "state": OFF, "reason": ""}
                for target in patch.targets
            ]
            entry = {"name": patch.name, "state": OFF, "reason": reason, "targets": targets, "failures": 0}
        entries.append(entry)
    return entries
