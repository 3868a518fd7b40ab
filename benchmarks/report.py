"""The record of a run as Markdown: a table for each case, the best on top."""

from pathlib import Path
from typing import Any

from benchmarks.servers import FLOOR
from benchmarks.stats import Row, rows


def write_report(record: dict[str, Any], path: Path) -> str:
    """Write the report and give its text."""
    text = "\n".join(_document(record)).rstrip() + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return text


def _document(record: dict[str, Any]) -> list[str]:
    lines = ["# Benchmarks", "", *_setting(record), ""]
    for name, case in record["cases"].items():
        table = rows(record, name)
        if not table:
            continue
        lines += [f"## {case['title']}", ""]
        lines += _load_table(record, table) if case["kind"] == "load" else _table(case, table)
        lines += _not_run(record, name)
        lines.append("")
    return lines + _servers(record) + _failures(record)


def _setting(record: dict[str, Any]) -> list[str]:
    machine, settings = record["machine"], record["settings"]
    builds = {
        f"{about['python']} (PGO {about['pgo']}, LTO {about['lto']}, shared {about['shared']})"
        for about in record["servers"].values()
        if about.get("python")
    }
    lines = [
        f"- Machine: {machine['cpu']}, {machine['cores']} cores"
        f"{' (virtual)' if machine['virtual'] == 'yes' else ''}, Linux {machine['kernel']},"
        f" load {machine['load_before']} before the start",
        f"- Python: {', '.join(sorted(builds)) or 'none'}",
        f"- {record['started']}: {settings['rounds']} rounds of {settings['seconds']:g} s a turn"
        f" after {settings['warmup']:g} s of warm-up, {settings['connections']} connections,"
        f" server on core {settings['server_core']}, client on core {settings['client_core']}",
        f"- Command: `{record['command']}`",
        "",
        "CPU is the server's own time per request, user and system, of all its processes and"
        " threads. Ratio is the median of the ratios to the C floor in the same round. Spread is"
        " the least and the greatest of the rounds; the interquartile range is in brackets. A"
        " difference inside the spread is no difference. Latency is of a closed loop: under"
        " saturation it is mostly queueing.",
    ]
    assumed = [n for n, c in record["cases"].items() if c.get("response_learned", "f")[0] == "a"]
    if assumed:
        lines += ["", f"The floor's answer was assumed, not learned, in: {', '.join(assumed)}."]
    return lines


def _title(record: dict[str, Any], row: Row, best: bool) -> str:
    about = record["servers"].get(row.server, {})
    title = about.get("title", row.server)
    if version := about.get("version"):
        title = title if version in title else f"{title} ({version})"
    if row.server == FLOOR:
        return f"*{title}*"
    return f"**{title}**" if best else str(title)


def _load_table(record: dict[str, Any], table: list[Row]) -> list[str]:
    lines = [
        "| server | CPU µs/request | user | system | ratio to the floor | spread (IQR) |"
        " requests/s | p50 / p99 / p99.9 µs | busy | errors |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    best = _best(table)
    for row in table:
        low, high = row.quartiles
        ratio = f"{row.ratio:.2f}" if row.ratio else "1"
        lines.append(
            f"| {_title(record, row, row is best)} | {row.median:.2f} | {row.user:.2f}"
            f" | {row.system:.2f} | {ratio} | {min(row.values):.2f}-{max(row.values):.2f}"
            f" ({high - low:.2f}) | {row.rps:,.0f} | {row.p50:.0f} / {row.p99:.0f} /"
            f" {row.p999:.0f} | {row.busy:.0%} | {row.errors or ''} |"
        )
    return lines


def _table(case: dict[str, Any], table: list[Row]) -> list[str]:
    unit, scale = ("KiB/connection", 1 / 1024) if case["kind"] == "idle" else ("ms", 1000)
    lines = [f"| server | {unit} | spread (IQR) |", "|---|--:|--:|"]
    best = _best(table)
    for row in table:
        low, high = (scale * quartile for quartile in row.quartiles)
        name = f"**{row.server}**" if row is best else row.server
        lines.append(
            f"| {name} | {scale * row.median:.1f} | {scale * min(row.values):.1f}-"
            f"{scale * max(row.values):.1f} ({high - low:.1f}) |"
        )
    return lines


def _best(table: list[Row]) -> Row | None:
    return next((row for row in table if row.server != FLOOR), None)


def _not_run(record: dict[str, Any], case: str) -> list[str]:
    reasons = [
        f"{name} ({about['skips'][case]})"
        for name, about in record["servers"].items()
        if case in about.get("skips", {})
    ]
    reasons += [
        f"{failure['server']} (failed)"
        for failure in record["failures"]
        if failure["case"] in (case, "every case")
    ]
    return ["", f"Not here: {'; '.join(reasons)}."] if reasons else []


def _servers(record: dict[str, Any]) -> list[str]:
    lines = ["## Servers", "", "| name | version | Python | command | note |"]
    lines.append("|---|---|---|---|---|")
    for name, about in record["servers"].items():
        command = f"`{about['command']}`" if about.get("command") else ""
        lines.append(
            f"| {name} | {about.get('version', '')} | {about.get('python', '')} | {command}"
            f" | {about.get('note', '')} |"
        )
    return [*lines, ""]


def _failures(record: dict[str, Any]) -> list[str]:
    if not record["failures"]:
        return []
    lines = ["## Failures", "", "Nothing is measured on a case after a failure on it.", ""]
    for failure in record["failures"]:
        reason = failure["reason"].replace("|", "/").replace("\n", " ")
        lines.append(f"- {failure['server']}, {failure['case']}: {reason}")
    return lines
