"""The report's page in Debian's Chromium: narrow and wide, light and dark, of one process and of 500."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from dirac_perfpatch.cli import main
from lab import spools
from lab.browser import chromium

LOOK = Path(__file__).with_name("look.js").read_text()
# What long names do to a narrow page.
LONG = {"patch": "configuration_options", "target": "ConfigurationData.extractOptionFromCFG"}
HOST = "a-machine-with-a-long-name.in-the-second-of-its-many-clusters.example.org"


def _one() -> list[spools.Document]:
    return [spools.alternating(numpy.random.default_rng(1), host=HOST, **LONG)]


def _many() -> list[spools.Document]:
    random = numpy.random.default_rng(1)
    found = [*spools.example(random), *_one()]
    fleet = spools.fleet(random, (500 - len(found)) // 2, 6, patch="registry_lookup", target="getHostnameForDN")
    for number, one in enumerate(fleet):
        one["host"] = f"{number // 2}.{HOST}"
        if number < 80:
            reason = f"the answer number {number} was not that of the stock host: an error instead of OK"
            one["patches"]["registry_lookup"].update(state="tripped", reason=reason, differences=1)
    return found + fleet


# How many plots: one of all ratios, and one or, if processes are no arms, two of each target.
PAGES = {1: (_one, 3), 500: (_many, 17)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.mark.parametrize("processes", PAGES)
def test_the_page_is_whole_and_can_be_read(browser: Any, tmp_path: Path, processes: int) -> None:
    documents, plots = PAGES[processes]
    file = tmp_path / "report.html"
    main(["report", str(spools.write(tmp_path / "spool", documents())), "--html", str(file)])
    assert file.stat().st_size < 1_000_000

    tab = browser.new_page()
    said: list[str] = []
    asked: list[str] = []
    grounds: dict[str, str] = {}
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(file.as_uri())
    assert f"{processes} process" in tab.inner_text("header")
    assert tab.locator("svg").count() == plots
    assert LONG["target"] in tab.locator("svg").first.text_content()
    # It shows at once: a browser lays out as many in a fraction of a second.
    assert tab.locator("*").count() < 10_000
    for width in (400, 1400):
        tab.set_viewport_size({"width": width, "height": 900})
        for scheme in ("light", "dark"):
            tab.emulate_media(color_scheme=scheme)
            assert (width, scheme, tab.evaluate(LOOK)) == (width, scheme, [])
            grounds[scheme] = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert grounds["light"] != grounds["dark"]
    # What is not in it is asked for nowhere.
    assert (said, asked) == ([], [file.as_uri()])
