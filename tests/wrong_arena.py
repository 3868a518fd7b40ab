"""A server of the arena's profiles without a database, right or wrong in one way.

`make(data, wrong)` gives an App; wrong is None, or one of WRONG: the rule it breaks, by name.
"""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

from fastserve import App, HTTPError, Request, Response

# What is wrong -> the profile that finds it.
WRONG = {
    "sum known by heart": "baseline", "body ignored": "baseline", "answer kept by path": "baseline",
    "sum as JSON": "baseline", "closes each time": "limited-conn", "another word": "pipelined",
    "total without the factor": "json", "total with a fraction": "json", "one item less": "json",
    "JSON kept by path": "json", "items of its own": "json", "JSON as text": "json",
    "never compressed": "json-comp", "always compressed": "json-comp",
    "compressed and cut": "json-comp", "total without the factor, TLS": "json-tls",
    "length believed": "upload", "length known by heart": "upload",
    "wrong type of CSS": "static", "another file when compressed": "static",
    "a page for what is not there": "static", "a tag that is not known again": "static",
    "file kept": "static", "file cut": "static",
    "limit ignored": "async-db", "range ignored": "async-db", "limit without bound": "async-db",
    "no defaults": "async-db", "tags as text": "async-db", "never empty": "async-db",
    "category ignored": "crud", "pages alike": "crud", "never kept": "crud",
    "kept for ever": "crud",
    "kept beyond a change": "crud", "nothing is missing": "crud", "no 201": "crud",
    "change not kept": "crud", "change of nothing": "crud",
    "error of the server's for noise": "noise", "anything goes": "noise",
}
ITEMS = [
    {"id": id, "name": f"Item {id}", "category": ("electronics", "office")[id % 2],
     "price": id % 500 + 1, "quantity": 3, "active": bool(id % 3), "tags": ["a"],
     "rating": {"score": 1, "count": 2}}
    for id in range(1, 1201)]


def make(data: Path, wrong: str | None = None) -> App:
    """The application; `data` holds dataset.json and static/."""
    app = App()
    for add in (_sums, _json, _uploads, _files, _ranges, _crud):
        add(app, data, wrong)
    return app


def _sums(app: App, data: Path, wrong: str | None) -> None:
    kept: dict[bytes, int] = {}

    @app.route("/baseline11", methods=["GET", "POST"])
    async def add(request: Request) -> Any:
        if wrong == "error of the server's for noise" and "a" not in request.query:
            raise HTTPError(500)
        body = await request.body()
        try:
            total = int(request.query["a"]) + int(request.query["b"])
            total += int(body or 0) if wrong != "body ignored" else 0
        except (KeyError, ValueError):
            raise HTTPError(400) from None
        if wrong == "sum known by heart":
            total = 75 if body else 55
        if wrong == "answer kept by path":
            total = kept.setdefault(request.target + request.method.encode(), total)
        headers = {"connection": "close"} if wrong == "closes each time" else {}
        answer = Response.text(str(total), headers=headers)
        if wrong == "sum as JSON":
            answer.content_type = "application/json"
        return answer

    @app.get("/pipeline")
    def pipeline() -> str:
        return "OK" if wrong == "another word" else "ok"

    if wrong == "anything goes":
        app.get("/{path:path}")(lambda path: "welcome")


def _json(app: App, data: Path, wrong: str | None) -> None:
    known = json.loads((data / "dataset.json").read_text())
    kept: dict[int, bytes] = {}

    @app.get("/json/{count:int}")
    def totals(request: Request, count: int) -> Any:
        factor: float = int(request.query.get("m", "1"))
        if wrong in ("total without the factor", "total without the factor, TLS"):
            factor = 1
        factor += 0.5 if wrong == "total with a fraction" else 0
        items = [{**item, "total": item["price"] * item["quantity"] * factor}
                 for item in known[:count]]
        if wrong == "items of its own":
            items[0]["name"] = "Mine"
        shown = items[:-1] if wrong == "one item less" else items
        body = json.dumps({"items": shown, "count": len(items)}).encode()
        if wrong == "JSON kept by path":
            body = kept.setdefault(count, body)
        kind = "text/plain" if wrong == "JSON as text" else "application/json"
        accept = request.headers.get("accept-encoding", "")
        asked = "gzip" in accept and "gzip;q=0" not in accept
        if wrong == "always compressed" or (asked and wrong != "never compressed"):
            packed = gzip.compress(body)
            packed = packed[:-9] if wrong == "compressed and cut" else packed
            return Response(packed, headers={"content-encoding": "gzip"}, content_type=kind)
        return Response(body, content_type=kind)


def _uploads(app: App, data: Path, wrong: str | None) -> None:
    @app.post("/upload")
    async def upload(request: Request) -> str:
        size = 0
        async for piece in request.stream():
            size += len(piece)
        if wrong == "length known by heart":
            return "17"
        return request.headers.get("content-length", "0") if wrong == "length believed" else str(
            size)


def _files(app: App, data: Path, wrong: str | None) -> None:
    keep_bytes = 131072 if wrong == "file kept" else 0
    app.static("/files", data / "static", keep_bytes=keep_bytes,
               fallback="header.html" if wrong == "a page for what is not there" else None)
    handler = next(route.endpoint for route in app.routes if route.path == "/files/{path:path}")
    kept: dict[str, bytes] = {}

    async def static(request: Request, path: str) -> Any:
        coded = "br" in request.headers.get("accept-encoding", "")
        name = data / "static" / path
        if wrong == "a page for what is not there" and not name.exists():
            return "here you are"
        if wrong == "another file when compressed" and coded and path == "app.js":
            return Response((data / "static" / "theme.css.br").read_bytes(), headers={
                "content-encoding": "br"}, content_type="text/javascript")
        if wrong == "file cut" and path == "vendor.js":
            return Response(name.read_bytes()[:-1], content_type="text/javascript")
        if wrong == "wrong type of CSS" and path == "reset.css":
            return Response(name.read_bytes(), content_type="text/plain")
        if wrong == "a tag that is not known again" and path == "app.js":
            return Response(name.read_bytes(), headers={"etag": '"x"'},
                            content_type="text/javascript")
        if wrong == "file kept" and name.suffix == ".txt":
            return Response.text(kept.setdefault(path, name.read_bytes()).decode())
        answer = handler(request, path)
        return await answer if hasattr(answer, "__await__") else answer

    app.get("/static/{path:path}")(static)


def _ranges(app: App, data: Path, wrong: str | None) -> None:
    @app.get("/async-db")
    def in_range(request: Request) -> Any:
        query = request.query
        if wrong == "no defaults" and "min" not in query:
            return {"items": [], "count": 0}
        least, most = int(query.get("min", "10")), int(query.get("max", "50"))
        limit = max(1, min(int(query.get("limit", "50")), 50))
        if wrong == "limit without bound":
            limit = max(1, int(query.get("limit", "50")))
        if wrong == "range ignored":
            least, most = min(least, 1), max(most, 500) if most < 9999 else most
        found = [item for item in ITEMS if least <= item["price"] <= most]
        if wrong == "never empty":
            found = found or ITEMS
        found = found if wrong == "limit ignored" else found[:limit]
        if wrong == "tags as text":
            found = [{**item, "tags": json.dumps(item["tags"])} for item in found]
        return {"items": found, "count": len(found)}


def _crud(app: App, data: Path, wrong: str | None) -> None:
    table: dict[int, dict[str, Any]] = {item["id"]: item for item in ITEMS}
    kept: dict[int, tuple[float, dict[str, Any]]] = {}
    kept_s = {"never kept": -1.0, "kept for ever": 1e9, "kept beyond a change": 0.25}.get(
        wrong or "", 0.2)

    @app.get("/crud/items")
    def page(request: Request) -> Any:
        query = request.query
        limit, number = min(int(query.get("limit", "10")), 50), int(query.get("page", "1"))
        start = 0 if wrong == "pages alike" else (number - 1) * limit
        found = [item for item in table.values()
                 if item["category"] == query["category"] or wrong == "category ignored"]
        found = found[start:start + limit]
        return {"items": found, "total": len(found), "page": number, "limit": limit}

    @app.get("/crud/items/{id:int}")
    def one(id: int) -> Response:
        until, item = kept.get(id, (0.0, {}))
        if time.monotonic() < until:
            return Response.json(item, headers={"x-cache": "HIT"})
        item = table.get(id) or (ITEMS[0] if wrong == "nothing is missing" else {})
        if not item:
            raise HTTPError(404)
        kept[id] = time.monotonic() + kept_s, item
        return Response.json(item, headers={"x-cache": "MISS"})

    @app.post("/crud/items")
    async def create(request: Request) -> Any:
        made = await request.json()
        table[made["id"]] = {**ITEMS[0], **made}
        return table[made["id"]], 200 if wrong == "no 201" else 201

    @app.put("/crud/items/{id:int}")
    async def change(request: Request, id: int) -> Any:
        changed = await request.json()
        if id not in table and wrong != "change of nothing":
            raise HTTPError(404)
        if wrong != "change not kept":
            table[id] = {**table.get(id, ITEMS[0]), **changed}
        if wrong != "kept beyond a change":
            kept.pop(id, None)
        return {"id": id, **changed}
