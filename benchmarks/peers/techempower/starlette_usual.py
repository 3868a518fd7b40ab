"""The entry that Starlette publishes: asyncpg's pool as it comes, the standard library's JSON.

Its answers to /plaintext and /json are made once and not for each request, as published.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from operator import itemgetter

from common import SUITE, worlds
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.templating import Jinja2Templates
from usual import Resetting

templates = Jinja2Templates(directory=SUITE / "templates")
database = Resetting()


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    await database.connect()
    yield
    await database.close()


async def db(request: Request) -> Response:
    return JSONResponse(await database.world())


async def queries(request: Request) -> Response:
    return JSONResponse(await database.worlds(request.query_params.get("queries")))


async def cached_queries(request: Request) -> Response:
    return JSONResponse(await database.cached(request.query_params.get("count")))


async def fortunes(request: Request) -> Response:
    rows = await database.fortune_rows()
    rows.append(worlds.EXTRA)
    rows.sort(key=itemgetter(1))
    return templates.TemplateResponse(request, "fortunes.html", {"fortunes": rows})


async def updates(request: Request) -> Response:
    return JSONResponse(await database.updated(request.query_params.get("queries")))


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/json", JSONResponse({"message": "Hello, World!"})),
        Route("/db", db),
        Route("/queries", queries),
        Route("/cached-queries", cached_queries),
        Route("/fortunes", fortunes),
        Route("/updates", updates),
        Route("/plaintext", PlainTextResponse(b"Hello, World!")),
    ],
)
