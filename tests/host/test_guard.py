"""A failing wrapper: the host answers, the failure is counted and reported once, and after three the patch trips."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import stock

import dirac_perfpatch
from dirac_perfpatch import loading
from dirac_perfpatch.patches import _files, dms_helpers, error_stack
from dirac_perfpatch.patching import Guard, without_stacks

pytestmark = pytest.mark.patched


def _raise(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("a secret that no log may show")


def _state(name: str) -> dict[str, Any]:
    return next(entry for entry in dirac_perfpatch.status() if entry["name"] == name)


def _sabotage(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """Break the patch's own code; return a call that must answer as stock all the same."""
    if name == "error_stack":
        from DIRAC import S_ERROR

        monkeypatch.setattr(error_stack._Texts, "make", _raise)
        # New code each time, so that its text is not cached.
        return lambda: eval('len(S_ERROR("x")["CallStack"]) > 3', {"S_ERROR": S_ERROR})
    if name == "proxy_loading":
        from DIRAC.Core.Security.m2crypto.X509Chain import X509Chain

        monkeypatch.setattr(_files.Kept, "entry", _raise)
        return lambda: without_stacks(X509Chain().loadProxyFromFile(__file__))
    from DIRAC.DataManagementSystem.Utilities.DMSHelpers import DMSHelpers

    monkeypatch.setattr(dms_helpers._Derived, "give", _raise)
    return lambda: DMSHelpers(vo="guarded").getSiteSEMapping()


@pytest.mark.parametrize("name", ["error_stack", "proxy_loading", "dms_helpers"])
def test_a_failing_wrapper_trips_its_patch(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = _sabotage(monkeypatch, name)
    with stock(name):
        wanted = ask()
    for _ in range(Guard.LIMIT):
        assert _state(name)["state"] == "applied"
        assert ask() == wanted
    assert _state(name)["state"] == "tripped"
    assert _state(name)["failures"] == Guard.LIMIT
    assert "RuntimeError" in _state(name)["reason"]
    assert ask() == wanted  # the host's own code now
    assert loading.plugin.switches[name].guard.failures == Guard.LIMIT
    said = [line for line in capsys.readouterr().err.splitlines() if "dirac-perfpatch: " in line]
    assert len(said) == 2  # the failure, and the trip
    assert not any("secret" in line for line in said)
