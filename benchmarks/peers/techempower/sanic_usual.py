"""The entry that Sanic publishes: `sanic_usual.py PORT`.

asyncpg's pool as it comes, orjson, the date written anew for each answer. It is one process here.
"""

import sys
from wsgiref.handlers import format_date_time

import sanic
from common import page
from orjson import dumps
from sanic import HTTPResponse, Request, Sanic, response
from usual import Resetting

SERVER = f"Sanic/{sanic.__version__}"

app = Sanic("techempower", dumps=dumps)
database = Resetting()


@app.listener("before_server_start")
async def connect(app: Sanic) -> None:
    await database.connect()


@app.listener("after_server_stop")
async def disconnect(app: Sanic) -> None:
    await database.close()


def headers() -> dict[str, str]:
    return {"Server": SERVER, "Date": format_date_time(None)}


@app.get("/json")
def greeting(request: Request) -> HTTPResponse:
    return response.json({"message": "Hello, World!"}, headers=headers())


@app.get("/db")
async def db(request: Request) -> HTTPResponse:
    return response.json(await database.world(), headers=headers())


@app.get("/queries")
async def queries(request: Request) -> HTTPResponse:
    rows = await database.worlds(request.args.get("queries", "1"))
    return response.json(rows, headers=headers())


@app.get("/cached-queries")
async def cached_queries(request: Request) -> HTTPResponse:
    rows = await database.cached(request.args.get("count", "1"))
    return response.json(rows, headers=headers())


@app.get("/fortunes")
async def fortunes(request: Request) -> HTTPResponse:
    return response.html(page(await database.fortune_rows()), headers=headers())


@app.get("/updates")
async def updates(request: Request) -> HTTPResponse:
    rows = await database.updated(request.args.get("queries", "1"))
    return response.json(rows, headers=headers())


@app.get("/plaintext")
def plaintext(request: Request) -> HTTPResponse:
    return response.text("Hello, World!", headers=headers())


if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[1]), access_log=False, single_process=True, motd=False)
