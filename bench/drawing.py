"""Draws the figures of a bench in an environment that has matplotlib."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab import hosts
from lab.folder import CHECKOUT


def draw(module: str, figures: Path, folder: Path) -> None:
    """Run a module of plots.

    module: its full name; figures: the file with the figures; folder: where the plots go. Errors: CalledProcessError.
    """
    tools = hosts.plain_environment("bench", ["matplotlib"])
    arguments = [str(path.resolve()) for path in (figures, folder)]
    subprocess.run([str(tools / "python"), "-m", module, *arguments], check=True, cwd=CHECKOUT)
    print(f"plots: {folder}")
