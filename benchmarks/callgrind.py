"""Instructions per request, counted by valgrind: repeatable, without sockets or a kernel.

A process that handles N requests in memory is run under callgrind, then one that handles 2N; what
the second counts more, divided by N, is one request. Start-up cancels out.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.servers import ROOT

CASES = ("plaintext", "plaintext-async", "json", "params", "browser", "post-json", "pipelined-16")
TARGET = "benchmarks.callgrind_target"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `callgrind`."""
    add = parser.add_argument
    add("--cases", help="of: plaintext,json,params,pipelined-16 (default: all)")
    add("--python", default=sys.executable, help="(%(default)s)")
    add("--requests", type=int, default=4000, help="N; 2N are run as well")
    add("--tasks", help="passed on to the engine: direct or asyncio")
    add("--around", help="middleware, or tracing: api, sampled-out or recording")
    add("--output", type=Path, help="write the counts as JSON")
    add("--profile", type=Path, help="keep the callgrind files in this directory")


def count(options: argparse.Namespace) -> int:
    """Count each case and print it; the exit status of the command."""
    if not shutil.which("valgrind"):
        print("valgrind is not installed")
        return 1
    names = options.cases.split(",") if options.cases else list(CASES)
    if unknown := [name for name in names if name not in CASES]:
        print(f"{', '.join(unknown)} unknown; there are: {', '.join(CASES)}")
        return 2
    counts: dict[str, float] = {}
    for name in names:
        once, twice = (_instructions(options, name, factor * options.requests) for factor in (1, 2))
        counts[name] = (twice - once) / options.requests
        print(f"{name:18} {counts[name]:10.1f} instructions per request", flush=True)
    if options.output:
        record = {"requests": options.requests, "python": options.python, "instructions": counts}
        options.output.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def _instructions(options: argparse.Namespace, case: str, requests: int) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        folder: Path = options.profile or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        out = folder / f"callgrind.{case}.{requests}"
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
        target = [options.python, "-m", TARGET, case, str(requests)]
        if options.tasks:
            target += ["--tasks", options.tasks]
        if options.around:
            target += ["--around", options.around]
        done = subprocess.run(
            [*valgrind, *target],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            # The same hashes and the same start in every run.
            env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
        )
        found = re.search(r"^(?:summary|totals): (\d+)", out.read_text(), re.M)
        if done.returncode or not found:
            raise SystemExit(f"callgrind failed on {case}:\n{done.stderr[-2000:]}")
        return int(found[1])
