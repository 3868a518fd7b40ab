"""The cases in aiohttp on uvloop."""

import sys

import orjson
import uvloop
from aiohttp import web


def as_json(value):
    return web.Response(body=orjson.dumps(value), content_type="application/json")


async def plaintext(request):
    return web.Response(text="Hello, World!")


async def greeting(request):
    return as_json({"message": "Hello, World!"})


async def user(request):
    query = request.query
    answer = {"id": int(request.match_info["id"]), "page": query["page"], "sort": query["sort"]}
    return as_json(answer)


async def echo_json(request):
    return as_json(await request.json(loads=orjson.loads))


app = web.Application()
app.router.add_get("/plaintext", plaintext)
app.router.add_get("/plaintext-async", plaintext)
app.router.add_get("/json", greeting)
app.router.add_get(r"/users/{id:\d+}", user)
app.router.add_post("/echo-json", echo_json)

if __name__ == "__main__":
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(sys.argv[-1]),
        loop=uvloop.new_event_loop(),
        access_log=None,
        keepalive_timeout=75,
        print=None,
    )
