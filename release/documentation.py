"""Build the documentation as web pages that need no network: `python3 -m release.documentation`.

Every warning of the builder fails the build: a link or an anchor that leads nowhere, a page that nothing leads to.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from lab import hosts
from lab.command import end_when_told, say
from lab.folder import CHECKOUT, make

SITE = CHECKOUT / "build" / "docs"
# What builds the site, and what the catalogue of patches needs to be read.
TOOLS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.5,<10", "wrapt>=1.14", "PyYAML>=5.4", "importlib_metadata>=4.4"]
_HERE = Path(__file__).parent
_GENERATE = (
    "import sys; from pathlib import Path; from release import documentation; documentation.write(Path(sys.argv[1]))"
)
# What a browser fetches by itself. Links for people to follow are not among it.
_FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*?\bsrc=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\b(?=[^>]*rel=["']?(?:stylesheet|preconnect|preload|icon))[^>]*?href=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|@import[^;]*//[^;]+|url\(["']?(?:https?:)?//[^)]+"""
)


def write(folder: Path) -> None:
    """Write the sources of the site. folder: an existing one."""
    from . import pages  # needs wrapt

    pages.write(folder / "pages")
    shutil.copyfile(_HERE / "extra.css", folder / "pages" / "extra.css")
    settings = (_HERE / "mkdocs.yml").read_text(encoding="utf-8")
    settings = settings.replace("      # PATCHES\n", "".join(f"{line}\n" for line in pages.navigation()))
    (folder / "mkdocs.yml").write_text(settings, encoding="utf-8")


def fetched_from_elsewhere(text: str) -> list[str]:
    """What a page or a style sheet makes a browser fetch from another server."""
    return _FETCHED.findall(text)


def main() -> None:
    parser = argparse.ArgumentParser("python3 -m release.documentation", description=__doc__)
    parser.add_argument("--output", type=Path, default=SITE, help="the folder of the site (default: build/docs)")
    output = parser.parse_args().output.resolve()
    end_when_told()
    python = hosts.plain_environment("documentation", TOOLS) / "python"
    sources = make("perfpatch-documentation-")
    # Without the theme's advertisement, which it prints as a warning.
    env = hosts.clean_environment(PYTHONPATH=str(CHECKOUT), PYTHONDONTWRITEBYTECODE="1", NO_MKDOCS_2_WARNING="1")
    subprocess.run([str(python), "-c", _GENERATE, str(sources)], env=env, cwd=CHECKOUT, check=True)
    command = [python, "-m", "mkdocs", "build", "--strict", "--clean"]
    command += ["--config-file", sources / "mkdocs.yml", "--site-dir", output]
    # Not --quiet: then it does not count warnings either.
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    done = subprocess.run(list(map(str, command)), env=env, cwd=sources, stdout=pipe, stderr=both, check=False)
    if done.returncode:
        sys.exit(done.stdout.decode())
    files = [path for path in output.rglob("*") if path.suffix in (".html", ".css")]
    elsewhere = {link for path in files for link in fetched_from_elsewhere(path.read_text(encoding="utf-8"))}
    if elsewhere:
        sys.exit(f"pages fetch from elsewhere: {', '.join(sorted(elsewhere))}")
    say(f"{sum(path.suffix == '.html' for path in files)} pages: {os.path.relpath(output)}/index.html")


if __name__ == "__main__":
    main()
