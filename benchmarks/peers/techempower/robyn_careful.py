"""Robyn at its best: `robyn_careful.py --log-level ERROR PORT`.

No route is `const`: those are answered without running Python. Robyn sends no Server header of its
own, which the suite asks for, so its entry adds one; so does this.
"""

import sys
from typing import Any

import orjson
from careful import Database
from robyn import Request, Response, Robyn

TEXT = {"content-type": "text/plain; charset=utf-8"}
JSON = {"content-type": "application/json"}
HTML = {"content-type": "text/html; charset=utf-8"}

app = Robyn(__file__)
database = Database()


@app.startup_handler
async def connect() -> None:
    await database.connect()


@app.shutdown_handler
async def disconnect() -> None:
    await database.close()


def as_json(value: Any) -> Response:
    return Response(200, JSON, orjson.dumps(value))


@app.get("/plaintext")
def plaintext() -> Response:
    return Response(200, TEXT, b"Hello, World!")


@app.get("/json")
def greeting() -> Response:
    return as_json({"message": "Hello, World!"})


@app.get("/db")
async def db() -> Response:
    return as_json(await database.world())


@app.get("/queries")
async def queries(request: Request) -> Response:
    return as_json(await database.worlds(request.query_params.get("queries", None)))


@app.get("/cached-queries")
async def cached_queries(request: Request) -> Response:
    return as_json(await database.cached(request.query_params.get("count", None)))


@app.get("/fortunes")
async def fortunes() -> Response:
    return Response(200, HTML, await database.fortunes())


@app.get("/updates")
async def updates(request: Request) -> Response:
    return as_json(await database.updated(request.query_params.get("queries", None)))


if __name__ == "__main__":
    app.add_response_header("Server", "Robyn")
    app.start(host="127.0.0.1", port=int(sys.argv[-1]), keep_alive_timeout=75)
