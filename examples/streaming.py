"""Bodies that are sent as they are made: text, events, a table of unknown length.

fastserve run examples/streaming.py
curl -N http://127.0.0.1:8000/count/3
curl -N http://127.0.0.1:8000/events
curl http://127.0.0.1:8000/table?rows=3
"""

import asyncio
import hashlib

from fastserve import App, HTTPError, Request, StreamingResponse

app = App()


@app.get("/count/{to:int}")
async def count(to: int):
    if to < 0:
        raise HTTPError(400, "there is nothing below zero")
    for number in range(to):
        yield f"{number}\n"
        await asyncio.sleep(0.1)


@app.get("/events")
async def events():
    async def ticks():
        for tick in range(3):
            yield f"id: {tick}\ndata: tick\n\n"
            await asyncio.sleep(0.1)

    return StreamingResponse(
        ticks(), content_type="text/event-stream", headers={"cache-control": "no-store"})


@app.get("/table")
def table(request: Request):
    """CSV, with a checksum behind it, for who asks for trailers."""
    digest = hashlib.sha256()

    def rows():
        for row in range(min(int(request.query.get("rows", "10")), 1_000_000)):
            line = f"{row},{row * row}\n".encode()
            digest.update(line)
            yield line

    return StreamingResponse(
        rows(), content_type="text/csv", trailers=lambda: {"x-sha256": digest.hexdigest()})
