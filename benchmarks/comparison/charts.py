"""The figures of a comparison as pictures: SVG text that a page can hold.

Letters stay letters, so that a page's search finds them and its fonts draw them.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.comparison.figures import Figure, Record, Row, is_ours, is_usual
from benchmarks.comparison.markdown import digits_of, to_ours
from benchmarks.comparison.turn import EQUAL
from benchmarks.servers import FLOOR, REFERENCE

INK, MUTED, GRID = "#1f2933", "#6b7785", "#e3e8ee"
OURS, OURS_LIGHT = "#c2410c", "#fdba74"
PEER, PEER_LIGHT = "#31688e", "#a8c8de"
MARKS = (("p50_us", "p50", "o"), ("p99_us", "p99", "D"), ("p999_us", "p99.9", "^"))
LINES = ("#c2410c", "#31688e", "#35906a", "#7b4fa3", "#b08900", "#5b6770", "#b03060", "#2a9d8f")
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "ytick.left": False,
    "hatch.linewidth": 0.6,
}


def costs(record: Record, test: str, table: Sequence[Row]) -> str:
    """CPU per request: a bar for each entry, the cheapest on top, the floor as a line."""
    bars = [row for row in table if row.entry != FLOOR][::-1]
    with _figure(len(bars), "server CPU per request, µs") as (axis, out):
        for place, row in enumerate(bars):
            dark, light = (OURS, OURS_LIGHT) if is_ours(row.entry) else (PEER, PEER_LIGHT)
            hatch = "////" if is_usual(record, row.entry) else None
            share = row.cpu_us.median / ((row.user_us + row.system_us) or 1)
            user, system = row.user_us * share, row.system_us * share
            common = {"hatch": hatch, "edgecolor": "white", "linewidth": 0}
            axis.barh(place, user, color=dark, height=0.68, **common)
            axis.barh(place, system, left=user, color=light, height=0.68, **common)
            axis.plot([row.cpu_us.low, row.cpu_us.high], [place, place], color=INK, linewidth=1)
            ours = to_ours(record, test, row.entry)
            text = f"{row.cpu_us.median:.{digits_of(row.cpu_us.median)}f}"
            text += f" ({ours.median:.2f} x)" if ours else ""
            axis.annotate(text, (row.cpu_us.high, place), xytext=(6, 0), va="center",
                          textcoords="offset points", fontsize=8.5)
        for row in table:
            if row.entry == FLOOR:
                axis.axvline(row.cpu_us.median, color=INK, linewidth=1, linestyle=(0, (4, 3)))
                axis.annotate("C floor", (row.cpu_us.median, len(bars) - 0.5), xytext=(3, 3),
                              textcoords="offset points", fontsize=8, color=MUTED)
        axis.set_xlim(left=0)
        axis.margins(x=0.14)
        _name(axis, bars)
    return _svg(out, f"CPU per request on {test}")


def latencies(test: str, table: Sequence[Row], rate: str = EQUAL) -> str:
    """p50, p99 and p99.9 of each entry at one rate, the lowest p99 on top."""
    told = sorted((row for row in table if rate in row.latency),
                  key=lambda row: -row.latency[rate].percentiles["p99_us"].median)
    with _figure(len(told), "latency from when a request was due, ms (logarithmic)") as (
        axis, out,
    ):
        for place, row in enumerate(told):
            color = OURS if is_ours(row.entry) else PEER
            figures = row.latency[rate].percentiles
            middle = [figures[key].median / 1000 for key, _, _ in MARKS]
            axis.plot([middle[0], middle[-1]], [place, place], color=color, linewidth=1.2)
            for (key, _, mark), value in zip(MARKS, middle, strict=True):
                axis.plot(value, place, mark, color=color, markersize=5)
                low, high = figures[key].low / 1000, figures[key].high / 1000
                axis.plot([low, high], [place, place], color=color, linewidth=5, alpha=0.22,
                          solid_capstyle="butt")
        for _, label, mark in MARKS:
            axis.plot([], [], mark, color=MUTED, markersize=5, label=label)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=8)
        _name(axis, told)
    return _svg(out, f"latency on {test}")


def trends(lines: Sequence[tuple[str, Sequence[tuple[str, Figure]]]], scale: str) -> str:
    """The ratio of fastserve over the runs; `lines` are (test, trend) pairs."""
    dates = sorted({date for _, trend in lines for date, _ in trend})
    with _figure(10, "", axis_grid="y") as (axis, out):
        for index, (_, trend) in enumerate(lines):
            where = [dates.index(date) for date, _ in trend]
            color = LINES[index % len(LINES)]
            axis.plot(where, [found.median for _, found in trend], "o-", color=color,
                      markersize=4, linewidth=1.5)
            axis.fill_between(where, [found.low for _, found in trend],
                              [found.high for _, found in trend], color=color, alpha=0.10)
        shown = range(0, len(dates), max(1, len(dates) // 8))
        axis.set_xticks(list(shown), [dates[index][:10] for index in shown])
        axis.margins(x=0.12)
        axis.set_ylim(bottom=0)
        axis.set_ylabel(f"fastserve's CPU, as a multiple of {scale}'s")
        _label_ends(axis, [(test, len(dates) - 1, trend[-1][1].median) for test, trend in lines])
    return _svg(out, f"fastserve's CPU over the runs, as a multiple of {scale}'s")


def _label_ends(axis: Any, ends: Sequence[tuple[str, int, float]]) -> None:
    """Name each line behind its end, none upon another."""
    gap = 0.05 * axis.get_ylim()[1]
    last = -gap
    for test, x, y in sorted(ends, key=lambda end: end[2]):
        last = max(y, last + gap)
        color = LINES[[name for name, _, _ in ends].index(test) % len(LINES)]
        axis.annotate(test, (x, last), xytext=(8, 0), va="center", textcoords="offset points",
                      color=color, fontsize=8.5)


@contextmanager
def _figure(
    places: int, label: str, axis_grid: str = "x"
) -> Iterator[tuple[Any, io.StringIO]]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    out = io.StringIO()
    style: Any = {**STYLE, "axes.grid.axis": axis_grid}
    with matplotlib.rc_context(style):
        figure, axis = pyplot.subplots(figsize=(8.6, 0.9 + 0.29 * places), layout="constrained")
        try:
            yield axis, out
            axis.set_xlabel(label, fontsize=8.5)
            figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
        finally:
            pyplot.close(figure)


def _name(axis: Any, rows: Sequence[Row]) -> None:
    axis.set_yticks(range(len(rows)), [row.entry for row in rows])
    axis.set_ylim(-0.6, len(rows) - 0.4)
    for label in axis.get_yticklabels():
        if label.get_text() == REFERENCE:
            label.set_color(OURS)
            label.set_fontweight("bold")


def _svg(out: io.StringIO, what: str) -> str:
    """Only the element itself, with a text for who cannot see it."""
    text = out.getvalue()
    return text[text.index("<svg"):].replace("<svg", f'<svg role="img" aria-label="{what}"', 1)
