from collections.abc import Callable, Coroutine
from typing import Any, Literal, final

from fastserve._speedups.task import TaskOwner

@final
class CallbackOwner(TaskOwner):
    def __init__(self, function: Callable[[Any], object]) -> None: ...

@final
class Runner:
    """Runs the coroutines of one loop's request handlers; the rest of it is for Cython.

    loop:  the event loop
    mode:  "direct", "asyncio" or, on CPython 3.12 and later, "eager"
    """

    loop: Any
    mode: str
    mode_in_force: str | None
    def __init__(self, loop: Any, mode: str = ...) -> None: ...
    def run(
        self,
        coroutine: Coroutine[Any, Any, Any],
        on_done: Callable[[Any], object] | None = ...,
    ) -> Any:
        """Start a coroutine: its result, or its task if it suspended."""
    def outcome(
        self, coroutine: Coroutine[Any, Any, Any]
    ) -> tuple[Literal["returned", "suspended", "raised"], Any]:
        """Start a coroutine: how its first step ended."""
    def run_sync(self, *functions: Callable[[], Any]) -> list[Any]:
        """Call sync handlers as one batch."""
    def decide_mode(self) -> str:
        """Look at the loop again; the mode now in force."""
