"""The seven tests of the TechEmpower suite on fastserve, by way of SQLAlchemy's ORM.

    DATABASE_URL=postgresql://... fastserve run benchmarks/techempower/app_orm.py

POOL_SIZE is the number of connections of a worker. What only reads does without a transaction;
what writes is one unit of work.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import worlds
from cachetools import LRUCache
from fortunes import page
from sqlalchemy import String, make_url, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.orm.attributes import flag_modified

from fastserve import App, Request, Response

DATABASE_URL = "postgresql://benchmarkdbuser:benchmarkdbpass@tfb-database:5432/hello_world"


class Base(DeclarativeBase):
    pass


class World(Base):
    __tablename__ = "world"

    id: Mapped[int] = mapped_column(primary_key=True)
    randomnumber: Mapped[int]

    def as_json(self) -> dict[str, int]:
        return {"id": self.id, "randomNumber": self.randomnumber}


class Fortune(Base):
    __tablename__ = "fortune"

    id: Mapped[int] = mapped_column(primary_key=True)
    message: Mapped[str] = mapped_column(String(2048))


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[dict[str, Any]]:
    url = make_url(os.environ.get("DATABASE_URL", DATABASE_URL))
    engine = create_async_engine(
        url.set(drivername="postgresql+asyncpg"),
        pool_size=int(os.environ.get("POOL_SIZE", "4")), max_overflow=0)
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    yield {
        "reading": async_sessionmaker(alone, expire_on_commit=False),
        "writing": async_sessionmaker(engine, expire_on_commit=False),
        "cache": LRUCache(maxsize=worlds.ROWS),
    }
    await engine.dispose()


app = App(lifespan=lifespan)


async def read(session: AsyncSession, ids: list[int]) -> list[World]:
    return [await session.get_one(World, id) for id in ids]


@app.get("/plaintext")
def plaintext() -> str:
    return "Hello, World!"


@app.get("/json")
def json() -> dict[str, str]:
    return {"message": "Hello, World!"}


@app.get("/db")
async def db() -> dict[str, int]:
    async with app.state.reading() as session:
        [world] = await read(session, [worlds.some_id()])
    return world.as_json()


@app.get("/queries")
async def queries(request: Request) -> list[dict[str, int]]:
    ids = worlds.some_ids(worlds.count_of(request.query.get("queries")))
    async with app.state.reading() as session:
        return [world.as_json() for world in await read(session, ids)]


@app.get("/cached-queries")
async def cached_queries(request: Request) -> list[dict[str, int]]:
    cache = app.state.cache
    ids = worlds.some_ids(worlds.count_of(request.query.get("count")))
    if missing := [id for id in ids if id not in cache]:
        async with app.state.reading() as session:
            for world in await read(session, missing):
                cache[world.id] = world.as_json()
    return [cache[id] for id in ids]


@app.get("/fortunes")
async def fortunes() -> Response:
    async with app.state.reading() as session:
        found = await session.scalars(select(Fortune))
        rows = [(fortune.id, fortune.message) for fortune in found]
    return Response.html(page(rows))


@app.get("/updates")
async def updates(request: Request) -> list[dict[str, int]]:
    count = worlds.count_of(request.query.get("queries"))
    async with app.state.writing.begin() as session:
        found = await read(session, worlds.some_ids(count))
        for world, number in zip(found, worlds.some_numbers(count), strict=True):
            world.randomnumber = number
            flag_modified(world, "randomnumber")    # written, even if it had that number already
    return [world.as_json() for world in found]
