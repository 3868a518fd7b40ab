"""One turn: a server, or the C floor, under one load; CPU per request of all its processes."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.growth.axes import Load, Server
from benchmarks.growth.limits import addresses
from benchmarks.native import build
from benchmarks.probe import WrongAnswer, ask
from benchmarks.process import Running, ServerFailed, free_port

PATIENCE_S = 60     # for a server to come up, and for a client to open its connections
FAILURES = (ServerFailed, WrongAnswer, subprocess.SubprocessError, OSError, ValueError)


@dataclass(frozen=True)
class Settings:
    """What holds for all turns; cores are numbers of processors."""

    seconds: float
    warmup: float
    server_core: int
    client_core: int


class Bench:
    """Starts servers and loads them. A context manager: the server last started stays for the
    next turns that want the same one, and ends when another is wanted or with the bench.
    """

    def __init__(self, settings: Settings, cache: Path) -> None:
        self.settings = settings
        self.flood = build("growth/flood", cache)
        self.floor = build("floor", cache)
        self.cores = sorted(os.sched_getaffinity(0))
        self._stack = contextlib.ExitStack()
        self._server: Server | None = None
        self._running: Running | None = None
        self._ready_s = 0.0
        self._answers: dict[tuple[Server, bytes], bytes] = {}

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server that runs, if one does."""
        self._server = self._running = None
        self._stack.close()

    def turn(self, server: Server, load: Load) -> dict[str, Any]:
        """Measure fastserve; ServerFailed where it does not answer as it should."""
        running = self._started(server, load)
        with self._explained(running):
            ask_checked(running.port, load)
            found = self._flood(running, server, load)
        return {**found, "ready_s": self._ready_s}

    def answer(self, server: Server, load: Load) -> bytes:
        """What the server answers to the first request now: head and body, checked."""
        running = self._started(server, load)
        with self._explained(running):
            return ask_checked(running.port, load)

    def aside(self, server: Server, load: Load, request: bytes) -> bytes:
        """The body of the answer to another request to the server of the load."""
        running = self._started(server, load)
        with self._explained(running):
            return ask(running.port, request, PATIENCE_S).body

    def floor_turn(self, server: Server, load: Load) -> dict[str, Any]:
        """Measure the floor, with the bytes that `server` answers to the load."""
        answer = self._answers.get((server, load.first))
        if answer is None:
            answer = self.answer(server, load)
            self._answers[server, load.first] = answer
        port = free_port()
        with tempfile.NamedTemporaryFile() as response:
            response.write(answer)
            response.flush()
            command = [*self._place(server), self.floor, str(port), response.name,
                       str(load.request_size), "keep"]
            if server.workers:
                command.append(str(server.workers))
            with Running(command, port, self.settings.server_core) as running, (
                    self._explained(running)):
                running.wait_ready(_case(load))
                return self._flood(running, server, load)

    @contextlib.contextmanager
    def _explained(self, running: Running) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            raise ServerFailed(running.explain(error)) from error

    def _started(self, server: Server, load: Load) -> Running:
        if self._running is not None and self._server == server:
            return self._running
        self.stop()
        port = free_port()
        variables = [f"{name}={value}" for name, value in server.environment]
        workers = ["--workers", str(server.workers)] if server.workers else []
        command = [
            *self._place(server), "env", *variables, sys.executable, "-m", "fastserve", "run",
            server.app, "--port", str(port), *workers]
        running = self._stack.enter_context(Running(command, port, self.settings.server_core))
        with self._explained(running):
            running.wait_ready(_case(load), PATIENCE_S)
            self._ready_s = time.monotonic() - running.started
            _wait_for_workers(running, server.workers)
        self._server, self._running = server, running
        return running

    def _place(self, server: Server) -> list[str]:
        # Running pins to the server's core, and this takes it back.
        return ["taskset", "-c", ",".join(map(str, self.cores))] if server.everywhere else []

    def _flood(self, running: Running, server: Server, load: Load) -> dict[str, Any]:
        clients = max(1, len(self.cores) // 2) if server.everywhere else 1
        cores = self.cores if server.everywhere else [self.settings.client_core]
        settings = self.settings
        with tempfile.NamedTemporaryFile() as requests:
            requests.write(load.requests)
            requests.flush()
            command = [
                "taskset", "-c", ",".join(map(str, cores)), self.flood, str(running.port),
                requests.name, str(load.count), str(-(-load.connections // clients)),
                str(load.depth), str(addresses(load.connections)), str(settings.warmup),
                str(settings.seconds), *map(str, running.pids())]
            parts = _run_all(command, clients, PATIENCE_S + settings.warmup + settings.seconds)
        return together(parts)


def ask_checked(port: int, load: Load) -> bytes:
    """The whole answer to the first request, once it is what it should be."""
    answer = ask(port, load.first, PATIENCE_S)
    answer.check(load.expect)
    return answer.raw


def _case(load: Load) -> Case:
    return Case("", "", load.first, load.expect)


def _wait_for_workers(running: Running, workers: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while running.log_text().count("listening on") < workers:
        if running.process.poll() is not None or time.monotonic() > deadline:
            raise ServerFailed("not every worker serves")
        time.sleep(0.02)


def _run_all(command: list[str], clients: int, seconds: float) -> list[dict[str, Any]]:
    """Run so many clients at once; what each of them reports."""
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
            for _ in range(clients)]
        try:
            done = [process.communicate(timeout=seconds) for process in started]
        finally:
            for process in started:
                process.kill()
    for process, (_, error) in zip(started, done, strict=True):
        if process.returncode:
            raise ServerFailed(error.strip()[-300:] or f"the client: exit {process.returncode}")
    return [dict(json.loads(out)) for out, _ in done]


def together(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """One figure of clients that ran side by side, each in a window of its own."""
    if unlike := sum(part["mismatched"] for part in parts):
        raise ServerFailed(f"{unlike} answers were not like the first")
    rate = sum(part["answered"] / part["wall_ns"] for part in parts) * 1e9
    busy = sum(part["cpu_ns"] / part["wall_ns"] for part in parts) / len(parts)
    return {
        "cpu_us": busy / rate * 1e6,
        "rps": rate,
        "server_busy": busy,
        "client_busy": max(part["client_cpu_ns"] / part["wall_ns"] for part in parts),
        "answered": sum(part["answered"] for part in parts),
        "total": sum(part["total"] for part in parts),
    }
