"""`fastserve top`: what a server with workers does now, by worker and by route.

Two Readings, an interval apart, make a Frame; a Frame is drawn over the last one in a terminal,
printed below it elsewhere, or printed as a line of JSON. Nothing here asks the server for more
than its control socket gives to its owner.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import click

from fastserve.errors import FastserveError
from fastserve.processes import processor_s, resident_bytes
from fastserve.readings import Reading, RequestRecord, Series, WorkerReading, longest_s, total
from fastserve.watching import (
    Watched,
    forget_output,
    printable,
    shown_bytes,
    shown_s,
)

HOLDS_S = 0.1       # a handler that has had the loop for so long is named
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
HOME, CLEAR_LINE, CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"
BOLD, PLAIN = "\x1b[1m", "\x1b[0m"


@dataclass(frozen=True)
class Rates:
    """What requests came to in an interval; a duration is None where there were none.

    longest_s:  what all of them stayed below
    """

    requests_s: float
    p50_s: float | None
    p99_s: float | None
    longest_s: float | None
    errors_4xx_s: float
    errors_5xx_s: float

    @classmethod
    def of(cls, series: Series, seconds: float) -> Rates:
        """Those of an interval's requests."""
        return cls(
            requests_s=series.count / seconds,
            p50_s=series.quantile_s(0.5),
            p99_s=series.quantile_s(0.99),
            longest_s=longest_s(series.buckets),
            errors_4xx_s=series.errors(4) / seconds,
            errors_5xx_s=series.errors(5) / seconds,
        )


@dataclass(frozen=True)
class WorkerLine:
    """One worker in an interval.

    state:  serving, draining, or held: by a handler that has had its loop for long
    cpu:    of one processor, 0 to 1; None where the system does not say
    """

    pid: int
    slot: int
    state: str
    age_s: float
    rates: Rates
    connections: int
    in_flight: int
    waiting: int
    accept_queue: int
    lag_s: float
    longest_lag_s: float
    rss_bytes: int | None
    cpu: float | None


@dataclass(frozen=True)
class RouteLine:
    """One method and route in an interval."""

    method: str
    route: str
    rates: Rates


@dataclass(frozen=True)
class Frame:
    """What is shown at once.

    held:  the requests whose handler has had its worker's loop for HOLDS_S or longer
    """

    pid: int
    at_s: float
    seconds: float
    uptime_s: float
    rates: Rates
    received_bytes_s: float
    sent_bytes_s: float
    workers: tuple[WorkerLine, ...]
    routes: tuple[RouteLine, ...]
    held: tuple[RequestRecord, ...]


@dataclass(frozen=True)
class Sample:
    """One look at a server."""

    at_s: float
    reading: Reading
    held: tuple[RequestRecord, ...]
    cpu_s: dict[int, float | None]

    @classmethod
    def take(cls, watched: Watched) -> Sample:
        """Look now."""
        reading = watched.read()
        held = [
            record for worker in reading.workers if worker.current
            for record in watched.requests(worker.block)
            if record.holds_loop and record.under_way and record.age_s >= HOLDS_S]
        cpu_s = {worker.pid: processor_s(worker.pid) for worker in reading.workers}
        return cls(time.monotonic(), reading, tuple(held), cpu_s)


KEYS: dict[str, Callable[[RouteLine], Any]] = {
    "rate": lambda line: line.rates.requests_s,
    "p99": lambda line: line.rates.p99_s or 0.0,
    "errors": lambda line: (line.rates.errors_5xx_s, line.rates.errors_4xx_s),
}


def frame(before: Sample, after: Sample, sort: str) -> Frame:
    """What came to pass between two looks; routes by one of KEYS, the highest first."""
    seconds = max(after.at_s - before.at_s, 1e-9)
    earlier = before.reading.series()
    routes = []
    for key, series in after.reading.series().items():
        new = series.minus(earlier[key]) if key in earlier else series
        if new.count:
            routes.append(RouteLine(new.method, new.route, Rates.of(new, seconds)))
    routes.sort(key=lambda line: (line.route, line.method))
    routes.sort(key=KEYS[sort], reverse=True)
    bytes_now, bytes_then = after.reading.counters(), before.reading.counters()
    everything = total(after.reading.series().values()).minus(total(earlier.values()))
    return Frame(
        pid=after.reading.pid,
        at_s=time.time(),
        seconds=seconds,
        uptime_s=max(time.time() - after.reading.started_s, 0.0),
        rates=Rates.of(everything, seconds),
        received_bytes_s=(bytes_now.bytes_in - bytes_then.bytes_in) / seconds,
        sent_bytes_s=(bytes_now.bytes_out - bytes_then.bytes_out) / seconds,
        workers=tuple(_worker_lines(before, after, seconds)),
        routes=tuple(routes),
        held=after.held,
    )


def _worker_lines(before: Sample, after: Sample, seconds: float) -> Iterator[WorkerLine]:
    earlier = {(worker.block, worker.pid): worker for worker in before.reading.workers}
    held = {record.pid for record in after.held}
    for worker in sorted(after.reading.workers, key=lambda each: (each.slot, -each.age_s)):
        was = earlier.get((worker.block, worker.pid))
        new = worker.total()
        if was is not None:
            new = new.minus(was.total())
        yield WorkerLine(
            pid=worker.pid,
            slot=worker.slot,
            state="draining" if worker.draining else "held" if worker.pid in held else "serving",
            age_s=worker.age_s,
            rates=Rates.of(new, seconds),
            connections=worker.connections,
            in_flight=worker.in_flight,
            waiting=worker.waiting,
            accept_queue=worker.accept_queue,
            lag_s=worker.lag_s,
            longest_lag_s=worker.longest_lag_s,
            rss_bytes=resident_bytes(worker.pid),
            cpu=_cpu(before, after, worker, seconds),
        )


def _cpu(before: Sample, after: Sample, worker: WorkerReading, seconds: float) -> float | None:
    then, now = before.cpu_s.get(worker.pid), after.cpu_s.get(worker.pid)
    return None if then is None or now is None else max(now - then, 0.0) / seconds


# How it is shown.

WORKER_HEADINGS = (
    "SLOT", "PID", "STATE", "AGE", "REQ/S", "P50", "P99", "5XX/S", "CONN", "FLIGHT", "WAIT",
    "QUEUE", "LAG", "LAG10S", "RSS", "CPU")
ROUTE_HEADINGS = ("REQ/S", "P50", "P99", "MAX<", "4XX/S", "5XX/S", "ROUTE")


def lines_of(shown: Frame, *, sort: str, bold: bool = False) -> list[str]:
    """A Frame as lines of text; headings in bold where a terminal is to have them."""
    rates = shown.rates
    lines = [
        f"fastserve {shown.pid}  up {_age(shown.uptime_s)}  {_rate(rates.requests_s)} req/s  "
        f"p50 {shown_s(rates.p50_s)}  p99 {shown_s(rates.p99_s)}  "
        f"4xx {_rate(rates.errors_4xx_s)}/s  5xx {_rate(rates.errors_5xx_s)}/s  "
        f"in {shown_bytes(shown.received_bytes_s)}/s  out {shown_bytes(shown.sent_bytes_s)}/s", ""]
    workers = [WORKER_HEADINGS, *(_worker_cells(worker) for worker in shown.workers)]
    routes = [ROUTE_HEADINGS, *(_route_cells(route) for route in shown.routes)]
    first, *others = _table(workers)
    lines += [_bold(first, bold), *others, ""]
    for record in shown.held:
        lines.append(
            f"worker {record.pid} is held for {shown_s(record.age_s)} by "
            f'{printable(f"{record.method} {record.route}")}: "{printable(record.line)}"')
    if shown.held:
        lines.append("")
    first, *others = _table(routes)
    return [*lines, _bold(first, bold) + f"  (by {sort})", *others]


def _worker_cells(worker: WorkerLine) -> tuple[str, ...]:
    rates = worker.rates
    return (
        str(worker.slot), str(worker.pid), worker.state, _age(worker.age_s),
        _rate(rates.requests_s), shown_s(rates.p50_s), shown_s(rates.p99_s),
        _rate(rates.errors_5xx_s), str(worker.connections), str(worker.in_flight),
        str(worker.waiting), str(worker.accept_queue), shown_s(worker.lag_s),
        shown_s(worker.longest_lag_s), shown_bytes(worker.rss_bytes),
        "-" if worker.cpu is None else f"{worker.cpu:.0%}")


def _route_cells(line: RouteLine) -> tuple[str, ...]:
    rates = line.rates
    return (
        _rate(rates.requests_s), shown_s(rates.p50_s), shown_s(rates.p99_s),
        shown_s(rates.longest_s), _rate(rates.errors_4xx_s), _rate(rates.errors_5xx_s),
        printable(f"{line.method} {line.route}"))


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns to the right, but for the last of a route, which has no end."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    routes = rows[0] is ROUTE_HEADINGS
    if routes:
        widths[-1] = 0
    return [
        "  ".join([
            cell.ljust(width) if routes and index == len(row) - 1 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))])
        for row in rows]


def _bold(text: str, bold: bool) -> str:
    return f"{BOLD}{text}{PLAIN}" if bold else text


def _rate(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 or not number else f"{number:.1f}"


def _age(seconds: float) -> str:
    for unit, name in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= unit:
            return f"{seconds / unit:.0f}{name}"
    return f"{seconds:.0f}s"


class Screen:
    """A terminal that shows one Frame over the other; as a context manager it is given back."""

    def __init__(self) -> None:
        self._wake, self._waker = os.pipe()

    def __enter__(self) -> Screen:
        import termios
        import tty

        os.set_blocking(self._waker, False)
        self._before = termios.tcgetattr(0)
        self._handlers = {
            number: signal.signal(number, self._noticed)
            for number in (signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP)}
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        tty.setcbreak(0)
        sys.stdout.write(ENTER)
        sys.stdout.flush()
        return self

    def __exit__(self, *_: object) -> None:
        import termios

        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        termios.tcsetattr(0, termios.TCSADRAIN, self._before)
        with contextlib.suppress(OSError):
            sys.stdout.write(LEAVE)
            sys.stdout.flush()
        os.close(self._wake)
        os.close(self._waker)

    @staticmethod
    def _noticed(number: int, frame: object) -> None:
        """The pipe has the number."""

    def draw(self, shown: Frame, sort: str) -> None:
        """Show it, as much as there is room for."""
        columns, rows = shutil.get_terminal_size()
        lines = lines_of(shown, sort=sort)[:rows - 1]
        lines += [""] * (rows - 1 - len(lines))
        lines.append("q quit   s sort the routes")
        headings = ("SLOT".rjust(4), "REQ/S")
        cut = [
            _bold(line[:columns], line.lstrip().startswith(headings)) for line in lines]
        sys.stdout.write(HOME + f"{CLEAR_LINE}\n".join(cut) + CLEAR_LINE + CLEAR_REST)
        sys.stdout.flush()

    def wait(self, seconds: float) -> str:
        """A key, "resize", "end", or nothing when the time is up."""
        heard, _, _ = select.select([0, self._wake], [], [], max(seconds, 0.0))
        if self._wake in heard:
            numbers = os.read(self._wake, 4096)
            return "resize" if set(numbers) == {signal.SIGWINCH} else "end"
        if 0 in heard:
            return os.read(0, 1).decode("latin-1") or "end"
        return ""


def watch(watched: Watched, interval_s: float, sort: str) -> None:
    """Show the server in the terminal until q, Ctrl-C or a signal."""
    with Screen() as screen, contextlib.suppress(KeyboardInterrupt):
        before = after = Sample.take(watched)
        due_s = time.monotonic() + min(interval_s, 0.5)     # something soon
        names = list(KEYS)
        while True:
            what = screen.wait(due_s - time.monotonic())
            if what in ("q", "Q", "end"):
                return
            if what == "s":
                sort = names[(names.index(sort) + 1) % len(names)]
            elif not what:
                before, after = after, Sample.take(watched)
                due_s = time.monotonic() + interval_s
            if after is not before:
                screen.draw(frame(before, after, sort), sort)


def frames(watched: Watched, interval_s: float, sort: str) -> Iterator[Frame]:
    """One after the other, an interval apart."""
    before = Sample.take(watched)
    while True:
        time.sleep(interval_s)
        after = Sample.take(watched)
        yield frame(before, after, sort)
        before = after


@click.command()
@click.option("--control", metavar="PATH", required=True, help="The --control of the server.")
@click.option("--interval-s", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True,
              help="Between two looks.")
@click.option("--sort", type=click.Choice(list(KEYS)), default="rate", show_default=True,
              help="Which routes come first.")
@click.option("--once", is_flag=True, help="Show one interval, and end.")
@click.option("--json", "json_lines", is_flag=True, help="A line of JSON for each interval.")
def top(
    *, control: str, interval_s: float, sort: str, once: bool, json_lines: bool
) -> None:
    """Show what a server with workers does now, by worker and by route.

    In a terminal: q quits, s sorts the routes by something else. Elsewhere each interval is
    printed below the last.
    """
    live = sys.stdin.isatty() and sys.stdout.isatty() and not once and not json_lines
    try:
        watched = Watched(control)
        if live:
            watch(watched, interval_s, sort)
            return
        for each in frames(watched, interval_s, sort):
            if json_lines:
                print(json.dumps(dataclasses.asdict(each)), flush=True)
            else:
                print("\n".join(lines_of(each, sort=sort)), end="\n" if once else "\n\n",
                      flush=True)
            if once:
                return
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        forget_output()
    except FastserveError as error:
        print(f"fastserve: {error}", file=sys.stderr)
        sys.exit(1)
