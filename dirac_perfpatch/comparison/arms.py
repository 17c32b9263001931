"""The arm in which the calls of a patch run while the patch is ``ab``.

- *by process*: a process stays in one arm. A hash of host, component and patch decides, so a restarted service keeps
  its arm; ``DIRAC_PERFPATCH_ARM`` pins a process.
- *by time*: a process alternates, at the moments of a clock that it shares with other patches (``clock``). Windows
  come in pairs, one of each arm, equally long and in random order, so slow drifts and periodic events affect both arms
  alike. If the share is not a half, the arm with the larger share gets the rest of its time in a third window, which is
  not compared.
- *by call*: each call at random, for patches whose calls are independent.

In the stock arm the guard of the patch is off, and every part of the patch passes calls through to the host. Caches
keep their entries, but answer nothing until the patched arm's next turn. What a patch has attached to an object of the
host, such as the class of a pooled connection, stays there and passes calls through.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from dirac_perfpatch.comparison.recording import Function, Recorder
from dirac_perfpatch.comparison.snapshot import ARMS, BY_CALL, BY_TIME, PATCHED, STOCK, State
from dirac_perfpatch.patching import Check, Guard, Patch
from dirac_perfpatch.toggles import Toggle

ARM_VARIABLE = "DIRAC_PERFPATCH_ARM"
# The first calls of each comparison that are checked against stock, before sampling begins.
_FIRST_CHECKS = 3
# A number for a pair of windows, unique in the process. Two threads may ask at once.
new_pair = itertools.count(1).__next__


def arm_of_process(patch: str, host: str, component: str, share: float, environment: Mapping[str, str]) -> bool:
    """Whether a process is in the patched arm of a patch.

    Args:
        patch: The name of the patch; part of the hash, so that each patch divides the processes differently.
        host: The name of the host.
        component: What runs in the process, such as ``DataManagement/FileCatalog``.
        share: The part of the processes that is patched, from 0 to 1.
        environment: May have the variable that pins the arm.
    """
    pinned = environment.get(ARM_VARIABLE, "").strip().lower()
    if pinned in ARMS:
        return pinned == PATCHED
    digest = hashlib.sha256("\0".join((patch, host, component)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


class Comparison:
    """One patch under comparison in this process.

    Args:
        patch: Its declaration.
        guard: Of the patch; it is off in the stock arm, and learns of differences.
        toggle: How calls are divided: ``by``, ``share`` and ``window_seconds``.
        check_one_in: One in this many patched calls is checked against stock; 0 for none.
        process_arm: Whether this process is in the patched arm, for *by process*.
        on_leave: Called when the patch has been taken off. It must not raise.
    """

    def __init__(
        self,
        patch: Patch,
        guard: Guard,
        toggle: Toggle,
        check_one_in: int,
        process_arm: bool,
        on_leave: Callable[[], None] = lambda: None,
    ) -> None:
        self.patch = patch.name
        # By call, a request has calls of both arms.
        self.has_arm = toggle.by != BY_CALL
        self.patched_first = False  # in the present pair of windows; the clock draws it
        self.recorders: list[Recorder] = []
        self.applied = False  # whether a target has been changed; before, both arms are stock
        self.ended: float | None = None  # time.monotonic() when the patch was taken off
        self.checked = self.differences = 0
        self._guard = guard
        self._spares = patch.spares
        # How often what patched calls avoid happened anyway: before the comparison began, and until it ended.
        self._others_before = self._others()
        self._others_after: int | None = None
        self._toggle = toggle
        self._check_one_in = check_one_in
        self._process_arm = process_arm
        self._on_leave = on_leave
        # Held while the arm changes, so that the guard of a patch that was taken off is never set on again. Reentrant:
        # a signal handler may take the patch off while its own thread puts it on.
        self._lock = threading.RLock()
        self.begin(time.monotonic(), time.time())

    def begin(self, now: float, clock: float) -> None:
        """Begin a window of its own, at ``time.monotonic()`` and ``time.time()``, until the clock begins the next."""
        patched = random.random() < self._toggle.share if self._toggle.by == BY_TIME else self._process_arm
        self.patched_first = patched
        self.enter(patched, True, 2 * new_pair(), now, clock)

    def enter(self, patched: bool, compared: bool, block: int, now: float, clock: float) -> None:
        """Begin a window.

        Args:
            patched: The arm by time.
            compared: Whether the window is compared.
            block: Its number; half of it is the number of its pair.
            now, clock: As for :meth:`begin`.
        """
        self._block, self._start, self._clock, self._compared = block, now, clock, compared
        by = self._toggle.by
        self._set_arm(patched if by == BY_TIME else by == BY_CALL or self._process_arm)

    def record(self, target: str, ours: Function, original: Function, check: Check | None) -> Function:
        """What is called instead of a target: it calls the function of the arm, and records the call.

        Arguments as for :class:`Recorder`, but ``check`` is the patch's: it compares a patched answer with stock.
        """
        recorder = Recorder(self.patch, target, ours, original, self._checking(target, ours, original, check))
        self.recorders.append(recorder)
        self.resume()
        if self._toggle.by != BY_CALL:
            return recorder.stand_in(None)
        share, pick = self._toggle.share, random.random
        return recorder.stand_in(lambda: pick() < share)

    def end_block(self, now: float) -> None:
        """End the window now."""
        for recorder in self.recorders:
            recorder.end_block(self._block, self._block // 2, self._clock, max(0.0, now - self._start))

    def begin_in_child(self, now: float, clock: float) -> None:
        """Begin anew after a fork: what was recorded before is the parent's. Arguments as for :meth:`begin`."""
        self._lock = threading.RLock()  # another thread of the parent may have held it
        self.checked = self.differences = 0
        self._guard.begin_anew()
        self._others_before = self._others()
        for recorder in self.recorders:
            recorder.renew()
        self.begin(now, clock)

    def resume(self) -> None:
        """Set guard and recorders to the current arm."""
        self._set_arm(self.patched)

    def leave(self) -> None:
        """The patch was taken off: leave its guard alone from now on. The journal collects what was recorded."""
        with self._lock:
            self._others_after = self._others()
            self.ended = time.monotonic()
        self._on_leave()

    def described(self, state: State) -> State:
        """The state of the patch, with how its arms are chosen."""
        arm = "both" if self._toggle.by == BY_CALL else PATCHED if self.patched else STOCK
        by, share, seconds = self._toggle.by, self._toggle.share, self._toggle.window_seconds
        return state._replace(by=by, share=share, window_seconds=seconds, arm=arm)

    def spared(self) -> dict[str, int]:
        """What patched calls have avoided, by name. After the recorders have settled."""
        if not self._spares:
            return {}
        calls = sum(one[PATCHED].calls for recorder in self.recorders for one in (recorder.arms, recorder.rests))
        others = self._others() if self._others_after is None else self._others_after
        return {self._spares[0]: max(0, calls - (others - self._others_before))}

    def _others(self) -> int:
        return self._guard.events.get(self._spares[1], 0) if self._spares else 0

    def _set_arm(self, patched: bool) -> None:
        with self._lock:
            self.patched = patched
            if self.ended is not None:
                return
            if patched:
                self._guard.off = False
            for recorder in self.recorders:
                records = recorder.arms if self._compared else recorder.rests
                recorder.now = records[PATCHED if patched else STOCK]
            if not patched or self.ended is not None:  # a signal handler may have ended it
                self._guard.off = True

    def _checking(self, target: str, ours: Function, original: Function, check: Check | None) -> Function | None:
        if check is None or not self._check_one_in:
            return None

        def checked(record: Any, number: int, answer: Any, args: Any, kwargs: Any) -> Any:
            gap = 0.0 if self.checked < _FIRST_CHECKS else 2 * self._check_one_in * random.random()
            record.next_check = number + 1 + int(gap)
            self.checked += 1
            try:
                difference = check(answer, original, args, kwargs)
                if difference:
                    # Again: what both answers depend on may have changed in between.
                    difference = check(ours(*args, **kwargs), original, args, kwargs)
            except Exception as error:
                self._guard.failed(error)
                return answer
            if not difference:
                return answer
            self.differences += 1
            self._guard.differs(target, difference)
            return original(*args, **kwargs)

        return checked
