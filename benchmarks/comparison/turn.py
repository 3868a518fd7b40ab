"""One turn: an entry freshly started, at its limit and then at fixed rates, on one test.

First a closed loop tells what a request costs and how many there can be: that is the entry's own
maximum, of this very turn, since a host drifts. Then an open loop asks at half of it, at 80 % of
it, and at one rate that is the same for all entries. Memory is read before the load and under it.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.comparison.suite import SuiteTest
from benchmarks.measure import costs, program
from benchmarks.native import build
from benchmarks.process import Running, ServerFailed, free_port, pss_bytes
from benchmarks.servers import FLOOR, PEERS, ROOT, Server
from benchmarks.venvs import Venvs

SHARES = {"half": 0.5, "most": 0.8}  # of the entry's own maximum
EQUAL = "equal"
ENOUGH = 1000   # requests from which p99.9 is more than the slowest one
LONGEST = 4     # times the window may be stretched to get as many
PACED_WARMUP_S = 0.2  # the entry is warm by then; its new connections are not
FAULTS = ("errors", "bad_status", "mismatched", "dropped")
PATH = (PEERS / "techempower", PEERS, ROOT / "benchmarks" / "techempower")


@dataclass(frozen=True)
class Settings:
    """What holds for all turns of a comparison; seconds are of each window."""

    seconds: float = 1.0
    warmup: float = 0.3
    latency_seconds: float = 0.8
    connections: int = 64
    pool_size: int = 4
    server_core: int = 0
    client_core: int = 1


@dataclass(frozen=True)
class Database:
    """Where it is, and the process id of its first process, whose CPU is told apart."""

    url: str
    postmaster: int = 0


class Stage:
    """Starts entries, which find the database in DATABASE_URL, and loads them."""

    def __init__(self, settings: Settings, venvs: Venvs, database: Database) -> None:
        self.settings = settings
        self.venvs = venvs
        self.database = database
        self.pace = build("pace", venvs.cache)
        self.floor = build("floor", venvs.cache)
        self.responses: dict[str, bytes] = {}  # by test; what the floor sends
        self._folder = tempfile.TemporaryDirectory()

    @contextmanager
    def running(self, entry: Server, test: SuiteTest) -> Iterator[Running]:
        """The entry on a free port, once it answers the test.

        Raises ServerFailed, with what it said last, where it does not come up or fails inside.
        """
        port = free_port()
        command = self._command(entry, test, port)
        with Running(command, port, self.settings.server_core, self._variables()) as running:
            try:
                running.wait_answer(test.request, test.judge)
                yield running
            except (ServerFailed, OSError, subprocess.SubprocessError) as error:
                raise ServerFailed(running.explain(error)) from error

    def saturate(
        self, running: Running, test: SuiteTest, warmup: float, seconds: float
    ) -> dict[str, Any]:
        """The closed loop: costs of a request, requests a second, memory."""
        memory = [_memory(running)]
        client = self._client(running, test, 0, warmup, seconds)
        time.sleep(warmup * 0.8)
        memory.append(_memory(running))
        got = self._result(client, warmup + seconds)
        memory.append(_memory(running))
        return {**got, **_faults(got), **costs(got), "base_bytes": memory[0],
                "peak_bytes": max(memory),
                "database_us": got["database_ns"] / got["answered"] / 1000}

    def at_rate(self, running: Running, test: SuiteTest, rate_per_s: float) -> dict[str, Any]:
        """The open loop: latency from when each request was due."""
        s = self.settings
        seconds = window_s(s.latency_seconds, rate_per_s)
        client = self._client(running, test, rate_per_s, min(s.warmup, PACED_WARMUP_S), seconds)
        got = self._result(client, seconds)
        cost = costs(got)["cpu_us"]
        return {**got, **_faults(got), "rate_per_s": rate_per_s, "seconds": seconds, "cpu_us": cost}

    def turn(self, entry: Server, test: SuiteTest, equal_rate_per_s: float) -> dict[str, Any]:
        """The whole turn; pipelined requests have no latency of their own.

        Nor has an entry at the equal rate that it could not keep: it would only queue.
        """
        with self.running(entry, test) as running:
            s = self.settings
            turn = self.saturate(running, test, s.warmup, s.seconds)
            if test.depth == 1 and entry.name != FLOOR:
                rates = {name: share * turn["rps"] for name, share in SHARES.items()}
                if equal_rate_per_s < turn["rps"]:
                    rates[EQUAL] = equal_rate_per_s
                turn["paced"] = {
                    name: self.at_rate(running, test, rate) for name, rate in rates.items()}
            return turn

    def _command(self, entry: Server, test: SuiteTest, port: int) -> list[str]:
        if entry.name != FLOOR:
            return program(entry, self.venvs.interpreter(entry), port)
        response = self._file("response", self.responses[test.name])
        return [self.floor, str(port), response, str(len(test.request)), "keep"]

    def _file(self, name: str, content: bytes) -> str:
        path = Path(self._folder.name, name)
        path.write_bytes(content)
        return str(path)

    def _variables(self) -> Mapping[str, str]:
        return {
            "PYTHONPATH": os.pathsep.join(map(str, PATH)),
            "POOL_SIZE": str(self.settings.pool_size),
            "DATABASE_URL": self.database.url,
        }

    def _client(
        self, running: Running, test: SuiteTest, rate_per_s: float, warmup: float, seconds: float
    ) -> subprocess.Popen[str]:
        postmaster = self.database.postmaster if test.database else 0
        return subprocess.Popen(
            ["taskset", "-c", str(self.settings.client_core), self.pace, str(running.port),
             self._file("request", test.request), str(self.settings.connections),
             str(test.depth), f"{rate_per_s:.1f}", str(warmup), f"{seconds:.3f}", test.check,
             str(postmaster), *map(str, running.pids())],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def _result(self, client: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
        try:
            out, err = client.communicate(timeout=seconds + 60)
        finally:
            client.kill()
        if client.returncode:
            raise ServerFailed(err.strip()[-300:] or f"client exit {client.returncode}")
        got = dict(json.loads(out))
        if not got["answered"]:
            raise ServerFailed(f"answered nothing under load: {_faults(got)['faults']} failures")
        return got


def window_s(seconds: float, rate_per_s: float) -> float:
    """How long a rate is kept: long enough for ENOUGH requests, within reason."""
    return max(seconds, min(LONGEST * seconds, ENOUGH / rate_per_s))


def _memory(running: Running) -> int:
    """PSS of all its processes; 0 where one ends just now."""
    try:
        return pss_bytes(running.pids())
    except OSError:
        return 0


def _faults(got: Mapping[str, Any]) -> dict[str, int]:
    return {"faults": sum(got[kind] for kind in FAULTS)}
