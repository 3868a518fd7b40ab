"""What `python -m benchmarks growth` asks where examples/bench.py has no such route.

GROWTH_ROUTES=1000 GROWTH_KIND=static fastserve run benchmarks/growth/app.py

GROWTH_ROUTES  so many routes besides the others, each with a handler of its own
GROWTH_KIND    static or parameter: what these routes are like
GROWTH_FILES   the directory of the files that /file/SIZE sends, each named by its size
"""

import os
from collections.abc import AsyncIterator, Callable

from fastserve import App, FileResponse, Request, StreamingResponse

MIB = 1024 * 1024
LARGEST = 16 * MIB
PIECE = b"x" * 65536
FILES = os.environ.get("GROWTH_FILES", ".")

app = App()
bodies: dict[int, bytes] = {}
calls = 0


@app.get("/last")
def last(request: Request) -> str:
    """One field is looked up; the others only had to be parsed."""
    return request.headers["x-last"]


@app.get("/plaintext")
def plaintext() -> str:
    return "Hello, World!"


@app.get("/bytes/{size:int}")
def whole_body(size: int) -> bytes:
    """A body that the application already holds, as one from a cache of its own."""
    body = bodies.get(size)
    if body is None:
        body = bodies[size] = b"x" * size
    return body


@app.get("/stream/{size:int}")
async def streamed_body(size: int) -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        left = size
        while left >= len(PIECE):
            left -= len(PIECE)
            yield PIECE
        if left:
            yield PIECE[:left]

    return StreamingResponse(pieces(), length=size, content_type="application/octet-stream")


@app.get("/file/{size:int}")
def file_body(size: int) -> FileResponse:
    return FileResponse(os.path.join(FILES, str(size)))


@app.post("/whole", max_body_bytes=LARGEST)
async def whole(request: Request) -> str:
    return str(len(await request.body()))


@app.post("/pieces")
async def pieces(request: Request) -> str:
    size = 0
    async for piece in request.stream(max_bytes=LARGEST):
        size += len(piece)
    return str(size)


@app.get("/counted")
def counted() -> str:
    global calls  # noqa: PLW0603 - the counter is what the route is for
    calls += 1
    return "Hello, World!"


@app.get("/counted-async")
async def counted_async() -> str:
    return counted()


@app.get("/calls")
def number_of_calls() -> str:
    return str(calls)


def _static() -> Callable[[], str]:
    def handler() -> str:
        return "Hello, World!"

    return handler


def _parameter() -> Callable[[int], str]:
    def handler(id: int) -> str:
        return "Hello, World!"

    return handler


def _add_routes(count: int, kind: str) -> None:
    for number in range(count):
        if kind == "static":
            app.get(f"/api/v1/name{number:05}")(_static())
        else:
            app.get(f"/api/v1/name{number:05}/{{id:int}}")(_parameter())


_add_routes(int(os.environ.get("GROWTH_ROUTES", "0")), os.environ.get("GROWTH_KIND", "static"))
