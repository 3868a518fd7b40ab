"""Thousands of clients in one process: each is a generator, one epoll set drives them.

A script yields what it waits for, `(events, seconds)`, and is sent the events that came: 0
when the time was over first. Whatever the peer does is an outcome, never an exception:
"refused", "reset", "eof", "timeout", "done" or the status of a response.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Generator
from typing import Any

IN, OUT = select.EPOLLIN | select.EPOLLRDHUP, select.EPOLLOUT
Script = Generator[tuple[int, float], int, Any]


class Client:
    """One connection and what became of it.

    outcome:  how it ended; begun_s, ended_s: when, by time.monotonic()
    """

    def __init__(self, address: tuple[str, int], receive_buffer: int | None = None) -> None:
        self.sock = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.begun_s = self.ended_s = time.monotonic()
        self.outcome = ""
        self.received = bytearray()
        self.sent = 0
        self.notes: dict[str, Any] = {}
        code = self.sock.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            self.outcome = "refused"

    @property
    def lasted_s(self) -> float:
        return self.ended_s - self.begun_s

    @property
    def status(self) -> int:
        """Of the last response that came, 0 without one."""
        at = self.received.rfind(b"HTTP/1.1 ")
        return int(self.received[at + 9 : at + 12] or 0) if at >= 0 else 0

    def opened(self, timeout_s: float = 30) -> Generator[tuple[int, float], int, bool]:
        """Wait for the connection; whether it came."""
        events = yield OUT, timeout_s
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not events or code:
            self.outcome = "timeout" if not events else "refused"
            return False
        return True

    def send(self, data: bytes, timeout_s: float = 30) -> Generator[tuple[int, float], int, bool]:
        """Send it all; whether that could be done."""
        view = memoryview(data)
        while view:
            try:
                count = self.sock.send(view)
            except BlockingIOError:
                if not (yield OUT, timeout_s):
                    self.outcome = "timeout"
                    return False
                continue
            except OSError:
                self.outcome = "reset"
                return False
            self.sent += count
            view = view[count:]
        return True

    def read_some(self, size: int = 65536) -> bool:
        """Take what is there; False at the end, which is then the outcome."""
        try:
            data = self.sock.recv(size)
        except BlockingIOError:
            return True
        except OSError:
            self.outcome = "reset"
            return False
        self.received += data
        if not data:
            self.outcome = "eof"
        return bool(data)

    def read(
        self, until: Callable[[bytearray], bool], timeout_s: float
    ) -> Generator[tuple[int, float], int, bool]:
        """Read until something has come; False if it ended or the time was over before."""
        deadline = time.monotonic() + timeout_s
        while not until(self.received):
            if not (yield IN, deadline - time.monotonic()):
                self.outcome = "timeout"
                return False
            if not self.read_some():
                return False
        return True

    def pause(self, seconds: float) -> Generator[tuple[int, float], int, bool]:
        """Do nothing for a while; False when the peer ended it in the meantime.

        What it sends is read.
        """
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if (yield IN, left) and not self.read_some():
                return False
        return True


class Swarm:
    """Clients and their scripts, run together."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.running: dict[int, tuple[Client, Script]] = {}
        self.due: dict[int, float] = {}
        self.timers: list[tuple[float, int, int]] = []
        self.order = itertools.count()
        self.clients: list[Client] = []

    def add(self, client: Client, script: Script) -> Client:
        """Begin a client's script."""
        self.clients.append(client)
        if client.outcome:
            client.sock.close()
            return client
        fd = client.sock.fileno()
        self.epoll.register(fd, 0)
        self.running[fd] = client, script
        self._step(fd, None)
        return client

    def run(self, seconds: float) -> None:
        """Until all scripts have ended, or the time is over: the rest end as "open"."""
        deadline = time.monotonic() + seconds
        while self.running and (now := time.monotonic()) < deadline:
            self.turn(min(deadline - now, 0.05))
        for fd in list(self.running):
            self.running[fd][0].outcome = "open"
            self._end(fd)
        self.epoll.close()

    def turn(self, timeout_s: float) -> None:
        """Serve what is ready or due."""
        now = time.monotonic()
        if self.timers:
            timeout_s = max(0.0, min(timeout_s, self.timers[0][0] - now))
        for fd, events in self.epoll.poll(timeout_s, 4096):
            if fd in self.running:
                self._step(fd, events)
        now = time.monotonic()
        while self.timers and self.timers[0][0] <= now:
            when, _, fd = heapq.heappop(self.timers)
            if self.due.get(fd) == when:
                self._step(fd, 0)

    def outcomes(self) -> Counter[str]:
        return Counter(client.outcome for client in self.clients)

    def _step(self, fd: int, events: int | None) -> None:
        _, script = self.running[fd]
        try:
            mask, seconds = script.send(events)  # type: ignore[arg-type]
        except StopIteration:
            self._end(fd)
            return
        self.due[fd] = when = time.monotonic() + max(0.0, seconds)
        heapq.heappush(self.timers, (when, next(self.order), fd))
        self.epoll.modify(fd, mask | select.EPOLLONESHOT)

    def _end(self, fd: int) -> None:
        client, _ = self.running.pop(fd)
        self.due.pop(fd, None)
        client.ended_s = time.monotonic()
        if not client.outcome:
            client.outcome = "done"
        self.epoll.unregister(fd)
        client.sock.close()


def whole_reply(received: bytearray) -> bool:
    """Whether a response with a Content-Length has come whole."""
    return bool(first_reply(received))


def first_reply(received: bytes | bytearray) -> tuple[int, bytes, bytes] | None:
    """Status, head and body of the first response, if it is whole."""
    head, end, rest = bytes(received).partition(b"\r\n\r\n")
    if not end:
        return None
    at = head.lower().find(b"\ncontent-length:")
    size = int(head[at + 16 :].partition(b"\r")[0]) if at >= 0 else 0
    if len(rest) < size:
        return None
    return int(head[9:12]), head, rest[:size]


def replies(received: bytes | bytearray) -> list[tuple[int, bytes, bytes]]:
    """All whole responses."""
    found = []
    left = bytes(received)
    while (reply := first_reply(left)) is not None:
        found.append(reply)
        left = left[len(reply[1]) + 4 + len(reply[2]) :]
    return found


def get(path: str, *fields: str) -> bytes:
    """A GET request."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *fields, "", ""]).encode()


def percentile(values: list[float], share: float) -> float:
    """E.g. share 0.99; nan of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")
