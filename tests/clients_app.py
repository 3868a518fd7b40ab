"""The application that real clients talk to: a route for each thing that they do."""

from __future__ import annotations

import asyncio
import functools
import gzip
import hashlib
import random
from collections.abc import AsyncIterator, Iterator

from fastserve import App, ClientDisconnect, HTTPError, Request, Response, StreamingResponse

MIB = 1 << 20
TAG = '"a-tag"'
# One dot, so that a browser has something to decode.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)

PIECE = 10_000
STYLE = "</page.css>; rel=preload; as=style"

app = App()
gates: dict[str, asyncio.Event] = {}
left: set[str] = set()


@functools.lru_cache(maxsize=8)
def content(size: int) -> bytes:
    """Bytes that are the same in every process, and of which no part is like another."""
    return random.Random(size).randbytes(size)


@app.get("/")
def home():
    return "Hello, World!"


@app.get("/json")
async def greeting():
    return {"message": "Hello, World!"}


@app.get("/users/{id:int}")
async def user(request: Request, id: int):
    return {"id": id, "page": request.query.get("page")}


@app.route("/seen", methods=["*"])
async def seen(request: Request):
    """What the server saw of a request; the client's port tells connections apart."""
    return {
        "method": request.method,
        "version": request.http_version,
        "target": request.target.decode("latin-1"),
        "headers": [[name, value] for name, value in request.headers.items()],
        "port": request.client.port if request.client else None,
        "body": (await request.body()).decode("latin-1"),
    }


@app.route("/echo", methods=["POST", "PUT"], max_body_bytes=16 * MIB)
async def echo(request: Request):
    kind = request.headers.get("content-type", "application/octet-stream")
    return Response(await request.body(), content_type=kind)


@app.route("/count", methods=["POST", "PUT"], max_body_bytes=256 * MIB)
async def count(request: Request):
    """Read an upload as it comes and keep none of it."""
    digest, size, pieces = hashlib.sha256(), 0, 0
    async for piece in request.stream():
        digest.update(piece)
        size += len(piece)
        pieces += 1
    return {"size": size, "sha256": digest.hexdigest(), "pieces": pieces}


@app.post("/small", max_body_bytes=1000)
async def small(request: Request):
    return str(len(await request.body()))


@app.get("/large/{size:int}")
def large(size: int):
    return content(size)


@app.get("/slow")
async def slow():
    await asyncio.sleep(0.05)
    return "at last"


@app.get("/redirect/{hops:int}")
def redirect(hops: int):
    return Response.redirect(f"/redirect/{hops - 1}" if hops > 1 else "/", 302)


@app.post("/moved")
def moved():
    return Response.redirect("/echo", 307)


@app.get("/cookies")
def cookies(request: Request):
    return request.cookies


@app.get("/cookies/set")
def set_cookies(request: Request):
    answer = Response.redirect("/cookies", 303)
    for name, value in request.query.items():
        answer.set_cookie(name, value, httponly=name.startswith("hidden"))
    return answer


@app.get("/cookies/delete/{name}")
def delete_cookie(name: str):
    answer = Response.redirect("/cookies", 303)
    answer.delete_cookie(name)
    return answer


@app.get("/nothing")
def nothing():
    return None


@app.get("/tagged")
def tagged(request: Request):
    headers = {"etag": TAG, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == TAG:
        return Response(b"", 304, headers)
    return Response("the body behind the tag", 200, headers)


@app.get("/zipped")
def zipped(request: Request):
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response("not zipped", headers={"vary": "accept-encoding"})
    headers = {"vary": "accept-encoding", "content-encoding": "gzip"}
    return Response(gzip.compress(b"zipped " * 1000), headers=headers, content_type="text/plain")


@app.get("/teapot")
def teapot():
    raise HTTPError(418, "short and stout")


def pieces_of(size: int) -> Iterator[bytes]:
    """content(size), a piece at a time."""
    for start in range(0, size, PIECE):
        yield content(size)[start : start + PIECE]


@app.get("/stream/{size:int}")
async def stream(size: int):
    for piece in pieces_of(size):
        yield piece
        await asyncio.sleep(0)


@app.get("/stream-sync/{size:int}")
def stream_sync(size: int):
    return StreamingResponse(pieces_of(size), content_type="application/octet-stream")


@app.get("/stream-sized/{size:int}")
def stream_sized(size: int):
    return StreamingResponse(pieces_of(size), length=size)


@app.get("/trailed/{size:int}")
def trailed(size: int):
    digest = hashlib.sha256()

    def body() -> Iterator[bytes]:
        for piece in pieces_of(size):
            digest.update(piece)
            yield piece

    return StreamingResponse(body(), trailers=lambda: {"x-sha256": digest.hexdigest()})


@app.get("/cut")
async def cut():
    """A body that ends in an exception; its traceback stays out of the log."""
    yield b"a beginning"
    raise ClientDisconnect("not to be seen")


@app.get("/hinted")
async def hinted(request: Request):
    request.send_early_hints(STYLE)
    await asyncio.sleep(0)
    return "at last"


@app.get("/gated/{name}")
def gated(name: str):
    """Send the second line when /release is posted, which a client does behind the first."""
    gate = gates.setdefault(name, asyncio.Event())

    async def body() -> AsyncIterator[str]:
        yield "first\n"
        await gate.wait()
        yield "second\n"

    return StreamingResponse(body(), headers={"x-accel-buffering": "no"})


@app.post("/release/{name}")
def release(name: str):
    gates.pop(name).set()


@app.get("/endless/{name}")
async def endless(name: str):
    """Never end; /left tells who left."""
    try:
        while True:
            yield bytes(PIECE)
            await asyncio.sleep(0)
    finally:
        left.add(name)


@app.get("/left/{name}")
async def has_left(name: str):
    return name in left


@app.get("/events")
def events():
    async def body() -> AsyncIterator[str]:
        for i in range(3):
            yield f"id: {i}\ndata: number {i}\n\n"
            await asyncio.sleep(0.01)
        yield "event: end\ndata: .\n\n"

    return StreamingResponse(body(), content_type="text/event-stream")


PAGE = """<!doctype html>
<html><head><title>a page</title>
<link rel="stylesheet" href="/page.css"><script src="/page.js" defer></script></head>
<body><p id="styled">styled</p><img id="dot" src="/dot.png">
<form id="form" method="post" action="/seen">
<input name="first" value="a b&amp;c"><input name="second" value="ü">
</form>
</body></html>
"""


@app.get("/page")
def page():
    return Response.html(PAGE)


@app.get("/page.css")
def page_style():
    return Response("#styled { color: rgb(1, 2, 3) }", content_type="text/css")


@app.get("/page.js")
def page_script():
    return Response("window.scripted = document.title", content_type="text/javascript")


@app.get("/dot.png")
def dot():
    return Response(PNG, content_type="image/png")
