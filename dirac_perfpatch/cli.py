"""Show, check, measure and change what dirac-perfpatch does to the DIRAC of this environment."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from dirac_perfpatch import database, loading, preview, status, toggles, waking
from dirac_perfpatch.notices import OperatorError
from dirac_perfpatch.patches import CATALOGUE
from dirac_perfpatch.patches._connections import no_connecting
from dirac_perfpatch.patching import (
    APPLIED,
    ARMED,
    FAILED,
    STOOD_DOWN,
    TRIPPED,
    Database,
    NotAsked,
    Patch,
    Target,
    unknown,
)

# Exit codes.
OK, BAD, UNUSABLE = 0, 1, 2

_EPILOG = """exit codes: 0 success; 1 a patch failed, tripped or answered differently from stock, or init or set
refused; 2 no DIRAC found, toggles or database unusable, or nothing to report"""

_answers: TextIO = sys.stdout


class _Refused(OperatorError):
    """The command refuses: exit code 1, not 2."""


def _tell(text: str) -> None:
    """Print a line of the answer."""
    print(text, file=_answers)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Those after the name of the command; those of the process if None.

    Returns:
        The exit code: see ``dirac-perfpatch --help``.
    """
    global _answers
    options = _parser().parse_args(arguments)
    _answers = sys.stdout
    if isinstance(_answers, io.TextIOWrapper):  # a name may have letters that the terminal lacks
        _answers.reconfigure(errors="backslashreplace")
    try:
        # The host logs to standard output, which is for the answer.
        with contextlib.redirect_stdout(sys.stderr):
            return int(options.run(options))
    except OperatorError as error:
        print(f"dirac-perfpatch: {error}", file=sys.stderr)
        return BAD if isinstance(error, _Refused) else UNUSABLE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("dirac-perfpatch", description=__doc__, epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"dirac-perfpatch {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.set_defaults(run=run)
        return command

    show = add("status", _status, "show the state of each patch in a new process")
    check = add("check", _check, "compare the answers of each patch with those of stock DIRAC")
    bench = add("bench", _bench, "measure calls with each patch on and off")
    bench.add_argument(
        "--rounds", type=_count, default=5, help="measurements off and on, in turn (default: %(default)s)"
    )
    for command in (show, check, bench):
        command.add_argument("--json", action="store_true", help="print JSON")
    for command, sent in ((check, "sends only SELECT"), (bench, "opens up to 10 connections, sends only SELECT")):
        text = f"for the patches of the MySQL pool: {database.HELP}; {sent}"
        command.add_argument("--db", metavar="DATABASE", help=text)
    report = add("report", _report, "compare the recorded patched and stock calls")
    report.add_argument("folders", nargs="*", metavar="FOLDER", help="a spool (default: that of this installation)")
    for name, text in (("html", "one page with plots"), ("json", "all figures"), ("csv", "a line per target")):
        report.add_argument(f"--{name}", metavar="FILE", help=f"write {text}; - for standard output")
    add("init", _init, "write a documented patches.yaml where DIRAC looks for it")
    export = add("export", _export, "serve the recorded comparisons to Prometheus")
    export.add_argument("--port", type=int, default=18524, help="0 for any free port (default: %(default)s)")
    export.add_argument("--address", default="0.0.0.0", help="the address to listen on (default: all IPv4 addresses)")
    export.add_argument("--spool", type=Path, help="the spool folder (default: that of this installation)")
    change = add(
        "set", _set, "change toggles in the file, keeping its comments; running processes apply them within seconds"
    )
    text = "such as error_stack=off, connection_checkout.idle_ping_seconds=10, enabled=off, comparison.share=0.1"
    change.add_argument("settings", nargs="+", metavar="NAME[.OPTION]=VALUE", help=text)
    change.add_argument("--file", help="change this file instead of the one that DIRAC reads")
    return parser


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
    """Load the plugin in the way that any DIRAC process does. Returns: the release of the host."""
    try:
        importlib.import_module("DIRAC.Core.Utilities.Extensions").extensionsByPriority()
        waking.start()
        return str(sys.modules["DIRAC"].version)
    except ImportError as error:
        raise OperatorError(f"no DIRAC can be imported by {sys.executable}: {error}") from None


def _load_targets() -> dict[str, str]:
    """Import the modules of all targets. Returns: why a module cannot be imported, by its name."""
    missing = {}
    with contextlib.ExitStack() as stack:
        # Without mysqlclient nothing can connect, and the import below reports that.
        with contextlib.suppress(ImportError):
            stack.enter_context(no_connecting())
        for module in {module for patch in CATALOGUE for target in patch.targets for module in target.modules}:
            try:
                importlib.import_module(module)
            except Exception as error:  # host modules may raise anything
                missing[module] = f"{module} cannot be imported here: {type(error).__name__}: {error}"
    return missing


def _load(options: argparse.Namespace) -> tuple[str, Database | None, list[dict[str, Any]]]:
    """Load all targets. Returns: the release, the database that may be asked, and the entries of status."""
    release = _load_host()
    asked = database.find(options.db) if options.db else None
    missing = _load_targets()
    entries = _entries(lambda name, target, told: (ARMED, missing.get(told["module"], told["reason"])))
    if loading.plugin.problem:
        raise SystemExit(UNUSABLE)  # the start has reported it
    return release, asked, entries


def _entries(judge: Callable[[str, Target, Mapping[str, Any]], tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the entries of status; the function returns the state and the reason of an armed target of a patch."""
    entries = status()
    for patch, entry in zip(CATALOGUE, entries):
        for target, told in zip(patch.targets, entry["targets"]):
            if told["state"] == ARMED:
                told["state"], told["reason"] = judge(patch.name, target, told)
        if entry["state"] == ARMED:
            # A patch is not stood down while one of its targets will be applied.
            worst = min(entry["targets"], key=lambda told: (FAILED, ARMED, STOOD_DOWN).index(told["state"]))
            remark = entry["reason"].partition("; ")[2]
            entry["state"], entry["reason"] = worst["state"], "; ".join(filter(None, (worst["reason"], remark)))
        more = [reason for reason in unknown(entry["targets"]) if reason not in entry["reason"]]
        entry["reason"] = "; ".join(filter(None, (entry["reason"], *more)))
    return entries


def _exit_code(entries: Iterable[Mapping[str, Any]]) -> int:
    if loading.plugin.problem:
        return UNUSABLE
    return BAD if {FAILED, TRIPPED}.intersection(entry["state"] for entry in entries) else OK


def _answer(as_json: bool, data: Any, title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print an answer: the data as JSON, or the title and a table."""
    if as_json:
        _tell(json.dumps(data, indent=2))
        return
    _tell(title)
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        _tell("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _status(options: argparse.Namespace) -> int:
    release, source = _load_host(), loading.plugin.source
    entries = _entries(lambda name, target, told: preview.foresee(target, *_judged_by(name)))
    tripped = _tripped_elsewhere()
    data = {"dirac": release, "toggles": source, "patches": entries, "running": tripped}
    header = ("name", "state", "reason")
    rows = ([entry[key] for key in header] for entry in entries)
    _answer(options.json, data, f"DIRAC {release}, toggles from {source}", ("patch", *header[1:]), rows)
    if not options.json:
        for entry in tripped:
            _tell(f"{entry['name']} has tripped in {entry['component']}, process {entry['pid']}: {entry['reason']}")
    return _exit_code([*entries, *tripped])


def _judged_by(name: str) -> tuple[bool, bool]:
    toggle = loading.plugin.toggles[name]
    return toggle.in_tree == toggles.REPLACE, toggle.force


def _tripped_elsewhere() -> list[dict[str, Any]]:
    """Return the tripped patches of other running processes of this machine, as their snapshots tell."""
    from dirac_perfpatch.comparison.spool import host_name, process_of
    from dirac_perfpatch.comparison.spool_reading import Unusable, list_files, read_file

    found = []
    for path in list_files(filter(None, [loading.plugin.spool()]), []):
        pid = process_of(path)
        if pid is None or not _runs(pid):
            continue  # known without reading it: most are of processes that have ended
        try:
            snapshot = read_file(path, blocks=False)
        except (OSError, Unusable):
            continue  # `report` reports those
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
    except OSError as error:
        return isinstance(error, PermissionError)  # it belongs to another user
    return True


def _check(options: argparse.Namespace) -> int:
    release, asked, entries = _load(options)
    rows = []
    for patch, entry in zip(CATALOGUE, entries):
        reason = ": ".join(filter(None, (entry["state"], entry["reason"])))
        verdict = _compare(patch, asked) if entry["state"] == APPLIED else ("not asked", reason)
        rows.append((patch.name, *verdict))
    data = {"dirac": release, "patches": [dict(zip(("name", "answer", "reason"), row)) for row in rows]}
    _answer(options.json, data, f"DIRAC {release}", ("patch", "answer", "reason"), rows)
    return BAD if any(answer == "differs" for _, answer, _ in rows) else _exit_code(status())


def _compare(patch: Patch, asked: Database | None) -> tuple[str, str]:
    """Judge a patch's answers. A difference counts only if it recurs: on a busy machine a call may fail."""
    verdict = _compare_once(patch, asked)
    return _compare_once(patch, asked) if verdict[0] == "differs" else verdict


def _compare_once(patch: Patch, asked: Database | None) -> tuple[str, str]:
    """Ask twice with the patch on, so that the second answer comes from its cache, and once with it off."""
    switch = loading.plugin.switches[patch.name]
    before, answers = switch.guard.failures, []
    try:
        for on in (True, True, False):
            switch.put_on() if on else switch.take_off()
            # One line asks all three times: an answer may hold the call stack.
            answers.append(_ask(patch, asked))
    except NotAsked as error:
        return "not asked", str(error)
    finally:
        switch.put_on()
    first, second, stock = answers
    failures = switch.guard.failures - before
    if failures:
        return "differs", f"failures of the patch's own code: {failures}"
    if first == second == stock:
        answered, text = stock
        return ("same as stock", "") if answered else ("not asked", f"DIRAC itself fails here, too: {text}")
    return "differs", "the patched answer differs from stock; switch this patch off and report it"


def _ask(patch: Patch, asked: Database | None) -> tuple[bool, Any]:
    """Return whether the host answered, and the answer or the error. Without a configuration, some functions raise."""
    try:
        return True, patch.ask(asked)
    except NotAsked:
        raise
    except Exception as error:
        return False, f"{type(error).__name__}: {error}"


def _bench(options: argparse.Namespace) -> int:
    from dirac_perfpatch import bench

    release, asked, entries = _load(options)
    reasons = {e["name"]: "" if e["state"] == APPLIED else f"{e['state']}; {e['reason']}" for e in entries}
    found = list(bench.compare(reasons, asked, options.rounds))
    data = {"dirac": release, "calls": [one.as_dict() for one in found]}
    title = f"DIRAC {release}, microseconds per call: the minimum with the patch off and on"
    header = ("patch", "call", "stock", "patched", "ratio", "")
    _answer(options.json, data, title, header, (one.as_row() for one in found))
    return _exit_code(status())


def _report(options: argparse.Namespace) -> int:
    folders = options.folders or [_spool()]
    try:
        from dirac_perfpatch.comparison.report import build
        from dirac_perfpatch.comparison.spool_reading import read_spools
        from dirac_perfpatch.comparison.tables import as_csv, as_json, as_text

        if options.html:
            from dirac_perfpatch.comparison.page import as_html
    except ImportError as error:
        raise OperatorError(f"report needs more libraries ({error}): pip install 'dirac-perfpatch[report]'") from None
    found = build(folders, read_spools(folders))
    if options.html:
        _write(options.html, as_html(found))
    if options.json:
        _write(options.json, as_json(found))
    if options.csv:
        _write(options.csv, as_csv(found))
    if "-" not in (options.html, options.json, options.csv):
        _tell(as_text(found))
    if not found.processes:
        return UNUSABLE
    return BAD if any(patch.troubles for patch in found.patches) else OK


def _spool() -> str:
    _load_host()
    folder = loading.plugin.spool()
    if folder is None:
        raise OperatorError("this DIRAC does not say where its root is; name the spool folder on the command line")
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
    """Return the path of the file that DIRAC reads, or would read."""
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
        raise _Refused(f"{path} already exists and was not changed; change it with `dirac-perfpatch set`")
    _tell(f"wrote {path}")
    return OK


def _change(path: str, settings: Sequence[str]) -> bool:
    from dirac_perfpatch import editing

    try:
        return editing.change(path, settings)
    except OperatorError as error:
        raise _Refused(str(error)) from None


def _export(options: argparse.Namespace) -> int:
    try:
        from dirac_perfpatch.comparison import exporter
    except ImportError as error:
        raise OperatorError(f"export needs another library ({error}): pip install 'dirac-perfpatch[export]'") from None
    spool = options.spool or Path(_spool())

    def ready(port: int) -> None:
        _tell(f"serving {spool} at http://{options.address}:{port}/metrics")
        _answers.flush()

    try:
        exporter.serve(spool, options.address, options.port, ready)
    except (OSError, OverflowError) as error:
        raise OperatorError(f"cannot listen on {options.address}:{options.port}: {error}") from None
    return OK


if __name__ == "__main__":
    sys.exit(main())
