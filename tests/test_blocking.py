"""blocking.py: what a @blocking handler gives to be sent in pieces is made on threads.

What binds a handler to the pool is in test_binding.py.
"""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import functools
import threading

import pytest

from fastserve import App, StreamingResponse, blocking
from fastserve.blocking import BlockingPool, Steps
from fastserve.testing import TestClient


def app_of(handler):
    app = App()
    app.get("/")(handler)
    return app


def thread_names():
    yield f"{threading.current_thread().name}\n"
    yield f"{threading.current_thread().name}\n"


class ThreadNames:
    """Sources and handlers that are no generator functions."""

    def __iter__(self):
        return thread_names()

    def __call__(self):
        yield from thread_names()

    def method(self):
        yield from thread_names()


def generator_function():
    yield from thread_names()


FORMS = {
    "generator function": generator_function,
    "method": ThreadNames().method,
    "object": ThreadNames(),
    "partial": functools.partial(thread_names),
    "generator": lambda: thread_names(),
    "iterator": lambda: map(str, thread_names()),
    "tuple": lambda: (thread_names(), 200, {"x-kind": "tuple"}),
    "response": lambda: StreamingResponse(thread_names()),
    "response in a tuple": lambda: (StreamingResponse(thread_names()), 200),
    "iterable": lambda: StreamingResponse(ThreadNames()),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_piece_of_a_blocking_handler_is_made_on_a_thread(form):
    """Whatever the handler is, and however it gives what makes them."""
    with TestClient(app_of(blocking(FORMS[form]))) as client:
        names = client.get("/").text.splitlines()

    assert len(names) == 2
    assert all(name.startswith("fastserve-blocking") for name in names)


def test_a_kept_response_may_be_returned_again():
    """Where its source can be iterated again."""
    kept = StreamingResponse(["a", "b"])
    with TestClient(app_of(blocking(lambda: kept))) as client:
        assert [client.get("/").text for _ in range(3)] == ["ab"] * 3


@pytest.mark.parametrize("respond", [lambda source: source, StreamingResponse])
def test_head_closes_what_was_returned(respond):
    """It was never begun."""
    closed = []

    class Source:
        def __iter__(self):
            return self

        def __next__(self):
            raise AssertionError("a step was taken")

        def close(self):
            closed.append(self)

    with TestClient(app_of(blocking(lambda: respond(Source())))) as client:
        assert client.head("/").status == 200
    assert len(closed) == 1


def test_what_was_to_be_iterated_is_closed_though_no_step_began():
    """On a thread; its first step was given up while it waited for one."""
    pool = BlockingPool(1)
    closed = []

    class Source:
        def __iter__(self):
            raise AssertionError("a step was taken")

        def close(self):
            closed.append(threading.current_thread() is not threading.main_thread())

    async def main():
        free = threading.Event()
        holding = asyncio.ensure_future(pool.run(free.wait))
        steps = Steps(pool, Source())
        first = asyncio.ensure_future(anext(steps))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        free.set()
        await steps.aclose()
        await holding

    asyncio.run(asyncio.wait_for(main(), 20))
    pool.close()
    assert closed == [True]


WHO = contextvars.ContextVar("WHO", default="nobody")


def resets_what_it_set():
    token = WHO.set("me")
    try:
        yield f"{WHO.get()} "
        yield WHO.get()
    finally:
        WHO.reset(token)


def keeps_its_precision():
    with decimal.localcontext() as context:
        context.prec = 3
        yield f"{decimal.Decimal(1) / 3} "
        yield str(decimal.Decimal(2) / 3)


@pytest.mark.parametrize("mark", [lambda handler: handler, blocking], ids=["inline", "blocking"])
@pytest.mark.parametrize(
    ("pieces", "expected"),
    [(resets_what_it_set, "me me"), (keeps_its_precision, "0.333 0.667")])
def test_a_generator_keeps_its_context_between_steps(caplog, mark, pieces, expected):
    """On the loop and on threads alike: what it sets is there at the next step."""
    def generator():
        yield from pieces()

    for handler in (generator, lambda: pieces()):
        with TestClient(app_of(mark(handler))) as client:
            assert client.get("/").text == expected
    assert caplog.text == ""
