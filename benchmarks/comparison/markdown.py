"""The record of a comparison as Markdown: the bars, then a table for each test, the best on top."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.comparison.figures import (
    RATES,
    Figure,
    Latency,
    Record,
    Row,
    is_usual,
    kind_of,
    ratio,
    rows,
)
from benchmarks.comparison.turn import EQUAL
from benchmarks.comparison.verdicts import verdicts
from benchmarks.servers import FLOOR, REFERENCE

LATE = 0.01  # share of requests sent late from which a latency is the client's, too
RATE_TITLES = {EQUAL: "the same rate for all", "half": "50 % of its own maximum",
               "most": "80 % of its own maximum"}
EXPLANATION = (
    "CPU is the server's own time per request, user and system, of all its processes and threads,"
    " median over the rounds, with the least and the greatest. Ratios are taken within a round:"
    " above 1 fastserve is cheaper, below 1 it is dearer. A difference inside the spread is no"
    " difference. Requests/s are those of a closed loop; where the server is not busy, the client"
    " or PostgreSQL, which share a core, set the limit. PostgreSQL's CPU is told beside it and is"
    " in no other figure. PSS is before the load and the most under it."
)
LATENCY_EXPLANATION = (
    "Latency counts from when a request was due, at a fixed rate with random arrivals, so that a"
    " stall costs every request that came meanwhile; median over the rounds, and the spread."
    " Busy is the share of a core that the server took meanwhile, all of it where one polls."
)


def write_markdown(record: Record, path: Path) -> str:
    """Write the report and give its text."""
    text = "\n".join(document(record)).rstrip() + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return text


def document(record: Record) -> Iterator[str]:
    """The lines of the report."""
    yield from ("# Comparison", "")
    yield from (f"- {line}" for line in setting(record))
    yield from ("", EXPLANATION, "", LATENCY_EXPLANATION, "")
    yield from _bars(record)
    for test, about in record["tests"].items():
        if table := rows(record, test):
            yield from (f"## {about['title']} (`{test}`)", "")
            yield from _costs(record, test, table)
            yield from _latencies(record, table)
            yield ""
    yield from _entries(record)
    yield from _failures(record)


def setting(record: Record) -> list[str]:
    """What the figures were taken on and with, a line each."""
    machine, s = record["machine"], record["settings"]
    builds = sorted({
        f"{about['python']} (PGO {about['pgo']}, LTO {about['lto']}, shared {about['shared']})"
        for about in record["entries"].values() if about.get("python")})
    return [
        f"Machine: {machine['cpu']}, {machine['cores']} cores"
        f"{' (virtual)' if machine['virtual'] == 'yes' else ''}, Linux {machine['kernel']},"
        f" load {machine['load_before']} before the start",
        f"Python: {', '.join(builds) or 'none'}",
        f"Database: {record.get('database', 'none')}",
        f"{record['started']}, commit {record['commit'] or 'unknown'}: {s['rounds']} rounds;"
        f" {s['seconds']:g} s at the limit and {s['latency_seconds']:g} s or more at each rate,"
        f" {s['connections']} connections, {s['pool_size']} of them to the database a worker;"
        f" server on core {s['server_core']}, client and PostgreSQL on core {s['client_core']}",
        f"Command: `{record['command']}`",
    ]


def name_of(record: Record, entry: str) -> str:
    """The title of an entry, its version, and which of its peer's rows it is."""
    about = record["entries"].get(entry, {})
    title = about.get("title", entry)
    if (version := about.get("version")) and version not in title:
        title += f" {version}"
    if entry == FLOOR:
        return str(title)
    return f"{title}, usual" if is_usual(record, entry) else str(title)


def to_ours(record: Record, test: str, entry: str) -> Figure | None:
    """How many times fastserve's CPU an entry takes; None for fastserve itself."""
    return None if entry == REFERENCE else ratio(record, test, entry, REFERENCE)


def spread(figure: Figure, digits: int) -> str:
    """The median, and the range in brackets."""
    return (f"{figure.median:,.{digits}f} ({figure.low:,.{digits}f}-{figure.high:,.{digits}f})")


def digits_of(value_us: float) -> int:
    """Digits behind the point that are worth printing."""
    return 2 if value_us < 10 else 1 if value_us < 200 else 0


def _bars(record: Record) -> Iterator[str]:
    yield from ("## Bars", "", "| test | bar | | result |", "|---|---|---|---|")
    found = verdicts(record)
    for verdict in found:
        if verdict.met is None:
            continue
        bar = f"**{verdict.bar}**" if verdict.headline else verdict.bar
        word = "**missed**" if verdict.met is False else verdict.word
        yield f"| {verdict.test} | {bar} | {word} | {verdict.result} |"
    yield ""
    if missing := [f"{v.bar} on {v.test}" for v in found if v.met is None]:
        yield from (f"Not measured: {'; '.join(missing)}.", "")


def _costs(record: Record, test: str, table: list[Row]) -> Iterator[str]:
    floor = any(row.entry == FLOOR for row in table)
    yield ("| entry | CPU µs/request | user | system | to fastserve |"
           f"{' to the floor |' if floor else ''} requests/s | busy | PSS MiB | PostgreSQL µs |"
           " failures |")
    yield "|---|--:|--:|--:|--:|" + ("--:|" if floor else "") + "--:|--:|--:|--:|--:|"
    for row in table:
        ours, digits = to_ours(record, test, row.entry), digits_of(row.cpu_us.median)
        cells = [_marked(record, row, table), spread(row.cpu_us, digits),
                 f"{row.user_us:.{digits}f}", f"{row.system_us:.{digits}f}",
                 spread(ours, 2) if ours else "1"]
        if floor:
            theirs = ratio(record, test, row.entry, FLOOR) if row.entry != FLOOR else None
            cells.append(f"{theirs.median:.2f}" if theirs else "1")
        cells += [f"{row.rps:,.0f}", f"{row.busy:.0%}",
                  f"{row.base_bytes / 2**20:.0f} - {row.peak_bytes / 2**20:.0f}",
                  f"{row.database_us:.1f}" if row.database_us else "", str(row.faults or "")]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _marked(record: Record, row: Row, table: list[Row]) -> str:
    name = name_of(record, row.entry)
    best = next((other for other in table if other.entry != FLOOR), None)
    if row.entry == FLOOR:
        return f"*{name}*"
    return f"**{name}**" if row is best else name


def _latencies(record: Record, table: list[Row]) -> Iterator[str]:
    for rate in RATES:
        told = [row for row in table if rate in row.latency]
        if not told:
            continue
        told.sort(key=lambda row: row.latency[rate].percentiles["p99_us"].median)
        yield from (f"Latency in µs at {RATE_TITLES[rate]}:", "",
                    "| entry | requests/s | p50 | p99 | p99.9 | busy | |",
                    "|---|--:|--:|--:|--:|--:|---|")
        for row in told:
            latency = row.latency[rate]
            cells = [spread(figure, 0) for figure in latency.percentiles.values()]
            yield (f"| {name_of(record, row.entry)} | {latency.rate_per_s.median:,.0f} |"
                   f" {' | '.join(cells)} | {latency.busy:.0%} | {'; '.join(remarks(latency))} |")
        yield ""


def remarks(latency: Latency) -> list[str]:
    """What a reader must know to judge a latency."""
    found = []
    if latency.dropped:
        found.append(f"{latency.dropped} of {latency.requests} never answered")
    if latency.late > LATE:
        found.append(f"{latency.late:.0%} sent late by the client")
    if not latency.has_p999:
        found.append(f"{latency.requests} requests: p99.9 is the slowest")
    return found


def _entries(record: Record) -> Iterator[str]:
    yield from ("## Entries", "", "| name | version | Python | row | command | note |",
                "|---|---|---|---|---|---|")
    for name, about in record["entries"].items():
        command = f"`{about['command']}`" if about.get("command") else ""
        yield (f"| {name} | {about.get('version', '')} | {about.get('python', '')} |"
               f" {kind_of(record, name)} |"
               f" {command} | {about.get('note', '')} |")
    yield ""


def _failures(record: Record) -> Iterator[str]:
    if record["failures"]:
        yield from ("## Failures", "", "An entry is not measured on a test after it failed there.",
                    "")
    for failure in record["failures"]:
        reason = failure["reason"].replace("|", "/").replace("\n", " ")
        yield f"- {failure['entry']}, {failure['test']}: {reason}"
