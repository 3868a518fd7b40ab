from collections.abc import Callable
from typing import Any

from fastserve._speedups.messages import Request
from fastserve._speedups.multidict import MutableHeaders
from fastserve._speedups.responses import Response

class OpenFile:
    """An open file or directory; close it with release()."""

    fd: int
    size: int
    mtime_ns: int
    ctime_ns: int
    device: int
    inode: int
    is_file: bool
    is_directory: bool
    def release(self) -> None: ...

class Root:
    """A directory out of which no name leads."""

    directory: str
    def __init__(
        self, directory: str, *, symlinks: bool = ..., use_openat2: bool = ...
    ) -> None: ...
    def open(self, name: bytes, cached: bool) -> OpenFile: ...

class Representation:
    """One file as it is sent."""

    name: bytes | None
    etag: bytes
    coding: bytes
    size: int
    modified_s: int
    content: bytes | None
    def __init__(
        self,
        file: OpenFile,
        media_type: bytes,
        headers: MutableHeaders,
        *,
        name: bytes | None = ...,
        coding: bytes = ...,
        content: bytes | None = ...,
        now_s: float = ...,
        status: int = ...,
    ) -> None: ...

class Entry:
    """What a path means for the moment."""

    def __init__(self, plain: Representation, coded: list[Representation]) -> None: ...

class Shelf:
    """The entries of one directory, by raw path."""

    def __init__(
        self,
        root: Root,
        look: Callable[[Request, str], Any],
        clock: Callable[[], float] | None = ...,
    ) -> None: ...
    def __len__(self) -> int: ...
    def put(self, key: bytes, entry: Entry) -> None: ...
    def get(self, request: Request, path: str) -> Any: ...
    def answer_with(
        self, entry: Entry, request: Request, file: OpenFile | None = ...
    ) -> Response | None: ...
    def form_for(self, entry: Entry, request: Request) -> Representation: ...

READ_BYTES: int
KEPT_BYTES: int

def open_file(path: bytes, cached: bool) -> OpenFile: ...
def read_file(file: OpenFile, cached: bool) -> bytes: ...
def respond_with(form: Representation, request: Request, file: OpenFile | None) -> Response: ...
