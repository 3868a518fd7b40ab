"""The suite's tests for servers without an event loop, which wait for the database in the handler.

A worker handles one request at a time, so it has one connection and POOL_SIZE does not matter. It
is psycopg2's, which costs least of those there are; statements are prepared once.
"""

import os
from typing import Any

import psycopg2
from cachetools import LRUCache
from common import Row, page, worlds

PREPARED = (("world (int)", worlds.WORLD), ("fortunes", worlds.FORTUNES),
            ("fresh (int[], int[])", worlds.UPDATE))


class Database:
    """What the tests ask of the database at DATABASE_URL.

    Raises KeyError where that is not set, and what psycopg2 raises where there is none.
    """

    def __init__(self) -> None:
        connection = psycopg2.connect(worlds.generic(os.environ["DATABASE_URL"]))
        connection.autocommit = True
        self._cursor: Any = connection.cursor()
        self._cache: LRUCache[int, Row] = LRUCache(maxsize=worlds.ROWS)
        for name, statement in PREPARED:
            self._cursor.execute(f"PREPARE {name} AS {statement}")

    def world(self) -> Row:
        """One world."""
        self._cursor.execute("EXECUTE world (%s)", (worlds.some_id(),))
        world_id, number = self._cursor.fetchone()
        return {"id": world_id, "randomNumber": number}

    def worlds(self, text: str | None) -> list[Row]:
        """As many worlds as the text of the request says, each read alone."""
        return self._read(worlds.some_ids(worlds.count_of(text)))

    def fortunes(self) -> str:
        """The page of the fortunes."""
        self._cursor.execute("EXECUTE fortunes")
        return page(self._cursor.fetchall())

    def updated(self, text: str | None) -> list[Row]:
        """As many worlds, each read alone, then all written at once with new numbers."""
        ids = worlds.some_ids(worlds.count_of(text))
        rows = self._read(ids)
        numbers = worlds.some_numbers(len(ids))
        for row, number in zip(rows, numbers, strict=True):
            row["randomNumber"] = number
        self._cursor.execute("EXECUTE fresh (%s, %s)", (ids, numbers))
        return rows

    def cached(self, text: str | None) -> list[Row]:
        """As many worlds, each looked up alone in memory, and read where it is not there yet."""
        cache = self._cache
        ids = worlds.some_ids(worlds.count_of(text))
        for row in self._read([world_id for world_id in ids if world_id not in cache]):
            cache[row["id"]] = row
        return [cache[world_id] for world_id in ids]

    def _read(self, ids: list[int]) -> list[Row]:
        execute, fetchone = self._cursor.execute, self._cursor.fetchone
        found = []
        for wanted in ids:
            execute("EXECUTE world (%s)", (wanted,))
            world_id, number = fetchone()
            found.append({"id": world_id, "randomNumber": number})
        return found
