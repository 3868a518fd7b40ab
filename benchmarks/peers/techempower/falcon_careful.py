"""Falcon's ASGI application at its best: bodies as bytes, which no media handler touches."""

from typing import Any

import falcon.asgi
import orjson
from careful import Database
from falcon.asgi import Request, Response

HTML = "text/html; charset=utf-8"

database = Database()


class Connections:
    """Opens the database when the worker starts and closes it when the worker stops."""

    async def process_startup(self, scope: Any, event: Any) -> None:
        await database.connect()

    async def process_shutdown(self, scope: Any, event: Any) -> None:
        await database.close()


class Plaintext:
    async def on_get(self, request: Request, response: Response) -> None:
        response.content_type = falcon.MEDIA_TEXT
        response.data = b"Hello, World!"


class Greeting:
    async def on_get(self, request: Request, response: Response) -> None:
        response.data = orjson.dumps({"message": "Hello, World!"})


class Single:
    async def on_get(self, request: Request, response: Response) -> None:
        response.data = orjson.dumps(await database.world())


class Queries:
    async def on_get(self, request: Request, response: Response) -> None:
        response.data = orjson.dumps(await database.worlds(request.get_param("queries")))


class CachedQueries:
    async def on_get(self, request: Request, response: Response) -> None:
        response.data = orjson.dumps(await database.cached(request.get_param("count")))


class Fortunes:
    async def on_get(self, request: Request, response: Response) -> None:
        response.content_type = HTML
        response.data = (await database.fortunes()).encode()


class Updates:
    async def on_get(self, request: Request, response: Response) -> None:
        response.data = orjson.dumps(await database.updated(request.get_param("queries")))


app = falcon.asgi.App(middleware=[Connections()])
app.add_route("/plaintext", Plaintext())
app.add_route("/json", Greeting())
app.add_route("/db", Single())
app.add_route("/queries", Queries())
app.add_route("/cached-queries", CachedQueries())
app.add_route("/fortunes", Fortunes())
app.add_route("/updates", Updates())
