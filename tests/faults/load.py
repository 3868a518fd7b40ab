"""Clients that count: each asks on a new connection, again and again, and forgets nothing."""

from __future__ import annotations

import errno
import select
import socket
import time
from collections import Counter
from dataclasses import dataclass, field

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
PATIENCE_S = 30.0


@dataclass
class Seen:
    """What the clients of one load saw.

    failed:     by class: refused, reset, "eof" before a whole answer, or a status
    longest_s:  the longest wait of any
    """

    attempted: int = 0
    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0

    def told(self) -> str:
        """In one line."""
        how = ", ".join(f"{name} {count}" for name, count in sorted(self.failed.items()))
        return (f"{self.attempted} attempted, {self.answered} answered, failed: {how or 'none'}, "
                f"longest wait {1000 * self.longest_s:.0f} ms")


class _Asking:
    """One request under way."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.begun_s = time.monotonic()
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent = False
        self.received = b""
        self.sock.connect_ex(address)

    def go_on(self) -> str | None:
        """How it ended: "answered" or a class of failure; None while it has not."""
        try:
            if not self.sent:
                code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    raise OSError(code, "")
                self.sock.send(REQUEST)
                self.sent = True
                return None
            data = self.sock.recv(65536)
        except BlockingIOError:
            return None
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, "error").lower()
        self.received += data
        if data:
            return None
        status = self.received[9:12].decode()
        return "answered" if status == "200" else status or "eof"


def ask(address: tuple[str, int], clients: int, seconds: float) -> Seen:
    """Have so many requests under way, each on a connection of its own, for so long."""
    seen = Seen()
    poll = select.epoll()
    asking: dict[int, _Asking] = {}
    end = time.monotonic() + seconds
    while asking or time.monotonic() < end:
        while len(asking) < clients and time.monotonic() < end:
            one = _Asking(address)
            seen.attempted += 1
            asking[one.sock.fileno()] = one
            poll.register(one.sock, select.EPOLLOUT)
        for number, _ in poll.poll(0.2):
            one = asking[number]
            before = one.sent
            ended = one.go_on()
            if ended is None:
                if one.sent and not before:
                    poll.modify(number, select.EPOLLIN)
            else:
                _count(seen, one, ended)
                one.sock.close()
                del asking[number]
        for number, one in list(asking.items()):
            if time.monotonic() - one.begun_s > PATIENCE_S:
                _count(seen, one, "timeout")
                one.sock.close()
                del asking[number]
    poll.close()
    return seen


def _count(seen: Seen, one: _Asking, ended: str) -> None:
    seen.longest_s = max(seen.longest_s, time.monotonic() - one.begun_s)
    if ended == "answered":
        seen.answered += 1
    else:
        seen.failed[ended] += 1
