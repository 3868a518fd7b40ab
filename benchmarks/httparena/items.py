"""The table `items`: a range of it (/async-db), and one by one (/crud/items).

DATABASE_URL says where it is, DATABASE_MAX_CONN how many connections there may be for all workers
together. Without a database the range is empty, as the arena wants it, and the rest is a 503.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from cache import Cache, open_cache
from inputs import INTEGER_MOST, fields, within
from orjson import Fragment
from store import NoDatabase, Store

from fastserve import App, HTTPError, Request, Response, Router

MOST = 50       # items of a page
COLUMNS = "id, name, category, price, quantity, active, tags, rating_score, rating_count"
STATEMENTS = {
    "in_range": f"SELECT {COLUMNS} FROM items WHERE price BETWEEN $1 AND $2 LIMIT $3",
    "page": f"SELECT {COLUMNS} FROM items WHERE category = $1 ORDER BY id LIMIT $2 OFFSET $3",
    "one": f"SELECT {COLUMNS} FROM items WHERE id = $1",
    "put": f"""
        INSERT INTO items ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, true, '[]', 0, 0)
        ON CONFLICT (id) DO UPDATE SET name = excluded.name, category = excluded.category,
            price = excluded.price, quantity = excluded.quantity
        RETURNING {COLUMNS}
    """,
    "change": """
        UPDATE items SET name = $2, price = $3, quantity = $4 WHERE id = $1
        RETURNING id, name, price, quantity
    """,
}

router = Router()


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[dict[str, Any]]:
    url = os.environ.get("DATABASE_URL")
    async with Store(url, STATEMENTS) as store, open_cache(os.environ.get("REDIS_URL")) as cache:
        yield {"store": store, "cache": cache}


def as_item(row: Any) -> dict[str, Any]:
    """A row as the arena shows it."""
    id, name, category, price, quantity, active, tags, score, count = row
    return {
        "id": id, "name": name, "category": category, "price": price, "quantity": quantity,
        "active": active,
        "tags": Fragment(tags),     # jsonb, which is JSON already
        "rating": {"score": score, "count": count},
    }


@router.get("/async-db")
async def in_range(request: Request) -> dict[str, Any]:
    query = request.query
    bounds = (within(query.get("min"), 10, -INTEGER_MOST, INTEGER_MOST),
              within(query.get("max"), 50, -INTEGER_MOST, INTEGER_MOST))
    limit = within(query.get("limit"), MOST, 1, MOST)
    store: Store = request.app.state.store
    try:
        rows = await store.use(lambda connection: connection.in_range.fetch(*bounds, limit))
    except NoDatabase:
        rows = []
    return {"items": [as_item(row) for row in rows], "count": len(rows)}


@router.get("/crud/items")
async def page(request: Request) -> dict[str, Any]:
    query = request.query
    category = query.get("category", "electronics")
    if "\0" in category:
        raise HTTPError(400, "a category holds no NUL")
    number = within(query.get("page"), 1, 1, INTEGER_MOST)
    limit = within(query.get("limit"), 10, 1, MOST)
    rows = await _stored(
        request, lambda connection: connection.page.fetch(category, limit, (number - 1) * limit))
    found = [as_item(row) for row in rows]
    return {"items": found, "total": len(found), "page": number, "limit": limit}


@router.get("/crud/items/{id:int}")
async def one(request: Request, id: int) -> Response:
    cache: Cache = request.app.state.cache
    kept = await cache.get(id)
    if kept is not None:
        return Response(kept, headers={"x-cache": "HIT"}, content_type="application/json") \
            if isinstance(kept, bytes) else Response.json(kept, headers={"x-cache": "HIT"})
    row = None
    if abs(id) <= INTEGER_MOST:
        row = await _stored(request, lambda connection: connection.one.fetchrow(id))
    if row is None:
        raise HTTPError(404, "no such item")
    item = as_item(row)
    answer = Response.json(item, headers={"x-cache": "MISS"})
    await cache.put(id, item, answer.body)
    return answer


@router.post("/crud/items")
async def create(request: Request) -> tuple[dict[str, Any], int]:
    values = fields(
        await request.json(), id=int, name=str, category=str, price=int, quantity=int)
    row = await _stored(request, lambda connection: connection.put.fetchrow(*values))
    await request.app.state.cache.drop(values[0])
    return as_item(row), 201


@router.put("/crud/items/{id:int}")
async def change(request: Request, id: int) -> dict[str, Any]:
    values = fields(await request.json(), name=str, price=int, quantity=int)
    row = None
    if abs(id) <= INTEGER_MOST:
        row = await _stored(request, lambda connection: connection.change.fetchrow(id, *values))
    if row is None:
        raise HTTPError(404, "no such item")
    await request.app.state.cache.drop(id)
    return dict(row)


async def _stored(request: Request, use: Any) -> Any:
    try:
        return await request.app.state.store.use(use)
    except NoDatabase:
        raise HTTPError(503, headers={"retry-after": "1"}) from None
