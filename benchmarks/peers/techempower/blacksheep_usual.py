"""The entry that BlackSheep publishes: asyncpg's pool as it comes, structures of msgspec."""

from typing import Any

import msgspec
from blacksheep import Application, Content, Request, Response, get, html
from common import Row, page
from usual import Resetting

database = Resetting()
app = Application()
encode = msgspec.json.Encoder().encode


class World(msgspec.Struct):
    """One row of the answer."""

    id: int
    randomNumber: int


@app.on_start
async def connect(app: Application) -> None:
    await database.connect()


@app.on_stop
async def disconnect(app: Application) -> None:
    await database.close()


def as_json(value: Any) -> Response:
    return Response(200, None, Content(b"application/json", encode(value)))


def as_worlds(rows: list[Row]) -> list[World]:
    return [World(**row) for row in rows]


def first(request: Request, name: str) -> str | None:
    values = request.query.get(name)
    return values[0] if values else None


@get("/json")
async def greeting(request: Request) -> Response:
    return as_json({"message": "Hello, World!"})


@get("/db")
async def db(request: Request) -> Response:
    return as_json(World(**await database.world()))


@get("/queries")
async def queries(request: Request) -> Response:
    return as_json(as_worlds(await database.worlds(first(request, "queries"))))


@get("/cached-queries")
async def cached_queries(request: Request) -> Response:
    return as_json(as_worlds(await database.cached(first(request, "count"))))


@get("/fortunes")
async def fortunes(request: Request) -> Response:
    return html(page(await database.fortune_rows()))


@get("/updates")
async def updates(request: Request) -> Response:
    return as_json(as_worlds(await database.updated(first(request, "queries"))))


@get("/plaintext")
async def plaintext(request: Request) -> Response:
    return Response(200, None, Content(b"text/plain", b"Hello, World!"))
