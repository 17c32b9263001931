"""These tests run inside a real DIRAC's environment that has the plugin installed, once per release."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from lab.hosts import IN_TREE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Not skipped but not asked for: the host's own changes lose statements there, with or without the plugin.
    if version("DIRAC") == IN_TREE:
        items[:] = [item for item in items if item.get_closest_marker("patched") is None]
