"""The scenarios, in table order.

Each has `run(arms, short)`, whose docstring says what is done. It returns its rows of the table, none if it is
skipped.
"""

from __future__ import annotations

from . import churn, cost, forks, full_server, idle, killed, restarts, services, silence, slow_client, transactions

ALL = (killed, idle, cost, restarts, full_server, silence, slow_client, churn, forks, transactions, services)
