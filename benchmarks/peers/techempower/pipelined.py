"""The suite's tests over fastserve's pipelined pool, which servers at their best get, too.

Every query has a Sync of its own, as the suite's rules ask, and none waits for the one before it.
DATABASE_URL names the database, POOL_SIZE the connections of this worker (default 4).
"""

import os

from cachetools import LRUCache
from common import Row, page, worlds

from pipelined_pool import PipelinedPool  # isort: skip - common makes the path

STATEMENTS = {"world": worlds.WORLD, "fortunes": worlds.FORTUNES, "update": worlds.UPDATE}


class Database:
    """What the tests ask of the database; a worker has one."""

    _pool: PipelinedPool

    def __init__(self) -> None:
        self._cache: LRUCache[int, Row] = LRUCache(maxsize=worlds.ROWS)

    async def connect(self) -> None:
        """Open it in the running loop.

        Raises KeyError where DATABASE_URL is not set, and what PipelinedPool.open() raises.
        """
        url = worlds.generic(os.environ["DATABASE_URL"])
        size = int(os.environ.get("POOL_SIZE", "4"))
        self._pool = await PipelinedPool.open(url, size=size, statements=STATEMENTS)

    async def close(self) -> None:
        self._pool.close()

    async def world(self) -> Row:
        """One world."""
        [row] = await self._read([worlds.some_id()])
        return row

    async def worlds(self, text: str | None) -> list[Row]:
        """As many worlds as the text of the request says, each read alone."""
        return await self._read(worlds.some_ids(worlds.count_of(text)))

    async def fortunes(self) -> str:
        """The page of the fortunes."""
        [rows] = await self._pool.run("fortunes", [()])
        return page(rows)

    async def updated(self, text: str | None) -> list[Row]:
        """As many worlds, each read alone, then all written at once with new numbers."""
        ids = worlds.some_ids(worlds.count_of(text))
        rows = await self._read(ids)
        numbers = worlds.some_numbers(len(ids))
        for row, number in zip(rows, numbers, strict=True):
            row["randomNumber"] = number
        await self._pool.run("update", [(ids, numbers)])
        return rows

    async def cached(self, text: str | None) -> list[Row]:
        """As many worlds, each looked up alone in memory, and read where it is not there yet."""
        cache = self._cache
        ids = worlds.some_ids(worlds.count_of(text))
        if missing := [world_id for world_id in ids if world_id not in cache]:
            for row in await self._read(missing):
                cache[row["id"]] = row
        return [cache[world_id] for world_id in ids]

    async def _read(self, ids: list[int]) -> list[Row]:
        results = await self._pool.run("world", [(world_id,) for world_id in ids])
        return [{"id": world_id, "randomNumber": number} for [(world_id, number)] in results]
