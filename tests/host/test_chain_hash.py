"""X509Chain.hash is one for a chain: the first answer of the host's own, each time."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import load, make_proxy, stock
from DIRAC.Core.Security import X509Chain as module
from DIRAC.Core.Security.m2crypto import X509Chain as other_module
from DIRAC.FrameworkSystem.Client.ProxyManagerClient import ProxyManagerClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dirac_perfpatch import loading

pytestmark = pytest.mark.patched("chain_hash")

NAME = "chain_hash"


def first_of_stock(chain: Any) -> Any:
    """What the host answers to the first question about a chain."""
    kept = chain._X509Chain__hash
    chain._X509Chain__hash = False
    try:
        with stock(NAME):
            return chain.hash()
    finally:
        chain._X509Chain__hash = kept


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.sampled_from(["ask", "ask stock", "load again", "copy"]), min_size=1, max_size=8))
def test_every_answer_is_the_first_one(steps: list[str], proxy: Path) -> None:
    """Also of a chain that stock was asked about in between, and has the longer one."""
    chain = load(proxy)
    wanted = chain.hash()
    assert len(wanted["Value"]) == 32
    for step in steps:
        if step == "load again":
            chain = load(proxy)
            wanted = chain.hash()  # how long it is still valid is in it
        elif step == "ask stock":
            with stock(NAME):
                assert chain.hash()["Value"][:32] == wanted["Value"]
        elif step == "copy":
            assert load(proxy).hash()["OK"]
        assert chain.hash() == wanted


def test_the_answer_is_that_of_stock_for_a_new_chain(proxy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = load(proxy)
    left = chain.getRemainingSecs()
    monkeypatch.setattr(type(chain), "getRemainingSecs", lambda self: left)  # else each second has its own hash
    assert chain.hash() == first_of_stock(chain) == chain.hash()


def test_chains_keep_different_hashes(tmp_path: Path) -> None:
    hashes = set()
    for number, group in enumerate(("fakevo_user", "dirac_admin")):
        path = tmp_path / str(number)
        make_proxy(path, group)
        chain = load(path)
        hashes.update([chain.hash()["Value"], chain.hash()["Value"]])
    assert len(hashes) == 2


def test_an_error_is_the_hosts() -> None:
    """A chain without certificates has no hash."""
    answers = [module.X509Chain().hash() for _ in range(2)]
    with stock(NAME):
        unpatched = module.X509Chain().hash()
    assert [answer["Message"] for answer in answers] == [unpatched["Message"]] * 2
    assert loading.plugin.switches[NAME].guard.failures == 0


def test_a_callers_change_harms_nobody(proxy: Path) -> None:
    chain = load(proxy)
    wanted = dict(chain.hash())
    chain.hash().update(OK=False, Value="mine")
    assert chain.hash() == wanted


def test_a_proxy_is_written_to_one_file(proxy: Path) -> None:
    """The file is found again by the hash, so that the private key is not written twice."""
    manager, chain = ProxyManagerClient(), load(proxy)
    paths = {manager.dumpProxyToFile(chain, includeToken=False)["Value"] for _ in range(3)}
    with stock(NAME):
        paths.add(manager.dumpProxyToFile(chain, includeToken=False)["Value"])  # the longer hash, as without the plugin
    try:
        assert len(paths) == 2
    finally:
        for path in paths:
            os.unlink(path)


def test_threads_that_ask_for_the_first_time(proxy: Path) -> None:
    chain, start = load(proxy), threading.Barrier(8)
    lengths = []

    def ask() -> None:
        start.wait()
        lengths.extend(len(chain.hash()["Value"]) for _ in range(50))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lengths) == 400 and set(lengths) == {32}


def test_a_child_has_the_hash_of_its_parent(proxy: Path) -> None:
    chain = load(proxy)
    wanted = chain.hash()
    child = os.fork()
    if not child:
        os._exit(0 if chain.hash() == wanted else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_taken_off_both_classes_have_the_hosts_own(proxy: Path) -> None:
    """And nothing of ours is in a chain that was asked."""
    chain = load(proxy)
    first = chain.hash()["Value"]
    patched = [vars(one.X509Chain)["hash"] for one in (module, other_module)]
    left = []
    for _ in range(2):
        with stock(NAME):
            left.append([vars(one.X509Chain)["hash"] for one in (module, other_module)])
            assert len(chain.hash()["Value"]) == 64
            assert chain.hash()["Value"].startswith(first)
    assert all(before is after for before, after in zip(*left))
    assert not any(host in patched for host in left[0])
