"""What every entry asks of the tables, however it asks: the statements, the counts, the dice.

A count is what stands behind `queries=` or `count=`, between 1 and 500; what is missing or no
integer counts as 1. The rows of a request are distinct, and in the order of their ids: rows that
all lock in one order never wait for each other in a ring.
"""

from random import random

ROWS = 10_000
MOST = 500
EXTRA = (0, "Additional fortune added at request time.")

WORLD = "SELECT id, randomnumber FROM world WHERE id = $1"
FORTUNES = "SELECT id, message FROM fortune"
# As many rows as the arrays are long, in their order as long as the plan walks through them:
# `generic()` sees to that. Every row gets a number of its own.
UPDATE = """
    UPDATE world SET randomnumber = fresh.randomnumber
    FROM unnest($1::int[], $2::int[]) AS fresh (id, randomnumber)
    WHERE world.id = fresh.id
"""


def count_of(text: str | None) -> int:
    """How many rows `text` asks for, 1 to 500."""
    try:
        return min(max(int(text or 1), 1), MOST)
    except ValueError:
        return 1


def some_id() -> int:
    """One of the ids, 1 to 10,000, each as likely."""
    return int(random() * ROWS) + 1


def some_ids(count: int) -> list[int]:
    """`count` distinct ids, in order."""
    found: set[int] = set()
    while len(found) < count:
        found.add(int(random() * ROWS) + 1)
    return sorted(found)


def some_numbers(count: int) -> list[int]:
    """`count` distinct numbers from 1 to 10,000, in no order."""
    found: set[int] = set()
    while len(found) < count:
        found.add(int(random() * ROWS) + 1)
    return list(found)


def generic(url: str) -> str:
    """`url` with the setting that makes one plan for each statement, whatever its values.

    PostgreSQL then plans UPDATE for a few rows: a walk through the arrays, each row found by its
    key. For 500 values that it knows it would hash the whole table instead, which takes longer,
    and the order in which rows are locked would be the planner's choice.
    """
    return f"{url}{'&' if '?' in url else '?'}options=-c%20plan_cache_mode%3Dforce_generic_plan"
