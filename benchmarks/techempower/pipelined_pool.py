"""PostgreSQL connections that carry many queries at once, each with a Sync of its own behind it.

libpq's pipeline mode, through psycopg's documented low-level interface (`psycopg.pq`): queries are
sent without waiting for the answers of those before them. Because each ends with its own Sync, it
is a transaction by itself, fails by itself, and behaves as if it had been sent alone; only the
waiting is shared. Statements are prepared once for each connection, rows and numbers are binary.

    pool = await PipelinedPool.open(url, size=4, statements={"world": "SELECT ... WHERE id = $1"})
    [row], [other] = await pool.run("world", [(1,), (2,)])

It belongs to one event loop. A connection carries at most UNDER_WAY queries, or one caller's that
has more; whoever comes then waits in turn. A connection that is lost fails the queries on it and
is replaced. Queries of a caller who is cancelled run to their end, unseen.
"""

import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from psycopg import AsyncConnection, Error, pq

UNDER_WAY = 1024    # queries of one connection
RETRY_S = 0.5       # between attempts to replace a connection that was lost
INT4, TEXT, VARCHAR, INT4_ARRAY = 23, 25, 1043, 1007
AS_TEXT, BINARY = 0, 1
TUPLES, COMMAND, SYNC = (
    pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.PIPELINE_SYNC)

Row = tuple[Any, ...]
Rows = list[list[Row]]      # of each query of a caller
_pack_int4 = struct.Struct("!i").pack
_unpack_int4 = struct.Struct("!i").unpack


class QueryFailed(Exception):
    """PostgreSQL refused a query; the message is its own."""


class ConnectionLost(Exception):
    """The connection ended before the answer came; nobody knows whether the query was executed."""


def _int4(raw: bytes | None) -> int | None:
    return None if raw is None else int(_unpack_int4(raw)[0])


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode()


def _int4_array(values: Sequence[int]) -> bytes:
    return b"{%s}" % ",".join(map(str, values)).encode()


DECODERS: dict[int, Callable[[bytes | None], Any]] = {INT4: _int4, TEXT: _text, VARCHAR: _text}
ENCODERS: dict[int, tuple[Callable[[Any], bytes], int]] = {
    INT4: (_pack_int4, BINARY), INT4_ARRAY: (_int4_array, AS_TEXT)}


class _Statement:
    """A prepared statement: how its values are written and its rows read.

    described:  what PostgreSQL says of it. Raises ValueError for types that are not known here.
    """

    __slots__ = ("columns", "encoders", "formats", "name")

    def __init__(self, name: str, described: Any) -> None:
        self.name = name.encode()
        inputs = [described.param_type(index) for index in range(described.nparams)]
        outputs = [described.ftype(index) for index in range(described.nfields)]
        unknown = [oid for oid in inputs if oid not in ENCODERS]
        unknown += [oid for oid in outputs if oid not in DECODERS]
        if unknown:
            raise ValueError(f"statement {name!r} has types of oid {unknown}, which are not known")
        self.encoders = [ENCODERS[oid][0] for oid in inputs]
        self.formats = [ENCODERS[oid][1] for oid in inputs]
        self.columns = [(column, DECODERS[oid]) for column, oid in enumerate(outputs)]

    def rows(self, result: Any) -> list[Row]:
        value = result.get_value
        return [tuple([decode(value(row, column)) for column, decode in self.columns])
                for row in range(result.ntuples)]


class _Batch:
    """The queries that one caller waits for together."""

    __slots__ = ("error", "future", "left", "results")

    def __init__(self, future: "asyncio.Future[Any]", size: int) -> None:
        self.future = future
        self.left = size
        self.results: list[Any] = []
        self.error: Exception | None = None

    def end(self) -> None:
        if self.future.done():      # its caller is gone
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.results)


class _Pipeline:
    """One connection and the queries under way on it, in the order sent.

    lost:  called with it, once, when the connection ends by itself
    room:  called when answers have come
    """

    def __init__(
        self, connection: AsyncConnection[Any], lost: Callable[["_Pipeline"], None],
        room: Callable[[], None],
    ) -> None:
        self.statements: dict[str, _Statement] = {}
        self.under_way = 0
        self._connection = connection
        self._libpq = connection.pgconn
        self._lost = lost
        self._room = room
        # Of each query whose Sync is still to come; a statement of None is being prepared.
        self._queries: deque[tuple[_Batch, _Statement | None]] = deque()
        self._loop = asyncio.get_running_loop()
        self._fd = self._libpq.socket
        self._cork = _corkable(self._fd)
        self._flushing = self._writing = False
        self._open = True
        self._libpq.nonblocking = 1
        self._libpq.enter_pipeline_mode()
        self._loop.add_reader(self._fd, self._on_readable)

    async def prepare(self, statements: Mapping[str, str]) -> None:
        """Prepare them, and learn their types."""
        for name, text in statements.items():
            batch = _Batch(self._loop.create_future(), 1)
            self._hold_back()
            self._libpq.send_prepare(name.encode(), text.encode())
            self._libpq.send_describe_prepared(name.encode())
            self._libpq.pipeline_sync()
            self._queries.append((batch, None))
            self.under_way += 1
            self.statements[name] = _Statement(name, (await batch.future)[-1])

    def send(
        self, future: "asyncio.Future[Rows]", name: str, values: Sequence[Sequence[Any]]
    ) -> None:
        """Send a query for each of `values`; `future` gets the rows of each."""
        try:
            statement = self.statements[name]
            encoded = [
                [encode(value) for encode, value in zip(statement.encoders, row, strict=True)]
                for row in values]
        except Exception as error:      # a mistake of its caller's, of whatever kind
            future.set_exception(error)
            return
        batch = _Batch(future, len(values))
        send, sync = self._libpq.send_query_prepared, self._libpq.pipeline_sync
        name_bytes, formats = statement.name, statement.formats
        self._hold_back()
        try:
            for parameters in encoded:
                send(name_bytes, parameters, formats, BINARY)
                sync()
                self._queries.append((batch, statement))
                self.under_way += 1
        except Error as error:
            batch.error = batch.error or ConnectionLost(str(error))
            batch.end()
            self._end()

    def close(self) -> None:
        """End the connection; what is under way on it fails."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._fd)
        if self._writing:
            self._loop.remove_writer(self._fd)
        if self._cork is not None:
            self._cork.close()
        self._libpq.finish()
        for batch, _ in self._queries:
            batch.error = ConnectionLost("the connection to the database was lost")
            batch.end()
        self._queries.clear()

    def _hold_back(self) -> None:
        """Let what is sent in this turn of the loop go together: libpq would send each Sync."""
        if not self._flushing:
            self._flushing = True
            if self._cork is not None:
                self._cork.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
            self._loop.call_soon(self._let_go)

    def _let_go(self) -> None:
        self._flushing = False
        if self._open:
            if self._cork is not None:
                self._cork.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
            self._write()

    def _write(self) -> None:
        """Send what the kernel did not take at once; libpq may read while it does."""
        try:
            unsent = self._libpq.flush() == 1
            if unsent != self._writing:
                self._writing = unsent
                if unsent:
                    self._loop.add_writer(self._fd, self._write)
                else:
                    self._loop.remove_writer(self._fd)
            self._read()
        except Error:
            self._end()

    def _on_readable(self) -> None:
        try:
            self._libpq.consume_input()
            self._read()
        except Error:
            self._end()

    def _read(self) -> None:
        """Take every answer that has come."""
        is_busy, get_result, queries = self._libpq.is_busy, self._libpq.get_result, self._queries
        while queries and not is_busy():
            result = get_result()
            if result is None:      # behind each result
                continue
            batch, statement = queries[0]
            status = result.status
            if status == TUPLES and statement is not None:
                batch.results.append(statement.rows(result))
            elif status == SYNC:
                queries.popleft()
                self.under_way -= 1
                batch.left -= 1
                if not batch.left:
                    batch.end()
            elif status == COMMAND:
                batch.results.append(result if statement is None else [])
            else:
                batch.error = batch.error or QueryFailed(result.get_error_message())
        if self._libpq.status != pq.ConnStatus.OK:
            self._end()
        else:
            self._room()

    def _end(self) -> None:
        if self._open:
            self.close()
            self._lost(self)


class PipelinedPool:
    """Connections that all callers share."""

    def __init__(self, url: str, statements: Mapping[str, str]) -> None:
        self._url = url
        self._statements = dict(statements)
        self._pipelines: list[_Pipeline] = []
        self._waiting: deque[tuple[asyncio.Future[Rows], str, Sequence[Sequence[Any]]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @classmethod
    async def open(cls, url: str, *, size: int, statements: Mapping[str, str]) -> "PipelinedPool":
        """Connect `size` times to the database at `url` and prepare `statements` on each.

        Raises psycopg.OperationalError where it cannot be connected to, QueryFailed for a
        statement that PostgreSQL refuses, ValueError for one of unknown types.
        """
        pool = cls(url, statements)
        try:
            for _ in range(size):
                pool._pipelines.append(await pool._connect())
        except BaseException:
            pool.close()
            raise
        return pool

    def run(self, name: str, values: Sequence[Sequence[Any]]) -> "asyncio.Future[Rows]":
        """Execute the statement `name` once for each of `values`; the rows of each, in order.

        All are executed, whichever fails; awaiting it raises QueryFailed for the first that did,
        or ConnectionLost; KeyError, TypeError, ValueError or struct.error, with nothing executed,
        for a statement or values that do not fit. Raises RuntimeError once the pool is closed.
        """
        future: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()
        if self._closed:
            raise RuntimeError("the pool is closed")
        if not values:
            future.set_result([])
            return future
        pipeline = None if self._waiting else self._least_busy(len(values))
        if pipeline is None:
            self._waiting.append((future, name, values))
        else:
            pipeline.send(future, name, values)
        return future

    def close(self) -> None:
        """Close all connections; whoever waits is told."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        for future, _, _ in self._waiting:
            if not future.done():
                future.set_exception(RuntimeError("the pool is closed"))
        self._waiting.clear()
        for pipeline in self._pipelines:
            pipeline.close()
        self._pipelines.clear()

    def _least_busy(self, queries: int) -> _Pipeline | None:
        """The connection with the fewest queries, if it has room for as many more."""
        if not self._pipelines:
            return None
        pipeline = min(self._pipelines, key=_by_work)
        full = pipeline.under_way and pipeline.under_way + queries > UNDER_WAY
        return None if full else pipeline

    def _serve_waiting(self) -> None:
        while self._waiting:
            future, name, values = self._waiting[0]
            pipeline = self._least_busy(len(values))
            if pipeline is None:
                return
            self._waiting.popleft()
            if not future.done():
                pipeline.send(future, name, values)

    async def _connect(self) -> _Pipeline:
        connection = await AsyncConnection.connect(self._url, autocommit=True)
        pipeline = _Pipeline(connection, self._replace, self._serve_waiting)
        try:
            await pipeline.prepare(self._statements)
        except BaseException:
            pipeline.close()
            raise
        return pipeline

    def _replace(self, lost: _Pipeline) -> None:
        if lost in self._pipelines:     # or it was not ready yet, and its opener is told
            self._pipelines.remove(lost)
            task = asyncio.get_running_loop().create_task(self._reconnect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _reconnect(self) -> None:
        while True:
            try:
                self._pipelines.append(await self._connect())
            except (Error, QueryFailed, ConnectionLost):
                await asyncio.sleep(RETRY_S)
            else:
                self._serve_waiting()
                return


_by_work = attrgetter("under_way")


def _corkable(fd: int) -> socket.socket | None:
    """The socket by another descriptor, where it can hold small pieces back; a unix one cannot."""
    duplicate = socket.socket(fileno=os.dup(fd))
    if duplicate.family in (socket.AF_INET, socket.AF_INET6) and hasattr(socket, "TCP_CORK"):
        return duplicate
    duplicate.close()
    return None
