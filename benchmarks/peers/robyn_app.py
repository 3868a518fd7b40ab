"""The cases in Robyn. No route is `const`: those are answered without running Python."""

import sys

import orjson
from robyn import Request, Response, Robyn

app = Robyn(__file__)


def as_json(value):
    return Response(200, {"content-type": "application/json"}, orjson.dumps(value))


@app.get("/plaintext")
def plaintext():
    return "Hello, World!"


@app.get("/plaintext-async")
async def plaintext_async():
    return "Hello, World!"


@app.get("/json")
async def greeting():
    return as_json({"message": "Hello, World!"})


@app.get("/users/:id")
async def user(request: Request):
    query = request.query_params
    answer = {"id": int(request.path_params["id"]), "page": query.get("page", None)}
    return as_json({**answer, "sort": query.get("sort", None)})


@app.post("/echo-json")
async def echo_json(request: Request):
    return as_json(orjson.loads(request.body))


if __name__ == "__main__":
    app.start(host="127.0.0.1", port=int(sys.argv[-1]), keep_alive_timeout=75)
