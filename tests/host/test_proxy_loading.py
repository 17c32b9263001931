"""loadProxyFromFile: never a stale proxy, never one that may not be read, never a shared list."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import run, stock
from DIRAC.Core.Security import X509Chain as used_module
from DIRAC.Core.Security.m2crypto import X509Chain as other_module

from dirac_perfpatch.patching import without_stacks

pytestmark = pytest.mark.patched

USER = Path(used_module.__file__).parents[1] / "test" / "certs" / "user"


@pytest.fixture(scope="session")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Real proxies of the test user, all of one length, made with the host's own code."""
    folder = tmp_path_factory.mktemp("proxies")
    made: dict[int, list[bytes]] = {}
    for number in range(40):
        chain = used_module.X509Chain()
        assert chain.loadChainFromFile(str(USER / "usercert.pem"))["OK"]
        assert chain.loadKeyFromFile(str(USER / "userkey.pem"))["OK"]
        path = folder / str(number)
        assert chain.generateProxyToFile(str(path), 86400, diracGroup="fakevo_user", strength=2048)["OK"]
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


def load(path: Any) -> Any:
    chain = used_module.X509Chain()
    answer = chain.loadProxyFromFile(path)
    return chain if answer["OK"] else without_stacks(answer)


def dump(path: Any) -> Any:
    return load(path).dumpAllToString()["Value"]


def warm(path: Any) -> None:
    """Load until the answer comes from what was kept, which must happen."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if load(path)._keyObj is load(path)._keyObj:
            return
        time.sleep(0.02)
    raise AssertionError("never served from the cache")


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_a_kept_proxy_is_the_same(kind: Any, proxy: Path, proxies: list[bytes]) -> None:
    warm(kind(proxy))
    kept = load(kind(proxy))
    with stock("proxy_loading"):
        parsed = load(kind(proxy))
    assert dump(kind(proxy)) == parsed.dumpAllToString()["Value"]
    for question in ("isProxy", "isLimitedProxy", "getDIRACGroup", "getNumCertsInChain", "getIssuerCert"):
        assert _plain(getattr(kept, question)()) == _plain(getattr(parsed, question)()), question
    credentials = [chain.getCredentials()["Value"] for chain in (kept, parsed)]
    seconds_left = [one.pop("secondsLeft") for one in credentials]
    assert credentials[0] == credentials[1]
    assert abs(seconds_left[0] - seconds_left[1]) <= 2
    assert vars(kept).keys() == vars(parsed).keys()


def test_both_modules_of_the_host_keep_their_own_classes(proxy: Path) -> None:
    assert used_module.X509Chain is not other_module.X509Chain
    warm(str(proxy))
    for module in (used_module, other_module):
        for _ in range(3):
            time.sleep(0.06)
            chain = module.X509Chain()
            assert chain.loadProxyFromFile(str(proxy))["OK"]
            assert {type(certificate) for certificate in chain._certList} == {module.X509Certificate}


def _plain(answer: Any) -> Any:
    return without_stacks(answer) if isinstance(answer.get("Value"), (bool, int, str, bytes)) else answer["OK"]


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


@pytest.mark.parametrize("change", [rewrite, rewrite_with_the_same_times, rename_over, remove_and_make])
def test_a_changed_file_is_never_served_from_the_cache(change: Any, proxy: Path, proxies: list[bytes]) -> None:
    for round_ in range(6):
        warm(str(proxy))
        content = proxies[(round_ + 1) % 3]
        change(proxy, content)
        chain = load(str(proxy))
        fresh = used_module.X509Chain()
        fresh.loadProxyFromString(content.decode())
        assert chain.dumpAllToString()["Value"] == fresh.dumpAllToString()["Value"]


def test_a_file_that_changes_all_the_time_is_read_all_the_time(proxy: Path, proxies: list[bytes]) -> None:
    """Within one tick of the file system's clock a file can change without a trace in its times."""
    wanted = []
    for content in proxies:
        chain = used_module.X509Chain()
        chain.loadProxyFromString(content.decode())
        wanted.append(chain.dumpAllToString()["Value"])
    end = time.monotonic() + 1.5
    rounds = 0
    while time.monotonic() < end:
        rounds += 1
        descriptor = os.open(proxy, os.O_WRONLY)
        os.write(descriptor, proxies[rounds % 3])
        os.close(descriptor)
        assert load(str(proxy)).dumpAllToString()["Value"] == wanted[rounds % 3]
        assert load(str(proxy)).dumpAllToString()["Value"] == wanted[rounds % 3]
    assert rounds > 50


def test_links_that_are_switched(proxy: Path, proxies: list[bytes], tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.write_bytes(proxies[1])
    link = tmp_path / "link"
    link.symlink_to(proxy)
    warm(str(proxy))
    warm(str(second))
    assert dump(str(link)) == dump(str(proxy))
    link.unlink()
    link.symlink_to(second)
    assert dump(str(link)) == dump(str(second)) != dump(str(proxy))


def test_a_relative_path_after_a_change_of_folder(proxy: Path, proxies: list[bytes], monkeypatch: Any) -> None:
    other = proxy.parent / "folder"
    other.mkdir()
    (other / proxy.name).write_bytes(proxies[1])
    monkeypatch.chdir(proxy.parent)
    warm(proxy.name)
    first = dump(proxy.name)
    monkeypatch.chdir(other)
    assert dump(proxy.name) != first


def damage(kind: str, path: Path) -> Any:
    if kind == "deleted":
        path.unlink()
    elif kind == "truncated":
        os.truncate(path, 700)
    elif kind == "empty":
        os.truncate(path, 0)
    elif kind == "rubbish":
        path.write_bytes(b"\xff\x00" * 500)
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "without its key":
        text = path.read_text()
        begin, end = text.index("-----BEGIN PRIVATE"), text.index("-----END PRIVATE")
        path.write_text(text[:begin] + text[end:].partition("\n")[2])
    return path


@pytest.mark.parametrize("kind", ["deleted", "truncated", "empty", "rubbish", "folder", "without its key"])
def test_a_damaged_file_gives_the_error_of_stock(kind: str, proxy: Path) -> None:
    warm(str(proxy))
    damage(kind, proxy)
    answers = [load(str(proxy)), load(str(proxy))]
    with stock("proxy_loading"):
        wanted = load(str(proxy))
    assert isinstance(wanted, dict)
    assert answers == [wanted, wanted]


@pytest.mark.parametrize("path", [None, 3.5, "", "a\0b", "/no/such/proxy", 10**6])
def test_a_path_that_is_none_gives_the_error_of_stock(path: Any) -> None:
    answer = load(path)
    with stock("proxy_loading"):
        assert load(path) == answer


def test_a_failed_load_leaves_the_chain_as_stock_does(proxy: Path, tmp_path: Path) -> None:
    warm(str(proxy))
    certificates_only = tmp_path / "certificates"
    certificates_only.write_bytes((USER / "usercert.pem").read_bytes())

    def reload() -> Any:
        chain = load(str(proxy))
        answers = [chain.loadProxyFromFile("/no/such/proxy"), chain.loadProxyFromFile(str(certificates_only))]
        return without_stacks([*answers, chain.isProxy(), chain.getNumCertsInChain(), chain._keyObj is None])

    patched = reload()
    with stock("proxy_loading"):
        assert reload() == patched


def test_a_user_who_may_not_read_it_gets_the_error_of_stock(proxy: Path) -> None:
    """Private key and all: it was kept by a process that could, and is asked for after the rights are gone."""
    if os.geteuid() != 0:
        pytest.fail("run as root: only root can become another user")
    proxy.chmod(0o600)
    for folder in [proxy.parent, *proxy.parents][:-1]:
        folder.chmod(folder.stat().st_mode | 0o011)
    code = (
        "import json, os, time\n"
        "from DIRAC.Core.Utilities.Extensions import extensionsByPriority\n"
        "from DIRAC.Core.Security.X509Chain import X509Chain\n"
        "extensionsByPriority()\n"
        f"path = {str(proxy)!r}\n"
        "def load():\n"
        "    chain = X509Chain()\n"
        "    answer = chain.loadProxyFromFile(path)\n"
        "    return answer['OK'], answer.get('Message'), chain._keyObj is None\n"
        "answers = []\n"
        "for pause in (0, 0.1, 0.1, 0):\n"
        "    time.sleep(pause)\n"
        "    answers.append(load())\n"
        "os.seteuid(65534)\n"
        "answers.append(load())\n"
        "os.seteuid(0)\n"
        "answers.append(load())\n"
        "os.setresuid(65534, 65534, 65534)\n"
        "answers.append(load())\n"
        "print(json.dumps(answers))"
    )
    patched, unpatched = run(code), run(code, DIRAC_PERFPATCH="off")
    assert patched.stdout == unpatched.stdout, patched.stderr
    answers = json.loads(patched.stdout.splitlines()[-1])
    assert [answer[0] for answer in answers] == [True] * 4 + [False, True, False]


def test_callers_cannot_reach_each_other(proxy: Path) -> None:
    warm(str(proxy))
    wanted = dump(str(proxy))
    first = load(str(proxy))
    first._certList[0]._X509Certificate__certObj = None
    first._certList.clear()
    assert dump(str(proxy)) == wanted
    second = load(str(proxy))
    assert second._certList[0].loadFromFile(str(USER / "usercert.pem"))["OK"]
    assert dump(str(proxy)) == wanted


def test_more_proxies_than_are_remembered(tmp_path: Path) -> None:
    from dirac_perfpatch.patches.proxy_loading import _Store

    found = tmp_path.stat()
    store = _Store(limit=10)
    entries = [store.add((1, number, 0), found) for number in range(10)]
    for number, entry in enumerate(entries):
        entry.used = 100.0 + number
    entries[0].used = 200.0  # just used
    store.add((1, 10, 0), found)
    assert store.find((1, 0, 0)) is entries[0]
    assert store.find((1, 1, 0)) is None  # not used for the longest time
    assert store.find((1, 2, 0)) is entries[2]


@pytest.mark.parametrize("why", ["expired", "unused"])
def test_keys_that_nobody_needs_are_forgotten(why: str, tmp_path: Path) -> None:
    from dirac_perfpatch.patches.proxy_loading import _Parsed, _Store

    store = _Store(limit=10)
    now = time.monotonic()
    needed, other = store.add((1, 1, 0), tmp_path.stat()), store.add((1, 2, 0), tmp_path.stat())
    for entry in (needed, other):
        entry.parsed = _Parsed((), object, None, True, False, 0, expires=time.time() + 100)
    if why == "expired":
        other.parsed = _Parsed((), object, None, True, False, 0, expires=time.time() - 1)
    else:
        other.used = now - 3601
    store.sweep(now)
    assert store.find((1, 1, 0)) is needed
    assert store.find((1, 2, 0)) is None


def test_many_threads(proxies: list[bytes], tmp_path: Path) -> None:
    """Each thread gets the proxy that it asks for, whole, while files are replaced under it."""
    paths = [tmp_path / str(number) for number in range(3)]
    for path, content in zip(paths, proxies):
        shutil.copyfile(__file__, path)
        path.write_bytes(content)
    wanted = [dump(str(path)) for path in paths]
    stop, wrong = threading.Event(), []

    def read(number: int) -> None:
        while not stop.is_set():
            for offset in range(3):
                which = (number + offset) % 3
                if dump(str(paths[which])) != wanted[which]:
                    wrong.append(which)

    def replace() -> None:
        while not stop.is_set():
            for path, content in zip(paths, proxies):
                rename_over(path, content)
                time.sleep(0.08)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(6)]
    threads.append(threading.Thread(target=replace))
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
