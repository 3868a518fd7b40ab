"""A bare ASGI callable at its best: uvicorn, granian and fastpysgi serve it."""

from typing import Any

import orjson
from careful import Database
from common import parameter

TEXT_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"13")],
}
JSON = (b"content-type", b"application/json")
HTML = (b"content-type", b"text/html; charset=utf-8")

database: Database


async def answer(send: Any, kind: tuple[bytes, bytes], body: bytes) -> None:
    headers = [kind, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def plaintext(scope: Any, send: Any) -> None:
    await send(TEXT_START)
    await send({"type": "http.response.body", "body": b"Hello, World!"})


async def greeting(scope: Any, send: Any) -> None:
    await answer(send, JSON, orjson.dumps({"message": "Hello, World!"}))


async def db(scope: Any, send: Any) -> None:
    await answer(send, JSON, orjson.dumps(await database.world()))


async def queries(scope: Any, send: Any) -> None:
    worlds = await database.worlds(parameter(scope["query_string"].decode(), "queries"))
    await answer(send, JSON, orjson.dumps(worlds))


async def cached_queries(scope: Any, send: Any) -> None:
    worlds = await database.cached(parameter(scope["query_string"].decode(), "count"))
    await answer(send, JSON, orjson.dumps(worlds))


async def fortunes(scope: Any, send: Any) -> None:
    await answer(send, HTML, (await database.fortunes()).encode())


async def updates(scope: Any, send: Any) -> None:
    worlds = await database.updated(parameter(scope["query_string"].decode(), "queries"))
    await answer(send, JSON, orjson.dumps(worlds))


async def not_found(scope: Any, send: Any) -> None:
    headers = [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 404, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


ROUTES = {
    "/plaintext": plaintext,
    "/json": greeting,
    "/db": db,
    "/queries": queries,
    "/cached-queries": cached_queries,
    "/fortunes": fortunes,
    "/updates": updates,
}


async def connect() -> None:
    global database  # noqa: PLW0603 - a worker has one
    database = await Database.open()


async def lifespan(receive: Any, send: Any) -> None:
    while True:
        kind = (await receive())["type"]
        await (connect() if kind == "lifespan.startup" else database.close())
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await ROUTES.get(scope["path"], not_found)(scope, send)
    else:
        await lifespan(receive, send)
