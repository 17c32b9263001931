"""Processes that begin where the imports of libraries end: forked from one that has done these, once in a session.

It has imported most of what DIRAC imports from elsewhere, and nothing that the plugin looks at or changes: a child
imports DIRAC, its configuration and the plugin as any process does. What a child has that a new interpreter has not:
those libraries, two more frames at the bottom of each stack, a ``sys.orig_argv`` of its own, and the hash seed of all
other children. Of what the interpreter reads at its start, only ``PYTHONPATH`` can be another than that of the tests.
After its threads and exit handlers a child ends at once: modules and objects are not taken apart.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from types import ModuleType

# What DIRAC imports from elsewhere that takes longest, on any release.
LIBRARIES = (
    *("M2Crypto.SSL", "MySQLdb", "authlib.integrations.sqla_oauth2", "authlib.oauth2.rfc8414", "azure.core.pipeline"),
    *("cachetools", "diracx.client.sync", "dominate", "httpx", "importlib_resources", "opensearchpy", "prompt_toolkit"),
    *("psutil", "pyasn1.codec.der.decoder", "pyasn1_modules.rfc3281", "pydantic_settings", "pyparsing", "requests"),
)
# The host; diraccfg, which is patched and reads the environment; and what the plugin imports.
NEVER = {"DIRAC", "DIRACCommon", "diraccfg", "dirac_perfpatch", "wrapt", "yaml", "ddsketch", "importlib_metadata"}
_MOST = 1 << 20  # bytes of a request
_status: list[int] = []  # of a child that has ended in order


class Zygote:
    """The process, which ends with this one. Calls wait for each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, __file__, str(theirs.fileno())]
        # Pipes, because Python's streams note whether they can seek.
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self._process = subprocess.Popen(command, cwd="/", pass_fds=[theirs.fileno()], **streams)
        theirs.close()

    def run(self, code: str, environment: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
        """As ``subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", ...)``."""
        with self._lock, ThreadPoolExecutor(2) as readers:
            (output, its_output), (errors, its_errors) = os.pipe(), os.pipe()
            request = json.dumps([code, environment]).encode()
            socket.send_fds(self._channel, [request], [its_output, its_errors])
            os.close(its_output)
            os.close(its_errors)
            pid = self._told()
            reading = [readers.submit(_read, stream) for stream in (output, errors)]
            late = wait(reading, timeout).not_done
            if late:
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
            status = self._told()
            texts = [one.result() for one in reading]
        if late:
            raise subprocess.TimeoutExpired([sys.executable, "-c", code], timeout, *texts)
        return subprocess.CompletedProcess(["-c", code], os.waitstatus_to_exitcode(status), *texts)

    def _told(self) -> int:
        answer = self._channel.recv(_MOST)
        assert answer, self._process.communicate()
        return int(answer)

    def end(self) -> None:
        self._channel.close()
        self._process.communicate()


def _read(stream: int) -> str:
    with open(stream) as file:
        return file.read()


def _forked(channel: socket.socket, path: list[str]) -> str:
    """Answer requests; return in each child, with the code that it is to run. path: what comes after PYTHONPATH."""
    while True:
        request, streams, _, _ = socket.recv_fds(channel, _MOST, 2)
        if not request:  # the tests have ended
            os._exit(0)
        child = os.fork()
        if not child:
            channel.close()
            for standard, stream in enumerate(streams, 1):
                os.dup2(stream, standard)
                os.close(stream)
            code, environment = json.loads(request)
            sys.path[:] = ["", *_path(environment), *path]
            os.environ.clear()
            os.environ.update(environment)
            return str(code)
        for stream in streams:
            os.close(stream)
        channel.send(b"%d" % child)
        channel.send(b"%d" % os.waitpid(child, 0)[1])


def _path(environment: Mapping[str, str]) -> list[str]:
    return [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]


def _import_libraries() -> None:
    for name in LIBRARIES:
        with suppress(ImportError):  # not of this release
            importlib.import_module(name)
    found = {name.partition(".")[0] for name in sys.modules} & NEVER
    assert not found, found
    assert len(os.listdir("/proc/self/task")) == 1, "a fork would lose a thread"
    gc.freeze()  # or each child would copy what it collects


def _run(code: str) -> None:
    try:
        exec(compile(code, "<string>", "exec", dont_inherit=True), _new_main())
        _status.append(0)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            _status.append(end.code or 0)
        raise


def _end() -> None:
    """End at once: to take apart what it shares with the zygote, a child would copy all of it first, for 0.1 s."""
    if _status:  # or Python is to say how it ends
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_status[0] & 0xFF)


def _new_main() -> dict[str, object]:
    main = sys.modules["__main__"] = ModuleType("__main__")
    sys.argv[:] = ["-c"]
    return vars(main)


if __name__ == "__main__":
    atexit.register(_end)  # the first one runs last
    # Before the libraries, of which an old M2Crypto has setuptools add a folder of its own.
    path = [place for place in sys.path[1:] if place not in _path(os.environ)]
    _import_libraries()
    _run(_forked(socket.socket(fileno=int(sys.argv[1])), path))
