"""The toggles that a soak switches among."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

from dirac_perfpatch.patches import AT_IMPORT, WAITED_FOR

_MODES = ("on", "off", "ab")
# For patches that are `ab`: short windows, and many answers that are compared with stock's.
_COMPARISON = "comparison:\n  window_seconds: 1\n  check_one_in: 50\n"


def texts(spool: Path) -> Iterator[str]:
    """Contents of a file of toggles, without end: all patches in one mode, then one patch in another than the rest."""
    names = [name for name in WAITED_FOR if name not in AT_IMPORT]
    draw = random.Random(8524)
    for everywhere in itertools.cycle(_MODES):
        yield _text(dict.fromkeys(names, everywhere), spool)
        for _ in range(2):
            modes = dict.fromkeys(names, draw.choice(_MODES))
            modes[draw.choice(names)] = draw.choice(_MODES)
            yield _text(modes, spool)


def _text(modes: dict[str, str], spool: Path) -> str:
    lines = "".join(f"  {name}: {mode}\n" for name, mode in modes.items())
    return f"enabled: on\npatches:\n{lines}{_COMPARISON}  spool: {spool}\n"


def write(path: Path, text: str) -> None:
    """Replace the file as a whole, as editors and configuration management do."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)
