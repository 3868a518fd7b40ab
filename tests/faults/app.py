"""The application that is broken: it echoes numbers, at once or later, and reads uploads."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
import zlib
from collections.abc import AsyncIterator

from fastserve import App, Request, StreamingResponse
from tests.faults import moods

moods.imported()


@contextlib.asynccontextmanager
async def lifespan(_: App) -> AsyncIterator[None]:
    """Say when it begins and ends."""
    moods.started()
    yield
    moods.ended()


app = App(lifespan=lifespan)
held: list[bytes] = []


@app.get("/echo/{number}")
def echo(number: str) -> str:
    """Answer at once."""
    return number


@app.get("/slow/{ms:int}/{number}")
async def slow(ms: int, number: str) -> str:
    """Answer later."""
    await asyncio.sleep(ms / 1000)
    return number


@app.post("/up/{number}")
async def up(number: str, request: Request) -> str:
    """Read it all; its checksum."""
    return f"{number} {zlib.crc32(await request.body())}"


@app.get("/pid")
def pid() -> str:
    """Who answers."""
    return str(os.getpid())


@app.get("/block/{ms:int}")
def block(ms: int) -> str:
    """Hold the loop; for how many seconds that was."""
    begun = time.monotonic()
    time.sleep(ms / 1000)
    return f"{time.monotonic() - begun:.6f}"


@app.get("/stubborn/{ms:int}")
async def stubborn(ms: int) -> str:
    """Take no notice of being cancelled."""
    end = time.monotonic() + ms / 1000
    while time.monotonic() < end:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.05)
    return "done"


@app.get("/stream/{pieces:int}/{ms:int}")
def stream(pieces: int, ms: int) -> StreamingResponse:
    """So many pieces, with a pause before each."""

    async def made() -> AsyncIterator[bytes]:
        for number in range(pieces):
            await asyncio.sleep(ms / 1000)
            yield b"piece %d\n" % number

    return StreamingResponse(made())


@app.get("/environment")
def environment() -> list[str]:
    """What one supervisor has told the next by variables."""
    return [name for name in os.environ if name.startswith("_FASTSERVE")]


@app.get("/grow/{size:int}")
def grow(size: int) -> str:
    """Hold so many bytes more, for good."""
    held.append(b"x" * size)
    return str(len(held))


@app.get("/objects")
def objects() -> dict[str, int]:
    """What is left after a collection, with what start-up had made and put out of its sight."""
    gc.unfreeze()
    gc.collect()
    return {"objects": len(gc.get_objects()), "garbage": len(gc.garbage)}
