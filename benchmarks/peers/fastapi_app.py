"""The cases in FastAPI, with its parameter validation and responses made without a model.

Every handler is async: FastAPI would run a plain `def` on a thread, which costs far more.
"""

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response

app = FastAPI(openapi_url=None)


def as_json(value):
    return Response(orjson.dumps(value), media_type="application/json")


@app.get("/plaintext")
@app.get("/plaintext-async")
async def plaintext():
    return PlainTextResponse("Hello, World!")


@app.get("/json")
async def greeting():
    return as_json({"message": "Hello, World!"})


@app.get("/users/{id}")
async def user(id: int, page: str, sort: str):
    return as_json({"id": id, "page": page, "sort": sort})


@app.post("/echo-json")
async def echo_json(request: Request):
    return as_json(orjson.loads(await request.body()))
