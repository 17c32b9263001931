"""What a client does, in the host's Python."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from lab import clients


def work(tag: str, seconds: float) -> dict[str, Any]:
    """Make rounds of requests to the catalogue and the accounting for this many seconds.

    tag: of the directories that are written. Returns: the number of requests, and failures, counted by their message.
    """
    requests, failures = 0, Counter[str]()
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for name, entry in clients.work(1, f"{tag}/{number}").items():
            requests += entry["count"]
            failures.update(f"{name}: {failure}"[:200] for failure in entry["failures"])
        number += 1
    return {"requests": requests, "failures": failures}
