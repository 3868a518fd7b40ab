"""The cases: which bytes are sent, how, and what the answer must mean."""

import json
from dataclasses import dataclass
from typing import Any

HOST = "Host: bench.example"

# The head that the TechEmpower tests send.
PLAIN_HEAD = (
    HOST,
    "Accept: text/plain,text/html;q=0.9,application/xhtml+xml;q=0.9,application/xml;q=0.8,"
    "*/*;q=0.7",
    "Connection: keep-alive",
)

# The head that a browser sends: a dozen fields, a cookie among them.
BROWSER_HEAD = (
    HOST,
    "Connection: keep-alive",
    "Cache-Control: max-age=0",
    'Sec-CH-UA: "Chromium";v="142", "Not_A Brand";v="99"',
    "Sec-CH-UA-Mobile: ?0",
    "Upgrade-Insecure-Requests: 1",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/142.0.0.0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Sec-Fetch-Site: same-origin",
    "Sec-Fetch-Mode: navigate",
    "Accept-Encoding: identity",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8",
    "Cookie: session=6f1e1c7a9d8b4c0f; theme=dark; consent=1",
)


def _one_kib_document() -> dict[str, Any]:
    """A JSON document of exactly 1,024 bytes in its compact form."""
    items = [
        {"id": n, "name": f"item {n}", "price": 9.5 + n, "tags": ["new", "sale"], "stock": n > 5}
        for n in range(12)
    ]
    document: dict[str, Any] = {"order": 4711, "customer": "Åsa Öberg", "items": items, "note": ""}
    document["note"] = "x" * (1024 - len(_compact(document)))
    return document


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


DOCUMENT = _one_kib_document()
GREETING = {"message": "Hello, World!"}


def request(line: str, head: tuple[str, ...], body: bytes = b"") -> bytes:
    if body:
        head = (*head, "Content-Type: application/json", f"Content-Length: {len(body)}")
    return "\r\n".join((f"{line} HTTP/1.1", *head, "", "")).encode() + body


@dataclass(frozen=True)
class Case:
    """One thing that is measured.

    kind:   load (CPU per request), idle (memory per connection), import, start-up
    mode:   keep (connections stay) or new (one request per connection)
    depth:  requests that are sent at once on a connection
    expect: the body, as text or as the value that its JSON has
    """

    name: str
    title: str
    request: bytes = b""
    expect: Any = None
    kind: str = "load"
    mode: str = "keep"
    depth: int = 1
    connections: int | None = None


TEXT = "Hello, World!"
_plain = request("GET /plaintext", PLAIN_HEAD)
_plain_async = request("GET /plaintext-async", PLAIN_HEAD)
_closing = request("GET /plaintext", (*PLAIN_HEAD[:2], "Connection: close"))
_user = {"id": 12345, "page": "2", "sort": "name"}

# In the order in which they are reported: pipelined figures never first.
CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case("plaintext", "Plain text, sync handler", _plain, TEXT),
        Case("plaintext-async", "Plain text, async handler", _plain_async, TEXT),
        Case("json", "JSON, async handler", request("GET /json", PLAIN_HEAD), GREETING),
        Case(
            "params",
            "Browser-like request, a path parameter and two query values read, async handler",
            request("GET /users/12345?page=2&sort=name", BROWSER_HEAD),
            _user,
        ),
        Case(
            "browser",
            "Browser-like request to plain text, sync handler",
            request("GET /plaintext", BROWSER_HEAD),
            TEXT,
        ),
        Case(
            "post-json",
            "POST of 1 KiB of JSON, parsed and answered, async handler",
            request("POST /echo-json", PLAIN_HEAD, _compact(DOCUMENT)),
            DOCUMENT,
        ),
        Case(
            "new-connection",
            "A new connection for every request, plain text, sync handler",
            _closing,
            TEXT,
            mode="new",
        ),
        Case("pipelined-16", "Pipelined x 16, plain text, sync handler", _plain, TEXT, depth=16),
        Case(
            "pipelined-16-async",
            "Pipelined x 16, plain text, async handler",
            _plain_async,
            TEXT,
            depth=16,
        ),
        Case("idle", "Idle keep-alive connections", _plain, TEXT, kind="idle", connections=8000),
        Case("import", "Import time", kind="import"),
        Case("start-up", "Start of the process to the first answer", _plain, TEXT, kind="start-up"),
    )
}
