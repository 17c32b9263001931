"""Makes a call under the patches, and interrupts it once at every line of ours.

Arguments: the interruption (signal, fork or exception), the name of the call, then what the call needs. A signal
handler makes the same call, or raises, and then its thread makes the call once more; a child of a fork makes the call
that a thread of its parent is in the middle of. Prints the number of lines, or the stacks if it hangs, or what our code
imports in the call.
"""

from __future__ import annotations

import builtins
import faulthandler
import gc
import importlib
import itertools
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diraccfg.cfg
from DIRAC.Core.Utilities.Extensions import extensionsByPriority, getExtensionMetadata

extensionsByPriority()
import dirac_perfpatch  # noqa: E402
from dirac_perfpatch import loading  # noqa: E402
from dirac_perfpatch.patches import _files  # noqa: E402
from dirac_perfpatch.patches.proxy_loading import test_proxy  # noqa: E402
from lab.configuration import HOST_DN  # noqa: E402

# What lazy_imports leaves for the first call that needs it, it imports before a fork.
importlib.import_module("DIRAC.Core.Security.m2crypto.asn1_utils")

PACKAGE = str(Path(dirac_perfpatch.__file__).parent)
START = dirac_perfpatch.__file__  # which the host calls when it looks for extensions: the rest is imported there
LIBRARY = str(Path(os.__file__).parent)
# Seconds for all, and for one child.
PATIENCE, CHILD_PATIENCE = 90, 15
_number = itertools.count()


def _among_few_packages() -> None:
    """From now on, a look-up scans two packages: with all those of a host, most of the time would go into that."""
    folder = tempfile.mkdtemp(prefix="perfpatch-")
    for name in ("DIRAC", "dirac-perfpatch"):
        (metadata,) = (file.locate() for file in distribution(name).files or () if file.name == "METADATA")
        os.symlink(os.path.dirname(metadata), os.path.join(folder, os.path.basename(os.path.dirname(metadata))))
    sys.path[:] = [folder]


def _extensions() -> Callable[[], None]:
    _among_few_packages()

    def look_up() -> None:
        # Another path each time, so that no look-up is cached.
        sys.path.append(f"/a/folder/that/changes/the/path/{next(_number)}")
        assert extensionsByPriority() == ["DIRAC"]
        assert getExtensionMetadata("DIRAC")["priority"] == 0

    return look_up


def _proxy(path: str) -> Callable[[], None]:
    from DIRAC.Core.Security.X509Chain import X509Chain

    folder = tempfile.mkdtemp(prefix="perfpatch-")

    def load() -> None:
        fresh = os.path.join(folder, str(next(_number)))
        shutil.copyfile(path, fresh)
        os.utime(fresh, (0, 0))
        for place in (fresh, path):
            assert X509Chain().loadProxyFromFile(place)["OK"]
        gc.collect()

    _put_on_anew("proxy_loading", max_proxies=2)
    return load


def _subject(path: str) -> Callable[[], None]:
    from DIRAC.Core.Security.X509Chain import X509Chain

    def subject(chain: Any = None) -> None:
        chain = X509Chain()
        assert chain.loadProxyFromFile(path)["OK"]
        assert chain.getCertInChain(0)["Value"].getSubjectNameObject()["OK"]

    threading.Event().wait(0.1)
    subject()
    subject()
    return subject


def _error() -> Callable[[], None]:
    from DIRAC import S_ERROR

    _put_on_anew("error_stack", recheck_seconds=0)
    return lambda: eval('S_ERROR("x")', {"S_ERROR": S_ERROR})


def _sites() -> Callable[[], None]:
    from DIRAC.ConfigurationSystem.Client.ConfigurationData import gConfigurationData
    from DIRAC.DataManagementSystem.Utilities.DMSHelpers import DMSHelpers

    def sites() -> None:
        gConfigurationData.setOptionInCFG("/Changed", str(next(_number)))
        assert DMSHelpers(vo="fakevo").getSites()

    return sites


def _registry() -> Callable[[], None]:
    from DIRAC.ConfigurationSystem.Client.ConfigurationData import gConfigurationData
    from DIRAC.ConfigurationSystem.Client.Helpers.Registry import getHostnameForDN

    def host() -> None:
        gConfigurationData.setOptionInCFG("/Changed", str(next(_number)))
        assert getHostnameForDN(HOST_DN)["Value"] == "localhost"

    return host


def _certificate() -> Callable[[], None]:
    from DIRAC.Core.Security.m2crypto import asn1_utils
    from DIRAC.Core.Security.X509Chain import X509Chain

    chain = X509Chain()
    assert chain.loadProxyFromFile(test_proxy())["OK"]
    der = chain.getCertInChain(0)["Value"]._X509Certificate__certObj.as_der()

    def decode() -> None:
        # What follows the certificate is not looked at, but makes it another one.
        fresh = der + str(next(_number)).encode()
        assert asn1_utils.decodeVOMSExtension(SimpleNamespace(as_der=lambda: fresh))["vo"] == "fakevo"

    return decode


def _clients(path: str) -> Callable[[], None]:
    """What a client of either kind makes before it connects."""
    import ssl

    from DIRAC.Core.DISET.private.Transports import M2SSLTransport, SSLTransport
    from DIRAC.Core.Tornado.Client.private.TornadoBaseClient import _create_session

    certificates = Path(test_proxy()).parents[1]
    folder = tempfile.mkdtemp(prefix="perfpatch-")
    cas = os.path.join(folder, "cas")
    os.mkdir(cas)
    ca = shutil.copyfile(certificates / "ca" / "ca.cert.pem", os.path.join(cas, "01234567.0"))
    host = {
        f"DIRAC_X509_HOST_{name.upper()}": str(certificates / "host" / f"host{name}.pem") for name in ("cert", "key")
    }
    os.environ.update(X509_CERT_DIR=cas, SSL_CERT_FILE=ca, SSL_CERT_DIR=os.path.join(folder, "none"), **host)

    fresh: list[str] = []  # the proxies of the calls in progress: an interruption asks for the one that is being loaded

    def make() -> None:
        fresh.append(fresh[-1] if fresh else shutil.copyfile(path, os.path.join(folder, str(next(_number)))))
        try:
            for kwargs in ({"useCertificates": True}, {"proxyLocation": fresh[-1]}):
                assert SSLTransport.checkSanity(("localhost", 1), kwargs)["OK"]
            assert M2SSLTransport.getM2SSLContext(**kwargs).get_verify_depth()
            context = _create_session(verified=False)["Value"].get_adapter("https://").ssl_context
            # As urllib3 does it.
            context.load_verify_locations(None, cas)
            context.load_cert_chain(fresh[-1])
            context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost")
        finally:
            fresh.pop()

    # What is made from files is kept at once, or each call would take 0.1 s.
    _files.TICK = _files.COARSE_TICK = -1.0
    return make


def _pool(host: str, port: str) -> Callable[[], None]:
    from DIRAC.Core.Utilities.MySQL import MySQL

    db = MySQL(host, "dirac", "password", "mysql", port=int(port))

    def use() -> None:
        assert db._query("SELECT 1")["OK"]
        db._getConnection()["Value"].close()
        assert db._query("SELECT 1")["OK"]
        assert not db._query("nonsense")["OK"]

    return use


def _recorded(host: str, port: str) -> Callable[[], None]:
    from serving import serve

    from dirac_perfpatch.comparison.clock import Window
    from dirac_perfpatch.comparison.outcomes import Outcomes
    from dirac_perfpatch.patches import load
    from dirac_perfpatch.patching import Switch

    outcomes = Outcomes()
    outcomes.windows = (Window(0, 0.0, False, {}),)
    Switch(load("_outcomes"), {"outcomes": outcomes}).put_on()
    use = _pool(host, port)

    def ask() -> None:
        assert serve(("RPC", "echo"), "x")["OK"]
        use()

    return ask


def _status() -> Callable[[], None]:
    return lambda: None if dirac_perfpatch.status() else sys.exit("no status")


def _switching() -> Callable[[], None]:
    switch = loading.plugin.switches["extension_lookup"]
    _among_few_packages()

    def off_and_on() -> None:
        switch.take_off()
        switch.put_on()
        switch.guard.note("events")
        switch.guard.begin_anew()  # or it would trip
        switch.guard.failed(RuntimeError())
        assert extensionsByPriority() == ["DIRAC"]

    return off_and_on


def _put_on_anew(name: str, **options: Any) -> None:
    dirac_perfpatch.status()
    switch = loading.plugin.switches[name]
    switch.take_off()
    switch.configure(options)
    switch.put_on()


DONE = {
    "extensions": _extensions,
    "proxy": _proxy,
    "subject": _subject,
    "error": _error,
    "sites": _sites,
    "registry": _registry,
    "certificate": _certificate,
    "clients": _clients,
    "pool": _pool,
    "recorded": _recorded,
    "status": _status,
    "switching": _switching,
}


def _at_every_line(
    ask: Callable[[], None],
    meet: Callable[[], None],
    seen: set[tuple[str, int]] | None = None,
    passed_over: Callable[[], bool] = lambda: False,
) -> int:
    """Make a call, interrupt it once at each line of ours that is new, and return the number of lines."""
    seen = set() if seen is None else seen
    meeting = False

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal meeting
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        line = (frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and line not in seen and not meeting and not passed_over():
            seen.add(line)
            meeting = True
            try:
                meet()
            finally:
                meeting = False
        return trace

    for _ in range(2):  # with warm caches, it takes another path
        sys.settrace(trace)
        try:
            ask()
        finally:
            sys.settrace(None)
    return len(seen)


def _signalled(ask: Callable[[], None]) -> int:
    signal.signal(signal.SIGUSR1, lambda *_: ask())
    return _at_every_line(ask, lambda: signal.raise_signal(signal.SIGUSR1))


def _holds_the_lock_of_trees() -> bool:
    """Whether this thread holds the lock with which diraccfg changes trees: a child waits for it for ever in stock."""
    return bool(diraccfg.cfg.gCFGSynchro.lock._is_owned())


def _forked(ask: Callable[[], None]) -> int:
    """The main thread forks while another one is in the middle of the call, and the child makes the call."""
    reached, go_on = threading.Semaphore(0), threading.Semaphore(0)
    lines: list[int] = []

    def meet() -> None:
        reached.release()
        go_on.acquire()

    def run() -> None:
        try:
            lines.append(_at_every_line(ask, meet, passed_over=_holds_the_lock_of_trees))
        finally:
            reached.release()

    thread = threading.Thread(target=run)
    thread.start()
    while reached.acquire() and thread.is_alive() and not lines:
        child = os.fork()
        if not child:
            faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)
            signal.alarm(CHILD_PATIENCE)
            ask()
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status:
            sys.stderr.write(f"a child ended with {status}\n")
            faulthandler.dump_traceback()
            os._exit(1)
        go_on.release()
    return lines[0]


class _Watch:
    """Stands in for what imports, and notes what our code imports, itself or through the standard library.

    Another thread may be in the middle of that import at a fork. Then the child waits for it for ever.
    """

    def __init__(self) -> None:
        self.found: list[str] = []
        self._import, self._import_module = builtins.__import__, importlib.import_module
        builtins.__import__, importlib.import_module = self._note, self._note_module

    def _note(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self._look(name, sys._getframe(1))
        return self._import(name, *args, **kwargs)

    def _note_module(self, name: str, *args: Any) -> Any:
        self._look(name, sys._getframe(1))
        return self._import_module(name, *args)

    def _look(self, name: str, frame: Any) -> None:
        files, ours = [], {_Watch._note.__code__, _Watch._note_module.__code__}
        while frame is not None:
            files.append(frame.f_code.co_filename if frame.f_code not in ours else "")
            frame = frame.f_back
        importer = files[0]
        for_whom = next((file for file in files if not file.startswith(LIBRARY)), "")
        is_new = importer.startswith(PACKAGE) or name not in sys.modules  # nothing locks a module that is there
        # Our background thread may import.
        if is_new and for_whom.startswith(PACKAGE) and importer != START and __file__ in files:
            self.found.append(f"{name} is imported in {importer} for {for_whom}")


class _Raised(BaseException):
    """Like KeyboardInterrupt, or the exception of a handler of SIGTERM."""


def _broken_off(ask: Callable[[], None]) -> int:
    """Raise at each line, and make the call again from the beginning."""

    def meet() -> None:
        raise _Raised

    seen: set[tuple[str, int]] = set()
    raised = True
    while raised:
        raised = False
        try:
            _at_every_line(ask, meet, seen)
        except _Raised:
            raised = True
        ask()
    return len(seen)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    what, name, *arguments = sys.argv[1:]
    ask = DONE[name](*arguments)
    # Our hook of the collector must not run while the thread holds one of the host's locks: stock would hang, too.
    gc.disable()
    gc.freeze()  # _proxy() collects what its calls leave, not the host
    # Those are no calls of the host's. Where an exception is ignored, Python itself imports in our place.
    watch = None if name in ("status", "switching") or what == "exception" else _Watch()
    ask()
    print({"signal": _signalled, "fork": _forked, "exception": _broken_off}[what](ask))
    sys.stdout.flush()
    if watch is not None and watch.found:
        sys.exit("\n".join(watch.found))
    os._exit(0)
