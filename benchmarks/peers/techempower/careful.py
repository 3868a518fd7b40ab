"""The suite's tests over the careful pool: all careful entries share it, so only servers differ.

A connection goes back without a reset, and each has its statements prepared once. A statement ends
before the next is sent, so each has a Sync of its own, as the suite's rules ask. Statements, dice
and pool are those of fastserve's own entry.

DATABASE_URL names the database, POOL_SIZE the connections of this worker (default 4).
"""

import os
from typing import Any

from cachetools import LRUCache
from common import Row, page, worlds

from careful_pool import Pool  # isort: skip - common makes the path

STATEMENTS = {"world": worlds.WORLD, "fortunes": worlds.FORTUNES, "update": worlds.UPDATE}


async def read(connection: Any, ids: list[int]) -> list[Row]:
    fetchrow = connection.world.fetchrow
    rows = [await fetchrow(world_id) for world_id in ids]
    return [{"id": world_id, "randomNumber": number} for world_id, number in rows]


async def renew(connection: Any, ids: list[int]) -> list[Row]:
    rows = await read(connection, ids)
    numbers = worlds.some_numbers(len(ids))
    for row, number in zip(rows, numbers, strict=True):
        row["randomNumber"] = number
    await connection.update.fetch(ids, numbers)
    return rows


class Database:
    """What the tests ask of the database; a worker has one."""

    _pool: Pool

    def __init__(self) -> None:
        self._cache: LRUCache[int, Row] = LRUCache(maxsize=worlds.ROWS)

    async def connect(self) -> None:
        """Open it in the running loop.

        Raises KeyError where DATABASE_URL is not set, and what asyncpg raises.
        """
        url = worlds.generic(os.environ["DATABASE_URL"])
        size = int(os.environ.get("POOL_SIZE", "4"))
        self._pool = await Pool.open(url, size=size, statements=STATEMENTS)

    async def close(self) -> None:
        await self._pool.close()

    async def world(self) -> Row:
        """One world."""
        pool = self._pool
        connection = pool.take() or await pool.wait()
        try:
            world_id, number = await connection.world.fetchrow(worlds.some_id())
        except BaseException:
            pool.discard(connection)
            raise
        pool.give(connection)
        return {"id": world_id, "randomNumber": number}

    async def worlds(self, text: str | None) -> list[Row]:
        """As many worlds as the text of the request says, each read alone."""
        return await self._with(read, worlds.some_ids(worlds.count_of(text)))

    async def fortunes(self) -> str:
        """The page of the fortunes."""
        pool = self._pool
        connection = pool.take() or await pool.wait()
        try:
            rows = await connection.fortunes.fetch()
        except BaseException:
            pool.discard(connection)
            raise
        pool.give(connection)
        return page(rows)

    async def updated(self, text: str | None) -> list[Row]:
        """As many worlds, each read alone, then all written at once with new numbers."""
        return await self._with(renew, worlds.some_ids(worlds.count_of(text)))

    async def cached(self, text: str | None) -> list[Row]:
        """As many worlds, each looked up alone in memory, and read where it is not there yet."""
        cache = self._cache
        ids = worlds.some_ids(worlds.count_of(text))
        if missing := [world_id for world_id in ids if world_id not in cache]:
            for row in await self._with(read, missing):
                cache[row["id"]] = row
        return [cache[world_id] for world_id in ids]

    async def _with(self, use: Any, ids: list[int]) -> list[Row]:
        pool = self._pool
        connection = pool.take() or await pool.wait()
        try:
            rows: list[Row] = await use(connection, ids)
        except BaseException:
            pool.discard(connection)
            raise
        pool.give(connection)
        return rows
