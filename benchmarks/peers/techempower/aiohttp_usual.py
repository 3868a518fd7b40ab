"""The entry that aiohttp publishes: `aiohttp_usual.py PORT`.

A small pool without reset, the reads of a request in one batch, more than five writes in one
statement; orjson. Where it takes the number of rows from the path, this takes it from the query.
"""

import sys
from collections.abc import AsyncIterator
from typing import Any

import uvloop
from aiohttp import web
from common import Row, worlds
from orjson import dumps
from usual import READ, Batching, as_rows, some_updates

WRITE = 'UPDATE "world" SET "randomnumber"=$2 WHERE id=$1'
WRITE_ALL = (
    'UPDATE "world" w SET "randomnumber"=u.number FROM'
    " (SELECT unnest($1::int[]) AS id, unnest($2::int[]) AS number) u WHERE w.id = u.id"
)
FEW = 5


class Database(Batching):
    """Batching, with writes in one statement where they are more than a few."""

    async def updated(self, text: str | None) -> list[Row]:
        """As many worlds, read and then written with new numbers."""
        updates = some_updates(worlds.count_of(text))
        ids = [world_id for world_id, _ in updates]
        async with self.pool.acquire() as connection:
            await connection.executemany(READ, [(world_id,) for world_id in ids])
            if len(ids) <= FEW:
                await connection.executemany(WRITE, updates)
            else:
                await connection.execute(WRITE_ALL, ids, [number for _, number in updates])
        return as_rows(updates)


database = Database()


async def connections(app: web.Application) -> AsyncIterator[None]:
    await database.connect()
    yield
    await database.close()


def as_json(value: Any) -> web.Response:
    return web.Response(body=dumps(value), content_type="application/json")


async def greeting(request: web.Request) -> web.Response:
    return as_json({"message": "Hello, World!"})


async def db(request: web.Request) -> web.Response:
    return as_json(await database.world())


async def queries(request: web.Request) -> web.Response:
    return as_json(await database.worlds(request.query.get("queries")))


async def cached_queries(request: web.Request) -> web.Response:
    return as_json(await database.cached(request.query.get("count")))


async def fortunes(request: web.Request) -> web.Response:
    return web.Response(text=await database.fortunes(), content_type="text/html")


async def updates(request: web.Request) -> web.Response:
    return as_json(await database.updated(request.query.get("queries")))


async def plaintext(request: web.Request) -> web.Response:
    return web.Response(body=b"Hello, World!", content_type="text/plain")


app = web.Application()
app.cleanup_ctx.append(connections)
app.router.add_get("/json", greeting)
app.router.add_get("/plaintext", plaintext)
app.router.add_get("/db", db)
app.router.add_get("/queries", queries)
app.router.add_get("/cached-queries", cached_queries)
app.router.add_get("/fortunes", fortunes)
app.router.add_get("/updates", updates)

if __name__ == "__main__":
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, backlog=2048,
                print=None)
