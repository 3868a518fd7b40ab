"""fastserve: an HTTP/1.1 server and framework whose own cost per request is small.

    from fastserve import App

    app = App()

    @app.get("/")
    def home():
        return "Hello, World!"

Then: fastserve run main:app
"""

from fastserve._speedups.messages import Request, Response, StreamingResponse
from fastserve._speedups.multidict import Headers, MutableHeaders, QueryParams
from fastserve.app import App
from fastserve.blocking import blocking
from fastserve.errors import (
    ClientDisconnect,
    ConfigError,
    FastserveError,
    HTTPError,
    RouteError,
    StartupError,
)
from fastserve.routing import Router

__version__ = "0.1.0"

__all__ = [
    "App",
    "ClientDisconnect",
    "ConfigError",
    "FastserveError",
    "HTTPError",
    "Headers",
    "MutableHeaders",
    "QueryParams",
    "Request",
    "Response",
    "RouteError",
    "Router",
    "StartupError",
    "StreamingResponse",
    "__version__",
    "blocking",
]
