"""The RSGI entry that granian publishes: four connections without reset, orjson."""

from asyncio import AbstractEventLoop
from collections.abc import Coroutine
from typing import Any
from urllib.parse import parse_qs

import orjson
from usual import Batching

TEXT = [("content-type", "text/plain; charset=utf-8")]
JSON = [("content-type", "application/json")]
HTML = [("content-type", "text/html; charset=utf-8")]

database = Batching()


def parameter(scope: Any, name: str) -> str | None:
    values = parse_qs(scope.query_string).get(name)
    return values[0] if values else None


async def plaintext(scope: Any, protocol: Any) -> None:
    protocol.response_bytes(200, TEXT, b"Hello, World!")


async def greeting(scope: Any, protocol: Any) -> None:
    protocol.response_bytes(200, JSON, orjson.dumps({"message": "Hello, World!"}))


async def db(scope: Any, protocol: Any) -> None:
    protocol.response_bytes(200, JSON, orjson.dumps(await database.world()))


async def queries(scope: Any, protocol: Any) -> None:
    rows = await database.worlds(parameter(scope, "queries"))
    protocol.response_bytes(200, JSON, orjson.dumps(rows))


async def cached_queries(scope: Any, protocol: Any) -> None:
    rows = await database.cached(parameter(scope, "count"))
    protocol.response_bytes(200, JSON, orjson.dumps(rows))


async def fortunes(scope: Any, protocol: Any) -> None:
    protocol.response_str(200, HTML, await database.fortunes())


async def updates(scope: Any, protocol: Any) -> None:
    rows = await database.updated(parameter(scope, "queries"))
    protocol.response_bytes(200, JSON, orjson.dumps(rows))


async def not_found(scope: Any, protocol: Any) -> None:
    protocol.response_bytes(404, TEXT, b"Not found")


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
        loop.run_until_complete(database.connect())

    def __rsgi__(self, scope: Any, protocol: Any) -> Coroutine[Any, Any, None]:
        return ROUTES.get(scope.path, not_found)(scope, protocol)


app = App()
