"""What a line of the access log costs: a loop of its own, without requests or a disk.

    python -m benchmarks.access_log [--lines N]
    valgrind --tool=callgrind python -m benchmarks.access_log --one json:0 --lines 20000

Each row is the difference of two loops that call the same method with the same arguments, in one
of which no request gets a line: calling from Python cancels out. Of several rounds, interleaved,
the median counts. With --one a single loop runs, for valgrind; the instructions of two lengths,
subtracted, are those of a line with its call, and `none:0` is the call alone.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.cases import BROWSER_HEAD
from fastserve._speedups.journal import Journal
from fastserve._speedups.plan import Plan

HEAD = "\r\n".join(("GET /users/7?page=2 HTTP/1.1", *BROWSER_HEAD, "", "")).encode()
HEADERS = ("user-agent", "accept-language", "referer")
CASES = [(form, count) for form in ("text", "json", "logfmt") for count in (0, len(HEADERS))]
ROUNDS = 9


class Route:
    """As much of one as a plan needs."""

    path = "/users/{id}"


def forget(data: bytes) -> None:
    """The sink."""


def loop(form: str, headers: int, lines: int) -> float:
    """Seconds of CPU that this thread took for so many requests; "none": no line for any."""
    none = form == "none"
    journal = Journal(
        forget, format="text" if none else form, headers=HEADERS[:headers],
        sample=0.0 if none else 1.0)
    add: Callable[..., Any] = journal.add_request
    ended_ns = time.monotonic_ns()
    given: dict[str, Any] = {
        "client": b"198.51.100.27", "id": b"4f1c9a7e20d84b6f8a51c3e7d2b09f64", "body_bytes": 1234,
        "begun_ns": ended_ns - 412_345, "ended_ns": ended_ns,
        "plan": Plan(lambda: None, (), route=Route),
    }
    begun_s = time.thread_time()
    for _ in range(lines):
        add(HEAD, **given)
    return time.thread_time() - begun_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--one", metavar="FORM:HEADERS")
    options = parser.parse_args()
    if options.one:
        form, _, headers = options.one.partition(":")
        loop(form, int(headers), options.lines)
        return
    for form, count in CASES:
        costs = []
        for _ in range(ROUNDS):
            without = loop("none", 0, options.lines)
            costs.append((loop(form, count, options.lines) - without) / options.lines * 1e9)
        print(f"{form:7} {count} headers {statistics.median(costs):7.0f} ns per line"
              f"   ({min(costs):.0f} to {max(costs):.0f})", flush=True)


if __name__ == "__main__":
    main()
