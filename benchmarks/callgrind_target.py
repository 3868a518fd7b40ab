"""What runs under callgrind: requests into the protocol, responses into a list.

python -m benchmarks.callgrind_target CASE REQUESTS [--tasks direct|asyncio] [--around WHAT]
"""

import argparse
import asyncio
import gc
from typing import Any

from benchmarks.cases import CASES

WARMUP = 64
AROUND = ("middleware", "api", "sampled-out", "recording")


class MemoryTransport(asyncio.Transport):
    """Counts the bytes that are written and keeps the last piece."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 50000), "sockname": ("127.0.0.1", 8000)})
        self.written = 0
        self.last = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += len(data)
        self.last = bytes(data)

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0


def feed(protocol: Any, transport: MemoryTransport, data: bytes, times: int) -> None:
    """The hot loop: as the event loop would, one read after the other."""
    receive = protocol.data_received
    for _ in range(times):
        receive(data)
    if transport.closed:
        raise SystemExit(f"the connection was closed: {transport.last!r}")


def surround(app: Any, what: str) -> None:
    """Put a middleware around every handler: one that does nothing, or one that traces.

    what:  "middleware"; or tracing with "api" and no SDK, "sampled-out", or "recording" in memory
    """
    if what == "middleware":
        @app.middleware
        async def nothing(request: Any, call_next: Any) -> Any:
            return await call_next(request)

        return
    from fastserve.otel import instrument

    if what == "api":
        instrument(app)
        return
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider, sampling
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    sampler = sampling.ALWAYS_OFF if what == "sampled-out" else sampling.ALWAYS_ON
    tracers = TracerProvider(sampler=sampler)
    tracers.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    instrument(app, tracers, MeterProvider([InMemoryMetricReader()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("requests", type=int)
    parser.add_argument("--tasks")
    parser.add_argument("--around", choices=AROUND)
    options = parser.parse_args()
    case = CASES[options.case]
    reads = options.requests // case.depth

    import uvloop

    from examples.bench import app

    if options.around:
        surround(app, options.around)
    loop = uvloop.new_event_loop()
    engine = app.build_engine(loop, **({"tasks": options.tasks} if options.tasks else {}))
    protocol = engine.protocol()
    transport = MemoryTransport()
    problem: list[BaseException] = []

    def work() -> None:
        # Inside the loop but outside any task, as a read event is.
        try:
            protocol.connection_made(transport)
            feed(protocol, transport, case.request * case.depth, WARMUP)
            before = transport.written
            if not transport.last.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"not a 200 at once: {transport.last!r}")
            feed(protocol, transport, case.request * case.depth, reads)
            if not transport.written > before:
                raise SystemExit("no response was written")
        except BaseException as error:
            problem.append(error)
        finally:
            loop.stop()

    gc.disable()  # a collection that falls into one run only would not cancel out
    loop.call_soon(work)
    loop.run_forever()
    if problem:
        raise problem[0]


if __name__ == "__main__":
    main()
