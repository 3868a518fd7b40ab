"""RSGI, granian's own interface, at its best."""

from asyncio import AbstractEventLoop
from collections.abc import Coroutine
from typing import Any

import orjson
from asgi_careful import Asked
from careful import Database
from common import parameter

TEXT = [("content-type", "text/plain; charset=utf-8")]
JSON = [("content-type", "application/json")]
HTML = [("content-type", "text/html; charset=utf-8")]


class Entry:
    """The application, with the hooks that granian calls; it asks `database`."""

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

    def __rsgi_init__(self, loop: AbstractEventLoop) -> None:
        loop.run_until_complete(self.database.connect())

    def __rsgi__(self, scope: Any, protocol: Any) -> Coroutine[Any, Any, None]:
        return self.routes.get(scope.path, self.not_found)(scope, protocol)

    async def plaintext(self, scope: Any, protocol: Any) -> None:
        protocol.response_bytes(200, TEXT, b"Hello, World!")

    async def greeting(self, scope: Any, protocol: Any) -> None:
        protocol.response_bytes(200, JSON, orjson.dumps({"message": "Hello, World!"}))

    async def db(self, scope: Any, protocol: Any) -> None:
        protocol.response_bytes(200, JSON, orjson.dumps(await self.database.world()))

    async def queries(self, scope: Any, protocol: Any) -> None:
        rows = await self.database.worlds(parameter(scope.query_string, "queries"))
        protocol.response_bytes(200, JSON, orjson.dumps(rows))

    async def cached_queries(self, scope: Any, protocol: Any) -> None:
        rows = await self.database.cached(parameter(scope.query_string, "count"))
        protocol.response_bytes(200, JSON, orjson.dumps(rows))

    async def fortunes(self, scope: Any, protocol: Any) -> None:
        protocol.response_str(200, HTML, await self.database.fortunes())

    async def updates(self, scope: Any, protocol: Any) -> None:
        rows = await self.database.updated(parameter(scope.query_string, "queries"))
        protocol.response_bytes(200, JSON, orjson.dumps(rows))

    async def not_found(self, scope: Any, protocol: Any) -> None:
        protocol.response_empty(404, [])


app = Entry(Database())
