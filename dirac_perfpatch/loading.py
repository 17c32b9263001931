"""The story of a start: read the toggles, wait for the modules of the patches that are on, and keep what status needs.
And of what follows when the toggles change later.

Runs inside the host's first look-up of its extensions, which in turn runs inside some half finished import. Nothing
here imports a module of the host. A patch itself is imported and armed when a module comes that it waits for.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dirac_perfpatch import host, imports, patches, toggles
from dirac_perfpatch.background import Background
from dirac_perfpatch.notices import say_once
from dirac_perfpatch.patching import FAILED, OFF, Switch
from dirac_perfpatch.toggles import Comparison, Draft, Toggle, ToggleError, Toggles

if TYPE_CHECKING:
    from dirac_perfpatch.live import Follower

# Of the patches that are on, or were, and whose module has been imported.
switches: dict[str, Switch] = {}
source = "nothing yet"
problem = ""
first: Draft | None = None  # what was read at the start; None if it could not be used

_KEEP = "keep_on_update"
_UPDATES = "DIRAC.FrameworkSystem.Service.SystemAdministratorHandler"

_toggles: dict[str, Toggle] = {}
_comparison: Comparison | None = None
_keeps = False
_sleepers: dict[str, _Sleeper] = {}  # of the patches that are on, and whose module has not been imported when they came
_failures: dict[str, str] = {}
_taken_up: dict[str, tuple[Any, ...]] = {}  # what of each toggle the patches have been brought to
_claims: dict[int, object] = {}  # by process: who has begun the start there
_started = False
_to_show = False  # a patch has tripped, and the spool does not say so yet
_follower: Follower | None = None


def start() -> None:
    """Load the toggles and wait for what is to be patched, once per process.

    Without a lock, which could hang the host: a signal handler, what we import, or another thread may ask meanwhile,
    and finds the host as it is so far. A child of a fork that came in the middle of it, in another thread, does it
    anew.
    """
    global _started, source, problem, first
    claim = object()
    if _started or _claims.setdefault(os.getpid(), claim) is not claim:
        return
    try:
        source = toggles.switched_off()
        if not source:
            source = toggles.find(host.root_path())
            if len(_claims) == 1:  # such a child has got its thread already
                _background.start()
            first = toggles.draft(source)
            apply(first.toggles())
    except Exception as error:
        problem = str(error) if isinstance(error, ToggleError) else f"{type(error).__name__}: {error}"
        say_once(f"{problem}; DIRAC runs unpatched")
    _started = True


def apply(wanted: Toggles) -> list[str]:
    """Make every patch what the toggles say, at the start or later. Never raises.

    A patch that has tripped stays so until the process ends, whatever they say. A child of a fork that came in the
    middle of it does the rest when it is asked for the same again.

    Args:
        wanted: The toggles.

    Returns:
        What has changed, in words.
    """
    global source, problem, _comparison, _keeps
    source, problem, _comparison = wanted.source, "", wanted.comparison
    changes = []
    for name, toggle in wanted.patches.items():
        _toggles[name] = toggle
        if _effect(toggle) != _taken_up.get(name, (toggles.OFF,)):
            changes.append(f"{name} {toggle.mode}")
            _take_up(name)
            _taken_up[name] = _effect(toggle)
    if wanted.keep_on_update != _keeps:
        changes.append(f"keep_on_update {toggles.ON if wanted.keep_on_update else toggles.OFF}")
        _keep(wanted.keep_on_update)
        _keeps = wanted.keep_on_update
    return changes


def _effect(toggle: Toggle) -> tuple[Any, ...]:
    """What of a toggle makes a difference."""
    if not toggle.on:
        return (toggle.mode,)
    return (*toggle, _comparison) if toggle.mode == toggles.AB else (toggle.mode, toggle.options)


def _take_up(name: str) -> None:
    if name in switches:
        _bring(name)
    elif _toggles[name].on:
        _sleepers.setdefault(name, _Sleeper(patches.WAITED_FOR[name], _arm, name)).sleep()
    elif name in _sleepers:
        _sleepers.pop(name).stay()


def _bring(name: str) -> None:
    """Bring a switch to what its toggle says.

    Not under a lock: this may run inside an import, while the thread that takes up toggles waits for that import. So
    who has set the switch looks if the toggle is still the same; the last one to do so has set what it is now.
    """
    toggle = None
    while toggle is not _toggles[name]:
        toggle = _toggles[name]
        _set(switches[name], toggle)


def _set(switch: Switch, toggle: Toggle) -> None:
    switch.take_off()
    if toggle.on:
        switch.configure(toggle.options)
    if toggle.mode == toggles.AB:
        from dirac_perfpatch.comparison import running  # only in processes that compare something

        running.begin(switch, toggle.trial, _comparison.check_one_in if _comparison else 0, spool())
    elif toggle.on:
        switch.arm()


def spool() -> str | None:
    """The folder for what is recorded: that of the toggles, or of the installation; None if there is neither."""
    from dirac_perfpatch.comparison.spool import default_folder

    return (_comparison.spool if _comparison else "") or default_folder(host.root_path())


def _show_trip() -> None:
    """Have a snapshot left, so that who looks at the spool sees a patch that has tripped. Not by the call that trips:
    it would wait for the file system."""
    global _to_show
    _to_show = True


def _write_states(last: bool = True) -> None:
    """In the background, and by its thread at the end of the process."""
    global _to_show
    if _to_show:
        _to_show = False
        with contextlib.suppress(Exception):  # the operator was told on standard error
            from dirac_perfpatch.comparison import running

            running.write_states(spool(), last)


def _look_again() -> float:
    """In the background. What it needs is imported there: most commands end before."""
    global _follower
    start()  # for a child of a fork that came in the middle of it
    if not _started:
        return 1  # another thread is in the middle of it
    for switch in list(switches.values()):
        switch.catch_up()
    _write_states(last=False)
    if _follower is None:
        from dirac_perfpatch.live import Follower

        _follower = Follower()
    return _follower.look()


_background = Background(_look_again, last=_write_states)


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
        self.stay()
        self._arm(self._name)

    def stay(self) -> None:
        """Wait no longer."""
        for name in self._modules:
            imports.forget(name, self.wake)


def _arm(name: str) -> None:
    try:
        switch = Switch(patches.load(name), {}, _show_trip)
    except Exception as error:
        _failures[name] = f"{type(error).__name__}: {error}"
        say_once(f"{name}: {_failures[name]}; DIRAC runs its own code there")
        return
    # Of several threads only one gets to arm.
    if switches.setdefault(name, switch) is switch:
        _bring(name)


def _keep(on: bool) -> None:
    if on:
        _sleepers.setdefault(_KEEP, _Sleeper((_UPDATES,), _arm_keeping, _KEEP)).sleep()
        return
    if _KEEP in _sleepers:
        _sleepers.pop(_KEEP).stay()
    keeping = sys.modules.get("dirac_perfpatch.keeping")
    if keeping is not None:
        keeping.SWITCH.take_off()


def _arm_keeping(name: str) -> None:
    """Never raises: the patches do not depend on it."""
    try:
        from dirac_perfpatch import keeping

        keeping.SWITCH.arm()
    except Exception as error:
        say_once(f"{name}: {type(error).__name__}: {error}; an update of DIRAC will leave the plugin out")


def status() -> list[dict[str, Any]]:
    """See :func:`dirac_perfpatch.status`."""
    for name in patches.WAITED_FOR:
        sleeper = _sleepers.get(name)
        if sleeper is not None:
            sleeper.wake()
    imports.look()
    return [_entry(name) for name in patches.WAITED_FOR]


def _entry(name: str) -> dict[str, Any]:
    on = _is_on(name)
    if on:
        remark = _failures.get(name, "")
    elif _claims:
        remark = problem or f"switched off by {source}"
    else:
        remark = "DIRAC has not looked for its extensions yet"
    if name in switches:
        entry = switches[name].status()
        if on:
            missing = [other for other in switches[name].patch.wants if not _is_on(other)]
            remark = f"gives less without {', '.join(missing)}" if missing else ""
        entry["reason"] = "; ".join(filter(None, (entry["reason"], remark)))
        return entry
    # It is off, or its own module cannot be imported.
    state = FAILED if on else OFF
    targets = []
    with contextlib.suppress(Exception):
        targets = [
            {"module": target.modules[0], "attribute": target.attribute, "state": state, "reason": ""}
            for target in patches.load(name).targets
        ]
    return {"name": name, "state": state, "reason": remark, "targets": targets, "failures": 0}


def _is_on(name: str) -> bool:
    return name in _toggles and _toggles[name].on
