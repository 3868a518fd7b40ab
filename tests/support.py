"""What the wire tests stand on: connections to an app over any transport, without sleeping."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fastserve import App

QUIET_TURNS = 12  # turns of the loop without news, after which a real transport has settled


@dataclass
class Reply:
    """One response as a client reads it; header names in lower case, repeated ones joined."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes


def read_replies(data: bytes, methods: list[str] | None = None) -> tuple[list[Reply], bytes]:
    """Split what a server sent into responses; also what is left over.

    methods:  of the requests, in order; a HEAD has no body whatever its Content-Length says
    """
    replies: list[Reply] = []
    methods = list(methods or [])
    while b"\r\n\r\n" in data:
        head, _, rest = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        _, status, reason = lines[0].split(" ", 2)
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.partition(": ")
            known = headers.get(name.lower())
            headers[name.lower()] = value if known is None else f"{known}, {value}"
        size = int(headers.get("content-length", "0"))
        if int(status) < 200 or (methods and methods.pop(0) == "HEAD"):
            size = 0
        if len(rest) < size:
            break
        replies.append(Reply(int(status), reason, headers, rest[:size]))
        data = rest[size:]
    return replies, data


class FakeTransport(asyncio.Transport):
    """An asyncio transport that keeps what is written and does nothing by itself."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: Any) -> None:
        super().__init__({"peername": ("192.0.2.7", 4711)})
        self.loop = loop
        self.protocol = protocol
        self.writes: list[bytes] = []
        self.closed = self.aborted = self.ended = False
        self.reading = True

    def write(self, data: Any) -> None:
        assert not self.ended, "a write behind the FIN"
        assert not self.closed, "a write behind close()"
        self.writes.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def set_write_buffer_limits(self, high: Any = None, low: Any = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def get_protocol(self) -> Any:
        return self.protocol

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        assert self.reading, "paused twice"
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading, "resumed twice"
        self.reading = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.loop.call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.aborted = True
        self.close()


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Link:
    """One connection to an app; `kind` says over what."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def send(self, *pieces: bytes) -> None:
        """Send pieces, each as a read of its own, and let the server do all it will."""
        raise NotImplementedError

    def send_eof(self) -> None:
        """Half-close: nothing more will come from the client."""
        raise NotImplementedError

    def drop(self) -> None:
        """Vanish."""
        raise NotImplementedError

    @property
    def received(self) -> bytes:
        """All that the server sent."""
        raise NotImplementedError

    @property
    def received_bytes(self) -> int:
        """How much the server sent; unlike `received`, cheap to ask in every turn."""
        raise NotImplementedError

    @property
    def closed(self) -> bool:
        """Whether the server has sent its FIN or dropped the connection."""
        raise NotImplementedError

    def replies(self, *methods: str) -> list[Reply]:
        """The responses so far; everything received must be part of one."""
        replies, rest = read_replies(self.received, list(methods))
        assert rest == b"", rest
        return replies

    def reply(self, *methods: str) -> Reply:
        """The one response."""
        (reply,) = self.replies(*methods)
        return reply


class FakeLink(Link):
    """Over a FakeTransport: the protocol alone, nothing of the kernel's."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.protocol = bench.engine.protocol()
        self.transport = FakeTransport(bench.loop, self.protocol)
        self.protocol.connection_made(self.transport)

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.bench.loop.call_soon(self.protocol.data_received, piece)
        self.bench.turn()

    def send_eof(self) -> None:
        def eof() -> None:
            if not self.protocol.eof_received():
                self.transport.close()

        self.bench.loop.call_soon(eof)
        self.bench.turn()

    def drop(self) -> None:
        self.transport.closed = True
        self.bench.loop.call_soon(self.protocol.connection_lost, ConnectionResetError())
        self.bench.turn()

    @property
    def received(self) -> bytes:
        return b"".join(self.transport.writes)

    @property
    def received_bytes(self) -> int:
        return sum(map(len, self.transport.writes))

    @property
    def closed(self) -> bool:
        return self.transport.closed or self.transport.ended


class SocketLink(Link):
    """Over a real socket, to whatever the bench listens with."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.socket = socket.create_connection(bench.address, timeout=5)
        # Nagle would hold the second small piece back until the kernel acknowledges the first.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.buffer = bytearray()
        self._closed = False
        bench.links.append(self)
        bench.turn()

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            while piece:
                with contextlib.suppress(BlockingIOError):
                    piece = piece[self.socket.send(piece) :]
                self.bench.turn()
        self.bench.turn()

    def send_eof(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)
        self.bench.turn()

    def drop(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.socket.close()
        self._closed = True
        if self in self.bench.links:
            self.bench.links.remove(self)
        self.bench.turn()

    def poll(self) -> bool:
        """Read what is there; whether there was anything."""
        news = False
        while not self._closed:
            try:
                data = self.socket.recv(1 << 20)
            except BlockingIOError:
                break
            except ConnectionError:
                data = b""
            news = True
            self.buffer += data
            self._closed = not data
        return news

    @property
    def received(self) -> bytes:
        return bytes(self.buffer)

    @property
    def received_bytes(self) -> int:
        return len(self.buffer)

    @property
    def closed(self) -> bool:
        self.poll()
        return self._closed


class Bench:
    """An app on a loop of its own, and connections to it.

    kind:  "fake" (FakeTransport), "socket" (our raw transport), "reader" (the same without
           epoll, by loop.add_reader), "loop" (the event loop's transport)
    """

    def __init__(self, app: App, loop: asyncio.AbstractEventLoop, kind: str, **settings: Any):
        self.loop = loop
        self.kind = kind
        self.links: list[SocketLink] = []
        self.clock = Clock()
        settings.setdefault("clock", self.clock)
        self.engine = app.build_engine(loop, use_epoll=kind != "reader", **settings)
        self.listener: Any = None
        if kind != "fake":
            self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
            self.listener.setblocking(False)
            self.address = self.listener.getsockname()
            if kind == "loop":
                self.engine.listen_on_loop(self.listener)
            else:
                self.engine.listen(self.listener)

    def connect(self) -> Any:
        """A new connection."""
        return FakeLink(self) if self.kind == "fake" else SocketLink(self)

    def turn(self) -> None:
        """Let the loop work until nothing more happens by itself."""
        quiet = 0
        while quiet < QUIET_TURNS:
            self.loop.run_until_complete(asyncio.sleep(0))
            news = [link.poll() for link in self.links]  # every one, not only the first with news
            quiet = 0 if any(news) else quiet + 1

    def wait_for(self, condition: Callable[[], bool], turns: int = 20_000) -> None:
        """Turn until a condition holds."""
        for _ in range(turns):
            if condition():
                return
            self.turn()
        raise AssertionError("it did not come to pass")

    def close(self) -> None:
        """Drop everything."""
        for link in self.links:
            link.socket.close()
            link._closed = True
        self.engine.close()
        self.turn()
        if self.listener is not None:
            self.listener.close()


@contextlib.contextmanager
def running_loop(factory: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[Any]:
    """An event loop, closed behind."""
    loop = factory()
    try:
        yield loop
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def request(
    target: str = "/", *, method: str = "GET", body: bytes | None = None, **headers: str
) -> bytes:
    """A request as bytes; `_` in a header name stands for "-"."""
    lines = [f"{method} {target} HTTP/1.1", "Host: test"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b"")
