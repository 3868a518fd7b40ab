from collections.abc import Callable, Iterable
from typing import TypedDict

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
        self,
        pieces: Iterable[bytes],
        place: Callable[[bytes], int] | None = ...,
        before: bytes | None = ...,
    ) -> Meaning | int | None: ...
    def chunked(
        self, pieces: Iterable[bytes], place: Callable[[bytes], int] | None = ...
    ) -> tuple[bytes, int] | int | None: ...
    def repeat_head(self, data: bytes, times: int) -> int: ...

class NativeParser(Parser): ...
