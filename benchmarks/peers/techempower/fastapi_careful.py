"""FastAPI at its best: no model of requests or responses, no documentation routes to search."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from careful import Database
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response

database = Database()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    await database.connect()
    yield
    await database.close()


app = FastAPI(lifespan=lifespan, openapi_url=None)


def as_json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


@app.get("/plaintext")
async def plaintext() -> Response:
    return PlainTextResponse(b"Hello, World!")


@app.get("/json")
async def greeting() -> Response:
    return as_json({"message": "Hello, World!"})


@app.get("/db")
async def db() -> Response:
    return as_json(await database.world())


@app.get("/queries")
async def queries(request: Request) -> Response:
    return as_json(await database.worlds(request.query_params.get("queries")))


@app.get("/cached-queries")
async def cached_queries(request: Request) -> Response:
    return as_json(await database.cached(request.query_params.get("count")))


@app.get("/fortunes")
async def fortunes() -> Response:
    return HTMLResponse(await database.fortunes())


@app.get("/updates")
async def updates(request: Request) -> Response:
    return as_json(await database.updated(request.query_params.get("queries")))
