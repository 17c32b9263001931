"""Cycles of agents, as the agent reactor runs them. Runs in the host's Python, with the host's certificate."""

from __future__ import annotations

import functools
from typing import Any

from lab import clients

from . import stages

# One that does nothing, and one that looks for old pilots in the database and calls the PilotManager.
EMPTY, PILOT_STATUS = "empty agent", "PilotStatusAgent"
NAMES = (EMPTY, PILOT_STATUS)


def cycles(name: str, number: int) -> dict[str, Any]:
    """Run a number of cycles of an agent. Returns: as stages.stop(). Errors: RuntimeError if a cycle fails."""
    agent = _agent(name)
    _run(agent)
    before = stages.start(stages.AGENT)
    for _ in range(number):
        _run(agent)
    found = stages.stop()
    return {"requests": number, "total": found["total"] - before, "stages": found["stages"]}


def _run(agent: Any) -> None:
    answer = agent.am_go()
    if not answer["OK"]:
        raise RuntimeError(answer["Message"])


@functools.cache
def _agent(name: str) -> Any:
    clients.initialize()
    from DIRAC import S_OK
    from DIRAC.Core.Base.AgentModule import AgentModule
    from DIRAC.WorkloadManagementSystem.Agent.PilotStatusAgent import PilotStatusAgent

    class Empty(AgentModule):
        def execute(self) -> Any:
            return S_OK()

    full = f"WorkloadManagement/{PILOT_STATUS}"
    agent = {EMPTY: Empty, PILOT_STATUS: PilotStatusAgent}[name](full, full)
    answer = agent.am_initialize()
    if not answer["OK"]:
        raise RuntimeError(answer["Message"])
    return agent
