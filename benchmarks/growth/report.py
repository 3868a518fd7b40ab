"""The record of a growth run as Markdown: a table of points and one of slopes for each axis."""

from pathlib import Path
from typing import Any

from benchmarks.growth.slopes import FLOOR, Figures, Spread

BINARY = ((1024 * 1024, "MiB"), (1024, "KiB"))


def write_report(record: dict[str, Any], path: Path) -> str:
    """Write the report and give its text."""
    lines = ["# Growth", "", *_setting(record)]
    for name, axis in record["axes"].items():
        turns = [turn for turn in record["turns"] if turn["axis"] == name]
        figures = Figures(turns, axis["metric"])
        lines += ["", f"## {axis['title']}", "", *_points(record, axis, figures)]
        lines += ["", *_slopes(axis, figures)]
        if name == "routes":
            lines += ["", *_starts(turns, axis)]
        remarks = " ".join(text for text in (axis["cut"], axis["note"]) if text)
        lines += ["", remarks] if remarks else []
    lines += _failures(record)
    text = "\n".join(lines).rstrip() + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return text


def place(axis: dict[str, Any], x: int) -> str:
    """A point in words: sizes in KiB and MiB."""
    if axis["label"] == "bytes":
        for size, unit in BINARY:
            if x >= size:
                return f"{x / size:g} {unit}"
    return f"{x:,}"


def _setting(record: dict[str, Any]) -> list[str]:
    machine, settings = record["machine"], record["settings"]
    lines = [
        f"- Machine: {machine['cpu']}, {machine['cores']} cores"
        f"{' (virtual)' if machine['virtual'] == 'yes' else ''}, Linux {machine['kernel']},"
        f" load {machine['load_before']} before the start; Python {record['python']}",
        f"- {record['started']}: {settings['rounds']} rounds of {settings['seconds']:g} s a turn"
        f" after {settings['warmup']:g} s of warm-up, server on core {settings['server_core']},"
        f" client on core {settings['client_core']}; 64 connections, not pipelined, unless an axis"
        " says otherwise",
        f"- Command: `{record['command']}`",
        "",
        "Server CPU per request, of all its processes: the median of the rounds (least to"
        " greatest), and behind x the median of the ratios to the C floor of the same round. The"
        " floor gets the same requests and sends the same bytes, and does nothing else. A slope is"
        " fitted in each round; \"above the floor\" fits the differences to it; \"last step\" is"
        " between the last two points alone; the intercept is the fit without any step: no field,"
        " no body, one route or connection, a batch without end.",
    ]
    if record["quick"]:
        lines += ["", "**A quick run: that it works is all that it shows.**"]
    return lines


def _points(record: dict[str, Any], axis: dict[str, Any], figures: Figures) -> list[str]:
    unit = "requests/s" if axis["metric"] == "rps" else "µs"
    heads = [axis["label"], f"C floor, {unit}",
             *(f"{title}, {unit}" for title in axis["series"].values())]
    if axis["copies"]:
        heads += ["memcpy in cache, µs", "memcpy in memory, µs"]
    lines = [f"| {' | '.join(heads)} |", "|" + "--:|" * len(heads)]
    for x in axis["points"]:
        cells = [place(axis, x), _cell(figures.at(FLOOR, x))]
        for name in axis["series"]:
            ratio = figures.ratio(name, x)
            cells.append(_cell(figures.at(name, x)) + (f" x {ratio:.2f}" if ratio else ""))
        if axis["copies"]:
            cells += [number(ns / 1000) for ns in record["copying_ns"][str(x)]]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _slopes(axis: dict[str, Any], figures: Figures) -> list[str]:
    rate = axis["metric"] == "rps"
    unit, scale = ("requests/s", 1) if rate else ("ns", 1000)
    start = f", from {axis['start']:,} on" if axis["start"] else ""
    lines = [f"| {unit} per {axis['step']}{start} | slope | above the floor | last step "
             "| intercept |", "|---|--:|--:|--:|--:|"]
    titles = {**axis["series"], FLOOR: "C floor"}
    for name, title in titles.items():
        slope = figures.slope(name, axis)
        above = figures.slope(name, axis, above=FLOOR) if name != FLOOR and not rate else None
        last = figures.last_step(name, axis)
        lines.append(f"| {title} | {_cell(slope, scale)} | {_cell(above, scale)} "
                     f"| {number(last * scale) if last is not None else '-'} "
                     f"| {_cell(figures.intercept(name, axis), scale)} |")
    return lines


def _starts(turns: list[dict[str, Any]], axis: dict[str, Any]) -> list[str]:
    """How long the server took from its start to its first answer: routes are made there."""
    lines = [f"| first answer after, s | {' | '.join(axis['series'].values())} |",
             "|--:|" + "--:|" * len(axis["series"])]
    figures = Figures([turn for turn in turns if "ready_s" in turn], "ready_s")
    for x in axis["points"]:
        cells = [_cell(figures.at(name, x)) for name in axis["series"]]
        lines.append(f"| {place(axis, x)} | {' | '.join(cells)} |")
    return lines


def _cell(found: Spread | None, scale: float = 1) -> str:
    if found is None:
        return "-"
    median, low, high = (number(value * scale) for value in (found.median, found.low, found.high))
    return f"{median} ({low} to {high})" if found.high > found.low else median


def number(value: float) -> str:
    """With about three digits that say something."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def _failures(record: dict[str, Any]) -> list[str]:
    if not record["failures"]:
        return []
    lines = ["", "## Failures", "", "Nothing is measured at a point after a failure there.", ""]
    for failure in record["failures"]:
        reason = failure["reason"].replace("|", "/").replace("\n", " ")
        lines.append(f"- {failure['axis']} at {failure['x']:,}, {failure['series']}: {reason}")
    return lines
