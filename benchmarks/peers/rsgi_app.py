"""The cases in RSGI, granian's own interface."""

from urllib.parse import parse_qs

import orjson

TEXT = [("content-type", "text/plain; charset=utf-8")]
JSON = [("content-type", "application/json")]


async def plaintext(scope, protocol):
    protocol.response_str(200, TEXT, "Hello, World!")


async def greeting(scope, protocol):
    protocol.response_bytes(200, JSON, orjson.dumps({"message": "Hello, World!"}))


async def echo_json(scope, protocol):
    protocol.response_bytes(200, JSON, orjson.dumps(orjson.loads(await protocol())))


async def user(scope, protocol):
    query = parse_qs(scope.query_string)
    answer = {
        "id": int(scope.path[len("/users/") :]),
        "page": query["page"][0],
        "sort": query["sort"][0],
    }
    protocol.response_bytes(200, JSON, orjson.dumps(answer))


ROUTES = {
    "/plaintext": plaintext,
    "/plaintext-async": plaintext,
    "/json": greeting,
    "/echo-json": echo_json,
}


async def app(scope, protocol):
    path = scope.path
    handler = ROUTES.get(path)
    if handler is not None:
        await handler(scope, protocol)
    elif path.startswith("/users/"):
        await user(scope, protocol)
    else:
        protocol.response_empty(404, [])
