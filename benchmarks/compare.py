"""`python -m benchmarks compare`: fastserve beside its peers, on a PostgreSQL of the bench's own.

Everything it needs it starts or installs itself; a peer that cannot be had is listed with the
reason. It writes the record as JSON, and beside it the report as Markdown and as a page.
`python -m benchmarks history` shows what was recorded, and names what became worse.
"""

import argparse
import asyncio
import contextlib
import importlib.util
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.comparison import history
from benchmarks.comparison.suite import TESTS, USUAL, SuiteTest
from benchmarks.comparison.turn import Database, Settings, Stage
from benchmarks.servers import REFERENCE, Server

QUICK_TESTS, QUICK_S = ("json", "db"), 0.3
# One row of each peer, and those that the bars name.
MAIN = ("fastserve", "fastserve-pipelined", "fastserve-polling", "fastserve-polling-pipelined",
        "uvicorn-careful", "uvicorn-pipelined", "uvicorn-usual", "fastapi", "litestar",
        "blacksheep", "granian-rsgi", "granian-rsgi-pipelined", "aiohttp", "sanic", "robyn",
        "socketify", "fastpysgi", "fastpysgi-pipelined")
QUICK_ENTRIES = (REFERENCE, "uvicorn-careful")
CONCURRENCY = {False: 512, True: 64}  # of a verification: the suite's own; and quick


class Refused(Exception):
    """What the user asked for cannot be done; the message is for them."""


def add_arguments(parser: argparse.ArgumentParser, local: Path) -> None:
    """The options of `compare`; results go below `local` unless told otherwise."""
    add = parser.add_argument
    add("--entries", help="comma-separated names, main (one row of each peer), or all (default)")
    add("--tests", help=f"of: {','.join(TESTS)} (default: {','.join(USUAL)})")
    add("--rounds", type=int, help="(default: 4; an even number is fairest)")
    add("--seconds", type=float, help="at the limit, in each turn (default: 1)")
    add("--latency-seconds", type=float,
        help="at each rate; up to four times that, for 1,000 requests (default: 0.8)")
    add("--warmup", type=float, default=0.3, help="seconds (%(default)s)")
    add("--connections", type=int, default=64)
    add("--pool-size", type=int, default=4, help="database connections of a worker (%(default)s)")
    add("--rate", action="append", default=[], metavar="TEST=N",
        help="the equal rate of a test (default: half of what the slowest entry can)")
    add("--server-core", type=int, default=0)
    add("--client-core", type=int, default=1, help="of the client and of PostgreSQL")
    add("--database", metavar="URL", help="one that runs already (default: one is started)")
    add("--quick", action="store_true",
        help="seconds instead of minutes: two entries, two tests, two short rounds")
    add("--output", type=Path, default=local / "compare.json", help="(%(default)s)")
    add("--record", action="store_true", help="append the figures to the history")
    add("--history", type=Path, default=history.FILE, help="(%(default)s)")


def add_history_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `history`."""
    parser.add_argument("file", type=Path, nargs="?", default=history.FILE, help="(%(default)s)")
    parser.add_argument("--last", type=int, default=history.LAST,
                        help="runs that the newest is compared with (%(default)s)")


def compare(options: argparse.Namespace) -> int:
    """Run it; the exit status: 1 where fastserve failed on a test or nothing was measured."""
    from benchmarks.postgres import NoPostgres
    from benchmarks.venvs import Unavailable

    try:
        return _compare(options)
    except (Refused, argparse.ArgumentTypeError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    except (NoPostgres, Unavailable, OSError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1


def _compare(options: argparse.Namespace) -> int:
    from benchmarks.comparison.run import Comparison
    from benchmarks.measure import pin_harness
    from benchmarks.process import raise_file_limit
    from benchmarks.venvs import Venvs

    entries, tests = _entries(options), _tests(options)
    settings, rates = _settings(options), _rates(options.rate)
    _check_cores(settings)
    _check_libraries()
    lines = history.read(options.history) if options.history.exists() else []
    signal.signal(signal.SIGTERM, _end)
    pin_harness(settings.client_core)
    raise_file_limit()
    venvs = Venvs(options.cache, options.python, partial(print, flush=True))
    with _database(options, tests) as (database, version):
        stage = Stage(settings, venvs, database)
        verify = partial(_verify, database, CONCURRENCY[options.quick])
        comparison = Comparison(
            stage, entries, tests, verify=verify, output=options.output, equal_rates=rates)
        comparison.record["database"] = version
        comparison.execute(options.rounds or (2 if options.quick else 4))
    record = comparison.record
    if not record["turns"]:
        print("compare: nothing was measured", file=sys.stderr)
        return 1
    if options.record:
        history.append(record, options.history)
        lines = history.read(options.history)
    else:
        lines.append(history.line_of(record))
    write_reports(record, options.output, lines)
    return 1 if any(failure["entry"] == REFERENCE for failure in record["failures"]) else 0


def _end(number: int, frame: object) -> None:
    """End as one does from within, so that servers and the database end, too."""
    sys.exit(128 + number)


def write_reports(record: dict[str, Any], output: Path, lines: Sequence[history.Line]) -> None:
    """The Markdown and the page beside the record, and the bars for who waits."""
    from benchmarks.comparison.markdown import write_markdown
    from benchmarks.comparison.page import write_page
    from benchmarks.comparison.verdicts import verdicts

    markdown, page = output.with_suffix(".md"), output.with_suffix(".html")
    write_markdown(record, markdown)
    write_page(record, lines, page)
    for verdict in verdicts(record):
        if verdict.met is not None:
            print(f"{verdict.word:7} {verdict.test:12} {verdict.bar}: {verdict.result}")
    print(f"written: {output}, {markdown}, {page}")


def show_history(options: argparse.Namespace) -> int:
    """Print the trend; the exit status is 1 where the newest run is worse than the ones before."""
    try:
        lines = history.read(options.file)
    except (OSError, ValueError) as error:
        print(f"history: {error}", file=sys.stderr)
        return 2
    if not lines:
        print(f"history: {options.file} has no run yet: compare --record adds one",
              file=sys.stderr)
        return 2
    for line in _trend_lines(history.alike(lines)):
        print(line)
    found = history.regressions(lines, options.last)
    for regression in found:
        print(f"WORSE  {regression}")
    return 1 if found else 0


def _trend_lines(lines: Sequence[history.Line]) -> Iterator[str]:
    yield f"{lines[-1]['machine']}; Python {lines[-1]['python']}; {len(lines)} runs"
    for scale in history.SCALES:
        for test in lines[-1]["figures"]:
            if trend := history.trend(lines, test, scale):
                values = "  ".join(f"{date[:10]} {figure.median:.3f}" for date, figure in trend)
                yield f"{test:13} fastserve / {scale:16} {values}"


def _entries(options: argparse.Namespace) -> list[Server]:
    from benchmarks.entries import ENTRIES

    wanted = options.entries or ("all" if not options.quick else ",".join(QUICK_ENTRIES))
    sets = {"all": list(ENTRIES), "main": list(MAIN)}
    names = sets.get(wanted) or wanted.split(",")
    return [ENTRIES[name] for name in _known(names, ENTRIES, "entry")]


def _tests(options: argparse.Namespace) -> list[SuiteTest]:
    chosen = options.tests or ",".join(QUICK_TESTS if options.quick else USUAL)
    names = _known(list(TESTS) if chosen == "all" else chosen.split(","), TESTS, "test")
    return [TESTS[name] for name in TESTS if name in names]


def _known(names: Sequence[str], known: Iterable[str], what: str) -> Sequence[str]:
    if unknown := [name for name in names if name not in known]:
        raise Refused(f"no such {what}: {', '.join(unknown)}; there are: {', '.join(known)}")
    return names


def _settings(options: argparse.Namespace) -> Settings:
    usual = Settings(seconds=QUICK_S, latency_seconds=QUICK_S) if options.quick else Settings()
    found = Settings(
        seconds=options.seconds or usual.seconds,
        latency_seconds=options.latency_seconds or usual.latency_seconds,
        **{name: getattr(options, name) for name in (
            "warmup", "connections", "pool_size", "server_core", "client_core")})
    if min(found.seconds, found.latency_seconds, found.connections, found.pool_size) <= 0:
        raise Refused("seconds, connections and the pool's size must be above 0")
    return found


def _rates(texts: Sequence[str]) -> dict[str, float]:
    rates = {}
    for text in texts:
        name, _, number = text.partition("=")
        _known([name], TESTS, "test")
        try:
            rates[name] = float(number)
        except ValueError:
            rates[name] = 0.0
        if rates[name] <= 0:
            raise Refused(f"--rate {text}: want TEST=N, requests a second")
    return rates


def _check_cores(settings: Settings) -> None:
    ours = os.sched_getaffinity(0)
    for option, core in (("--server-core", settings.server_core),
                         ("--client-core", settings.client_core)):
        if core not in ours:
            raise Refused(f"{option} {core} is not ours to use; there are:"
                          f" {', '.join(map(str, sorted(ours)))}")


def _check_libraries() -> None:
    """Say now, and not after an hour, that the reports cannot be drawn."""
    from benchmarks.techempower.serve import NEEDS

    names = {"matplotlib", *(name for needed in NEEDS.values() for name in needed)}
    if missing := sorted(name for name in names if importlib.util.find_spec(name) is None):
        raise Refused(f"not installed: {', '.join(missing)}; pip install -e '.[bench]'")


@contextlib.contextmanager
def _database(
    options: argparse.Namespace, tests: Sequence[SuiteTest]
) -> Iterator[tuple[Database, str]]:
    """The database with the suite's tables in it, and what it is.

    There is one even where no test asks it, for entries connect when they start.
    """
    from benchmarks.postgres import Postgres

    with contextlib.ExitStack() as stack:
        if options.database:
            database = Database(options.database)
        else:
            postgres = stack.enter_context(Postgres(core=options.client_core))
            database = Database(postgres.url, postgres.pids()[0])
        version = asyncio.run(_fill(database.url))
        yield database, f"PostgreSQL {version}{'' if database.postmaster else ', not our own'}"


async def _fill(url: str) -> str:
    import asyncpg

    from benchmarks.techempower.tables import create

    try:
        await create(url)
        connection = await asyncpg.connect(url)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        raise Refused(f"--database: {error}") from error
    try:
        return str(await connection.fetchval("SHOW server_version"))
    finally:
        await connection.close()


def _verify(
    database: Database, concurrency: int, port: int, tests: Sequence[str]
) -> list[tuple[str, str]]:
    """What the suite would refuse the server on `port` for."""
    from benchmarks.techempower.verify import Uncounted, verify

    try:
        found = verify(port, tests, database.url, concurrency=concurrency)
    except Uncounted:
        found = verify(port, tests)
    return [(problem.test, f"{problem.path}: {problem.reason}") for problem in found
            if problem.level == "fail"]


def report(record: dict[str, Any], path: Path) -> None:
    """Write the reports of an earlier comparison anew."""
    lines = history.read(history.FILE) if history.FILE.exists() else []
    if not any(line["date"] == record["started"] for line in lines):
        lines = [*lines, history.line_of(record)]
    write_reports(record, path, lines)

