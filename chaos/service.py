"""Stands in for dirac-service: the same, and SIGUSR2 has the DataStore do now what its timer does once in a minute."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any


def _insert_pending_records(*_: Any) -> None:
    from DIRAC.AccountingSystem.Service.DataStoreHandler import DataStoreHandler

    database = DataStoreHandler._DataStoreHandler__acDB
    threading.Thread(target=database.loadPendingRecords, daemon=True).start()


if __name__ == "__main__":
    from DIRAC.Core.scripts.dirac_service import main

    signal.signal(signal.SIGUSR2, _insert_pending_records)
    sys.argv[0] = "dirac-service"
    main()
