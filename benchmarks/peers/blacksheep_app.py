"""The cases in BlackSheep."""

import orjson
from blacksheep import Application, Content, Request, Response, get, post
from blacksheep.settings.json import json_settings

json_settings.use(loads=orjson.loads, dumps=lambda value: orjson.dumps(value).decode())

app = Application()


def as_json(value):
    return Response(200, None, Content(b"application/json", orjson.dumps(value)))


def as_text(value):
    return Response(200, None, Content(b"text/plain; charset=utf-8", value))


@get("/plaintext")
def plaintext(request: Request):
    return as_text(b"Hello, World!")


@get("/plaintext-async")
async def plaintext_async(request: Request):
    return as_text(b"Hello, World!")


@get("/json")
async def greeting(request: Request):
    return as_json({"message": "Hello, World!"})


@get("/users/{int:id}")
async def user(request: Request, id: int):
    query = request.query
    return as_json({"id": id, "page": query["page"][0], "sort": query["sort"][0]})


@post("/echo-json")
async def echo_json(request: Request):
    return as_json(await request.json())
