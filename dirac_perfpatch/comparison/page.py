"""The report as one HTML page that needs no other file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from dirac_perfpatch.comparison import plots, words
from dirac_perfpatch.comparison.colours import css, variable
from dirac_perfpatch.comparison.report import PatchReport, Report
from dirac_perfpatch.comparison.rows import Row
from dirac_perfpatch.comparison.statistics import SLOWER
from dirac_perfpatch.comparison.tables import arm_cells, felt_cells, moment, period, states

_STYLE = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); overflow-wrap: break-word; }
body { font: 16px/1.5 system-ui, "DejaVu Sans", Verdana, sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 0; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; font-family: ui-monospace, "DejaVu Sans Mono", monospace; }
p, li { max-width: 62rem; }
p { margin: .4rem 0; }
.soft { color: var(--soft); font-size: .9rem; }
.lead { font-size: 1.15rem; margin: 1rem 0 1.5rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1.25rem 1.5rem; }
section { margin: 1rem 0; }
section.patch { border-left: 6px solid var(--tone, var(--undecided)); }
.headline { font-size: 1.1rem; font-weight: 600; color: var(--tone, var(--soft)); }
.pair { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(420px, 100%), 1fr)); gap: 1rem; }
figure { margin: .5rem 0; }
svg { display: block; width: 100%; height: auto; }
.wide { overflow-x: auto; }
.wide > svg { min-width: 684px; max-width: 1000px; }
table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0; }
th, td { text-align: right; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--card); }
thead th, th:first-child { white-space: normal; vertical-align: bottom; }
tbody th { vertical-align: top; }
.felt tbody th { min-width: 11.5rem; overflow-wrap: anywhere; }
ul { margin: .4rem 0; padding-left: 1.2rem; }
@media (max-width: 600px) { main { padding: 1rem .75rem 2rem; } section { padding: 1rem; } }
@media print { body { background: var(--card); } section { break-inside: avoid; } }
"""
_ERRORS = "errors (95\N{NO-BREAK SPACE}% interval)"
_COUNTED = ("arm", "number", _ERRORS, "median", "mean", "CPU")
# Names of colours.
_TONES = {**plots.VERDICTS, words.LOOK: "trouble", words.MIXED: plots.VERDICTS[SLOWER]}
_READING = f"""<section><h2>How to read this</h2>
<p>Each call ran either <em>stock</em>, as DIRAC ships it, or <em>patched</em>, in turns under the same load. The ratio
says how many times as fast a typical patched call is: 2 means half the time, 1 means no difference. The interval in
brackets contains the true ratio in 95 of 100 comparisons, no matter how often you look at the report while data come
in. It is wide if there are few data or if they vary a lot; with very few data there is none.</p>
<p>The statistics count windows or processes, not calls, because calls that run at the same time are slowed down by the
same causes. A target is faster or slower if the interval excludes 1 and there are enough windows or processes.
Differences below {words.percent(plots.RELEVANT)} (the grey band) are not worth waiting for.</p>
<p>A request counts for all patches at once, because each patch draws its arms by itself. Its time is that inside the
service, its CPU time that of its thread. What all patches do together is the sum of what each does by itself, unless
one draw decided for all.</p>
<p class="soft">The intervals of error rates assume that calls are independent. The verdict on errors does not: it
compares windows or processes, and it too holds however often you look. The plots over time show the mean of each period
with two standard errors to either side. Medians and percentiles are of all calls of an arm; the ratio compares windows
that ran side by side. If the load changed a lot, trust the ratio.</p></section>"""


def as_html(report: Report) -> str:
    """The page, complete."""
    return "\n".join(_page(report))


def _page(report: Report) -> Iterator[str]:
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>DIRAC with and without patches</title>\n<style>\n{css()}{_STYLE}</style>\n</head>\n<body>\n<main>"
    yield "<header><h1>DIRAC with and without patches</h1>"
    if report.processes:
        read = f"{period(report)}. DIRAC {', '.join(report.releases)}. Generated {moment(time.time())}."
        yield f'<p class="soft">{escape(read)}</p>'
    yield f'<p class="lead">{escape(words.summary(report))}</p></header>'
    felt = [row for rows in (report.felt, *(patch.felt for patch in report.patches)) for row in rows[:1]]
    overview = plots.forest([*felt, *(row for patch in report.patches for row in patch.rows)])
    if overview:
        yield f'<section><h2>At a glance</h2><figure class="wide">{overview}</figure></section>'
    if report.felt:
        yield "<section><h2>All patches together</h2>"
        yield from _felt(report.felt)
        yield "</section>"
    for patch in report.patches:
        yield from _patch(patch)
    if report.mixed:
        yield f"<section><h2>Longer than a window</h2>{_list(words.mixed(report))}</section>"
    yield _READING
    if report.complaints:
        yield f"<section><h2>Not read</h2>{_list(words.first_few(report.complaints))}</section>"
    yield "</main>\n</body>\n</html>\n"


def _patch(patch: PatchReport) -> Iterator[str]:
    tone = _TONES.get(words.standing(patch))
    style = f' style="--tone: {variable(tone)}"' if tone else ""
    yield f'<section class="patch"{style}><h2>{escape(patch.patch)}</h2>'
    yield f'<p class="headline">{escape(words.headline(patch))}</p>'
    yield f'<p class="soft">{escape(states(patch))}</p>'
    if patch.troubles:
        yield _list(words.troubles(patch))
    if patch.usage:
        yield _list(words.usage(patch))
    if patch.felt:
        yield from _felt(patch.felt)
    for row in patch.rows:
        yield from _row(row)
    yield "</section>"


def _felt(rows: Sequence[Row]) -> Iterator[str]:
    """What users feel: a sentence for the first row, all requests, and a table of all rows."""
    yield f"<h3>What users feel</h3><p>{escape(f'{rows[0].target}, by {rows[0].by}: {words.verdict(rows[0])}')}.</p>"
    lines = [list(felt_cells(row, "\N{MICRO SIGN}")) for row in rows]
    # Where each patch draws its own arms, all together have none.
    counted = _COUNTED if any(lines) else ()
    heads = ("", *counted, "times as fast (95\N{NO-BREAK SPACE}%)", "of CPU", "")
    yield '<div class="wide felt"><table><thead><tr>' + "".join(f'<th scope="col">{head}</th>' for head in heads)
    yield "</tr></thead><tbody>"
    for row, found in zip(rows, lines):
        ratios = (words.times(row.ratio), words.times(row.cpu_ratio), row.verdict.word)
        arms = found or [("",) * len(counted)]
        for number, cells in enumerate(arms):
            last = ratios if number == len(arms) - 1 else ("",) * len(ratios)
            columns = "".join(f"<td>{escape(cell)}</td>" for cell in (*cells, *last))
            # A line may end between the parts of a service's name.
            name = escape(row.target).replace("/", "/<wbr>") if not number else ""
            yield f'<tr><th scope="row">{name}</th>{columns}</tr>'
    yield "</tbody></table></div>"


def _row(row: Row) -> Iterator[str]:
    by = f' <span class="soft">by {escape(row.by)}</span>' if row.by else ""
    yield f"<h3>{escape(row.target)}{by}</h3><p>{escape(_sentence(words.verdict(row)))}</p>"
    heads = ("", "calls", _ERRORS, "median", "95th percentile", "99th percentile")
    yield '<div class="wide"><table><thead><tr>' + "".join(f'<th scope="col">{head}</th>' for head in heads)
    yield "</tr></thead><tbody>"
    for arm, *cells in arm_cells(row, "\N{MICRO SIGN}"):
        yield f'<tr><th scope="row">{arm}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
    yield "</tbody></table></div>"
    drawn = [plot for plot in (plots.quantiles(row), plots.over_time(row)) if plot]
    if drawn:
        yield f'<div class="pair">{"".join(f"<figure>{plot}</figure>" for plot in drawn)}</div>'


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"
