"""These tests run inside a real DIRAC's environment that has the plugin installed, once per release.

The process of the tests is itself a DIRAC process: it has a configuration of its own, and a real MariaDB that is
started by the first test that needs it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from zygote import Zygote

from lab import configuration
from lab.hosts import IN_TREE, state
from lab.mariadb import MariaDB

if TYPE_CHECKING:  # the plugin is imported by the host
    from dirac_perfpatch.patches._files import Kept

_FOLDER = Path(tempfile.mkdtemp(prefix="perfpatch-host-"))
_DATABASE = MariaDB(_FOLDER / "mariadb")
_DATABASES = ("Accounting/AccountingDB", "DataManagement/FileCatalogDB", "WorkloadManagement/PilotAgentsDB")
SITES = 30
_PATIENCE = 120
_zygote: Zygote | None = None


def _write_configuration() -> None:
    from importlib.metadata import version

    layout = configuration.Layout(
        ports={},
        database_names={name: name.split("/")[1] for name in _DATABASES},
        database_host=_DATABASE.host,
        database_port=_DATABASE.port,
        database_user=_DATABASE.user,
        database_password=_DATABASE.password,
        certificates=_FOLDER,
        levels=version("DIRAC").startswith("8."),
        sites=SITES,
        users=1,
    )
    tree = configuration.published(layout)
    common: configuration.Section = {"Security": {"SkipCAChecks": "yes"}}
    if layout.levels:
        systems = dict.fromkeys((name.split("/")[0] for name in _DATABASES), configuration.INSTANCE)
        common.update({"Setup": configuration.SETUP, "Setups": {configuration.SETUP: systems}})
    tree["DIRAC"] = common
    server = {"User": _DATABASE.user, "Password": _DATABASE.password, "Host": _DATABASE.host}
    configuration.put(tree, ["Systems", "Databases"], {**server, "Port": str(_DATABASE.port)})
    (_FOLDER / "etc").mkdir()
    (_FOLDER / "etc" / "dirac.cfg").write_text(configuration.text(tree))


def pytest_configure() -> None:
    _write_configuration()
    os.environ.update(
        DIRAC_ROOT_PATH=str(_FOLDER), DIRACSYSCONFIG=str(_FOLDER / "etc" / "dirac.cfg"), X509_CERT_DIR=str(_FOLDER)
    )
    for variable in ("DIRAC_PERFPATCH", "DIRAC_PERFPATCH_CONFIG"):
        os.environ.pop(variable, None)
    from DIRAC.Core.Utilities.Extensions import extensionsByPriority

    extensionsByPriority()
    import dirac_perfpatch

    # Wakes the patches that no module of the host has woken yet, so that a test can take each one off.
    dirac_perfpatch.status()


def pytest_unconfigure() -> None:
    if _zygote:
        _zygote.end()
    shutil.rmtree(_FOLDER, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Not skipped but not asked for: on a host that has the change in-tree there is no patch to exercise.
    items[:] = [item for item in items if _is_for_this_host(item.get_closest_marker("patched"))]
    if other := os.environ.get("PERFPATCH_SAME_FILES"):
        items[:] = [item for item in items if not _has_the_files_of(Path(other), item.path.stem)]


def _has_the_files_of(other: Path, test_module: str) -> bool:
    """Whether a module of tests is about one patch, and another host has the same files, byte for byte, of its targets.

    other: that host's site-packages.
    """
    import DIRAC

    from dirac_perfpatch.patches import WAITED_FOR

    modules = WAITED_FOR.get(test_module.partition("_")[2])
    here = Path(DIRAC.__file__).parents[1]
    return modules is not None and all(_source(here, name) == _source(other, name) for name in modules)


def _source(site_packages: Path, module: str) -> bytes | None:
    path = site_packages.joinpath(*module.split(".")).with_suffix(".py")
    return path.read_bytes() if path.exists() else None


def _is_for_this_host(patched: pytest.Mark | None) -> bool:
    return patched is None or not patched.args or state(release(), *patched.args) == "applied"


def release() -> str:
    import DIRAC

    return str(DIRAC.version)


def in_tree() -> bool:
    return release() == IN_TREE


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    import DIRAC

    with _DATABASE as database:
        for name in _DATABASES:
            system, short = name.split("/")
            sql = Path(DIRAC.__file__).parent / f"{system}System" / "DB" / f"{short}.sql"
            lines = [line for line in sql.read_text().splitlines() if not line.lower().startswith("use ")]
            database.execute(f"CREATE DATABASE {short}")
            database.execute("\n".join(lines), short)
        yield database


@pytest.fixture(autouse=True)
def every_patch_on() -> Iterator[None]:
    """Whatever a test does to a patch, the next one finds it on and untripped."""
    from dirac_perfpatch import loading

    yield
    for switch in loading.plugin.switches.values():
        switch.guard.begin_anew()
        switch._tripped = ""
        switch.put_on()


@contextlib.contextmanager
def stock(*names: str) -> Iterator[None]:
    """Take patches off for a while; all of them if none is named."""
    from dirac_perfpatch import loading

    switches = [loading.plugin.switches[name] for name in names or loading.plugin.switches]
    for switch in switches:
        switch.take_off()
    try:
        yield
    finally:
        for switch in switches:
            switch.put_on()


@contextlib.contextmanager
def forced(*names: str) -> Iterator[None]:
    """What these patches are put on within changes unknown code, too, as with ``force: true``."""
    from dirac_perfpatch import loading

    switches = [loading.plugin.switches[name] for name in names]
    for switch in switches:
        switch.configure(switch._options, forced=True)
    try:
        yield
    finally:
        for switch in switches:
            switch.configure(switch._options)


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, with this host and no toggles but those in the environment given.

    It is forked from a process that has imported libraries, to take less time: see zygote.py for what differs.

    Args:
        code: Python.
        environment: What to add to ours; PYTHONPATH, but no other variable that Python reads when it starts.
    """
    global _zygote
    _zygote = _zygote or Zygote()
    return _zygote.run(code, {**os.environ, **environment}, _PATIENCE)


def run_fresh(code: str, *through: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """As run(), in a new interpreter: for tests of a start, of imports, and of what is in ``sys.modules``.

    Args:
        code: Python.
        through: A command that runs the command that follows it.
        environment: What to add to ours.
    """
    return subprocess.run(
        [*through, sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE,
        cwd="/",
    )


def script(path: Path, *arguments: str) -> str:
    """The code that runs a file of Python as ``python path arguments`` does."""
    return (
        f"import runpy, sys\nsys.argv[:], sys.path[0] = {[str(path), *arguments]!r}, {str(path.parent)!r}\n"
        f"runpy.run_path({str(path)!r}, run_name='__main__')"
    )


def run_stock(code: str) -> subprocess.CompletedProcess[str]:
    """Run code without the plugin, and without the cache of proxies that the host has from 9.1.9 on."""
    names = "import collections, DIRAC.Core.Security.X509Chain as module\n"
    empty = "type('Empty', (collections.OrderedDict,), {'__setitem__': lambda *args: None})()"
    return run(f"{names}module._PROXY_LOAD_CACHE = {empty}\n{code}", DIRAC_PERFPATCH="off")


def make_proxy(path: Path, group: str = "fakevo_user", bits: int = 2048) -> None:
    """A real proxy of the test user, made with the host's own code."""
    from DIRAC.Core.Security import X509Chain as module

    user = Path(module.__file__).parents[1] / "test" / "certs" / "user"
    chain = module.X509Chain()
    assert chain.loadChainFromFile(str(user / "usercert.pem"))["OK"]
    assert chain.loadKeyFromFile(str(user / "userkey.pem"))["OK"]
    assert chain.generateProxyToFile(str(path), 86400, diracGroup=group, strength=bits)["OK"]


@pytest.fixture(scope="session")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Real proxies, all of one length."""
    folder = tmp_path_factory.mktemp("proxies")
    made: dict[int, list[bytes]] = {}
    for number in range(40):
        path = folder / str(number)
        make_proxy(path)
        same_length = made.setdefault(path.stat().st_size, [])
        same_length.append(path.read_bytes())
        if len(same_length) == 3:
            return same_length
    raise AssertionError("no three proxies of one length")


@pytest.fixture
def proxy(tmp_path: Path, proxies: list[bytes]) -> Path:
    path = tmp_path / "proxy"
    path.write_bytes(proxies[0])
    path.chmod(0o600)
    return path


@pytest.fixture
def reachable_proxy(proxies: list[bytes]) -> Iterator[Path]:
    """In a folder that every user may pass through, which pytest's are not for long when two of it run."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o711)
        path = Path(name) / "proxy"
        path.write_bytes(proxies[0])
        path.chmod(0o600)
        yield path


def load(path: Any) -> Any:
    """The chain that is loaded from there, or the answer if it is none."""
    from DIRAC.Core.Security.X509Chain import X509Chain

    chain = X509Chain()
    return _loaded(chain, chain.loadProxyFromFile(path))


def parse(path: Any) -> Any:
    """What the host's own function makes of it now, while the patch stays on and keeps what it has."""
    from DIRAC.Core.Security.X509Chain import X509Chain

    chain = X509Chain()
    vars(sys.modules[X509Chain.__module__]).get("_PROXY_LOAD_CACHE", {}).clear()  # from 9.1.9 on
    return _loaded(chain, X509Chain.loadProxyFromFile.__wrapped__(chain, path))


def _loaded(chain: Any, answer: Any) -> Any:
    from dirac_perfpatch.patching import without_stacks

    return chain if answer["OK"] else without_stacks(answer)


def dump(path: Any) -> Any:
    return load(path).dumpAllToString()["Value"]


def served_from_the_cache(path: Any) -> bool:
    """Two parses make two keys of OpenSSL's; the chains are held, or the second could get the place of the first."""
    first, second = load(path), load(path)
    return int(first._keyObj.pkey) == int(second._keyObj.pkey)


def warm(path: Any) -> None:
    """Load until the answer comes from what was kept, which must happen."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if served_from_the_cache(path):
            return
        time.sleep(0.02)
    raise AssertionError("never served from the cache")


def rewrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def rewrite_with_the_same_times(path: Path, content: bytes) -> None:
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def rename_over(path: Path, content: bytes) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.chmod(0o600)
    os.replace(fresh, path)


def remove_and_make(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)  # most file systems give the same inode again


# Each gives a file other content.
CHANGES = [rewrite, rewrite_with_the_same_times, rename_over, remove_and_make]


def without_key(proxy: bytes) -> bytes:
    before, _, rest = proxy.partition(b"-----BEGIN PRIVATE KEY-----")
    return before + rest.partition(b"-----END PRIVATE KEY-----\n")[2]


# Each makes a proxy file useless.
DAMAGES: dict[str, Callable[[Path], Any]] = {
    "removed": lambda path: path.unlink(),
    "truncated": lambda path: os.truncate(path, 700),
    "empty": lambda path: os.truncate(path, 0),
    "rubbish": lambda path: path.write_bytes(b"\xff\x00" * 500),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "without its key": lambda path: path.write_bytes(without_key(path.read_bytes())),
}


def kept_by(patch: str) -> list[Kept[Any]]:
    """What a patch keeps of files, in the order of its targets."""
    from dirac_perfpatch import loading

    fittings = [fitting for target in loading.plugin.switches[patch]._targets for fitting in target.fittings]
    hooks = [undo.args[0] for fitting in fittings for undo in fitting.undoing if isinstance(undo, partial)]
    return [hook.__self__ for hook in hooks if hook in gc.callbacks]


def mapping(vo: Any = "fakevo") -> Any:
    """The map of sites and storage elements of a new helper."""
    from DIRAC.DataManagementSystem.Utilities.DMSHelpers import DMSHelpers

    answer = DMSHelpers(vo=vo).getSiteSEMapping()
    assert answer["OK"], answer
    return answer["Value"]


def vo_option(vo: str, option: str) -> str:
    """Where an option of a VO is. 8.0 has a level for the setup in the VO's section."""
    return f"/Operations/{vo}/{'Defaults/' if release().startswith('8.') else ''}{option}"


@contextlib.contextmanager
def changed(path: str, value: str) -> Iterator[None]:
    """An option set in this process only, without a new version."""
    from DIRAC import gConfig
    from DIRAC.ConfigurationSystem.Client.ConfigurationData import gConfigurationData

    before = gConfig.getValue(path)
    names = path.strip("/").split("/")
    above = ["/".join(names[: depth + 1]) for depth in range(len(names))]
    # With the sections that it needs and that are not there yet.
    tree = gConfigurationData.mergedCFG
    new = next((place for place in above if not tree.isSection(place) and not tree.isOption(place)), path)
    gConfigurationData.setOptionInCFG(path, value)
    try:
        yield
    finally:
        if before is None:
            gConfigurationData.deleteOptionInCFG(new)
        else:
            gConfigurationData.setOptionInCFG(path, before)
