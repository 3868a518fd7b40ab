"""Static files beside nginx: CPU per request of both on the same directory, in turns.

nginx runs one worker with `sendfile on` and keep-alive, once as it comes and once with
`open_file_cache`. Every server is freshly started for every turn and measured by the same
client; the order is reversed in every other round, and a ratio is taken within its round.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import BROWSER_HEAD
from benchmarks.native import build
from benchmarks.probe import ask
from benchmarks.process import Running, ServerFailed, free_port

KIB = 1024
SIZES = {"1k": KIB, "100k": 100 * KIB, "10m": 10 * KIB * KIB}
FASTSERVE = "fastserve"
NGINX = "nginx"
NGINX_CACHED = "nginx, open_file_cache"

APP = """
from fastserve import App

app = App()
app.static("/static", {files!r})


@app.get("/plaintext")
def plaintext():
    return "Hello, World!"
"""

NGINX_CONFIGURATION = """
daemon off;
worker_processes 1;
error_log stderr crit;
pid {scratch}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    types {{ }}
    default_type application/octet-stream;
    access_log off;
    sendfile on;
    keepalive_timeout 75s;
    keepalive_requests 1000000000;
    {cache}
    client_body_temp_path {scratch}/body;
    proxy_temp_path {scratch}/proxy;
    fastcgi_temp_path {scratch}/fastcgi;
    uwsgi_temp_path {scratch}/uwsgi;
    scgi_temp_path {scratch}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location /static/ {{ alias {files}/; }}
        location = /plaintext {{ default_type text/plain; return 200 "Hello, World!"; }}
    }}
}}
"""
CACHE = "open_file_cache max=1000 inactive=60s; open_file_cache_valid 1s;"


@dataclass(frozen=True)
class Options:
    """What holds for all turns of a run; cores are numbers of processors."""

    rounds: int
    seconds: float
    warmup: float
    connections: int
    server_core: int
    client_core: int
    cases: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m benchmarks static`."""
    parser.add_argument("--cases", default="plaintext,304,1k,100k,10m")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured in each turn")
    parser.add_argument("--warmup", type=float, default=0.5, help="seconds before that")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write the turns as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table; 1 where a server failed."""
    names = ("rounds", "seconds", "warmup", "connections", "server_core", "client_core")
    cases = tuple(arguments.cases.split(","))
    if unknown := [case for case in cases if case not in ("plaintext", "304", *SIZES)]:
        print(f"{', '.join(unknown)} unknown; there are: plaintext, 304, {', '.join(SIZES)}")
        return 2
    options = Options(**{name: getattr(arguments, name) for name in names}, cases=cases)
    servers = [FASTSERVE]
    if shutil.which("nginx"):
        servers += [NGINX, NGINX_CACHED]
    else:
        print("nginx is not installed: fastserve alone")
    os.sched_setaffinity(0, {options.client_core})
    load = build("load", arguments.cache)
    turns: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        files = _make_files(Path(folder))
        for number in range(options.rounds):
            for case in cases:
                for server in reversed(servers) if number % 2 else servers:
                    turn = _turn(server, case, files, options, load)
                    turns.append({"round": number, "case": case, "server": server, **turn})
                    print(f"round {number + 1}  {case:10} {server:24} {turn['cpu_us']:9.2f} us",
                          file=sys.stderr)
    if arguments.output:
        record = {"options": vars(options), "turns": turns}
        arguments.output.write_text(json.dumps(record, indent=1) + "\n")
    print(_table(turns, cases, servers))
    return 0


def _make_files(folder: Path) -> Path:
    files = folder / "files"
    files.mkdir()
    for name, size in SIZES.items():
        (files / f"{name}.bin").write_bytes(os.urandom(size))
        os.utime(files / f"{name}.bin", (1_700_000_000, 1_700_000_000))
    return files


def _request(case: str, tag: str = "") -> bytes:
    path = {"plaintext": "/plaintext", "304": "/static/1k.bin"}.get(case, f"/static/{case}.bin")
    head = [f"GET {path} HTTP/1.1", *BROWSER_HEAD]
    if tag:
        head.append(f"If-None-Match: {tag}")
    return "\r\n".join((*head, "", "")).encode()


@contextmanager
def _started(server: str, files: Path, core: int) -> Iterator[Running]:
    port = free_port()
    with tempfile.TemporaryDirectory() as scratch:
        if server == FASTSERVE:
            (Path(scratch) / "static_app.py").write_text(APP.format(files=str(files)))
            command = [
                *(sys.executable, "-m", "fastserve", "run", "--app-dir", scratch),
                *("static_app:app", "--port", str(port)),
            ]
        else:
            configuration = Path(scratch) / "nginx.conf"
            cache = CACHE if server == NGINX_CACHED else ""
            configuration.write_text(NGINX_CONFIGURATION.format(
                scratch=scratch, port=port, files=files, cache=cache))
            command = ["nginx", "-p", scratch, "-c", str(configuration)]
        with Running(command, port, core) as running:
            yield running


def _turn(server: str, case: str, files: Path, options: Options, load: str) -> dict[str, Any]:
    with _started(server, files, options.server_core) as running:
        try:
            return _measure(running, case, options, load)
        except (ServerFailed, OSError, subprocess.SubprocessError) as error:
            raise ServerFailed(f"{server}, {case}: {running.explain(error)}") from error


def _measure(running: Running, case: str, options: Options, load: str) -> dict[str, Any]:
    answer = _first_answer(running, "1k" if case == "304" else case)
    request = _request(case, _etag(answer) if case == "304" else "")
    with tempfile.NamedTemporaryFile() as file:
        file.write(request)
        file.flush()
        done = subprocess.run(
            [
                *("taskset", "-c", str(options.client_core), load, "keep", str(running.port)),
                *(file.name, str(options.connections), "1"),
                *(str(options.warmup), str(options.seconds), *map(str, running.pids())),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=options.warmup + options.seconds + 60,
        )
    if done.returncode:
        raise ServerFailed(done.stderr.strip()[-300:])
    got = dict(json.loads(done.stdout))
    if not got["answered"] or got["mismatched"] or got["errors"]:
        raise ServerFailed(f"answered {got['answered']}, {got['errors']} errors, "
                           f"{got['mismatched']} unlike the first")
    return {**got, "cpu_us": got["cpu_ns"] / got["answered"] / 1000}


def _first_answer(running: Running, case: str) -> bytes:
    import time

    while True:
        if running.process.poll() is not None:
            raise ServerFailed("did not come up")
        try:
            answer = ask(running.port, _request(case))
        except OSError as error:
            if time.monotonic() - running.started > 20:
                raise ServerFailed(f"no answer ({error})") from error
            time.sleep(0.02)
        else:
            if answer.status != 200 or len(answer.body) != SIZES.get(case, len("Hello, World!")):
                raise ServerFailed(f"status {answer.status}, {len(answer.body)} bytes")
            return answer.raw


def _etag(raw: bytes) -> str:
    for line in raw.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n"):
        name, _, value = line.partition(": ")
        if name.lower() == "etag":
            return value
    raise ServerFailed("no ETag")


def _table(turns: list[dict[str, Any]], cases: tuple[str, ...], servers: list[str]) -> str:
    def cpu(server: str, case: str) -> list[float]:
        return [t["cpu_us"] for t in turns if (t["server"], t["case"]) == (server, case)]

    lines = [
        "CPU per request in microseconds: the median over the rounds; in brackets fastserve to it",
        "",
        f"| case | {' | '.join(servers)} |",
        f"|---|{'---:|' * len(servers)}",
    ]
    for case in cases:
        row = []
        for server in servers:
            ratios = [ours / theirs for ours, theirs in zip(
                cpu(FASTSERVE, case), cpu(server, case), strict=True)]
            figure = f"{statistics.median(cpu(server, case)):.2f}"
            row.append(figure if server == FASTSERVE else
                       f"{figure} ({statistics.median(ratios):.2f})")
        lines.append(f"| {case} | {' | '.join(row)} |")
    if "304" in cases and "plaintext" in cases:
        pairs = zip(cpu(FASTSERVE, "304"), cpu(FASTSERVE, "plaintext"), strict=True)
        ratio = statistics.median(cheap / plain for cheap, plain in pairs)
        lines += ["", f"A 304 costs fastserve {ratio:.2f} times a plaintext answer."]
    return "\n".join(lines)
