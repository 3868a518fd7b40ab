"""A bare ASGI callable at its best: uvicorn, granian and fastpysgi serve it."""

from typing import Any, Protocol

import orjson
from careful import Database
from common import Row, parameter

TEXT_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"13")],
}
JSON = (b"content-type", b"application/json")
HTML = (b"content-type", b"text/html; charset=utf-8")


class Asked(Protocol):
    """A database as the tests need it: `careful` or `pipelined`."""

    async def connect(self) -> None: ...
    async def close(self) -> None: ...
    async def world(self) -> Row: ...
    async def worlds(self, text: str | None) -> list[Row]: ...
    async def cached(self, text: str | None) -> list[Row]: ...
    async def fortunes(self) -> str: ...
    async def updated(self, text: str | None) -> list[Row]: ...


async def answer(send: Any, kind: tuple[bytes, bytes], body: bytes) -> None:
    headers = [kind, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Entry:
    """The application; it asks `database`."""

    def __init__(self, database: Asked) -> None:
        self.database = database
        self.routes = {
            "/plaintext": self.plaintext,
            "/json": self.greeting,
            "/db": self.db,
            "/queries": self.queries,
            "/cached-queries": self.cached_queries,
            "/fortunes": self.fortunes,
            "/updates": self.updates,
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await self.routes.get(scope["path"], self.not_found)(scope, send)
        else:
            await self.lifespan(receive, send)

    async def lifespan(self, receive: Any, send: Any) -> None:
        while True:
            kind = (await receive())["type"]
            is_start = kind == "lifespan.startup"
            await (self.database.connect() if is_start else self.database.close())
            await send({"type": f"{kind}.complete"})
            if not is_start:
                return

    async def plaintext(self, scope: Any, send: Any) -> None:
        await send(TEXT_START)
        await send({"type": "http.response.body", "body": b"Hello, World!"})

    async def greeting(self, scope: Any, send: Any) -> None:
        await answer(send, JSON, orjson.dumps({"message": "Hello, World!"}))

    async def db(self, scope: Any, send: Any) -> None:
        await answer(send, JSON, orjson.dumps(await self.database.world()))

    async def queries(self, scope: Any, send: Any) -> None:
        text = parameter(scope["query_string"].decode(), "queries")
        await answer(send, JSON, orjson.dumps(await self.database.worlds(text)))

    async def cached_queries(self, scope: Any, send: Any) -> None:
        text = parameter(scope["query_string"].decode(), "count")
        await answer(send, JSON, orjson.dumps(await self.database.cached(text)))

    async def fortunes(self, scope: Any, send: Any) -> None:
        await answer(send, HTML, (await self.database.fortunes()).encode())

    async def updates(self, scope: Any, send: Any) -> None:
        text = parameter(scope["query_string"].decode(), "queries")
        await answer(send, JSON, orjson.dumps(await self.database.updated(text)))

    async def not_found(self, scope: Any, send: Any) -> None:
        headers = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 404, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


app = Entry(Database())
