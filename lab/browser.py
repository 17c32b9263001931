"""Debian's Chromium, without a window, driven by Playwright; and pictures of pages: `python3 -m lab.browser`."""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import hosts
from .folder import CHECKOUT
from .machine import ensure_packages

PACKAGE = "chromium"
# Without the browsers that it would download when asked to.
LIBRARY = "playwright>=1.49"
PICTURE = CHECKOUT / "docs" / "images" / "report.png"
WIDTH, MARGIN = 1000, 14  # of the picture, in pixels


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A running browser, as Playwright's `Browser`. Errors: playwright.sync_api.Error if it does not start."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's sandbox refuses root; what is opened here are our own pages.
        browser = playwright.chromium.launch(executable_path=f"/usr/bin/{PACKAGE}", chromium_sandbox=False)
        try:
            yield browser
        finally:
            browser.close()


def save_picture(page: hosts.StrPath, picture: hosts.StrPath) -> None:
    """Save the top of a report's page, to the end of its first section, in its light colours, as a PNG file."""
    with chromium() as browser:
        tab = browser.new_page(viewport={"width": WIDTH, "height": WIDTH}, color_scheme="light")
        tab.goto(Path(page).resolve().as_uri())
        section = tab.locator("section").first.bounding_box()
        high = section["y"] + section["height"] + MARGIN
        tab.screenshot(path=picture, full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": high})


def main() -> None:
    """Save a picture of a report's page; by default that of the last demo, for the README."""
    parser = argparse.ArgumentParser(prog="python3 -m lab.browser", description=main.__doc__)
    parser.add_argument("page", type=Path, nargs="?", default=hosts.cache_folder() / "demo.html", help="HTML file")
    parser.add_argument("picture", type=Path, nargs="?", default=PICTURE, help="PNG file")
    options = parser.parse_args()
    if not options.page.exists():
        sys.exit(f"there is no {options.page}; `make demo` makes one")
    ensure_packages(PACKAGE)
    python = hosts.plain_environment("browser", [LIBRARY]) / "python"
    code = "import sys; from lab.browser import save_picture; save_picture(*sys.argv[1:])"
    paths = [str(path.resolve()) for path in (options.page, options.picture)]
    subprocess.run([str(python), "-c", code, *paths], check=True, cwd=CHECKOUT)


if __name__ == "__main__":
    main()
