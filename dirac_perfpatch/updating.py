"""Keep the plugin when DIRAC's system administrator service updates DIRAC.

``SystemAdministratorHandler.export_updateSoftware`` makes a new environment, installs DIRAC and its extensions there,
and links ``pro`` to it. The plugin is not an extension, so it would be lost. Adding it to the host's pip command would
fail the whole update whenever pip cannot find or resolve the plugin. So the host finishes first; then the running
version is installed, from where it came, into the environment that ``pro`` leads to. This precedes the answer, because
the operator's command restarts this service once it has the answer. The answer is always the host's.
"""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import distribution
from typing import Any

from dirac_perfpatch.notices import OperatorError, say_once
from dirac_perfpatch.patching import Database, Fitting, NotAsked, Patch, Switch, Target, UnknownHost

_MODULE = "DIRAC.FrameworkSystem.Service.SystemAdministratorHandler"
_METHOD = "SystemAdministratorHandler.export_updateSoftware"
_NAME = "dirac-perfpatch"

# Seconds. The host's clients wait 600 for the answer, and a slow update may have used most of them.
_CALLER_WAITS = 600
_INSTALL = 120
_CLEAN_UP = 60
_LEAST = 20

_PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input", "--no-color")
# What the host does with our entry point, unguarded. `loading` is imported because the entry point hides its failure.
_LOAD = f"""import importlib.metadata, dirac_perfpatch.loading
ours = importlib.metadata.distribution("{_NAME}")
for entry in ours.entry_points:
    if entry.group == "dirac":
        entry.load()()["priority"]
print(ours.version)
"""


def _keep(prefix: str, started: float) -> str:
    """Install the plugin into a new environment; if that fails, raise and leave none of it there.

    Args:
        prefix: The root of the environment.
        started: When the update began, as ``time.monotonic()``.

    Returns:
        What was done, for the operator.
    """
    if os.path.samefile(prefix, sys.prefix) or _metadata(prefix):
        return f"nothing to do, the plugin is in {prefix} already"
    now = time.monotonic()
    deadline = min(now + _INSTALL, started + _CALLER_WAITS - _CLEAN_UP)
    if deadline - now < _LEAST:
        raise OperatorError("the update took so long that no time is left before the caller gives up")
    version, requirement = _ourselves()
    try:
        _install(prefix, requirement, deadline)
        came = _run(prefix, ("-c", _LOAD), deadline + _CLEAN_UP / 2).strip()
        if came != version:
            raise OperatorError(f"{requirement[-1]} is now {came}, but {version} is running here")
    except BaseException:
        _remove(prefix)
        raise
    return f"installed {_NAME} {version} in {prefix}"


def _metadata(prefix: str) -> list[str]:
    """Return the folders that register our entry point in an environment."""
    name = _NAME.replace("-", "_")
    return glob.glob(os.path.join(glob.escape(prefix), "lib", "python3*", "site-packages", f"{name}-*.dist-info"))


def _ourselves() -> tuple[str, list[str]]:
    """Return the version of the running plugin, and the arguments with which pip installs it from the same source.

    The source is a file, archive, folder or commit as recorded by PEP 610, or else an index.
    """
    import json  # not at the top: few processes that import this module ever update

    ours = distribution(_NAME)
    origin = json.loads(ours.read_text("direct_url.json") or "{}")
    if not origin:
        return ours.version, [f"{_NAME}=={ours.version}"]
    url = origin["url"]
    if origin.get("dir_info", {}).get("editable"):
        return ours.version, ["--editable", url]
    if "vcs_info" in origin:
        url = f"{origin['vcs_info']['vcs']}+{url}@{origin['vcs_info']['commit_id']}"
    subdirectory = f"subdirectory={origin['subdirectory']}" if "subdirectory" in origin else ""
    fragment = "&".join(filter(None, (subdirectory, origin.get("archive_info", {}).get("hash"))))
    return ours.version, [f"{_NAME} @ {url}#{fragment}" if fragment else f"{_NAME} @ {url}"]


def _install(prefix: str, requirement: Sequence[str], deadline: float) -> None:
    installed = _run(prefix, (*_PIP, "list", "--format=freeze"), deadline)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        # Nothing installed may change; if the plugin does not fit, it is not installed.
        constraints.write(installed)
        constraints.flush()
        _run(prefix, (*_PIP, "install", "--constraint", constraints.name, *requirement), deadline)


def _remove(prefix: str) -> None:
    """Remove what a failed installation left. Never raises."""
    if _metadata(prefix):
        with contextlib.suppress(Exception):
            _run(prefix, (*_PIP, "uninstall", "--yes", _NAME), time.monotonic() + _CLEAN_UP / 2)
    # An entry point without its module stops every command there, and pip cannot uninstall half a package.
    for folder in _metadata(prefix):
        shutil.rmtree(folder, ignore_errors=True)


def _run(prefix: str, arguments: Sequence[str], deadline: float) -> str:
    """Run the Python of an environment; at the deadline, which is a ``time.monotonic()``, it is killed.

    Returns:
        Its standard output.
    """
    import signal
    import subprocess  # not at the top: see json

    # -I: our working directory and PYTHONPATH do not belong to that environment.
    command = [os.path.join(prefix, "bin", "python"), "-I", *arguments]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=max(0, deadline - time.monotonic()))
        except BaseException as error:
            # The whole session: children of pip would survive, and we would wait for them to close the pipes.
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise OperatorError("the installation took too long and was killed") from None
            raise
    if process.returncode:
        lines = errors.strip().splitlines() or [f"exit code {process.returncode}"]
        raise OperatorError(next((line for line in lines if line.startswith("ERROR")), lines[-1]))
    return output


def _look(fitting: Fitting) -> None:
    code = getattr(fitting.resolve(_METHOD), "__code__", None)
    names, constants = getattr(code, "co_names", ()), getattr(code, "co_consts", ())
    if not {"gComponentInstaller", "instancePath", "mkLink"} <= set(names) or not {"pro", "/bin/pip"} <= set(constants):
        raise UnknownHost(f"this update method is unknown, so {_NAME} cannot be kept through it")


def _put_on(fitting: Fitting) -> None:
    def update(wrapped: Any, handler: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        started = time.monotonic()
        answer = wrapped(*args, **kwargs)
        prefix = "the new installation"
        try:
            if answer["OK"] and not fitting.guard.off:
                pro = os.path.realpath(os.path.join(fitting.module.gComponentInstaller.instancePath, "pro"))
                prefix = os.path.join(pro, f"{platform.system()}-{platform.machine()}")
                say_once(f"keep_on_update: {_keep(prefix, started)}")
        except Exception as error:
            why = str(error) if isinstance(error, OperatorError) else f"{type(error).__name__}: {error}"
            say_once(f"keep_on_update: DIRAC is updated, but {prefix} is without the plugin: {why}; install it by hand")
        return answer

    fitting.wrap(_METHOD, update)


def _ask(_: Database | None) -> Any:
    raise NotAsked("an update cannot be asked")


# Armed like a patch, but not in the catalogue: it speeds up nothing and is not compared.
SWITCH = Switch(Patch("keep_on_update", (Target((_MODULE,), _METHOD, _look, _put_on),), _ask), {})
