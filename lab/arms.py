"""The arms of a comparison: what they are called, which DIRAC each is, and how to have all of them do something."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from . import hosts
from .folder import CHECKOUT

ALL = STOCK, PATCHED, IN_TREE = "stock", "patched", "in-tree"


class Named(Protocol):
    """An arm, whatever it consists of."""

    name: str


Arm = TypeVar("Arm", bound=Named)
Result = TypeVar("Result")


class Arms(list[Arm]):
    """The arms in the order of the table."""

    def named(self, name: str) -> Arm:
        """The arm of this name. Errors: ValueError when there is none."""
        (found,) = (arm for arm in self if arm.name == name)
        return found

    def in_turn(self, action: Callable[[Arm], Result]) -> dict[str, Result]:
        """Do it in one arm after the other, where it is the processor's time that counts.

        Returns: what it returned, by the arm's name. Errors: those of the action, the first one.
        """
        return {arm.name: action(arm) for arm in self}

    def together(self, action: Callable[[Arm], Result]) -> dict[str, Result]:
        """Do it in all arms at once, where most of the time is spent waiting. Returns and errors: as in_turn()."""
        with ThreadPoolExecutor(len(self)) as pool:
            return dict(zip((arm.name for arm in self), pool.map(action, self)))

    def rotated(self, number: int) -> list[Arm]:
        """The order of the round of this number. What an arm leaves behind must not always hit the same other one."""
        first = number % len(self)
        return self[first:] + self[:first]


def environments(label: str, *extras: str) -> dict[str, hosts.Host]:
    """A host that has never had the plugin in it, and one that has it now, by the arm's name.

    label: the patched host's; extras: as for hosts.install_plugin(). Errors: as for hosts.environment().
    """
    patched = hosts.environment(hosts.COMPARED, label=label)
    hosts.install_plugin(patched, CHECKOUT, *extras)
    return {STOCK: hosts.environment(hosts.COMPARED), PATCHED: patched}
