"""Bytes per second of a long upload: to a handler that counts them, and to a bare protocol.

    python -m benchmarks upload

Both are read by one worker on one core, from one connection on the other; they take turns, each
turn on a new process. The bare one runs on uvloop and throws every piece away: what is left is
the kernel, the loop, and a `bytes` for each read. The ratio is the median over the rounds of
bytes per CPU second of the server; that of the wall clock stands beside it.
"""

import argparse
import os
import socket
import sys
import time
from dataclasses import dataclass
from statistics import median

from benchmarks.measure import pin_harness
from benchmarks.process import Running, free_port
from benchmarks.servers import PEERS

PIECE = bytes(256 * 1024)
COMMANDS = {
    "bare": [str(PEERS / "bare_upload.py"), "{port}"],
    "fastserve": ["-m", "fastserve", "run", "examples/upload.py:app", "--port", "{port}"],
}


@dataclass(frozen=True)
class Turn:
    """What one turn took: `size` bytes, in seconds of the wall clock and of the server's CPU."""

    size: int
    wall_s: float
    cpu_s: float


def upload(options: argparse.Namespace) -> int:
    """Measure and print; the exit status of the command."""
    pin_harness(options.client_core)
    size = options.megabytes << 20
    turns: dict[str, list[Turn]] = {name: [] for name in COMMANDS}
    for round_ in range(options.rounds):
        for name in sorted(COMMANDS, reverse=bool(round_ % 2)):
            turn = _turn(options, name, size)
            turns[name].append(turn)
            print(f"{name:10} {turn.size / turn.wall_s / 1e6:8.0f} MB/s "
                  f"{turn.size / turn.cpu_s / 1e6:8.0f} MB per CPU second", flush=True)
    pairs = list(zip(turns["fastserve"], turns["bare"], strict=True))
    cpu = sorted(bare.cpu_s / ours.cpu_s for ours, bare in pairs)
    wall = sorted(bare.wall_s / ours.wall_s for ours, bare in pairs)
    for what, ratios in (("CPU", cpu), ("wall clock", wall)):
        print(f"fastserve / bare, by {what}: {median(ratios):.2f} "
              f"({ratios[0]:.2f} to {ratios[-1]:.2f})")
    return 0


def _turn(options: argparse.Namespace, name: str, size: int) -> Turn:
    port = free_port()
    command = [part.format(port=port) for part in COMMANDS[name]]
    with Running([options.python, *command], port, options.server_core) as running:
        _send(_connect(port), 1 << 20)
        before, begun = _cpu_s(running), time.monotonic()
        for _ in range(options.uploads):
            _send(_connect(port), size)
        wall_s = time.monotonic() - begun
        return Turn(size * options.uploads, wall_s, _cpu_s(running) - before)


def _cpu_s(running: Running) -> float:
    # The kernel's clock of a process, as clock_getcpuclockid(3) names it: exact.
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in running.pids())


def _connect(port: int, patience_s: float = 20.0) -> socket.socket:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 60)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _send(connection: socket.socket, size: int) -> None:
    with connection:
        connection.sendall(
            b"POST /count HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n" % size)
        piece = memoryview(PIECE)
        left = size
        while left:
            left -= connection.send(piece[:left])
        answer = b""
        while not answer.endswith(b"}"):
            more = connection.recv(4096)
            if not more:
                break
            answer += more
        if not answer.endswith(b'{"bytes":%d}' % size):
            raise SystemExit(f"a wrong answer: {answer!r}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be said behind `upload`."""
    parser.add_argument("--python", default=sys.executable, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--uploads", type=int, default=20, help="in each turn (%(default)s)")
    parser.add_argument("--megabytes", type=int, default=100, help="of each (%(default)s)")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=min(1, (os.cpu_count() or 1) - 1))
