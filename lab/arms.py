"""The arms of a comparison: their names, the DIRAC of each, and how to run something in all of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from . import hosts
from .folder import CHECKOUT

ALL = STOCK, PATCHED, IN_TREE, REPLACED = "stock", "patched", "in-tree", "replaced"
# Those with the plugin: on the compared release, and on the one that has the changes in-tree, which it replaces.
PLUGGED = PATCHED, REPLACED


class Named(Protocol):
    """An arm, whatever it consists of."""

    name: str


Arm = TypeVar("Arm", bound=Named)
Result = TypeVar("Result")


class Arms(list[Arm]):
    """The arms, in table order."""

    def named(self, name: str) -> Arm:
        """The arm of this name. Errors: ValueError if there is none."""
        (found,) = (arm for arm in self if arm.name == name)
        return found

    def in_turn(self, action: Callable[[Arm], Result]) -> dict[str, Result]:
        """Run the action in one arm after the other, for work that is limited by the CPU.

        Returns: its results by the arm's name. Errors: the first one that the action raises.
        """
        return {arm.name: action(arm) for arm in self}

    def together(self, action: Callable[[Arm], Result]) -> dict[str, Result]:
        """Run the action in all arms at once, for work that mostly waits. Returns and errors: as in_turn()."""
        with ThreadPoolExecutor(len(self)) as pool:
            return dict(zip((arm.name for arm in self), pool.map(action, self)))

    def rotated(self, number: int) -> list[Arm]:
        """The arms' order in this round. It changes, so that after-effects of an arm do not always hit the same one."""
        first = number % len(self)
        return self[first:] + self[:first]


def environments(label: str, *extras: str, release: str = hosts.COMPARED) -> dict[str, hosts.Host]:
    """A host that has never had the plugin installed, and one that has it now, by the arm's name: stock and patched.

    label: the patched host's; extras: as for hosts.install_plugin(); release: of DIRAC.
    Errors: as for hosts.environment().
    """
    patched = hosts.environment(release, label=label)
    hosts.install_plugin(patched, CHECKOUT, *extras)
    return {STOCK: hosts.environment(release), PATCHED: patched}
