"""/metrics: what all workers have counted, for Prometheus, from whichever worker is asked.

It is a route of the server's own: outside of the middleware, exempt from the limit of requests
in flight, and made on a thread of its own, since a server with many routes has a long page.
However many ask at once, a worker makes one page at a time; who comes meanwhile shares the next
one, so that nobody is given less than what was counted when they asked.

The text is prometheus_client's. Nothing that a stranger chooses becomes a label: routes are those
of the application, and the methods and statuses that nobody knows have one name together.
"""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from fastserve._speedups.messages import Request
from fastserve._speedups.plan import Plan
from fastserve._speedups.responses import Response
from fastserve.blocking import BlockingPool
from fastserve.errors import ConfigError
from fastserve.processes import resident_bytes
from fastserve.readings import DEADLINES, LIMITS_S, Reading, WorkerReading
from fastserve.routing import Route, Router
from fastserve.shm import BoardError

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

# Buckets are shown where some of ours end: 2**k ns, by fours below a millisecond, then by twos.
EDGES_S = tuple(2**k / 1e9 for k in (14, 16, 18, *range(20, 36)))
SHOWN = tuple((repr(edge_s), LIMITS_S.index(edge_s) + 1) for edge_s in EDGES_S)
OPENMETRICS, PLAIN = "application/openmetrics-text", "text/plain"
ASKED_AS = {OPENMETRICS: f"{OPENMETRICS}; version=1.0.0", PLAIN: PLAIN}
SAMPLES_AT_ONCE = 16    # that is half a millisecond
HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}

Read = Callable[[], Reading]


class Metrics:
    """The page of one worker.

    path:  where it is
    read:  what all workers have counted; it may raise BoardError
    """

    def __init__(self, path: str, read: Read) -> None:
        import prometheus_client  # noqa: F401  (here rather than at the first scrape)

        self.path = path
        self._read = read
        self._pool = BlockingPool(threads=1)
        self._one_at_a_time = asyncio.Lock()
        self._next: dict[str, asyncio.Future[Page]] = {}

    def plans(self, besides: Iterable[Route]) -> Iterator[tuple[Route, Plan]]:
        """Its route and plan. Raises ConfigError when the path is taken."""
        for route in besides:
            if route.path == self.path:
                raise ConfigError(
                    f"metrics={self.path!r}: there is a route {route.label!r} already: "
                    "give another path")
        router = Router()
        router.get(self.path, name="metrics")(self.answer)
        for route in router.routes:
            yield route, Plan(self.answer, (-1,), is_async=True, route=route, exempt=True)

    async def answer(self, request: Request) -> Response:
        """What a scrape is answered."""
        kind = preferred(request.headers.get("accept") or "")
        page = self._next.get(kind)
        if page is None:
            page = self._next[kind] = asyncio.ensure_future(self._make(kind))
        status, content_type, body = await asyncio.shield(page)     # others may wait for it too
        return Response(body, status, {"content-type": content_type, **HEADERS})

    async def _make(self, kind: str) -> Page:
        async with self._one_at_a_time:
            del self._next[kind]    # whoever comes from here on is told of more
            try:
                content_type, body = await self._pool.run(self._render, kind)
            except BoardError as error:
                return 503, "text/plain; charset=utf-8", str(error).encode()
            return 200, content_type, body

    def _render(self, kind: str) -> tuple[str, bytes]:
        return render(self._read(), kind)

    def close(self) -> None:
        """Nothing more will be asked for."""
        self._pool.close()


Page = tuple[int, str, bytes]   # status, content type, body


def preferred(accept: str) -> str:
    """OPENMETRICS where a field Accept asks for it by name, and not more for PLAIN; else PLAIN."""
    wants = {OPENMETRICS: 0.0, PLAIN: 0.0}
    for item in accept.split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        if name in wants:
            weight = 1.0
            for parameter in parameters:
                if parameter.startswith("q="):
                    try:
                        weight = float(parameter[2:])
                    except ValueError:
                        weight = 0.0
            wants[name] = max(wants[name], weight)
    return OPENMETRICS if wants[OPENMETRICS] > 0 and wants[OPENMETRICS] >= wants[PLAIN] else PLAIN


def render(reading: Reading, kind: str) -> tuple[str, bytes]:
    """A Reading as a page: (content type, text); `kind` is OPENMETRICS or PLAIN."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    encode, content_type = choose_encoder(ASKED_AS[kind])
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(reading))
    return content_type, encode(registry)


class _Collector:
    """One Reading, as prometheus_client asks for it."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def collect(self) -> Iterator[Metric]:
        for make in (_of_requests, _of_all, _of_workers, _of_the_server):
            for family in make(self._reading):
                family.samples = _Polite(family.samples)
                yield family


class _Polite(list[Any]):
    """Samples; whoever goes through them lets the thread of the loop run now and then.

    Left to itself, the interpreter switches after 5 ms, for which each turn of the loop would wait.
    """

    def __iter__(self) -> Iterator[Any]:
        for index, sample in enumerate(super().__iter__()):
            if index % SAMPLES_AT_ONCE == 0:
                time.sleep(0)
            yield sample


def _of_requests(reading: Reading) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    names = ["method", "route"]
    requests = CounterMetricFamily(
        "fastserve_requests", "Requests that have ended, answered or not.",
        labels=[*names, "status"])
    durations = HistogramMetricFamily(
        "fastserve_request_duration_seconds",
        "From a complete request head until the whole answer was handed over.", labels=names)
    bodies = CounterMetricFamily(
        "fastserve_response_body_bytes", "Bodies of the answers, as far as they went.",
        labels=names)
    for (method, route), series in sorted(reading.series().items()):
        for status, count in sorted(series.statuses.items()):
            requests.add_metric([method, route, status], count)
        durations.add_metric([method, route], shown(series.buckets), series.sum_ns / 1e9)
        bodies.add_metric([method, route], series.body_bytes)
    yield from (requests, durations, bodies)


def _of_all(reading: Reading) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    counters = reading.counters()
    for name, text, count in (
        ("requests_begun", "Requests whose head was complete.", counters.requests),
        ("connections", "Connections that were accepted.", counters.connections),
        ("connections_rejected", "Connections above max_connections that were answered 503.",
         counters.rejected),
        ("requests_shed", "Requests answered 503 for max_in_flight.", counters.shed),
        ("received_bytes", "Bytes that clients sent.", counters.bytes_in),
        ("sent_bytes", "Bytes that clients were sent.", counters.bytes_out),
        ("log_lines_dropped", "Lines of the access log that nobody took in time.",
         counters.lines_dropped),
    ):
        yield CounterMetricFamily(f"fastserve_{name}", text, value=count)
    expired = CounterMetricFamily(
        "fastserve_deadlines_expired", "Deadlines that clients or handlers did not keep.",
        labels=["deadline"])
    for deadline, count in zip(DEADLINES, counters.expired, strict=True):
        expired.add_metric([deadline], count)
    yield expired
    lag = HistogramMetricFamily(
        "fastserve_loop_lag_seconds", "How late the ticks of the event loops came.", labels=[])
    lag.add_metric([], shown(counters.lag_buckets), counters.lag_sum_ns / 1e9)
    yield lag


def _of_workers(reading: Reading) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    by_slot: dict[int, list[WorkerReading]] = {}    # a successor shares it for a while
    for worker in reading.workers:
        by_slot.setdefault(worker.slot, []).append(worker)
    gauges = [
        (GaugeMetricFamily(f"fastserve_{name}", text, labels=["slot"]), of)
        for name, text, of in GAUGES
    ]
    for slot, workers in sorted(by_slot.items()):
        for family, of in gauges:
            family.add_metric([str(slot)], of(workers))
    yield from (family for family, _ in gauges)


def _of_the_server(reading: Reading) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

    import fastserve

    restarts = CounterMetricFamily(
        "fastserve_worker_restarts", "Workers that were replaced.", labels=["reason"])
    for reason, count in reading.past.restarts.items():
        restarts.add_metric([reason], count)
    yield restarts
    yield GaugeMetricFamily(
        "fastserve_workers", "Workers that have not ended.", value=len(reading.workers))
    yield GaugeMetricFamily(
        "fastserve_start_time_seconds", "When the server started, in seconds since 1970.",
        value=reading.started_s)
    yield InfoMetricFamily("fastserve_build", "What serves.", value={
        "version": fastserve.__version__, "python": platform.python_version()})


def shown(buckets: tuple[int, ...]) -> list[tuple[str, float]]:
    """A histogram of ours by the edges that are shown, each with all that lies below it."""
    edges: list[tuple[str, float]] = []
    sum_so_far = before = 0
    for edge, end in SHOWN:
        sum_so_far += sum(buckets[before:end])
        before = end
        edges.append((edge, sum_so_far))
    return [*edges, ("+Inf", sum(buckets))]


def _sum_of(name: str) -> Callable[[list[WorkerReading]], float]:
    return lambda workers: sum(getattr(worker, name) for worker in workers)


GAUGES: tuple[tuple[str, str, Callable[[list[WorkerReading]], float]], ...] = (
    ("connections_open", "Connections that are open.", _sum_of("connections")),
    ("requests_in_flight", "Async requests under way.", _sum_of("in_flight")),
    ("requests_waiting", "Requests that wait for max_in_flight.", _sum_of("waiting")),
    ("accept_queue_connections", "Connections that the kernel holds for it.",
     _sum_of("accept_queue")),
    ("loop_lag_longest_seconds", "The longest lag of the event loop in the last ten seconds.",
     lambda workers: max(worker.longest_lag_s for worker in workers)),
    ("worker_resident_memory_bytes", "Memory of its process, shared memory included.",
     lambda workers: sum(resident_bytes(worker.pid) or 0 for worker in workers)),
)
