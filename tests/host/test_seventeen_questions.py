"""The seventeen questions that caches in the place of these functions are wont to fail.

They were put to a host that has caches in-tree, which fails half of them. docs/seventeen-questions.md has the table,
with the line of the plugin that each answer hangs on.

1. A caller that changes the returned extension list changes it for nobody.
2. A caller that changes returned extension metadata changes it for nobody.
3. The call stack of a deep recursion is collapsed as stock does.
4. A proxy rewritten with the same size, inode and time of change is served fresh.
5. A proxy that this user may no longer read does not load.
6. After seteuid, the first user's key is not served.
7. DMSHelpers() without a VO follows the proxy in use.
8. A caller that changes the returned site-to-SE mapping changes it for nobody.
9. Threads that use DMSHelpers while the configuration is refreshed never see a half-built object.
10. Of 64 proxies in turn each is right and stays parsed.
11. A proxy that is replaced by rename is served fresh.
12. So is the one that a link is switched to.
13. A proxy that is deleted or truncated gives the answer of stock.
14. A caller that changes a chain's list of certificates, or signs, reaches no other chain.
15. An edited source shows in the call stack within recheck_seconds.
16. A configuration changed locally is seen by the next DMSHelpers.
17. Two VOs, and a subclass, have maps of their own.
"""

from __future__ import annotations

import copy
import json
import os
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    SITES,
    changed,
    dump,
    in_tree,
    load,
    make_proxy,
    mapping,
    parse,
    rename_over,
    rewrite_with_the_same_times,
    run,
    run_stock,
    stock,
    vo_option,
    warm,
)
from DIRAC import S_ERROR, gConfig
from DIRAC.ConfigurationSystem.Client.ConfigurationData import gConfigurationData
from DIRAC.Core.Security.X509Chain import X509Chain
from DIRAC.Core.Utilities.Extensions import extensionsByPriority, getExtensionMetadata
from DIRAC.DataManagementSystem.Utilities.DMSHelpers import LOCAL, PROTOCOL, DMSHelpers
from M2Crypto import EVP, RSA, util

pytestmark = pytest.mark.patched

SITE_ELEMENTS = "/Resources/Sites/LCG/LCG.Site000.ch/SE"
# In a process of its own: only root can become another user, and not every module can be imported after that.
AS_OTHER_USERS = """
import json, os, sys, time
from DIRAC.Core.Utilities.Extensions import extensionsByPriority
extensionsByPriority()
from DIRAC.Core.Security.X509Chain import X509Chain
answers = []
def load():
    chain = X509Chain()
    answer = chain.loadProxyFromFile(path)
    answers.append((answer["OK"], answer.get("Message"), chain._keyObj is None))
def warm():
    for _ in range(4):
        load()
        time.sleep(0.06)
def as_root(function, *arguments):
    user = os.geteuid()
    os.seteuid(0)
    function(*arguments)
    os.seteuid(user)
"""


def loaded_as_other_users(code: str, path: Path) -> list[bool]:
    """Whether each load in this code succeeded, which stock must say as well."""
    code = f"path = {str(path)!r}\n{AS_OTHER_USERS}{code}\nprint(json.dumps(answers))"
    patched, unpatched = run(code), run_stock(code)
    assert unpatched.returncode == 0, unpatched.stderr
    answers = json.loads(patched.stdout.splitlines()[-1])
    assert answers == json.loads(unpatched.stdout.splitlines()[-1])
    return [answer[0] for answer in answers]


def twins(one: Path, other: Path, proxies: list[bytes]) -> None:
    """Two proxies of one size and of the same times, to the nanosecond, as files written within one tick have."""
    for path in (one, other):
        path.parent.mkdir(exist_ok=True)
    files = [os.open(path, os.O_CREAT | os.O_WRONLY, 0o600) for path in (one, other)]
    try:
        for _ in range(100):
            # Twice: newer kernels give each file a time of its own if its last one has been asked for, but only once.
            for file, content in zip(files * 2, proxies[:2] * 2):
                os.pwrite(file, content, 0)
            first, second = map(os.fstat, files)
            if (first.st_mtime_ns, first.st_ctime_ns) == (second.st_mtime_ns, second.st_ctime_ns):
                return
    finally:
        for file in files:
            os.close(file)
    raise AssertionError("never written within one tick")


def test_01_a_changed_extension_list() -> None:
    extensionsByPriority().append("MineDIRAC")
    patched = extensionsByPriority()
    with stock("extension_lookup"):
        assert patched == extensionsByPriority() == ["DIRAC"]


def test_02_changed_extension_metadata() -> None:
    wanted = copy.deepcopy(getExtensionMetadata("DIRAC"))
    getExtensionMetadata("DIRAC")["setups"].clear()
    getExtensionMetadata("DIRAC")["priority"] = 7
    patched = getExtensionMetadata("DIRAC")
    with stock("extension_lookup"):
        assert patched == getExtensionMetadata("DIRAC") == wanted


def test_03_the_call_stack_of_a_recursion() -> None:
    def nested(depth: int) -> tuple[list[str], list[str]]:
        return nested(depth - 1) if depth else (S_ERROR("x")["CallStack"], traceback.format_stack())

    stack, by_the_standard_library = nested(30)
    assert stack == by_the_standard_library
    assert "  [Previous line repeated 28 more times]\n" in stack


def test_04_a_proxy_rewritten_without_a_trace_in_size_inode_and_mtime(proxy: Path, proxies: list[bytes]) -> None:
    warm(str(proxy))
    before, was = proxy.stat(), dump(str(proxy))
    rewrite_with_the_same_times(proxy, proxies[1])
    after = proxy.stat()
    assert [before.st_size, before.st_ino, before.st_mtime_ns] == [after.st_size, after.st_ino, after.st_mtime_ns]
    assert was != dump(str(proxy)) == parse(str(proxy)).dumpAllToString()["Value"]


@pytest.mark.parametrize(
    ("owner", "taken_away"), [(4242, "as_root(os.chmod, path, 0)"), (0, "as_root(os.setegid, 4343)")]
)
def test_05_a_proxy_that_may_no_longer_be_read(owner: int, taken_away: str, reachable_proxy: Path) -> None:
    code = f"""
load()
os.chown(path, {owner}, 4242)
os.chmod(path, 0o640)
os.setegid(4242)
os.seteuid(4242)
warm()
{taken_away}
load()"""
    assert loaded_as_other_users(code, reachable_proxy) == [True] * 5 + [False]


def test_06_the_first_users_key_after_seteuid(reachable_proxy: Path) -> None:
    code = "warm(); os.seteuid(4242); load(); os.seteuid(0); load()"
    assert loaded_as_other_users(code, reachable_proxy) == [True] * 4 + [False, True]


def test_07_no_vo_means_that_of_the_proxy_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vos = ("lhcb", "ilc")  # in no other test: the host remembers a VO's options until there is a new version
    for vo in vos:
        make_proxy(tmp_path / vo, group=f"{vo}_user")
    users = [changed(f"/Registry/Groups/{vo}_user/VO", vo) for vo in vos]
    maps = [changed(vo_option(vo, "SiteSEMappingByProtocol/LCG.Site005.ch"), f"{vo}-disk") for vo in vos]
    elements = [changed(f"/Resources/StorageElements/{vo}-disk/BackendType", "Test") for vo in vos]

    def asked() -> Any:
        answers = []
        for vo in vos * 2:
            monkeypatch.setenv("X509_USER_PROXY", str(tmp_path / vo))
            answers.append(DMSHelpers().getSiteSEMapping()["Value"][PROTOCOL].get("LCG.Site005.ch"))
        return answers

    with users[0], users[1], elements[0], elements[1], maps[0], maps[1]:
        patched = asked()
        assert patched == [{"lhcb-disk"}, {"ilc-disk"}] * 2
        with stock("dms_helpers"):
            assert in_tree() or patched == asked()


def test_08_a_changed_mapping() -> None:
    wanted = copy.deepcopy(mapping())
    theirs = mapping()
    theirs[LOCAL]["LCG.Site000.ch"].add("MINE")
    theirs[LOCAL]["LCG.Mine.ch"] = {"MINE"}
    theirs[PROTOCOL].clear()
    patched = mapping()
    with stock("dms_helpers"):
        assert patched == mapping() == wanted


def test_09_threads_while_the_configuration_is_refreshed(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, wrong, shared = threading.Event(), [], [DMSHelpers(vo="fakevo")]
    real = gConfig.getSections

    def slowly(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.002)  # other threads come between what the host asks and what it sets
        return real(*args, **kwargs)

    def ask(number: int) -> None:
        while not stop.is_set():
            try:
                for helper in (shared[0], DMSHelpers(vo="fakevo")):
                    assert len(helper.getSites()) == len(helper.getSiteSEMapping()["Value"][LOCAL]) == SITES
            except Exception as error:
                wrong.append(repr(error))
            time.sleep(0.0005 * number)

    monkeypatch.setattr(gConfig, "getSections", slowly)
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 8)]
    for thread in threads:
        thread.start()
    for _ in range(60):
        gConfigurationData.generateNewVersion()
        shared[0] = DMSHelpers(vo="fakevo")
        time.sleep(0.03)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_10_proxies_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(tmp_path / str(number)) for number in range(64)]
    for path in paths:
        make_proxy(Path(path), bits=1024)
    wanted = [parse(path).dumpAllToString()["Value"] for path in paths]
    assert len(set(wanted)) == 64
    for _ in range(2):
        for path in paths:
            load(path)
        time.sleep(0.06)
    parsed: list[str] = []
    real = X509Chain.loadProxyFromString
    monkeypatch.setattr(X509Chain, "loadProxyFromString", lambda *both: parsed.append(both[1]) or real(*both))
    assert [[dump(path) for path in paths] for _ in range(2)] == [wanted] * 2
    assert not parsed


def test_11_a_proxy_replaced_by_rename(proxy: Path, proxies: list[bytes], tmp_path: Path) -> None:
    warm(str(proxy))
    was = dump(str(proxy))
    rename_over(proxy, proxies[1])
    assert was != dump(str(proxy)) == parse(str(proxy)).dumpAllToString()["Value"]
    # Renamed with its folder, the file itself keeps its times.
    used, ready = tmp_path / "used", tmp_path / "ready"
    twins(used / "proxy", ready / "proxy", proxies)
    warm(str(used / "proxy"))
    was = dump(str(used / "proxy"))
    used.rename(tmp_path / "old")
    ready.rename(used)
    assert was != dump(str(used / "proxy")) == parse(str(used / "proxy")).dumpAllToString()["Value"]


def test_12_a_link_that_is_switched(proxies: list[bytes], tmp_path: Path) -> None:
    one, other, link = (tmp_path / name for name in ("one", "other", "link"))
    twins(one, other, proxies)
    link.symlink_to(one)
    warm(str(link))
    link.unlink()
    link.symlink_to(other)
    assert dump(str(one)) != dump(str(link)) == parse(str(other)).dumpAllToString()["Value"]


@pytest.mark.parametrize("damage", [os.unlink, lambda path: os.truncate(path, 700)], ids=["deleted", "truncated"])
def test_13_a_proxy_that_is_deleted_or_truncated(damage: Any, proxy: Path) -> None:
    warm(str(proxy))
    damage(proxy)
    patched = load(str(proxy))
    with stock("proxy_loading"):
        assert patched == load(str(proxy))
    assert not patched["OK"]


def test_14_a_changed_chain(proxy: Path) -> None:
    warm(str(proxy))
    one, other = load(str(proxy)), load(str(proxy))
    wanted = parse(str(proxy)).dumpAllToString()["Value"]
    key = EVP.PKey()
    key.assign_rsa(RSA.gen_key(1024, 65537, util.quiet_genparam_callback))
    assert one.getCertInChain(0)["Value"].sign(key, "sha256")["OK"]
    assert one.dumpAllToString()["Value"] != wanted
    one._certList.clear()
    assert other.dumpAllToString()["Value"] == dump(str(proxy)) == wanted


def test_15_an_edited_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "edited_for_question_15.py"
    source.write_text("def call(f):\n    return f()  # first\n")
    monkeypatch.syspath_prepend(tmp_path)
    from edited_for_question_15 import call  # type: ignore[import-not-found]

    def texts() -> list[str]:
        return call(lambda: [S_ERROR("x")["CallStack"][-2], traceback.format_stack()[-2]])

    for _ in range(2):
        assert "first" in texts()[0]
    source.write_text("def call(f):\n    return f()  # edited\n")
    # One second is the default of recheck_seconds; with the next error after it the new source is there.
    time.sleep(1.1)
    stack, by_the_standard_library = texts()
    assert stack == by_the_standard_library
    assert "edited" in stack


def test_16_a_configuration_changed_locally() -> None:
    mapping()
    version = gConfigurationData.getVersion()
    with changed(SITE_ELEMENTS, f"{gConfig.getValue(SITE_ELEMENTS)}, CHANGED"):
        assert gConfigurationData.getVersion() == version
        patched = mapping()
        assert "CHANGED" in patched[LOCAL]["LCG.Site000.ch"]
        with stock("dms_helpers"):
            assert patched == mapping()
    assert "CHANGED" not in mapping()[LOCAL]["LCG.Site000.ch"]


def test_17_two_vos_and_a_subclass() -> None:
    class Special(DMSHelpers):  # type: ignore[misc]
        def getSiteSEMapping(self) -> Any:
            answer = super().getSiteSEMapping()
            answer["Value"][LOCAL]["LCG.Special.ch"] = {"SPECIAL"}
            return answer

    def asked() -> Any:
        return [mapping("belle"), mapping("cta"), Special(vo="cta").getSiteSEMapping()["Value"]]

    with changed(vo_option("belle", "SiteSEMappingByProtocol/LCG.Site005.ch"), "SITE006-disk"):
        asked()
        patched = asked()
        belle, cta, special = patched
        with stock("dms_helpers"):
            assert in_tree() or patched == asked()
    assert belle[PROTOCOL]["LCG.Site005.ch"] == {"SITE006-disk"}
    assert "LCG.Site005.ch" not in cta[PROTOCOL]
    assert set(special[LOCAL]) - set(cta[LOCAL]) == {"LCG.Special.ch"}
