"""The story of a start: read the toggles, wait for the modules of the patches that are on, and keep what status needs.
And of what follows when the toggles change later.

It begins inside the host's first look-up of its extensions, which in turn runs inside some half finished import.
Nothing here imports a module of the host. A patch's own module is imported when a module comes that it waits for.

No lock, which could hang the host: a signal handler, what we import, or another thread may come in the middle of
everything here. Each step is one operation on a dictionary, and who changes a patch looks afterwards whether the toggle
is still the same.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dirac_perfpatch import host, imports, patches, toggles
from dirac_perfpatch.background import Background
from dirac_perfpatch.notices import OperatorError, say_once
from dirac_perfpatch.patching import FAILED, OFF, Switch
from dirac_perfpatch.toggles import Toggle, Toggles

if TYPE_CHECKING:
    from dirac_perfpatch.comparison.running import Comparisons
    from dirac_perfpatch.live import Follower

_KEEP = "keep_on_update"
_UPDATES = "DIRAC.FrameworkSystem.Service.SystemAdministratorHandler"


class Plugin:
    """What the plugin is and does in one process."""

    def __init__(self) -> None:
        self.source = "nothing yet"
        self.problem = ""
        # Of the patches that are on, or were, and whose module has been imported.
        self.switches: dict[str, Switch] = {}
        self.toggles: dict[str, Toggle] = {}
        self.background = Background(self._look_again, last=self._write_states)
        self._wanted: Toggles | None = None  # the last ones applied; None if none could be used
        self._keeps = False
        # Called when a module comes that a patch waits for: by name of patch, with the names of the modules.
        self._waiting: dict[str, tuple[tuple[str, ...], Callable[..., None]]] = {}
        self._failures: dict[str, str] = {}
        self._taken_up: dict[str, tuple[Any, ...]] = {}  # what of each toggle the patches have been brought to
        self._claims: dict[int, object] = {}  # by process: who has begun the start there
        self._started = False
        self._to_show = False  # a patch has tripped, and the spool does not say so yet
        self._follower: Follower | None = None

    def start(self) -> None:
        """Load the toggles and wait for what is to be patched, once per process.

        Who asks meanwhile finds the host as it is so far. A child of a fork that came in the middle of it, in another
        thread, does it anew.
        """
        claim = object()
        if self._started or self._claims.setdefault(os.getpid(), claim) is not claim:
            return
        try:
            self.source = toggles.switched_off()
            if not self.source:
                self.source = toggles.find(host.root_path())
                if len(self._claims) == 1:  # such a child has got its thread already
                    self.background.start()
                self.apply(toggles.read(self.source))
        except Exception as error:
            self.problem = str(error) if isinstance(error, OperatorError) else f"{type(error).__name__}: {error}"
            say_once(f"{self.problem}; DIRAC runs unpatched")
        self._started = True

    def apply(self, wanted: Toggles) -> list[str]:
        """Make every patch what the toggles say, at the start or later. Never raises.

        A patch that has tripped stays so until the process ends, whatever they say. A child of a fork that came in the
        middle of it does the rest when it is asked for the same again.

        Args:
            wanted: The toggles.

        Returns:
            What has changed, in words.
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
        """What of a toggle makes a difference."""
        if not toggle.on:
            return (toggle.mode,)
        if toggle.mode == toggles.AB and self._wanted:
            return (*toggle, self._wanted.spool, self._wanted.check_one_in)
        return toggle.mode, toggle.options

    def _take_up(self, name: str) -> None:
        if name in self.switches:
            self._bring(name)
        elif self.toggles[name].on:
            self._wait(name, patches.WAITED_FOR[name], self._load)
        else:
            self._wait_no_longer(name)

    def _bring(self, name: str) -> None:
        """Bring a switch to what its toggle says.

        This may run inside an import, while the thread that takes up toggles waits for that import. So who has set the
        switch looks if the toggle is still the same; the last one to do so has set what it is now.
        """
        toggle = None
        while toggle is not self.toggles[name]:
            toggle = self.toggles[name]
            self._set(self.switches[name], toggle)

    def _set(self, switch: Switch, toggle: Toggle) -> None:
        switch.take_off()
        if toggle.on:
            switch.configure(toggle.options)
        if toggle.mode == toggles.AB:
            check_one_in = self._wanted.check_one_in if self._wanted else 0
            self._comparisons().begin(switch, toggle, check_one_in, self.spool())
        elif toggle.on:
            switch.put_on()

    def spool(self) -> str | None:
        """The folder for what is recorded: that of the toggles, or of the installation; None if there is neither."""
        from dirac_perfpatch.comparison.spool import default_folder

        return (self._wanted.spool if self._wanted else "") or default_folder(host.root_path())

    def _comparisons(self) -> Comparisons:
        from dirac_perfpatch.comparison.running import Comparisons  # only in processes that compare something

        known = vars(self)
        found: Comparisons = known.get("_compared") or known.setdefault("_compared", Comparisons(self.switches))
        return found

    def _show_trip(self) -> None:
        """Have a snapshot left, so that who looks at the spool sees a patch that has tripped. Not by the call that
        trips: it would wait for the file system."""
        self._to_show = True

    def _write_states(self, last: bool = True) -> None:
        """In the background, and by its thread at the end of the process."""
        if self._to_show:
            self._to_show = False
            with contextlib.suppress(Exception):  # the operator was told on standard error
                self._comparisons().write_states(self.spool(), last)

    def _look_again(self) -> float:
        """In the background. What it needs is imported there: most commands end before."""
        self.start()  # for a child of a fork that came in the middle of it
        if not self._started:
            return 1  # another thread is in the middle of it
        imports.look()
        for switch in list(self.switches.values()):
            switch.catch_up()
        self._write_states(last=False)
        return self.follower().look()

    def follower(self) -> Follower:
        """What follows the toggles in this process."""
        from dirac_perfpatch.live import Follower

        if self._follower is None:
            self._follower = Follower(self.apply, self._wanted, self.source, self.problem)
        return self._follower

    def _wait(self, name: str, modules: tuple[str, ...], load: Callable[[str], None]) -> None:
        """Load something when the first of the modules that it waits for is there, or when status asks."""
        _, callback = self._waiting.setdefault(name, (modules, functools.partial(load, name)))
        for module in modules:
            imports.when_complete(module, callback)

    def _wait_no_longer(self, name: str) -> None:
        waiting = self._waiting.pop(name, None)
        if waiting is not None:
            for module in waiting[0]:
                imports.forget(module, waiting[1])

    def _load(self, name: str, module: object = None) -> None:
        """Never raises: it may run inside an import of the host. A second time does no harm."""
        self._wait_no_longer(name)
        try:
            switch = Switch(patches.load(name), {}, self._show_trip)
        except Exception as error:
            self._failures[name] = f"{type(error).__name__}: {error}"
            say_once(f"{name}: {self._failures[name]}; DIRAC runs its own code there")
            return
        # Of several threads only one gets to put it on.
        if self.switches.setdefault(name, switch) is switch:
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
        """Never raises: the patches do not depend on it."""
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
        on = self._is_on(name)
        if on:
            remark = self._failures.get(name, "")
        elif self._claims:
            remark = self.problem or f"switched off by {self.source}"
        else:
            remark = "DIRAC has not looked for its extensions yet"
        if name in self.switches:
            entry = self.switches[name].status()
            if on:
                missing = [other for other in self.switches[name].patch.wants if not self._is_on(other)]
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

    def _is_on(self, name: str) -> bool:
        return name in self.toggles and self.toggles[name].on


# That of this process. A test may make another one.
plugin = Plugin()
