"""The run: rounds in which the servers take turns, the floor between them.

A noisy host drifts. So every server is measured once in each round, the order is reversed in every
other round, and the floor runs again after every few servers: a server's ratio is taken to the
floor turns just before and just after it.
"""

import datetime
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.cases import TEXT, Case
from benchmarks.machine import describe_machine
from benchmarks.measure import Bench, Turn
from benchmarks.probe import WrongAnswer
from benchmarks.process import ServerFailed
from benchmarks.servers import FLOOR, REFERENCE, SERVERS, Server
from benchmarks.venvs import Unavailable, describe

FLOOR_EVERY = 4  # servers between two turns of the floor
FAILURES = (ServerFailed, Unavailable, WrongAnswer, subprocess.SubprocessError, OSError, ValueError)


class Run:
    """One run and its growing record, written after every case so that a crash loses little."""

    def __init__(self, bench: Bench, cases: list[Case], servers: list[Server], output: Path):
        self.bench = bench
        self.cases = cases
        self.servers = [s for s in servers if s.name != FLOOR]
        self.with_floor = len(self.servers) < len(servers)
        self.output = output
        self.failed: set[tuple[str, str]] = set()
        self.record: dict[str, Any] = {
            "schema": 1,
            "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "command": f"python -m benchmarks {shlex.join(sys.argv[1:])}",
            "machine": describe_machine(),
            "settings": vars(bench.settings),
            "cases": {c.name: _describe_case(c) for c in cases},
            "servers": {},
            "turns": [],
            "failures": [],
        }

    def execute(self, rounds: int) -> None:
        self.record["settings"] = {**self.record["settings"], "rounds": rounds}
        self._install()
        for case in self.cases:
            self._learn_response(case)
        self._save()
        for number in range(rounds):
            for case in self.cases:
                for server in self._order(case, number):
                    self._turn(server, case, number)
                self._save()

    def _install(self) -> None:
        """Make every environment first: a peer that cannot be had is no reason to stop."""
        for server in tuple(self.servers):
            try:
                python = self.bench.venvs.interpreter(server)
            except FAILURES as error:
                self.servers.remove(server)
                self._fail(server, None, None, error)
                continue
            about = {"title": server.title, "note": server.note, "skips": server.skips}
            build = describe(python, server.package)
            command = server.command.replace("{peers}", "benchmarks/peers")
            self.record["servers"][server.name] = {**about, "command": command, **build}
        if self.with_floor:
            floor = SERVERS[FLOOR]
            self.record["servers"][FLOOR] = {"title": floor.title, "note": floor.note}

    def _learn_response(self, case: Case) -> None:
        """Record what the reference answers; the floor sends those bytes."""
        if case.kind == "import" or not self.with_floor:
            return
        learned = "from fastserve"
        try:
            raw = self.bench.answer(SERVERS[REFERENCE], case)
        except FAILURES as error:
            raw, learned = _assumed_response(case), f"assumed: {error}"
        self.bench.responses[case.name] = raw
        described = self.record["cases"][case.name]
        described["response"] = raw.decode("latin-1")
        described["response_learned"] = learned

    def _order(self, case: Case, number: int) -> Iterator[Server]:
        able = [s for s in self.servers if case.name not in s.skips]
        floor = self.with_floor and case.name not in SERVERS[FLOOR].skips
        for index, server in enumerate(reversed(able) if number % 2 else able):
            if floor and index % FLOOR_EVERY == 0:
                yield SERVERS[FLOOR]
            yield server
        if floor:
            yield SERVERS[FLOOR]

    def _turn(self, server: Server, case: Case, number: int) -> None:
        if (server.name, case.name) in self.failed:
            return
        try:
            turn = self.bench.turn(server, case)
        except FAILURES as error:
            self.failed.add((server.name, case.name))
            self._fail(server, case, number, error)
            return
        head = {"round": number, "case": case.name, "server": server.name}
        self.record["turns"].append({**head, **turn})
        self.bench.venvs.say(f"round {number + 1}  {case.name:20} {server.name:18} {_line(turn)}")

    def _fail(
        self, server: Server, case: Case | None, number: int | None, error: Exception
    ) -> None:
        where = case.name if case else "every case"
        self.record["failures"].append(
            {"server": server.name, "case": where, "round": number, "reason": str(error)}
        )
        self.bench.venvs.say(f"FAILED  {where:20} {server.name:18} {error}")

    def _save(self) -> None:
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.output.write_text(json.dumps(self.record, indent=1, ensure_ascii=False) + "\n")


def _describe_case(case: Case) -> dict[str, Any]:
    return {
        "title": case.title,
        "kind": case.kind,
        "mode": case.mode,
        "depth": case.depth,
        "request": case.request.decode(),
    }


def _assumed_response(case: Case) -> bytes:
    """What the reference would answer, when it cannot be asked."""
    text = isinstance(case.expect, str)
    body = TEXT if text else json.dumps(case.expect, separators=(",", ":"), ensure_ascii=False)
    kind = "text/plain; charset=utf-8" if text else "application/json"
    closing = "Connection: close\r\n" if case.mode == "new" else ""
    head = (
        "HTTP/1.1 200 OK\r\nServer: fastserve\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
        f"{closing}Content-Type: {kind}\r\nContent-Length: {len(body.encode())}\r\n\r\n"
    )
    return head.encode() + body.encode()


def _line(turn: Turn) -> str:
    if "cpu_us" in turn:
        errors = f"  {turn['errors']} ERRORS" if turn["errors"] else ""
        return (
            f"{turn['cpu_us']:7.2f} us ({turn['user_us']:.2f} + {turn['system_us']:.2f})"
            f" {turn['rps']:9.0f}/s  busy {turn['server_busy']:.0%}{errors}"
        )
    if "bytes_per_connection" in turn:
        return f"{turn['bytes_per_connection'] / 1024:7.2f} KiB"
    return f"{turn['seconds'] * 1000:7.1f} ms"
