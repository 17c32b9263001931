"""Where the host is installed (found without importing it), what its environment says, how we stay off its list."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Mapping
from types import FrameType
from typing import Any

OUR_NAME = __name__.partition(".")[0]
SWITCH_VARIABLE = "DIRAC_PERFPATCH"
_SWITCH_WORDS = dict.fromkeys(("", "on", "true", "yes", "1"), True)
_SWITCH_WORDS.update(dict.fromkeys(("off", "false", "no", "0"), False))


def switch_word(environment: Mapping[str, str] = os.environ) -> str:
    """What the variable that switches everything off says, in small letters."""
    return environment.get(SWITCH_VARIABLE, "").strip().lower()


def is_switched_on(environment: Mapping[str, str] = os.environ) -> bool | None:
    """Whether that variable leaves the plugin on; None if it says neither on nor off."""
    return _SWITCH_WORDS.get(switch_word(environment))


def root_path() -> str | None:
    """The folder of the DIRAC installation, which contains ``etc``; None if there is no host.

    The host sets ``DIRAC.rootPath`` before it imports its own modules, hence before it loads us.
    """
    path = getattr(sys.modules.get("DIRAC"), "rootPath", None)
    return os.fspath(path) if path else None


class _WithoutUs(list):
    """The names of the extensions that have our priority, except ours.

    The host adds names with ``append``, and warns at every start if ``len`` is not 1.
    """

    def append(self, name: Any) -> None:
        if name != OUR_NAME:
            super().append(name)

    def __len__(self) -> int:
        return max(1, super().__len__())


def hide(caller: FrameType, priority: int) -> None:
    """Keep our name off the list that a running ``extensionsByPriority`` will return.

    The host takes everything on that list for an extension: SiteDirector would tell pilots to install us, and
    ObjectLoader would search our package. The look-up collects the names in a ``defaultdict(list)``, by priority; we
    put our own kind of list where our name will go. This works in every release, for every caller, including the
    first call, which loads us, and the calls whose result the host keeps (9.1.9 and later).

    Args:
        caller: The frame that asks for our metadata. If it is not the look-up, nothing is done:
            ``getExtensionMetadata``, for instance, asks for us by name.
        priority: The one that we will return to it.
    """
    if caller.f_code.co_name != "extensionsByPriority":
        return
    for value in caller.f_locals.values():
        if isinstance(value, defaultdict) and value.default_factory is list:
            value[priority] = _WithoutUs(value.get(priority, ()))
            return
