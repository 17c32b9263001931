"""What this host is, as far as it can be seen without importing it, and how we stay off its extension list."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from types import FrameType
from typing import Any

OUR_NAME = __name__.partition(".")[0]


def root_path() -> str | None:
    """Where the DIRAC installation of this process has its ``etc``.

    Returns:
        What ``DIRAC.rootPath`` says. The host sets it before it imports any of its own modules, so it is there
        whenever the host loads us. None without a host.
    """
    path = getattr(sys.modules.get("DIRAC"), "rootPath", None)
    return os.fspath(path) if path else None


class _WithoutUs(list):
    """The names of the extensions that have our priority: all of them but ours.

    The host puts a name on the list with ``append``, and warns at every start when ``len`` is not 1.
    """

    def append(self, name: Any) -> None:
        if name != OUR_NAME:
            super().append(name)

    def __len__(self) -> int:
        return max(1, super().__len__())


def hide(caller: FrameType | None, priority: int) -> bool:
    """Keep our name off the list that a running ``extensionsByPriority`` is about to return.

    To the host everything on that list is an extension: SiteDirector would tell pilots to install us, and objects
    would be looked for under our name. The look-up collects names in a ``defaultdict(list)`` by priority; we put a
    list of our own where our name will go. This reaches every caller on every release, also the very first call, the
    one that loads us, and the ones whose result the host keeps for ever (9.1.9 and later), and it needs no library.

    Args:
        caller: The frame that asks for our metadata.
        priority: The one that we are about to answer.

    Returns:
        True if the caller is the look-up and we are hidden from it. False for any other caller, such as
        ``getExtensionMetadata``, which names us itself.
    """
    if caller is None or caller.f_code.co_name != "extensionsByPriority":
        return False
    for value in caller.f_locals.values():
        if isinstance(value, defaultdict) and value.default_factory is list:
            value[priority] = _WithoutUs(value.get(priority, ()))
            return True
    return False
