from collections.abc import Callable, Sequence
from typing import Any

class Plan:
    handler: Callable[..., Any]
    is_async: bool
    wants_request: bool
    param_names: tuple[str, ...]
    route: Any
    max_body_bytes: int
    handler_timeout_s: float
    cancel_on_disconnect: int
    decompress_requests: bool
    exempt: bool
    unlogged: bool
    template: bytes
    number: int
    def __init__(
        self,
        handler: Callable[..., Any],
        sources: Sequence[int],
        *,
        kwnames: Sequence[str] = ...,
        is_async: bool = ...,
        param_names: Sequence[str] = ...,
        route: Any = ...,
        max_body_bytes: int | None = ...,
        handler_timeout_s: float | None = ...,
        decompress_requests: bool | None = ...,
        cancel_on_disconnect: bool | None = ...,
        exempt: bool = ...,
    ) -> None: ...
    def around(self, handler: Callable[[Any], Any]) -> Plan: ...
    def invoke(self, request: Any, values: tuple[Any, ...]) -> Any: ...
