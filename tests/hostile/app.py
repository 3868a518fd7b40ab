"""The application under attack: small answers, slow ones, large ones, uploads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastserve import App, Request, StreamingResponse

PIECE = b"x" * 65536
touched = 0

app = App()


@app.get("/")
def home() -> str:
    """Answer at once."""
    return "home"


@app.get("/sleep/{ms:int}/{name:int}")
async def sleep(ms: int, name: int) -> str:
    """Answer with the name, later."""
    await asyncio.sleep(ms / 1000)
    return str(name)


@app.get("/touch")
def touch() -> str:
    """Remember that this was called."""
    global touched
    touched += 1
    return "touched"


@app.get("/touched")
def count() -> str:
    """How often it was."""
    return str(touched)


@app.get("/stream/{size:int}")
def stream(size: int) -> StreamingResponse:
    """So many bytes, made as they are sent."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(size // len(PIECE)):
            yield PIECE
        if size % len(PIECE):
            yield PIECE[: size % len(PIECE)]

    return StreamingResponse(pieces(), length=size)


@app.post("/upload")
async def upload(request: Request) -> str:
    """Read the body whole, within the limit."""
    return str(len(await request.body()))
