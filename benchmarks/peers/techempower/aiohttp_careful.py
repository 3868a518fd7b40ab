"""aiohttp's server at its best, on uvloop: `aiohttp_careful.py PORT`."""

import sys
from collections.abc import AsyncIterator
from typing import Any

import orjson
import uvloop
from aiohttp import web
from careful import Database

database = Database()


async def connections(app: web.Application) -> AsyncIterator[None]:
    await database.connect()
    yield
    await database.close()


def as_json(value: Any) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")


async def plaintext(request: web.Request) -> web.Response:
    return web.Response(body=b"Hello, World!", content_type="text/plain")


async def greeting(request: web.Request) -> web.Response:
    return as_json({"message": "Hello, World!"})


async def db(request: web.Request) -> web.Response:
    return as_json(await database.world())


async def queries(request: web.Request) -> web.Response:
    return as_json(await database.worlds(request.query.get("queries")))


async def cached_queries(request: web.Request) -> web.Response:
    return as_json(await database.cached(request.query.get("count")))


async def fortunes(request: web.Request) -> web.Response:
    page = await database.fortunes()
    return web.Response(text=page, content_type="text/html")


async def updates(request: web.Request) -> web.Response:
    return as_json(await database.updated(request.query.get("queries")))


app = web.Application()
app.cleanup_ctx.append(connections)
app.router.add_get("/plaintext", plaintext)
app.router.add_get("/json", greeting)
app.router.add_get("/db", db)
app.router.add_get("/queries", queries)
app.router.add_get("/cached-queries", cached_queries)
app.router.add_get("/fortunes", fortunes)
app.router.add_get("/updates", updates)

if __name__ == "__main__":
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop=uvloop.new_event_loop(),
        access_log=None,
        keepalive_timeout=75,
        backlog=4096,
        print=None,
    )
