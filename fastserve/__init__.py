"""fastserve: an HTTP/1.1 server and framework whose own cost per request is small.

    from fastserve import App

    app = App()

    @app.get("/")
    def home():
        return "Hello, World!"

Then: fastserve run main:app
"""

from typing import TYPE_CHECKING, Any

from fastserve._speedups.messages import Request
from fastserve._speedups.multidict import Headers, MutableHeaders, QueryParams
from fastserve._speedups.responses import Response, StreamingResponse
from fastserve.app import App
from fastserve.blocking import blocking
from fastserve.errors import (
    ClientDisconnect,
    ConfigError,
    FastserveError,
    HTTPError,
    MissingExtraError,
    RouteError,
    StartupError,
)
from fastserve.forms import FormData, UploadFile
from fastserve.routing import Router

if TYPE_CHECKING:
    from fastserve.files import FileResponse

__version__ = "0.1.0"

__all__ = [
    "App",
    "ClientDisconnect",
    "ConfigError",
    "FastserveError",
    "FileResponse",
    "FormData",
    "HTTPError",
    "Headers",
    "MissingExtraError",
    "MutableHeaders",
    "QueryParams",
    "Request",
    "Response",
    "RouteError",
    "Router",
    "StartupError",
    "StreamingResponse",
    "UploadFile",
    "__version__",
    "blocking",
]

_LATER = {"FileResponse": "fastserve.files"}    # imported by the programs that use them


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'fastserve' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_LATER[name]), name)
    return value
