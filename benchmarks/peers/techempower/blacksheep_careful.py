"""BlackSheep at its best: contents as bytes."""

from typing import Any

import orjson
from blacksheep import Application, Content, Request, Response, get
from careful import Database

database = Database()
app = Application()


@app.on_start
async def connect(app: Application) -> None:
    await database.connect()


@app.on_stop
async def disconnect(app: Application) -> None:
    await database.close()


def as_json(value: Any) -> Response:
    return Response(200, None, Content(b"application/json", orjson.dumps(value)))


def first(request: Request, name: str) -> str | None:
    values = request.query.get(name)
    return values[0] if values else None


@get("/plaintext")
async def plaintext(request: Request) -> Response:
    return Response(200, None, Content(b"text/plain; charset=utf-8", b"Hello, World!"))


@get("/json")
async def greeting(request: Request) -> Response:
    return as_json({"message": "Hello, World!"})


@get("/db")
async def db(request: Request) -> Response:
    return as_json(await database.world())


@get("/queries")
async def queries(request: Request) -> Response:
    return as_json(await database.worlds(first(request, "queries")))


@get("/cached-queries")
async def cached_queries(request: Request) -> Response:
    return as_json(await database.cached(first(request, "count")))


@get("/fortunes")
async def fortunes(request: Request) -> Response:
    page = (await database.fortunes()).encode()
    return Response(200, None, Content(b"text/html; charset=utf-8", page))


@get("/updates")
async def updates(request: Request) -> Response:
    return as_json(await database.updated(first(request, "queries")))
