"""Runs the `app` of an ASGI or WSGI module on fastpysgi: `fastpysgi_run.py MODULE PORT`.

It accepts requests before an ASGI application's start-up is complete, so the database of one is
opened in the loop first, as its published entry does. An own loop may be given; uvloop's is best.
"""

import asyncio
import importlib
import sys

import fastpysgi
import uvloop

if __name__ == "__main__":
    name, port = sys.argv[1:]
    app = importlib.import_module(name).app
    fastpysgi.server.backlog = 4096
    fastpysgi.server.tcp_nodelay = 1
    fastpysgi.server.loop_timeout = 1
    fastpysgi.server.lifespan = 0
    if name.startswith("asgi_"):
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        loop.run_until_complete(app.database.connect())
        fastpysgi.server.loop = loop
    fastpysgi.run(app, "127.0.0.1", int(port), loglevel=0)
