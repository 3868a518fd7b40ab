from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from datetime import datetime
from ssl import SSLObject
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from fastserve._speedups.multidict import Headers, MutableHeaders, QueryParams, Source

if TYPE_CHECKING:
    from fastserve.forms import FormData, Parts

class Address(tuple[str, int]):
    """Where a client is; host is "" and port 0 for a unix socket."""

    def __new__(cls, host: str, port: int) -> Address: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...

class State(SimpleNamespace):
    """A bag of attributes of the user's own."""

class Request:
    """One request. Whatever a handler does not touch is never made."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def raw_path(self) -> bytes: ...
    @property
    def target(self) -> bytes: ...
    @property
    def query_string(self) -> bytes: ...
    @property
    def query(self) -> QueryParams: ...
    @property
    def url(self) -> str: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def cookies(self) -> dict[str, str]: ...
    @property
    def http_version(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def client(self) -> Address | None: ...
    @property
    def scheme(self) -> str: ...
    @property
    def ssl_object(self) -> SSLObject | None: ...
    @property
    def client_cert(self) -> dict[str, Any] | None: ...
    @property
    def path_params(self) -> dict[str, Any]: ...
    @property
    def path_values(self) -> tuple[Any, ...]: ...
    @property
    def route(self) -> Any: ...
    @property
    def app(self) -> Any: ...
    @property
    def state(self) -> State: ...
    @property
    def max_body_bytes(self) -> int:
        """The limit of body(), json() and form()."""
    async def body(self, *, max_bytes: int | None = ...) -> bytes: ...
    async def json(self) -> Any: ...
    def stream(self, *, max_bytes: int | None = ...) -> BodyStream: ...
    async def form(self) -> FormData: ...
    def parts(self) -> Parts: ...
    def send_early_hints(self, links: str | Iterable[str]) -> None: ...

class BodyStream:
    """The pieces of a body in order; each is given once."""

    def __aiter__(self) -> BodyStream: ...
    def __anext__(self) -> Awaitable[bytes]: ...
    async def aclose(self) -> None: ...

class Response:
    """A status, a body and headers."""

    status: int
    body: bytes
    def __init__(
        self,
        body: bytes | bytearray | memoryview | str = ...,
        status: int = ...,
        headers: Source = ...,
        *,
        content_type: str | None = ...,
    ) -> None: ...
    @property
    def headers(self) -> MutableHeaders: ...
    @property
    def content_type(self) -> str | None: ...
    @content_type.setter
    def content_type(self, value: str | None) -> None: ...
    @staticmethod
    def text(content: str, status: int = ..., headers: Source = ...) -> Response: ...
    @staticmethod
    def html(content: str, status: int = ..., headers: Source = ...) -> Response: ...
    @staticmethod
    def json(content: Any, status: int = ..., headers: Source = ...) -> Response: ...
    @staticmethod
    def redirect(location: str, status: int = ..., headers: Source = ...) -> Response: ...
    def set_cookie(
        self,
        name: str,
        value: str = ...,
        *,
        max_age_s: float | None = ...,
        expires: datetime | None = ...,
        path: str | None = ...,
        domain: str | None = ...,
        secure: bool = ...,
        httponly: bool = ...,
        samesite: str | None = ...,
        partitioned: bool = ...,
    ) -> None: ...
    def delete_cookie(
        self, name: str, *, path: str | None = ..., domain: str | None = ...
    ) -> None: ...

class StreamingResponse(Response):
    """A response whose body is sent as it is made."""

    source: Any
    @property
    def length(self) -> int: ...
    @property
    def trailers(self) -> Any: ...
    @property
    def waits_for_first(self) -> bool:
        """Whether the head is sent with the first piece, which tells its media type."""
    def __init__(
        self,
        source: AsyncIterable[bytes | str] | Iterable[bytes | str],
        status: int = ...,
        headers: Source = ...,
        *,
        content_type: str | None = ...,
        length: int | None = ...,
        trailers: Source | Callable[[], Source] = ...,
    ) -> None: ...

class ConditionalResponse(Response):
    """A response that is decided by the request it answers."""

    def prepare(self, request: Request) -> Response | Awaitable[Response]: ...

class FileSpan:
    """A part of an open file."""

    fd: int
    offset: int
    size: int
    def __init__(self, fd: int, offset: int, size: int) -> None: ...

class PartsResponse(Response):
    """A body of known length in parts, some of them in files."""

    @property
    def parts(self) -> list[bytes | FileSpan]: ...
    @property
    def length(self) -> int: ...
    on_close: Callable[[], None] | None
    def __init__(
        self,
        parts: list[bytes | FileSpan],
        status: int = ...,
        headers: Source = ...,
        *,
        content_type: str | None = ...,
        on_close: Callable[[], None] | None = ...,
    ) -> None: ...

def as_response(value: Any) -> Response: ...
