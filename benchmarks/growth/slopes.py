"""From turns to medians and slopes: what the tables and the figures both show."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FLOOR = "floor"


@dataclass(frozen=True)
class Spread:
    """A median over the rounds, and the least and the greatest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Raise statistics.StatisticsError where there is no value."""
        return cls(statistics.median(values), min(values), max(values))


def least_squares(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Intercept and slope of the line nearest to the points, of which there are two or more."""
    middle_x, middle_y = statistics.fmean(xs), statistics.fmean(ys)
    across = math.fsum((x - middle_x) ** 2 for x in xs)
    if not across:
        raise ValueError("a slope needs two different abscissas")
    slope = math.fsum((x - middle_x) * (y - middle_y)
                      for x, y in zip(xs, ys, strict=True)) / across
    return middle_y - slope * middle_x, slope


class Figures:
    """The turns of one axis, by series, round and point.

    turns:   of the axis: {"series", "x", "round", metric, ...}
    metric:  the figure of a turn that the axis is about
    """

    def __init__(self, turns: list[dict[str, Any]], metric: str) -> None:
        self._values: dict[str, dict[int, dict[int, float]]] = {}
        for turn in turns:
            rounds = self._values.setdefault(turn["series"], {})
            rounds.setdefault(turn["round"], {})[turn["x"]] = turn[metric]

    def points(self) -> list[int]:
        """Where anything was measured."""
        return sorted({x for rounds in self._values.values()
                       for points in rounds.values() for x in points})

    def at(self, series: str, x: int) -> Spread | None:
        """The figure over the rounds, None where nothing was measured."""
        values = [points[x] for points in self._values.get(series, {}).values() if x in points]
        return Spread.of(values) if values else None

    def ratio(self, series: str, x: int) -> float | None:
        """To the floor of the same round, the median."""
        ratios = [points[x] / floor for number, points in self._values.get(series, {}).items()
                  if x in points and (floor := self._floor(number, x))]
        return statistics.median(ratios) if ratios else None

    def slope(self, series: str, axis: dict[str, Any], above: str = "") -> Spread | None:
        """Of the figure in the axis's basis: a fit in each round, then the median of them.

        axis:   {"start": least point of the fit, "basis": {str(point): its place}}
        above:  another series that is taken off, in the same round
        """
        slopes = [slope for _, slope in self._fits(series, axis, above)]
        return Spread.of(slopes) if slopes else None

    def intercept(self, series: str, axis: dict[str, Any]) -> Spread | None:
        """Where the lines of slope() begin: the figure where the basis is 0."""
        intercepts = [intercept for intercept, _ in self._fits(series, axis, "")]
        return Spread.of(intercepts) if intercepts else None

    def _fits(
        self, series: str, axis: dict[str, Any], above: str
    ) -> list[tuple[float, float]]:
        """Intercept and slope of each round that has two points or more."""
        fits = []
        floors = self._values.get(above, {})
        for number, points in self._values.get(series, {}).items():
            base = floors.get(number, {}) if above else dict.fromkeys(points, 0.0)
            usable = [x for x in points if x in base and x >= axis["start"]]
            if len(usable) > 1:
                fits.append(least_squares(
                    [axis["basis"][str(x)] for x in usable],
                    [points[x] - base[x] for x in usable]))
        return fits

    def last_step(self, series: str, axis: dict[str, Any]) -> float | None:
        """The slope between the last two points alone, of medians: a bend shows against slope()."""
        known = [(x, found.median) for x in self.points() if (found := self.at(series, x))]
        if len(known) < 2:
            return None
        (before, low), (last, high) = known[-2:]
        basis = axis["basis"]
        return (high - low) / float(basis[str(last)] - basis[str(before)])

    def _floor(self, number: int, x: int) -> float:
        return self._values.get(FLOOR, {}).get(number, {}).get(x, 0.0)


def cores_for(rate_per_s: float, cpu_us: float) -> float:
    """How many cores so many requests take, of `cpu_us` microseconds of CPU each."""
    return rate_per_s * cpu_us / 1e6
