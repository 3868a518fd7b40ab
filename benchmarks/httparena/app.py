"""The arena's HTTP/1.1 profiles on fastserve.

    fastserve run app.py --port 8080

Baseline, pipelined, JSON, upload and static files are here, those of the database in items.py.
DATA_DIR (/data unless it is set) holds dataset.json and static/.
"""

import os
from pathlib import Path
from typing import Any

import items
from inputs import INTEGER_MOST, whole
from orjson import loads

from fastserve import App, Request

DATA = Path(os.environ.get("DATA_DIR", "/data"))
DATASET: list[dict[str, Any]] = loads((DATA / "dataset.json").read_bytes())

app = App(lifespan=items.lifespan)
app.include(items.router)
# The arena wants each request to read its file; else small ones are kept for a second.
app.static("/static", DATA / "static", keep_bytes=0)


@app.get("/pipeline")
def pipeline() -> str:
    return "ok"


@app.get("/baseline11")
def add(request: Request) -> str:
    query = request.query
    return str(whole(query.get("a")) + whole(query.get("b")))


@app.post("/baseline11")
async def add_body(request: Request) -> str:
    query = request.query
    return str(whole(query.get("a")) + whole(query.get("b")) + whole(await request.body()))


@app.get("/json/{count:int}", compress_responses=True)
def json(request: Request, count: int) -> dict[str, Any]:
    factor = whole(request.query.get("m", "1"), INTEGER_MOST)
    chosen = [{**item, "total": item["price"] * item["quantity"] * factor}
              for item in DATASET[:max(count, 0)]]
    return {"items": chosen, "count": len(chosen)}


@app.post("/upload")
async def upload(request: Request) -> str:
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return str(size)
