"""The record of a run as a picture: CPU per request, user and system, the floor as a line."""

from pathlib import Path
from typing import Any

from benchmarks.servers import FLOOR, REFERENCE
from benchmarks.stats import Row, rows

USER, SYSTEM, OURS = "#3b6ea5", "#b9cde4", "#c0392b"


def draw(record: dict[str, Any], path: Path) -> None:
    """One panel for each case under load, the best server on top."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [
        (case, table)
        for name, case in record["cases"].items()
        if case["kind"] == "load" and (table := rows(record, name))
    ]
    if not panels:
        return
    heights = [1 + 0.28 * len(table) for _, table in panels]
    figure, axes = pyplot.subplots(
        len(panels),
        1,
        figsize=(10, sum(heights) + 0.6),
        squeeze=False,
        height_ratios=heights,
        layout="constrained",
    )
    for axis, (case, table) in zip(axes[:, 0], panels, strict=True):
        _panel(axis, case["title"], table)
    machine = record["machine"]
    axes[0, 0].legend(loc="lower right", fontsize=8)
    axes[-1, 0].set_xlabel(
        f"server CPU per request, µs (median of {record['settings']['rounds']} rounds;"
        f" {machine['cpu']}, Linux {machine['kernel']})",
        fontsize=8,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _panel(axis: Any, title: str, table: list[Row]) -> None:
    table = table[::-1]  # the first bar is drawn at the bottom
    names = [row.server for row in table]
    user = [row.user for row in table]
    system = [row.system for row in table]
    low = [max(0.0, row.user + row.system - min(row.values)) for row in table]
    high = [max(0.0, max(row.values) - row.user - row.system) for row in table]
    axis.barh(names, user, color=USER, label="user")
    axis.barh(
        names,
        system,
        left=user,
        color=SYSTEM,
        label="system",
        xerr=[low, high],
        error_kw={"elinewidth": 0.8, "ecolor": "#555555"},
    )
    for row in table:
        if row.server == FLOOR:
            axis.axvline(row.median, color="black", linewidth=0.8, linestyle="--", label="C floor")
    for place, row in enumerate(table):
        text = f" {row.median:.2f}" + (f"  ({row.ratio:.2f} x)" if row.ratio else "")
        axis.text(max(row.values), place, text, va="center", fontsize=7)
    for label in axis.get_yticklabels():
        label.set_fontsize(8)
        if label.get_text() == REFERENCE:
            label.set_color(OURS)
            label.set_fontweight("bold")
    axis.set_title(title, loc="left", fontsize=9, fontweight="bold")
    axis.tick_params(axis="x", labelsize=7)
    axis.margins(x=0.15)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
