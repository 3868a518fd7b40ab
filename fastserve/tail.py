"""`fastserve tail`: the requests of all workers as they end, from their flight recorders.

A worker keeps its last 256 requests. This looks a few times a second and prints what ended since;
where a worker had more than that between two looks, it says how many went by unseen.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

import click

from fastserve.errors import FastserveError
from fastserve.readings import RequestRecord
from fastserve.watching import (
    Watched,
    duration_s,
    forget_output,
    printable,
    reader_left,
    shown_bytes,
    shown_s,
)

LOOK_S = 0.1
SHOWN_WAIT_S = 0.0001   # less is nobody's wait

Worker = tuple[int, int]    # block and pid


@dataclasses.dataclass(frozen=True)
class Filter:
    """Which requests are wanted; all of these must hold.

    slow_s:    it took at least so long
    statuses:  404, or 5xx for the whole class; none: any
    route:     the path of its route, or that behind its method, as `fastserve routes` has it
    """

    slow_s: float = 0.0
    statuses: tuple[str, ...] = ()
    route: str | None = None

    def wants(self, record: RequestRecord) -> bool:
        """Whether it is one of them."""
        if record.duration_s < self.slow_s:
            return False
        status = f"{record.status:03}"
        if self.statuses and not {status, f"{status[0]}xx"} & set(self.statuses):
            return False
        return self.route in (None, record.route, f"{record.method} {record.route}")


class Follower:
    """Knows which requests have been seen to end.

    last:  how many that had ended before are given at the first look
    """

    def __init__(self, last: int = 0) -> None:
        self._last = last
        self._highest: dict[Worker, int] = {}
        self._pending: dict[Worker, set[int]] = {}
        self._first = True

    def look(
        self, workers: Iterable[list[RequestRecord]], wants: Callable[[RequestRecord], bool]
    ) -> tuple[list[RequestRecord], dict[int, int]]:
        """The wanted ones that ended since, in that order; and how many went by, by pid."""
        ended: list[RequestRecord] = []
        missed: dict[int, int] = {}
        here = set()
        for records in workers:
            worker = (records[0].block, records[0].pid)
            here.add(worker)
            lost = self._look_at(worker, records, ended)
            if lost:
                missed[worker[1]] = lost
        for gone in self._highest.keys() - here:
            del self._highest[gone], self._pending[gone]
        found = sorted(filter(wants, ended), key=_ended_at_s)
        if self._first:
            self._first = False
            return found[len(found) - self._last:] if self._last else [], {}
        return found, missed

    def _look_at(
        self, worker: Worker, records: list[RequestRecord], ended: list[RequestRecord]
    ) -> int:
        before = self._highest.get(worker, 0)
        pending = self._pending.get(worker, set())
        news = [each for each in records if each.number > before or each.number in pending]
        ended += [each for each in news if not each.under_way]
        highest = max(before, records[-1].number)
        lost = highest - before + len(pending) - len(news)
        self._highest[worker] = highest
        self._pending[worker] = {each.number for each in news if each.under_way}
        return lost


def _ended_at_s(record: RequestRecord) -> float:
    return record.begun_at_s + record.duration_s


def as_text(record: RequestRecord) -> str:
    """A request for people, on one line."""
    when = datetime.fromtimestamp(record.begun_at_s).strftime("%H:%M:%S.%f")[:-3]
    phases = "under way" if record.handler_s is None else f"handler {shown_s(record.handler_s)}"
    if record.wait_s >= SHOWN_WAIT_S:
        phases = f"wait {shown_s(record.wait_s)}, {phases}"
    if record.handler_s is not None:
        phases += ", sending" if record.send_s is None else f", send {shown_s(record.send_s)}"
    parts = [
        when, f"{record.status or '-':>3}", f"{shown_s(record.duration_s):>6}", f"({phases})",
        shown_bytes(record.body_bytes), f'"{printable(record.line)}"',
        printable(f"{record.method} {record.route}"), f"worker={record.pid}",
    ]
    if record.client:
        parts.append(f"client={printable(record.client)}")
    if record.id:
        parts.append(f"id={printable(record.id)}")
    if record.holds_loop:
        parts.append("HOLDS THE LOOP")
    return "  ".join(parts)


def as_json(record: RequestRecord) -> str:
    """A request for programs, on one line."""
    fields = dataclasses.asdict(record)
    return json.dumps({
        **fields, "duration_s": round(record.duration_s, 9), "under_way": record.under_way})


def _statuses(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    statuses = tuple(filter(None, (value or "").replace(",", " ").lower().split()))
    for status in statuses:
        if not re.fullmatch(r"[1-5](xx|\d\d)", status):
            raise click.BadParameter(f"{status!r} is no status: write 404, or 5xx")
    return statuses


def _slow(context: click.Context, parameter: click.Parameter, value: str) -> float:
    try:
        return duration_s(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.option("--control", metavar="PATH", required=True, help="The --control of the server.")
@click.option("--slow", metavar="DURATION", default="0s", callback=_slow,
              help="Only those that took at least so long: 100ms, 1.5s.")
@click.option("--status", metavar="STATUS", callback=_statuses,
              help="Only those answered so: 404, 5xx, or a comma list.")
@click.option("--route", metavar="ROUTE", help="Only those of this route: /users/{id}.")
@click.option("--under-way", is_flag=True, help="Show what runs now, and end.")
@click.option("--last", type=click.IntRange(0), default=10, show_default=True,
              help="Begin with so many that have ended.")
@click.option("--json", "json_lines", is_flag=True, help="A line of JSON for each.")
def tail(*, control: str, slow: float, status: tuple[str, ...], route: str | None,
         under_way: bool, last: int, json_lines: bool) -> None:
    """Print the requests of a server with workers as they end.

    Each with its status, how long it took, its handler and the sending of its answer. A worker
    remembers its last 256 requests; what went by between two looks is counted on stderr.
    """
    show = as_json if json_lines else as_text
    wanted = Filter(slow, status, route)
    try:
        for line in (_now if under_way else _follow)(control, wanted, show, last):
            print(line, flush=True)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:     # whoever read has enough
        forget_output()
    except FastserveError as error:
        print(f"fastserve: {error}", file=sys.stderr)
        sys.exit(1)


def _now(
    control: str, wanted: Filter, show: Callable[[RequestRecord], str], last: int
) -> Iterator[str]:
    found = [
        record for records in Watched(control).all_requests() for record in records
        if record.under_way and wanted.wants(record)]
    yield from map(show, sorted(found, key=lambda record: -record.age_s))


def _follow(
    control: str, wanted: Filter, show: Callable[[RequestRecord], str], last: int
) -> Iterator[str]:
    watched = Watched(control)
    follower = Follower(last)
    while not reader_left():
        ended, missed = follower.look(watched.all_requests(), wanted.wants)
        yield from map(show, ended)
        for pid, count in missed.items():
            print(f"worker {pid}: {count} requests went by between two looks", file=sys.stderr)
        time.sleep(LOOK_S)
