"""A pytest plugin, in a process of the host: it loads our plugin as DIRAC's commands do, and records all outcomes.

A record is one line of JSON, in the file that the environment variable FILE names: [test, outcome, text], or at the
end {patch: state}, which is empty if the plugin is not installed.
"""

from __future__ import annotations

import collections
import collections.abc
import json
import os
from typing import Any

from hypothesis import HealthCheck, settings

from lab import inside

FILE = "PERFPATCH_OUTCOMES"
EXAMPLES = "PERFPATCH_EXAMPLES"  # the environment variable with the number of examples per test of hypothesis
NOT_COLLECTED = "not collected"
AGAIN = "rerun"  # the outcome of an attempt that is followed by another one
_SETTINGS = "_hypothesis_internal_use_settings"
TEXT = 6000  # characters of the output of a test


def pytest_configure() -> None:
    # Most tests import what they test without it, which in production happens only to processes that are not DIRAC's.
    inside.load()
    # DIRAC's Tornado needs this name, which Python 3.10 removed: the tests of its services could not be collected.
    vars(collections).setdefault("MutableMapping", collections.abc.MutableMapping)
    settings.register_profile("both arms", **_examples())
    settings.load_profile("both arms")


def pytest_collection_modifyitems(items: list[Any]) -> None:
    for item in items:
        # A test that has settings of its own keeps them in the face of any profile: 200 proxies, each with a new key.
        function = getattr(item.obj, "__func__", item.obj)
        own = getattr(function, _SETTINGS, None)
        if own is not None:
            setattr(function, _SETTINGS, settings(own, **_examples()))


def pytest_collectreport(report: Any) -> None:
    if not report.passed:
        _record([report.nodeid, NOT_COLLECTED if report.failed else str(report.outcome), _text(report)])


def pytest_runtest_logreport(report: Any) -> None:
    """One for each phase of a test, and for each attempt of one that is marked as flaky."""
    if report.when == "call" or not report.passed:
        _record([report.nodeid, _outcome(report), _text(report)])


def pytest_sessionfinish() -> None:
    _record(inside.plugin_states())


def _examples() -> dict[str, Any]:
    """The same ones in both arms, and no failure because the machine is busy."""
    return {
        "derandomize": True,
        "database": None,
        "deadline": None,
        "max_examples": int(os.environ[EXAMPLES]),
        "suppress_health_check": list(HealthCheck),
    }


def _outcome(report: Any) -> str:
    if hasattr(report, "wasxfail"):
        return "xpassed" if report.passed else "xfailed"
    return "error" if report.failed and report.when != "call" else str(report.outcome)


def _text(report: Any) -> str:
    if report.passed:
        return ""
    return "\n".join([report.longreprtext, *(text for _, text in report.sections)])[-TEXT:]


def _record(what: object) -> None:
    # Opened each time: a test may close files, and a child of a test must not write what is still in a buffer.
    with open(os.environ[FILE], "a") as file:
        file.write(json.dumps(what) + "\n")
