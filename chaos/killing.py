"""Kills connections, as an administrator, a proxy in front of the database or the server itself might.

A stored procedure does it in the server: only microseconds pass between seeing a connection and killing it, so an idle
connection is still idle when it is killed.
"""

from __future__ import annotations

import threading
import time

from lab.mariadb import MariaDB

_PROCEDURE = """
CREATE DATABASE IF NOT EXISTS killing;
DELIMITER //
CREATE PROCEDURE IF NOT EXISTS killing.kill_some(account VARCHAR(80), state VARCHAR(80), share DOUBLE)
BEGIN
  DECLARE killed INT DEFAULT 0;
  -- If a connection has ended by itself meanwhile.
  DECLARE CONTINUE HANDLER FOR 1094 SET killed = killed - 1;
  FOR found IN (SELECT id FROM information_schema.processlist WHERE user = account AND RAND() < share) DO
    -- Checked again just before: while others were killed, it may have become busy.
    IF EXISTS (SELECT 1 FROM information_schema.processlist WHERE id = found.id AND command LIKE state) THEN
      SET killed = killed + 1;
      KILL found.id;
    END IF;
  END FOR;
  SELECT killed;
END//
"""


class Killer:
    """Kills a user's connections.

    server: where; user: whose; idle: only those that wait for their next statement; share: the fraction of them that
    is killed each time, at random.
    """

    def __init__(self, server: MariaDB, user: str, *, idle: bool = True, share: float = 1.0) -> None:
        self.killed = 0
        self._server = server
        self._sql = f"CALL killing.kill_some('{user}', '{'Sleep' if idle else '%'}', {share})"
        server.execute(_PROCEDURE)

    def strike(self) -> int:
        """Kill them now. Returns: how many were killed."""
        killed = int(self._server.execute(self._sql)[0][0])
        self.killed += killed
        return killed

    def keep_on(self, every: float, *, kills: float = float("inf"), seconds: float = 30.0) -> None:
        """Strike every `every` seconds, until this many kills have been made or seconds have passed."""
        self._go_on(every, kills, seconds, threading.Event())

    def _go_on(self, every: float, kills: float, seconds: float, stop: threading.Event) -> None:
        end = time.monotonic() + seconds
        while self.killed < kills and time.monotonic() < end and not stop.wait(every):
            self.strike()
