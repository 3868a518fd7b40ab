"""The command line of the benches: `python -m benchmarks --help` lists them."""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.cases import CASES
from benchmarks.servers import FLOOR, REFERENCE, SERVERS
from benchmarks.upload import add_arguments as upload_arguments
from benchmarks.upload import upload
from benchmarks.venvs import DEFAULT_CACHE, Unavailable, Venvs

LOCAL = Path(__file__).resolve().parent / "results" / "local"


def _names(known: Iterable[str]) -> Callable[[str], list[str]]:
    """A comma-separated list of known names, or "all"."""

    def parse(text: str) -> list[str]:
        names = list(known) if text == "all" else text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown)} unknown; there are: {', '.join(known)}"
            )
        return names

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="action", required=True)

    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--cache", type=Path, default=DEFAULT_CACHE, help="where environments live (%(default)s)"
    )
    shared.add_argument(
        "--python", help="the Python of the peers and of fastserve (default: this one)"
    )
    shared.add_argument("--servers", type=_names(SERVERS), default=list(SERVERS))

    run = commands.add_parser("run", parents=[shared], help="measure cases on servers")
    run.add_argument("--cases", type=_names(CASES), default=list(CASES))
    run.add_argument("--rounds", type=int, default=5)
    run.add_argument("--seconds", type=float, default=5.0, help="measured in each turn")
    run.add_argument("--warmup", type=float, default=1.0, help="seconds before that")
    run.add_argument("--connections", type=int, default=64)
    run.add_argument("--idle-connections", type=int, default=8000)
    run.add_argument("--server-core", type=int, default=0)
    run.add_argument("--client-core", type=int, default=1)
    run.add_argument("--output", type=Path, default=LOCAL / "results.json", help="(%(default)s)")

    peers = commands.add_parser("peers", parents=[shared], help="list or install the peers")
    peers.add_argument("--install", action="store_true", help="make what is missing")
    peers.add_argument("--upgrade", action="store_true", help="make all anew")

    report = commands.add_parser("report", help="results.json -> results.md and results.png")
    report.add_argument("input", type=Path, nargs="?", default=LOCAL / "results.json")
    report.add_argument("--markdown", type=Path, help="(default: beside the input)")
    report.add_argument("--plot", type=Path, help="(default: beside the input)")
    report.add_argument("--no-plot", action="store_true", help="do without matplotlib")

    count = commands.add_parser("callgrind", help="instructions per request, no socket, no kernel")
    count.add_argument("--cases", help="of: plaintext,json,params,pipelined-16 (default: all)")
    count.add_argument("--python", default=sys.executable, help="(%(default)s)")
    count.add_argument("--requests", type=int, default=4000, help="N; 2N are run as well")
    count.add_argument("--tasks", help="passed on to the engine: direct or asyncio")
    count.add_argument("--around", help="middleware, or tracing: api, sampled-out or recording")
    count.add_argument("--output", type=Path, help="write the counts as JSON")
    count.add_argument("--profile", type=Path, help="keep the callgrind files in this directory")

    cached = argparse.ArgumentParser(add_help=False)
    cached.add_argument(
        "--cache", type=Path, default=DEFAULT_CACHE, help="where programs live (%(default)s)")
    from benchmarks.static import add_arguments as add_static_arguments

    static = commands.add_parser(
        "static", parents=[cached], help="static files beside nginx, CPU per request")
    add_static_arguments(static)
    uploads = commands.add_parser("upload", help="bytes per second, beside a bare protocol")
    upload_arguments(uploads)
    from benchmarks.workers import add_arguments as add_workers_arguments

    several = commands.add_parser(
        "workers", parents=[cached], help="a supervisor, two workers, metrics, logs")
    add_workers_arguments(several)
    from benchmarks.techempower import cli as techempower

    techempower.add_arguments(commands.add_parser(
        "techempower", help="serve the tests of the TechEmpower suite"))
    techempower.add_verify_arguments(commands.add_parser(
        "verify", help="check a server by the rules of that suite"))
    from benchmarks.httparena import cli as httparena

    httparena.add_arguments(commands.add_parser(
        "httparena", help="serve HttpArena's profiles, or check a server by its rules"))
    from benchmarks.growth.run import add_arguments as add_growth_arguments

    growth = commands.add_parser(
        "growth", parents=[cached], help="cost against routes, fields, bodies, ...; plots")
    add_growth_arguments(growth)
    from benchmarks.million import add_arguments as add_million_arguments

    million = commands.add_parser(
        "million", parents=[cached], help="a million requests a second of one worker?")
    add_million_arguments(million)
    from benchmarks import compare

    beside = commands.add_parser("compare", help="the suite's tests on fastserve and its peers")
    beside.add_argument(
        "--cache", type=Path, default=DEFAULT_CACHE, help="where environments live (%(default)s)")
    beside.add_argument(
        "--python", help="the Python of the peers and of fastserve (default: this one)")
    compare.add_arguments(beside, LOCAL)
    compare.add_history_arguments(
        commands.add_parser("history", help="earlier comparisons, and what became worse"))
    observing = commands.add_parser("observing", help="what counters and access logs cost")
    observing.add_argument("--case", choices=list(CASES), default="plaintext")
    observing.add_argument("--rounds", type=int, default=41)
    observing.add_argument("--output", type=Path, help="write the costs as JSON")
    return parser


def _run(options: argparse.Namespace) -> int:
    from benchmarks.measure import Bench, Settings, pin_harness
    from benchmarks.process import raise_file_limit
    from benchmarks.report import write_report
    from benchmarks.rounds import Run

    names = ("seconds", "warmup", "connections", "idle_connections", "server_core", "client_core")
    settings = Settings(**{name: getattr(options, name) for name in names})
    pin_harness(settings.client_core)
    raise_file_limit()
    bench = Bench(settings, Venvs(options.cache, options.python))
    cases = [CASES[name] for name in CASES if name in options.cases]
    servers = [SERVERS[name] for name in SERVERS if name in options.servers]
    run = Run(bench, cases, servers, options.output)
    run.execute(options.rounds)
    print(f"\n{write_report(run.record, options.output.with_suffix('.md'))}")
    print(f"written: {options.output}")
    return 0


def _peers(options: argparse.Namespace) -> int:
    venvs = Venvs(options.cache, options.python)
    missing = 0
    fresh: set[Path] = set()  # several servers may share an environment
    for name in options.servers:
        server = SERVERS[name]
        if name == FLOOR or (name == REFERENCE and not options.python):
            continue
        state = "installed" if venvs.is_installed(server) else "not installed"
        try:
            upgrade = options.upgrade and venvs.path(server) not in fresh
            if upgrade or (options.install and state != "installed"):
                venvs.interpreter(server, upgrade=upgrade)
                fresh.add(venvs.path(server))
                state = "installed"
        except Unavailable as error:
            state = str(error)
        missing += state != "installed"
        print(f"{name:18} {state:14} {' '.join(server.requires)}")
    return 1 if missing and (options.install or options.upgrade) else 0


def _report(options: argparse.Namespace) -> int:
    import json

    from benchmarks.report import write_report

    record = json.loads(options.input.read_text())
    if record.get("kind") == "compare":
        from benchmarks.compare import report

        report(record, options.input)
        return 0
    print(write_report(record, options.markdown or options.input.with_suffix(".md")))
    if not options.no_plot:
        from benchmarks.plot import draw

        draw(record, options.plot or options.input.with_suffix(".png"))
    return 0


def _callgrind(options: argparse.Namespace) -> int:
    from benchmarks.callgrind import count

    return count(options)


def _static(options: argparse.Namespace) -> int:
    from benchmarks.static import run

    return run(options, options.cache)


def _upload(options: argparse.Namespace) -> int:
    return upload(options)


def _compare(options: argparse.Namespace) -> int:
    from benchmarks.compare import compare

    return compare(options)


def _history(options: argparse.Namespace) -> int:
    from benchmarks.compare import show_history

    return show_history(options)


def _workers(options: argparse.Namespace) -> int:
    from benchmarks.workers import measure

    return measure(options, options.cache)


def _observing(options: argparse.Namespace) -> int:
    from benchmarks.observing import measure

    return measure(options)


def _techempower(options: argparse.Namespace) -> int:
    from benchmarks.techempower.cli import serve

    return serve(options)


def _verify(options: argparse.Namespace) -> int:
    from benchmarks.techempower.cli import verify

    return verify(options)


def _httparena(options: argparse.Namespace) -> int:
    from benchmarks.httparena.cli import run

    return run(options)


def _growth(options: argparse.Namespace) -> int:
    from benchmarks.growth.run import measure

    return measure(options, options.cache)


def _million(options: argparse.Namespace) -> int:
    from benchmarks.million import measure

    return measure(options, options.cache)


def main() -> int:
    options = _parser().parse_args()
    actions = {"run": _run, "peers": _peers, "report": _report, "callgrind": _callgrind,
               "static": _static, "upload": _upload, "observing": _observing,
               "workers": _workers, "techempower": _techempower, "verify": _verify,
               "httparena": _httparena, "growth": _growth, "million": _million,
               "compare": _compare, "history": _history}
    return actions[options.action](options)


if __name__ == "__main__":
    sys.exit(main())
