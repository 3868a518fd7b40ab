"""The entry that FastAPI publishes: asyncpg's pool as it comes, ujson, its own templating."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from operator import itemgetter

from common import SUITE, worlds
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response, UJSONResponse
from fastapi.templating import Jinja2Templates
from usual import Resetting

templates = Jinja2Templates(directory=SUITE / "templates")
database = Resetting()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    await database.connect()
    yield
    await database.close()


app = FastAPI(lifespan=lifespan)


@app.get("/json")
async def greeting() -> Response:
    return UJSONResponse({"message": "Hello, World!"})


@app.get("/db")
async def db() -> Response:
    return UJSONResponse(await database.world())


@app.get("/queries")
async def queries(queries: str | None = None) -> Response:
    return UJSONResponse(await database.worlds(queries))


@app.get("/cached-queries")
async def cached_queries(count: str | None = None) -> Response:
    return UJSONResponse(await database.cached(count))


@app.get("/fortunes")
async def fortunes(request: Request) -> Response:
    rows = await database.fortune_rows()
    rows.append(worlds.EXTRA)
    rows.sort(key=itemgetter(1))
    return templates.TemplateResponse(request, "fortunes.html", {"fortunes": rows})


@app.get("/updates")
async def updates(queries: str | None = None) -> Response:
    return UJSONResponse(await database.updated(queries))


@app.get("/plaintext")
async def plaintext() -> Response:
    return PlainTextResponse(b"Hello, World!")
