"""The pool that the database benchmarks share: quick, and never wrong about a connection."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

asyncpg = pytest.importorskip("asyncpg")

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.techempower.careful_pool import Pool  # noqa: E402

PATIENCE_S = 20.0
SLEEP = "SELECT pg_sleep($1)"
WORLD = "SELECT id, randomnumber FROM world WHERE id = $1"


def with_pool(url: str, use: Callable[[Pool], Awaitable[Any]], size: int = 1) -> Any:
    """What `use` gives for an open pool, which is closed behind it."""

    async def run() -> Any:
        pool = await Pool.open(url, size=size, statements={"world": WORLD, "sleep": SLEEP})
        try:
            return await asyncio.wait_for(use(pool), PATIENCE_S)
        finally:
            await pool.close()

    return asyncio.run(run())


async def backend(pool: Pool) -> int:
    """The number of the server process behind the next connection; it is given back."""
    connection = pool.take() or await pool.wait()
    pid = await connection.raw.fetchval("SELECT pg_backend_pid()")
    pool.give(connection)
    return int(pid)


def test_a_statement_is_prepared_once_and_used_again(postgres_url: str) -> None:
    """Whoever takes a connection finds its statements prepared, and the same ones each time."""

    async def use(pool: Pool) -> None:
        found = []
        for number in (1, 2):
            connection = pool.take()
            assert (await connection.world.fetchrow(number))["id"] == number
            found.append(connection.world)
            pool.give(connection)
        assert found[0] is found[1]

    with_pool(postgres_url, use)


def test_giving_back_asks_the_database_nothing(postgres_url: str) -> None:
    """What a session has set is still set for the next one: no reset runs in between."""

    async def use(pool: Pool) -> str:
        connection = pool.take()
        await connection.raw.execute("SET application_name = 'kept'")
        pool.give(connection)
        connection = pool.take()
        name = await connection.raw.fetchval("SHOW application_name")
        pool.give(connection)
        return str(name)

    assert with_pool(postgres_url, use) == "kept"


def test_who_waits_is_served_in_turn(postgres_url: str) -> None:
    """With all connections in use take() gives None, and wait() gives them first come first."""

    async def use(pool: Pool) -> list[str]:
        served: list[str] = []

        async def wait(name: str) -> None:
            connection = await pool.wait()
            served.append(name)
            await asyncio.sleep(0)
            pool.give(connection)

        connection = pool.take()
        assert pool.take() is None
        tasks = []
        for name in "abc":
            tasks.append(asyncio.create_task(wait(name)))
            await asyncio.sleep(0)
        pool.give(connection)
        await asyncio.gather(*tasks)
        return served

    assert with_pool(postgres_url, use) == ["a", "b", "c"]


def test_a_cancelled_wait_loses_no_connection(postgres_url: str) -> None:
    """Whoever is cancelled while a connection is on its way to him passes it on."""

    async def use(pool: Pool) -> None:
        connection = pool.take()
        first, second = (asyncio.create_task(pool.wait()) for _ in range(2))
        await asyncio.sleep(0)
        pool.give(connection)   # to the first, who has not run yet
        first.cancel()
        assert await second is connection
        assert first.cancelled()
        pool.give(connection)

    with_pool(postgres_url, use)


def test_a_cancelled_query_does_not_answer_the_next(postgres_url: str) -> None:
    """A connection whose use was cancelled is replaced: its answer may still be on the way."""

    async def use(pool: Pool) -> None:
        before = await backend(pool)
        connection = pool.take()
        query = asyncio.create_task(connection.sleep.fetchval(30))
        await asyncio.sleep(0.05)
        query.cancel()
        with pytest.raises(asyncio.CancelledError):
            await query
        pool.discard(connection)
        assert await backend(pool) != before

    with_pool(postgres_url, use)


def test_an_open_transaction_is_not_given_on(postgres_url: str) -> None:
    """A connection given back inside a transaction is replaced."""

    async def use(pool: Pool) -> None:
        before = await backend(pool)
        connection = pool.take()
        await connection.raw.execute("BEGIN")
        pool.give(connection)
        assert await backend(pool) != before

    with_pool(postgres_url, use)


def test_a_connection_that_the_server_closed_is_replaced(postgres_url: str) -> None:
    """Where the database has ended idle sessions nobody is given one of them."""

    async def use(pool: Pool) -> None:
        connection = pool.take()
        victim = await connection.raw.fetchval("SELECT pg_backend_pid()")
        pool.give(connection)
        other = await asyncpg.connect(postgres_url)
        await other.execute("SELECT pg_terminate_backend($1::int)", victim)
        await other.close()
        while not connection.raw.is_closed():
            await asyncio.sleep(0.01)
        assert await backend(pool) != victim

    with_pool(postgres_url, use)


def test_a_closed_pool_says_so(postgres_url: str) -> None:
    """wait() raises once the pool is closed, and so does a wait that was under way."""

    async def use(pool: Pool) -> None:
        connection = pool.take()
        waiting = asyncio.create_task(pool.wait())
        await asyncio.sleep(0)
        await pool.close()
        for attempt in (waiting, pool.wait()):
            with pytest.raises(RuntimeError, match="closed"):
                await attempt
        pool.give(connection)
        assert connection.raw.is_closed()

    with_pool(postgres_url, use)


def test_a_statement_that_is_wrong_is_an_error_at_start_up(postgres_url: str) -> None:
    """Pool.open raises what PostgreSQL says of the statement, and leaves no connection open."""

    async def run() -> None:
        with pytest.raises(asyncpg.UndefinedTableError, match="nothing"):
            await Pool.open(postgres_url, size=2, statements={"bad": "SELECT 1 FROM nothing"})

    asyncio.run(run())
