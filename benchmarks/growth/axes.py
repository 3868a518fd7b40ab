"""The axes: what grows, at which points, and what is asked there.

An axis has points and series. A series says for a point which server runs and what it is asked;
the C floor gets the requests of the first series, and answers them with that server's bytes.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.cases import CASES, PLAIN_HEAD, TEXT

KIB, MIB = 1024, 1024 * 1024
BENCH_APP = "examples/bench.py"
GROWTH_APP = "benchmarks/growth/app.py"
SHUFFLED = 1000     # different paths asked, where there are as many: no route stays in the cache
MAX_PATHS = 10_000
SIZES = (0, KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 10 * MIB)
ONE_HOST, TWO_HOSTS = ("bench0.example",), ("bench0.example", "bench1.example")
BODY_CONNECTIONS = 8    # ten megabytes each are under way


@dataclass(frozen=True)
class Server:
    """One way to start fastserve: with default flags, but for what the axis is about.

    environment:  of the app, as (name, value)
    workers:      0 is no supervisor: the process serves alone
    everywhere:   on all cores, and the client as well; else on the server's one
    """

    app: str = GROWTH_APP
    environment: tuple[tuple[str, str], ...] = ()
    workers: int = 0
    everywhere: bool = False


@dataclass(frozen=True)
class Load:
    """What a client asks: `count` requests of one size, behind each other, and the body due."""

    requests: bytes
    expect: str = TEXT
    count: int = 1
    connections: int = 64
    depth: int = 1

    @property
    def request_size(self) -> int:
        """Of one request, in bytes."""
        return len(self.requests) // self.count

    @property
    def first(self) -> bytes:
        """The first of the requests."""
        return self.requests[: self.request_size]


@dataclass(frozen=True)
class Series:
    """One line of a figure."""

    name: str
    title: str
    server: Callable[[int], Server]
    load: Callable[[int], Load]


@dataclass(frozen=True)
class Law:
    """What the cost is expected to be linear in, and the name of one step of it.

    start:  the fit leaves out the points below
    """

    step: str
    basis: Callable[[float], float]
    start: int = 0


@dataclass(frozen=True)
class Axis:
    """What grows. `scale` is that of the abscissa: linear, log, or symlog where 0 is a point."""

    name: str
    title: str
    label: str
    points: tuple[int, ...]
    quick: tuple[int, ...]
    series: tuple[Series, ...]
    law: Law
    scale: str = "log"
    metric: str = "cpu_us"
    copies: bool = False    # a body is copied: memory bandwidth is a bound
    note: str = ""


def _request(line: str, head: tuple[str, ...] = PLAIN_HEAD, body: bytes = b"") -> bytes:
    return "\r\n".join((f"{line} HTTP/1.1", *head, "", "")).encode() + body


# ---- routes


def _routes_server(kind: str) -> Callable[[int], Server]:
    return lambda count: Server(
        environment=(("GROWTH_ROUTES", str(count)), ("GROWTH_KIND", kind)))


def _routes_load(kind: str) -> Callable[[int], Load]:
    def load(count: int) -> Load:
        numbers = random.Random(count).sample(range(count), min(count, SHUFFLED))
        tail = "" if kind == "static" else "/12345"
        requests = b"".join(
            _request(f"GET /api/v1/name{number:05}{tail}") for number in numbers)
        return Load(requests, count=len(numbers))

    return load


# ---- fields


def _fields_load(path: str, expect: str, hosts: tuple[str, ...]) -> Callable[[int], Load]:
    """Requests that differ in their first field, or the one that is sent again and again."""

    def load(count: int) -> Load:
        between = (f"X-Field-{n:03}: value of field {n:03}" for n in range(count - 2))
        fields = (*between, "X-Last: value of the last")
        requests = [_request(f"GET {path}", (f"Host: {host}", *fields)) for host in hosts]
        return Load(b"".join(requests), expect, count=len(hosts))

    return load


# ---- bodies


def _download(path: str) -> Callable[[int], Load]:
    return lambda size: Load(
        _request(f"GET /{path}/{size}"), "x" * size, connections=BODY_CONNECTIONS)


def _upload(path: str) -> Callable[[int], Load]:
    return lambda size: Load(
        _request(f"POST /{path}", (*PLAIN_HEAD, f"Content-Length: {size}"), b"x" * size),
        str(size), connections=BODY_CONNECTIONS)


# ---- connections, depth, workers

_SYNC = Load(CASES["plaintext"].request)
_ASYNC = Load(CASES["plaintext-async"].request)


def _alone(_: int) -> Server:
    return Server()


def _bench_app(_: int) -> Server:
    return Server(BENCH_APP)


def _plain(name: str, load: Callable[[int], Load], title: str = "sync handler") -> Series:
    return Series(name, title, _bench_app, load)


def _identity(x: float) -> float:
    return x


def _kib(x: float) -> float:
    return x / KIB


def _inverse(x: float) -> float:
    return 1 / x


def axes(cores: int) -> dict[str, Axis]:
    """All axes, by name; `cores` is how many processors there are."""
    every = tuple(sorted({2**n for n in range(cores.bit_length())} | {cores}))
    found = (
        Axis(
            "routes", "Number of routes", "routes", (10, 100, 1000, MAX_PATHS), (10, 100),
            (Series("static", "static routes", _routes_server("static"), _routes_load("static")),
             Series("parameter", "routes with a parameter", _routes_server("parameter"),
                    _routes_load("parameter"))),
            Law("doubling", math.log2),
            note=f"Up to {SHUFFLED:,} different paths are asked, shuffled.",
        ),
        Axis(
            "headers", "Header fields of a request", "fields", (2, 5, 10, 20, 50, 100), (2, 20),
            (Series("same", "the same as in the request before", _alone,
                    _fields_load("/plaintext", TEXT, ONE_HOST)),
             Series("changing", "one changes", _alone,
                    _fields_load("/plaintext", TEXT, TWO_HOSTS)),
             Series("read", "one changes, one is read", _alone,
                    _fields_load("/last", "value of the last", TWO_HOSTS))),
            Law("field", _identity), scale="linear",
            note="33 bytes each. Fields that are byte for byte those of the request before on the "
                 "same connection, up to 2 KiB, are compared instead of parsed.",
        ),
        Axis(
            "download", "Body of an answer", "bytes", SIZES, (0, 64 * KIB),
            (Series("bytes", "bytes", _alone, _download("bytes")),
             Series("stream", "stream in pieces of 64 KiB", _alone, _download("stream")),
             Series("file", "file (sendfile)", _alone, _download("file"))),
            Law("KiB", _kib), scale="symlog", copies=True,
            note=f"{BODY_CONNECTIONS} connections. The client drops what is behind the first "
                 "256 KiB of an answer in the kernel. sendfile copies nothing, it passes pages "
                 "on; files up to 64 KiB are read instead.",
        ),
        Axis(
            "upload", "Body of a request", "bytes", SIZES, (0, 64 * KIB),
            (Series("whole", "read whole", _alone, _upload("whole")),
             Series("pieces", "read as it comes", _alone, _upload("pieces"))),
            Law("KiB", _kib), scale="symlog", copies=True,
            note=f"{BODY_CONNECTIONS} connections.",
        ),
        Axis(
            "connections", "Active keep-alive connections", "connections",
            (1, 10, 100, 1000, 5000, 10_000, 20_000), (1, 500),
            (_plain("sync", lambda count: replace(_SYNC, connections=count)),),
            Law("doubling", math.log2, start=100),
            note="Every connection always has a request under way. Few of them leave the server "
                 "waiting, and waking it costs more than a request.",
        ),
        Axis(
            "depth", "Requests pipelined", "requests at once", (1, 2, 4, 8, 16, 32, 64), (1, 16),
            (_plain("sync", lambda depth: replace(_SYNC, depth=depth)),
             _plain("async", lambda depth: replace(_ASYNC, depth=depth), "async handler")),
            Law("batch, shared by its requests", _inverse),
        ),
        Axis(
            "workers", "Workers, all on one core", "workers", (1, 2, 4, 8), (1, 2),
            (Series("sync", "sync handler", lambda count: Server(BENCH_APP, workers=count),
                    lambda count: replace(_SYNC, connections=64 * count)),),
            Law("worker", _identity),
            note="The supervisor is counted. 64 connections for each worker.",
        ),
        Axis(
            "cores", "Workers on all cores", "workers", every, every[:2],
            (Series("sync", "sync handler",
                    lambda count: Server(BENCH_APP, workers=count, everywhere=True),
                    lambda count: replace(_SYNC, connections=64 * count)),),
            Law("worker", _identity), metric="rps",
            note="Requests per second; the clients take their part of the same cores, so this is "
                 "less than the machine's workers could do for clients elsewhere.",
        ),
    )
    return {axis.name: axis for axis in found}
