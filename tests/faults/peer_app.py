"""The same application for servers of other makes, in ASGI without a framework."""

from __future__ import annotations

import asyncio
import os
import time
import zlib
from typing import Any

from tests.faults import moods

moods.imported()


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """What tests/faults/app.py answers, as far as the faults need it."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    _, verb, *rest = scope["path"].split("/")
    if verb == "echo":
        body = rest[0]
    elif verb == "slow":
        await asyncio.sleep(int(rest[0]) / 1000)
        body = rest[1]
    elif verb == "up":
        body = f"{rest[0]} {zlib.crc32(await whole(receive))}"
    elif verb == "block":
        time.sleep(int(rest[0]) / 1000)
        body = "blocked"
    else:
        body = str(os.getpid())
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [
        (b"content-type", b"text/plain"), (b"content-length", length)]})
    await send({"type": "http.response.body", "body": body.encode()})


async def whole(receive: Any) -> bytes:
    """The body of a request."""
    pieces = []
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(pieces)


async def lifespan(receive: Any, send: Any) -> None:
    """Start up and shut down, and say so."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            moods.started()
            await send({"type": "lifespan.startup.complete"})
        else:
            moods.ended()
            await send({"type": "lifespan.shutdown.complete"})
            return
