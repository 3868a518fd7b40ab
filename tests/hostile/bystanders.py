"""Clients that mean no harm, in a process of their own, so that an attack cannot slow them."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.hostile.swarm import Client, Script, Swarm, get, percentile, whole_reply


@dataclass
class Seen:
    """What the bystanders saw: latencies of the answered, and how the others ended."""

    latencies_s: list[float] = field(default_factory=list)
    worst: tuple[float, float] = (0.0, 0.0)     # the longest, and when it began
    outcomes: Counter[str] = field(default_factory=Counter)

    def told_worst(self, since_s: float) -> str:
        """The longest wait, and when it was."""
        took, begun = self.worst
        return f"{1000 * took:.1f}, after {begun - since_s:.1f} s"

    @property
    def p99_ms(self) -> float:
        return 1000 * percentile(self.latencies_s, 0.99)


def keep_asking(
    address: tuple[str, int], clients: int, seconds: float, pause_s: float, path: str = "/"
) -> Seen:
    """Keep-alive clients that ask, wait for the answer, pause."""
    seen = Seen()
    swarm = Swarm()
    end = time.monotonic() + seconds

    def script(client: Client) -> Script:
        if not (yield from client.opened()):
            return
        while time.monotonic() < end:
            begun = time.monotonic()
            client.received.clear()
            if not (yield from client.send(get(path))):
                return
            if not (yield from client.read(whole_reply, 30)):
                return
            seen.outcomes[str(client.status)] += 1
            took = time.monotonic() - begun
            seen.latencies_s.append(took)
            seen.worst = max(seen.worst, (took, begun))
            if not (yield from client.pause(pause_s)):
                return
        client.outcome = "done"

    for _ in range(clients):
        client = Client(address)
        swarm.add(client, script(client))
    swarm.run(seconds + 30)
    for outcome, count in swarm.outcomes().items():
        if outcome != "done":
            seen.outcomes[outcome] += count
    return seen


def arrive_anew(address: tuple[str, int], count: int, pause_s: float, path: str = "/") -> Seen:
    """One client after the other, each on a connection of its own."""
    seen = Seen()
    for _ in range(count):
        begun = time.monotonic()
        received = b""
        try:
            with socket.create_connection(address, 30) as client:
                client.sendall(get(path, "Connection: close"))
                while data := client.recv(65536):
                    received += data
        except OSError as error:
            seen.outcomes[type(error).__name__] += 1
        else:
            seen.outcomes[received[9:12].decode() or "eof"] += 1
            seen.latencies_s.append(time.monotonic() - begun)
        time.sleep(pause_s)
    return seen


@contextlib.contextmanager
def elsewhere(count: int = 1) -> Iterator[Callable[..., Future[Any]]]:
    """A function that runs others in processes of their own: start(function, *arguments)."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context) as pool:
        for started in [pool.submit(time.sleep, 0.2) for _ in range(count)]:
            started.result()
        yield pool.submit
