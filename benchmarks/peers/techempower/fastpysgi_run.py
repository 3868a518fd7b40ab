"""Runs an ASGI or WSGI module on fastpysgi: `fastpysgi_run.py MODULE PORT`."""

import importlib
import sys

import fastpysgi

if __name__ == "__main__":
    module, port = sys.argv[1:]
    fastpysgi.server.backlog = 4096
    fastpysgi.server.tcp_nodelay = 1
    fastpysgi.run(importlib.import_module(module).app, "127.0.0.1", int(port), loglevel=0)
