"""From turns to medians: what the table and the plot both show."""

import statistics
from dataclasses import dataclass
from typing import Any

from benchmarks.servers import FLOOR

# The one number of a turn that its case is about.
FIGURES = {
    "load": "cpu_us",
    "idle": "bytes_per_connection",
    "import": "seconds",
    "start-up": "seconds",
}


@dataclass(frozen=True)
class Row:
    """One server on one case: medians over the rounds."""

    server: str
    values: list[float]
    ratios: list[float]
    user: float = 0.0
    system: float = 0.0
    rps: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    busy: float = 0.0
    errors: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def quartiles(self) -> tuple[float, float]:
        if len(self.values) < 2:
            return self.median, self.median
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high


def rows(record: dict[str, Any], case: str) -> list[Row]:
    """The servers of a case, the best first."""
    figure = FIGURES[record["cases"][case]["kind"]]
    turns = [turn for turn in record["turns"] if turn["case"] == case]
    found = []
    for server in dict.fromkeys(turn["server"] for turn in turns):
        own = [turn for turn in turns if turn["server"] == server]
        ratios = [r for t in own if (r := _ratio(turns, t, figure)) is not None]

        def median(key: str, own: list[dict[str, Any]] = own) -> float:
            return float(statistics.median(turn.get(key, 0.0) for turn in own))

        found.append(
            Row(
                server,
                [turn[figure] for turn in own],
                ratios,
                median("user_us"),
                median("system_us"),
                median("rps"),
                median("p50_us"),
                median("p99_us"),
                median("p999_us"),
                median("server_busy"),
                sum(turn.get("errors", 0) for turn in own),
            )
        )
    return sorted(found, key=lambda row: row.median)


def _ratio(turns: list[dict[str, Any]], turn: dict[str, Any], figure: str) -> float | None:
    """To the mean of the floor turns just before and just after, in the same round."""
    if turn["server"] == FLOOR:
        return None
    position = turns.index(turn)
    before: float | None = None
    after: float | None = None
    for index, other in enumerate(turns):
        if other["server"] != FLOOR or other["round"] != turn["round"]:
            continue
        if index < position:
            before = other[figure]
        elif after is None:
            after = other[figure]
    around = [value for value in (before, after) if value is not None]
    floor = statistics.mean(around) if around else 0.0
    return turn[figure] / floor if floor > 0 else None
