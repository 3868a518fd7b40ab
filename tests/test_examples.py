"""examples/: each file imports, and answers what its docstring says."""

import importlib.util
import json
from pathlib import Path

import pytest

from fastserve.testing import TestClient

EXAMPLES = Path(__file__).parent.parent / "examples"

FORM = {"headers": {"content-type": "multipart/form-data; boundary=b"}}
PHOTO = (
    b'--b\r\nContent-Disposition: form-data; name="title"\r\n\r\nHoliday\r\n'
    b'--b\r\nContent-Disposition: form-data; name="photo"; filename="a.png"\r\n'
    b"Content-Type: image/png\r\n\r\n\x89PNG\r\n\x1a\n\r\n--b--\r\n")

# file -> (method, url, keywords, status, what the body begins with)
ASKED = {
    "hello": [
        ("GET", "/", {}, 200, b"Hello, World!"),
        ("GET", "/users/7", {}, 200, b'{"id":7}'),
        ("GET", "/users/x", {}, 404, b""),
        ("POST", "/echo", {"content": b"some bytes"}, 201, b"some bytes"),
    ],
    "bench": [
        ("GET", "/plaintext", {}, 200, b"Hello, World!"),
        ("GET", "/plaintext-async", {}, 200, b"Hello, World!"),
        ("GET", "/json", {}, 200, b'{"message":"Hello, World!"}'),
        ("GET", "/users/42?page=2&sort=name", {}, 200, b'{"id":42,"page":"2","sort":"name"}'),
        ("POST", "/echo-json", {"json": {"a": 1}}, 200, b'{"a":1}'),
    ],
    "blocking": [
        ("GET", "/quick", {}, 200, b"at once"),
        ("GET", "/slow", {}, 200, b"that took a second"),
    ],
    "errors": [
        ("GET", "/stock/nails", {}, 200, b'{"nails":100}'),
        ("GET", "/stock/unicorns", {}, 404, b"we do not sell unicorns"),
        ("GET", "/take/nails/500", {}, 409, b'{"error":'),
        ("GET", "/bug", {}, 500, b"Internal Server Error"),
    ],
    "files": [
        ("GET", "/assets/style.css", {}, 200, b"h1 {"),
        ("GET", "/assets/", {}, 200, b"<!doctype html>"),
        ("GET", "/assets/users/7", {"headers": {"accept": "text/html"}}, 200, b"<!doctype html>"),
        ("GET", "/assets/users/7", {}, 404, b""),
        ("GET", "/report", {}, 200, b"h1 {"),
    ],
    "lifespan": [
        ("GET", "/visits", {}, 200, b'{"visits":1}'),
        ("GET", "/visits", {}, 200, b'{"visits":2}'),
    ],
    "middleware": [
        ("GET", "/", {}, 200, b"Hello, World!"),
        ("GET", "/admin", {}, 401, b"say the word"),
        ("GET", "/admin", {"headers": {"authorization": "let-me-in"}}, 200, b"Welcome"),
    ],
    "routing": [
        ("GET", "/api/books/7", {}, 200, b'{"id":7}'),
        ("GET", "/files/a/b/c.txt", {}, 200, b"you asked for a/b/c.txt"),
        ("PUT", "/api/books/7", {}, 200, b'{"id":7,"changed_by":"PUT"}'),
        ("GET", "/api/books/seven", {}, 404, b""),
        ("GET", "/first", {}, 200, b'{"the first book is at":"/api/books/1"}'),
    ],
    "streaming": [
        ("GET", "/count/2", {}, 200, b"0\n1\n"),
        ("GET", "/count/-1", {}, 400, b"there is nothing below zero"),
        ("GET", "/events", {}, 200, b"id: 0\ndata: tick\n\n"),
        ("GET", "/table?rows=3", {}, 200, b"0,0\n1,1\n2,4\n"),
    ],
    "tracing": [
        ("GET", "/orders/7", {}, 200, b'{"id":7,"items":3}'),
    ],
    "upload": [
        ("POST", "/form", {**FORM, "content": PHOTO}, 200,
         b'{"title":"Holiday","name":"a.png","bytes":8,"type":"image/png","is_png":true}'),
        ("POST", "/form", {**FORM, "content": PHOTO.replace(b"; filename", b"; x")}, 400, b"photo"),
        ("POST", "/parts", {**FORM, "content": PHOTO}, 200, b'{"title":"'),
        ("POST", "/parts", {"content": b"a=1"}, 415, b""),
        ("POST", "/count", {"content": b"x" * 1000}, 200, b'{"bytes":1000}'),
    ],
}


def load(path):
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_answers_what_it_says(path):
    """A file without an entry in ASKED fails: an example that nobody runs goes stale."""
    with TestClient(load(path), raise_server_exceptions=False) as client:
        for method, url, keywords, status, begins in ASKED[path.stem]:
            reply = client.request(method, url, **keywords)
            assert (reply.status, reply.body[:len(begins)]) == (status, begins), url


def test_middleware_leaves_its_mark():
    """The header that the example is about is there, on the 401 as well."""
    with TestClient(load(EXAMPLES / "middleware.py")) as client:
        assert "server-timing" in client.get("/").headers
        assert "server-timing" in client.get("/admin").headers


def test_the_inner_span_is_inside_of_that_of_the_request(capsys):
    """Both are printed, and one is the parent of the other."""
    with TestClient(load(EXAMPLES / "tracing.py")) as client:
        client.get("/orders/7")
    printed = capsys.readouterr().out
    inner, outer = (json.loads(text + "}") for text in printed.split("\n}\n")[:2])
    assert (inner["name"], outer["name"]) == ("SELECT items", "GET /orders/{id}")
    assert inner["parent_id"] == outer["context"]["span_id"]
