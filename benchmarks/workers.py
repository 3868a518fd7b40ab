"""What a supervisor, a second worker, metrics and the access log cost, beside the C floor.

Every server process is pinned to one core and the client to another, so that two workers share
what one has: CPU per request is compared, not requests per second. Each worker has as many
connections. What two processes on a core cost by themselves, two C floors tell. Rounds are
interleaved. Then each stands idle, for its memory and its ticks.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.cases import CASES, Case
from benchmarks.native import build
from benchmarks.process import Running, ServerFailed, free_port, pss_bytes, tree

FLOOR, TWO_FLOORS = "C floor", "two C floors"
ALONE = "one process"
ONE, TWO = "one worker", "two workers"
FLAGS: dict[str, list[str]] = {
    ALONE: [],
    ONE: ["--workers", "1"],
    TWO: ["--workers", "2"],
    "one worker, metrics": ["--workers", "1", "--metrics"],
    "one worker, JSON log": [
        "--workers", "1", "--access-log", "json", "--access-log-file", os.devnull],
}
IDLE_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks workers`."""
    parser.add_argument("--case", choices=[name for name in CASES if CASES[name].kind == "load"],
                        default="plaintext")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="measured in each turn")
    parser.add_argument("--warmup", type=float, default=0.5)
    parser.add_argument("--connections", type=int, default=64, help="of each worker")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write every turn as JSON")


def measure(options: argparse.Namespace) -> int:
    """Print the tables; the exit status of the command."""
    case = CASES[options.case]
    load, floor = build("load", options.cache), build("floor", options.cache)
    turns: dict[str, list[float]] = {name: [] for name in (FLOOR, TWO_FLOORS, *FLAGS)}
    os.sched_setaffinity(0, {options.client_core})
    for number in range(options.rounds):
        names = list(turns)
        for name in reversed(names) if number % 2 else names:
            turns[name].append(_turn(name, case, options, load, floor))
            print(f"round {number + 1}  {name:22} {turns[name][-1]:7.2f} us", file=sys.stderr)
    idle = {name: _idle(flags, options) for name, flags in FLAGS.items()}
    print(_table(turns, options.case))
    print(_idle_table(idle))
    if options.output:
        record = {"turns": turns, "idle": idle}
        options.output.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def _command(name: str, port: int) -> list[str]:
    return [sys.executable, "-m", "fastserve", "run", "examples/bench.py", "--port", str(port),
            *FLAGS[name]]


def _turn(name: str, case: Case, options: argparse.Namespace, load: str, floor: str) -> float:
    """CPU per request in microseconds, of all the server's processes."""
    port = free_port()
    workers = 2 if name in (TWO, TWO_FLOORS) else 1
    is_floor = name in (FLOOR, TWO_FLOORS)
    with tempfile.TemporaryDirectory() as scratch:
        request = Path(scratch, "request")
        request.write_bytes(case.request)
        if is_floor:
            response = Path(scratch, "response")
            response.write_bytes(_answer(case, options))
            command = [floor, str(port), str(response), str(len(case.request)), "keep",
                       str(workers)]
        else:
            command = _command(name, port)
        with Running(command, port, options.server_core) as running:
            _all_ready(running, case, 0 if is_floor else workers)
            done = subprocess.run(
                ["taskset", "-c", str(options.client_core), load, case.mode, str(port),
                 str(request), str(workers * options.connections), str(case.depth),
                 str(options.warmup), str(options.seconds), *map(str, running.pids())],
                capture_output=True, text=True, check=False, timeout=options.seconds + 60)
            if done.returncode:
                raise ServerFailed(running.explain(ServerFailed(done.stderr[-300:])))
    got = json.loads(done.stdout)
    if not got["answered"] or got["mismatched"]:
        raise ServerFailed(f"{name}: {got}")
    return float(got["cpu_ns"] / got["answered"] / 1000)


def _answer(case: Case, options: argparse.Namespace) -> bytes:
    port = free_port()
    with Running(_command(ALONE, port), port, options.server_core) as running:
        return running.wait_ready(case).raw


def _all_ready(running: Running, case: Case, workers: int) -> None:
    running.wait_ready(case)
    deadline = time.monotonic() + 20
    while running.log_text().count("listening on") < workers:
        if time.monotonic() > deadline:
            raise ServerFailed(f"not every worker serves: {running.last_words()}")
        time.sleep(0.02)


def _idle(flags: list[str], options: argparse.Namespace) -> dict[str, list[float]]:
    """PSS in MiB and share of a core, of each process: the first is the one started."""
    port = free_port()
    command = [sys.executable, "-m", "fastserve", "run", "examples/hello.py", "--port", str(port),
               *flags]
    workers = 2 if "2" in flags else 1
    with Running(command, port, options.server_core) as running:
        deadline = time.monotonic() + 20
        while running.log_text().count("listening on") < workers:
            if time.monotonic() > deadline:
                raise ServerFailed(running.last_words())
            time.sleep(0.05)
        time.sleep(1)
        pids = tree(running.process.pid)
        before = [_cpu_ns(pid) for pid in pids]
        time.sleep(IDLE_S)
        shares = [(_cpu_ns(pid) - was) / IDLE_S / 1e9
                  for pid, was in zip(pids, before, strict=True)]
        return {"pss_mib": [pss_bytes([pid]) / 2**20 for pid in pids], "share": shares}


def _cpu_ns(pid: int) -> int:
    """Of all its threads."""
    return sum(int(path.read_text().split()[0])
               for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def _table(turns: dict[str, list[float]], case: str) -> str:
    def ratio(name: str, to: str) -> str:
        pairs = zip(turns[name], turns[to], strict=True)
        return f"{statistics.median(one / other for one, other in pairs):.2f}"

    lines = [
        f"CPU per request, {case}, median of {len(turns[FLOOR])} interleaved rounds "
        "(lowest to highest); ratios are medians over the rounds",
        "",
        "| server | us | to the floor | to one worker |",
        "|---|---:|---:|---:|",
    ]
    for name, times in turns.items():
        spread = f"({min(times):.2f} to {max(times):.2f})"
        lines.append(f"| {name} | {statistics.median(times):.2f} {spread} | {ratio(name, FLOOR)} "
                     f"| {ratio(name, ONE)} |")
    return "\n".join(lines) + "\n"


def _idle_table(idle: dict[str, dict[str, list[float]]]) -> str:
    lines = [f"Idle, hello world, {IDLE_S:g} s: each process, the one that was started first", "",
             "| server | PSS, MiB | of a core |", "|---|---|---|"]
    for name, figures in idle.items():
        memory = ", ".join(f"{value:.1f}" for value in figures["pss_mib"])
        shares = ", ".join(f"{100 * value:.3f} %" for value in figures["share"])
        lines.append(f"| {name} | {memory} | {shares} |")
    return "\n".join(lines) + "\n"
