from fastserve._speedups.messages import Request

class Conditions:
    """The conditional fields of a request, as bytes or None."""

    if_match: bytes | None
    if_none_match: bytes | None
    if_modified_since: bytes | None
    if_unmodified_since: bytes | None
    if_range: bytes | None
    range: bytes | None
    accept_encoding: bytes | None
    any: bool
    def __init__(
        self,
        *,
        if_match: bytes | None = ...,
        if_none_match: bytes | None = ...,
        if_modified_since: bytes | None = ...,
        if_unmodified_since: bytes | None = ...,
        if_range: bytes | None = ...,
        range: bytes | None = ...,
        accept_encoding: bytes | None = ...,
    ) -> None: ...

def conditions_of(request: Request) -> Conditions: ...
def precondition(conditions: Conditions, etag: bytes, modified_s: int) -> int: ...
def selected_ranges(
    conditions: Conditions, etag: bytes, modified_s: int, size: int, now_s: int
) -> list[tuple[int, int]] | None: ...
def parse_ranges(value: bytes, size: int) -> list[tuple[int, int]] | None: ...
def coding_weight(accept_encoding: bytes, coding: bytes) -> float: ...
def parse_date(value: bytes) -> int: ...
