"""What the peers' published entries ask of the database, and how.

Resetting is the way of most: asyncpg's pool with its defaults, which resets a connection each time
it comes back, a statement prepared anew for every request, writes by executemany. Batching is the
way of granian, fastpysgi and aiohttp: no reset, and all reads of a request in one message with one
Sync at its end, which the suite's seventh rule has not allowed since March 2022; its verification
does not see it.

Two changes make them pass: rows are locked in the order of their ids, for else requests that update
the same rows deadlock, and ids reach 10,000. What a published entry lacks is written in its style.
"""

import os
from random import randint, sample
from typing import Any

import asyncpg
from cachetools import LRUCache
from common import Row, page, worlds

READ = 'SELECT "randomnumber", "id" FROM "world" WHERE id = $1'
WRITE = 'UPDATE "world" SET "randomnumber"=$1 WHERE id=$2'
FORTUNES = "SELECT * FROM Fortune"


class NoReset(asyncpg.Connection):
    """A connection that goes back to the pool as it is."""

    __slots__ = ()

    def get_reset_query(self) -> str:
        return ""


def some_ids(count: int) -> list[int]:
    return sample(range(1, worlds.ROWS + 1), count)


def some_updates(count: int) -> list[tuple[int, int]]:
    """Pairs of an id and its new number, in the order of the ids."""
    return list(zip(sorted(some_ids(count)), some_ids(count), strict=True))


def as_rows(pairs: list[tuple[int, int]]) -> list[Row]:
    return [{"id": world_id, "randomNumber": number} for world_id, number in pairs]


class Resetting:
    """The tests over asyncpg's pool as it comes."""

    pool: asyncpg.Pool

    def __init__(self) -> None:
        self.cache: LRUCache[int, Row] = LRUCache(maxsize=worlds.ROWS)

    async def connect(self) -> None:
        """Open the pool in the running loop."""
        self.pool = await asyncpg.create_pool(os.environ["DATABASE_URL"])

    async def close(self) -> None:
        await self.pool.close()

    async def world(self) -> Row:
        """One world."""
        world_id = randint(1, worlds.ROWS)
        async with self.pool.acquire() as connection:
            number = await connection.fetchval(READ, world_id)
        return {"id": world_id, "randomNumber": number}

    async def worlds(self, text: str | None) -> list[Row]:
        """As many worlds as the text of the request says."""
        return await self.read(some_ids(worlds.count_of(text)))

    async def read(self, ids: list[int]) -> list[Row]:
        found = []
        async with self.pool.acquire() as connection:
            statement = await connection.prepare(READ)
            for world_id in ids:
                number = await statement.fetchval(world_id)
                found.append({"id": world_id, "randomNumber": number})
        return found

    async def fortune_rows(self) -> list[Any]:
        async with self.pool.acquire() as connection:
            rows: list[Any] = await connection.fetch(FORTUNES)
        return rows

    async def fortunes(self) -> str:
        """The page of the fortunes."""
        return page(await self.fortune_rows())

    async def updated(self, text: str | None) -> list[Row]:
        """As many worlds, read and then written with new numbers."""
        updates = some_updates(worlds.count_of(text))
        async with self.pool.acquire() as connection:
            statement = await connection.prepare(READ)
            for world_id, _ in updates:
                await statement.fetchval(world_id)
            await connection.executemany(WRITE, [(number, id_) for id_, number in updates])
        return as_rows(updates)

    async def cached(self, text: str | None) -> list[Row]:
        """As many worlds, each looked up in memory, and read where it is not there yet."""
        ids = some_ids(worlds.count_of(text))
        if missing := [world_id for world_id in ids if world_id not in self.cache]:
            for row in await self.read(missing):
                self.cache[row["id"]] = row
        return [self.cache[world_id] for world_id in ids]


class Batching(Resetting):
    """The tests over a small pool without reset, all reads of a request in one batch."""

    async def connect(self) -> None:
        """Open the pool in the running loop."""
        size = int(os.environ.get("POOL_SIZE", "4"))
        self.pool = await asyncpg.create_pool(
            os.environ["DATABASE_URL"], min_size=size, max_size=size, connection_class=NoReset)

    async def read(self, ids: list[int]) -> list[Row]:
        async with self.pool.acquire() as connection:
            rows = await connection.fetchmany(READ, [(world_id,) for world_id in ids])
        return [{"id": world_id, "randomNumber": row[0]}
                for world_id, row in zip(ids, rows, strict=True)]

    async def updated(self, text: str | None) -> list[Row]:
        """As many worlds, read and then written with new numbers."""
        updates = some_updates(worlds.count_of(text))
        async with self.pool.acquire() as connection:
            await connection.executemany(READ, [(world_id,) for world_id, _ in updates])
            await connection.executemany(WRITE, [(number, id_) for id_, number in updates])
        return as_rows(updates)
