"""One turn: one server, freshly started, measured on one case."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.native import build
from benchmarks.probe import ask
from benchmarks.process import Running, ServerFailed, free_port, pss_bytes
from benchmarks.servers import FLOOR, PEERS, ROOT, Server
from benchmarks.venvs import Venvs

Turn = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What holds for all turns of a run."""

    seconds: float = 5.0
    warmup: float = 1.0
    connections: int = 64
    idle_connections: int = 8000
    server_core: int = 0
    client_core: int = 1


def program(server: Server, python: str, port: int) -> list[str]:
    """The command that starts a server with its interpreter."""
    first, *rest = (part.format(port=port, peers=PEERS) for part in server.command.split())
    if first.startswith("bin/"):
        # Through its Python: a script's first line breaks when the path is long.
        return [python, str(Path(python).parent / first.removeprefix("bin/")), *rest]
    return [python, first, *rest]


def costs(got: dict[str, Any]) -> dict[str, float]:
    """Per request, from what a client counted; something must have been answered."""
    # Ticks are coarse: they only split the exact total into user and system.
    ticks = got["user_ticks"] + got["system_ticks"]
    per_request = got["cpu_ns"] / got["answered"] / 1000
    user = per_request * got["user_ticks"] / ticks if ticks else 0.0
    return {
        "cpu_us": per_request,
        "user_us": user,
        "system_us": max(0.0, per_request - user),
        "rps": got["answered"] / got["wall_ns"] * 1e9,
        "server_busy": got["cpu_ns"] / got["wall_ns"],
        "client_busy": got["client_cpu_ns"] / got["wall_ns"],
    }


class Bench:
    """Starts servers and measures them; remembers the bytes that the floor has to send."""

    def __init__(self, settings: Settings, venvs: Venvs) -> None:
        self.settings = settings
        self.venvs = venvs
        self.load = build("load", venvs.cache)
        self.floor = build("floor", venvs.cache)
        self.responses: dict[str, bytes] = {}  # by case

    def command(self, server: Server, case: Case, port: int, scratch: Path) -> list[str]:
        if server.name == FLOOR:
            response = scratch / "response"
            response.write_bytes(self.responses[case.name])
            mode = "keep" if case.mode == "keep" else "close"
            return [self.floor, str(port), str(response), str(len(case.request)), mode]
        return program(server, self.venvs.interpreter(server), port)

    def turn(self, server: Server, case: Case) -> Turn:
        """Measure; the keys of what comes back depend on the kind of the case."""
        if case.kind == "import":
            return self._import(server)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            (folder / "request").write_bytes(case.request)
            port = free_port()
            command = self.command(server, case, port, folder)
            with Running(command, port, self.settings.server_core) as running:
                kinds: dict[str, Callable[[Running, Case, Path], Turn]] = {
                    "load": self._load,
                    "idle": self._idle,
                    "start-up": self._start_up,
                }
                try:
                    return kinds[case.kind](running, case, folder)
                except (ServerFailed, OSError, subprocess.SubprocessError) as error:
                    raise ServerFailed(running.explain(error)) from error

    def answer(self, server: Server, case: Case) -> bytes:
        """What the server sends for the case, byte for byte."""
        port = free_port()
        command = self.command(server, case, port, Path())
        with Running(command, port, self.settings.server_core) as running:
            try:
                return running.wait_ready(case).raw
            except ServerFailed as error:
                raise ServerFailed(running.explain(error)) from error

    def _load(self, running: Running, case: Case, folder: Path) -> Turn:
        running.wait_ready(case)
        s = self.settings
        pids = [str(pid) for pid in running.pids()]
        connections = str(case.connections or s.connections)
        seconds = [str(s.warmup), str(s.seconds)]
        arguments = [case.mode, str(running.port), str(folder / "request"), connections]
        got = self._client([*arguments, str(case.depth), *seconds, *pids], s.warmup + s.seconds)
        if not got["answered"]:
            raise ServerFailed("answered nothing under load")
        if got["mismatched"]:
            raise ServerFailed(f"{got['mismatched']} answers were not like the first")
        return {**got, **costs(got)}

    def _client(self, arguments: list[str], seconds: float) -> dict[str, Any]:
        done = subprocess.run(
            ["taskset", "-c", str(self.settings.client_core), self.load, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + 60,
        )
        if done.returncode:
            raise ServerFailed(done.stderr.strip()[-300:] or f"client exit {done.returncode}")
        return dict(json.loads(done.stdout))

    def _idle(self, running: Running, case: Case, folder: Path) -> Turn:
        running.wait_ready(case)
        for _ in range(200):  # what the first requests allocate once is not the connections'
            ask(running.port, case.request)
        time.sleep(0.5)
        before = pss_bytes(running.pids())
        count = self.settings.idle_connections
        client = subprocess.Popen(
            [
                *("taskset", "-c", str(self.settings.client_core), self.load, "idle"),
                *(str(running.port), str(folder / "request"), str(count)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert client.stdout is not None
            if client.stdout.readline().strip() != "ready":
                raise ServerFailed(client.communicate(timeout=10)[1].strip()[-300:])
            time.sleep(1)
            after = pss_bytes(running.pids())
            out, _ = client.communicate("", timeout=10)
        finally:
            client.kill()
            client.wait()
        closed = json.loads(out)["closed_by_server"]
        if closed:
            raise ServerFailed(f"closed {closed} of {count} idle connections")
        return {
            "connections": count,
            "base_bytes": before,
            "bytes_per_connection": (after - before) / count,
        }

    def _start_up(self, running: Running, case: Case, folder: Path) -> Turn:
        running.wait_ready(case, pause=0.001)
        return {"seconds": time.monotonic() - running.started}

    def _import(self, server: Server) -> Turn:
        python = self.venvs.interpreter(server)
        program = server.imports
        command = [python, "-X", "importtime", "-c", program]
        for _ in range(2):  # the first one warms the file cache and writes the .pyc files
            done = subprocess.run(
                ["taskset", "-c", str(self.settings.server_core), *command],
                capture_output=True,
                text=True,
                check=False,
                cwd=ROOT,
            )
        if done.returncode:
            raise ServerFailed(done.stderr.strip().splitlines()[-1])
        return {"seconds": _import_seconds(done.stderr), "program": program}


def _import_seconds(report: str) -> float:
    """Sum the top-level entries of `-X importtime` behind those of Python's own start."""
    total = 0
    for line in report.splitlines():
        if not line.startswith("import time:") or "[us]" in line:
            continue
        _, cumulative, name = line.removeprefix("import time:").split("|")
        if name == " site":
            total = 0
        elif not name.startswith("  "):
            total += int(cumulative)
    return total / 1e6


def pin_harness(core: int) -> None:
    """Keep this process, too, away from the server's core."""
    os.sched_setaffinity(0, {core})
