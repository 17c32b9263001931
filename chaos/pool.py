"""DIRAC's `MySQL` class and its pool, as the scenarios use them inside a worker."""

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

    Errors: RuntimeError when it cannot connect.
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
    """Have the host's pool sleep multiples of this between its attempts to connect, instead of 5 s."""
    from DIRAC.Core.Utilities import MySQL

    MySQL.RETRY_SLEEP_DURATION = seconds


def connect_directly(account: dict[str, Any]) -> Any:
    """A connection that no pool knows, to look at the server and to kill from inside a worker."""
    import MySQLdb

    return MySQLdb.connect(
        host=account["host"], port=account["port"], user=account["user"], passwd=account["password"], autocommit=True
    )


def connection_id(db: Any) -> int:
    """The server's number for the connection that this thread's next statement uses; 0 when that fails."""
    answer = db._query("SELECT CONNECTION_ID()")
    return int(answer["Value"][0][0]) if answer["OK"] else 0


def entries(db: Any) -> dict[str, int]:
    """How many connections the pool knows: those assigned to threads, and the spares."""
    pool = db._MySQL__connectionPool
    return {"assigned": len(pool._ConnectionPool__assigned), "spares": len(pool._ConnectionPool__spares)}


class Failures:
    """Messages of what failed, counted; threads share it."""

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
