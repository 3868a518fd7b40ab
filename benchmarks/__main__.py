"""The command line of the benches: `python -m benchmarks --help` lists them."""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks import callgrind, compare, million, observing, static, upload, workers
from benchmarks.cases import CASES
from benchmarks.growth import run as growth
from benchmarks.httparena import cli as httparena
from benchmarks.process import ServerFailed
from benchmarks.servers import FLOOR, REFERENCE, SERVERS
from benchmarks.techempower import cli as techempower
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
    commands = parser.add_subparsers(required=True)
    cached = argparse.ArgumentParser(add_help=False)
    cached.add_argument(
        "--cache", type=Path, default=DEFAULT_CACHE,
        help="where programs and environments live (%(default)s)")
    installed = argparse.ArgumentParser(add_help=False, parents=[cached])
    installed.add_argument(
        "--python", help="the Python of the peers and of fastserve (default: this one)")

    def add(
        name: str,
        action: Callable[[argparse.Namespace], int],
        arguments: Callable[[argparse.ArgumentParser], None],
        about: str,
        *parents: argparse.ArgumentParser,
    ) -> None:
        command = commands.add_parser(name, parents=parents, help=about)
        command.set_defaults(action=action)
        arguments(command)

    add("run", _run, _run_arguments, "measure cases on servers", installed)
    add("peers", _peers, _peers_arguments, "list or install the peers", installed)
    add("report", _report, _report_arguments, "results.json -> results.md and results.png")
    add("callgrind", callgrind.count, callgrind.add_arguments,
        "instructions per request, no socket, no kernel")
    add("static", static.run, static.add_arguments,
        "static files beside nginx, CPU per request", cached)
    add("upload", upload.upload, upload.add_arguments, "bytes per second, beside a bare protocol")
    add("workers", workers.measure, workers.add_arguments,
        "a supervisor, two workers, metrics, logs", cached)
    add("techempower", techempower.serve, techempower.add_arguments,
        "serve the tests of the TechEmpower suite")
    add("verify", techempower.verify, techempower.add_verify_arguments,
        "check a server by the rules of that suite")
    add("httparena", httparena.run, httparena.add_arguments,
        "serve HttpArena's profiles, or check a server by its rules")
    add("growth", growth.measure, growth.add_arguments,
        "cost against routes, fields, bodies, ...; plots", cached)
    add("million", million.measure, million.add_arguments,
        "a million requests a second of one worker?", cached)
    add("compare", compare.compare, lambda parser: compare.add_arguments(parser, LOCAL),
        "the suite's tests on fastserve and its peers", installed)
    add("history", compare.show_history, compare.add_history_arguments,
        "earlier comparisons, and what became worse")
    add("observing", observing.measure, observing.add_arguments,
        "what counters and access logs cost")
    return parser


def _run_arguments(run: argparse.ArgumentParser) -> None:
    run.add_argument("--servers", type=_names(SERVERS), default=list(SERVERS))
    run.add_argument("--cases", type=_names(CASES), default=list(CASES))
    run.add_argument("--rounds", type=int, default=5)
    run.add_argument("--seconds", type=float, default=5.0, help="measured in each turn")
    run.add_argument("--warmup", type=float, default=1.0, help="seconds before that")
    run.add_argument("--connections", type=int, default=64)
    run.add_argument("--idle-connections", type=int, default=8000)
    run.add_argument("--server-core", type=int, default=0)
    run.add_argument("--client-core", type=int, default=1)
    run.add_argument("--output", type=Path, default=LOCAL / "results.json", help="(%(default)s)")


def _peers_arguments(peers: argparse.ArgumentParser) -> None:
    peers.add_argument("--servers", type=_names(SERVERS), default=list(SERVERS))
    peers.add_argument("--install", action="store_true", help="make what is missing")
    peers.add_argument("--upgrade", action="store_true", help="make all anew")


def _report_arguments(report: argparse.ArgumentParser) -> None:
    report.add_argument("input", type=Path, nargs="?", default=LOCAL / "results.json")
    report.add_argument("--markdown", type=Path, help="(default: beside the input)")
    report.add_argument("--plot", type=Path, help="(default: beside the input)")
    report.add_argument("--no-plot", action="store_true", help="do without matplotlib")


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
        compare.report(record, options.input)
        return 0
    print(write_report(record, options.markdown or options.input.with_suffix(".md")))
    if not options.no_plot:
        from benchmarks.plot import draw

        draw(record, options.plot or options.input.with_suffix(".png"))
    return 0


def main() -> int:
    options = _parser().parse_args()
    try:
        return int(options.action(options))
    except (ServerFailed, Unavailable) as error:
        print(f"python -m benchmarks: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
