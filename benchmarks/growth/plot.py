"""The record of a growth run as pictures: one of each axis, and one of all of them."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from benchmarks.growth.report import place
from benchmarks.growth.slopes import FLOOR, Figures

COLOURS = ("#c0392b", "#3b6ea5", "#d68910")
STEEP = 20      # from so many times the least figure on the ordinate is logarithmic
COLUMNS = 2


def draw(record: dict[str, Any], folder: Path) -> list[Path]:
    """Write growth-AXIS.png for each axis and growth.png; the paths of all."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in record["axes"]:
        figure, panel = pyplot.subplots(figsize=(8, 5), layout="constrained")
        _panel(panel, record, name)
        paths.append(_save(figure, record, folder / f"growth-{name}.png"))
    rows = -(-len(record["axes"]) // COLUMNS)
    figure, panels = pyplot.subplots(
        rows, COLUMNS, figsize=(14, 4.2 * rows), squeeze=False, layout="constrained")
    for panel in panels.flat[len(record["axes"]):]:
        panel.set_axis_off()
    for panel, name in zip(panels.flat, record["axes"], strict=False):
        _panel(panel, record, name)
    paths.append(_save(figure, record, folder / "growth.png"))
    return paths


def _save(figure: Any, record: dict[str, Any], path: Path) -> Path:
    machine, settings = record["machine"], record["settings"]
    figure.suptitle(
        f"median, least and greatest of {settings['rounds']} rounds; {machine['cpu']},"
        f" Linux {machine['kernel']}, Python {record['python']}", fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _panel(panel: Any, record: dict[str, Any], name: str) -> None:
    axis = record["axes"][name]
    figures = Figures([turn for turn in record["turns"] if turn["axis"] == name], axis["metric"])
    greatest, least = 0.0, float("inf")
    for (series, title), colour in zip(axis["series"].items(), COLOURS, strict=False):
        low, high = _line(panel, axis, figures, series, label=title, color=colour, marker="o")
        greatest, least = max(greatest, high), min(least, low)
    low, high = _line(panel, axis, figures, FLOOR, label="C floor", color="black",
                      linestyle="--", marker=".")
    greatest, least = max(greatest, high), min(least, low)
    if axis["copies"]:
        _copies(panel, record, axis)
    _abscissa(panel, axis)
    if greatest > STEEP * least:
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
    else:
        panel.set_ylim(bottom=0)
    unit = "requests/s" if axis["metric"] == "rps" else "server CPU per request, µs"
    panel.set_ylabel(unit, fontsize=8)
    panel.set_title(axis["title"], loc="left", fontsize=10, fontweight="bold")
    panel.tick_params(labelsize=7)
    panel.grid(alpha=0.25)
    panel.legend(fontsize=7)


def _line(panel: Any, axis: dict[str, Any], figures: Figures, series: str,
          **style: Any) -> tuple[float, float]:
    """Draw one series with its spread; its least and greatest figure."""
    known = [(x, found) for x in axis["points"] if (found := figures.at(series, x))]
    if not known:
        return float("inf"), 0.0
    spread = [[found.median - found.low for _, found in known],
              [found.high - found.median for _, found in known]]
    panel.errorbar([x for x, _ in known], [found.median for _, found in known], yerr=spread,
                   linewidth=1.2, markersize=4, elinewidth=0.8, capsize=2, **style)
    return min(found.low for _, found in known), max(found.high for _, found in known)


def _copies(panel: Any, record: dict[str, Any], axis: dict[str, Any]) -> None:
    sizes = [x for x in axis["points"] if x]
    for which, (title, style) in enumerate(
            (("one memcpy, in cache", ":"), ("one memcpy, in memory", "-."))):
        times = [record["copying_ns"][str(x)][which] / 1000 for x in sizes]
        panel.plot(sizes, times, linestyle=style, color="#777777", linewidth=1, label=title)


def _abscissa(panel: Any, axis: dict[str, Any]) -> None:
    if axis["scale"] == "log":
        panel.set_xscale("log")
    elif axis["scale"] == "symlog":
        panel.set_xscale("symlog", linthresh=min(x for x in axis["points"] if x))
    panel.set_xticks(axis["points"], [place(axis, x) for x in axis["points"]],
                     rotation=30 if len(axis["points"]) > 5 else 0)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xlabel(axis["label"], fontsize=8)
