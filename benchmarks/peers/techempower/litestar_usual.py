"""The entry that Litestar publishes: asyncpg's pool as it comes, its own templating."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from operator import itemgetter
from typing import Any

import orjson
from common import SUITE, worlds
from litestar import Litestar, MediaType, Request, Response, get
from litestar.contrib.jinja import JinjaTemplateEngine
from litestar.response import Template
from litestar.template import TemplateConfig
from usual import Resetting

database = Resetting()


@asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    await database.connect()
    yield
    await database.close()


def as_json(value: Any) -> Response[bytes]:
    return Response(content=orjson.dumps(value), media_type=MediaType.JSON)


@get("/json")
async def greeting() -> Response[bytes]:
    return as_json({"message": "Hello, World!"})


@get("/db")
async def db() -> Response[bytes]:
    return as_json(await database.world())


@get("/queries")
async def queries(queries: Any = None) -> Response[bytes]:
    return as_json(await database.worlds(queries))


@get("/cached-queries")
async def cached_queries(count: Any = None) -> Response[bytes]:
    return as_json(await database.cached(count))


@get("/fortunes", media_type=MediaType.HTML)
async def fortunes(request: Request[Any, Any, Any]) -> Template:
    rows = await database.fortune_rows()
    rows.append(worlds.EXTRA)
    rows.sort(key=itemgetter(1))
    context = {"fortunes": rows, "request": request}
    return Template("fortunes.html", context=context, media_type=MediaType.HTML)


@get("/updates")
async def updates(queries: Any = None) -> Response[bytes]:
    return as_json(await database.updated(queries))


@get("/plaintext", media_type=MediaType.TEXT)
async def plaintext() -> bytes:
    return b"Hello, World!"


app = Litestar(
    [greeting, db, queries, cached_queries, fortunes, updates, plaintext],
    lifespan=[lifespan],
    template_config=TemplateConfig(directory=SUITE / "templates", engine=JinjaTemplateEngine),
)
