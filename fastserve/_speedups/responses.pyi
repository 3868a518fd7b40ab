from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any

from fastserve._speedups.messages import Request
from fastserve._speedups.multidict import MutableHeaders, Source

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
