"""Stands in for dirac-service: the same, and writes what the plugin says of itself to $STATUS_FILE at SIGUSR1."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any


def write_status(*_: Any) -> None:
    import dirac_perfpatch

    path = Path(os.environ["STATUS_FOLDER"], f"{os.getpid()}.json")
    path.with_suffix(".part").write_text(json.dumps(dirac_perfpatch.status()))
    path.with_suffix(".part").rename(path)


if __name__ == "__main__":
    from DIRAC.Core.scripts.dirac_service import main

    signal.signal(signal.SIGUSR1, write_status)
    sys.argv[0] = "dirac-service"
    main()
