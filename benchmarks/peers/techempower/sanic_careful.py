"""Sanic at its best, in one process without its manager: `sanic_careful.py PORT`.

Sanic sends neither Server nor Date, which the suite asks for, so its entry adds them; here the
date is written once a second and not for each answer.
"""

import asyncio
import sys
from email.utils import formatdate
from typing import Any

import orjson
from careful import Database
from sanic import HTTPResponse, Request, Sanic
from sanic.response import html, raw, text

app = Sanic("techempower")
app.config.update({"KEEP_ALIVE_TIMEOUT": 75, "MOTD": False, "ACCESS_LOG": False})

database = Database()
headers = {"Server": "Sanic"}


async def clock(app: Sanic) -> None:
    while True:
        headers["Date"] = formatdate(usegmt=True)
        await asyncio.sleep(1)


@app.before_server_start
async def connect(app: Sanic) -> None:
    await database.connect()
    app.add_task(clock(app))


@app.after_server_stop
async def disconnect(app: Sanic) -> None:
    await database.close()


def as_json(value: Any) -> HTTPResponse:
    return raw(orjson.dumps(value), content_type="application/json", headers=headers)


@app.get("/plaintext")
async def plaintext(request: Request) -> HTTPResponse:
    return text("Hello, World!", headers=headers)


@app.get("/json")
async def greeting(request: Request) -> HTTPResponse:
    return as_json({"message": "Hello, World!"})


@app.get("/db")
async def db(request: Request) -> HTTPResponse:
    return as_json(await database.world())


@app.get("/queries")
async def queries(request: Request) -> HTTPResponse:
    return as_json(await database.worlds(request.args.get("queries")))


@app.get("/cached-queries")
async def cached_queries(request: Request) -> HTTPResponse:
    return as_json(await database.cached(request.args.get("count")))


@app.get("/fortunes")
async def fortunes(request: Request) -> HTTPResponse:
    return html(await database.fortunes(), headers=headers)


@app.get("/updates")
async def updates(request: Request) -> HTTPResponse:
    return as_json(await database.updated(request.args.get("queries")))


if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[1]), single_process=True, access_log=False, motd=False,
            backlog=4096)
