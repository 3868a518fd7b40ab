"""The cases in Japronto 0.1.2, on the Python 3.6 and uvloop 0.14 it was made for.

There is no orjson for that Python; Japronto's own `json=` uses the standard library, and so does
this. Japronto turns a coroutine without an `await` into a plain function by itself.
"""

import json
import sys

from japronto import Application

app = Application()


def plaintext(request):
    return request.Response(text="Hello, World!")


async def plaintext_async(request):
    return request.Response(text="Hello, World!")


async def greeting(request):
    return request.Response(json={"message": "Hello, World!"})


async def user(request):
    query = request.query
    answer = {"id": int(request.match_dict["id"]), "page": query["page"], "sort": query["sort"]}
    return request.Response(json=answer)


async def echo_json(request):
    return request.Response(json=json.loads(request.body.decode()))


app.router.add_route("/plaintext", plaintext, "GET")
app.router.add_route("/plaintext-async", plaintext_async, "GET")
app.router.add_route("/json", greeting, "GET")
app.router.add_route("/users/{id}", user, "GET")
app.router.add_route("/echo-json", echo_json, "POST")

if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[-1]))
