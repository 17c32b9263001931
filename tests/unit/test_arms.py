"""The arm of each call: pairs of windows, shares, processes; and what the guard learns."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from typing import Any

import pytest

from dirac_perfpatch.comparison.arms import Comparison, arm_of_process
from dirac_perfpatch.comparison.clock import Clock
from dirac_perfpatch.comparison.snapshot import PATCHED, STOCK
from dirac_perfpatch.patching import Guard, Patch
from dirac_perfpatch.toggles import Toggle

PATCH = Patch("some_patch", (), lambda database: None)


def compare(
    by: str = "time", share: float = 0.5, seconds: float = 10, **options: Any
) -> tuple[Comparison, Guard, Clock]:
    guard = Guard("some_patch", options.pop("trip", lambda reason: None))
    options = {"check_one_in": 0, "process_arm": True, **options}
    toggle = Toggle("ab", {}, by, share, seconds)
    comparison, clock = Comparison(PATCH, guard, toggle, **options), Clock(*Clock.key(toggle, together=False))
    clock.add(comparison)
    return comparison, guard, clock


def windows(comparison: Comparison, guard: Guard, clock: Clock, number: int) -> list[tuple[bool, float]]:
    """Arm and length of the first windows."""
    found, now = [], 0.0
    comparison.begin(now, now)
    for _ in range(number):
        due = clock.tick(now, now)
        found.append((not guard.off, due - now))
        assert comparison.patched is not guard.off
        now = due
        clock.tick(now, now)
    return found


def test_windows_come_in_pairs_of_both_arms_in_random_order() -> None:
    found = windows(*compare(), 200)
    pairs = list(zip(found[::2], found[1::2]))
    assert all({first[0], second[0]} == {True, False} for first, second in pairs)
    assert {seconds for _, seconds in found} == {10.0}
    orders = Counter(first[0] for first, _ in pairs)
    assert min(orders.values()) > 20


@pytest.mark.parametrize(("share", "length", "rest"), [(0.1, 2.0, 16.0), (0.75, 5.0, 10.0)])
def test_the_share_is_that_of_the_time_and_what_is_compared_is_equally_long(
    share: float, length: float, rest: float
) -> None:
    found = windows(*compare(share=share), 30)
    for turn in (found[first : first + 3] for first in range(0, 30, 3)):
        assert [seconds for _, seconds in turn] == pytest.approx([length, length, rest])
        assert {arm for arm, _ in turn[:2]} == {True, False}
        assert turn[2][0] == (share > 0.5)


def test_the_rest_of_a_turn_is_counted_and_not_compared() -> None:
    """Not even its calls that end, or fail, in a window that is compared."""
    comparison, _, clock = compare(share=0.1)
    comparison.record("f", lambda: 1, lambda: 0, None)
    (recorder,) = comparison.recorders
    comparison.begin(0.0, 0.0)
    clock.tick(0.0, 0.0)
    now, calls, late = 0.0, 0, None
    for number in range(60):
        if late:
            late.failed()
            late.waiting.append(30.0)
        recorder.now.tick()
        calls += 1
        late = recorder.now if number % 3 == 2 else None
        now = clock.tick(now, now)
        clock.tick(now, now)
    assert len(recorder.blocks) == 40
    assert all(row.calls == 1 and not row.errors and not row.timed for row in recorder.blocks)
    assert Counter(row.arm for row in recorder.blocks) == {PATCHED: 20, STOCK: 20}
    assert sum(row.calls for row in recorder.series()) == calls
    assert sum(row.errors for row in recorder.series()) == sum(row.timed for row in recorder.series()) == 19


def test_by_call_equally_many_of_both_arms_are_compared() -> None:
    comparison, *_ = compare("call", share=0.1)
    comparison.record("f", lambda: 1, lambda: 0, None)
    (recorder,) = comparison.recorders
    for arm, number in ((PATCHED, 3), (STOCK, 27)):
        for _ in range(number):
            recorder.arms[arm].tick()
        recorder.arms[arm].waiting.extend([1.0] * number)
    comparison.end_block(1.0)
    assert [(row.calls, row.timed) for row in recorder.blocks] == [(3, 3), (27, 3)]
    assert sorted(row.timed for row in recorder.series()) == [3, 27]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_without_a_share_an_arm_has_no_window(share: float) -> None:
    assert {arm for arm, _ in windows(*compare(share=share), 10)} == {share == 1.0}


def test_a_process_is_one_arm_for_life() -> None:
    for patched in (True, False):
        assert {arm for arm, _ in windows(*compare("process", process_arm=patched), 10)} == {patched}


def test_the_arm_of_a_process_is_stable_and_follows_the_share() -> None:
    hosts = [f"host{number}" for number in range(2000)]
    for share in (0.0, 0.25, 0.5, 1.0):
        arms = [arm_of_process("p", host, "A/B", share, {}) for host in hosts]
        assert arms == [arm_of_process("p", host, "A/B", share, {}) for host in hosts]
        assert sum(arms) / len(arms) == pytest.approx(share, abs=0.04)
    # If the share grows, patched hosts stay patched.
    small = {host for host in hosts if arm_of_process("p", host, "A/B", 0.25, {})}
    assert small < {host for host in hosts if arm_of_process("p", host, "A/B", 0.5, {})}
    # Patches divide the hosts differently.
    other = {host for host in hosts if arm_of_process("q", host, "A/B", 0.25, {})}
    assert 0.1 < len(small & other) / len(small) < 0.4


def test_the_environment_pins_the_arm() -> None:
    for share in (0.0, 1.0):
        assert arm_of_process("p", "h", "c", share, {"DIRAC_PERFPATCH_ARM": "patched"}) is True
        assert arm_of_process("p", "h", "c", share, {"DIRAC_PERFPATCH_ARM": "Stock"}) is False
        assert arm_of_process("p", "h", "c", share, {"DIRAC_PERFPATCH_ARM": "nonsense"}) is bool(share)


def test_each_arm_runs_its_own_function_and_is_counted() -> None:
    comparison, _, clock = compare()
    call = comparison.record("f", lambda: "ours", lambda: "the host's", None)
    now = 0.0
    comparison.begin(now, now)
    expected = Counter[str]()
    for number in range(40):
        expected[PATCHED if comparison.patched else STOCK] += number
        answers = {call() for _ in range(number)}
        assert answers <= {"ours" if comparison.patched else "the host's"}
        now = clock.tick(now, now)
        clock.tick(now, now)
    rows = {row.arm: row.calls for row in comparison.recorders[0].series()}
    assert rows == expected
    blocks = list(comparison.recorders[0].blocks)
    assert sum(row.calls for row in blocks) == sum(expected.values())
    pairs = Counter(row.pair for row in blocks)
    assert set(pairs.values()) <= {1, 2}
    assert all(
        {row.arm for row in rows} == {PATCHED, STOCK}
        for _, rows in ((pair, [row for row in blocks if row.pair == pair]) for pair, n in pairs.items() if n == 2)
    )


def test_by_call_both_arms_run_at_the_same_time() -> None:
    comparison, guard, clock = compare("call", share=0.3)
    call = comparison.record("f", lambda: 1, lambda: 0, None)
    comparison.begin(0.0, 0.0)
    assert sum(call() for _ in range(4000)) / 4000 == pytest.approx(0.3, abs=0.05)
    assert not guard.off
    clock.tick(10.0, 10.0)
    assert {row.arm for row in comparison.recorders[0].blocks} == {PATCHED, STOCK}
    assert len({row.block for row in comparison.recorders[0].blocks}) == 1


def test_errors_are_exceptions_and_what_is_not_ok() -> None:
    comparison, *_ = compare("process")
    outcomes = itertools.cycle([{"OK": True, "Value": 1}, {"OK": False, "Message": "no"}, ValueError("no"), None, {}])

    def ours() -> Any:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    call = comparison.record("f", ours, ours, None)
    for _ in range(100):
        try:
            call()
        except ValueError:
            continue
    comparison.end_block(1.0)
    (row,) = comparison.recorders[0].series()
    assert (row.calls, row.errors) == (100, 40)


def test_a_patch_that_was_taken_off_stays_off() -> None:
    comparison, guard, clock = compare()
    comparison.record("f", lambda: 1, lambda: 0, None)
    comparison.leave()
    guard.off = True
    now = 0.0
    for _ in range(10):
        now = clock.tick(now, now)
        assert guard.off


def test_a_difference_is_reported_and_stock_answers() -> None:
    told: list[str] = []
    comparison, guard, _ = compare("process", check_one_in=10, trip=told.append)
    call = comparison.record("f", lambda: "wrong", lambda: "right", lambda answer, *_: "" if answer == "right" else "x")
    assert call() == "right"
    assert told == ["f did not answer as stock does: x"]
    assert (comparison.checked, comparison.differences) == (1, 1)


def test_what_changed_between_the_two_answers_is_no_difference() -> None:
    told: list[str] = []
    comparison, *_ = compare("process", check_one_in=1, trip=told.append)
    state = iter(range(100))
    call = comparison.record("f", lambda: next(state), lambda: 1, lambda answer, *_: "" if answer else "changed")
    assert call() == 0
    assert (told, comparison.differences) == ([], 0)


def test_a_check_that_fails_is_our_own_failure() -> None:
    comparison, guard, _ = compare("process", check_one_in=1)

    def check(*arguments: Any) -> str:
        raise KeyError("a secret")

    assert comparison.record("f", lambda: 1, lambda: 2, check)() == 1
    assert guard.failures == 1


@pytest.mark.parametrize("one_in", [50, 400])
def test_about_one_call_in_so_many_is_checked(one_in: int) -> None:
    comparison, *_ = compare("process", check_one_in=one_in)
    call = comparison.record("f", lambda: 1, lambda: 1, lambda *_: "")
    for _ in range(40_000):
        call()
    assert comparison.checked == pytest.approx(3 + 40_000 / one_in, rel=0.4)


def test_what_patched_calls_avoid_is_counted() -> None:
    guard = Guard("p", lambda reason: None)
    guard.note("pings")
    patch = Patch("p", (), lambda database: None, spares=("pings saved", "pings"))
    comparison = Comparison(patch, guard, Toggle("ab", {}, "process", 0.5, 10), 0, True)
    call = comparison.record("f", lambda: 1, lambda: 2, None)
    for _ in range(10):
        call()
    guard.note("pings")
    comparison.end_block(1.0)
    assert comparison.spared() == {"pings saved": 9}


def test_no_call_is_lost_among_threads_and_windows() -> None:
    """Many threads call while the journal's thread changes the arm and reads the counts."""
    comparison, _, clock = compare(seconds=0.02)
    comparison.begin(time.monotonic(), time.time())
    call = comparison.record("f", lambda: {"OK": False}, lambda: {"OK": True}, None)
    enough, made = threading.Event(), list[int]()

    def work() -> None:
        number = 0
        while not enough.is_set():
            call()
            number += 1
        made.append(number)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for _ in range(6):  # windows, however seldom a busy machine lets this thread run
        time.sleep(0.021)
        clock.tick(time.monotonic(), time.time())
        comparison.recorders[0].settle()
    enough.set()
    for worker in workers:
        worker.join()
    comparison.end_block(time.monotonic())
    rows = {row.arm: row for row in comparison.recorders[0].series()}
    assert sum(row.calls for row in rows.values()) == sum(made)
    assert rows[PATCHED].errors == rows[PATCHED].calls > 0
    assert rows[STOCK].errors == 0 < rows[STOCK].calls
    assert sum(row.calls for row in comparison.recorders[0].blocks) == sum(made)
