"""The cases in Starlette.

Every handler is async: Starlette would run a plain `def` on a thread, which costs far more.
"""

import orjson
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route


class OrjsonResponse(Response):
    media_type = "application/json"

    def render(self, content):
        return orjson.dumps(content)


async def plaintext(request):
    return PlainTextResponse("Hello, World!")


async def greeting(request):
    return OrjsonResponse({"message": "Hello, World!"})


async def user(request):
    query = request.query_params
    answer = {"id": request.path_params["id"], "page": query["page"], "sort": query["sort"]}
    return OrjsonResponse(answer)


async def echo_json(request):
    return OrjsonResponse(orjson.loads(await request.body()))


app = Starlette(
    routes=[
        Route("/plaintext", plaintext),
        Route("/plaintext-async", plaintext),
        Route("/json", greeting),
        Route("/users/{id:int}", user),
        Route("/echo-json", echo_json, methods=["POST"]),
    ]
)
