"""The command dirac-perfpatch."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from dirac_perfpatch import database, loading, preview, status, toggles
from dirac_perfpatch.notices import OperatorError
from dirac_perfpatch.patches import CATALOGUE
from dirac_perfpatch.patches._connections import no_connecting
from dirac_perfpatch.patching import APPLIED, ARMED, FAILED, STOOD_DOWN, TRIPPED, Database, NotAsked, Patch

# Exit codes.
OK, BAD, UNUSABLE = 0, 1, 2

_EPILOG = """exit codes: 0 all is well; 1 a patch failed, tripped or answered differently, init found a file, or set was
refused; 2 there is no DIRAC here, the toggles or the database cannot be used, or there is nothing to report"""


_answers: TextIO = sys.stdout


class _Refused(OperatorError):
    """The command is refused: exit code 1, not 2."""


def _tell(text: str) -> None:
    """Write a line of the answer."""
    print(text, file=_answers)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Those after the command's name; those of the process if None.

    Returns:
        The exit code: see ``dirac-perfpatch --help``.
    """
    global _answers
    options = _parser().parse_args(arguments)
    _answers = sys.stdout
    if isinstance(_answers, io.TextIOWrapper):  # a name may have letters that the terminal lacks
        _answers.reconfigure(errors="backslashreplace")
    try:
        # The host logs to standard output, which is for the answer: its logger gets standard error for it.
        with contextlib.redirect_stdout(sys.stderr):
            return int(options.run(options))
    except OperatorError as error:
        print(f"dirac-perfpatch: {error}", file=sys.stderr)
        return BAD if isinstance(error, _Refused) else UNUSABLE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("dirac-perfpatch", description=__doc__, epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"dirac-perfpatch {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    show = commands.add_parser("status", help="what each patch does in a new process of this installation")
    show.add_argument("--json", action="store_true", help="for machines")
    show.set_defaults(run=_status)
    check = commands.add_parser("check", help="compare every patch's answers with those of the stock host")
    check.add_argument("--json", action="store_true", help="for machines")
    _add_database(check, "only SELECT is sent")
    check.set_defaults(run=_check)
    measure = commands.add_parser("bench", help="microseconds per call with each patch on, and with it taken off")
    measure.add_argument("--json", action="store_true", help="for machines")
    measure.add_argument(
        "--rounds", type=_count, default=5, help="repetitions, on and off in turn (default: %(default)s)"
    )
    _add_database(measure, "up to 10 connections, and SELECT only")
    measure.set_defaults(run=_bench)
    report = commands.add_parser("report", help="what processes recorded of patched and stock calls, compared")
    report.add_argument("folders", nargs="*", metavar="FOLDER", help="a spool (default: that of this installation)")
    for name, text in (("html", "one page with plots"), ("json", "all figures"), ("csv", "a line per target")):
        report.add_argument(f"--{name}", metavar="FILE", help=f"{text}, to a file; - for standard output")
    report.set_defaults(run=_report)
    init = commands.add_parser("init", help="write a documented patches.yaml where DIRAC looks for it")
    init.set_defaults(run=_init)
    serve = commands.add_parser("export", help="serve this host's comparison of patched and stock to Prometheus")
    serve.add_argument("--port", type=int, default=18524, help="0: one that is free (default: %(default)s)")
    serve.add_argument("--address", default="0.0.0.0", help="what to listen on (default: all IPv4 addresses)")
    serve.add_argument("--spool", type=Path, help="a folder (default: that of this DIRAC)")
    serve.set_defaults(run=_export)
    change = commands.add_parser(
        "set",
        help="change toggles in the file; running processes take them up within seconds",
        description="Changes toggles in the file; comments and all else in it stay as they are. Running processes take "
        "them up within seconds. A file that is not there is made as init does.",
    )
    change.add_argument(
        "settings",
        nargs="+",
        metavar="NAME[.OPTION]=VALUE",
        help="such as error_stack=off, connection_checkout.idle_ping_seconds=10, enabled=off, comparison.share=0.1",
    )
    change.add_argument("--file", help="instead of the one that DIRAC reads")
    change.set_defaults(run=_set)
    return parser


def _add_database(command: argparse.ArgumentParser, sent: str) -> None:
    text = f"for the patches of the MySQL pool: {database.HELP}; {sent}"
    command.add_argument("--db", metavar="DATABASE", help=text)


def _version() -> str:
    try:
        return metadata.version("dirac-perfpatch")
    except metadata.PackageNotFoundError:
        return "of a checkout"


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _load_host() -> str:
    """Do what any DIRAC process does first, so that the plugin loads as it does there.

    Returns:
        The release of the host.
    """
    try:
        importlib.import_module("DIRAC.Core.Utilities.Extensions").extensionsByPriority()
        return str(sys.modules["DIRAC"].version)
    except ImportError as error:
        raise OperatorError(f"no DIRAC can be imported by {sys.executable}: {error}") from None


def _load_targets() -> dict[str, str]:
    """Import the modules of all targets.

    Returns:
        Why not, by name of module, for those that cannot be imported here.
    """
    missing = {}
    with contextlib.ExitStack() as stack:
        # Without mysqlclient nothing can connect anyway, and the import below says so.
        with contextlib.suppress(ImportError):
            stack.enter_context(no_connecting())
        for module in {module for patch in CATALOGUE for target in patch.targets for module in target.modules}:
            try:
                importlib.import_module(module)
            except Exception as error:  # a module of the host's may raise anything
                missing[module] = f"cannot be imported here: {type(error).__name__}: {error}"
    return missing


def _entries() -> list[dict[str, Any]]:
    missing = _load_targets()
    entries = status()
    for entry in entries:
        for target in entry["targets"]:
            if target["state"] == ARMED:
                target["reason"] = missing.get(target["module"], target["reason"])
        if entry["state"] == ARMED:
            entry["reason"] = f"{entry['targets'][0]['module']} {entry['targets'][0]['reason']}"
    return entries


def _foreseen() -> list[dict[str, Any]]:
    """The entries of status, with what will become of the targets whose modules nothing has imported."""
    entries = status()
    for patch, entry in zip(CATALOGUE, entries):
        for target, told in zip(patch.targets, entry["targets"]):
            if told["state"] == ARMED:
                told["state"], told["reason"] = preview.foresee(target)
        if entry["state"] == ARMED:
            # Not stood down while one of its targets will be applied.
            worst = min(entry["targets"], key=lambda told: (FAILED, ARMED, STOOD_DOWN).index(told["state"]))
            remark = entry["reason"].partition("; ")[2]
            entry["state"], entry["reason"] = worst["state"], "; ".join(filter(None, (worst["reason"], remark)))
    return entries


def _exit_code(states: Sequence[str]) -> int:
    if loading.plugin.problem:
        return UNUSABLE
    return BAD if {FAILED, TRIPPED}.intersection(states) else OK


def _status(options: argparse.Namespace) -> int:
    release = _load_host()
    entries, tripped = _foreseen(), _tripped_elsewhere()
    code = _exit_code([entry["state"] for entry in [*entries, *tripped]])
    if options.json:
        answer = {"dirac": release, "toggles": loading.plugin.source, "patches": entries, "running": tripped}
        _tell(json.dumps(answer, indent=2))
        return code
    _tell(f"DIRAC {release}, toggles from {loading.plugin.source}")
    _print_table([("patch", "state", "reason"), *((e["name"], e["state"], e["reason"]) for e in entries)])
    for entry in tripped:
        _tell(f"{entry['name']} has tripped in {entry['component']}, process {entry['pid']}: {entry['reason']}")
    return code


def _tripped_elsewhere() -> list[dict[str, Any]]:
    """The patches that have tripped in a process of this host that still runs, as far as its snapshot says so."""
    from dirac_perfpatch.comparison.spool import host_name
    from dirac_perfpatch.comparison.spool_reading import Unusable, list_files, read_file

    found = []
    for path in list_files(filter(None, [loading.plugin.spool()]), []):
        try:
            snapshot = read_file(path, blocks=False)
        except (OSError, Unusable):
            continue  # `report` tells of those
        if snapshot.host == host_name() and not snapshot.ended and _runs(snapshot.pid):
            where = {"component": snapshot.component, "pid": snapshot.pid}
            found += [
                {"name": name, "state": TRIPPED, "reason": state.reason, **where}
                for name, state in snapshot.patches.items()
                if state.state == TRIPPED
            ]
    return found


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is somebody else's
    return True


def _check(options: argparse.Namespace) -> int:
    release = _load_host()
    asked = database.find(options.db) if options.db else None
    entries = _entries()
    if loading.plugin.problem:
        return UNUSABLE
    rows = []
    for patch, entry in zip(CATALOGUE, entries):
        verdict = _compare(patch, asked) if entry["state"] == APPLIED else ("not asked", entry["state"])
        rows.append((patch.name, *verdict))
    if options.json:
        _tell(json.dumps({"dirac": release, "patches": [dict(zip(("name", "answer", "reason"), r)) for r in rows]}))
    else:
        _tell(f"DIRAC {release}")
        _print_table([("patch", "answer", "reason"), *rows])
    if any(answer == "differs" for _, answer, _ in rows):
        return BAD
    return _exit_code([entry["state"] for entry in status()])


def _compare(patch: Patch, asked: Database | None) -> tuple[str, str]:
    """Ask twice with the patch on, the second time to be answered from what it keeps, and once with it off."""
    switch = loading.plugin.switches[patch.name]
    answers = []
    try:
        for on in (True, True, False):
            switch.put_on() if on else switch.take_off()
            # One line asks for all three: an answer may hold the call stack.
            answers.append(patch.ask(asked))
    except NotAsked as error:
        return "not asked", str(error)
    finally:
        switch.put_on()
    first, second, stock = answers
    if switch.guard.failures:
        return "differs", f"the patch's own code failed {switch.guard.failures} times"
    if first == second == stock:
        return "same as stock", ""
    return "differs", "the patched answer is not the stock one; switch this patch off and report it"


def _bench(options: argparse.Namespace) -> int:
    from dirac_perfpatch import bench

    release = _load_host()
    asked = database.find(options.db) if options.db else None
    entries = _entries()
    if loading.plugin.problem:
        return UNUSABLE
    reasons = {e["name"]: "" if e["state"] == APPLIED else f"{e['state']}; {e['reason']}" for e in entries}
    found = bench.compare(reasons, asked, options.rounds)
    if options.json:
        _tell(json.dumps({"dirac": release, "calls": [one.as_dict() for one in found]}, indent=2))
    else:
        _tell(f"DIRAC {release}, microseconds per call: the minimum, with the patch on and taken off in turn")
        _print_table([("patch", "call", "stock", "patched", "ratio", ""), *(one.as_row() for one in found)])
    return _exit_code([entry["state"] for entry in status()])


def _report(options: argparse.Namespace) -> int:
    folders = options.folders or [_spool()]
    try:
        from dirac_perfpatch.comparison.report import build
        from dirac_perfpatch.comparison.spool_reading import read_spools
        from dirac_perfpatch.comparison.tables import as_csv, as_json, as_text

        if options.html:
            from dirac_perfpatch.comparison.page import as_html
    except ImportError as error:
        raise OperatorError(
            f"the report needs more libraries ({error}): pip install 'dirac-perfpatch[report]'"
        ) from None
    found = build(folders, read_spools(folders))
    wanted = {"html": options.html, "json": options.json, "csv": options.csv}
    for name, path in wanted.items():
        if path:
            text = as_html(found) if name == "html" else as_json(found) if name == "json" else as_csv(found)
            _write(path, text)
    if "-" not in wanted.values():
        _tell(as_text(found))
    if not found.processes:
        return UNUSABLE
    return BAD if any(patch.troubles for patch in found.patches) else OK


def _spool() -> str:
    _load_host()
    folder = loading.plugin.spool()
    if folder is None:
        raise OperatorError("this DIRAC does not say where its root is; name the folder of the spool")
    return folder


def _write(path: str, text: str) -> None:
    if path == "-":
        _tell(text)
        return
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as error:
        raise OperatorError(f"{path} cannot be written: {error.strerror}") from None


def _file() -> str:
    """The path of the file that DIRAC reads, or would read."""
    _load_host()
    path = os.environ.get(toggles.FILE_VARIABLE) or toggles.default_path(sys.modules["DIRAC"].rootPath)
    if path is None:
        raise OperatorError("this DIRAC does not say where its root is; name a file with " + toggles.FILE_VARIABLE)
    return path


def _set(options: argparse.Namespace) -> int:
    path = options.file or _file()
    there = _change(path, options.settings)
    _tell(f"{'changed' if there else 'wrote'} {path}: {', '.join(options.settings)}")
    return OK


def _init(options: argparse.Namespace) -> int:
    path = _file()
    if _change(path, ()):
        raise _Refused(f"{path} exists already and was not changed")
    _tell(f"wrote {path}")
    return OK


def _change(path: str, settings: Sequence[str]) -> bool:
    """Change or make the file. Returns: whether it existed."""
    from dirac_perfpatch import editing

    try:
        return editing.change(path, settings)
    except OperatorError as error:
        raise _Refused(str(error)) from None


def _export(options: argparse.Namespace) -> int:
    try:
        from dirac_perfpatch.comparison import exporter
    except ImportError as error:
        raise OperatorError(
            f"the export needs one more library ({error}): pip install 'dirac-perfpatch[export]'"
        ) from None
    spool = options.spool or Path(_spool())

    def ready(port: int) -> None:
        _tell(f"serving {spool} at http://{options.address}:{port}/metrics")
        _answers.flush()

    try:
        exporter.serve(spool, options.address, options.port, ready)
    except (OSError, OverflowError) as error:
        raise OperatorError(f"cannot listen on {options.address}:{options.port}: {error}") from None
    return OK


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        _tell("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
