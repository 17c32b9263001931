"""Run one check on made-up bytes: `python -m fuzz.loop CHECK FOLDER SECONDS`, or on files: `... CHECK FILE...`.

By atheris, which keeps the bytes that reach new lines of the code, if it is installed; else by hypothesis.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

# Seconds for one text, and megabytes for the process: more counts as found.
_SECONDS = 5
_MEGABYTES = 1024
_LONGEST = 2500
_INSTRUMENTED = ["dirac_perfpatch", "yaml", "diraccfg", "DIRAC"]


def main() -> None:
    """Read the command line. An exit code other than 0 means that something was found."""
    name, first, *rest = sys.argv[1:]
    if Path(first).is_dir():
        (_by_atheris if _has_atheris() else _by_hypothesis)(name, Path(first), int(rest[0]))
        return
    from fuzz.checks import CHECKS

    check = CHECKS[name]()
    for file in (first, *rest):
        check(Path(file).read_bytes())
    print(f"{name}: {len(rest) + 1} files, nothing found")


def _has_atheris() -> bool:
    try:
        import atheris  # noqa: F401
    except ImportError:
        return False
    return True


def _by_atheris(name: str, folder: Path, seconds: int) -> None:
    import atheris

    with atheris.instrument_imports(include=_INSTRUMENTED):
        from fuzz.checks import CHECKS

        check = CHECKS[name]()
    options = {"max_total_time": seconds, "timeout": _SECONDS, "rss_limit_mb": _MEGABYTES, "max_len": _LONGEST}
    words = [f"-{option}={value}" for option, value in options.items()]
    words += ["-print_final_stats=1", f"-dict={folder}/dictionary", f"-artifact_prefix={folder}/found-"]
    atheris.Setup([sys.argv[0], *words, str(folder / "corpus")], check)
    atheris.Fuzz()


def _by_hypothesis(name: str, folder: Path, seconds: int) -> None:
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    from fuzz.checks import CHECKS

    check = CHECKS[name]()
    corpus = [path.read_bytes() for path in sorted((folder / "corpus").iterdir())]
    resource.setrlimit(resource.RLIMIT_AS, (_MEGABYTES << 20,) * 2)
    tried, end = 0, time.monotonic() + seconds

    @st.composite
    def changed(draw: st.DrawFn) -> bytes:
        text = bytearray(draw(st.sampled_from(corpus)))
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(0, len(text)))
            text[at : at + draw(st.integers(0, 12))] = draw(st.binary(max_size=6))
        return bytes(text)

    def try_one(data: bytes) -> None:
        nonlocal tried
        tried += 1
        began = time.monotonic()
        try:
            check(data)
            assert time.monotonic() - began < _SECONDS
        except BaseException:
            (folder / "found-by-hypothesis").write_bytes(data)  # the last one is the shortest
            raise

    options = settings(
        max_examples=500,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    try_some = given(st.one_of(changed(), st.binary(max_size=200)))(options(try_one))
    while time.monotonic() < end:
        try_some()
    print(f"stat::number_of_executed_units: {tried}")


if __name__ == "__main__":
    main()
