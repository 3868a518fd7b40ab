"""One table: every fault, every server, and how the requests of their clients ended.

python -m tests.faults table [--full] [--quick] [--servers NAMES] [--output FILE]
python -m tests.faults peers ...    the same without fastserve
"""

from __future__ import annotations

import argparse
import datetime
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.acts import (
    Outcome,
    kill_parent,
    kill_workers,
    reload,
    roll_out,
    scale,
    stop_a_worker,
    terminate,
)
from tests.faults.load import HEAVY, MIXED, Kind
from tests.faults.peers import PACKAGES, installed
from tests.faults.serving import FASTSERVE, ROOT, Make, Serving

CLASSES = ("refused", "reset", "eof", "timeout", "5xx", "wrong")
DRAIN_S = 6.0


@dataclass(frozen=True)
class Fault:
    """One fault of the table.

    times:   how often, in the quick, the usual and the full form
    flags:   that fastserve has for it
    has:     whether a make has the thing at all
    """

    name: str
    act: Callable[[Serving, int, tuple[Kind, ...]], Outcome]
    times: tuple[int, int, int]
    mood: str = ""
    flags: tuple[str, ...] = ()
    has: Callable[[Make], bool] = lambda make: True


def _roll_out(server: Serving, times: int, kinds: tuple[Kind, ...]) -> Outcome:
    return roll_out(server, DRAIN_S, 64, 2.0 * times)


FAULTS = (
    Fault("kill -9 of a worker", kill_workers, (3, 10, 100)),
    Fault("the same, import takes 4 s", kill_workers, (1, 3, 100), "import 4"),
    Fault("SIGSTOP of a worker for 4 s", stop_a_worker, (1, 3, 20)),
    Fault("HUP", reload, (2, 10, 100)),
    Fault("HUP, import takes 4 s", reload, (1, 3, 100), "import 4"),
    Fault("TTIN, TTIN, TTOU, TTOU", scale, (1, 3, 50), has=lambda make: make.scales),
    Fault("kill -9 of the parent", kill_parent, (1, 1, 1)),
    Fault("TERM", terminate, (1, 1, 1)),
    Fault("TERM, and a balancer that sends for 5 s more", _roll_out, (1, 2, 5),
          flags=("--drain-delay-s", str(DRAIN_S))),
)


def line(fault: str, make: str, found: Outcome | None) -> str:
    """One line of the table."""
    if found is None:
        return f"| {fault} | {make} | none |" + " |" * (len(CLASSES) + 5)
    counts = [str(found.by_class[name] or "") for name in CLASSES]
    extra = sum(count for name, count in found.by_class.items() if name not in CLASSES)
    notes = ", ".join(f"{name.removesuffix('_s').replace('_', ' ')} "
                      + (f"{value:.1f} s" if isinstance(value, float) else str(value))
                      for name, value in found.notes.items())
    failed = sum(found.by_class.values())
    cells = [fault, make, f"{failed} / {found.seen.attempted}", *counts,
             str(found.victims or ""), str(found.stale or ""),
             f"{1000 * found.seen.p99_s:.0f}", f"{1000 * found.seen.longest_s:.0f}",
             notes + (f", other failures {extra}" if extra else "")]
    return "| " + " | ".join(cells) + " |"


HEAD = ("| fault | server | failed / attempted | " + " | ".join(CLASSES)
        + " | of victims | stale | p99, ms | longest, ms | besides |\n"
        + "|---|---|---|" + "---|" * (len(CLASSES) + 5))


def machine(form: str, versions: list[tuple[Make, str]], command: str) -> str:
    """What the table was made with."""
    from benchmarks.machine import describe_machine

    here = describe_machine()
    commit = subprocess.run(["git", "log", "-1", "--format=%h"], cwd=ROOT, capture_output=True,
                            text=True, check=False).stdout.strip()
    sizes = ", ".join(f"{kind.clients} {kind.name}" + (
        f" at {kind.rate_hz:g}/s" + (f" x {kind.depth}" if kind.depth > 1 else "")
        if kind.rate_hz else "") for kind in (HEAVY if form == "full" else MIXED))
    return (
        f"{datetime.date.today()}, commit {commit}, `{command}` ({form} form): "
        f"{here['cores']} x {here['cpu']}, Linux {here['kernel']}, "
        f"CPython {platform.python_version()}; "
        + ", ".join(f"{make.name} {version}" for make, version in versions)
        + f". Two workers each. Clients: {sizes}.")


def main(words: list[str], *, ours: bool) -> int:
    """Make the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults table", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--full", action="store_const", const="full", dest="form")
    forms.add_argument("--quick", action="store_const", const="quick", dest="form")
    parser.add_argument("--servers", default="", help="a comma list; all")
    parser.add_argument("--faults", default="", help="a comma list of numbers from 1; all")
    parser.add_argument("--cache", type=Path, help="where the virtual environments are")
    parser.add_argument("--output", type=Path, help="write it there too")
    given = parser.parse_args(words)
    form = given.form or "usual"
    names = [name for name in given.servers.split(",") if name] or \
        ([FASTSERVE.name] if ours else []) + list(PACKAGES)
    servers = installed(names, given.cache)
    wanted = [FAULTS[int(number) - 1] for number in given.faults.split(",") if number] or FAULTS
    command = " ".join(["python -m tests.faults", "table" if ours else "peers",
                        *(word for word in words if word.startswith("--")
                          and word.partition("=")[0] in ("--full", "--quick"))])
    lines = [machine(form, servers, command), "", HEAD]
    print("\n".join(lines), flush=True)
    for fault in wanted:
        for make, _ in servers:
            lines.append(line(fault.name, make.name, put_through(fault, make, form)))
            print(lines[-1], flush=True)
    if given.output:
        given.output.write_text("\n".join(lines) + "\n")
    return 0


def put_through(fault: Fault, make: Make, form: str) -> Outcome | None:
    """What a fault does to a server of a make; None where it has no such thing."""
    if not fault.has(make):
        return None
    times = fault.times[("quick", "usual", "full").index(form)]
    flags = fault.flags if make is FASTSERVE else ()
    try:
        with Serving(make, *flags, mood=fault.mood) as server:
            return fault.act(server, times, HEAVY if form == "full" else MIXED)
    except TimeoutError as error:
        print(f"{make.name}: {fault.name}: {error}", file=sys.stderr)
        return None
