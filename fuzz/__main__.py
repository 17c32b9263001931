"""Throw made-up bytes at what the plugin reads, and say what breaks.

The readers are those of the toggles (our own and PyYAML) and of snapshots of the spool, and two patches that must do
what DIRAC does: the parser of configurations, and the dates of JEncode. atheris (libFuzzer) follows the lines of code
that are reached. It begins with samples of this repository and with what earlier runs kept. The exit code is 1 if
something was found.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import hosts, processes
from lab.command import end_when_told, say
from lab.folder import CHECKOUT, make
from lab.machine import ensure_packages
from lab.table import aligned

NAMES = ("toggles", "snapshots", "configurations", "dates")
LIBRARIES = ["wrapt>=1.14", "PyYAML>=5.4", "importlib_metadata>=4.4", "ddsketch>=2", "numpy", "prometheus_client>=0.20"]
LIBRARIES += ["diraccfg>=1.0.1"]
# The one module of DIRAC that is needed; it imports nothing else of DIRAC.
JENCODE = Path("DIRAC", "Core", "Utilities", "JEncode.py")
# At once: the machines that this must run on have two cores.
WORKERS = 2


def main() -> None:
    options = _options()
    end_when_told()
    ensure_packages()
    python = _python()
    env = hosts.clean_environment(PYTHONPATH=f"{CHECKOUT}:{_jencode()}", PYTHONDONTWRITEBYTECODE="1")
    if options.replay:
        name, *files = options.replay
        sys.exit(subprocess.call([str(python), "-m", "fuzz.loop", name, *files], env=env, cwd=CHECKOUT))
    names = options.only or NAMES
    seconds = max(1, round(options.seconds * WORKERS / len(names))) if len(names) > WORKERS else options.seconds
    say(f"{seconds} s for each of {', '.join(names)}; {min(WORKERS, len(names))} at once")
    folders = [_begin(name, python, env) for name in names]
    with ThreadPoolExecutor(WORKERS) as pool:
        codes = list(pool.map(lambda folder: _run(python, env, folder, seconds), folders))
    print("\n" + aligned([("reader", "texts", "reached", "kept", "verdict"), *map(_row, folders, codes)]) + "\n")
    for folder, code in zip(folders, codes):
        _tell(folder, code)
    sys.exit(1 if any(codes) else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=600, help="for everything (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="READER", help=f"some of: {', '.join(NAMES)}")
    parser.add_argument("--replay", nargs="+", metavar=("READER", "FILE"), help="try these files, with the traceback")
    options = parser.parse_args()
    if options.replay and (options.replay[0] not in NAMES or len(options.replay) < 2):
        parser.error(f"--replay needs one of {', '.join(NAMES)}, and files")
    return options


def _python() -> Path:
    """The Python of an environment with atheris, or with hypothesis if atheris cannot be installed here."""
    try:
        return hosts.plain_environment("fuzz", ["atheris>=2.3", *LIBRARIES]) / "python"
    except subprocess.CalledProcessError:
        say("atheris cannot be installed on this machine: hypothesis makes the texts, and nobody follows the lines")
        return hosts.plain_environment("fuzz-hypothesis", ["hypothesis>=6", *LIBRARIES]) / "python"


def _jencode() -> Path:
    """A folder to import DIRAC's JEncode from."""
    folder = make("perfpatch-fuzz-")
    target = folder / JENCODE
    target.parent.mkdir(parents=True)
    for parent in target.relative_to(folder).parents[:-1]:
        (folder / parent / "__init__.py").touch()
    shutil.copyfile(hosts.environment(hosts.COMPARED).site_packages / JENCODE, target)
    return folder


def _begin(name: str, python: Path, env: dict[str, str]) -> Path:
    """The folder of a check, with the corpus of earlier runs and the seeds, and without what earlier runs found."""
    folder = hosts.cache_folder() / "fuzz" / name
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    for path in (*folder.glob("found-*"), *folder.glob("log")):
        path.unlink()
    subprocess.run([str(python), "-m", "fuzz.seeds", name, str(folder)], env=env, cwd=CHECKOUT, check=True)
    return folder


def _run(python: Path, env: dict[str, str], folder: Path, seconds: int) -> int:
    command = [str(python), "-m", "fuzz.loop", folder.name, str(folder), str(seconds)]
    code = processes.start(command, folder / "log", env, folder=CHECKOUT).wait()
    say(f"{folder.name}: {'something was found' if code else 'done'}")
    return code


def _row(folder: Path, code: int) -> tuple[str, ...]:
    log = (folder / "log").read_text(errors="replace")
    tried = re.findall(r"stat::number_of_executed_units: *(\d+)", log)
    reached = re.findall(r" cov: (\d+)", log)
    kept = sum(1 for _ in (folder / "corpus").iterdir())
    return folder.name, (tried or ["?"])[-1], (reached or ["?"])[-1], str(kept), "FOUND" if code else "nothing found"


def _tell(folder: Path, code: int) -> None:
    if not code:
        return
    print((folder / "log").read_text(errors="replace")[-3000:])
    for path in sorted(folder.glob("found-*")):
        print(f"{path.read_bytes()!r:.500}\nreplay: python3 -m fuzz --replay {folder.name} {path}")


if __name__ == "__main__":
    main()
