"""What each patch does on each release of DIRAC from 8.0.0 on: `make matrix`, or `python3 -m lab.matrix`.

For each release the released wheel is put over the dependencies of a later release of its line, and is asked by
`dirac-perfpatch status` and `check`, with a real database. If it cannot be imported there, it gets an environment of
its own. `--write` writes docs/releases.md.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from dirac_perfpatch.patching import unknown

from . import configuration, hosts
from .command import end_when_told, say
from .folder import CHECKOUT, make
from .machine import ensure_packages
from .mariadb import MariaDB

LABEL = "matrix"
PAGE = CHECKOUT / "docs" / "releases.md"
# Releases in which a target has a new form, as `python3 -m lab.forms` prints them.
NEW_FORMS = (
    *("8.0.2", "8.0.15", "8.0.19", "8.0.39", "8.0.59", "8.0.83", "9.0.7", "9.0.25", "9.1.9", "9.1.10", "9.1.12"),
    *("9.1.13", "9.1.14", "9.1.15", "9.1.16", "9.1.17", "9.1.18", "9.1.20"),
)
# Old releases import pkg_resources, which environments had when they were new.
SETUPTOOLS = "setuptools<81"
WORKERS = 2
SECONDS = 400.0  # far more than any takes on a busy machine
STATES = APPLIED, REPLACED, STANDS_DOWN, UNKNOWN, FAILED, ABSENT = (
    *("applied", "replaced", "stands down"),
    *("unknown", "failed", "not there"),
)
SAME = "same as stock"


class Outcome(NamedTuple):
    """What a patch does on a release.

    state: one of the words above; reason: why, if it failed; answer: what `dirac-perfpatch check` says.
    """

    state: str
    reason: str
    answer: str


# By the name of the patch.
Outcomes = Mapping[str, Outcome]


class Unusable(Exception):
    """A release could not be asked; the text says why."""


def main() -> None:
    parser = argparse.ArgumentParser("python3 -m lab.matrix", description=__doc__)
    parser.add_argument("--all", action="store_true", help="every release, not a sample")
    parser.add_argument("--releases", type=lambda text: text.split(","), help="these releases, as 9.1.9,9.1.10")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(CHECKOUT)}")
    options = parser.parse_args()
    end_when_told()
    ensure_packages()
    there = hosts.released()
    releases = options.releases or (there if options.all else sample(there))
    folder = make("perfpatch-matrix-")
    with MariaDB(folder / "mariadb") as database, ThreadPoolExecutor(WORKERS) as pool:
        database.execute("CREATE DATABASE matrix")
        alike = {release: hosts.last_alike(release, there) for release in releases}
        bases = {release: _base(release) for release in dict.fromkeys(alike.values())}
        judged = pool.map(lambda release: _judge(release, bases[alike[release]], database), releases)
        found = dict(zip(releases, judged))
    page = as_page(found, there)
    print(page)
    if options.write:
        PAGE.write_text(page)


def sample(releases: Sequence[str]) -> list[str]:
    """The first and the last release of each line, those that are tested in full, and those with new forms."""
    lines = [list(same) for _, same in groupby(releases, lambda release: hosts.number(release)[:2])]
    chosen = {*(line[place] for line in lines for place in (0, -1)), *hosts.RELEASES, *NEW_FORMS}
    return [release for release in releases if release in chosen]


def _base(release: str) -> hosts.Host:
    """An environment of a release, on the Python of its line, with the plugin."""
    pythons = {hosts.number(full)[:2]: version for full, version in hosts.matrix()}
    host = hosts.environment(release, pythons.get(hosts.number(release)[:2]), label=LABEL)
    hosts.install_plugin(host, CHECKOUT)
    return host


def _judge(release: str, base: hosts.Host, database: MariaDB) -> Outcomes | str:
    """The outcomes of a release by patch, or why there are none."""
    say(release)
    try:
        overlay = hosts.overlay(base, release, SETUPTOOLS)
        try:
            return _ask(release, base, database, overlay)
        except Unusable as error:
            say(f"{release}: {error}; in an environment of its own")
            return _ask(release, _base(release), database)
    except subprocess.CalledProcessError:
        return "cannot be installed"
    except Unusable as error:
        return str(error)


def _ask(release: str, host: hosts.Host, database: MariaDB, overlay: Path | None = None) -> Outcomes:
    """The outcomes of a release by patch. Errors: Unusable if a part of DIRAC cannot be imported there."""
    root = make("perfpatch-release-")
    layout = configuration.Layout({}, {}, "", 0, "", "", root, release.startswith("8."), sites=30, users=1)
    tree = configuration.published(layout)
    setup = {"Setup": configuration.SETUP} if layout.levels else {}
    tree["DIRAC"] = {"Security": {"SkipCAChecks": "yes"}, **setup}
    (root / "etc").mkdir()
    (root / "etc" / "dirac.cfg").write_text(configuration.text(tree))
    server = {"host": database.host, "port": database.port, "user": database.user, "password": database.password}
    lines = [f"{name} = {value}" for name, value in {**server, "database": "matrix"}.items()]
    (root / "my.cnf").write_text("\n".join(["[client]", *lines]) + "\n")
    environment = host.process_env(root, overlay, X509_CERT_DIR=str(root))
    status, _ = _command(host, environment, "status", "--json")
    if status["dirac"] != release:
        raise Unusable(f"is not what runs, but {status['dirac']}")
    checked, messages = _command(host, environment, "check", "--json", "--db", str(root / "my.cnf"))
    answers = {entry["name"]: entry for entry in checked["patches"]}
    failures = dict(re.findall(r"(\w+): cannot patch (.*); DIRAC runs its own code there", messages))
    return {
        entry["name"]: _outcome(entry, answers[entry["name"]], failures.get(entry["name"], ""))
        for entry in status["patches"]
    }


def _command(host: hosts.Host, environment: dict[str, str], *arguments: str) -> tuple[Any, str]:
    """What `dirac-perfpatch` says: the data, and the text of its messages. Errors: Unusable if it says nothing."""
    command = [str(host.bin / "dirac-perfpatch"), *arguments]
    nowhere, pipe = subprocess.DEVNULL, subprocess.PIPE
    try:
        done = subprocess.run(
            command, env=environment, stdin=nowhere, stdout=pipe, stderr=pipe, text=True, timeout=SECONDS, check=False
        )
        return json.loads(done.stdout), done.stderr
    except subprocess.TimeoutExpired:
        raise Unusable(f"`{arguments[0]}` does not end") from None
    except ValueError:
        raise Unusable((done.stderr.strip() or "no answer").splitlines()[-1]) from None


def _outcome(entry: Mapping[str, Any], checked: Mapping[str, str], failure: str) -> Outcome:
    """entry: of status; checked: of check; failure: what check said when it imported the target."""
    reasons = [target["reason"] for target in entry["targets"]]
    answer = checked["answer"] if checked["answer"] != "not asked" else ""
    state = checked["reason"].partition(": ")[0] if checked["answer"] == "not asked" else ""
    if "failed" in (entry["state"], state):
        return Outcome(FAILED, failure or entry["reason"], answer)
    if unknown(entry["targets"]):
        return Outcome(UNKNOWN, "", answer)
    if entry["state"] == "stood down":
        return Outcome(STANDS_DOWN, "", answer)
    if all(reason.startswith("there is no ") for reason in reasons):
        return Outcome(ABSENT, "", answer)
    if state == "armed":
        raise Unusable(f"{entry['name']}: a module cannot be imported")
    if any("replaces the host's own version" in reason for reason in reasons):
        return Outcome(REPLACED, "", answer or checked["reason"])
    return Outcome(APPLIED, "", answer or checked["reason"])


def as_page(found: Mapping[str, Outcomes | str], there: Sequence[str]) -> str:
    """The page: a row for each span of releases with the same outcomes. there: all the releases that there are."""
    is_all = len(found) == len(there)
    asked = "Every release was asked." if is_all else f"A sample was asked: {', '.join(found)}."
    rows = [f"| {span} | {' | '.join(_cells(outcomes))} |" for span, outcomes in hosts.spans(found.items())]
    return "\n".join([_HEAD.format(full=", ".join(hosts.RELEASES), asked=asked), *rows, ""])


_HEAD = """# Releases of DIRAC

`python3 -m lab.matrix --all --write` writes this page; `make matrix` asks a sample. It puts the plugin beside each
release, as released, and asks `dirac-perfpatch status` and `check`, with a real database. {full}
are tested in full.

{asked}

*Replaced* means that DIRAC has a version of its own that answers wrongly ([in-tree.md](in-tree.md)). A patch
*stands down* if this release needs none. What is *unknown* to this version of the plugin stays off unless forced. If a
patch *failed*, DIRAC's own code runs. *check* compares with the answers of DIRAC's own code.

| releases | applied | replaced | stands down | unknown | failed | check |
|---|---|---|---|---|---|---|"""


def _cells(outcomes: Outcomes | str) -> list[str]:
    if isinstance(outcomes, str):
        return ["", "", "", "", outcomes, "not asked"]
    names = {state: [name for name, one in outcomes.items() if one.state == state] for state in STATES}
    failed = [f"`{name}`: {outcomes[name].reason or ABSENT}" for name in [*names[FAILED], *names[ABSENT]]]
    on = [*names[APPLIED], *names[REPLACED]]
    odd = [f"`{name}`: {outcomes[name].answer}" for name in on if outcomes[name].answer != SAME]
    return [
        str(len(names[APPLIED])),
        *(", ".join(f"`{name}`" for name in names[state]) for state in (REPLACED, STANDS_DOWN, UNKNOWN)),
        "; ".join(failed),
        "; ".join(odd) or SAME,
    ]


if __name__ == "__main__":
    main()
