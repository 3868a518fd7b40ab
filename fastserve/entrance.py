"""What stands between accepting a connection and its first byte: PROXY header, then TLS.

Each takes `handshake_timeout_s` at most, and no more than `max_handshakes` connections are
at it: beyond that the oldest is closed, so that those who wait on purpose lose to those
who come. What goes wrong here is a stranger's doing and costs one debug line, of which
there are few a second.

The header is looked at before it is taken, and taken to the byte: what follows belongs to
TLS or to HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastserve._speedups.messages import Address
from fastserve.config import Config
from fastserve.networks import Networks
from fastserve.proxy_protocol import V2_FIXED_BYTES, V2_REST_BYTES, NoHeader, Source, measure, parse
from fastserve.tls import Certificates

if TYPE_CHECKING:
    from fastserve._speedups.engine import Engine

HEADER_BYTES = V2_FIXED_BYTES + V2_REST_BYTES
LINES_PER_SECOND = 10

logger = logging.getLogger("fastserve")


@dataclass(frozen=True)
class ProxyRule:
    """From whom PROXY headers are read.

    required:  they must send one, and nobody else may connect; otherwise they may send one,
               and whoever else connects is served as they are
    """

    networks: Networks
    required: bool


class Entrance:
    """Takes accepted sockets, and gives the engine connections.

    certificates:  for TLS; None: plain TCP
    rule:          for the PROXY protocol; None: off
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        engine: Engine,
        config: Config,
        certificates: Certificates | None,
    ) -> None:
        self.loop = loop
        self.engine = engine
        self.certificates = certificates
        self.rule = None
        if config.proxy_protocol != "off":
            self.rule = ProxyRule(
                Networks(config.proxy_allow_ips), config.proxy_protocol == "required")
        self.timeout_s = config.handshake_timeout_s
        self.limit = config.max_handshakes
        self.waiting: dict[Opening, None] = {}  # the oldest first
        self._second = 0.0
        self._lines = 0

    def way_in(self, *, plain: bool = False) -> Callable[[socket.socket], None] | None:
        """What takes the accepted sockets of a listener; None: the engine accepts them itself.

        plain:  connections of this listener speak plain HTTP, whatever certificates there are
        """
        if plain or self.certificates is None:
            return None if self.rule is None else self.accept_plain
        return self.accept

    def accept(self, sock: socket.socket) -> None:
        """Take a connected, non-blocking socket, to give it to the engine or to close it."""
        self._take(sock, self.certificates)

    def accept_plain(self, sock: socket.socket) -> None:
        """The same for a connection that is not to be encrypted."""
        self._take(sock, None)

    def _take(self, sock: socket.socket, certificates: Certificates | None) -> None:
        opening = Opening(self, sock, certificates)
        self.waiting[opening] = None
        self.engine.opening.add(opening)
        if len(self.waiting) > self.limit:
            next(iter(self.waiting)).drop("too many others came after it")
        try:
            opening.begin()
        except OSError as error:    # no memory or descriptors to wait with
            opening.drop(error)

    def close(self) -> None:
        """Close every connection that has not come through."""
        for opening in list(self.waiting):
            opening.drop("the server stops")

    def left(self, opening: Opening) -> None:
        """An opening is over, well or not."""
        self.waiting.pop(opening, None)
        self.engine.opening_ended(opening)

    def complain(self, peer: Any, reason: object) -> None:
        """Tell of a connection that did not open, unless many were told of in this second."""
        if not logger.isEnabledFor(logging.DEBUG):
            return
        now = time.monotonic()
        if now - self._second >= 1.0:
            self._second, self._lines = now, 0
        self._lines += 1
        if self._lines <= LINES_PER_SECOND:
            logger.debug("a connection from %s did not open: %s", peer, reason)


class Opening:
    """One connection on its way in."""

    def __init__(
        self, entrance: Entrance, sock: socket.socket, certificates: Certificates | None
    ) -> None:
        self.entrance = entrance
        self.certificates = certificates
        self.sock: Any = sock       # None once it is a transport's
        self.header = b""
        self.peer: Any = None
        self.reading = False
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[Any] | None = None
        self.over = False

    def begin(self) -> None:
        rule = self.entrance.rule
        try:
            self.peer = self.sock.getpeername()
        except OSError as error:
            self.drop(error)    # gone already
            return
        host = self.peer[0] if isinstance(self.peer, tuple) else ""
        if rule is None:
            self.enter(Source())
        elif host in rule.networks:
            self.reading = True
            self.entrance.loop.add_reader(self.sock.fileno(), self.on_readable)
            self.timer = self.entrance.loop.call_later(
                self.entrance.timeout_s, self.drop, "no PROXY header in time")
        elif rule.required:
            self.drop("it is none of proxy_allow_ips")
        else:
            self.enter(Source())

    def on_readable(self) -> None:
        try:
            source = self.read_header()
        except (BlockingIOError, InterruptedError):
            return
        except NoHeader as error:
            rule = self.entrance.rule
            if rule is not None and rule.required:
                self.drop(f"no PROXY header: {error}")
            else:
                self.enter(Source())
        except (OSError, EOFError) as error:
            self.drop(error)
        else:
            if source is not None:
                self.enter(source)

    def read_header(self) -> Source | None:
        """Take what is there of the header; what it says once it is whole.

        Raises NoHeader before anything was taken that is no part of one.
        """
        there = self.sock.recv(HEADER_BYTES, socket.MSG_PEEK)
        if not there:
            raise EOFError("it was closed inside the PROXY header")
        size, whole = measure(self.header + there)
        self.header += self.sock.recv(size - len(self.header))
        if not whole:
            return None
        header, self.header = self.header, b""
        try:
            return parse(header)
        except NoHeader as error:
            raise EOFError(f"a bad PROXY header: {error}") from None

    def enter(self, source: Source) -> None:
        """Go on to TLS, or to the engine."""
        self.stop_reading()
        entrance = self.entrance
        if self.certificates is None:
            self.leave()
            try:
                entrance.engine.adopt(
                    self.sock, _address(source), encrypted=source.encrypted, received=self.header)
            except OSError as error:
                entrance.complain(self.peer, error)
        elif self.header:
            self.drop("neither a PROXY header nor TLS")
        else:
            self.task = entrance.loop.create_task(self.shake_hands(self.certificates, source))
            self.task.add_done_callback(self.opened)

    async def shake_hands(self, certificates: Certificates, source: Source) -> None:
        entrance, peer = self.entrance, _address(source)
        sock, self.sock = self.sock, None
        await entrance.loop.connect_accepted_socket(
            lambda: entrance.engine.protocol(peer, encrypted=source.encrypted),
            sock,
            ssl=certificates.context,
            ssl_handshake_timeout=entrance.timeout_s,
        )

    def opened(self, task: asyncio.Task[Any]) -> None:
        """The handshake is over."""
        if not task.cancelled() and task.exception() is not None:
            self.entrance.complain(self.peer, task.exception())
        self.leave()

    def drop(self, reason: object) -> None:
        """Close the connection, wherever it is on its way."""
        if self.over:
            return
        self.entrance.complain(self.peer, reason)
        self.stop_reading()
        self.leave()
        if self.sock is not None:
            self.sock.close()
        if self.task is not None:
            self.task.cancel()

    def stop_reading(self) -> None:
        if self.reading:
            self.reading = False
            self.entrance.loop.remove_reader(self.sock.fileno())
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def leave(self) -> None:
        if not self.over:
            self.over = True
            self.entrance.left(self)


def _address(source: Source) -> Address | None:
    return None if source.peer is None else Address(*source.peer)
