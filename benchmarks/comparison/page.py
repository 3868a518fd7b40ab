"""The record of a comparison as one HTML page that needs nothing beside it, no script either."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from benchmarks.comparison import charts, history
from benchmarks.comparison.figures import RATES, Record, Row, kind_of, ratio, rows
from benchmarks.comparison.markdown import (
    EXPLANATION,
    LATENCY_EXPLANATION,
    RATE_TITLES,
    digits_of,
    name_of,
    remarks,
    setting,
    spread,
    to_ours,
)
from benchmarks.comparison.turn import EQUAL
from benchmarks.comparison.verdicts import Verdict, verdicts
from benchmarks.servers import FLOOR, REFERENCE

STYLE = """
:root { --ink: #1f2933; --muted: #5f6c7b; --line: #e3e8ee; --ours: #c2410c; --tint: #fff6ef; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 76rem; background: #fff;
  color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.9rem; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.35rem; margin: 3rem 0 .6rem; padding-top: 1.2rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p, ul { max-width: 48rem; }
.setting, figcaption, .remark { color: var(--muted); font-size: .86rem; }
.setting { padding-left: 1.1rem; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: .4rem .9rem; margin: 1rem 0; font-size: .9rem; }
a { color: #1d5f8a; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .86rem;
  font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: 600; color: var(--muted); white-space: nowrap; }
td { text-align: right; white-space: nowrap; }
th, td { padding: .34rem .5rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child, .text td, .text th, td.remark { text-align: left; }
.text td { white-space: normal; }
.text td:first-child { white-space: nowrap; }
tr.ours td { background: var(--tint); }
tr.ours td:first-child { color: var(--ours); font-weight: 600; }
tr.floor td { color: var(--muted); font-style: italic; }
.tag { font-size: .74rem; color: var(--muted); border: 1px solid var(--line); border-radius: .6rem;
  padding: 0 .4rem; margin-left: .3rem; font-weight: 400; }
.word { font-weight: 600; white-space: nowrap; }
.met { color: #18794e; } .missed { color: #b42318; }
.range { color: var(--muted); font-size: .92em; }
figure { margin: 1rem 0; } figure svg { width: 100%; height: auto; display: block; }
code { font-size: .85em; overflow-wrap: anywhere; }
details { margin: .8rem 0; } summary { cursor: pointer; color: #1d5f8a; font-size: .9rem; }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .25em 0 .7em; }
@media print { details { display: block; } body { max-width: none; } }
"""
KEY = (
    f'<span class="key" style="background:{charts.OURS}"></span>fastserve'
    f'<span class="key" style="background:{charts.PEER}"></span>a peer; dark: user, light: system'
    f'<span class="key" style="background:repeating-linear-gradient(135deg,{charts.PEER} 0 2px,'
    '#fff 2px 4px)"></span>hatched: the peer as it usually is; the thin line is the spread over the'
    " rounds; x marks a multiple of fastserve's CPU"
)


def write_page(record: Record, lines: Sequence[history.Line], path: Path) -> None:
    """Write the page; `lines` are the history, for its plot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(_document(record, lines)) + "\n", encoding="utf-8")


def _document(record: Record, lines: Sequence[history.Line]) -> Iterator[str]:
    yield from ('<!doctype html>', '<html lang="en">', "<head>", '<meta charset="utf-8">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                f"<title>fastserve beside its peers, {escape(record['started'][:10])}</title>",
                f"<style>{STYLE}</style>", "</head>", "<body>",
                "<h1>fastserve beside its peers</h1>", '<ul class="setting">')
    yield from (f"<li>{_code(line)}</li>" for line in setting(record))
    yield "</ul>"
    tables = {test: table for test in record["tests"] if (table := rows(record, test))}
    links = [*((test, test) for test in tables), ("history", "history"), ("entries", "entries")]
    yield "<nav>" + "".join(f'<a href="#{anchor}">{text}</a>' for anchor, text in links) + "</nav>"
    yield from _verdicts(verdicts(record))
    yield from ("<h2>How to read it</h2>", f"<p>{escape(EXPLANATION)}</p>",
                f"<p>{escape(LATENCY_EXPLANATION)}</p>")
    for test, table in tables.items():
        yield from _test(record, test, table)
    yield from _history(lines)
    yield from _entries(record)
    yield from _failures(record)
    yield from ("</body>", "</html>")


def _verdicts(found: Sequence[Verdict]) -> Iterator[str]:
    counts = {met: sum(verdict.met is met for verdict in found) for met in (True, False, None)}
    yield "<h2>The bars</h2>"
    yield (f"<p>{counts[True]} met, {counts[False]} missed, {counts[None]} not measured. Those in"
           " bold compare the servers alone, with the same pool and statements behind both.</p>")
    yield '<div class="scroll"><table class="text"><tr><th>test</th><th>bar</th><th></th>'
    yield "<th>result</th></tr>"
    for verdict in found:
        if verdict.met is not None:
            bar = escape(verdict.bar)
            yield (f"<tr><td>{verdict.test}</td>"
                   f"<td>{f'<strong>{bar}</strong>' if verdict.headline else bar}</td>"
                   f'<td class="word {"met" if verdict.met else "missed"}">{verdict.word}</td>'
                   f"<td>{escape(verdict.result)}</td></tr>")
    yield "</table></div>"
    if missing := [verdict for verdict in found if verdict.met is None]:
        yield f"<details><summary>{len(missing)} not measured</summary><ul>"
        yield from (f"<li>{verdict.test}: {escape(verdict.bar)}</li>" for verdict in missing)
        yield "</ul></details>"


def _test(record: Record, test: str, table: list[Row]) -> Iterator[str]:
    about = record["tests"][test]
    yield f'<h2 id="{test}">{escape(about["title"])} <code>{escape(about["path"])}</code></h2>'
    yield f"<figure>{charts.costs(record, test, table)}<figcaption>{KEY}</figcaption></figure>"
    yield from _costs(record, test, table)
    told = [row for row in table if EQUAL in row.latency]
    if not told:
        return
    rate = told[0].latency[EQUAL].rate_per_s.median
    yield f"<h3>Latency at {rate:,.0f} requests a second for all</h3>"
    yield (f"<figure>{charts.latencies(test, table)}<figcaption>Marks are medians over the rounds,"
           " bands the spread.</figcaption></figure>")
    yield "<details><summary>Latency at every rate, in numbers</summary>"
    for name in RATES:
        yield from _latencies(record, table, name)
    yield "</details>"


def _costs(record: Record, test: str, table: list[Row]) -> Iterator[str]:
    floor = any(row.entry == FLOOR for row in table)
    heads = ["entry", "CPU µs", "user + system", "to fastserve", *(["to floor"] if floor else []),
             "requests/s", "busy", "PSS MiB", "PostgreSQL µs", "failures"]
    titles = "".join(f"<th>{head}</th>" for head in heads)
    yield f'<div class="scroll"><table><tr>{titles}</tr>'
    for row in table:
        ours, digits = to_ours(record, test, row.entry), digits_of(row.cpu_us.median)
        cells = [_named(record, row.entry), _ranged(spread(row.cpu_us, digits)),
                 f"{row.user_us:.{digits}f} + {row.system_us:.{digits}f}",
                 _ranged(spread(ours, 2)) if ours else "1"]
        if floor:
            theirs = ratio(record, test, row.entry, FLOOR) if row.entry != FLOOR else None
            cells.append(f"{theirs.median:.2f}" if theirs else "1")
        cells += [f"{row.rps:,.0f}", f"{row.busy:.0%}",
                  f"{row.base_bytes / 2**20:.0f} - {row.peak_bytes / 2**20:.0f}",
                  f"{row.database_us:.1f}" if row.database_us else "", str(row.faults or "")]
        yield _line(row.entry, cells)
    yield "</table></div>"


def _latencies(record: Record, table: list[Row], rate: str) -> Iterator[str]:
    told = sorted((row for row in table if rate in row.latency),
                  key=lambda row: row.latency[rate].percentiles["p99_us"].median)
    yield f"<h3>µs at {RATE_TITLES[rate]}</h3>"
    yield ('<div class="scroll"><table><tr><th>entry</th><th>requests/s</th><th>p50</th>'
           "<th>p99</th><th>p99.9</th><th>busy</th><th></th></tr>")
    for row in told:
        latency = row.latency[rate]
        cells = [_named(record, row.entry), f"{latency.rate_per_s.median:,.0f}",
                 *(_ranged(spread(figure, 0)) for figure in latency.percentiles.values()),
                 f"{latency.busy:.0%}"]
        remark = f'<td class="remark">{escape("; ".join(remarks(latency)))}</td>'
        yield _line(row.entry, cells, remark)
    yield "</table></div>"


def _line(entry: str, cells: Sequence[str], more: str = "") -> str:
    kind = {REFERENCE: ' class="ours"', FLOOR: ' class="floor"'}.get(entry, "")
    return f"<tr{kind}>" + "".join(f"<td>{cell}</td>" for cell in cells) + f"{more}</tr>"


def _named(record: Record, entry: str) -> str:
    name = escape(name_of(record, entry).removesuffix(", usual"))
    note = escape(record["entries"].get(entry, {}).get("note", ""))
    kind = kind_of(record, entry)
    tag = f'<span class="tag">{kind}</span>' if kind in ("usual", "pipelined", "orm") else ""
    return f'<span title="{note}">{name}</span>{tag}' if note else name + tag


def _ranged(text: str) -> str:
    middle, _, limits = text.partition(" ")
    return f'{middle} <span class="range">{limits}</span>'


def _history(lines: Sequence[history.Line]) -> Iterator[str]:
    yield '<h2 id="history">History</h2>'
    same = history.alike(lines) if lines else []
    drawn = 0
    for scale in history.SCALES:
        found = [(test, trend) for test in (same[-1]["figures"] if same else ())
                 if len(trend := history.trend(same, test, scale)) > 1]
        if found:
            drawn += 1
            yield f"<figure>{charts.trends(found, scale)}</figure>"
    if not drawn:
        yield "<p>Fewer than two runs on this machine and Python have been kept.</p>"
    for regression in history.regressions(lines):
        yield f'<p class="missed"><strong>Worse than before:</strong> {escape(str(regression))}</p>'


def _entries(record: Record) -> Iterator[str]:
    yield '<h2 id="entries">Entries</h2><div class="scroll"><table class="text">'
    yield "<tr><th>name</th><th>version</th><th>row</th><th>command</th><th>note</th></tr>"
    for name, about in record["entries"].items():
        command = f"<code>{escape(about['command'])}</code>" if about.get("command") else ""
        yield (f"<tr><td>{name}</td><td>{escape(about.get('version', ''))}</td>"
               f"<td>{kind_of(record, name)}</td>"
               f"<td>{command}</td><td>{escape(about.get('note', ''))}</td></tr>")
    yield "</table></div>"


def _failures(record: Record) -> Iterator[str]:
    if record["failures"]:
        yield "<h2>Failures</h2>"
        yield "<p>An entry is not measured on a test after it failed there.</p><ul>"
        for failure in record["failures"]:
            yield (f"<li><strong>{failure['entry']}</strong>, {failure['test']}:"
                   f" {escape(failure['reason'])}</li>")
        yield "</ul>"


def _code(line: str) -> str:
    """Escaped, with `...` as code."""
    head, mark, rest = escape(line).partition("`")
    return head + (f"<code>{rest.removesuffix('`')}</code>" if mark else "")
