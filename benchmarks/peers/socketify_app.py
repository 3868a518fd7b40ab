"""The cases in socketify (uWebSockets through cffi)."""

import sys

import orjson
from socketify import App, AppListenOptions

app = App()
JSON = b"application/json"
WAITING = set()


def plaintext(response, request):
    response.send(b"Hello, World!")


async def plaintext_async(response, request):
    response.send(b"Hello, World!")


async def greeting(response, request):
    response.send(orjson.dumps({"message": "Hello, World!"}), JSON)


async def user(response, request):
    answer = {
        "id": int(request.get_parameter(0)),
        "page": request.get_query("page"),
        "sort": request.get_query("sort"),
    }
    response.send(orjson.dumps(answer), JSON)


def echo_json(response, request):
    # `await response.get_data()` lets the response be collected too early and aborts the process
    # (socketify 0.0.31); the callback form, with the response kept alive, is sound.
    chunks = []

    def on_data(response, chunk, is_end):
        chunks.append(chunk)
        if is_end:
            WAITING.discard(response)
            response.send(orjson.dumps(orjson.loads(b"".join(chunks))), JSON)

    WAITING.add(response)
    response.on_data(on_data)


app.get("/plaintext", plaintext)
app.get("/plaintext-async", plaintext_async)
app.get("/json", greeting)
app.get("/users/:id", user)
app.post("/echo-json", echo_json)

if __name__ == "__main__":
    app.listen(AppListenOptions(port=int(sys.argv[-1]), host="127.0.0.1"), lambda config: None)
    app.run()
