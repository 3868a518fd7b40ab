"""RSGI, granian's own interface, at its best."""

from asyncio import AbstractEventLoop
from collections.abc import Coroutine
from typing import Any

import orjson
from careful import Database
from common import parameter

TEXT = [("content-type", "text/plain; charset=utf-8")]
JSON = [("content-type", "application/json")]
HTML = [("content-type", "text/html; charset=utf-8")]

database: Database


async def plaintext(scope: Any, protocol: Any) -> None:
    protocol.response_bytes(200, TEXT, b"Hello, World!")


async def greeting(scope: Any, protocol: Any) -> None:
    protocol.response_bytes(200, JSON, orjson.dumps({"message": "Hello, World!"}))


async def db(scope: Any, protocol: Any) -> None:
    protocol.response_bytes(200, JSON, orjson.dumps(await database.world()))


async def queries(scope: Any, protocol: Any) -> None:
    worlds = await database.worlds(parameter(scope.query_string, "queries"))
    protocol.response_bytes(200, JSON, orjson.dumps(worlds))


async def cached_queries(scope: Any, protocol: Any) -> None:
    worlds = await database.cached(parameter(scope.query_string, "count"))
    protocol.response_bytes(200, JSON, orjson.dumps(worlds))


async def fortunes(scope: Any, protocol: Any) -> None:
    protocol.response_str(200, HTML, await database.fortunes())


async def updates(scope: Any, protocol: Any) -> None:
    worlds = await database.updated(parameter(scope.query_string, "queries"))
    protocol.response_bytes(200, JSON, orjson.dumps(worlds))


async def not_found(scope: Any, protocol: Any) -> None:
    protocol.response_empty(404, [])


ROUTES = {
    "/plaintext": plaintext,
    "/json": greeting,
    "/db": db,
    "/queries": queries,
    "/cached-queries": cached_queries,
    "/fortunes": fortunes,
    "/updates": updates,
}


class App:
    """The hooks that granian calls: one when the worker starts, one for each request."""

    def __rsgi_init__(self, loop: AbstractEventLoop) -> None:
        global database  # noqa: PLW0603 - a worker has one
        database = loop.run_until_complete(Database.open())

    def __rsgi__(self, scope: Any, protocol: Any) -> Coroutine[Any, Any, None]:
        return ROUTES.get(scope.path, not_found)(scope, protocol)


app = App()
