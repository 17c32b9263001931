"""The software bill of materials: what the wheel needs at run time, as CycloneDX JSON."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from lab import hosts

from . import building, checks

_PROJECT = """[project]
name = {name}
version = {version}
description = {summary}
license = {license}
dependencies = {dependencies}
"""


def write(python: Path, wheel: Path, path: Path) -> str:
    """Describe an environment.

    python: its interpreter; it has the wheel without extras and nothing else; path: of the file to write.
    Returns: a remark. Errors: CheckError if it names too much or too little.
    """
    told, needed = checks.read_metadata(wheel), checks.requirements(wheel)
    # The tool takes the main component from a pyproject.toml, in which ours has no such table.
    project = path.with_suffix(".toml")
    quoted = {"name": told["Name"], "version": told["Version"], "summary": told["Summary"], "license": told["License"]}
    quoted = {key: json.dumps(value) for key, value in quoted.items()}
    project.write_text(_PROJECT.format(**quoted, dependencies=json.dumps(needed)))
    command = [building.tools() / "cyclonedx-py", "environment", "--pyproject", project, "--mc-type", "library"]
    command += ["--output-reproducible", "--output-file", path, python]
    env = hosts.clean_environment(SOURCE_DATE_EPOCH=str(building.commit_time()))
    output = subprocess.STDOUT
    done = subprocess.run(list(map(str, command)), env=env, stdout=subprocess.PIPE, stderr=output, check=False)
    project.unlink()
    if done.returncode:
        raise checks.CheckError(" ".join(done.stdout.decode().split()))
    return check(json.loads(path.read_text()), told["Version"])


def check(bill: dict[str, Any], version: str) -> str:
    """Whether a bill is of this version, with what it needs directly, and what that needs. Errors: CheckError."""
    main = bill["metadata"]["component"]
    parts = {part["bom-ref"]: part for part in bill["components"]}
    needs = {entry["ref"]: entry.get("dependsOn", []) for entry in bill["dependencies"]}
    direct = {parts[ref]["name"] for ref in needs[main["bom-ref"]]}
    if (main["name"], main["version"], direct) != (checks.DISTRIBUTION, version, checks.AT_RUN_TIME):
        raise checks.CheckError(f"{main['name']} {main['version']} needs {', '.join(sorted(direct))}")
    reached, pending = set(), [main["bom-ref"]]
    while pending:
        ref = pending.pop()
        pending += [other for other in needs[ref] if other not in reached]
        reached.add(ref)
    if more := sorted(set(parts) - reached):
        raise checks.CheckError(f"nothing needs {', '.join(more)}")
    unlicensed = sorted(ref for ref, part in parts.items() if not part.get("licenses"))
    if unlicensed:
        raise checks.CheckError(f"no licence is known of {', '.join(unlicensed)}")
    return ", ".join(f"{part['name']} {part['version']}" for part in parts.values())
