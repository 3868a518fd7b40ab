"""`python -m benchmarks million`: a million requests a second, of one worker on one core?

Pipelined, as such figures are, and said so. The app is examples/bench.py through `fastserve run`
with its default flags: a route is found and a handler called for each request, and every answer
has Date and Server. The same handlers are asked one request at a time in the same rounds; from
their CPU per request follows how many cores a million takes when nobody pipelines.

A client on one other core may not keep up, and then the server waits: so the rate by the clock
stands beside the one by CPU, which is a million where a request takes 1.00 us of the server's
core. The exit status is 0 only where every pipelined row is there by CPU.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import sys
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES, PLAIN_HEAD
from benchmarks.growth.axes import BENCH_APP, GROWTH_APP, Load, Server
from benchmarks.growth.run import add_places, lacks
from benchmarks.growth.slopes import Spread, cores_for
from benchmarks.growth.turn import FAILURES, Bench, Settings
from benchmarks.machine import describe_machine
from benchmarks.process import ServerFailed

MILLION = 1_000_000
ENOUGH_US = 1.00
DATE_TOLERANCE_S = 5
CASE_OF = {"sync": "plaintext", "async": "plaintext-async"}
COUNTED = {"sync": "/counted", "async": "/counted-async"}
FLOOR = "floor"
BENCH_SERVER = Server(BENCH_APP)
Turns = dict[str, list[dict[str, Any]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks million`."""
    parser.add_argument("--depth", type=int, default=16, help="requests at once (%(default)s)")
    parser.add_argument("--handlers", default=",".join(CASE_OF), help="of: %(default)s")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.4, help="measured in each turn")
    parser.add_argument("--warmup", type=float, default=0.3, help="seconds before that")
    add_places(parser)
    parser.add_argument("--output", type=Path, help="write the turns and the verdict as JSON")


def measure(options: argparse.Namespace) -> int:
    """Measure and say what was reached; the exit status of the command."""
    handlers = options.handlers.split(",")
    if unknown := [name for name in handlers if name not in CASE_OF]:
        print(f"--handlers {','.join(unknown)}: there are {', '.join(CASE_OF)}", file=sys.stderr)
        return 2
    if options.depth < 2 or options.connections < 1:
        print("--depth must be 2 or more, and --connections 1 or more", file=sys.stderr)
        return 2
    if problem := lacks(options):
        print(problem, file=sys.stderr)
        return 2
    os.sched_setaffinity(0, {options.client_core})
    settings = Settings(options.seconds, options.warmup, options.server_core, options.client_core)
    try:
        with Bench(settings, options.cache) as bench:
            counted = {name: count_calls(bench, name, options) for name in handlers}
            turns = _rounds(bench, handlers, options)
    except FAILURES as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    verdict = {name: judge(turns, name) for name in handlers}
    print(_report(options, turns, counted, verdict))
    if options.output:
        record = {
            "schema": 1,
            "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "command": f"python -m benchmarks {shlex.join(sys.argv[1:])}",
            "machine": describe_machine(), "python": platform.python_version(),
            "depth": options.depth, "connections": options.connections,
            "handler_calls": counted, "turns": turns, "verdict": verdict}
        options.output.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if all(found["by_cpu"] for found in verdict.values()) else 1


def row(handler: str, depth: int) -> str:
    """The name of a row."""
    return f"{handler}, {f'pipelined x {depth}' if depth > 1 else 'one at a time'}"


def _load(handler: str, depth: int, options: argparse.Namespace) -> Load:
    case = CASES[CASE_OF["sync" if handler == FLOOR else handler]]
    return Load(case.request, depth=depth, connections=options.connections)


def _rounds(bench: Bench, handlers: list[str], options: argparse.Namespace) -> Turns:
    """Every row once in each round, every other round backwards; a new server for each round."""
    depths = (options.depth, 1)
    turns: Turns = {
        row(handler, depth): [] for depth in depths for handler in (FLOOR, *handlers)}
    places = [(handler, depth) for depth in depths for handler in (FLOOR, *handlers)]
    for number in range(options.rounds):
        bench.stop()
        for handler, depth in reversed(places) if number % 2 else places:
            load = _load(handler, depth, options)
            if handler == FLOOR:
                turn = bench.floor_turn(BENCH_SERVER, load)
            else:
                turn = bench.turn(BENCH_SERVER, load)
                check_head(bench.answer(BENCH_SERVER, load))
            turns[row(handler, depth)].append(turn)
            print(f"round {number + 1}  {row(handler, depth):24} {turn['cpu_us']:7.3f} us "
                  f"{turn['rps']:11,.0f}/s", file=sys.stderr, flush=True)
    return turns


def check_head(answer: bytes) -> None:
    """Refuse an answer without Server, or without the Date of now."""
    head = answer.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in head)}
    if "server" not in fields or "date" not in fields:
        raise ServerFailed(f"an answer without Server or Date: {head}")
    now = datetime.datetime.now(datetime.timezone.utc)
    if abs((parsedate_to_datetime(fields["date"]) - now).total_seconds()) > DATE_TOLERANCE_S:
        raise ServerFailed(f"the Date of an answer is {fields['date']}, and it is {now}")


def count_calls(bench: Bench, handler: str, options: argparse.Namespace) -> dict[str, int]:
    """Load an app whose handlers count: the answers that came, and the calls made for them.

    Raises ServerFailed where they are not as many.
    """
    load = Load(_get(COUNTED[handler]), depth=options.depth, connections=options.connections)
    server = Server(GROWTH_APP)
    before = int(bench.aside(server, load, _get("/calls")))
    answers = bench.turn(server, load)["total"] + 1     # and the one that was checked before
    calls = int(bench.aside(server, load, _get("/calls"))) - before
    if answers != calls:
        raise ServerFailed(f"{answers} answers, but {calls} calls of the handler")
    return {"answers": answers, "calls": calls}


def _get(path: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", *PLAIN_HEAD, "", "")).encode()


def judge(turns: Turns, handler: str) -> dict[str, Any]:
    """What the medians of a handler say.

    turns:  by the name of the row; the pipelined row of the handler and the one at a time
    Returns cpu_us and rps of both, the cores a million takes one at a time, and two verdicts.
    """
    found: dict[str, Any] = {}
    for name, own in turns.items():
        if name.startswith(f"{handler},"):
            kind = "single" if name.endswith("one at a time") else "pipelined"
            found[kind] = {"cpu_us": Spread.of([turn["cpu_us"] for turn in own]).median,
                           "rps": Spread.of([turn["rps"] for turn in own]).median}
    found["cores_one_at_a_time"] = cores_for(MILLION, found["single"]["cpu_us"])
    found["by_cpu"] = found["pipelined"]["cpu_us"] <= ENOUGH_US
    found["by_clock"] = found["pipelined"]["rps"] >= MILLION
    return found


def words(handler: str, depth: int, found: dict[str, Any]) -> str:
    """The verdict in a sentence or two."""
    pipelined = found["pipelined"]
    by_cpu = MILLION / pipelined["cpu_us"]
    if found["by_clock"] and found["by_cpu"]:
        said = "A million a second was reached by the clock and by CPU per request."
    elif found["by_clock"]:
        said = "A million a second was reached by the clock, though not within one core's time."
    elif found["by_cpu"]:
        said = ("A million a second was reached by CPU per request, not by the clock: the server "
                "was not always given work, or not always its core.")
    else:
        said = "A million a second was not reached."
    return (
        f"{handler} handler, pipelined x {depth}: {pipelined['cpu_us']:.2f} us of CPU a request, "
        f"{by_cpu:,.0f} a second for a whole core; by the clock {pipelined['rps']:,.0f}. {said}\n"
        f"{handler} handler, one at a time: {found['single']['cpu_us']:.2f} us; a million a second "
        f"takes {found['cores_one_at_a_time']:.1f} cores of workers.")


def _report(options: argparse.Namespace, turns: Turns, counted: dict[str, dict[str, int]],
            verdict: dict[str, dict[str, Any]]) -> str:
    machine = describe_machine()
    lines = [
        f"One worker on core {options.server_core}, the client on core {options.client_core}; "
        f"{options.connections} connections, PIPELINED x {options.depth}: a client sends "
        f"{options.depth} requests at once. Browsers and proxies do not.",
        f"{machine['cpu']}, Linux {machine['kernel']}, Python {platform.python_version()}; "
        f"fastserve run {BENCH_APP}, default flags. Date and Server were in every answer checked.",
        *(f"Calls counted, {name} handler: {found['calls']:,} for {found['answers']:,} answers."
          for name, found in counted.items()),
        "",
        f"Median of {options.rounds} interleaved rounds (least to greatest)",
        "",
        "| row | CPU per request, us | requests/s by the clock | server busy | to the floor |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, own in turns.items():
        cpu, rate, busy = (Spread.of([turn[key] for turn in own])
                           for key in ("cpu_us", "rps", "server_busy"))
        floor = turns[row(FLOOR, options.depth if "pipelined" in name else 1)]
        ratio = Spread.of([turn["cpu_us"] / base["cpu_us"]
                           for turn, base in zip(own, floor, strict=True)])
        lines.append(
            f"| {'C floor, same bytes' + name[len(FLOOR):] if name.startswith(FLOOR) else name} "
            f"| {cpu.median:.3f} ({cpu.low:.3f} to {cpu.high:.3f}) "
            f"| {rate.median:,.0f} ({rate.low:,.0f} to {rate.high:,.0f}) "
            f"| {busy.median:.0%} | {ratio.median:.2f} |")
    lines += ["", *(words(name, options.depth, found) for name, found in verdict.items())]
    return "\n".join(lines)
