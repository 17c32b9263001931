"""How often equal arms are called different: A/A comparisons through recorder and report, checked continually.

`python3 -m bench.aa` takes half an hour and needs what the report needs. It looks at the report after each pair of
windows or each window. A rate is the share of comparisons in which any look said faster or slower (median or mean), or
that errors differ.
"""

from __future__ import annotations

import argparse
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from random import seed
from typing import Any, NamedTuple

import numpy

from dirac_perfpatch.comparison import report, rows
from dirac_perfpatch.comparison.arms import Comparison
from dirac_perfpatch.comparison.clock import Clock
from dirac_perfpatch.comparison.effects import Effects
from dirac_perfpatch.comparison.recording import ArmRecord
from dirac_perfpatch.comparison.snapshot import ARMS, KINDS, PATCHED, STOCK, Block, Snapshot, State, parse
from dirac_perfpatch.comparison.statistics import FASTER, SLOWER, judge
from dirac_perfpatch.patching import Guard, Patch
from dirac_perfpatch.toggles import Toggle
from lab import spools

SHARES = (0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95)
HOSTS = 24
_WINDOW = 60.0
_PATCH = Patch("p", (), lambda database: None)


class Load(NamedTuple):
    """The load on a target.

    per_minute: number of calls; times: draws that many times; errors: the fraction of calls that fail; bursts: the
    fraction of windows in which half the calls fail.
    """

    per_minute: float
    times: Callable[[numpy.random.Generator, int], Any]
    errors: float = 0.01
    bursts: float = 0.0


def _skewed(random: numpy.random.Generator, number: int) -> Any:
    return random.lognormal(-9, 1.5, number)


def _bimodal(random: numpy.random.Generator, number: int) -> Any:
    return 1e-4 * random.lognormal(0, 0.1, number) * numpy.where(random.random(number) < 0.2, 10, 1)


def _halves(random: numpy.random.Generator, number: int) -> Any:
    return 1e-4 * random.lognormal(0, 0.1, number) * numpy.where(random.random(number) < 0.45, 10, 1)


LOADS = {
    "skewed": Load(30, _skewed, bursts=0.03),
    "bimodal": Load(20, _bimodal),
    "nearly half slow": Load(30, _halves, bursts=0.1),
    "sparse": Load(4, _bimodal, errors=0.02),
    "very sparse": Load(1, _skewed, errors=0.1, bursts=0.03),
}


def wrong(kind: str, share: float, load: Load, units: int, run: int) -> tuple[bool, bool, bool]:
    """Whether any look at an A/A comparison said that medians, means, or errors differ.

    kind: time, call or process; share: the patched one; units: number of pairs of windows, or of windows.
    """
    found = [False] * 3
    for median, mean, errors in looks(kind, share, load, units, run):
        found[0] |= judge(median, kind).word in (FASTER, SLOWER)
        found[1] |= judge(mean, kind).word in (FASTER, SLOWER)
        found[2] |= bool(errors)
    return found[0], found[1], found[2]


def looks(
    kind: str, share: float, load: Load, units: int, run: int, faster: float = 1.0, errors: float = 1.0
) -> Iterator[Any]:
    """The report's estimates after each unit.

    faster, errors: how many times faster a patched call is, and how many times more often it fails.
    """
    random = numpy.random.default_rng([run, units, zlib.crc32(f"{kind} {share} {load.per_minute}".encode())])
    if kind == "process":
        yield from _looks_at_processes(random, share, load, units, faster, errors)
        return
    pairs = report.pairs_of(_blocks(random, kind, share, load, units, faster, errors), kind)
    for number in range(1, len(pairs) + 1):
        yield rows.of_pairs(pairs[:number])


def _looks_at_processes(
    random: numpy.random.Generator, share: float, load: Load, units: int, faster: float, errors: float
) -> Iterator[Any]:
    found = []
    patched = random.permutation(HOSTS) < max(3, min(HOSTS - 3, round(HOSTS * share)))
    for host, arm in enumerate(patched.tolist()):
        state = State("applied", "", "ab", 0, "process", share, _WINDOW, PATCHED if arm else STOCK)
        snapshot = Snapshot(f"h{host}", "A/B", "", "", 1, 0.0, 0.0, False, 0.0, 0, {"p": state}, (), (), {})
        pace = random.lognormal(0, 0.3)
        own = load._replace(times=lambda *some, pace=pace: pace * load.times(*some), errors=load.errors * pace**2)
        found.append((snapshot, _blocks(random, "process", share, own, units, faster, errors, arm)))
    for number in range(1, units + 1):
        yield report._of_processes("p", [(snapshot, blocks[:number]) for snapshot, blocks in found])


def _blocks(
    random: numpy.random.Generator,
    kind: str,
    share: float,
    load: Load,
    units: int,
    faster: float,
    errors: float,
    process_arm: bool = True,
) -> list[Block]:
    """The blocks that one process records for a target."""
    toggle = Toggle("ab", {}, kind, share, _WINDOW)
    comparison = Comparison(_PATCH, Guard("p", lambda reason: None), toggle, 0, process_arm)
    clock = Clock(*Clock.key(toggle, together=False))
    clock._random.seed(int(random.integers(1 << 32)))
    seed(int(random.integers(1 << 32)))  # for the recorder's own draws
    comparison.record("f", lambda: None, lambda: None, None)
    (recorder,) = comparison.recorders
    now = drift = 0.0
    clock.add(comparison)
    comparison.begin(now, now)
    while now < units * _WINDOW * (2 if kind == "time" else 1):
        length = clock.tick(now, now) - now
        drift += random.normal(0, 0.05) * math.sqrt(length / _WINDOW)
        level, busy = math.exp(drift + random.normal(0, 0.1)), load.per_minute * random.lognormal(0, 0.5)
        burst = random.random() < load.bursts
        for arm in ARMS if kind == "call" else (PATCHED if comparison.patched else STOCK,):
            part = {PATCHED: share, STOCK: 1 - share}[arm] if kind == "call" else 1.0
            number = int(random.poisson(busy * part * length / 60))
            failing = 0.5 if burst else min(1.0, load.errors * (errors if arm == PATCHED else 1.0))
            times = level * load.times(random, number) / (faster if arm == PATCHED else 1.0)
            record = recorder.arms[arm] if kind == "call" else recorder.now
            _call(record, times.tolist(), int(random.binomial(number, failing)))
        now += length
    clock.tick(now, now)
    return list(recorder.blocks)


def _call(record: ArmRecord, times: Iterable[float], errors: int) -> None:
    for seconds in times:
        record.tick()
        record.waiting.append(seconds)
    for _ in range(errors):
        record.failed()


def outcomes(pairs: int, run: int) -> dict[str, list[bool]]:
    """What the report says of requests, where one of three patches makes them 1.3 times as fast.

    Returns: by the name of the patch, whether any look said that medians, means, CPU times or errors differ.
    For "fast", whether it was found, and whether the interval had the truth at each look.
    """
    made = {"nothing": 1.0, "fast": 1.3, "nothing either": 1.0}
    snapshot = parse(
        json.dumps(spools.felt(numpy.random.default_rng([run, pairs]), made, pairs, per_window=8.0)).encode()
    )
    found = {patch: [False] * 4 for patch in made}
    found["fast"] = [False, True]
    for seen in range(8, pairs + 1, 8):
        windows = snapshot.outcomes.windows[: 2 * seen]
        effects = Effects([snapshot._replace(outcomes=snapshot.outcomes._replace(windows=windows))])
        for patch in made:
            row = effects.of_patch(patch)[0]
            if patch == "fast":
                found[patch][0] |= row.verdict.word == FASTER
                found[patch][1] &= row.ratio is None or row.ratio.low < 1.3 < row.ratio.high
                continue
            differ = [one is not None and one.word in (FASTER, SLOWER) for one in (row.verdict, row.total, row.cpu)]
            found[patch] = [before or now for before, now in zip(found[patch], (*differ, bool(row.errors)))]
    return found


def _print_outcomes(pairs: int, runs: int) -> None:
    found = [outcomes(pairs, run) for run in range(runs)]

    def rates(patch: str) -> str:
        return " / ".join(f"{100 * sum(those) / runs:.1f}" for those in zip(*(one[patch] for one in found)))

    print(f"% of {runs} comparisons of requests over {pairs} pairs of windows, three patches at once")
    for patch in ("nothing", "nothing either"):
        print(f"{patch:16}median / mean / CPU / errors called different: {rates(patch)}")
    print(f"{'fast':16}1.3 times as fast: found / in the interval: {rates('fast')}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m bench.aa", description=__doc__)
    parser.add_argument("--outcomes", action="store_true", help="requests, in half a minute, instead of calls")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--units", type=int, default=120, help="pairs of windows, or windows; a tenth of it by process")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    options = parser.parse_args()
    if options.outcomes:
        _print_outcomes(options.units, options.runs)
        return
    print(f"% of {options.runs} A/A comparisons of {options.units} units: median / mean / errors called different")
    print(f"{'':26}" + "".join(f"{share:>17}" for share in options.shares))
    for kind in options.kinds:
        units = options.units // 10 if kind == "process" else options.units
        for name, load in LOADS.items():
            cells = []
            for share in options.shares:
                runs = [wrong(kind, share, load, units, run) for run in range(options.runs)]
                cells.append(" / ".join(f"{100 * sum(those) / options.runs:.1f}" for those in zip(*runs)))
            print(f"{kind:8}{name:18}" + "".join(f"{cell:>17}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
