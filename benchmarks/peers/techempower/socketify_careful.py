"""socketify (uWebSockets through cffi) at its best: `socketify_careful.py PORT`.

A request is read before the first await, for it lives no longer; after one, an answer is corked,
or every header would be a write to the socket. Of its two event loops the one that asyncpg needs is
uvloop's, which costs less than asyncio's own.
"""

import asyncio
import sys
from typing import Any

import orjson
import uvloop
from careful import Database
from socketify import App, AppListenOptions

TEXT = b"text/plain; charset=utf-8"
JSON = b"application/json"
HTML = b"text/html; charset=utf-8"

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
app = App(lifespan=True)
database = Database()


@app.on_start
async def connect() -> None:
    await database.connect()


@app.on_shutdown
async def disconnect() -> None:
    await database.close()


def plaintext(response: Any, request: Any) -> None:
    response.send(b"Hello, World!", TEXT)


def greeting(response: Any, request: Any) -> None:
    response.send(orjson.dumps({"message": "Hello, World!"}), JSON)


async def db(response: Any, request: Any) -> None:
    response.cork_send(orjson.dumps(await database.world()), JSON)


async def queries(response: Any, request: Any) -> None:
    text = request.get_query("queries")
    response.cork_send(orjson.dumps(await database.worlds(text)), JSON)


async def cached_queries(response: Any, request: Any) -> None:
    text = request.get_query("count")
    response.cork_send(orjson.dumps(await database.cached(text)), JSON)


async def fortunes(response: Any, request: Any) -> None:
    response.cork_send(await database.fortunes(), HTML)


async def updates(response: Any, request: Any) -> None:
    text = request.get_query("queries")
    response.cork_send(orjson.dumps(await database.updated(text)), JSON)


app.get("/plaintext", plaintext)
app.get("/json", greeting)
app.get("/db", db)
app.get("/queries", queries)
app.get("/cached-queries", cached_queries)
app.get("/fortunes", fortunes)
app.get("/updates", updates)

if __name__ == "__main__":
    app.listen(AppListenOptions(port=int(sys.argv[1]), host="127.0.0.1"), lambda config: None)
    app.run()
