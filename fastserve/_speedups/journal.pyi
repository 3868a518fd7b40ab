from collections.abc import Callable, Sequence
from typing import Any

from fastserve._speedups.plan import Plan

LOG_LINE_BYTES: int
MAX_LOGGED_HEADERS: int
MAX_LOGGED_NAME_BYTES: int

def distance_of_clocks_ns() -> int: ...

class Journal:
    def __init__(
        self,
        sink: Callable[[Any], object],
        *,
        format: str = ...,
        headers: Sequence[str] = ...,
        sample: float = ...,
        slow_s: float = ...,
        wall_offset_ns: Callable[[], int] = ...,
    ) -> None: ...
    def flush(self) -> int: ...
    def add_request(
        self,
        head: bytes | None = ...,
        *,
        status: int = ...,
        client: bytes = ...,
        id: bytes = ...,
        body_bytes: int = ...,
        begun_ns: int = ...,
        ended_ns: int = ...,
        plan: Plan | None = ...,
    ) -> None: ...

class RecordJournal(Journal): ...
