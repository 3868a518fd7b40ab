"""What earlier comparisons found, a line each, and whether the last one is worse.

Microseconds of two days cannot be compared, ratios within a run can: to the C floor, and to uvicorn
with fastserve's pool or with its usual one. Runs on another machine or another Python tell nothing
here and are left out.
"""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.comparison.figures import Figure, Record, entries_of, ratio, turns_of
from benchmarks.comparison.verdicts import CAREFUL, PIPELINED, USUAL
from benchmarks.servers import FLOOR, REFERENCE, ROOT

FILE = ROOT / "benchmarks" / "results" / "history.jsonl"
LAST = 5    # runs that the last one is compared with
WATCHED = (REFERENCE, PIPELINED)
SCALES = {FLOOR: (FLOOR,), "uvicorn-careful": CAREFUL, "uvicorn-usual": USUAL}

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Regression:
    """A ratio of fastserve's that is worse than it was, outside the spread."""

    entry: str
    test: str
    scale: str
    now: float
    before: float
    spread: float

    def __str__(self) -> str:
        return (f"{self.entry} on {self.test}: {self.now:.3f} of {self.scale}'s CPU; it was"
                f" {self.before:.3f}, with a spread of {self.spread:.3f}")


def line_of(record: Record) -> Line:
    """One run, as the history keeps it: by test and entry the CPU and its ratios."""
    ours = record["entries"].get(REFERENCE, {})
    machine = record["machine"]
    build = f"PGO {ours.get('pgo', 'no')} LTO {ours.get('lto', 'no')}"
    return {
        "date": record["started"],
        "commit": record["commit"],
        "machine": f"{machine['cpu']}, {machine['cores']} cores",
        "python": f"{ours.get('python', '')} {build}",
        "rounds": record["settings"]["rounds"],
        "figures": {test: _figures(record, test) for test in record["tests"]},
    }


def append(record: Record, path: Path) -> None:
    """Add a run to the history."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line_of(record), ensure_ascii=False) + "\n")


def read(path: Path) -> list[Line]:
    """All runs, the oldest first; raises ValueError with the line that is none."""
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            lines.append(json.loads(text))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return lines


def alike(lines: Sequence[Line]) -> list[Line]:
    """The runs on the machine and the Python of the last one, itself at the end."""
    key = ("machine", "python")
    return [line for line in lines if all(line[k] == lines[-1][k] for k in key)]


def trend(
    lines: Sequence[Line], test: str, scale: str, entry: str = REFERENCE
) -> list[tuple[str, Figure]]:
    """(date, the entry's ratio) of the runs that have it."""
    return [(line["date"], Figure(tuple(found)))
            for line in lines
            if (found := line["figures"].get(test, {}).get(entry, {}).get(f"to_{scale}"))]


def regressions(lines: Sequence[Line], last: int = LAST) -> list[Regression]:
    """Where the last run is worse than the median of the ones before by more than the spread.

    The spread is that between those runs or that within one of them, whichever is greater.
    """
    return list(_regressions(alike(lines), last)) if lines else []


def _regressions(lines: Sequence[Line], last: int) -> Iterator[Regression]:
    for entry, test, scale in product(WATCHED, lines[-1]["figures"], SCALES):
        found = trend(lines, test, scale, entry)
        if len(found) < 2 or found[-1][0] != lines[-1]["date"]:
            continue
        now, past = found[-1][1], [figure for _, figure in found[:-1][-last:]]
        medians = [figure.median for figure in past]
        before = statistics.median(medians)
        spread = max(max(medians) - min(medians),
                     *((figure.high - figure.low) / 2 for figure in (now, *past)))
        if now.median > before + spread:
            yield Regression(entry, test, scale, now.median, before, spread)


def _figures(record: Record, test: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for entry in entries_of(record, test):
        cpu = Figure(tuple(turn["cpu_us"] for turn in turns_of(record, test, entry)))
        found[entry] = {"cpu_us": round(cpu.median, 3)}
        for scale, names in SCALES.items():
            ratios = (ratio(record, test, entry, name) for name in names if name != entry)
            if figure := next(filter(None, ratios), None):
                found[entry][f"to_{scale}"] = [round(value, 4) for value in figure.values]
    return found
