"""What counting a request costs, and writing it down: in memory, without sockets or a kernel.

Engines that differ only in who observes them get the same requests, in turns of a few thousand;
what one needs more than the one that nobody observes is the cost. A turn holds one request, as
with clients that wait for their answers.
"""

import argparse
import asyncio
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.callgrind_target import MemoryTransport, feed
from benchmarks.cases import CASES

REQUESTS = 5000


def boards() -> dict[str, Callable[[], dict[str, Any]]]:
    """What each of the engines is given, by name."""
    from fastserve._speedups.journal import Journal
    from fastserve._speedups.scoreboard import BLOCK_BYTES, Scoreboard

    def board(*, recording: bool) -> Scoreboard:
        with tempfile.TemporaryFile() as file:
            os.ftruncate(file.fileno(), BLOCK_BYTES)
            return Scoreboard(file.fileno(), 0, recording=recording)

    def log(form: str) -> Journal:
        return Journal(lambda lines: None, format=form)

    return {
        "nobody": dict,
        "counters and histogram": lambda: {"board": board(recording=False)},
        "and the last requests": lambda: {"board": board(recording=True)},
        "and a JSON access log": lambda: {"board": board(recording=True), "journal": log("json")},
        "JSON access log alone": lambda: {"journal": log("json")},
        "text access log alone": lambda: {"journal": log("text")},
        "logfmt access log alone": lambda: {"journal": log("logfmt")},
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `observing`."""
    parser.add_argument("--case", choices=list(CASES), default="plaintext")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--output", type=Path, help="write the costs as JSON")


def measure(options: argparse.Namespace) -> int:
    """Print the cost of each in microseconds; the exit status of the command."""
    from examples.bench import app

    case = CASES[options.case]
    loop = asyncio.new_event_loop()
    lines: dict[str, tuple[Any, MemoryTransport]] = {}
    spent: dict[str, list[float]] = {}
    for name, settings in boards().items():
        protocol = app.build_engine(loop, **settings()).protocol()
        lines[name] = protocol, MemoryTransport()
        spent[name] = []

    def work() -> None:
        for protocol, transport in lines.values():
            protocol.connection_made(transport)
        for _ in range(options.rounds):
            for name, (protocol, transport) in lines.items():
                begun = time.process_time()
                feed(protocol, transport, case.request, REQUESTS)
                spent[name].append((time.process_time() - begun) / REQUESTS * 1e6)
        loop.stop()

    gc.disable()
    loop.call_soon(work)
    loop.run_forever()
    base = spent["nobody"]
    costs = {}
    for name, times in spent.items():
        more = sorted(one - other for one, other in zip(times, base, strict=True))
        costs[name] = statistics.median(more)
        print(f"{name:26} {statistics.median(times):7.3f} us   + {costs[name]:6.3f} us "
              f"(quartiles {more[len(more) // 4]:.3f} to {more[3 * len(more) // 4]:.3f})")
    if options.output:
        options.output.write_text(json.dumps({"case": case.name, "us": costs}, indent=1) + "\n")
    return 0
