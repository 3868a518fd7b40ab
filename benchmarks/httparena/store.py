"""A pool of connections that is opened as late as it must be, and shared fairly among the workers.

The database may come up later than the server, or not at all: whoever needs it then is told, and
the next one who needs it tries again.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

import asyncpg
from careful_pool import Pool

Result = TypeVar("Result")
SPARE = 0.9             # of the connections there may be; PostgreSQL keeps some for its superuser
RETRY_S = 1.0           # between attempts to connect
MOST_CONNECTIONS = 32   # of a worker: one loop cannot keep more of them busy

logger = logging.getLogger(__name__)


class NoDatabase(Exception):
    """There is none, or it could not do what was asked."""


def pool_size(most: int, workers: int) -> int:
    """The connections of each worker, where all together may have `most`."""
    return max(1, min(int(most * SPARE) // workers, MOST_CONNECTIONS))


class Store:
    """The database at `url`, or none; a context manager that closes the pool.

    statements:  by name, the SQL that is prepared on each connection
    """

    def __init__(self, url: str | None, statements: Mapping[str, str]) -> None:
        self._url = url
        self._statements = statements
        self._pool: Pool | None = None
        self._opening = asyncio.Lock()
        self._next_try_s = 0.0

    async def __aenter__(self) -> "Store":
        if self._url:
            await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            await self._pool.close()

    async def use(self, use: Callable[[Any], Awaitable[Result]]) -> Result:
        """What `use` returns for a connection, which it has to itself meanwhile.

        Raises NoDatabase.
        """
        pool = self._pool or await self._reopened()
        connection = pool.take() or await pool.wait()
        try:
            result = await use(connection)
        except BaseException as error:
            pool.discard(connection)
            if isinstance(error, (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
                raise NoDatabase(str(error)) from error
            raise
        pool.give(connection)
        return result

    async def _reopened(self) -> Pool:
        if self._url:
            async with self._opening:
                if self._pool is None and asyncio.get_running_loop().time() >= self._next_try_s:
                    await self._open()
        if self._pool is None:
            raise NoDatabase("there is none")
        return self._pool

    async def _open(self) -> None:
        size = pool_size(int(os.environ.get("DATABASE_MAX_CONN", "100")),
                         int(os.environ.get("WORKERS") or len(os.sched_getaffinity(0))))
        try:
            self._pool = await Pool.open(self._url or "", size=size, statements=self._statements)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            logger.warning("no database: %s", error)
            self._next_try_s = asyncio.get_running_loop().time() + RETRY_S
