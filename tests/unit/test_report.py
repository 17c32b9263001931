"""dirac-perfpatch report: from spools in any state to tables and a page."""

from __future__ import annotations

import contextlib
import csv
import html
import io
import json
import os
import re
import subprocess
import xml.etree.ElementTree
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy
import pytest
from ddsketch import DDSketch
from hypothesis import given, settings
from hypothesis import strategies as st

from dirac_perfpatch.cli import main
from dirac_perfpatch.comparison.page import as_html
from dirac_perfpatch.comparison.recording import ACCURACY
from dirac_perfpatch.comparison.report import Report, build, merged, pairs_of
from dirac_perfpatch.comparison.snapshot import Sketch, Unusable, parse
from dirac_perfpatch.comparison.spool import default_folder
from dirac_perfpatch.comparison.spool_reading import Gathered, read_spools
from dirac_perfpatch.comparison.statistics import FASTER, NOT_COMPARED, TOO_LITTLE, Interval
from dirac_perfpatch.comparison.tables import as_csv, as_json, as_text
from dirac_perfpatch.comparison.words import times
from lab import spools

Child = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spool with an example of everything."""
    return spools.write(tmp_path_factory.mktemp("spool"), spools.example(numpy.random.default_rng(1)))


def _small(windows: int = 8, events: Any = None, **more: Any) -> spools.Document:
    document = spools.alternating(numpy.random.default_rng(1), windows=windows, timed_per_window=5.0, **more)
    return {**document, "events": events or {}}


def _report(folder: Path) -> Report:
    return build([str(folder)], read_spools([str(folder)]))


# Reading


def test_folders_of_many_hosts_are_searched_to_the_bottom(tmp_path: Path) -> None:
    for number in range(3):
        spools.write(tmp_path / "gathered" / f"h{number}" / "var", [_small(host=f"h{number}")])
    spools.write(tmp_path / "own", [_small(host="own")])
    found = read_spools([str(tmp_path / "gathered"), str(tmp_path / "own")])
    assert [one.host for one in found.snapshots] == ["h0", "h1", "h2", "own"]
    assert found.complaints == ()


def test_a_process_that_was_copied_twice_counts_once_as_it_was_last(tmp_path: Path) -> None:
    old, new = _small(), _small()
    new.update(written=old["written"] + 10, cpu_seconds=77.0)
    for folder, document in (("a", old), ("b", new), ("c", old)):
        spools.write(tmp_path / folder, [document])
    found = read_spools([str(tmp_path), str(tmp_path / "a")])
    assert [one.cpu_seconds for one in found.snapshots] == [77.0]


def _damaged() -> list[tuple[str, bytes, str]]:
    good = _small()
    text = json.dumps(good)

    def wrong(**changes: Any) -> bytes:
        return json.dumps({**good, **changes}).encode()

    def wrong_series(**changes: Any) -> bytes:
        return wrong(series=[{**good["series"][0], **changes}])

    def wrong_sketch(**changes: Any) -> bytes:
        return wrong_series(sketch={**good["series"][0]["sketch"], **changes})

    def wrong_block(**changes: Any) -> bytes:
        return wrong(blocks=[{**good["blocks"][0], **changes}])

    def wrong_state(**changes: Any) -> bytes:
        return wrong(patches={"error_stack": {**good["patches"]["error_stack"], **changes}})

    return [
        ("empty", b"", "is not JSON"),
        ("half", text[: len(text) // 2].encode(), "is not JSON"),
        ("binary", bytes(range(256)), "is not JSON"),
        ("zeros", b"\0" * 5000, "is not JSON"),
        ("deep", b"[" * 100_000, "is not JSON"),
        ("digits", b'{"format": ' + b"9" * 100_000 + b"}", "JSON|format"),
        ("list", b"[]", "is not a snapshot"),
        ("another encoding", text.encode("utf-8").replace(b"h1", b"\xe9"), "is not JSON"),
        ("deep format", b'{"format": ' + b"[" * 500 + b"]" * 500 + b"}", "has the format; this"),
        ("deep and not looked at", b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is not JSON"),
        ("other", wrong(format=2), "has the format 2; this version reads 1"),
        ("none", b"{}", "has the format None"),
        ("no name", wrong(host=None), "host is not a text"),
        ("no number", wrong(pid="1"), "pid is not a number"),
        ("half a process", wrong(pid=1.5), "pid is not a whole number"),
        ("no process has that number", wrong(pid=2**31), "pid is not a number from 0 to 2.1"),
        ("after the year 9999", wrong(written=3e11), "written is not a number"),
        ("started after the year 9999", wrong(started=1e17), "started is not a number"),
        ("negative", wrong(cpu_seconds=-1), "cpu_seconds is not a number from 0 to 1e"),
        ("not a number", wrong(cpu_seconds=float("nan")), "cpu_seconds is not a number"),
        ("endless", wrong(written=float("inf")), "written is not a number"),
        ("truth", wrong(resident_bytes=True), "resident_bytes is not a number"),
        ("patches", wrong(patches=[]), "patches is not a mapping"),
        ("patch", wrong(patches={"a": 1}), "state is not a text"),
        ("by", wrong_state(by="moon"), "by is none of time, call, process"),
        ("series", wrong(series={}), "series is not a list"),
        ("one series", wrong(series=[1]), "patch is not a text"),
        ("arm", wrong_series(arm="third"), "arm is none of patched, stock"),
        ("fine sketch", wrong_sketch(accuracy=1e-9), "accuracy is 1e-09"),
        ("coarse sketch", wrong_sketch(accuracy=1), "accuracy is 1"),
        ("far bin", wrong_sketch(bins={"1000000000": 1}), "a sketch has a key that is not a number of up to"),
        ("bin", wrong_sketch(bins={"x": 1}), "a sketch has a key that is not a number"),
        ("far bin too", wrong_sketch(bins={"-99999": 1}), "a sketch has the key -99999"),
        ("long bin", wrong_sketch(bins={"9" * 400: 1}), "a sketch has a key that is not a number of up to"),
        ("bin in other digits", wrong_sketch(bins={"\u0661": 1}), "a sketch has a key that is not a number"),
        ("bin count", wrong_sketch(bins={"1": None}), "1 is not a number"),
        ("block", wrong(blocks=[[]]), "timed is not a number"),
        ("block time", wrong_block(timed=3, median=None), "median is not a number"),
        ("block after the year 9999", wrong_block(start=3e11), "start is not a number"),
        ("next to nothing", wrong_block(timed=3, median=5e-324), "median is too close to zero"),
        ("more calls than there are", wrong_block(calls=10**18), "calls is not a number"),
        ("drives a terminal", wrong(events={"error_stack": {"\x1b[2J\ud800": "many"}}), r"^\?\[2J\? is not a number"),
        ("events", wrong(events={"error_stack": {"misses": "many"}}), "misses is not a number"),
    ]


def test_damaged_files_are_reported_and_the_others_read(tmp_path: Path) -> None:
    spools.write(tmp_path, [_small()])
    damaged = _damaged()
    for name, content, _ in damaged:
        (tmp_path / f"{name}.json").write_bytes(content)
    found = read_spools([str(tmp_path)])
    assert len(found.snapshots) == 1
    told = dict(line.split(".json: ", 1) for line in found.complaints)
    assert len(told) == len(damaged)
    for name, _, words in damaged:
        assert re.search(words, told[str(tmp_path / name)]), name


def test_what_is_no_snapshot_is_passed_over(tmp_path: Path) -> None:
    spools.write(tmp_path, [_small()])
    (tmp_path / ".h1.1.2.json.tmp").write_text("{")
    (tmp_path / ".h1.1.2.json").write_text("{")
    (tmp_path / "README").write_text("{")
    assert len(read_spools([str(tmp_path)]).snapshots) == 1
    assert read_spools([str(tmp_path)]).complaints == ()


@pytest.mark.simulation
def test_folders_without_end(tmp_path: Path) -> None:
    spools.write(tmp_path / "a", [_small()])
    before = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
        found = read_spools([str(tmp_path)])
    finally:
        os.chdir(before)
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)  # pytest could not
    assert (len(found.snapshots), len(found.complaints)) == (1, 1)
    assert found.complaints[0].endswith("/d: the folders in it are not read: too deep")


def test_what_cannot_be_read_is_reported(tmp_path: Path) -> None:
    spools.write(tmp_path, [_small()])
    os.mkfifo(tmp_path / "pipe.json")  # must not be waited for
    (tmp_path / "loop.json").symlink_to("loop.json")
    with (tmp_path / "huge.json").open("wb") as huge:
        huge.truncate((16 << 20) + 1)
    found = read_spools([str(tmp_path), str(tmp_path / "nowhere")])
    assert len(found.snapshots) == 1
    assert found.complaints == (
        f"{tmp_path}/huge.json: is larger than any snapshot",
        f"{tmp_path}/loop.json: is not a regular file",
        f"{tmp_path}/pipe.json: is not a regular file",
        f"{tmp_path}/nowhere: cannot be read: No such file or directory",
    )


def test_keys_of_newer_versions_are_ignored() -> None:
    document = _small()
    document["new"] = document["patches"]["error_stack"]["new"] = [1]
    for row in (*document["series"], *document["blocks"]):
        row["new"] = {}
    assert parse(json.dumps(document).encode()) == parse(json.dumps(_small()).encode())


_HARD = [
    5e-324,
    1e-12,
    1e10,
    1e14,
    1e300,
    10**400,
    2**31 - 1,
    9_999_999_999.9,
    "$\\bad{$",
    "\ud800\x1b[2J",
    "$ \u202e<b>",
]
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(_HARD),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def _places(found: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    for key, value in items:
        yield from _places(value, (*path, key))


_WHOLE = json.dumps(_small(windows=2, events={"error_stack": {"misses": 4}}))
_PLACES = [place for place in _places(json.loads(_WHOLE)) if place and place[:-1] != ("series", 0, "sketch", "bins")]
_PLACES += [("series", 0, "sketch", "bins", key) for key in ("0", "-500")]


@pytest.mark.simulation
@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(_PLACES), _VALUES), min_size=1, max_size=3))
def test_nothing_in_a_file_breaks_the_report(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    """Any value in any place is refused with a reason, or reported."""
    document = json.loads(_WHOLE)
    for (*path, last), value in changes:
        place = document
        with contextlib.suppress(LookupError, TypeError):  # an earlier change took it away
            for key in path:
                place = place[key]
            place[last] = value
    try:
        snapshot = parse(json.dumps(document).encode())
    except Unusable:
        return
    report = build([], Gathered((snapshot,), ()))
    for show in (as_text, as_json, as_csv, as_html):
        assert show(report).encode()
    assert as_text(report).replace("\n", "").isprintable()
    assert json.loads(as_json(report), parse_constant=pytest.fail)


def test_a_name_cannot_drive_a_terminal(tmp_path: Path) -> None:
    spools.write(tmp_path, [_small(target="\x1b[2J\x1b]0;evil\x07S_ERROR\u202e")])
    (row,) = _report(tmp_path).patches[0].rows
    assert row.target == "?[2J?]0;evil?S_ERROR?"


@pytest.mark.simulation
def test_numbers_that_are_hard_together(tmp_path: Path) -> None:
    """Each number is within its bounds; so must be what is calculated from all of them."""
    random = numpy.random.default_rng(5)
    for number in range(20):
        documents = [_small(by=by, pid=pid, host=f"h{pid}") for pid, by in enumerate(("time", "call", "process"))]
        for document in documents:
            for row in (*document["blocks"], *document["series"], *document["patches"].values(), document):
                for key, found in row.items():
                    value = 0.0 if found is None else found  # the mean of no calls
                    if isinstance(value, (int, float)) and key not in ("format", "block", "pair", "ended"):
                        row[key] = type(value)(random.choice([value, value, 0, 1, 1e-12, 1e9]))
        spools.write(tmp_path / str(number), documents)
        report = _report(tmp_path / str(number))
        assert report.processes == 3
        assert json.loads(as_json(report), parse_constant=pytest.fail) and as_text(report)
        assert number % 5 or as_html(report)


@pytest.mark.simulation
def test_a_name_is_a_name_in_plots_too(tmp_path: Path) -> None:
    """In matplotlib, dollars begin formulas."""
    names = ["$\\bad{$", "$x$", "\\$", "a & b", "long " * 100]
    spools.write(tmp_path, [_small(windows=20, target=name, pid=pid) for pid, name in enumerate(names)])
    page = as_html(_report(tmp_path))
    plots = "".join(re.findall(r"<svg .*?</svg>", page, re.S))
    for name in names[:4]:
        assert page.count(html.escape(name)) >= 3 and f">{html.escape(name)}<" in plots
    assert plots.count(">error_stack<") == len(names)


def test_names_of_files_are_shown_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "\x1b]0;evil\x07<script>'\"\n"
    spools.write(folder, [_small()])
    for name in (b"\xff\xfe.json", b"\x1b[2J.json", b"<script>\n.json"):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_text("{")
    assert main(["report", str(folder), "--html", str(tmp_path / "page"), "--json", str(tmp_path / "json")]) == 0
    text = capsys.readouterr().out
    assert text.replace("\n", "").isprintable()
    endings = [line.split(": is not JSON")[0].rsplit("/", 1)[1] for line in text.splitlines() if "not read" in line]
    assert endings == ["?[2J.json", "<script> .json", "??.json"]
    assert "<script" not in (tmp_path / "page").read_text()
    found = json.loads((tmp_path / "json").read_text())
    assert all(line.isprintable() for line in (*found["folders"], *found["complaints"]))


@pytest.mark.simulation
def test_letters_that_a_terminal_lacks(child: Child, tmp_path: Path) -> None:
    spools.write(tmp_path / "spool", [_small(target="\u2192\u3042")])
    code = f"import sys; from dirac_perfpatch.cli import main; sys.exit(main(['report', {str(tmp_path / 'spool')!r}]))"
    answer = child(code, PYTHONIOENCODING="ascii")
    assert answer.returncode == 0, answer.stderr
    assert "\\u2192" in answer.stdout


# Figures


def test_merged_sketches_are_one_sketch_of_everything() -> None:
    random = numpy.random.default_rng(3)
    parts = [numpy.append(random.lognormal(-9 + part, 1 + part / 5, 300 * part + 1), 0.0) for part in range(6)]
    document = _small()
    document["series"] = [{**document["series"][0], "sketch": spools.sketched(part)._asdict()} for part in parts]
    found, times = merged(parse(json.dumps(document).encode()).series), numpy.concatenate(parts)
    whole = DDSketch(ACCURACY)
    for time in times.tolist():
        whole.add(time)
    assert found.count == whole.count == len(times)
    for quantile in (0, 0.01, 0.25, 0.5, 0.75, 0.95, 0.99, 1):
        ours = found.get_quantile_value(quantile)
        assert ours == pytest.approx(whole.get_quantile_value(quantile), rel=1e-9)
        assert ours == pytest.approx(numpy.quantile(times, quantile, method="lower"), rel=0.0101)


def test_sketches_of_different_accuracy_are_merged_to_the_least_accurate() -> None:
    series = parse(json.dumps(_small()).encode()).series[:1]
    coarse = series[0]._replace(sketch=Sketch(0.05, 0, {-90: 1000.0}))
    median = 2 * (1.05 / 0.95) ** -90 / (1 + 1.05 / 0.95)
    assert merged([*series, coarse]).get_quantile_value(0.5) == pytest.approx(median, rel=0.051)
    assert merged([]).get_quantile_value(0.5) is None


def test_counts_are_added_up(tmp_path: Path) -> None:
    documents = [_small(pid=pid) for pid in (1, 2)]
    documents[0]["events"] = {"error_stack": {"hits": 3, "misses": 1}}
    documents[1]["events"] = {"error_stack": {"hits": 4}}
    documents[1]["patches"]["error_stack"].update(state="failed", reason="no line", failures=2, differences=1)
    spools.write(tmp_path, documents)
    report = _report(tmp_path)
    (patch,) = report.patches
    assert (patch.events, patch.states) == ({"hits": 7, "misses": 1}, {"applied": 1, "failed": 1})
    assert (patch.failures, patch.checked, patch.differences) == (2, 24, 1)
    assert [(one.pid, one.state, one.reason) for one in patch.troubles] == [(2, "failed", "no line")]
    for arm, found in patch.rows[0].arms.items():
        rows = [row for one in documents for row in one["series"] if row["arm"] == arm]
        assert found.calls == sum(row["calls"] for row in rows)
        assert found.errors == sum(row["errors"] for row in rows)
        assert found.timed == sum(row["timed"] for row in rows)
    assert (report.began, report.ended) == (spools.BEGAN, spools.BEGAN + 8 * 60)


def test_a_patch_that_is_on_is_shown_and_not_compared(tmp_path: Path) -> None:
    document = _small()
    document["patches"]["error_stack"].update(mode="on", by="", arm="")
    spools.write(tmp_path, [document])
    (row,) = _report(tmp_path).patches[0].rows
    assert (row.verdict.word, row.ratio, row.by) == (NOT_COMPARED, None, "")


def test_ways_of_choosing_arms_are_not_mixed(tmp_path: Path) -> None:
    spools.write(tmp_path, [_small(pid=1), _small(pid=2, by="call")])
    rows = _report(tmp_path).patches[0].rows
    assert [row.by for row in rows] == ["call", "time"]


def test_a_pair_that_lacks_an_arm_counts_for_nothing(tmp_path: Path) -> None:
    document = _small()
    for row in document["blocks"]:
        if row["arm"] == "stock" and row["pair"] != 2:
            row.update(timed=0, mean=None, median=None)
    document["blocks"] = [row for row in document["blocks"] if row["pair"] != 3 or row["arm"] == "stock"]
    spools.write(tmp_path, [document])
    (row,) = _report(tmp_path).patches[0].rows
    assert (row.verdict.word, row.verdict.units) == (TOO_LITTLE, 0)
    assert len(row.points) == 1


def test_what_is_not_alike_by_design_is_not_compared() -> None:
    """Earlier versions wrote such blocks; the median of three calls is not that of thirty."""
    blocks = parse(json.dumps(_small()).encode()).blocks
    assert len(pairs_of(blocks, "time")) == 4
    # Windows may end a little late, and a call at the end of one may have a block in the next.
    late = [one._replace(seconds=62.0 if one.arm == "stock" else 60.0) for one in blocks]
    stray = [one._replace(arm="stock", calls=1, timed=1, median=9.0, mean=9.0) for one in blocks]
    assert [one.median for one in pairs_of([*late, *stray], "time")] == [one.median for one in pairs_of(blocks, "time")]
    unequal = [one._replace(seconds=108.0 if one.arm == "stock" else 12.0) for one in blocks]
    assert pairs_of(unequal, "time") == []
    # Errors are compared by call all the same: the calls say how many to expect in equal arms.
    calls = {"patched": {"calls": 100, "errors": 3, "timed": 3}, "stock": {"calls": 900, "errors": 1, "timed": 30}}
    few = [blocks[number]._replace(block=0, arm=arm, **counts) for number, (arm, counts) in enumerate(calls.items())]
    (pair,) = pairs_of(few, "call")
    assert (pair.median, pair.mean, pair.errors) == (None, None, (0.75, 0.1))
    assert pairs_of([one._replace(timed=3) for one in few], "call")[0].median is not None


def test_blocks_of_the_other_arm_are_not_of_the_process(tmp_path: Path) -> None:
    """A process may have them from before its toggles changed."""
    documents = spools.fleet(numpy.random.default_rng(4), 6, 4)
    spools.write(tmp_path / "a", documents)
    for one in documents:
        other = "stock" if one["patches"]["error_stack"]["arm"] == "patched" else "patched"
        one["blocks"] += [{**row, "arm": other, "median": 9.9, "mean": 9.9} for row in one["blocks"]]
    spools.write(tmp_path / "b", documents)
    before, after = (_report(tmp_path / name).patches[0].rows[0].ratio for name in "ab")
    assert before == after


def test_a_process_that_answered_differently_is_trouble(tmp_path: Path) -> None:
    document = _small()
    document["patches"]["error_stack"]["differences"] = 2
    spools.write(tmp_path, [document])
    assert main(["report", str(tmp_path)]) == 1


def test_more_errors_than_calls_are_no_more_than_all(tmp_path: Path) -> None:
    document = _small()
    document["series"][0].update(calls=3, errors=5)
    spools.write(tmp_path, [document])
    found = _report(tmp_path).patches[0].rows[0].arms[document["series"][0]["arm"]].error_rate
    assert found is not None and (found.value, found.high) == (1, 1)


def test_processes_as_arms_show_cpu_time_and_memory(tmp_path: Path) -> None:
    documents = spools.fleet(numpy.random.default_rng(4), 12, 8, 2.0, timed_per_window=20.0)
    spools.write(tmp_path, documents)
    (patch,) = _report(tmp_path).patches
    patched = [one for one in documents if one["patches"]["error_stack"]["arm"] == "patched"]
    usage = patch.usage["patched"]
    assert usage.processes == len(patched) == 12
    assert usage.cpu_seconds == pytest.approx(sum(one["cpu_seconds"] for one in patched) / 12)
    assert usage.cores == pytest.approx(usage.cpu_seconds / 480)
    assert usage.resident_bytes == pytest.approx(sum(one["resident_bytes"] for one in patched) / 12)
    assert patch.cpu_ratio is not None and patch.memory_ratio is not None
    assert patch.cpu_ratio.low < 2 < patch.cpu_ratio.high
    assert patch.memory_ratio.low < 1 < patch.memory_ratio.high


# Output


def test_the_table_has_the_main_results(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(example)]) == 1  # a patch tripped
    text = capsys.readouterr().out
    assert text.startswith("Of 6 patches: 1 needs a look, 1 slower, 4 faster.")
    assert re.search(r"^error_stack: Faster: S_ERROR is 3\.[34]\d times as fast \(3\.\d\d to 3\.\d\d\)\.$", text, re.M)
    assert "tripped: DataManagement/FileCatalog on vobox01.example.org, process 100: an answer was" in text
    assert re.search(r"^  loadProxyFromFile +stock +[\d,]+ +[\d.]+ % \(.*ms +[\d.]+ ms +[\d.]+ ms$", text, re.M)
    assert re.search(
        r"getSiteSEMapping, by time: too little data yet: 24 of about \d+ pairs of windows; wait about", text
    )
    assert "hits 540042, misses 246" in text
    assert re.search(r"patched: 12 processes, each \d+\.\d s of CPU \(\d+ % of a core\), \d+ MiB", text)
    assert len(max(text.splitlines(), key=len)) < 160


def test_json_has_every_figure(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(example), "--json", "-"]) == 1
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    row = next(one for one in found["patches"] if one["patch"] == "error_stack")["rows"][0]
    assert row["verdict"]["word"] == FASTER
    assert "points" not in row  # thousands, of which nobody asked for
    assert row["ratio"]["low"] < 3.4 < row["ratio"]["high"]
    times = {"median", "p95", "p99", "mean", "cpu"}
    assert set(row["arms"]["stock"]) == {"calls", "errors", "timed", "error_rate", *times}
    assert row["arms"]["stock"]["median"] / row["arms"]["patched"]["median"] == pytest.approx(3.4, rel=0.05)


def test_csv_has_a_line_per_target(example: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.csv"
    assert main(["report", str(example), "--csv", str(path)]) == 1
    assert capsys.readouterr().out.startswith("Of 6 patches")
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert len(rows) == 7 + 12  # for two patches and for all, requests, statements and two methods
    stack = next(row for row in rows if row["patch"] == "error_stack")
    assert stack["verdict"] == FASTER
    assert float(stack["ratio_low"]) < 3.4 < float(stack["ratio_high"])
    assert float(stack["stock_median"]) > float(stack["patched_median"]) > 0
    assert int(stack["patched_calls"]) > 0


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name.endswith(("href", "src")):
                self.references.append(value or "")
            else:
                self.references += re.findall(r"url\((.*?)\)", value or "")


@pytest.mark.simulation
def test_the_page_stands_alone(example: Path, tmp_path: Path) -> None:
    """It loads nothing, has no script, a title for each plot, and unique ids."""
    path = tmp_path / "report.html"
    assert main(["report", str(example), "--html", str(path)]) == 1
    text = path.read_text(encoding="utf-8")
    page = _Elements()
    page.feed(text)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert page.references and all(one[0] == "#" and one[1:] in page.ids for one in page.references)
    assert len(page.ids) == len(set(page.ids))
    plots = re.findall(r"<svg .*?</svg>", text, re.S)
    assert len(plots) == 1 + 7 + 6  # all ratios; quantiles of each target; over time unless processes are arms
    for plot in plots:
        root = xml.etree.ElementTree.fromstring(plot)
        assert root.get("role") == "img"
        assert root[0].tag.endswith("title") and root[0].text == root.get("aria-label")
    assert "Faster: S_ERROR is 3." in text
    assert "Needs a look: it tripped or failed in 1 of 6 processes" in text
    assert len(text) < 500_000


def test_names_are_text_in_the_page(tmp_path: Path) -> None:
    document = _small(patch="<script>", target="<script>x</script>", component='"><script>')
    document["patches"]["<script>"].update(state="tripped", reason="<b>")
    spools.write(tmp_path, [document])
    path = tmp_path / "report.html"
    assert main(["report", str(tmp_path), "--html", str(path)]) == 1
    assert "<script" not in path.read_text() and "<b>" not in path.read_text()


def test_an_empty_folder_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().out == "Nothing is recorded yet: set a patch to ab, and wait for its calls.\n"
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert f"not read: {tmp_path}/nowhere: cannot be read: No such file or directory" in capsys.readouterr().out


def test_good_news_has_exit_code_0(tmp_path: Path) -> None:
    spools.write(tmp_path, [_small()])
    assert main(["report", str(tmp_path)]) == 0


def test_a_file_that_cannot_be_written_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spools.write(tmp_path, [_small()])
    path = tmp_path / "nowhere" / "report.json"
    assert main(["report", str(tmp_path), "--json", str(path)]) == 2
    assert capsys.readouterr() == ("", f"dirac-perfpatch: {path} cannot be written: No such file or directory\n")


def test_without_a_host_the_folder_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 2
    assert capsys.readouterr().err.startswith("dirac-perfpatch: no DIRAC can be imported by")


def test_the_spool_of_an_installation() -> None:
    assert default_folder("/opt/dirac") == "/opt/dirac/var/perfpatch-spool"
    assert default_folder(None) is None


@pytest.mark.parametrize("library", ["scipy", "ddsketch"])
def test_without_its_libraries_the_report_says_what_to_install(child: Child, tmp_path: Path, library: str) -> None:
    spools.write(tmp_path / "spool", [_small()])
    (tmp_path / f"{library}.py").write_text(f'raise ImportError("No module named {library}")')
    code = f"import sys; from dirac_perfpatch.cli import main; sys.exit(main(['report', {str(tmp_path / 'spool')!r}]))"
    answer = child(code, tmp_path)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == (
        f"dirac-perfpatch: report needs more libraries (No module named {library}):"
        " pip install 'dirac-perfpatch[report]'\n"
    )


@pytest.mark.simulation
def test_only_the_page_needs_matplotlib(child: Child, tmp_path: Path) -> None:
    spools.write(tmp_path / "spool", [_small()])
    (tmp_path / "matplotlib.py").write_text("raise ImportError('No module named matplotlib')")
    code = f"""
from dirac_perfpatch.cli import main
print(main(["report", {str(tmp_path / "spool")!r}, "--csv", "-"]))
print(main(["report", {str(tmp_path / "spool")!r}, "--html", "-"]))
"""
    answer = child(code, tmp_path)
    assert answer.stdout.startswith("patch,target,by,") and answer.stdout.endswith("\n0\n2\n")
    assert "pip install 'dirac-perfpatch[report]'" in answer.stderr


def test_other_commands_load_none_of_it(child: Child) -> None:
    """They must not need the memory."""
    code = (
        "import sys, dirac_perfpatch.cli; print([one for one in sys.modules if one in {'scipy', 'ddsketch', 'numpy'}])"
    )
    assert child(code).stdout == "[]\n"


def test_large_ratios_are_written_out() -> None:
    assert times(Interval(34563.0, 1024.0, 123456.0)) == "34,600 (1,020 to 123,000)"
    assert times(Interval(0.5, 0.0123, 123.4)) == "0.50 (0.0123 to 123)"
