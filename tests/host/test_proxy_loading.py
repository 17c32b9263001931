"""loadProxyFromFile: never a stale proxy, never one that may not be read, never a shared list."""

from __future__ import annotations

import _strptime
import gc
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    CHANGES,
    DAMAGES,
    dump,
    in_tree,
    kept_by,
    load,
    parse,
    remove_and_make,
    rename_over,
    rewrite,
    rewrite_with_the_same_times,
    run,
    run_stock,
    stock,
    warm,
)
from DIRAC.Core.Security import X509Chain as used_module
from DIRAC.Core.Security.m2crypto import X509Chain as other_module
from DIRAC.Core.Security.m2crypto import X509Request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from M2Crypto import EVP, RSA, util

from dirac_perfpatch.patches._files import Kept
from dirac_perfpatch.patching import without_stacks

pytestmark = pytest.mark.patched

USER = Path(used_module.__file__).parents[1] / "test" / "certs" / "user"


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_a_kept_proxy_is_the_same(kind: Any, proxy: Path, proxies: list[bytes]) -> None:
    warm(kind(proxy))
    served = load(kind(proxy))
    with stock("proxy_loading"):
        parsed = load(kind(proxy))
    assert dump(kind(proxy)) == parsed.dumpAllToString()["Value"]
    for question in ("isProxy", "isLimitedProxy", "getDIRACGroup", "getNumCertsInChain", "getIssuerCert"):
        assert _plain(getattr(served, question)()) == _plain(getattr(parsed, question)()), question
    credentials = [chain.getCredentials()["Value"] for chain in (served, parsed)]
    seconds_left = [one.pop("secondsLeft") for one in credentials]
    assert credentials[0] == credentials[1]
    assert abs(seconds_left[0] - seconds_left[1]) <= 2
    assert vars(served).keys() == vars(parsed).keys()


def test_both_modules_of_the_host_keep_their_own_classes(proxy: Path) -> None:
    assert used_module.X509Chain is not other_module.X509Chain
    warm(str(proxy))
    for module in (used_module, other_module):
        for _ in range(3):
            time.sleep(0.06)
            chain = module.X509Chain()
            assert chain.loadProxyFromFile(str(proxy))["OK"]
            assert all(isinstance(certificate, module.X509Certificate) for certificate in chain._certList)


def _plain(answer: Any) -> Any:
    return without_stacks(answer) if isinstance(answer.get("Value"), (bool, int, str, bytes)) else answer["OK"]


@pytest.mark.parametrize("change", CHANGES)
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
    while time.monotonic() < end or rounds < 20:
        rounds += 1
        descriptor = os.open(proxy, os.O_WRONLY)
        os.write(descriptor, proxies[rounds % 3])
        os.close(descriptor)
        assert load(str(proxy)).dumpAllToString()["Value"] == wanted[rounds % 3]
        assert load(str(proxy)).dumpAllToString()["Value"] == wanted[rounds % 3]


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


def test_a_link_that_is_switched_while_it_is_loaded(
    proxy: Path, proxies: list[bytes], tmp_path: Path, monkeypatch: Any
) -> None:
    """To another file before it is opened, and back when it has been opened."""
    second, link = tmp_path / "second", tmp_path / "link"
    second.write_bytes(proxies[1])
    link.symlink_to(proxy)
    wanted = dump(str(proxy))

    def switching(stock_open: Any) -> Any:
        def opened(path: Any, *arguments: Any, **named: Any) -> Any:
            if path != str(link):
                return stock_open(path, *arguments, **named)
            link.unlink()
            link.symlink_to(second)
            try:
                return stock_open(path, *arguments, **named)
            finally:
                link.unlink()
                link.symlink_to(proxy)

        return opened

    with monkeypatch.context() as patched:
        patched.setattr("builtins.open", switching(open))
        patched.setattr("os.open", switching(os.open))
        for _ in range(4):
            assert dump(str(link)) != wanted
            time.sleep(0.06)
    assert dump(str(link)) == wanted


def test_a_file_that_changes_while_it_is_loaded(proxy: Path, proxies: list[bytes], monkeypatch: Any) -> None:
    """What was read before the change must not be served after it."""
    load(str(proxy))
    time.sleep(0.06)
    from_string = used_module.X509Chain.loadProxyFromString

    def changed(chain: Any, text: str) -> Any:
        monkeypatch.undo()
        proxy.write_bytes(proxies[1])
        return from_string(chain, text)

    monkeypatch.setattr(used_module.X509Chain, "loadProxyFromString", changed)
    load(str(proxy))
    for _ in range(4):
        assert dump(str(proxy)) == parse(str(proxy)).dumpAllToString()["Value"]
        time.sleep(0.06)


def test_a_relative_path_after_a_change_of_folder(proxy: Path, proxies: list[bytes], monkeypatch: Any) -> None:
    other = proxy.parent / "folder"
    other.mkdir()
    (other / proxy.name).write_bytes(proxies[1])
    monkeypatch.chdir(proxy.parent)
    warm(proxy.name)
    first = dump(proxy.name)
    monkeypatch.chdir(other)
    assert dump(proxy.name) != first


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_gives_the_error_of_stock(kind: str, proxy: Path) -> None:
    warm(str(proxy))
    DAMAGES[kind](proxy)
    answers = [load(str(proxy)), load(str(proxy))]
    with stock("proxy_loading"):
        wanted = load(str(proxy))
    assert isinstance(wanted, dict)
    assert answers == [wanted, wanted]


@pytest.mark.parametrize("path", [None, 3.5, "", "a\0b", "/no/such/proxy", 10**6])
def test_a_path_that_is_none_gives_the_error_of_stock(path: Any) -> None:
    answer = load(path)
    assert not answer["OK"]
    with stock("proxy_loading"):
        if in_tree() and path in (None, 3.5, "a\0b"):
            with pytest.raises((TypeError, ValueError)):  # of the stat() for its cache
                load(path)
        else:
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


def test_a_user_who_may_not_read_it_gets_the_error_of_stock(reachable_proxy: Path) -> None:
    """Private key and all: it was kept by a process that could, and is asked for after the rights are gone."""
    if os.geteuid() != 0:
        pytest.fail("run as root: only root can become another user")
    code = (
        "import json, os, time\n"
        "from DIRAC.Core.Utilities.Extensions import extensionsByPriority\n"
        "extensionsByPriority()\n"
        "from DIRAC.Core.Security.X509Chain import X509Chain\n"
        f"path = {str(reachable_proxy)!r}\n"
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
    patched, unpatched = run(code), run_stock(code)
    assert patched.stdout == unpatched.stdout, patched.stderr
    answers = json.loads(patched.stdout.splitlines()[-1])
    assert [answer[0] for answer in answers] == [True] * 4 + [False, True, False]


def test_a_file_system_user_who_may_not_read_it_gets_the_error_of_stock(reachable_proxy: Path) -> None:
    """setfsuid(2), which a file server in the process may use for a while: the effective user stays what it was."""
    code = (
        "import ctypes, sys, time\n"
        "from DIRAC.Core.Utilities.Extensions import extensionsByPriority\n"
        "extensionsByPriority()\n"
        "from DIRAC.Core.Security.X509Chain import X509Chain\n"
        f"load = lambda: X509Chain().loadProxyFromFile({str(reachable_proxy)!r})['OK']\n"
        "warm = [load(), time.sleep(0.2), load(), load()]\n"
        "ctypes.CDLL(None).setfsuid(65534)\n"
        "refused = load()\n"
        "ctypes.CDLL(None).setfsuid(0)\n"
        "print(warm[-1], refused, load())\n"
    )
    answers = [answer.stdout.splitlines()[-1] for answer in (run(code), run_stock(code))]
    assert answers == ["True False True"] * 2


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


def test_more_proxies_than_are_remembered() -> None:
    remembered: Kept[Any] = Kept(limit=10)
    entries = [remembered.entry(number) for number in range(10)]
    for number, entry in enumerate(entries):
        entry.used = 100.0 + number
    entries[0].used = 200.0  # just used
    remembered.entry(10)
    assert remembered.find(0) is entries[0]
    assert remembered.find(1) is None  # not used for the longest time
    assert remembered.find(2) is entries[2]


@pytest.mark.parametrize("why", ["expired", "unused"])
def test_keys_that_nobody_needs_are_forgotten(why: str) -> None:
    remembered: Kept[Any] = Kept(limit=10)
    needed, other = remembered.entry(1), remembered.entry(2)
    for entry in (needed, other):
        entry.expires = time.time() + 100
    if why == "expired":
        other.expires = time.time() - 1
    else:
        other.used = time.monotonic() - 3601
    remembered.sweep()
    assert remembered.find(1) is needed
    assert remembered.find(2) is None


def test_a_child_needs_no_lock_that_stock_does_not_need(proxy: Path) -> None:
    """A thread may hold the lock of ``strptime`` when another one forks; stock loads a proxy without it."""
    load(proxy)
    time.sleep(0.1)
    with _strptime._cache_lock:  # type: ignore[attr-defined]
        child = os.fork()
        if not child:
            signal.alarm(10)
            load(proxy)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0


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


def change_subject(chain: Any) -> None:
    chain.getCertInChain(0)["Value"].getSubjectNameObject()["Value"].CN = "somebody else"


def sign_again(chain: Any) -> None:
    key = EVP.PKey()
    key.assign_rsa(RSA.gen_key(1024, 65537, util.quiet_genparam_callback))
    assert chain.getCertInChain(0)["Value"].sign(key, "sha256")["OK"]


def change_extension(chain: Any) -> None:
    chain.getCertInChain(0)["Value"].getExtension("keyUsage")["Value"].set_critical(0)


def change_public_key(chain: Any) -> None:
    public = chain.getCertInChain(0)["Value"].getPublicKey()["Value"]
    public.assign_rsa(RSA.gen_key(1024, 65537, util.quiet_genparam_callback))


def assign_key(chain: Any) -> None:
    chain._keyObj.assign_rsa(RSA.gen_key(1024, 65537, util.quiet_genparam_callback))
    assert len(chain.dumpPKeyToString()["Value"]) < 1000


def load_certificate(chain: Any) -> None:
    assert chain.getCertInChain(0)["Value"].loadFromFile(str(USER / "usercert.pem"))["OK"]


def _all(chain: Any) -> Any:
    certificate = chain.getCertInChain(0)["Value"]
    strength = certificate.getStrength()["Value"]
    critical = certificate._X509Certificate__certObj.get_ext("keyUsage").get_critical()
    return chain.dumpAllToString()["Value"], certificate.getSubjectDN()["Value"], strength, critical, str(chain)


@pytest.mark.parametrize(
    "change", [change_subject, sign_again, change_extension, change_public_key, assign_key, load_certificate]
)
def test_what_a_caller_does_to_its_certificates_and_key(change: Any, proxy: Path) -> None:
    wanted = _all(parse(str(proxy)))
    load(str(proxy))
    time.sleep(0.06)
    change(load(str(proxy)))  # the one whose parse is kept
    assert _all(load(str(proxy))) == wanted
    alive, changed = load(str(proxy)), load(str(proxy))
    assert int(alive._keyObj.pkey) == int(changed._keyObj.pkey)
    change(changed)
    assert _all(alive) == wanted
    assert _all(load(str(proxy))) == wanted
    by_stock = parse(str(proxy))
    change(by_stock)
    if change not in (sign_again, change_public_key, assign_key):  # these make a new key every time
        assert _all(changed) == _all(by_stock)


def test_keys_of_two_chains_sign_at_once(proxy: Path) -> None:
    """M2Crypto keeps what is being signed in the key object."""
    warm(str(proxy))
    keys = [load(str(proxy))._keyObj for _ in range(2)]
    texts = [b"one", b"two"]
    for key in keys:
        key.reset_context("sha256")
        key.sign_init()
    for key, text in zip(keys, texts):
        key.sign_update(text)
    signatures = [key.sign_final() for key in keys]
    for signature, text in zip(signatures, texts):
        public = parse(str(proxy)).getCertInChain(0)["Value"].getPublicKey()["Value"]
        public.reset_context("sha256")
        public.verify_init()
        public.verify_update(text)
        assert public.verify_final(signature) == 1


@pytest.mark.own_lines
def test_threads_that_use_chains_of_one_proxy(proxy: Path) -> None:
    """They dump, sign, delegate, verify and throw away, while what is kept is dropped under them."""
    warm(str(proxy))
    wanted = _all(parse(str(proxy)))
    request = X509Request.X509Request()
    request.generateProxyRequest(bitStrength=2048)
    request_text = request.dumpRequest()["Value"]
    stop, wrong, done = threading.Event(), [], []

    def use(number: int) -> None:
        try:
            while not stop.is_set():
                chain = load(str(proxy))
                if _all(chain) != wanted:
                    wrong.append("changed")
                public = chain.getCertInChain(0)["Value"].getPublicKey()["Value"]
                issuer = chain.getCertInChain(1)["Value"].getPublicKey()["Value"]
                if not chain.getCertInChain(0)["Value"].verify(issuer)["Value"]:
                    wrong.append("not the issuer's")
                if not chain.getCredentials()["OK"] or not chain.hash()["OK"]:
                    wrong.append("no credentials")
                delegated = used_module.X509Chain()
                delegated.loadChainFromString(chain.generateChainFromRequestString(request_text)["Value"])
                del chain  # the certificate below was signed with its key
                if not delegated.getCertInChain(0)["Value"].verify(public)["Value"]:
                    wrong.append("bad signature")
                done.append(number)
        except Exception as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for _ in range(6):
            time.sleep(0.15)
            for one in kept_by("proxy_loading"):
                one.clear()
            gc.collect()
        stop.set()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
    assert set(done) == set(range(8))


@pytest.mark.parametrize("why", ["expired", "unused"])
def test_a_process_that_loads_no_more_proxies_forgets_them(why: str, proxy: Path, monkeypatch: Any) -> None:
    warm(str(proxy))
    key = weakref.ref(load(str(proxy))._keyObj._shared)
    gc.collect()
    assert key() is not None
    monotonic, wall = time.monotonic, time.time
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + (61 if why == "expired" else 3661))
    if why == "expired":
        monkeypatch.setattr(time, "time", lambda: wall() + 2 * 86400)
    gc.collect()
    assert key() is None


def test_taking_the_patch_off_forgets_the_keys(proxy: Path) -> None:
    warm(str(proxy))
    chain = load(str(proxy))
    key = weakref.ref(chain._keyObj._shared)
    with stock("proxy_loading"):
        assert key() is not None
        assert chain.dumpAllToString()["Value"] == dump(str(proxy))
        del chain
        assert key() is None


def test_no_key_in_status_or_representations(proxy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import dirac_perfpatch

    warm(str(proxy))
    chain = load(str(proxy))
    texts = [repr(dirac_perfpatch.status()), repr(chain), repr(chain._keyObj), repr(vars(chain)), str(chain)]
    modules = {"dirac_perfpatch.patches._files", "dirac_perfpatch.patches.proxy_loading"}
    ours = [known for known in gc.get_objects() if type(known).__module__ in modules]
    assert len(ours) > 2
    texts += map(repr, ours)
    texts += capsys.readouterr()
    secret = proxy.read_text().split("PRIVATE KEY-----")[1].split("\n")[1]
    assert len(secret) == 64
    assert not any(secret in text or "PRIVATE" in text for text in texts)


def test_many_threads_in_a_full_store() -> None:
    remembered: Kept[Any] = Kept(limit=5)
    wrong = []

    def fill(number: int) -> None:
        try:
            for turn in range(3000):
                remembered.entry((number, turn % 40))
                remembered.sweep()
        except Exception as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert 0 < sum(remembered.find((number, turn)) is not None for number in range(8) for turn in range(40)) <= 5


def test_rights_that_are_taken_away(reachable_proxy: Path) -> None:
    """What was served a moment ago is refused: the mode, the owner, the group, the way to the file."""
    code = (
        "import json, os, time\n"
        "from DIRAC.Core.Utilities.Extensions import extensionsByPriority\n"
        "extensionsByPriority()\n"
        "from DIRAC.Core.Security.X509Chain import X509Chain\n"
        f"path, folder = {str(reachable_proxy)!r}, {str(reachable_proxy.parent)!r}\n"
        "answers, same = [], []\n"
        "def load():\n"
        "    chain = X509Chain()\n"
        "    answer = chain.loadProxyFromFile(path)\n"
        "    answers.append((answer['OK'], answer.get('Message'), chain._keyObj is None))\n"
        "    return chain\n"
        "def as_root(function, *arguments):\n"
        "    os.seteuid(0)\n"
        "    function(*arguments)\n"
        "    os.seteuid(4242)\n"
        "def warm():\n"
        "    for _ in range(4):\n"
        "        load()\n"
        "        time.sleep(0.06)\n"
        "    first, second = load(), load()\n"
        "    same.append(int(first._keyObj.pkey) == int(second._keyObj.pkey))\n"
        "def change(function, *arguments):\n"
        "    warm()\n"
        "    as_root(function, *arguments)\n"
        "    load()\n"
        "os.chmod(folder, 0o711)\n"
        "os.chmod(path, 0o600)\n"
        "load()\n"  # what is imported at the first load, the other user could not import in every environment
        "answers.clear()\n"
        "os.setegid(4242)\n"
        "as_root(os.chown, path, 4242, 4242)\n"
        "change(os.chmod, path, 0)\n"
        "as_root(os.chmod, path, 0o600)\n"
        "change(os.chown, path, 0, 0)\n"
        "as_root(os.chown, path, 0, 4242)\n"
        "as_root(os.chmod, path, 0o640)\n"
        "change(os.setegid, 4343)\n"  # nothing about the file changes
        "as_root(os.setegid, 4242)\n"
        "change(os.chmod, folder, 0o700)\n"  # here neither
        "as_root(os.chmod, folder, 0o711)\n"
        "as_root(os.chown, path, 4242, 4242)\n"
        "change(os.chmod, folder, 0o700)\n"
        "print(json.dumps([answers, same]))"
    )
    patched, unpatched = run(code), run_stock(code)
    assert unpatched.stdout, unpatched.stderr
    answers, same = json.loads(patched.stdout.splitlines()[-1])
    assert answers == json.loads(unpatched.stdout.splitlines()[-1])[0]
    assert [answer[0] for answer in answers] == ([True] * 6 + [False]) * 5
    assert same == [True] * 5  # it was served from the cache


def test_a_file_that_is_being_written(proxy: Path, proxies: list[bytes]) -> None:
    half = len(proxies[1]) // 2
    warm(str(proxy))
    with open(proxy, "wb", buffering=0) as stream:
        for part in (proxies[1][:half], proxies[1][half:]):
            for _ in range(3):
                assert _result(load(str(proxy))) == _result(parse(str(proxy)))
                time.sleep(0.06)
            stream.write(part)
    assert dump(str(proxy)) == parse(str(proxy)).dumpAllToString()["Value"]


def _result(loaded: Any) -> Any:
    return loaded if isinstance(loaded, dict) else loaded.dumpAllToString()["Value"]


_NAMES = ("a", "b", "link", "folder/a")
_STEPS = st.one_of(
    st.tuples(st.just("write"), st.sampled_from("ab"), st.integers(0, 2)),
    st.tuples(st.just("same times"), st.sampled_from("ab"), st.integers(0, 2)),
    st.tuples(st.just("rename"), st.sampled_from("ab"), st.integers(0, 2)),
    st.tuples(st.just("make again"), st.sampled_from("ab"), st.integers(0, 2)),
    st.tuples(st.just("truncate"), st.sampled_from("ab"), st.sampled_from((0, 700, 3000))),
    st.tuples(st.just("delete"), st.sampled_from("ab"), st.none()),
    st.tuples(st.just("swap"), st.none(), st.none()),
    st.tuples(st.just("link"), st.sampled_from("ab"), st.none()),
    st.tuples(st.just("settle"), st.none(), st.none()),
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(_STEPS, min_size=3, max_size=12))
def test_whatever_is_done_to_files(steps: list[Any], proxies: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "folder").symlink_to(folder)
        (folder / "a").write_bytes(proxies[0])
        (folder / "link").symlink_to(folder / "a")
        for step in steps:
            _do(folder, proxies, *step)
            for path in _NAMES:
                assert _result(load(str(folder / path))) == _result(parse(str(folder / path)))


def _do(folder: Path, proxies: list[bytes], what: str, which: Any, value: Any) -> None:
    file = folder / str(which)
    if what == "settle":
        for _ in range(2):
            time.sleep(0.06)
            for path in _NAMES:
                load(str(folder / path))
    elif what == "link":
        (folder / "link").unlink()
        (folder / "link").symlink_to(file)
    elif what == "swap":
        for source, target in (("a", "c"), ("b", "a"), ("c", "b")):
            if (folder / source).exists():
                (folder / source).rename(folder / target)
    elif what == "rename":
        rename_over(file, proxies[value])
    elif what == "write":
        rewrite(file, proxies[value])
    elif file.exists():
        if what == "same times":
            rewrite_with_the_same_times(file, proxies[value])
        elif what == "make again":
            remove_and_make(file, proxies[value])
        elif what == "truncate":
            os.truncate(file, value)
        elif what == "delete":
            file.unlink()
