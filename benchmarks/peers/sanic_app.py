"""The cases in Sanic, in one process without its manager."""

import sys

import orjson
from sanic import Sanic
from sanic.response import json, text

app = Sanic("bench", dumps=orjson.dumps, loads=orjson.loads)
app.config.update({"KEEP_ALIVE_TIMEOUT": 75, "MOTD": False, "ACCESS_LOG": False})


@app.get("/plaintext")
def plaintext(request):
    return text("Hello, World!")


@app.get("/plaintext-async")
async def plaintext_async(request):
    return text("Hello, World!")


@app.get("/json")
async def greeting(request):
    return json({"message": "Hello, World!"})


@app.get("/users/<id:int>")
async def user(request, id):
    return json({"id": id, "page": request.args["page"][0], "sort": request.args["sort"][0]})


@app.post("/echo-json")
async def echo_json(request):
    return json(request.json)


if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[-1]), single_process=True, access_log=False, motd=False)
