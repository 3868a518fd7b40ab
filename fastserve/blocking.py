"""`@blocking`: a synchronous handler that runs on a bounded thread pool.

The mark is an attribute of the function; `binding` turns a marked handler into an async
plan that awaits `BlockingPool.run`. The pool is made at the first such request, so a
process that forks before it has none. At most `threads` handlers run at once; the others
wait in order. A handler runs in a copy of its request's context, so what it reads from
context variables is right and what it sets stays inside it; the steps of a generator share
one copy. A cancelled request does not stop its thread: nothing can.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from fastserve._speedups.responses import StreamingResponse

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

    async def answer(self, handler: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """run(); and what the handler returned to be sent in pieces is made on threads, too."""
        value = await self.run(handler, *args, **kwargs)
        if type(value) is tuple and value:
            return (self._on_threads(value[0]), *value[1:])
        return self._on_threads(value)

    def generate(self, handler: Callable[..., Any], *args: Any, **kwargs: Any) -> Steps:
        """What the handler's generator yields, each step taken on a thread."""
        return Steps(self, handler(*args, **kwargs))

    def _on_threads(self, value: Any) -> Any:
        if isinstance(value, StreamingResponse):
            source = value.source
            if not hasattr(source, "__aiter__"):
                wrap = Steps if hasattr(type(source), "__next__") else Stepped
                value.source = wrap(self, source)
        elif hasattr(type(value), "__next__") and not hasattr(value, "__aiter__"):
            return Steps(self, value)
        return value

    def close(self) -> None:
        """Forget what has not begun; what runs, runs on."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None


class Steps:
    """An iterator whose steps, and whose end, are taken on threads, in one context."""

    def __init__(self, pool: BlockingPool, source: Iterable[Any]) -> None:
        self._pool = pool
        self._source = source
        self._pieces: Any = None
        self._context: contextvars.Context | None = None
        self._one_at_a_time = threading.Lock()  # a cancelled step runs on; closing waits for it

    def __aiter__(self) -> Steps:
        return self

    async def __anext__(self) -> Any:
        if self._context is None:
            self._context = contextvars.copy_context()
        piece = await self._pool.run(self._within, self._context, self._step)
        if piece is _END:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Close what was begun."""
        if self._context is not None:
            await self._pool.run(self._within, self._context, self._end)

    def close(self) -> None:
        """Close what was never begun."""
        if self._context is None:
            _close(self._source)

    def _within(self, context: contextvars.Context, step: Callable[[], Any]) -> Any:
        with self._one_at_a_time:   # a context can be entered once
            return context.run(step)

    def _step(self) -> Any:
        if self._pieces is None:
            self._pieces = iter(self._source)
        return next(self._pieces, _END)

    def _end(self) -> None:
        _close(self._source if self._pieces is None else self._pieces)


class Stepped:
    """What can be iterated again, as a response that is returned again."""

    def __init__(self, pool: BlockingPool, source: Iterable[Any]) -> None:
        self._pool = pool
        self._source = source

    def __aiter__(self) -> Steps:
        return Steps(self._pool, self._source)

    def close(self) -> None:
        """What is behind it, when the server is done with it."""
        _close(self._source)


def _close(thing: Any) -> None:
    close = getattr(thing, "close", None)
    if close is not None:
        close()


def _call(handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return handler(*args, **kwargs)
    except StopIteration as error:  # a Future refuses it, and the request would wait for ever
        raise RuntimeError(f"handler raised {error!r}") from error
