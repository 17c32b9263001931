"""The pages of the documentation, made from README.md, docs/, CHANGELOG.md, patches.yaml and the patches.

The README is cut at its headings, and each patch gets a page from its docstring and its declaration. Nothing here needs
a host. The sources link to each other as files of the repository; here the links are changed to lead to pages.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from dirac_perfpatch import patches
from lab import hosts
from lab.folder import CHECKOUT

from . import prose

# Pages that are made of sections of the README: the title, and the sections in order; "" is what comes before them.
FROM_README = {
    "index.md": (
        "dirac-perfpatch",
        ["", "What it does for you", "What it promises", "What it has been put through", "Limits"],
    ),
    "install.md": ("Install", ["Install", "See what it does"]),
    "toggles.md": ("Toggles", ["Switch it off, or a part of it"]),
    "comparing.md": ("Compare in production", ["Compare for yourself, in production"]),
    "figures.md": ("Figures", ["What requests feel", "What the patched calls take"]),
    "checkout.md": ("From a checkout", ["From a checkout"]),
}
# Where else a link to a file of the repository leads. Any other file that is linked gets a page that shows it.
PLACES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "patches.yaml": "toggles.md"}
PLACES |= {"dirac_perfpatch/patches": "index.md", "monitoring": "fleet.md", "docs": "index.md"}
_IMAGES = (".png", ".svg")
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_TITLE = re.compile(r"^ +- \"?(.+?)\"?: ([\w-]+\.md)$", re.MULTILINE)
# A link whose text is the name of a file: a page has a title.
_NAMED = re.compile(r"\[(?:docs/)?([\w-]+\.md)(?=\]\()")
_HERE = Path(__file__).parent


class Page(NamedTuple):
    """A page.

    Args:
        text: Markdown, with links as in its source.
        source: The file of the repository whose links it has.
    """

    text: str
    source: str


def make() -> dict[str, str]:
    """All pages, Markdown by path."""
    made = {path: _of_readme(title, sections) for path, (title, sections) in FROM_README.items()}
    made["index.md"] = _with_names(made["index.md"])
    made["toggles.md"] = _with_toggles(made["toggles.md"])
    made["changelog.md"] = Page(read("CHANGELOG.md"), "CHANGELOG.md")
    for path in sorted((CHECKOUT / "docs").glob("*.md")):
        made[path.name] = Page(path.read_text(encoding="utf-8"), f"docs/{path.name}")
    for patch in patches.CATALOGUE:
        made[f"patches/{patch.name}.md"] = Page(_patch(patch), "README.md")
    shown: dict[str, str] = {}
    pages = {path: _with_links(path, page, shown) for path, page in made.items()}
    pages.update({place: _shown(source) for source, place in shown.items()})
    return pages


def write(folder: Path) -> None:
    """Write all pages, and the images that they show, into a folder."""
    for path, text in make().items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    for image in (CHECKOUT / "docs").rglob("*"):
        if image.suffix in _IMAGES:
            target = folder / image.relative_to(CHECKOUT / "docs")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(image, target)


def read(path: str) -> str:
    """A text file of the checkout."""
    return (CHECKOUT / path).read_text(encoding="utf-8")


def readme_sections() -> dict[str, str]:
    """The sections of the README by heading, each without that of the next level; "" is what comes before them."""
    parts = re.split(r"^#{1,3} (.+)\n", read("README.md"), flags=re.MULTILINE)
    titles = ["", *parts[3::2]]
    return dict(zip(titles, parts[2::2]))


def _of_readme(title: str, sections: list[str]) -> Page:
    found = readme_sections()
    text = [f"# {title}\n"]
    for name in sections:
        text.append(f"## {name}\n" if name and name not in (title, sections[0]) else "")
        text.append(found[name])
    return Page("\n".join(text), "README.md")


def _with_names(page: Page) -> Page:
    """Names of patches in the first column lead to their pages."""
    return page._replace(
        text=re.sub(r"^\| `(\w+)` \|", r"| [`\1`](dirac_perfpatch/patches/\1.py) |", page.text, flags=re.M)
    )


def _with_toggles(page: Page) -> Page:
    return page._replace(text=f"{page.text}\n## The file\n\n```yaml\n{read('patches.yaml')}```\n")


def _with_links(path: str, page: Page, shown: dict[str, str]) -> str:
    """The text with links that lead to pages. shown: gets the pages of files that need one, by the file's path."""
    folder = os.path.dirname(page.source)

    def change(match: re.Match[str]) -> str:
        link, _, anchor = match[2].partition("#")
        if ":" in link:
            return match[0]
        target = os.path.normpath(os.path.join(folder, link)) if link else page.source
        place, anchor = _place(target, anchor)
        if not place:
            place = shown[target] = f"files/{target.replace('/', '-')}.md"
        relative = os.path.relpath(place, os.path.dirname(path) or ".")
        return f"{match[1]}{relative}{'#' * bool(anchor)}{anchor}{match[3]}"

    titles = dict(map(reversed, _TITLE.findall((_HERE / "mkdocs.yml").read_text(encoding="utf-8"))))

    def name(match: re.Match[str]) -> str:
        return f"[{titles.get(match[1], match[1])}"

    def all_of(text: str) -> str:
        # A factor in a table stays on one line.
        return re.sub(r"(?<=\d) x(?= \|)", "&nbsp;x", _LINK.sub(change, _NAMED.sub(name, text)))

    return prose.outside_code(page.text, all_of)


def _place(target: str, anchor: str) -> tuple[str, str]:
    """The page or image for a file of the repository, and the anchor there; two empty texts if there is none."""
    path = PurePosixPath(target)
    if target == "README.md" and anchor:
        for place, (_, sections) in FROM_README.items():
            if anchor in map(prose.slug, sections):
                # The first section has the title of the page.
                return place, "" if anchor == prose.slug(sections[0]) else anchor
    if target in PLACES:
        return PLACES[target], anchor
    if path.parent.name == "patches" and path.stem in patches.WAITED_FOR:
        return f"patches/{path.stem}.md", anchor
    if path.parts[0] == "docs" and path.suffix in (".md", *_IMAGES):
        return str(path.relative_to("docs")), anchor
    return "", ""


def _shown(source: str) -> str:
    language = {".py": "python", ".json": "json"}.get(Path(source).suffix, "yaml")
    return f"# {Path(source).name}\n\n`{source}`\n\n```{language}\n{read(source)}```\n"


def _patch(patch: Any) -> str:
    """The page of a patch."""
    module = importlib.import_module(f"{patches.__name__}.{patch.name}")
    story = prose.story(inspect.getdoc(module) or "")
    parts = [part for part in (f"# {patch.name}", _overview(patch.name), story.what) if part]
    for title, text in (
        ("Why the answer is the same", story.same),
        ("Figures", _figures(patch)),
        ("Toggle and options", _toggle(patch)),
        ("Where it applies", _where(patch)),
        ("Limits", _limits(patch, story.limits)),
        ("Inside", story.inside),
    ):
        if text:
            parts.append(f"## {title}\n\n{text}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _overview(name: str) -> str:
    """What the README's table says of a patch, if it is there."""
    found = [row[1:] for row in prose.rows(readme_sections()["What it does for you"]) if row[0] == f"`{name}`"]
    return prose.table([["in DIRAC", "with the patch"], *found]) if found else ""


def _figures(patch: Any) -> str:
    """The rows of the README's and the profile's tables that are about calls of this patch."""
    calls = [*(target.attribute for target in patch.targets), *(case.name.partition(",")[0] for case in patch.cases)]
    places = [readme_sections()["What the patched calls take"], read("docs/service-profile.md")]
    tables = []
    for text in places:
        for header, *rows in prose.tables(text):
            found = [row for row in rows if any(_speaks_of(row[0], call) for call in [f"`{patch.name}`", *calls])]
            if found:
                tables.append(prose.table([header, *found]))
    text = "How they were measured is on the page [figures](README.md#what-the-patched-calls-take) and in"
    text += " [where a service's CPU goes](docs/service-profile.md)."
    measured = ", ".join(f"`{case.name}`" for case in patch.cases)
    ask = f"`dirac-perfpatch bench` measures on your host: {measured}." if measured else ""
    return "\n\n".join(filter(None, [*tables, text if tables else "", ask]))


def _speaks_of(cell: str, call: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(call)}(?!\w)", cell) is not None


def _toggle(patch: Any) -> str:
    text = [f"```yaml\npatches:\n{prose.entry(read('patches.yaml'), patch.name)}```"]
    text.append(f"Off: `dirac-perfpatch set {patch.name}=off`; running processes follow within seconds.")
    if patch.name in patches.AT_IMPORT:
        text.append("It acts when a module is imported, so it cannot be `ab`.")
    elif patch.calls_stand_alone:
        text.append(f"Compare it with stock: `dirac-perfpatch set {patch.name}=ab`.")
    else:
        text.append(
            f"Compare it with stock: `dirac-perfpatch set {patch.name}=ab`, by time or by process, not by call."
        )
    if patch.wants:
        wanted = " and ".join(f"[`{name}`](dirac_perfpatch/patches/{name}.py)" for name in patch.wants)
        text.append(f"It is less effective without {wanted}.")
    return "\n\n".join(text)


def _where(patch: Any) -> str:
    rows = [["target", *hosts.RELEASES, "module"]]
    for target in patch.targets:
        states = [hosts.state(release, patch.name, target.attribute) for release in hosts.RELEASES]
        rows.append([f"`{target.attribute}`", *states, "<br>".join(f"`{name}`" for name in target.modules)])
    text = "Applied means: once the process has imported the module, if this release has the target. In-tree versions"
    return f"{prose.table(rows)}\n\n{text} are [replaced where they are wrong](docs/in-tree.md)."


def _limits(patch: Any, told: str) -> str:
    """What the docstring and the README say about the limits of a patch."""
    options = re.findall(r"^ +(\w+):", prose.entry(read("patches.yaml"), patch.name), re.MULTILINE)
    names = [f"`{name}`" for name in (patch.name, *options) if name != "enabled"]
    bullets = [text for text in prose.bullets(readme_sections()["Limits"]) if any(name in text for name in names)]
    general = "More: [limits of the whole plugin](README.md#limits)"
    for path in sorted((CHECKOUT / "docs").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if names[0] in text:
            general += f", [{prose.headings(text)[0]}](docs/{path.name})"
    return "\n\n".join(filter(None, [told, "\n".join(bullets), f"{general}."]))


def navigation() -> Iterator[str]:
    """The lines of the patches in the navigation."""
    for name in patches.WAITED_FOR:
        yield f"      - {name}: patches/{name}.md"
