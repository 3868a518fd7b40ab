"""`python -m benchmarks growth`: rounds over the axes, in which servers and the floor take turns.

A round visits every point of every axis, and at each point the floor and the series one after
the other; every other round runs backwards. A server that several points share lives for one
round of its axis, so that the spread holds what differs between two processes.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.growth.axes import Axis, Server, axes
from benchmarks.growth.limits import SPARE_FILES, allow_files, copying, within_files
from benchmarks.growth.report import write_report
from benchmarks.growth.slopes import FLOOR
from benchmarks.growth.turn import FAILURES, Bench, Settings
from benchmarks.machine import describe_machine
from benchmarks.native import build

OUTPUT = Path(__file__).resolve().parents[1] / "results" / "local" / "growth"
LAST_CHANGED_S = 1_700_000_000      # since the epoch
QUICK = {"rounds": 1, "seconds": 0.03, "warmup": 0.01}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks growth`."""
    known = list(axes(len(os.sched_getaffinity(0))))
    parser.add_argument("--of", default=",".join(known), metavar="AXES",
                        help="what grows, of: %(default)s (default: all)")
    parser.add_argument("--quick", action="store_true",
                        help="few points for an instant: does it run? The figures mean nothing")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.7, help="measured in each turn")
    parser.add_argument("--warmup", type=float, default=0.2, help="seconds before that")
    add_places(parser)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="directory (%(default)s)")
    parser.add_argument("--no-plot", action="store_true", help="do without matplotlib")


def add_places(parser: argparse.ArgumentParser) -> None:
    """The two cores."""
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=1)


def lacks(options: argparse.Namespace) -> str:
    """Why these options cannot be, in a line; empty where they can."""
    there = os.sched_getaffinity(0)
    for name in ("server_core", "client_core"):
        if getattr(options, name) not in there:
            return (f"--{name.replace('_', '-')} {getattr(options, name)}: there are the cores "
                    f"{', '.join(map(str, sorted(there)))}")
    if options.server_core == options.client_core:
        return f"--client-core {options.client_core} is the server's: give it another one"
    if options.rounds < 1:
        return f"--rounds {options.rounds}: at least one"
    if options.seconds <= 0 or options.warmup < 0:
        return "--seconds must be above 0, and --warmup not below"
    return ""


def measure(options: argparse.Namespace) -> int:
    """Measure, report, draw; the exit status of the command."""
    known = axes(len(os.sched_getaffinity(0)))
    chosen = options.of.split(",")
    if unknown := [name for name in chosen if name not in known]:
        print(f"--of {','.join(unknown)}: there are {', '.join(known)}", file=sys.stderr)
        return 2
    if options.quick:
        vars(options).update(QUICK)
    if problem := lacks(options):
        print(problem, file=sys.stderr)
        return 2
    wanted = [known[name] for name in known if name in chosen]
    if options.quick:
        wanted = [replace(axis, points=axis.quick) for axis in wanted]
    run = Run(options, wanted)
    options.output.mkdir(parents=True, exist_ok=True)
    run.execute()
    print(write_report(run.record, options.output / "growth.md"))
    if not options.no_plot:
        _draw(run.record, options.output)
    print(f"written: {options.output}")
    return 1 if run.record["failures"] else 0


def _draw(record: dict[str, Any], folder: Path) -> None:
    try:
        from benchmarks.growth.plot import draw

        draw(record, folder)
    except ImportError as error:
        print(f'no figures: {error}; pip install -e ".[bench]"', file=sys.stderr)


class Run:
    """One run and its growing record.

    options:  rounds, seconds, warmup, server_core, client_core, quick, and output: where the
              record is written after every round, so that an interrupted run is not lost
    wanted:   the axes; that of connections is cut to what the limit of open files allows
    """

    def __init__(self, options: argparse.Namespace, wanted: list[Axis]) -> None:
        self.options = options
        self.cache = options.cache
        files = allow_files(max(_most_connections(axis) for axis in wanted) + SPARE_FILES)
        self.axes: list[Axis] = []
        self.record: dict[str, Any] = {
            "schema": 1,
            "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "command": f"python -m benchmarks {shlex.join(sys.argv[1:])}",
            "machine": describe_machine(),
            "python": platform.python_version(),
            "settings": {name: getattr(options, name) for name in (
                "rounds", "seconds", "warmup", "server_core", "client_core")},
            "quick": options.quick,
            "open_files": files,
            "axes": {},
            "copying_ns": {},
            "turns": [],
            "failures": [],
        }
        for asked in wanted:
            axis, cut = within_files(asked, files) if asked.name == "connections" else (asked, "")
            self.axes.append(axis)
            self.record["axes"][axis.name] = _describe(axis, cut)

    def execute(self) -> None:
        """Measure everything; what fails is noted in the record, and not asked again."""
        options = self.options
        sizes = tuple(sorted({x for axis in self.axes if axis.copies for x in axis.points}))
        if sizes:
            program = build("growth/memcpy", self.cache)
            for size, copy in copying(program, sizes, options.server_core).items():
                self.record["copying_ns"][str(size)] = [copy.warm_ns, copy.cold_ns]
        settings = Settings(
            options.seconds, options.warmup, options.server_core, options.client_core)
        with tempfile.TemporaryDirectory() as files, Bench(settings, self.cache) as bench:
            os.environ["GROWTH_FILES"] = files
            make_files(Path(files), sizes)
            os.sched_setaffinity(0, {options.client_core})
            for number in range(options.rounds):
                for axis in self.axes:
                    begun = time.monotonic()
                    self._round(bench, axis, number)
                    bench.stop()
                    _say(f"round {number + 1}  {axis.name:12} {time.monotonic() - begun:5.1f} s")
                text = json.dumps(self.record, indent=1) + "\n"
                (options.output / "growth.json").write_text(text)

    def _round(self, bench: Bench, axis: Axis, number: int) -> None:
        backwards = number % 2 == 1
        names = [FLOOR, *(series.name for series in axis.series)]
        for x in reversed(axis.points) if backwards else axis.points:
            for name in reversed(names) if backwards else names:
                self._turn(bench, axis, x, name, number)

    def _turn(self, bench: Bench, axis: Axis, x: int, name: str, number: int) -> None:
        here = {"axis": axis.name, "x": x, "series": name}
        if any(here.items() <= failure.items() for failure in self.record["failures"]):
            return
        series = next((one for one in axis.series if one.name == name), axis.series[0])
        server: Server = series.server(x)
        load = series.load(x)
        try:
            found = (bench.floor_turn if name == FLOOR else bench.turn)(server, load)
        except FAILURES as error:
            bench.stop()
            self.record["failures"].append({**here, "round": number, "reason": str(error)})
            _say(f"FAILED  {axis.name} {x} {name}: {error}")
            return
        self.record["turns"].append({**here, "round": number, **found})
        _say(f"round {number + 1}  {axis.name:12} {x:9,}  {name:10} {found['cpu_us']:10.2f} us "
             f"{found['rps']:10.0f}/s")


def make_files(folder: Path, sizes: tuple[int, ...]) -> None:
    """What /file/SIZE sends, last changed long ago.

    The tag of a file is weak, and so longer, within the second of its last change: while that is
    measured, answers would change their size.
    """
    for size in sizes:
        path = folder / str(size)
        path.write_bytes(b"x" * size)
        os.utime(path, (LAST_CHANGED_S, LAST_CHANGED_S))


def _most_connections(axis: Axis) -> int:
    return max(series.load(x).connections for series in axis.series for x in axis.points)


def _describe(axis: Axis, cut: str) -> dict[str, Any]:
    return {
        "title": axis.title,
        "label": axis.label,
        "points": list(axis.points),
        "scale": axis.scale,
        "metric": axis.metric,
        "copies": axis.copies,
        "note": axis.note,
        "cut": cut,
        "step": axis.law.step,
        "start": axis.law.start,
        "basis": {str(x): axis.law.basis(x) for x in axis.points},
        "series": {series.name: series.title for series in axis.series},
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
