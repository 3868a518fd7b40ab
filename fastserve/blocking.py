"""`@blocking`: a synchronous handler that runs on a bounded thread pool.

The mark is an attribute of the function; `binding` turns a marked handler into an async
plan that awaits `BlockingPool.run`. The pool is made at the first such request, so a
process that forks before it has none. At most `threads` handlers run at once; the others
wait in order. A handler runs in a copy of its request's context, so what it reads from
context variables is right and what it sets stays inside it. A cancelled request does not
stop its thread: nothing can.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

Handler = TypeVar("Handler", bound=Callable[..., Any])

MARK = "__fastserve_blocking__"
DEFAULT_THREADS = 40    # of one worker; what Starlette's users know from anyio
_END: Any = object()


def blocking(handler: Handler) -> Handler:
    """Run this synchronous handler on the thread pool instead of the event loop.

    Put it under the route decorator:

        @app.get("/report")
        @blocking
        def report(): ...

    Raises TypeError for an `async def`, which the loop can run as it is.
    """
    if inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler):
        name = getattr(handler, "__qualname__", repr(handler))
        raise TypeError(
            f"@blocking marks synchronous handlers, and {name} is async: "
            "remove @blocking, or make it a plain def"
        )
    if inspect.isfunction(handler):
        setattr(handler, MARK, True)
        return handler

    @functools.wraps(handler)
    def marked(*args: Any, **kwargs: Any) -> Any:
        return handler(*args, **kwargs)

    setattr(marked, MARK, True)
    return marked  # type: ignore[return-value]


def call_of(endpoint: Any) -> Any:
    """The __call__ of an object's class, or None."""
    return inspect.getattr_static(type(endpoint), "__call__", None)


def is_blocking(handler: Any) -> bool:
    """Whether a handler, or the function behind a partial, method or callable object, is marked."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if getattr(handler, MARK, False):
        return True
    return bool(getattr(call_of(handler), MARK, False))


class BlockingPool:
    """The threads of one worker, made when the first marked handler is called."""

    def __init__(self, threads: int = DEFAULT_THREADS) -> None:
        self.threads = threads
        self._executor: ThreadPoolExecutor | None = None
        self._unfinished: set[Future[Any]] = set()

    @property
    def running(self) -> int:
        """Handlers begun or waiting for a thread, and not yet returned."""
        return len(self._unfinished)

    async def run(self, handler: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the handler on a thread, in a copy of the current context; await its value."""
        import asyncio
        from concurrent.futures import ThreadPoolExecutor

        if self._executor is None:
            self._executor = ThreadPoolExecutor(self.threads, "fastserve-blocking")
        context = contextvars.copy_context()
        call = functools.partial(context.run, _call, handler, args, kwargs)
        future = self._executor.submit(call)
        self._unfinished.add(future)    # adding and discarding are atomic: no lock
        future.add_done_callback(self._unfinished.discard)
        return await asyncio.wrap_future(future)

    async def generate(
        self, handler: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """What the handler's generator yields, each step taken on a thread."""
        pieces = handler(*args, **kwargs)
        one_at_a_time = threading.Lock()    # a cancelled step runs on; closing waits for it

        def step() -> Any:
            with one_at_a_time:
                return next(pieces, _END)

        def end() -> None:
            with one_at_a_time:
                pieces.close()

        try:
            while (piece := await self.run(step)) is not _END:
                yield piece
        finally:
            await self.run(end)

    def close(self) -> None:
        """Forget what has not begun; what runs, runs on."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None


def _call(handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return handler(*args, **kwargs)
    except StopIteration as error:  # a Future refuses it, and the request would wait for ever
        raise RuntimeError(f"handler raised {error!r}") from error
