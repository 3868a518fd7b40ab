"""The ASGI entry that fastpysgi publishes: `fastpysgi_usual.py PORT`.

Four connections without reset, ujson, asyncio's own loop. The pool is opened before the server
runs, and not again by the application's start-up, of which its release of then knew nothing.
"""

import asyncio
import sys

import fastpysgi
from asgi_usual import Entry
from ujson import dumps
from usual import Batching

database = Batching()
app = Entry(database, lambda value: dumps(value).encode())

if __name__ == "__main__":
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(database.connect())
    fastpysgi.server.loop = loop
    fastpysgi.server.lifespan = 0
    fastpysgi.server.backlog = 4096
    fastpysgi.run(app, "127.0.0.1", int(sys.argv[1]), loglevel=2)
