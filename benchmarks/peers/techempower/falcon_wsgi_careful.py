"""Falcon's WSGI application at its best: bodies as bytes, which no media handler touches."""

import falcon
import orjson
from falcon import Request, Response
from sync_careful import Database

HTML = "text/html; charset=utf-8"

database = Database()


class Plaintext:
    def on_get(self, request: Request, response: Response) -> None:
        response.content_type = falcon.MEDIA_TEXT
        response.data = b"Hello, World!"


class Greeting:
    def on_get(self, request: Request, response: Response) -> None:
        response.data = orjson.dumps({"message": "Hello, World!"})


class Single:
    def on_get(self, request: Request, response: Response) -> None:
        response.data = orjson.dumps(database.world())


class Queries:
    def on_get(self, request: Request, response: Response) -> None:
        response.data = orjson.dumps(database.worlds(request.get_param("queries")))


class CachedQueries:
    def on_get(self, request: Request, response: Response) -> None:
        response.data = orjson.dumps(database.cached(request.get_param("count")))


class Fortunes:
    def on_get(self, request: Request, response: Response) -> None:
        response.content_type = HTML
        response.data = database.fortunes().encode()


class Updates:
    def on_get(self, request: Request, response: Response) -> None:
        response.data = orjson.dumps(database.updated(request.get_param("queries")))


app = falcon.App()
app.add_route("/plaintext", Plaintext())
app.add_route("/json", Greeting())
app.add_route("/db", Single())
app.add_route("/queries", Queries())
app.add_route("/cached-queries", CachedQueries())
app.add_route("/fortunes", Fortunes())
app.add_route("/updates", Updates())
