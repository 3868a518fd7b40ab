"""Litestar at its best: bodies as bytes, neither its log nor its documentation set up."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from careful import Database
from litestar import Litestar, MediaType, Response, get

database = Database()


@asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    await database.connect()
    yield
    await database.close()


def as_json(value: Any) -> Response[bytes]:
    return Response(orjson.dumps(value), media_type=MediaType.JSON)


@get("/plaintext", media_type=MediaType.TEXT)
async def plaintext() -> bytes:
    return b"Hello, World!"


@get("/json")
async def greeting() -> Response[bytes]:
    return as_json({"message": "Hello, World!"})


@get("/db")
async def db() -> Response[bytes]:
    return as_json(await database.world())


@get("/queries")
async def queries(queries: str | None = None) -> Response[bytes]:
    return as_json(await database.worlds(queries))


@get("/cached-queries")
async def cached_queries(count: str | None = None) -> Response[bytes]:
    return as_json(await database.cached(count))


@get("/fortunes", media_type=MediaType.HTML)
async def fortunes() -> str:
    return await database.fortunes()


@get("/updates")
async def updates(queries: str | None = None) -> Response[bytes]:
    return as_json(await database.updated(queries))


app = Litestar(
    [plaintext, greeting, db, queries, cached_queries, fortunes, updates],
    lifespan=[lifespan],
    openapi_config=None,
    logging_config=None,
)
