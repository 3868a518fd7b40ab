"""Middleware: `async def (request, call_next)` around every handler, composed once at start-up.

The first registered is the outermost. What `await call_next(request)` returns is always a
Response: the handler's value is made into one, and an HTTPError, or an exception somebody
registered a handler for, has become one by then, whether the handler raised it or a
middleware further in. Any other exception travels through the middleware, which may catch
it, to the outermost 500. Middleware also runs for 404, 405 and the
automatic OPTIONS. A plan that no middleware surrounds is left alone: it pays nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastserve._speedups.messages import Request
from fastserve._speedups.plan import Plan
from fastserve._speedups.responses import Response, as_response
from fastserve.binding import is_async

CallNext = Callable[[Request], Awaitable[Response]]
Middleware = Callable[[Request, CallNext], Awaitable[Any]]
Answer = Callable[[Request, Exception], Any]


def check(middleware: Any) -> None:
    """Raise TypeError unless it can be awaited with (request, call_next)."""
    name = getattr(middleware, "__qualname__", repr(middleware))
    if not is_async(middleware):
        raise TypeError(f"middleware {name} must be an async def that takes (request, call_next)")
    try:
        inspect.signature(middleware).bind(None, None)
    except TypeError as error:
        raise TypeError(f"middleware {name} must take (request, call_next): {error}") from None


def surround(plan: Plan, layers: Sequence[Middleware], answer: Answer) -> Plan:
    """The same plan inside all layers, the first outermost.

    answer:  (request, exception) -> what to answer (or an awaitable of it) where somebody
             registered a handler for the exception; raises the exception where nobody did
    """
    handler = _innermost(plan, answer)
    for layer in reversed(layers):
        handler = _wrap(layer, handler, answer)
    return plan.around(handler)


def _innermost(plan: Plan, answer: Answer) -> CallNext:
    async def call_handler(request: Request) -> Response:
        try:
            return await _response(plan.invoke(request, request.path_values))
        except Exception as error:
            value = answer(request, error)
        return await _response(value)   # not inside the except: its mistakes have their own context

    return call_handler


async def _response(value: Any) -> Response:
    return as_response(await value if inspect.isawaitable(value) else value)


def _wrap(layer: Middleware, call_next: CallNext, answer: Answer) -> CallNext:
    async def call_layer(request: Request) -> Response:
        try:
            return await _response(layer(request, call_next))
        except Exception as error:
            value = answer(request, error)
        return await _response(value)

    return call_layer
