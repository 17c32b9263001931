"""A start: read the toggles, wait for the modules of the patches that are on. Later: follow changes of the toggles.

It begins when :mod:`waking` says, often inside some half-finished import. Nothing here imports a module of the host. A
patch's own module is imported when a module that it waits for is complete.

No lock, which could hang the host: a signal handler, an import of ours or another thread may come in between anywhere.
Each step is one operation on a dictionary, and whoever changes a patch checks afterwards that the toggle is the same.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dirac_perfpatch import host, imports, patches, toggles
from dirac_perfpatch.background import DAY
from dirac_perfpatch.notices import OperatorError, say_once
from dirac_perfpatch.patching import FAILED, OFF, Switch
from dirac_perfpatch.toggles import Toggle, Toggles

if TYPE_CHECKING:
    from dirac_perfpatch.comparison.running import Comparisons
    from dirac_perfpatch.live import Follower

_KEEP = "keep_on_update"
_UPDATES = "DIRAC.FrameworkSystem.Service.SystemAdministratorHandler"


class Plugin:
    """The plugin in one process."""

    def __init__(self) -> None:
        self.source = "nothing yet"
        self.problem = ""
        # Of the patches that are or were on, and whose own module has been imported.
        self.switches: dict[str, Switch] = {}
        self.toggles: dict[str, Toggle] = {}
        self._wanted: Toggles | None = None  # the last ones applied; None if none could be used
        self._keeps = False
        # By patch: the names of the modules that it waits for, and what is called when one of them is complete.
        self._waiting: dict[str, tuple[tuple[str, ...], Callable[..., None]]] = {}
        self._failures: dict[str, str] = {}
        self._taken_up: dict[str, tuple[Any, ...]] = {}  # the effect of the toggle that is in force, by patch
        self._claims: dict[int, object] = {}  # by process: the call of start() that does it
        self._started = False
        self._follows = False  # not if the environment switches everything off, or has a nonsense word
        self._to_show = False  # a patch has tripped, and the spool does not show it yet
        self._follower: Follower | None = None

    def start(self) -> None:
        """Read the toggles and wait for the modules to patch, once per process.

        A second call meanwhile returns at once. If another thread forks meanwhile, the child starts anew.
        """
        claim = object()
        if self._started or self._claims.setdefault(os.getpid(), claim) is not claim:
            return
        try:
            self.source = toggles.switched_off()
            if not self.source:
                self.source, self._follows = toggles.find(host.root_path()), True
                self.apply(toggles.read(self.source))
        except Exception as error:
            self.problem = str(error) if isinstance(error, OperatorError) else f"{type(error).__name__}: {error}"
            say_once(f"{self.problem}; DIRAC runs unpatched")
        self._started = True

    def apply(self, wanted: Toggles) -> list[str]:
        """Apply the toggles to all patches, at the start or later, and return the changes in words. Never raises.

        A patch that has tripped stays so until the process ends. If another thread forks meanwhile, the child does the
        rest at its next call with the same toggles.
        """
        self.source, self.problem, self._wanted = wanted.source, "", wanted
        changes = []
        for name, toggle in wanted.patches.items():
            self.toggles[name] = toggle
            effect = self._effect(toggle)
            if effect != self._taken_up.get(name, (toggles.OFF,)):
                changes.append(f"{name} {toggle.mode}")
                self._take_up(name)
                self._taken_up[name] = effect
        if wanted.keep_on_update != self._keeps:
            changes.append(f"{_KEEP} {toggles.ON if wanted.keep_on_update else toggles.OFF}")
            self._keep(wanted.keep_on_update)
            self._keeps = wanted.keep_on_update
        return changes

    def _effect(self, toggle: Toggle) -> tuple[Any, ...]:
        """The parts of a toggle that make a difference to its patch."""
        if not toggle.on:
            return (toggle.mode,)
        if toggle.mode == toggles.AB and self._wanted:
            return (*toggle, self._wanted.spool, self._wanted.check_one_in, self._wanted.together)
        return toggle.mode, toggle.options, toggle.in_tree, toggle.force

    def _take_up(self, name: str) -> None:
        if name in self.switches:
            self._bring(name)
        elif self.toggles[name].on:
            self._wait(name, patches.WAITED_FOR[name], self._load)
        else:
            self._wait_no_longer(name)

    def _bring(self, name: str) -> None:
        """Set a switch to its toggle.

        This may run inside an import for which the thread that applies new toggles waits. So whoever has set the switch
        checks that the toggle is still the same; the last one has then set the present toggle.
        """
        toggle = None
        while toggle is not self.toggles[name]:
            toggle = self.toggles[name]
            self._set(self.switches[name], toggle)

    def _set(self, switch: Switch, toggle: Toggle) -> None:
        switch.take_off()
        if toggle.on:
            switch.configure(toggle.options, toggle.in_tree == toggles.REPLACE, toggle.force)
        if toggle.mode == toggles.AB:
            check_one_in, together = (self._wanted.check_one_in, self._wanted.together) if self._wanted else (0, False)
            self._comparisons().begin(switch, toggle, check_one_in, self.spool(), together)
        elif toggle.on:
            switch.put_on()

    def spool(self) -> str | None:
        """The folder of the snapshots: from the toggles, else the installation's; None if there is neither."""
        from dirac_perfpatch.comparison.spool import default_folder

        return (self._wanted.spool if self._wanted else "") or default_folder(host.root_path())

    def _comparisons(self) -> Comparisons:
        from dirac_perfpatch.comparison.running import Comparisons  # only in processes that need it

        known = vars(self)
        found: Comparisons = known.get("_compared") or known.setdefault("_compared", Comparisons(self.switches))
        return found

    def _show_trip(self) -> None:
        """Have the background write a snapshot that shows a tripped patch; here, the host would wait for the file."""
        self._to_show = True

    def write_states(self, last: bool = True) -> None:
        """Runs in the background, and there once more at exit."""
        if self._to_show:
            self._to_show = False
            with contextlib.suppress(Exception):  # the trip was reported on standard error
                self._comparisons().write_states(self.spool(), last)

    def look_again(self) -> float:
        """Runs in the background, and imports what it needs only there: most commands end sooner."""
        self.start()  # in a child that was forked during a start
        if not self._started:
            return 1  # another thread is still starting
        if not self._follows:
            return DAY  # the environment has changed since the look-up
        imports.look()
        for switch in list(self.switches.values()):
            switch.catch_up()
        self.write_states(last=False)
        return self.follower().look()

    def follower(self) -> Follower:
        """The reader of the toggles while this process runs."""
        from dirac_perfpatch.live import Follower

        if self._follower is None:
            self._follower = Follower(self.apply, self._wanted, self.source, self.problem)
        return self._follower

    def _wait(self, name: str, modules: tuple[str, ...], load: Callable[[str], None]) -> None:
        """Call ``load`` when the first of the modules is complete, or is about to be executed if that is too late."""
        _, callback = self._waiting.setdefault(name, (modules, functools.partial(load, name)))
        for module in modules:
            if name in patches.AT_IMPORT:
                imports.before_execution(module, callback)
            imports.when_complete(module, callback)

    def _wait_no_longer(self, name: str) -> None:
        waiting = self._waiting.pop(name, None)
        if waiting is not None:
            for module in waiting[0]:
                imports.forget(module, waiting[1])
                if name in patches.AT_IMPORT:
                    imports.prepare_no_longer(module)

    def _load(self, name: str, module: object = None) -> None:
        """Make a patch's switch. Never raises: it may run inside an import of the host. A second call is harmless."""
        self._wait_no_longer(name)
        try:
            switch = Switch(patches.load(name), {}, self._show_trip)
        except Exception as error:
            self._failures[name] = f"{type(error).__name__}: {error}"
            say_once(f"{name}: {self._failures[name]}; DIRAC runs its own code there")
            return
        if self.switches.setdefault(name, switch) is switch:  # true in one thread only
            self._bring(name)

    def _keep(self, on: bool) -> None:
        if on:
            self._wait(_KEEP, (_UPDATES,), self._load_updating)
            return
        self._wait_no_longer(_KEEP)
        updating = sys.modules.get("dirac_perfpatch.updating")
        if updating is not None:
            updating.SWITCH.take_off()

    def _load_updating(self, name: str, module: object = None) -> None:
        """Never raises: it may run inside an import of the host."""
        self._wait_no_longer(name)
        try:
            from dirac_perfpatch import updating

            updating.SWITCH.put_on()
        except Exception as error:
            say_once(f"{name}: {type(error).__name__}: {error}; an update of DIRAC will leave the plugin out")

    def status(self) -> list[dict[str, Any]]:
        """See :func:`dirac_perfpatch.status`."""
        for name in patches.WAITED_FOR:
            if name in self._waiting:
                self._load(name)
        imports.look()
        return [self._entry(name) for name in patches.WAITED_FOR]

    def _entry(self, name: str) -> dict[str, Any]:
        on, switch = self._is_on(name), self.switches.get(name)
        if on and switch:
            missing = [other for other in switch.patch.wants if not self._is_on(other)]
            remark = f"less effective without {', '.join(missing)}" if missing else ""
        elif on:
            remark = self._failures.get(name, "")
        elif self._claims:
            remark = self.problem or f"switched off by {self.source}"
        else:
            remark = "DIRAC has not looked for its extensions yet"
        if switch:
            entry = switch.status()
            entry["reason"] = "; ".join(filter(None, (entry["reason"], remark)))
            return entry
        state = FAILED if on else OFF  # on, but its own module cannot be imported
        targets = []
        with contextlib.suppress(Exception):
            targets = [
                {"module": target.modules[0], "attribute": target.attribute, "state": state, "reason": ""}
                for target in patches.load(name).targets
            ]
        return {"name": name, "state": state, "reason": remark, "targets": targets, "failures": 0}

    def _is_on(self, name: str) -> bool:
        return name in self.toggles and self.toggles[name].on


plugin = Plugin()
