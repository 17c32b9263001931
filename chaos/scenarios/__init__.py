"""The scenarios, in the order of the table.

Each has `run(arms, short)`, whose docstring says what is done, and which returns its rows: none where it is left out.
"""

from __future__ import annotations

from . import churn, cost, forks, full_server, idle, killed, restarts, services, silence, slow_client, transactions

ALL = (killed, idle, cost, restarts, full_server, silence, slow_client, churn, forks, transactions, services)
