"""The commands `techempower` and `verify` of `python -m benchmarks`."""

import argparse
import sys

TESTS = ("plaintext", "json", "db", "queries", "cached-queries", "fortunes", "updates")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks techempower`."""
    parser.add_argument("--host", default="127.0.0.1", help="(%(default)s)")
    parser.add_argument("--port", type=port_number, default=8080,
                        help="0 is a free one (%(default)s)")
    parser.add_argument("--workers", type=worker_count,
                        help="a number, or auto; left out: one process")
    parser.add_argument("--database", type=database_url, metavar="URL",
                        help="postgresql://USER:PASSWORD@HOST/NAME; left out: one of its own")
    entry = parser.add_mutually_exclusive_group()
    entry.add_argument("--pipelined", dest="app", action="store_const", const="app_pipelined.py",
                       help="queries that do not wait for each other, by psycopg")
    entry.add_argument("--orm", dest="app", action="store_const", const="app_orm.py",
                       help="by way of SQLAlchemy; left out: by asyncpg")
    parser.set_defaults(app="app.py")


def add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks verify`."""
    parser.add_argument("--port", type=port_number, required=True, help="of a server on 127.0.0.1")
    parser.add_argument("--tests", type=_tests, default=list(TESTS), help=",".join(TESTS))
    parser.add_argument("--database", type=database_url, metavar="URL",
                        help="of its database; left out, nothing is counted there")
    parser.add_argument("--concurrency", type=_positive, default=512,
                        help="connections at once when the database is counted (%(default)s)")


def serve(options: argparse.Namespace) -> int:
    """Serve the seven tests; the exit status of the command."""
    from benchmarks.techempower.serve import Refused, Served
    from benchmarks.techempower.serve import serve as run

    flags = ["--host", options.host, "--port", str(options.port)]
    if options.workers is not None:
        flags += ["--workers", options.workers]
    try:
        return run(Served(options.app, options.database, tuple(flags)))
    except Refused as error:
        return failed(error)


def verify(options: argparse.Namespace) -> int:
    """Print what is wrong with the server; the exit status of the command: 1 where it fails."""
    try:
        from benchmarks.techempower.verify import Uncounted
        from benchmarks.techempower.verify import verify as run
    except ModuleNotFoundError as error:
        return failed(f"{error.name} not installed: pip install -e '.[bench]'")
    try:
        problems = run(options.port, options.tests, options.database,
                       concurrency=options.concurrency)
    except Uncounted as error:
        return failed(f"--database {error}")
    for problem in problems:
        print(problem)
    fails = sum(problem.level == "fail" for problem in problems)
    counted = "" if options.database else "; nothing was counted in the database (--database)"
    warns = len(problems) - fails
    print(f"{len(options.tests)} tests: {fails} failures, {warns} warnings{counted}")
    return 1 if fails else 0


def failed(reason: object) -> int:
    """Say why a command cannot do what it was told; its exit status."""
    print(f"python -m benchmarks: {reason}", file=sys.stderr)
    return 1


def port_number(text: str) -> int:
    """Read a port of TCP, or 0."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to 65535")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1")
    return int(text)


def worker_count(text: str) -> str:
    """Read what `fastserve run --workers` takes."""
    if text != "auto":
        _positive(text)
    return text


def database_url(text: str) -> str:
    """Read a URL of PostgreSQL."""
    if not text.startswith(("postgresql://", "postgres://")):
        raise argparse.ArgumentTypeError(f"{text!r} is no URL like postgresql://USER@HOST/NAME")
    return text


def _tests(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in TESTS]:
        raise argparse.ArgumentTypeError(
            f"{', '.join(unknown)} unknown; there are: {', '.join(TESTS)}")
    return names
