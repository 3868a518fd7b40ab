"""What finding a route costs: nanoseconds per match at 10, 1,000 and 10,000 routes.

    python benchmarks/routes.py [--repeat 7] [--matches 200000]

A match is what the protocol does per request: path to entry, parameters made and released,
method to plan. The loop runs inside the router (`match_many`), so no call from Python is
counted. Each row asks for as many different paths as there are routes, up to 1,000, in a
shuffled order, so that ten thousand routes also pay for the cache lines they miss; "same" asks
for one path again and again. Best of the repeats, with the median behind it.
"""

import argparse
import platform
import random
import statistics
import time
from collections.abc import Callable

from fastserve._speedups.plan import Plan
from fastserve._speedups.router import Router

COUNTS = (10, 1_000, 10_000)
BURST = 4       # matches per path and call: small, so that the caches do not settle


def handler() -> None:
    """Never called."""


def table(count: int) -> Router:
    """`count` static routes and `count` with parameters, in one router, below one node."""
    router = Router()
    static = Plan(handler, ())
    one = Plan(handler, (), param_names=("id",))
    two = Plan(handler, (), param_names=("id", "name"))
    for number in range(count):
        router.add((b"api", b"static%d" % number), ["GET"], static)
        router.add((b"api", b"items%d" % number, ("int", "id")), ["GET"], one)
        router.add((b"api", b"items%d" % number, ("int", "id"), ("str", "name")), ["GET"], two)
    router.freeze()
    return router


KINDS: dict[str, Callable[[int], bytes]] = {
    "static": lambda number: b"/api/static%d" % number,
    "{id:int}": lambda number: b"/api/items%d/%d" % (number, 100_000 + number),
    "{id:int}/{name}": lambda number: b"/api/items%d/%d/someone" % (number, 100_000 + number),
    "not found": lambda number: b"/api/nothing%d" % number,
}


def measure(router: Router, paths: list[bytes], matches: int, burst: int) -> float:
    """Nanoseconds per match, without the calls around the bursts."""
    rounds = max(1, matches // (len(paths) * burst))
    spent = []
    for size in (burst, 0):     # the same loop with empty bursts is what is not matching
        begin = time.perf_counter_ns()
        for _ in range(rounds):
            for path in paths:
                router.match_many("GET", path, size)
        spent.append(time.perf_counter_ns() - begin)
    return (spent[0] - spent[1]) / (rounds * len(paths) * burst)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--matches", type=int, default=200_000)
    options = parser.parse_args()
    print(f"CPython {platform.python_version()}, {platform.machine()}, best (median) of "
          f"{options.repeat}, ns per match")
    print(f"{'routes':>8}  {'path':<18}{'many paths':>18}{'same path':>18}")
    for count in COUNTS:
        router = table(count)
        for kind, path_of in KINDS.items():
            numbers = random.Random(count).sample(range(count), min(count, 1_000))
            paths = [path_of(number) for number in numbers]
            cells = []
            for chosen, burst in ((paths, BURST), (paths[:1], options.matches)):
                times = [
                    measure(router, chosen, options.matches, burst) for _ in range(options.repeat)]
                cells.append(f"{min(times):8.1f} ({statistics.median(times):6.1f})")
            print(f"{count:>8}  {kind:<18}{cells[0]:>18}{cells[1]:>18}")


if __name__ == "__main__":
    main()
