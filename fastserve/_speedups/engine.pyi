from collections.abc import Callable
from socket import socket
from typing import Any

from fastserve._speedups.messages import Address, Request
from fastserve._speedups.router import Router
from fastserve._speedups.scoreboard import Scoreboard

class Engine:
    """All that the connections of one worker share: routes, limits, buffers, the clock.

    loop:              the running (or to be run) event loop
    router:            the compiled routes
    on_error:          (request, exception) -> what to answer, or an awaitable of it; called when
                       a handler raises. Whatever it raises itself is a plain 500.
    on_report:         (request, exception): told of one that nobody can be answered for, since
                       its body has begun or the client left; it is in the log already
    app:               what request.app gives
    http:              "native" or "httptools"
    tasks:             "direct" or "asyncio"
    forwarded:         a fastserve.proxy.ForwardedFields, where proxies are trusted
    max_connections:   open at once, over any transport; 0 for any number
    when_full:         "wait" (in the kernel's queue) or "reject" (with a 503)
    board, journal:    who counts its requests and writes them down
    request_id_header: whose value is believed to be a request's id; "": none
    """

    draining: bool          # every response says "Connection: close"
    connections: int        # open connections
    requests_in_flight: int # begun and not yet answered
    requests_total: int
    connections_total: int
    bytes_in: int
    bytes_out: int
    shed_total: int
    opening: set[Any]       # what is accepted and no connection yet; whoever adds, ends it
    def __init__(
        self,
        loop: Any,
        router: Router,
        *,
        app: Any = ...,
        on_error: Callable[[Request | None, BaseException], Any] | None = ...,
        on_report: Callable[[Request | None, BaseException], None] | None = ...,
        http: str = ...,
        tasks: str = ...,
        server_header: str | None = ...,
        max_head_bytes: int = ...,
        max_field_bytes: int = ...,
        max_headers: int = ...,
        max_target_bytes: int = ...,
        max_body_bytes: int = ...,
        max_chunk_extension_bytes: int = ...,
        max_trailer_bytes: int = ...,
        max_trailers: int = ...,
        max_pipelined: int = ...,
        max_connections: int = ...,
        when_full: str = ...,
        lingering_close_s: float = ...,
        header_timeout_s: float = ...,
        keep_alive_timeout_s: float = ...,
        body_timeout_s: float = ...,
        body_grace_s: float = ...,
        body_min_rate_bytes_s: float = ...,
        write_timeout_s: float = ...,
        handler_timeout_s: float = ...,
        max_in_flight: int = ...,
        max_queued: int = ...,
        queue_timeout_s: float = ...,
        retry_after_s: int = ...,
        lingering_close_bytes: int = ...,
        use_epoll: bool = ...,
        clock: Callable[[], float] = ...,
        wall_clock: Callable[[], float] = ...,
        forwarded: Any = ...,
        board: Scoreboard | None = ...,
        journal: Any = ...,
        request_id_header: str = ...,
    ) -> None: ...
    def tick(self, lag_s: float = ..., accept_queue: int = ...) -> None:
        """Four times a second: run the deadlines, render the Date header, tell the board.

        lag_s:         how late it is
        accept_queue:  connections that the kernel holds for this worker
        """
    def listen(self, listener: socket) -> None:
        """Accept connections of a listening, non-blocking socket onto the raw transport."""
    def listen_on_loop(self, listener: socket, **options: Any) -> None:
        """Accept connections of a listening socket onto transports of the loop.

        options:  for loop.connect_accepted_socket, e.g. ssl=
        """
    def opening_ended(self, opening: Any) -> None:
        """Something of `opening` became a connection, or never will."""
    def leave(self, listener: socket) -> None:
        """Accept what is queued at one of the listeners, then leave it alone; it stays open."""
    def stop_listening(self) -> None:
        """Accept what is queued, then leave the listeners alone; they stay open."""
    def drain(self) -> None:
        """Close idle connections now and every other one behind its last response."""
    def abort(self) -> None:
        """Cancel the handlers still running and drop every connection."""
    def listen_for(self, listener: socket, accepted: Callable[[socket], object]) -> None:
        """Give each connected socket of a listening one to `accepted`, not blocking."""
    def adopt(
        self,
        sock: socket,
        peer: Address | None = ...,
        *,
        encrypted: bool = ...,
        received: bytes = ...,
    ) -> None:
        """Serve a connected, non-blocking socket, which becomes the engine's.

        received:  what was read from it already; peer, encrypted: as for protocol()
        """
    def protocol(self, peer: Address | None = ..., *, encrypted: bool = ...) -> Any:
        """A new connection for a transport of the loop (the protocol factory).

        peer:       who the client is, where a PROXY header told: an Address
        encrypted:  the client spoke TLS to whoever wrote that
        """
    def close(self) -> None:
        """Give the poller and buffers back; the engine cannot be used again."""
