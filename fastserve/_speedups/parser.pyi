from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import TypedDict

class Method(IntEnum):
    METHOD_OTHER = 0
    METHOD_GET = 1
    METHOD_HEAD = 2
    METHOD_POST = 3
    METHOD_PUT = 4
    METHOD_DELETE = 5
    METHOD_PATCH = 6
    METHOD_OPTIONS = 7
    METHOD_TRACE = 8
    METHOD_CONNECT = 9

METHOD_OTHER = Method.METHOD_OTHER
METHOD_GET = Method.METHOD_GET
METHOD_HEAD = Method.METHOD_HEAD
METHOD_POST = Method.METHOD_POST
METHOD_PUT = Method.METHOD_PUT
METHOD_DELETE = Method.METHOD_DELETE
METHOD_PATCH = Method.METHOD_PATCH
METHOD_OPTIONS = Method.METHOD_OPTIONS
METHOD_TRACE = Method.METHOD_TRACE
METHOD_CONNECT = Method.METHOD_CONNECT

class Meaning(TypedDict):
    method: bytes
    method_id: int
    target: bytes
    path: bytes
    path_escaped: bool
    query: bytes | None
    version: str
    headers: list[tuple[bytes, bytes]]
    content_length: int | None
    chunked: bool
    keep_alive: bool
    expect_continue: bool
    upgrade: bool
    consumed: int

class Parser:
    def __init__(
        self,
        *,
        max_head_bytes: int = ...,
        max_field_bytes: int = ...,
        max_headers: int = ...,
        max_target_bytes: int = ...,
        max_chunk_extension_bytes: int = ...,
        max_trailer_bytes: int = ...,
        max_trailers: int = ...,
    ) -> None: ...
    def head(
        self, data: bytes, place: Callable[[bytes], int] | None = ...
    ) -> Meaning | int | None: ...
    def split_head(
        self, pieces: Iterable[bytes], place: Callable[[bytes], int] | None = ...
    ) -> Meaning | int | None: ...
    def chunked(
        self, pieces: Iterable[bytes], place: Callable[[bytes], int] | None = ...
    ) -> tuple[bytes, int] | int | None: ...
    def repeat_head(self, data: bytes, times: int) -> int: ...

class NativeParser(Parser): ...
