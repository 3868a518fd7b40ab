"""The faults that servers of every make are put through, and what came of them.

Each act takes a running server and how often to do it, breaks it under load, and gives an Outcome.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.faults.load import MIXED, Kind, only
from tests.faults.seen import Ended, Seen
from tests.faults.serving import Serving, Watching, is_running, under_load, until

REPLACED_S = 60.0
SETTLE_S = 0.6     # so that nobody counts as one that dies again and again


@dataclass
class Outcome:
    """What one act did to the clients.

    unexplained:  failures of others than the clients of a victim
    victims:      failures of a victim's clients, those that could ask again among them
    stale:        requests on connections that were closed at that moment, by no kill
    notes:        what else was found
    longest:      the longest wait by the kind of client
    """

    seen: Seen
    unexplained: list[Ended] = field(default_factory=list)
    victims: int = 0
    stale: int = 0
    notes: dict[str, Any] = field(default_factory=dict)
    longest: dict[str, float] = field(default_factory=dict)

    @property
    def by_class(self) -> Counter[str]:
        """The unexplained failures."""
        return Counter(ended.how for ended in self.unexplained)

    def longest_s(self, but: frozenset[int] = frozenset()) -> float:
        """The longest wait, but for the clients of some ports."""
        if not but:
            return self.seen.longest_s
        return max((one.took_s for one in self.seen.late if one.port not in but), default=0.0)


def outcome(server: Serving, watching: Watching, **notes: Any) -> Outcome:
    """Tell the clients of victims from the others."""
    seen = watching.all
    explained = [ended for ended in seen.ended
                 if any(kill.explains(ended) for kill in server.kills)]
    known = set(map(id, explained))
    left = [ended for ended in seen.ended if id(ended) not in known]
    unexplained = [ended for ended in left if ended.how != "stale"]
    longest = {name: one.longest_s for name, one in watching.tally.items()}
    return Outcome(seen, unexplained, len(explained), len(left) - len(unexplained), notes, longest)


def kill_workers(server: Serving, times: int, kinds: tuple[Kind, ...] = MIXED) -> Outcome:
    """kill -9 of the oldest worker, as soon as all serve again."""
    took_s = 0.0
    with under_load(server, kinds) as watching:
        for _ in range(times):
            victim = server.workers()[0]
            server.kill(victim)
            with contextlib.suppress(TimeoutError):
                took_s = max(took_s, until(
                    lambda victim=victim: server.replaced([victim]) or not server.alive,
                    REPLACED_S / 4))
            time.sleep(SETTLE_S)
            if not server.alive or len(server.workers()) < server.count:
                break
    state = "all" if len(server.workers()) >= server.count else \
        f"{len(server.workers())} of {server.count}" if server.alive else "the server ended"
    return outcome(server, watching, kills=len(server.kills), workers=state,
                   replaced_s=took_s)


def stop_a_worker(server: Serving, times: int, kinds: tuple[Kind, ...] = MIXED) -> Outcome:
    """SIGSTOP of a worker for 4 s, `times` times; whose requests it has read wait for it."""
    with under_load(server, kinds) as watching:
        held: set[int] = set()
        for _ in range(times):
            victim = server.workers()[0]
            os.kill(victim, signal.SIGSTOP)
            begun_s = time.monotonic()
            time.sleep(0.1)
            held |= server.held_by(victim)
            while time.monotonic() < begun_s + 4:
                time.sleep(0.05)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGCONT)
            time.sleep(1.5)
    found = outcome(server, watching)
    found.notes["others_waited_s"] = found.longest_s(frozenset(held))
    return found


def reload(server: Serving, times: int, kinds: tuple[Kind, ...] = MIXED) -> Outcome:
    """HUP, as soon as the one before is done."""
    took_s, fewest, done = 0.0, server.count, 0
    with under_load(server, kinds) as watching:
        for _ in range(times):
            old = server.workers()
            server.process.send_signal(signal.SIGHUP)

            def is_done(old: list[int] = old) -> bool:
                nonlocal fewest
                fewest = min(fewest, len(server.workers()))
                return server.replaced(old) and not any(map(is_running, old))

            try:
                took_s = max(took_s, until(is_done, REPLACED_S))
            except TimeoutError:
                break
            done += 1
        time.sleep(SETTLE_S)
    return outcome(server, watching, reloads=f"{done} of {times}", took_s=took_s, fewest=fewest)


def scale(server: Serving, times: int, kinds: tuple[Kind, ...] = MIXED) -> Outcome:
    """TTIN twice and TTOU twice, each once the one before is done."""
    done = "all"
    with under_load(server, kinds) as watching:
        for number, wanted in itertools.chain.from_iterable(itertools.repeat((
            (signal.SIGTTIN, 3), (signal.SIGTTIN, 4), (signal.SIGTTOU, 3), (signal.SIGTTOU, 2),
        ), times)):
            server.process.send_signal(number)
            try:
                until(lambda wanted=wanted: len(server.workers()) == wanted, REPLACED_S / 2)
            except TimeoutError:
                done = f"{len(server.workers())} workers where {wanted} were asked for"
                break
    return outcome(server, watching, workers=done)


def kill_parent(server: Serving, times: int, kinds: tuple[Kind, ...] = MIXED) -> Outcome:
    """kill -9 of the parent, then the same command line again, until it serves; `times` is 1.

    Requests that find nobody are refused, and no fault of anybody; those that were read are not.
    """
    assert times == 1
    old = server.workers()
    with under_load(server, (*only(kinds, "slow"), Kind("kept", 8, 100, kept=True))) as watching:
        server.process.kill()
        server.process.wait()
        begun_s = time.monotonic()
        with contextlib.suppress(TimeoutError):
            until(lambda: not any(map(is_running, old)), 8)
        gone_s = time.monotonic() - begun_s
        left = sum(map(is_running, old))
    found = outcome(server, watching)
    found.unexplained = [one for one in found.unexplained if one.how != "refused"]
    found.notes["workers"] = f"gone after {gone_s:.1f} s" if not left else \
        f"{left} still there after 8 s"
    again = server.start()
    restarted = "fails"
    with contextlib.suppress(TimeoutError):
        until(lambda: bool(set(server.workers()) - set(old)) or again.poll() is not None, 8)
        restarted = "fails" if again.poll() is not None else \
            "serves" if not left else "serves beside the old ones"
    found.notes["restart"] = restarted
    again.terminate()
    with contextlib.suppress(Exception):
        again.wait(5)
    again.kill()
    again.wait()
    for pid in (*old, *server.workers()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found


def terminate(server: Serving, times: int, kinds: tuple[Kind, ...] = MIXED) -> Outcome:
    """TERM under load; who comes after the end is refused, and that is as it must be."""
    assert times == 1
    idle = server.connect(5)
    idle.sendall(b"GET /echo/1 HTTP/1.1\r\nHost: a\r\n\r\n")
    idle.recv(1000)
    with under_load(server, kinds, lead_s=1.5) as watching:
        begun_s = time.monotonic()
        server.process.terminate()
        with contextlib.suppress(Exception):
            server.process.wait(45)
        took_s = time.monotonic() - begun_s
    idle.close()
    found = outcome(server, watching, exit_s=took_s, status=server.process.poll())
    found.unexplained = [one for one in found.unexplained if one.how != "refused"]
    return found


def roll_out(server: Serving, delay_s: float, pool: int, lead_s: float) -> Outcome:
    """TERM while a balancer goes on sending for most of the drain delay, over a kept pool."""
    kinds = (Kind("kept", pool, kept=True), *only(MIXED, "upload", "slow"))
    with under_load(server, kinds, lead_s=lead_s) as watching:
        server.process.terminate()
        begun_s = time.monotonic()
        time.sleep(delay_s * 5 / 6 - 0.2)
    found = outcome(server, watching)
    with contextlib.suppress(Exception):
        server.process.wait(delay_s + 40)
    found.notes["exit_s"] = time.monotonic() - begun_s
    found.notes["status"] = server.process.poll()
    return found


def send(client: socket.socket, path: str, close: bool = False) -> None:
    """Ask on a connection."""
    extra = "Connection: close\r\n" if close else ""
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n{extra}\r\n".encode())


def answer(client: socket.socket) -> bytes:
    """One answer of known length, head and body."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = client.recv(65536)
        if not data:
            return received
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    while len(body) < length:
        data = client.recv(65536)
        if not data:
            break
        body += data
    return head + b"\r\n\r\n" + body
