"""The story of a start: read the toggles, wait for the modules of the patches that are on, and keep what status needs.

Runs inside the host's first look-up of its extensions, which in turn runs inside some half finished import. Nothing
here imports a module of the host. A patch itself is imported and armed when a module comes that it waits for.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

from dirac_perfpatch import host, imports, patches, toggles
from dirac_perfpatch.notices import say_once
from dirac_perfpatch.patching import FAILED, OFF, Switch

# Of the patches that are on and whose module has been imported.
switches: dict[str, Switch] = {}
source = "nothing yet"
problem = ""

_UPDATES = "DIRAC.FrameworkSystem.Service.SystemAdministratorHandler"

_options: dict[str, Mapping[str, Any]] = {}  # of the patches that are on
_sleepers: list[_Sleeper] = []
_remarks: dict[str, str] = {}
_started = False
# Reentrant: a module that is there arms its patches at once, which may import wrapt, and whatever that imports may look
# for extensions again.
_lock = threading.RLock()


def start() -> None:
    """Load the toggles and wait for what is to be patched, once per process. Threads that come meanwhile wait until
    it is done."""
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
        _options.update((name, toggle.options) for name, toggle in wanted.patches.items() if toggle.on)
        for name, modules in patches.WAITED_FOR.items():
            if name in _options:
                _sleepers.append(_Sleeper(modules, _arm, name))
                _sleepers[-1].sleep()
            else:
                _remarks[name] = f"switched off by {source}"
        if wanted.keep_on_update:
            _Sleeper((_UPDATES,), _arm_keeping, "keep_on_update").sleep()


class _Sleeper:
    """Arms something when the first of the modules that it waits for is there, or when it is woken."""

    def __init__(self, modules: tuple[str, ...], arm: Callable[[str], None], name: str) -> None:
        self._modules = modules
        self._arm = arm
        self._name = name

    def sleep(self) -> None:
        for module in self._modules:
            imports.when_complete(module, self.wake)

    def wake(self, module: object = None) -> None:
        """Never raises: it may run inside an import of the host. A second time does no harm."""
        for name in self._modules:
            imports.forget(name, self.wake)
        self._arm(self._name)


def _arm(name: str) -> None:
    try:
        patch = patches.load(name)
        switch = Switch(patch, _options[name])
    except Exception as error:
        _remarks[name] = f"{type(error).__name__}: {error}"
        say_once(f"{name}: {_remarks[name]}; DIRAC runs its own code there")
        return
    missing = [other for other in patch.wants if other not in _options]
    _remarks[name] = f"gives less without {', '.join(missing)}" if missing else ""
    # Of several threads only one gets to arm.
    if switches.setdefault(name, switch) is switch:
        switch.arm()


def _arm_keeping(name: str) -> None:
    """Never raises: the patches do not depend on it."""
    try:
        from dirac_perfpatch import keeping

        keeping.SWITCH.arm()
    except Exception as error:
        say_once(f"{name}: {type(error).__name__}: {error}; an update of DIRAC will leave the plugin out")


def status() -> list[dict[str, Any]]:
    """See :func:`dirac_perfpatch.status`."""
    for sleeper in _sleepers:
        sleeper.wake()
    return [_entry(name) for name in patches.WAITED_FOR]


def _entry(name: str) -> dict[str, Any]:
    remark = _remarks.get(name, "")
    if name in switches:
        entry = switches[name].status()
        entry["reason"] = "; ".join(filter(None, (entry["reason"], remark)))
        return entry
    # It is off, or its own module cannot be imported.
    state = FAILED if name in _options else OFF
    reason = problem or remark or "DIRAC has not looked for its extensions yet"
    targets = []
    with contextlib.suppress(Exception):
        targets = [
            {"module": target.modules[0], "attribute": target.attribute, "state": state, "reason": ""}
            for target in patches.load(name).targets
        ]
    return {"name": name, "state": state, "reason": reason, "targets": targets, "failures": 0}
