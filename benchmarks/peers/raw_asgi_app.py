"""The cases as a bare ASGI callable: the least Python that a correct answer needs."""

from urllib.parse import parse_qs

import orjson

TEXT = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"13")]


async def send_json(send, value):
    body = orjson.dumps(value)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def read_body(receive):
    message = await receive()
    if not message.get("more_body"):
        return message["body"]
    chunks = [message["body"]]
    while message.get("more_body"):
        message = await receive()
        chunks.append(message["body"])
    return b"".join(chunks)


async def plaintext(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": TEXT})
    await send({"type": "http.response.body", "body": b"Hello, World!"})


async def greeting(scope, receive, send):
    await send_json(send, {"message": "Hello, World!"})


async def echo_json(scope, receive, send):
    await send_json(send, orjson.loads(await read_body(receive)))


async def user(scope, receive, send):
    query = parse_qs(scope["query_string"].decode())
    answer = {
        "id": int(scope["path"][len("/users/") :]),
        "page": query["page"][0],
        "sort": query["sort"][0],
    }
    await send_json(send, answer)


async def not_found(scope, receive, send):
    headers = [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 404, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


ROUTES = {
    "/plaintext": plaintext,
    "/plaintext-async": plaintext,
    "/json": greeting,
    "/echo-json": echo_json,
}


async def lifespan(scope, receive, send):
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
        return
    path = scope["path"]
    handler = ROUTES.get(path)
    if handler is None:
        handler = user if path.startswith("/users/") else not_found
    await handler(scope, receive, send)
