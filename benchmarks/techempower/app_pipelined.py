"""The seven tests of the TechEmpower suite on fastserve, with queries that do not wait in line.

    DATABASE_URL=postgresql://... fastserve run benchmarks/techempower/app_pipelined.py

POOL_SIZE is the number of connections of a worker. Every row is read by a query of its own, with
a Sync of its own behind it; the answers of those before it are not waited for. Of the writes the
suite's rules allow one statement for all.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import worlds
from cachetools import LRUCache
from fortunes import page
from pipelined_pool import PipelinedPool

from fastserve import App, Request, Response

DATABASE_URL = "postgresql://benchmarkdbuser:benchmarkdbpass@tfb-database:5432/hello_world"
STATEMENTS = {"world": worlds.WORLD, "fortunes": worlds.FORTUNES, "update": worlds.UPDATE}


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[dict[str, Any]]:
    pool = await PipelinedPool.open(
        worlds.generic(os.environ.get("DATABASE_URL", DATABASE_URL)),
        size=int(os.environ.get("POOL_SIZE", "4")),
        statements=STATEMENTS)
    yield {"pool": pool, "cache": LRUCache(maxsize=worlds.ROWS)}
    pool.close()


app = App(lifespan=lifespan)


async def read(ids: list[int]) -> list[dict[str, int]]:
    results = await app.state.pool.run("world", [(id,) for id in ids])
    return [{"id": id, "randomNumber": number} for [(id, number)] in results]


@app.get("/plaintext")
def plaintext() -> str:
    return "Hello, World!"


@app.get("/json")
def json() -> dict[str, str]:
    return {"message": "Hello, World!"}


@app.get("/db")
async def db() -> dict[str, int]:
    [row] = await read([worlds.some_id()])
    return row


@app.get("/queries")
async def queries(request: Request) -> list[dict[str, int]]:
    return await read(worlds.some_ids(worlds.count_of(request.query.get("queries"))))


@app.get("/cached-queries")
async def cached_queries(request: Request) -> list[dict[str, int]]:
    cache = app.state.cache
    ids = worlds.some_ids(worlds.count_of(request.query.get("count")))
    if missing := [id for id in ids if id not in cache]:
        for row in await read(missing):
            cache[row["id"]] = row
    return [cache[id] for id in ids]


@app.get("/fortunes")
async def fortunes() -> Response:
    [rows] = await app.state.pool.run("fortunes", [()])
    return Response.html(page(rows))


@app.get("/updates")
async def updates(request: Request) -> list[dict[str, int]]:
    ids = worlds.some_ids(worlds.count_of(request.query.get("queries")))
    rows = await read(ids)
    for row, number in zip(rows, worlds.some_numbers(len(ids)), strict=True):
        row["randomNumber"] = number
    await app.state.pool.run("update", [(ids, [row["randomNumber"] for row in rows])])
    return rows
