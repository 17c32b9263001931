"""DIRAC's `MySQL` class and its pool, as the scenarios use them in a worker."""

from __future__ import annotations

import importlib
import threading
from collections import Counter
from typing import Any

from lab import inside

Answer = dict[str, Any]

_connected: dict[str, Any] = {}


def load() -> None:
    """Load DIRAC, the plugin and what it patches."""
    inside.load()
    importlib.import_module("DIRAC.Core.Utilities.MySQL")


def connect(account: dict[str, Any]) -> Any:
    """DIRAC's own database object for an account, the same one each time.

    Errors: RuntimeError if it cannot connect.
    """
    from DIRAC.Core.Utilities.MySQL import MySQL

    user = account["user"]
    if user not in _connected:
        db = MySQL(account["host"], user, account["password"], account["database"], port=account["port"])
        if not db._connected:
            raise RuntimeError("DIRAC's MySQL class did not connect")
        _connected[user] = db
    return _connected[user]


def shorten_retries(seconds: float) -> None:
    """Make the host's pool sleep multiples of this, instead of 5 s, between its attempts to connect."""
    from DIRAC.Core.Utilities import MySQL

    MySQL.RETRY_SLEEP_DURATION = seconds


def connect_directly(account: dict[str, Any]) -> Any:
    """A connection outside any pool, for inspecting the server and killing connections from a worker."""
    import MySQLdb

    return MySQLdb.connect(
        host=account["host"], port=account["port"], user=account["user"], passwd=account["password"], autocommit=True
    )


def connection_id(db: Any) -> int:
    """The server's id of the connection that this thread's next statement will use; 0 if the query fails."""
    answer = db._query("SELECT CONNECTION_ID()")
    return int(answer["Value"][0][0]) if answer["OK"] else 0


def entries(db: Any) -> dict[str, int]:
    """The number of connections in the pool: those assigned to threads, and the spares."""
    pool = db._MySQL__connectionPool
    return {"assigned": len(pool._ConnectionPool__assigned), "spares": len(pool._ConnectionPool__spares)}


class Failures:
    """Counts messages of failures. Thread-safe."""

    def __init__(self) -> None:
        self.messages: Counter[str] = Counter()
        self._lock = threading.Lock()

    def saw(self, answer: Answer) -> bool:
        """Count the answer if it is an error. Returns: whether it was one."""
        if answer["OK"]:
            return False
        self.add(str(answer["Message"]))
        return True

    def add(self, message: str) -> None:
        with self._lock:
            self.messages[message[:160]] += 1
