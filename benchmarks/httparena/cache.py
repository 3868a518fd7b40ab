"""Items that were read in the last 200 ms: in this process, or in Redis for all workers.

One worker sees its own writes at once, whichever it is. Several see those of each other at once
where they share Redis, and else within the 200 ms that anything is kept.
"""

import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from cachetools import TTLCache

KEPT_S = 0.2
MOST = 100_000      # items of a process

logger = logging.getLogger(__name__)


class Cache(Protocol):
    """Items by id."""

    async def get(self, id: int) -> dict[str, Any] | bytes | None:
        """The item, or its JSON; None: not kept, or no longer."""

    async def put(self, id: int, item: dict[str, Any], json: bytes) -> None:
        """Keep an item for KEPT_S from now."""

    async def drop(self, id: int) -> None:
        """Forget an item that has changed."""


class OwnCache:
    """Of one process: it keeps items, and each answer is encoded anew."""

    def __init__(self) -> None:
        self._items: TTLCache[int, dict[str, Any]] = TTLCache(MOST, KEPT_S)

    async def get(self, id: int) -> dict[str, Any] | None:
        return self._items.get(id)

    async def put(self, id: int, item: dict[str, Any], json: bytes) -> None:
        self._items[id] = item

    async def drop(self, id: int) -> None:
        self._items.pop(id, None)


class RedisCache:
    """Of all workers: Redis keeps JSON, as the arena proposes. Without it nothing is kept."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def get(self, id: int) -> bytes | None:
        kept: bytes | None = await self._asked(self._client.get(f"item:{id}"))
        return kept

    async def put(self, id: int, item: dict[str, Any], json: bytes) -> None:
        await self._asked(self._client.set(f"item:{id}", json, px=int(KEPT_S * 1000)))

    async def drop(self, id: int) -> None:
        await self._asked(self._client.delete(f"item:{id}"))

    async def _asked(self, answer: Awaitable[Any]) -> Any:
        from redis import RedisError

        try:
            return await answer
        except RedisError as error:
            logger.warning("no cache: %s", error)
            return None


@asynccontextmanager
async def open_cache(url: str | None) -> AsyncIterator[Cache]:
    """The cache in the Redis at `url`; without one, this process's own."""
    if not url:
        yield OwnCache()
        return
    from redis.asyncio import Redis

    client = Redis.from_url(url)
    try:
        yield RedisCache(client)
    finally:
        await client.aclose()
