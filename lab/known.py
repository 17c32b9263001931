"""The code that the plugin knows: `python3 -m lab.known --write`.

Reads the functions that patches change, of each release of DIRAC and diraccfg, and compiles them with each Python of
this machine, without importing DIRAC. Writes a module per Python, and one of their texts, into dirac_perfpatch/known.
"""

from __future__ import annotations

import argparse
import ast
import functools
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType
from typing import Any

from dirac_perfpatch.known import DECORATED, form, text_form
from dirac_perfpatch.patches import CATALOGUE

from . import hosts
from .command import end_when_told, say
from .folder import CHECKOUT
from .interpreters import python_interpreters

FOLDER = CHECKOUT / "dirac_perfpatch" / "known"
# diraccfg has other release numbers: all of it from 1.0.0 on.
_LIBRARY = "diraccfg"
# These leave the code of the function visible.
_PLAIN = ("staticmethod", "classmethod")
_NAMED = (ast.FunctionDef, ast.ClassDef)
_ANSWER = "from lab import known; known.answer()"
_HEAD = '"""Forms of functions in releases of DIRAC {releases}: see dirac_perfpatch.known. Made by lab.known."""\n\n'


def main() -> None:
    parser = argparse.ArgumentParser("python3 -m lab.known", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write the modules of {FOLDER.relative_to(CHECKOUT)}")
    options = parser.parse_args()
    end_when_told()
    releases = hosts.released()
    wanted = [[f"DIRAC=={release}", *_common(release)] for release in releases]
    wanted += [[f"{_LIBRARY}=={release}"] for release in hosts.released(_LIBRARY, "1.0.0")]
    sources = _sources(wanted)
    head = _HEAD.format(releases=f"{releases[0]} to {releases[-1]}")
    made = {f"py{version.replace('.', '')}": _ask(python, sources) for version, python in python_interpreters().items()}
    for name, forms in {**made, "sources": _texts(sources)}.items():
        say(f"{name}: {sum(map(len, forms.values()))} forms of {len(forms)} functions")
        if options.write:
            (FOLDER / f"{name}.py").write_text(head + _as_module(forms))


def paths() -> dict[str, set[str]]:
    """The functions that patches change, by the module of the host that they are looked up in."""
    found = defaultdict(set)
    for patch in CATALOGUE:
        for target in patch.targets:
            for module in target.modules:
                found[module].update(target.functions())
    return found


def _common(release: str) -> list[str]:
    return [f"DIRACCommon=={release}"] if hosts.number(release) >= (9,) else []


def _sources(wanted: Sequence[Sequence[str]]) -> list[tuple[str, list[str]]]:
    """The different sources of modules with functions that patches change, and the paths of these."""
    found: dict[str, set[str]] = {}
    for requirements in wanted:
        say(" ".join(requirements))
        with tempfile.TemporaryDirectory(prefix="perfpatch-known-") as folder:
            try:
                hosts.unpack(Path(folder), *requirements)
            except subprocess.CalledProcessError:
                say("cannot be installed")
                continue
            for module, names in paths().items():
                for path in names:
                    for source in _defining(Path(folder), module, path):
                        found.setdefault(source, set()).add(path)
    return [(source, sorted(names)) for source, names in found.items()]


def _defining(folder: Path, module: str, path: str) -> Iterator[str]:
    """The source of the module that defines a function, which another one may import from it."""
    stem = folder.joinpath(*module.split("."))
    for file in (stem.with_suffix(".py"), stem / "__init__.py"):
        if not file.exists():
            continue
        source = file.read_text()
        yield source
        for imported in _imported(source).get(path.partition(".")[0], ()):
            if imported != module:
                yield from _defining(folder, imported, path)


@functools.cache  # most releases have the same sources
def _imported(source: str) -> dict[str, list[str]]:
    """The modules from which a source imports a name, by name."""
    found = defaultdict(list)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                found[alias.asname or alias.name].append(node.module)
    return found


def _ask(interpreter: Path, sources: list[tuple[str, list[str]]]) -> dict[str, list[str]]:
    """The forms of each function, with one Python."""
    environment = hosts.clean_environment(PYTHONPATH=str(CHECKOUT), PYTHONDONTWRITEBYTECODE="1")
    answer = subprocess.run(
        [str(interpreter), "-W", "ignore", "-c", _ANSWER],
        env=environment,
        input=json.dumps(sources).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(answer.stdout)


def answer() -> None:
    """What each Python does: reads sources with the paths of functions, and prints the forms of each."""
    forms: dict[str, set[str]] = defaultdict(set)
    for source, names in json.load(sys.stdin):
        tree, code = ast.parse(source), compile(source, "", "exec", dont_inherit=True)
        for path in names:
            mark = _mark(_nodes(tree, path))
            forms[path].update(form(function) + mark for function in _find(code, path.split(".")))
    print(json.dumps(_sorted(forms)))


def _texts(sources: Sequence[tuple[str, list[str]]]) -> dict[str, list[str]]:
    """The forms of each function's text."""
    forms: dict[str, set[str]] = defaultdict(set)
    for source, names in sources:
        tree, lines = ast.parse(source), source.splitlines(keepends=True)
        for path in names:
            nodes = _nodes(tree, path)
            forms[path].update(text_form(lines[node.lineno - 1 :], node.name) + _mark(nodes) for node in nodes)
    return _sorted(forms)


def _sorted(forms: Mapping[str, set[str]]) -> dict[str, list[str]]:
    return {path: sorted(found) for path, found in sorted(forms.items())}


def _find(code: CodeType, names: Sequence[str]) -> Iterator[CodeType]:
    """The code of the functions at a path."""
    name, *rest = names
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and _is_named(constant.co_name, name):
            if rest:
                yield from _find(constant, rest)
            else:
                yield constant


def _nodes(tree: ast.AST, path: str) -> list[Any]:
    """The definitions at a path."""
    nodes: list[ast.AST] = [tree]
    for name in path.split("."):
        below = [child for node in nodes for child in ast.walk(node)]
        nodes = [node for node in below if isinstance(node, _NAMED) and _is_named(node.name, name)]
    return nodes


def _mark(nodes: Sequence[Any]) -> str:
    decorators = [decorator for node in nodes for decorator in node.decorator_list]
    return DECORATED if any(ast.unparse(decorator) not in _PLAIN for decorator in decorators) else ""


def _is_named(written: str, name: str) -> bool:
    """Whether this is the name in the source of an attribute, which has its class in front if it is private."""
    return written == name or (written.startswith("__") and name.startswith("_") and name.endswith(written))


def _as_module(forms: dict[str, list[str]]) -> str:
    lines = ["FORMS = {\n"]
    for path, found in forms.items():
        rows = [" ".join(found[start : start + 8]) for start in range(0, len(found), 8)]
        if len(rows) == 1:
            lines.append(f'    "{path}": "{rows[0]}",\n')
        elif rows:
            *most, last = rows
            lines.append(f'    "{path}": (\n')
            lines += [f'        "{row} "\n' for row in most]
            lines.append(f'        "{last}"\n    ),\n')
    return "".join([*lines, "}\n"])


if __name__ == "__main__":
    main()
