"""A pool of asyncpg connections that costs a request no round trip, no timer and no task.

asyncpg's own pool resets a connection on its way back, with a query, in a task of its own behind a
shield, and arms a timer for it. Here a connection goes back as it is, when it is as it was: open,
and outside a transaction. Every other one is closed and replaced, and so is one whose use was
cancelled or failed, for nobody knows what is still on its way to it. Statements are prepared once
for each connection, which a reset would not undo.

    pool = await Pool.open(url, size=4, statements={"world": "SELECT ... WHERE id = $1"})
    connection = pool.take() or await pool.wait()
    try:
        row = await connection.world.fetchrow(1)
    except BaseException:
        pool.discard(connection)
        raise
    pool.give(connection)

It belongs to one event loop. There are never more than `size` connections, and whoever waits is
served in turn.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import asyncpg

RETRY_S = 0.5  # between attempts to replace a connection that was lost


class Pool:
    """At most `size` connections; each is a namespace of its prepared statements.

    A connection from take() or wait() has an attribute for each of `statements`, an asyncpg
    PreparedStatement, and `raw`, the asyncpg connection itself.
    """

    def __init__(self, url: str, statements: Mapping[str, str]) -> None:
        self._url = url
        self._statements = dict(statements)
        self._idle: list[Any] = []      # the one used last is on top: its memory is warm
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @classmethod
    async def open(cls, url: str, *, size: int, statements: Mapping[str, str]) -> "Pool":
        """Connect `size` times to the database at `url` and prepare `statements` on each.

        Raises what asyncpg raises where that fails.
        """
        pool = cls(url, statements)
        try:
            for _ in range(size):
                pool._idle.append(await pool._connect())
        except BaseException:
            await pool.close()
            raise
        return pool

    def take(self) -> Any:
        """An idle connection, or None where all are in use: then `await wait()`."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.raw.is_closed():
                return connection
            self.discard(connection)    # the server has ended it meanwhile
        return None

    async def wait(self) -> Any:
        """The next connection that is given back. Raises RuntimeError once the pool is closed."""
        if self._closed:
            raise RuntimeError("the pool is closed")
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and not future.exception():
                self.give(future.result())
            raise

    def give(self, connection: Any) -> None:
        """Give a connection back after a use that came to its end."""
        raw = connection.raw
        if raw.is_closed() or raw.is_in_transaction() or self._closed:
            self.discard(connection)
            return
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(connection)
                return
        self._idle.append(connection)

    def discard(self, connection: Any) -> None:
        """Close a connection after a use that failed or was cancelled; a new one replaces it."""
        connection.raw.terminate()
        if not self._closed:
            task = asyncio.get_running_loop().create_task(self._replace())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Close what is idle, and what is still in use as soon as it is given back."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for future in self._waiting:
            if not future.done():
                future.set_exception(RuntimeError("the pool is closed"))
        self._waiting.clear()
        while self._idle:
            await self._idle.pop().raw.close()

    async def _connect(self) -> Any:
        raw = await asyncpg.connect(self._url)
        try:
            prepared = {name: await raw.prepare(text) for name, text in self._statements.items()}
        except BaseException:
            raw.terminate()
            raise
        return SimpleNamespace(raw=raw, **prepared)

    async def _replace(self) -> None:
        while True:
            try:
                connection = await self._connect()
            except (OSError, asyncpg.PostgresError):
                await asyncio.sleep(RETRY_S)
            else:
                self.give(connection)
                return
