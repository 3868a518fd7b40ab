"""A bare ASGI callable as uvicorn, granian and fastpysgi publish it.

None of them sends a Content-Length of its own. They differ in the pool and in the JSON library.
"""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from usual import Resetting


def start(content_type: bytes) -> dict[str, Any]:
    headers = [[b"content-type", content_type]]
    return {"type": "http.response.start", "status": 200, "headers": headers}


JSON_START = start(b"application/json")
HTML_START = start(b"text/html; charset=utf-8")
TEXT_START = start(b"text/plain; charset=utf-8")


def parameter(scope: Any, name: bytes) -> str | None:
    values = parse_qs(scope["query_string"]).get(name)
    return values[0].decode() if values else None


class Entry:
    """The application. database: how it asks; dumps: value -> JSON in bytes"""

    def __init__(self, database: Resetting, dumps: Callable[[Any], bytes]) -> None:
        self.database = database
        self.dumps = dumps
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
        if scope["type"] == "lifespan":
            await self.lifespan(receive, send)
        else:
            await self.routes.get(scope["path"], self.not_found)(scope, send)

    async def lifespan(self, receive: Any, send: Any) -> None:
        while True:
            kind = (await receive())["type"]
            is_start = kind == "lifespan.startup"
            await (self.database.connect() if is_start else self.database.close())
            await send({"type": f"{kind}.complete"})
            if not is_start:
                return

    async def answer(self, send: Any, start: Any, body: bytes) -> None:
        await send(start)
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def plaintext(self, scope: Any, send: Any) -> None:
        await self.answer(send, TEXT_START, b"Hello, World!")

    async def greeting(self, scope: Any, send: Any) -> None:
        await self.answer(send, JSON_START, self.dumps({"message": "Hello, World!"}))

    async def db(self, scope: Any, send: Any) -> None:
        await self.answer(send, JSON_START, self.dumps(await self.database.world()))

    async def queries(self, scope: Any, send: Any) -> None:
        rows = await self.database.worlds(parameter(scope, b"queries"))
        await self.answer(send, JSON_START, self.dumps(rows))

    async def cached_queries(self, scope: Any, send: Any) -> None:
        rows = await self.database.cached(parameter(scope, b"count"))
        await self.answer(send, JSON_START, self.dumps(rows))

    async def fortunes(self, scope: Any, send: Any) -> None:
        await self.answer(send, HTML_START, (await self.database.fortunes()).encode())

    async def updates(self, scope: Any, send: Any) -> None:
        rows = await self.database.updated(parameter(scope, b"queries"))
        await self.answer(send, JSON_START, self.dumps(rows))

    async def not_found(self, scope: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"Not found", "more_body": False})
