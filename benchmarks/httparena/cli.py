"""The command `httparena` of `python -m benchmarks`: serve the entry, or verify any server."""

import argparse
from pathlib import Path

from benchmarks.httparena.profiles import PROFILES
from benchmarks.techempower.cli import database_url, failed, port_number, worker_count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--host", default="127.0.0.1", help="(%(default)s)")
    parser.add_argument("--port", type=port_number, default=8080,
                        help="0 is a free one (%(default)s)")
    parser.add_argument("--tls-port", type=port_number, help="(the next one; 0 with --port 0)")
    parser.add_argument("--workers", type=worker_count,
                        help="a number, or auto; left out: one process")
    parser.add_argument("--database", type=database_url, metavar="URL",
                        help="postgresql://USER:PASSWORD@HOST/NAME; left out: one of its own")
    parser.add_argument("--data", type=Path, metavar="DIR",
                        help="where data/ and certs/ are, or shall be made; left out: for this run")
    parser.add_argument("--verify", type=port_number, metavar="PORT",
                        help="serve nothing: check the server on 127.0.0.1 by the arena's rules")
    parser.add_argument("--profiles", type=_profiles, default=list(PROFILES),
                        help=f"what --verify checks: {','.join(PROFILES)}")


def run(options: argparse.Namespace) -> int:
    """Serve, or verify; the exit status of the command."""
    tls_port = options.tls_port
    if options.verify is not None:
        return _verify(options, options.verify + 1 if tls_port is None else tls_port)
    from benchmarks.httparena.serve import Served, serve
    from benchmarks.techempower.serve import Refused

    if tls_port is None:
        tls_port = options.port and options.port + 1
    try:
        return serve(Served(options.host, options.port, tls_port, options.workers,
                            options.database, options.data))
    except Refused as error:
        return failed(error)


def _verify(options: argparse.Namespace, tls_port: int) -> int:
    try:
        from benchmarks.httparena.verify import Target, verify
    except ModuleNotFoundError as error:
        return failed(f"{error.name} not installed: pip install -e '.[bench]'")
    target = Target(options.verify, tls_port, options.data and options.data / "data")
    problems = verify(target, options.profiles)
    for problem in problems:
        print(problem)
    compared = "" if options.data else "; files were compared with themselves only (--data)"
    print(f"{len(options.profiles)} profiles: {len(problems)} failures{compared}")
    return 1 if problems else 0


def _profiles(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in PROFILES]:
        raise argparse.ArgumentTypeError(
            f"{', '.join(unknown)} unknown; there are: {', '.join(PROFILES)}")
    return names


