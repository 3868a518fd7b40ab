"""The cases as a bare WSGI callable; every handler is sync, for WSGI has no other."""

from urllib.parse import parse_qs

import orjson


def send_json(start_response, value):
    body = orjson.dumps(value)
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]


def plaintext(environ, start_response):
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", "13")]
    start_response("200 OK", headers)
    return [b"Hello, World!"]


def greeting(environ, start_response):
    return send_json(start_response, {"message": "Hello, World!"})


def echo_json(environ, start_response):
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    return send_json(start_response, orjson.loads(body))


def user(environ, start_response):
    query = parse_qs(environ["QUERY_STRING"])
    answer = {
        "id": int(environ["PATH_INFO"][len("/users/") :]),
        "page": query["page"][0],
        "sort": query["sort"][0],
    }
    return send_json(start_response, answer)


ROUTES = {"/plaintext": plaintext, "/json": greeting, "/echo-json": echo_json}


def app(environ, start_response):
    path = environ["PATH_INFO"]
    handler = ROUTES.get(path)
    if handler is not None:
        return handler(environ, start_response)
    if path.startswith("/users/"):
        return user(environ, start_response)
    start_response("404 Not Found", [("Content-Length", "0")])
    return [b""]
