"""Starlette at its best."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from careful import Database
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

database = Database()


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    await database.connect()
    yield
    await database.close()


def as_json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


async def plaintext(request: Request) -> Response:
    return PlainTextResponse(b"Hello, World!")


async def greeting(request: Request) -> Response:
    return as_json({"message": "Hello, World!"})


async def db(request: Request) -> Response:
    return as_json(await database.world())


async def queries(request: Request) -> Response:
    return as_json(await database.worlds(request.query_params.get("queries")))


async def cached_queries(request: Request) -> Response:
    return as_json(await database.cached(request.query_params.get("count")))


async def fortunes(request: Request) -> Response:
    return HTMLResponse(await database.fortunes())


async def updates(request: Request) -> Response:
    return as_json(await database.updated(request.query_params.get("queries")))


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/plaintext", plaintext),
        Route("/json", greeting),
        Route("/db", db),
        Route("/queries", queries),
        Route("/cached-queries", cached_queries),
        Route("/fortunes", fortunes),
        Route("/updates", updates),
    ],
)
