"""Patches that go off and on all the time, under threads that use what is patched, and forks: nothing is lost."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
from pathlib import Path

import forking
import pytest
from conftest import run, script

from lab.mariadb import MariaDB

pytestmark = [pytest.mark.patched, pytest.mark.own_lines]


def test_patches_that_flip_under_threads_and_forks(proxy: Path, mariadb: MariaDB) -> None:
    mariadb.execute("CREATE DATABASE IF NOT EXISTS flipping")
    worker = Path(__file__).with_name("flipping_worker.py")
    answer = run(script(worker, mariadb.host, str(mariadb.port), str(proxy), "6"))
    assert answer.returncode == 0, answer.stderr
    switched, forked, rounds, wrong, bad = json.loads(answer.stdout.splitlines()[-1])
    assert (wrong, bad) == ([], []), answer.stderr
    assert "own code" not in answer.stderr
    assert switched > 100
    assert forked >= 2
    assert rounds > 100


def test_forks_from_four_threads(proxy: Path) -> None:
    """Each child asks what its parent was asking; none hangs and none is wrong.

    Not of the configuration: the host's own locks there may be held by another thread at a fork, also in stock.
    """
    from DIRAC.Core.Security.X509Chain import X509Chain
    from DIRAC.Core.Utilities.Extensions import extensionsByPriority
    from DIRAC.DataManagementSystem.Utilities.DMSHelpers import DMSHelpers

    ended: list[int] = []

    def ask() -> bool:
        sys.path.append("/changes/the/path")
        sys.path.pop()
        return bool(extensionsByPriority() == ["DIRAC"] and X509Chain().loadProxyFromFile(str(proxy))["OK"])

    def fork() -> None:
        for _ in range(15):
            child = forking.fork()
            if not child:
                faulthandler.register(signal.SIGALRM, file=sys.__stderr__, all_threads=True, chain=True)
                signal.alarm(20)
                os._exit(0 if ask() else 1)
            assert ask() and DMSHelpers(vo="fakevo").getSites()
            ended.append(os.waitpid(child, 0)[1])

    threads = [threading.Thread(target=fork) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == [0] * 60
