"""The suite's tables: World, ten thousand random numbers, and Fortune, twelve sayings.

Both are made and filled where they are missing, so that any empty PostgreSQL will do. What is
there already is left as it is.
"""

import asyncpg

WORLDS = 10_000
FORTUNES = (
    "fortune: No such file or directory",
    "A computer scientist is someone who fixes things that aren't broken.",
    "After enough decimal places, nobody gives a damn.",
    "A bad random number generator: 1, 1, 1, 1, 1, 4.33e+67, 1, 1, 1",
    "A computer program does what you tell it to do, not what you want it to do.",
    "Emacs is a nice operating system, but I prefer UNIX. — Tom Christaensen",
    "Any program that runs right is obsolete.",
    "A list is only as strong as its weakest link. — Donald Knuth",
    "Feature: A bug with seniority.",
    "Computers make very fast, very accurate mistakes.",
    '<script>alert("This should not be displayed in a browser alert box.");</script>',
    "フレームワークのベンチマーク",
)
_WORLD = """
    CREATE TABLE IF NOT EXISTS world (
        id integer PRIMARY KEY, randomnumber integer NOT NULL DEFAULT 0)
"""
_FORTUNE = """
    CREATE TABLE IF NOT EXISTS fortune (
        id integer PRIMARY KEY, message varchar(2048) NOT NULL)
"""
_FILL_WORLD = """
    INSERT INTO world (id, randomnumber)
    SELECT id, 1 + floor(random() * 10000)::int FROM generate_series(1, $1::int) AS id
"""
_LOCK = 0x66617374  # two benches that start at once fill one after the other


async def create(url: str) -> None:
    """Make and fill World and Fortune in the database at `url` where they are missing.

    Raises what asyncpg raises where the database cannot be reached or does not allow it.
    """
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            await connection.execute(_WORLD)
            await connection.execute(_FORTUNE)
            if not await connection.fetchval("SELECT count(*) FROM world"):
                await connection.execute(_FILL_WORLD, WORLDS)
            if not await connection.fetchval("SELECT count(*) FROM fortune"):
                await connection.executemany(
                    "INSERT INTO fortune (id, message) VALUES ($1, $2)",
                    list(enumerate(FORTUNES, 1)))
        await connection.execute("VACUUM ANALYZE world")
        await connection.execute("VACUUM ANALYZE fortune")
    finally:
        await connection.close()
