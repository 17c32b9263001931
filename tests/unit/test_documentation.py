"""What the README and the documentation say can be followed: links lead somewhere, and samples are accepted."""

from __future__ import annotations

import os
import re
import shlex
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from dirac_perfpatch import cli, editing, toggles
from dirac_perfpatch.patches import WAITED_FOR
from lab.folder import CHECKOUT
from release import documentation, pages, prose

SOURCES = [CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = "dirac-perfpatch"


class Sample(NamedTuple):
    place: str
    language: str
    text: str


def samples(text: str, name: str) -> Iterator[Sample]:
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield Sample(f"{name}:{line}", match[1], match[2])


ALL = [sample for path in SOURCES for sample in samples(path.read_text(encoding="utf-8"), path.name)]


def links(text: str) -> list[str]:
    found: list[str] = []
    prose.outside_code(text, lambda part: found.extend(LINK.findall(part)) or part)
    return [link for link in found if ":" not in link]


def commands(text: str) -> Iterator[str]:
    """Calls of our command: lines of samples, and code spans."""
    for sample in samples(text, ""):
        if sample.language in ("", "sh", "console"):
            yield from (line for line in sample.text.splitlines() if line.startswith(f"{COMMAND} "))
    # `set` alone is its name, not a call.
    yield from re.findall(rf"`({COMMAND} (?!set`)[^`]+)`", FENCE.sub("", text))


def accept(command: str, folder: Path) -> None:
    """Parse a command as the command does, and change a file as it would. Raises if it would refuse."""
    _, *arguments = shlex.split(command, comments=True)
    if arguments == ["--version"]:
        return
    plain = arguments[: arguments.index(">")] if ">" in arguments else arguments
    try:
        options = cli._parser().parse_args(plain)
    except SystemExit:
        raise AssertionError(f"the command does not accept {command!r}") from None
    if options.run is cli._set:
        editing.change(str(folder / "patches.yaml"), options.settings)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_each_link_leads_to_a_file_and_to_a_heading_of_it(path: Path) -> None:
    for link in links(path.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        if anchor:
            assert anchor in map(prose.slug, prose.headings(target.read_text(encoding="utf-8"))), link


def test_links_are_found_and_code_is_not_taken_for_one() -> None:
    text = "[a](b.md#c) `[d](e)`\n\n```\n[f](g)\n```\n\n[`h`](i) ![j](k.png) [l](https://example.org)\n"
    assert links(text) == ["b.md#c", "i", "k.png"]
    assert prose.slug("What DIRAC 9.1.9 and later have in-tree") == "what-dirac-919-and-later-have-in-tree"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_command_accepts_each_call_of_it(path: Path, tmp_path: Path) -> None:
    for command in commands(path.read_text(encoding="utf-8").replace("version_lookup", "error_stack")):
        accept(command, tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        "dirac-perfpatch stats",
        "dirac-perfpatch set error_stak=off",
        "dirac-perfpatch check --bd x",
        "dirac-perfpatch set",
    ],
)
def test_a_call_that_it_refuses_is_noticed(command: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="does not accept|did you mean"):
        accept(command, tmp_path)


def test_there_are_calls_in_samples_and_in_the_text() -> None:
    found = list(commands("`dirac-perfpatch set a=b`\n\n```sh\ndirac-perfpatch status  # x\n```\n"))
    assert found == ["dirac-perfpatch status  # x", "dirac-perfpatch set a=b"]
    assert len({command for path in SOURCES for command in commands(path.read_text(encoding="utf-8"))}) > 20


def test_each_yaml_sample_is_read_as_toggles() -> None:
    """Prometheus's configuration is not one; the entry of the worked example is of a patch that does not exist."""
    ours = [sample for sample in ALL if sample.language == "yaml" and "scrape_configs:" not in sample.text]
    assert ours
    for sample in ours:
        text = textwrap.dedent(sample.text).replace("version_lookup", "error_stack")
        inside = re.match(r"(?:#.*\n)*(\w+):", text)
        assert inside, sample.place
        if inside[1] in WAITED_FOR:
            text = "patches:\n" + textwrap.indent(text, "  ")
        toggles.read(sample.place, text)


def test_each_python_sample_compiles() -> None:
    python = [sample for sample in ALL if sample.language == "python"]
    assert python
    for sample in python:
        text = textwrap.dedent(sample.text)
        # The worked example also shows a line of the catalogue, which is an entry of a dictionary.
        text = f"{{\n{text}}}" if re.match(r'"\w+": ', text) else text
        compile(text, sample.place, "exec", dont_inherit=True)
    for path in (CHECKOUT / "docs" / "in-tree").glob("*.py"):
        compile(path.read_text(encoding="utf-8"), str(path), "exec", dont_inherit=True)


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    """The pages of the site."""
    return pages.make()


def test_each_patch_has_a_page_with_its_story_its_toggle_and_its_places(made: dict[str, str]) -> None:
    for name in WAITED_FOR:
        text = made[f"patches/{name}.md"]
        found = prose.headings(text)
        assert found[0] == name
        assert {"Toggle and options", "Where it applies", "Limits"} < set(found), name
        assert f"dirac-perfpatch set {name}=off" in text
        assert re.search(rf"^  {name}:", text, re.MULTILINE), name
        for module in WAITED_FOR[name]:
            assert f"`{module}`" in text, name
    text = made["patches/connection_checkout.md"]
    assert "    idle_ping_seconds: 5\n" in text
    assert "no ping for a warm connection" in text
    assert "| every SQL statement is preceded by a ping, a network round trip | checks the socket instead |" in text
    assert "by time or by process, not by call" in text
    assert "| `ConnectionPool.get`, 1 thread / 100 threads |" in text
    assert "cannot be `ab`" in made["patches/lazy_imports.md"]
    assert "Not seen" in made["patches/json_dates.md"].partition("## Limits")[2]
    assert "stood down" in made["patches/registry_lookup.md"]


def test_a_docstring_is_sorted_by_what_it_tells() -> None:
    paragraphs = (
        "f: what.",
        "More.",
        "The same answer: it is. Not seen: a\nchange.",
        "- An item.",
        "No lock.",
        "The seam.",
    )
    same, limits = "It is.\n\n- An item.", "Not seen: a\nchange."
    assert prose.story("\n\n".join(paragraphs)) == ("f: what.\n\nMore.", same, limits, "No lock.\n\nThe seam.")


@pytest.mark.parametrize("name", WAITED_FOR)
def test_nothing_of_a_docstring_is_lost(name: str, made: dict[str, str]) -> None:
    source = (CHECKOUT / "dirac_perfpatch" / "patches" / f"{name}.py").read_text(encoding="utf-8")
    page = made[f"patches/{name}.md"]
    told, shown = (Counter(re.findall(r"[a-z]{3,}", text.lower())) for text in (source.split('"""')[1], page))
    roles = {"mod", "func", "class", "meth"}
    assert set(told - shown) <= roles


def test_each_link_between_pages_leads_to_a_page(made: dict[str, str]) -> None:
    images = {str(path.relative_to(CHECKOUT / "docs")) for path in (CHECKOUT / "docs").rglob("*.png")}
    for path, text in made.items():
        for link in links(text):
            name, _, anchor = link.partition("#")
            target = os.path.normpath(os.path.join(os.path.dirname(path), name)) if name else path
            assert target in {*made, *images}, (path, link)
            if anchor:
                assert anchor in map(prose.slug, prose.headings(made[target])), (path, link)


def test_no_section_of_the_readme_is_left_out(made: dict[str, str]) -> None:
    used = [name for _, sections in pages.FROM_README.values() for name in sections]
    assert sorted(used) == sorted(pages.readme_sections())


def test_each_page_is_in_the_navigation(made: dict[str, str]) -> None:
    settings = (CHECKOUT / "release" / "mkdocs.yml").read_text(encoding="utf-8") + "\n".join(pages.navigation())
    missing = [path for path in made if not path.startswith("files/") and f": {path}" not in settings]
    assert missing == []


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://example.org/x.js">',
        '<link rel="stylesheet" href="https://example.org/x.css">',
        "<link href=//example.org/x.css rel=stylesheet>",
        '<img alt="x" src="http://example.org/x.png">',
        "@import 'https://example.org/x.css';",
        "a { background: url(https://example.org/x.png) }",
    ],
)
def test_what_a_browser_would_fetch_from_elsewhere_is_noticed(text: str) -> None:
    assert documentation.fetched_from_elsewhere(text)


@pytest.mark.parametrize("text", ['<a href="https://example.org">', '<script src="assets/x.js">', "url(data:x)"])
def test_what_it_would_not_is_not(text: str) -> None:
    assert documentation.fetched_from_elsewhere(text) == []
