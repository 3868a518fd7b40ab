"""Runs the `app` of an ASGI or WSGI module on fastpysgi: `fastpysgi_run.py MODULE PORT`.

It accepts requests before an ASGI application's start-up is complete, so what an application needs,
its module's `connect()`, is run in the loop first, as its published entry does.
"""

import asyncio
import importlib
import sys

import fastpysgi
import uvloop

if __name__ == "__main__":
    module = importlib.import_module(sys.argv[1])
    fastpysgi.server.backlog = 4096
    fastpysgi.server.lifespan = 0
    fastpysgi.server.tcp_nodelay = 1
    fastpysgi.server.loop_timeout = 1
    if hasattr(module, "connect"):
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        loop.run_until_complete(module.connect())
        fastpysgi.server.loop = loop
    fastpysgi.run(module.app, "127.0.0.1", int(sys.argv[2]), loglevel=0)
