"""What runs under callgrind: requests into the protocol, responses into a list.

python -m benchmarks.callgrind_target CASE REQUESTS [--tasks direct|asyncio]
"""

import argparse
import asyncio
import gc
from typing import Any

from benchmarks.cases import CASES

WARMUP = 64


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("requests", type=int)
    parser.add_argument("--tasks")
    options = parser.parse_args()
    case = CASES[options.case]
    reads = options.requests // case.depth

    import uvloop

    from examples.bench import app

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
