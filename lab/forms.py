"""The forms of the plugin's targets in releases of DIRAC: `python3 -m lab.forms WHEELS`.

WHEELS is a folder of wheels, of which nothing is installed: `pip download --no-deps -d WHEELS DIRAC==9.1.22`, and the
same for DIRACCommon. Prints the table of docs/in-tree.md. Functions with the same number have the same code, apart
from docstrings.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import zipfile
from pathlib import Path

from . import hosts

_HELPERS = "DIRAC/DataManagementSystem/Utilities/DMSHelpers.py"
_MYSQL = "DIRAC/Core/Utilities/MySQL.py"
_FILES = "DIRAC/DataManagementSystem/DB/FileCatalogComponents"
_CHAIN = "DIRAC/Core/Security/m2crypto/X509Chain.py"
TARGETS: dict[str, tuple[str, ...]] = {
    "DIRAC/Core/Utilities/Extensions.py": ("extensionsByPriority", "getExtensionMetadata"),
    "DIRACCommon/Core/Utilities/ReturnValues.py": ("S_ERROR", "_formatStackCached"),
    _CHAIN: ("X509Chain.loadProxyFromFile", "X509Chain.hash"),
    _HELPERS: (
        *(f"DMSHelpers.{name}" for name in ("__new__", "__init__", "getSiteSEMapping")),
        *(f"DMSHelpers.{name}" for name in ("_getLocalSitesForSE", "isSameSiteSE")),
        "resolveSEGroup",
    ),
    _MYSQL: (
        *(f"ConnectionPool.{name}" for name in ("get", "__newConn", "__innerGet", "__getWithRetry")),
        "ConnectionPool.discardCurrentThreadConn",
        *(f"MySQL.{name}" for name in ("_except", "_query", "_update", "_updatemany")),
    ),
    "DIRAC/AccountingSystem/DB/AccountingDB.py": (
        *(f"AccountingDB.{name}" for name in ("insertRecordDirectly", "_insertRecordDirectly", "__addKeyValue")),
    ),
    f"{_FILES}/DirectoryManager/DirectoryTreeBase.py": ("DirectoryTreeBase.getDirectorySize",),
    f"{_FILES}/FileManager/FileManagerBase.py": ("FileManagerBase._getStatusInt",),
    "DIRAC/WorkloadManagementSystem/Agent/PilotStatusAgent.py": ("PilotStatusAgent.execute",),
}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def main() -> None:
    sources: dict[str, dict[str, str]] = {path: {} for path in TARGETS}
    for wheel in Path(sys.argv[1]).glob("*.whl"):
        release = wheel.name.split("-")[1]
        with zipfile.ZipFile(wheel) as archive:
            for path in sources.keys() & set(archive.namelist()):
                sources[path][release] = archive.read(path).decode()
    print("| target | forms, by release |\n|---|---|")
    for path, names in TARGETS.items():
        releases = sorted(sources[path], key=hosts.number)
        for name in names:
            forms = [(release, _form(sources[path][release], name)) for release in releases]
            print(f"| `{name}` | {', '.join(f'{span}: {form}' for span, form in hosts.spans(forms))} |")


def _form(source: str, name: str) -> str:
    """A number for the code of a function, without docstrings; "none" if there is no such function."""
    node: ast.AST = ast.parse(source)
    for part in name.split("."):
        found = [child for child in ast.iter_child_nodes(node) if isinstance(child, _FUNCTIONS) and child.name == part]
        if not found:
            return "none"
        node = found[0]
    for child in ast.walk(node):
        if isinstance(child, _FUNCTIONS) and ast.get_docstring(child) is not None:
            child.body = child.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(node).encode()).hexdigest()[:7]


if __name__ == "__main__":
    main()
