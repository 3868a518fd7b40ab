"""The seven tests of the TechEmpower suite on fastserve, with SQL as one writes it by hand.

    DATABASE_URL=postgresql://... fastserve run benchmarks/techempower/app.py

POOL_SIZE is the number of connections of a worker. Every row is read by a query of its own, which
ends before the next is sent; of the writes the suite's rules allow one statement for all.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import worlds
from cachetools import LRUCache
from careful_pool import Pool
from fortunes import page

from fastserve import App, Request, Response

DATABASE_URL = "postgresql://benchmarkdbuser:benchmarkdbpass@tfb-database:5432/hello_world"
STATEMENTS = {"world": worlds.WORLD, "fortunes": worlds.FORTUNES, "update": worlds.UPDATE}
Result = TypeVar("Result")


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[dict[str, Any]]:
    pool = await Pool.open(
        worlds.generic(os.environ.get("DATABASE_URL", DATABASE_URL)),
        size=int(os.environ.get("POOL_SIZE", "4")),
        statements=STATEMENTS)
    yield {"pool": pool, "cache": LRUCache(maxsize=worlds.ROWS)}
    await pool.close()


app = App(lifespan=lifespan)


async def connected(use: Callable[[Any], Awaitable[Result]]) -> Result:
    """What `use` returns for a connection, which it has to itself meanwhile."""
    pool = app.state.pool
    connection = pool.take() or await pool.wait()
    try:
        result = await use(connection)
    except BaseException:
        pool.discard(connection)
        raise
    pool.give(connection)
    return result


async def read(connection: Any, ids: list[int]) -> list[dict[str, int]]:
    fetch = connection.world.fetchrow
    rows = [await fetch(id) for id in ids]
    return [{"id": id, "randomNumber": number} for id, number in rows]


@app.get("/plaintext")
def plaintext() -> str:
    return "Hello, World!"


@app.get("/json")
def json() -> dict[str, str]:
    return {"message": "Hello, World!"}


@app.get("/db")
async def db() -> dict[str, int]:
    id, number = await connected(lambda connection: connection.world.fetchrow(worlds.some_id()))
    return {"id": id, "randomNumber": number}


@app.get("/queries")
async def queries(request: Request) -> list[dict[str, int]]:
    ids = worlds.some_ids(worlds.count_of(request.query.get("queries")))
    return await connected(lambda connection: read(connection, ids))


@app.get("/cached-queries")
async def cached_queries(request: Request) -> list[dict[str, int]]:
    cache = app.state.cache
    ids = worlds.some_ids(worlds.count_of(request.query.get("count")))
    if missing := [id for id in ids if id not in cache]:
        for row in await connected(lambda connection: read(connection, missing)):
            cache[row["id"]] = row
    return [cache[id] for id in ids]


@app.get("/fortunes")
async def fortunes() -> Response:
    return Response.html(page(await connected(lambda connection: connection.fortunes.fetch())))


@app.get("/updates")
async def updates(request: Request) -> list[dict[str, int]]:
    ids = worlds.some_ids(worlds.count_of(request.query.get("queries")))
    return await connected(lambda connection: renew(connection, ids))


async def renew(connection: Any, ids: list[int]) -> list[dict[str, int]]:
    rows = await read(connection, ids)
    for row, number in zip(rows, worlds.some_numbers(len(ids)), strict=True):
        row["randomNumber"] = number
    await connection.update.fetch(ids, [row["randomNumber"] for row in rows])
    return rows
