"""The threat model names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def test_the_tests_that_the_threat_model_names_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (CHECKOUT / "docs" / "threat-model.md").read_text()))
    sources = "".join(path.read_text() for path in (CHECKOUT / "tests").rglob("test_*.py"))
    assert len(named) > 20
    assert named - set(re.findall(r"^def (test_\w+)", sources, re.MULTILINE)) == set()
