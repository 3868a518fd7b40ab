"""A server that answers the suite's paths as it is told: rightly, unless a test says otherwise."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from random import sample
from typing import Any
from urllib.parse import parse_qs, urlsplit

# In the order of the messages. The page is written as few would write it, and is right.
FORTUNES = (
    (11, '<script>alert("This should not be displayed in a browser alert box.");</script>'),
    (4, "A bad random number generator: 1, 1, 1, 1, 1, 4.33e+67, 1, 1, 1"),
    (5, "A computer program does what you tell it to do, not what you want it to do."),
    (2, "A computer scientist is someone who fixes things that aren't broken."),
    (8, "A list is only as strong as its weakest link. — Donald Knuth"),
    (0, "Additional fortune added at request time."),
    (3, "After enough decimal places, nobody gives a damn."),
    (7, "Any program that runs right is obsolete."),
    (10, "Computers make very fast, very accurate mistakes."),
    (6, "Emacs is a nice operating system, but I prefer UNIX. — Tom Christaensen"),
    (9, "Feature: A bug with seniority."),
    (1, "fortune: No such file or directory"),
    (12, "フレームワークのベンチマーク"),
)
PAGE = (
    "<!DOCTYPE html><HTML lang='en'><head><meta charset='utf-8'><title>Fortunes</title></head>\n"
    "<body><table><thead><tr><th>id</th><th>message</th></tr></thead>"
    + "".join(f"<tr><td>{id}</td>  <td>{escape(text, quote=id != 2)}</td></tr>\n"
              for id, text in FORTUNES)
    + "</table></body></html>").replace("—", "&mdash;").encode()
_seconds = count(int(time.time()))     # every Date is another, so that no test waits for one


@dataclass
class Reply:
    """What is sent; a header of None is left out."""

    body: bytes
    content_type: str | None = "application/json"
    status: int = 200
    headers: dict[str, str | None] = field(default_factory=dict)


Handler = Callable[[dict[str, str]], Reply]


def as_json(value: Any, **more: Any) -> Reply:
    """A value as its JSON."""
    return Reply(json.dumps(value).encode(), **more)


def rows(number: int) -> list[dict[str, int]]:
    """So many rows of no database."""
    return [{"id": id, "randomNumber": 7} for id in sample(range(1, 10001), number)]


def clamped(text: str | None) -> int:
    """A count as the rules have it."""
    try:
        return min(max(int(text or 1), 1), 500)
    except ValueError:
        return 1


def _list(name: str) -> Handler:
    return lambda query: as_json(rows(clamped(query.get(name))))


RIGHT: dict[str, Handler] = {
    "/plaintext": lambda _: Reply(b"Hello, World!", "text/plain"),
    "/json": lambda _: as_json({"message": "Hello, World!"}),
    "/db": lambda _: as_json(rows(1)[0]),
    "/queries": _list("queries"),
    "/cached-queries": _list("count"),
    "/updates": _list("queries"),
    "/fortunes": lambda _: Reply(PAGE, "text/html; charset=utf-8"),
}


@contextmanager
def serving(**wrong: Handler) -> Iterator[int]:
    """The port of a server that answers `/name` by the handler of that name, else rightly."""
    handlers = {**RIGHT, **{f"/{name.replace('_', '-')}": one for name, one in wrong.items()}}

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = parse_qs(url.query, keep_blank_values=True)
            reply = handlers[url.path]({name: values[0] for name, values in query.items()})
            self.send_response_only(reply.status)
            sent = {
                "Server": "wrong", "Date": formatdate(next(_seconds), usegmt=True),
                "Content-Type": reply.content_type, "Content-Length": str(len(reply.body)),
                **reply.headers}
            for name, value in sent.items():
                if value is not None:
                    self.send_header(name, value)
            if sent["Content-Length"] is None:
                self.close_connection = True
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, format: str, *values: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
