"""Clients of every kind in one process: each asks again and again, and forgets nothing.

A request carries a number that its answer must bear, so a mixed-up answer cannot pass. Each kind
of client asks at a given rate, or again as soon as it is answered. Nothing here retries.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import os
import re
import select
import socket
import time
import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.faults.seen import STALE, Seen

IN, OUT = select.EPOLLIN, select.EPOLLOUT
AFTER_FAILURE_S = 0.02      # a client whose server is gone does not spin
PIECES, BETWEEN_PIECES_S = 4, 0.02
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
CLOSES = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)
CLASSES = {errno.ECONNREFUSED: "refused", errno.ENOENT: "refused", errno.ECONNRESET: "reset",
           errno.EPIPE: "reset", errno.ETIMEDOUT: "timeout"}

Address = tuple[str, int] | str     # a TCP address, or the path of a unix socket


@dataclass(frozen=True)
class Kind:
    """How some clients ask.

    rate_hz:  requests of all of them in a second; 0: each asks as soon as it has its answer
    kept:     they keep their connections
    depth:    requests that are sent at once
    takes_s:  how long the handler sleeps
    upload:   bytes of body, sent in pieces with pauses between them
    """

    name: str
    clients: int
    rate_hz: float = 0.0
    kept: bool = False
    depth: int = 1
    takes_s: float = 0.0
    upload: int = 0

    def request(self, number: int) -> bytes:
        """What is sent, but for the body."""
        close = b"" if self.kept else b"Connection: close\r\n"
        if self.upload:
            return b"POST /up/%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%s\r\n" % (
                number, self.upload, close)
        path = b"/slow/%d/%d" % (1000 * self.takes_s, number) if self.takes_s \
            else b"/echo/%d" % number
        return b"GET %s HTTP/1.1\r\nHost: a\r\n%s\r\n" % (path, close)

    def body(self, number: int) -> bytes:
        """What is uploaded: other bytes for each number."""
        return (b"%016d" % number) * (self.upload // 16 + 1)

    def expected(self, number: int) -> bytes:
        """The body of its answer."""
        if self.upload:
            return b"%d %d" % (number, zlib.crc32(self.body(number)[:self.upload]))
        return b"%d" % number

    @property
    def lasts_s(self) -> float:
        """What is not the server's: the pauses of an upload, the sleep of a handler."""
        return self.takes_s + (BETWEEN_PIECES_S * PIECES if self.upload else 0)


MIXED = (
    Kind("new", 16, 400), Kind("kept", 16, 400, kept=True),
    Kind("pipelined", 4, 40, kept=True, depth=8), Kind("slow", 6, takes_s=1.0),
    Kind("upload", 4, 20, upload=100_000),
)
HEAVY = (
    Kind("new", 32, 2000), Kind("kept", 32, 2000, kept=True),
    Kind("pipelined", 8, 50, kept=True, depth=8), Kind("slow", 64, takes_s=2.0),
    Kind("upload", 8, 50, upload=100_000),
)


@dataclass(frozen=True)
class Load:
    """What is asked, and until when.

    seconds:     at most
    until:       a file: when it exists, they end
    patience_s:  how long a client waits for an answer
    """

    address: Address
    kinds: tuple[Kind, ...]
    seconds: float = 3600.0
    until: str = ""
    patience_s: float = 30.0


@dataclass(eq=False)
class _Client:
    """One client: idle, or with requests under way."""

    kind: Kind
    seen: Seen
    sock: socket.socket | None = None
    used: bool = False              # its connection has brought an answer
    told: bool = False              # that the server closes it
    interest: int = 0
    begun_s: float = 0.0
    pause: int = 0                  # the one that it waits for the end of
    out: bytes = b""
    pieces: deque[bytes] = field(default_factory=deque)
    asked: deque[int] = field(default_factory=deque)
    received: bytes = b""

    @property
    def port(self) -> int:
        try:
            name = self.sock.getsockname() if self.sock is not None else None
        except OSError:
            return 0
        return name[1] if isinstance(name, tuple) else 0


class _Clients:
    """All of them, and the loop that drives them."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.seen = {kind.name: Seen() for kind in load.kinds}
        self.poll = select.epoll()
        self.by_number: dict[int, _Client] = {}
        self.busy: set[_Client] = set()
        self.idle = {kind.name: deque(
            _Client(kind, self.seen[kind.name]) for _ in range(kind.clients))
            for kind in load.kinds}
        # Clients that go on by themselves, if they wait for nothing else by then.
        self.due: list[tuple[float, int, _Client]] = []
        self.order = itertools.count(1)
        self.numbers = itertools.count(1)
        self.ending = False

    def run(self) -> dict[str, Seen]:
        begun = time.monotonic()
        next_s = {kind.name: begun for kind in self.load.kinds}
        look_s = begun
        while True:
            now = time.monotonic()
            if now >= look_s:
                look_s = now + 0.05
                self.ending = self.ending or now - begun > self.load.seconds or (
                    bool(self.load.until) and os.path.exists(self.load.until))
                self.give_up(now)
            while self.due and self.due[0][0] <= now:
                _, pause, client = heapq.heappop(self.due)
                if client.pause == pause:
                    self.go_on(client)
            if self.ending and not self.busy:
                break
            if not self.ending:
                for kind in self.load.kinds:
                    next_s[kind.name] = self.begin_some(kind, next_s[kind.name], now)
            for number, events in self.poll.poll(0.002):
                known = self.by_number.get(number)
                if known is not None:
                    self.on_events(known, events)
        for client in list(self.by_number.values()):
            self.close(client)
        self.poll.close()
        return self.seen

    def begin_some(self, kind: Kind, next_s: float, now: float) -> float:
        """Let those begin whose time has come; when the next one may."""
        idle = self.idle[kind.name]
        while idle and (not kind.rate_hz or next_s <= now):
            next_s += 1 / kind.rate_hz if kind.rate_hz else 0
            self.begin(idle.popleft())
        return max(next_s, now - 0.1)   # what the clients could not keep up with is let go

    def begin(self, client: _Client) -> None:
        """Ask, on the connection that there is or on a new one."""
        kind = client.kind
        client.begun_s, client.pause = time.monotonic(), 0
        client.asked.extend(next(self.numbers) for _ in range(kind.depth))
        client.received = b""
        client.out = b"".join(map(kind.request, client.asked))
        if kind.upload:
            body, size = kind.body(client.asked[0]), -(-kind.upload // PIECES)
            client.pieces.extend(
                body[at:min(at + size, kind.upload)] for at in range(0, kind.upload, size))
        client.seen.attempted += kind.depth
        self.busy.add(client)
        if client.sock is None:
            self.connect(client)
        else:
            self.write(client)

    def connect(self, client: _Client) -> None:
        """Open a connection, and write."""
        address = self.load.address
        unix = isinstance(address, str)
        sock = client.sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        sock.setblocking(False)
        if not unix:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.used = client.told = False
        code = sock.connect_ex(address)
        if code == errno.EAGAIN:    # the queue of a unix socket is full: come again
            sock.close()
            client.sock = None
            self.later(client, 0.005)
        elif code not in (0, errno.EINPROGRESS):
            self.fail(client, CLASSES.get(code, errno.errorcode.get(code, "error")))
        else:
            client.interest = 0
            self.by_number[sock.fileno()] = client
            self.poll.register(sock, 0)
            self.write(client)

    def later(self, client: _Client, seconds: float) -> None:
        client.pause = next(self.order)
        heapq.heappush(self.due, (time.monotonic() + seconds, client.pause, client))

    def go_on(self, client: _Client) -> None:
        """Its pause is over: for a connection, a piece of an upload, or the next request."""
        if client not in self.busy:
            self.idle[client.kind.name].append(client)
        elif client.sock is None:
            self.connect(client)
        elif client.pieces and not client.out:
            client.out = client.pieces.popleft()
            self.write(client)

    def write(self, client: _Client) -> None:
        """Send what can be sent now."""
        assert client.sock is not None
        try:
            while client.out:
                client.out = client.out[client.sock.send(client.out):]
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                # What came before the reset counts: an early answer, or the end.
                self.read(client, error)
                return
        if not client.out and client.pieces:
            self.later(client, BETWEEN_PIECES_S)
        self.wish(client, IN | OUT if client.out else IN)

    def wish(self, client: _Client, interest: int) -> None:
        assert client.sock is not None
        if client.interest != interest:
            client.interest = interest
            self.poll.modify(client.sock, interest)

    def on_events(self, client: _Client, events: int) -> None:
        if events & ~OUT:
            self.read(client)
        elif client in self.busy:
            self.write(client)

    def read(self, client: _Client, written: OSError | None = None) -> None:
        """Take what has come; `written` is why nothing can be sent any more."""
        assert client.sock is not None
        try:
            data = client.sock.recv(262144)
        except BlockingIOError:
            if written is None:
                return
            data, error = b"", written
        except OSError as now:
            data, error = b"", now
        else:
            error = written
        if client not in self.busy:     # an idle connection, which ends
            client.seen.closed += not client.told
            self.close(client)
        elif data:
            client.received += data
            self.take_answers(client)
        elif error is not None and error.errno:
            self.fail(client, CLASSES.get(error.errno, errno.errorcode[error.errno].lower()))
        else:
            self.fail(client, "eof")

    def take_answers(self, client: _Client) -> None:
        """Every whole answer that is there, in the order of the requests."""
        while client.asked:
            head, blank, rest = client.received.partition(b"\r\n\r\n")
            if not blank:
                return
            head += b"\r\n"
            length = LENGTH.search(head)
            size = int(length[1]) if length else 0
            if len(rest) < size:
                return
            number = client.asked.popleft()
            client.received = rest[size:]
            client.told = client.told or CLOSES.search(head) is not None
            self.judge(client, number, head[9:12], rest[:size])
            client.used = True
            if client.told and client.asked:
                self.fail(client, STALE)
                return
        self.finish(client)

    def judge(self, client: _Client, number: int, status: bytes, body: bytes) -> None:
        """One answer."""
        now = time.monotonic()
        kind = client.kind
        if status == b"200" and body == kind.expected(number):
            late = now - client.begun_s - kind.lasts_s > 1
            client.seen.answer(client.port if late else 0, client.begun_s, now, kind.lasts_s)
        else:
            how = "5xx" if status[:1] == b"5" else "wrong"
            client.seen.fail(how, client.port, client.begun_s, now)

    def finish(self, client: _Client) -> None:
        """All is answered: the connection stays, or the server is let close it first."""
        client.pause = 0
        client.pieces.clear()
        client.out = b""
        self.busy.discard(client)
        if client.told:
            self.release(client)
        else:
            self.wish(client, IN)
        self.idle[client.kind.name].append(client)

    def release(self, client: _Client) -> None:
        """Leave a connection that the server closes: who closes first has the port for longer."""
        assert client.sock is not None
        last = _Client(client.kind, Seen(), client.sock, told=True, interest=client.interest)
        self.by_number[client.sock.fileno()] = last
        client.sock = None
        self.wish(last, IN)

    def fail(self, client: _Client, how: str) -> None:
        """What is under way fails, all of it, and the connection with it."""
        now, port = time.monotonic(), client.port
        if client.used and how in ("reset", "eof") and len(client.asked) == client.kind.depth \
                and not client.received:
            how = STALE
        for _ in client.asked:
            client.seen.fail(how, port, client.begun_s, now)
        client.asked.clear()
        client.pieces.clear()
        client.out = b""
        self.busy.discard(client)
        self.close(client)
        if how == STALE:
            self.idle[client.kind.name].append(client)
        else:
            self.later(client, AFTER_FAILURE_S)

    def close(self, client: _Client) -> None:
        if client.sock is not None:
            self.by_number.pop(client.sock.fileno(), None)
            client.sock.close()
            client.sock = None

    def give_up(self, now: float) -> None:
        """On those that have waited for too long."""
        for client in [one for one in self.busy if now - one.begun_s
                       > self.load.patience_s + one.kind.lasts_s]:
            self.fail(client, "timeout")


def run(load: Load) -> dict[str, Seen]:
    """Ask until the end; what was seen, by the name of the kind."""
    return _Clients(load).run()


def only(kinds: Sequence[Kind], *names: str) -> tuple[Kind, ...]:
    """Some of the kinds."""
    return tuple(kind for kind in kinds if kind.name in names)
