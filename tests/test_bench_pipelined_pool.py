"""The pool that pipelines queries: each is alone with its Sync, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

psycopg = pytest.importorskip("psycopg")

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.techempower import pipelined_pool  # noqa: E402
from benchmarks.techempower.pipelined_pool import (  # noqa: E402
    ConnectionLost,
    PipelinedPool,
    QueryFailed,
)

PATIENCE_S = 30.0
STATEMENTS = {
    "world": "SELECT id, randomnumber FROM world WHERE id = $1",
    "divide": "SELECT 12 / $1::int",
    "sleep": "SELECT 1 FROM pg_sleep($1::int / 1000.0)",
    "pid": "SELECT pg_backend_pid()",
    "end": "SELECT 1 FROM pg_terminate_backend($1)",
    "note": "INSERT INTO noted VALUES (12 / $1::int)",
    "noted": "SELECT value FROM noted ORDER BY value",
    "sum": "SELECT sum(value)::int FROM unnest($1::int[]) AS value",
    "words": "SELECT message, NULL::int, ''::text FROM fortune WHERE id = $1",
    "long": "SELECT repeat('x', $1::int)",
}
Use = Callable[[PipelinedPool], Awaitable[Any]]


def with_pool(url: str, use: Use, size: int = 1) -> Any:
    """What `use` gives for an open pool, which is closed behind it."""

    async def run() -> Any:
        pool = await PipelinedPool.open(url, size=size, statements=STATEMENTS)
        try:
            return await asyncio.wait_for(use(pool), PATIENCE_S)
        finally:
            pool.close()

    loop = uvloop.new_event_loop()
    try:
        return loop.run_until_complete(run())
    finally:
        loop.close()


@pytest.fixture(autouse=True)
def _noted(postgres_url: str) -> None:
    """An empty table for what is noted."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS noted (value int)")
        connection.execute("TRUNCATE noted")


def test_every_query_gets_its_own_rows(postgres_url: str) -> None:
    """Rows come in the order of the values, whoever else asks on the same connections."""
    async def use(pool: PipelinedPool) -> None:
        async def ask(first: int) -> None:
            ids = [(first + step - 1) % 10_000 + 1 for step in range(50)]
            results = await pool.run("world", [(id,) for id in ids])
            assert [row[0] for [row] in results] == ids
        await asyncio.gather(*(ask(first) for first in range(1, 10_000, 97)))
        assert await pool.run("world", [(10_001,), (7,)]) == [[], [(7, (
            await pool.run("world", [(7,)]))[0][0][1])]]
        assert await pool.run("world", []) == []

    with_pool(postgres_url, use, size=3)


def test_values_and_rows_keep_their_types(postgres_url: str) -> None:
    """Integers, arrays of them, text beyond ASCII, NULL and the empty string."""
    async def use(pool: PipelinedPool) -> None:
        assert await pool.run("sum", [([1, -5, 40],), ([],)]) == [[(36,)], [(None,)]]
        assert await pool.run("words", [(12,)]) == [[("フレームワークのベンチマーク", None, "")]]
        assert await pool.run("divide", [(-5,)]) == [[(-2,)]]

    with_pool(postgres_url, use)


def test_each_query_has_a_sync_of_its_own(postgres_url: str) -> None:
    """On the wire a Sync stands behind every Bind and Execute: the suite's General Rule 7."""
    async def use(pool: PipelinedPool) -> list[str]:
        with tempfile.TemporaryFile("w+") as trace:
            libpq = pool._pipelines[0]._libpq
            libpq.trace(trace.fileno())
            libpq.set_trace_flags(psycopg.pq.Trace.SUPPRESS_TIMESTAMPS)
            await pool.run("world", [(id,) for id in range(1, 21)])
            libpq.untrace()
            trace.seek(0)
            return [line for line in trace if line.startswith("F")]

    sent = with_pool(postgres_url, use)
    kinds = [re.split(r"\t", line.strip())[2].split()[0] for line in sent]
    assert kinds == ["Bind", "Describe", "Execute", "Sync"] * 20


def test_a_query_that_fails_takes_no_other_with_it(postgres_url: str) -> None:
    """Those behind it are executed, those before it stay, and the connection goes on."""
    async def use(pool: PipelinedPool) -> Any:
        one, other = await asyncio.gather(
            pool.run("note", [(3,), (0,), (4,)]), pool.run("divide", [(6,)]),
            return_exceptions=True)
        assert isinstance(one, QueryFailed)
        assert "division by zero" in str(one)
        assert other == [[(2,)]]
        return await pool.run("noted", [()])

    assert with_pool(postgres_url, use) == [[(3,), (4,)]]


def test_wrong_values_are_refused_before_anything_is_sent(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too few, too many, no number, too large: the connection stays as it was, for all who wait."""
    monkeypatch.setattr(pipelined_pool, "UNDER_WAY", 1)
    wrong = [("note", [()]), ("note", [(1,), ("seven",)]), ("note", [(1, 2)]), ("note", [(2**40,)]),
             ("sum", [(7,)]), ("nosuch", [()])]

    async def use(pool: PipelinedPool) -> Any:
        for name, values in wrong:
            with pytest.raises((KeyError, TypeError, ValueError, pipelined_pool.struct.error)):
                await pool.run(name, values)
        first = pool.run("sleep", [(20,)])
        refused = [pool.run(name, values) for name, values in wrong]
        last = pool.run("divide", [(2,)])
        assert await first == [[(1,)]]
        assert await last == [[(6,)]]
        assert None not in [call.exception() for call in refused]
        return await pool.run("noted", [()])

    assert with_pool(postgres_url, use) == [[]]


def test_a_lost_connection_fails_its_queries_and_is_replaced(postgres_url: str) -> None:
    """Who waited on it is told; who comes then is served by another."""
    async def use(pool: PipelinedPool) -> None:
        [[(pid,)]] = await pool.run("pid", [()])
        waiting = asyncio.gather(
            pool.run("sleep", [(20_000,)]), pool.run("world", [(1,)]), return_exceptions=True)
        await asyncio.sleep(0.05)
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [pid])
        first, second = await waiting
        assert isinstance(first, (QueryFailed, ConnectionLost))
        assert isinstance(second, ConnectionLost)
        [[(fresh,)]] = await pool.run("pid", [()])
        assert fresh != pid

    with_pool(postgres_url, use)


def test_an_idle_connection_that_is_lost_is_replaced(postgres_url: str) -> None:
    """Nobody who comes later notices."""
    async def use(pool: PipelinedPool) -> None:
        [first] = pool._pipelines
        [[(pid,)]] = await pool.run("pid", [()])
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [pid])
        while first in pool._pipelines:     # the next one may be there before we look again
            await asyncio.sleep(0.005)
        [[(fresh,)]] = await pool.run("pid", [()])
        assert fresh != pid

    with_pool(postgres_url, use)


def test_a_cancelled_caller_disturbs_nobody(postgres_url: str) -> None:
    """Its query runs to its end; those behind it get their own rows."""
    async def use(pool: PipelinedPool) -> Any:
        task = asyncio.ensure_future(pool.run("sleep", [(100,), (1,)]))
        behind = pool.run("divide", [(4,)])
        await asyncio.sleep(0)
        task.cancel()
        assert await behind == [[(3,)]]
        assert pool._pipelines[0].under_way == 0
        return await pool.run("divide", [(3,)])

    assert with_pool(postgres_url, use) == [[(4,)]]


def test_a_connection_carries_so_many_queries_and_no_more(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound callers wait, in turn; one that wants more than it is served alone."""
    monkeypatch.setattr(pipelined_pool, "UNDER_WAY", 4)

    async def use(pool: PipelinedPool) -> list[int]:
        pipeline, served = pool._pipelines[0], []
        most = 0

        async def ask(number: int, queries: int) -> None:
            nonlocal most
            await pool.run("world", [(1,)] * queries)
            most = max(most, pipeline.under_way)
            served.append(number)

        # The last of them would find room, but others came before it.
        calls = [asyncio.ensure_future(ask(number, 3 if number < 20 else 1))
                 for number in range(21)]
        await asyncio.sleep(0)
        assert pipeline.under_way == 3
        assert len(pool._waiting) == 20
        calls[5].cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert most <= 4
        await ask(21, 50)
        return served

    assert with_pool(postgres_url, use) == [number for number in range(22) if number != 5]


def test_much_at_once_goes_both_ways(postgres_url: str) -> None:
    """Megabytes of values and of rows, more than any socket buffers, arrive whole."""
    async def use(pool: PipelinedPool) -> None:
        # One that is answered only when the last of it has come, so that only writing goes on.
        with socket.socket(fileno=os.dup(pool._pipelines[0]._fd)) as small:
            small.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        assert await pool.run("sum", [([1] * 2_000_000,)]) == [[(2_000_000,)]]
        many = list(range(50_000))
        sums, texts = await asyncio.gather(
            pool.run("sum", [(many,)] * 12), pool.run("long", [(500_000,)] * 12))
        assert sums == [[(sum(many),)]] * 12
        assert {len(text) for [(text,)] in texts} == {500_000}

    with_pool(postgres_url, use)


def test_a_closed_pool_serves_nobody(postgres_url: str) -> None:
    """Who waits is told, and so is who comes."""
    async def use(pool: PipelinedPool) -> None:
        waiting = pool.run("sleep", [(20_000,)])
        await asyncio.sleep(0.05)
        pool.close()
        with pytest.raises(ConnectionLost):
            await waiting
        with pytest.raises(RuntimeError, match="closed"):
            pool.run("world", [(1,)])

    with_pool(postgres_url, use)


def test_a_unix_socket_serves_as_well(postgres_url: str) -> None:
    """Where nothing can be held back the answers are the same."""
    with psycopg.connect(postgres_url) as connection:
        folder, port = (connection.execute(f"SHOW {name}").fetchone()[0] for name in (
            "unix_socket_directories", "port"))
    user, name = re.match(r"postgresql://(.*)@.*/(.*)", postgres_url).groups()  # type: ignore[union-attr]
    if not folder:
        pytest.skip("this PostgreSQL listens on no unix socket")

    async def use(pool: PipelinedPool) -> Any:
        assert pool._pipelines[0]._cork is None
        return await pool.run("divide", [(3,), (4,)])

    url = f"postgresql://{user}@/{name}?host={folder.split(',')[0]}&port={port}"
    assert with_pool(url, use) == [[(4,)], [(3,)]]


@pytest.mark.parametrize(("statement", "error", "words"), [
    ("SELECT 1::numeric", ValueError, "statement 'x' has types of oid"),
    ("SELECT 1 WHERE $1::jsonb IS NULL", ValueError, "statement 'x' has types of oid"),
    ("SELEKT", QueryFailed, "syntax error"),
])
def test_statements_that_cannot_be_prepared_are_refused_at_once(
    statement: str, error: type[Exception], words: str, postgres_url: str
) -> None:
    """Opening the pool says why."""
    with pytest.raises(error, match=words):
        asyncio.run(PipelinedPool.open(postgres_url, size=1, statements={"x": statement}))


def test_a_database_that_is_not_there_is_said_at_once() -> None:
    """Opening the pool raises what psycopg says."""
    with pytest.raises(psycopg.OperationalError, match="refused"):
        asyncio.run(PipelinedPool.open(
            "postgresql://x@127.0.0.1:1/x", size=1, statements=STATEMENTS))
