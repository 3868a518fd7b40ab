"""What reached the database: statements and rows of a table, by its own counters.

Where pg_stat_statements is loaded, as in the suite, counts are exact. Elsewhere the counters of
the table stand in: every query of one row is one scan. They arrive late and rows that are written
count as read as well, so only too little can be seen there (`exact` is False).
"""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg

from benchmarks.techempower.serve import reason, without_password

LATE_S = 12.0      # an idle backend hands its counters in after ten seconds at the latest
PAUSE_S = 0.1
Result = TypeVar("Result")

_STATEMENTS = """
    SELECT coalesce(sum(calls), 0)::bigint,
           coalesce(sum(rows) FILTER (WHERE query ~* 'select'), 0)::bigint,
           coalesce(sum(rows) FILTER (WHERE query ~* 'update'), 0)::bigint
    FROM pg_stat_statements
    WHERE query ~* ('[[:<:]]' || $1 || '[[:>:]]')
      AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_TABLE = """
    SELECT (seq_scan + coalesce(idx_scan, 0))::bigint,
           (seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint,
           n_tup_upd::bigint
    FROM pg_stat_user_tables WHERE relname = $1
"""


class Uncounted(Exception):
    """The database cannot be asked; the message says why."""


@dataclass(frozen=True)
class Counts:
    """Statements that named a table, the rows that they read, and those that they wrote."""

    statements: int
    read: int
    updated: int

    def __sub__(self, other: "Counts") -> "Counts":
        return Counts(self.statements - other.statements, self.read - other.read,
                      self.updated - other.updated)


class Database:
    """The database of the server under verification, seen from beside it.

    exact:  whether its counts are neither late nor too high

    Raises Uncounted where `url` cannot be connected to.
    """

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        try:
            self._connection: Any = self._run(asyncpg.connect(url))
        except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            self._loop.close()
            raise Uncounted(f"{without_password(url)}: {reason(error)}") from error
        self.exact = self._run(self._counts_statements())
        self._query = _STATEMENTS if self.exact else _TABLE

    def close(self) -> None:
        """Close the connection and its loop."""
        self._run(self._connection.close())
        self._loop.close()

    def worlds(self) -> dict[int, int]:
        """The table World: id to number."""
        rows = self._run(self._connection.fetch("TABLE world"))
        return {row[0]: row[1] for row in rows}

    def counts(self, table: str) -> Counts:
        """What the counters say of `table` now."""
        row = self._run(self._connection.fetchrow(self._query, table))
        return Counts(*row) if row else Counts(0, 0, 0)

    def counts_since(
        self, before: Counts, table: str, statements: int, rows: int, updates: bool
    ) -> Counts:
        """What they have counted since `before`; late ones are waited for.

        statements, rows, updates:  at least what is expected, and whether rows are written
        """
        expected = Counts(statements, rows, rows if updates else 0)
        deadline = time.monotonic() + LATE_S
        while True:
            now = self.counts(table) - before
            missing = expected - now
            enough = max(missing.statements, missing.read, missing.updated) <= 0
            if self.exact or enough or time.monotonic() > deadline:
                return now
            time.sleep(PAUSE_S)

    async def _counts_statements(self) -> bool:
        try:
            await self._connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            await self._connection.fetchrow(_STATEMENTS, "world")
        except asyncpg.PostgresError:
            return False
        return True

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self._loop.run_until_complete(work)
