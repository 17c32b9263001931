"""Uses everything that is patched from several threads while patches go off and on, and says what went wrong.

Arguments: host and port of the database, the path of a proxy, seconds. Prints how often patches were switched, how many
rounds the threads made, and what was not as it should have been.
"""

from __future__ import annotations

import copy
import faulthandler
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from typing import Any

import forking
from DIRAC import S_ERROR
from DIRAC.Core.Security.X509Chain import X509Chain
from DIRAC.Core.Utilities import Extensions
from DIRAC.Core.Utilities.MySQL import ConnectionPool, MySQL
from DIRAC.DataManagementSystem.Utilities.DMSHelpers import DMSHelpers

Extensions.extensionsByPriority()
import dirac_perfpatch  # noqa: E402
from dirac_perfpatch import loading, toggles  # noqa: E402

host, port, proxy, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
faulthandler.dump_traceback_later(60 + seconds, exit=True)
dirac_perfpatch.status()
shipped = toggles.read(toggles.SHIPPED)
spool = tempfile.mkdtemp(prefix="perfpatch-spool-")
over = threading.Event()
rounds: list[int] = []
wrong: list[str] = []
in_tree = hasattr(ConnectionPool, "discardCurrentThreadConn")
db = MySQL(host, "dirac", "password", "flipping", port=port)
assert db._update("CREATE TABLE IF NOT EXISTS kept (who VARCHAR(20), n INT) ENGINE=InnoDB")["OK"]


def expect(what: str, holds: Any) -> None:
    if not holds:
        wrong.append(what)


def transactions(number: int) -> None:
    """A transaction that is committed, and one that a close ends: of the second nothing may be there."""
    who = f"thread {number}"
    for n in range(2):
        expect("begin", db._update("START TRANSACTION")["OK"])
        expect("insert", db._update(f"INSERT INTO kept VALUES ('{who}', {n})")["OK"])
        if n and in_tree:  # where a close() fails the next statement while the patches are off
            db._getConnection()["Value"].rollback()
        elif n:
            db._getConnection()["Value"].close()
        else:
            expect("commit", db._update("COMMIT")["OK"])
    seen = db._query(f"SELECT n FROM kept WHERE who = '{who}'")
    expect(f"rows {seen}", seen["OK"] and seen["Value"] == ((0,),))
    expect("delete", db._update(f"DELETE FROM kept WHERE who = '{who}'")["OK"])


def look_ups() -> None:
    expect("extensions", Extensions.extensionsByPriority() == ["DIRAC"])
    expect("metadata", Extensions.getExtensionMetadata("DIRAC")["priority"] == 0)
    expect("stack", "look_ups" in S_ERROR("x")["CallStack"][-1])
    chain = X509Chain()
    expect("proxy", chain.loadProxyFromFile(proxy)["OK"] and chain.isProxy()["Value"])
    expect("subject", chain.getCertInChain(0)["Value"].getSubjectDN()["OK"])


def questions(number: int) -> None:
    look_ups()
    helper = DMSHelpers(vo="fakevo")
    expect("sites", helper.getSiteSEMapping()["OK"] and helper.siteSet and helper.storageElementSet)
    # Pieces of what other threads are building, as a walk over all objects would meet them half built.
    expect("tuple", len(tuple(n for n in range(500))) == 500)


def work(number: int) -> None:
    try:
        while not over.is_set():
            (transactions if number % 2 else questions)(number)
            rounds.append(number)
    except BaseException as error:
        wrong.append(f"{type(error).__name__}: {error}")


def fork() -> None:
    child = forking.fork()
    if not child:
        faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)
        signal.alarm(20)
        before = len(wrong)
        # Not of the configuration: the host's own locks there may have been held by another thread when it forked.
        look_ups()
        expect("query", db._query("SELECT 1")["OK"])
        os._exit(len(wrong) - before)
    expect("child", os.waitpid(child, 0)[1] == 0)


def anything() -> toggles.Toggles:
    """Each patch on, off or compared in some way."""
    modes = {}
    for name, toggle in shipped.patches.items():
        by, share = random.choice(["time", "process"]), random.choice([0.1, 0.5, 0.9])
        mode = random.choice([toggles.ON, toggles.OFF, toggles.AB])
        modes[name] = toggle._replace(mode=mode, by=by, share=share, window_seconds=0.1)
    wanted = copy.copy(shipped)
    wanted.patches, wanted.spool, wanted.check_one_in = modes, spool, random.choice([0, 1, 10])
    return wanted


threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
for thread in threads:
    thread.start()
switched = forked = 0
end = time.monotonic() + seconds
while time.monotonic() < end:
    if switched % 2:
        loading.plugin.apply(anything())
    else:
        switch = random.choice(list(loading.plugin.switches.values()))
        switch.take_off()
        time.sleep(random.random() / 500)
        switch.put_on()
    switched += 1
    if switched % 50 == 0:
        fork()
        forked += 1
loading.plugin.apply(shipped)
over.set()
for thread in threads:
    thread.join()
bad = [
    entry
    for entry in dirac_perfpatch.status()
    if entry["state"] not in ("applied", "stood down") and entry["targets"][0]["state"] != "armed"
]
shutil.rmtree(spool, ignore_errors=True)
print(json.dumps([switched, forked, len(rounds), sorted(set(wrong)), bad]))
sys.stdout.flush()
os._exit(0)
