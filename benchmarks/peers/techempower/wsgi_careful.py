"""A bare WSGI callable at its best: fastpysgi serves it."""

from typing import Any

import orjson
from common import parameter
from sync_careful import Database

JSON = ("Content-Type", "application/json")
HTML = ("Content-Type", "text/html; charset=utf-8")
TEXT_HEADERS = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", "13")]

database = Database()


def answer(start_response: Any, kind: tuple[str, str], body: bytes) -> list[bytes]:
    start_response("200 OK", [kind, ("Content-Length", str(len(body)))])
    return [body]


def plaintext(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", TEXT_HEADERS)
    return [b"Hello, World!"]


def greeting(environ: Any, start_response: Any) -> list[bytes]:
    return answer(start_response, JSON, orjson.dumps({"message": "Hello, World!"}))


def db(environ: Any, start_response: Any) -> list[bytes]:
    return answer(start_response, JSON, orjson.dumps(database.world()))


def queries(environ: Any, start_response: Any) -> list[bytes]:
    rows = database.worlds(parameter(environ["QUERY_STRING"], "queries"))
    return answer(start_response, JSON, orjson.dumps(rows))


def cached_queries(environ: Any, start_response: Any) -> list[bytes]:
    rows = database.cached(parameter(environ["QUERY_STRING"], "count"))
    return answer(start_response, JSON, orjson.dumps(rows))


def fortunes(environ: Any, start_response: Any) -> list[bytes]:
    return answer(start_response, HTML, database.fortunes().encode())


def updates(environ: Any, start_response: Any) -> list[bytes]:
    rows = database.updated(parameter(environ["QUERY_STRING"], "queries"))
    return answer(start_response, JSON, orjson.dumps(rows))


def not_found(environ: Any, start_response: Any) -> list[bytes]:
    start_response("404 Not Found", [("Content-Length", "0")])
    return [b""]


ROUTES = {
    "/plaintext": plaintext,
    "/json": greeting,
    "/db": db,
    "/queries": queries,
    "/cached-queries": cached_queries,
    "/fortunes": fortunes,
    "/updates": updates,
}


def app(environ: Any, start_response: Any) -> list[bytes]:
    return ROUTES.get(environ["PATH_INFO"], not_found)(environ, start_response)
