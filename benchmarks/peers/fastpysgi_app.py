"""Runs the WSGI or the ASGI cases on fastpysgi: `fastpysgi_app.py wsgi|asgi PORT`."""

import importlib
import sys

import fastpysgi

if __name__ == "__main__":
    kind, port = sys.argv[-2:]
    app = importlib.import_module({"wsgi": "wsgi_app", "asgi": "raw_asgi_app"}[kind]).app
    fastpysgi.server.backlog = 4096
    fastpysgi.server.tcp_nodelay = 1
    fastpysgi.run(app, "127.0.0.1", int(port), loglevel=0)
