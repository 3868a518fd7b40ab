"""binding.py: where each argument of a handler comes from, and what cannot be registered."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from typing import TYPE_CHECKING, Annotated, Any, NewType, Optional
from uuid import UUID

import pytest

from fastserve import Request, RouteError, blocking
from fastserve.binding import Target, bind, converter_overrides, describe
from fastserve.blocking import BlockingPool

if TYPE_CHECKING:
    from nowhere import Missing

REQUEST = object()
UserId = NewType("UserId", int)


def target_of(handler):
    return Target("GET /x", handler)


def plan_of(handler, **params):
    return bind(target_of(handler), params, pool=BlockingPool())


def call(handler, *values, **params):
    """What the handler's plan returns for these path values."""
    return plan_of(handler, **params).invoke(REQUEST, values)


def test_a_handler_may_take_nothing():
    """No arguments, no request: the plan says so, and the request need not be built."""
    plan = plan_of(lambda: "hi")

    assert plan.invoke(None, ()) == "hi"
    assert not plan.wants_request
    assert not plan.is_async


def test_arguments_come_by_name_in_any_order():
    """The order of the path and the order of the signature are independent."""

    def handler(b, request, a):
        return a, b, request

    assert call(handler, 1, 2, a="int", b="int") == (1, 2, REQUEST)


def test_the_request_is_passed_by_its_annotation_under_any_name():
    """`r: Request` is the request."""

    def handler(r: Request, a):
        return a, r

    assert call(handler, 1, a="int") == (1, REQUEST)


def test_a_name_only_the_type_checker_sees_does_not_hide_the_request():
    """One unresolvable string annotation leaves the others resolved."""

    def handler(r: Request, other: Missing = None):
        return r

    assert call(handler) is REQUEST


def test_a_request_imported_for_type_checkers_only_is_known_by_its_name():
    """An unresolvable annotation that ends in Request means the request."""

    def handler(r, a):
        return r, a

    handler.__annotations__ = {"r": "framework.Request", "a": "Missing"}

    assert call(handler, 1, a="str") == (REQUEST, 1)


def test_a_subclass_an_optional_and_an_annotated_request_are_the_request():
    """What wraps Request in an annotation does not matter."""

    class Mine(Request):
        pass

    def handler(a: Mine, b: Optional[Request], c: Annotated[Request, "x"], d: Request | None):  # noqa: UP045
        return a, b, c, d

    handler.__annotations__["a"] = Mine

    assert call(handler) == (REQUEST,) * 4


def test_an_argument_with_a_default_that_nothing_provides_is_left_out():
    """Its default holds, and what comes behind it is passed by name."""

    def handler(a, limit=10, b=None, *, request, c=3):
        return a, limit, b, request, c

    assert call(handler, 1, 2, a="int", b="int") == (1, 10, 2, REQUEST, 3)


def test_a_default_gives_way_to_a_path_parameter():
    """A default is for what nothing provides."""
    assert call(lambda id=5: id, 7, id="int") == 7


def test_positional_only_arguments_are_passed_by_position():
    """`def f(a, /)` works like any other."""

    def handler(b, a, /, *, request):
        return a, b, request

    assert call(handler, 1, 2, a="int", b="int") == (1, 2, REQUEST)


def test_a_positional_only_argument_behind_a_left_out_one_is_refused():
    """It could not be passed without passing the default too."""

    def handler(x=1, id=2, /):
        return id

    with pytest.raises(RouteError, match="takes 'id' by position only, behind 'x'"):
        plan_of(handler, id="int")


def test_var_positional_stays_empty_and_var_keyword_takes_the_rest():
    """`**kwargs` gets the path parameters that no argument names, and not the request."""

    def handler(a, *args, **kwargs):
        return a, args, kwargs

    assert call(handler, 1, 2, 3, a="int", b="int", c="int") == (1, (), {"b": 2, "c": 3})


def test_partials_methods_and_callable_objects_are_bound_by_their_own_signature():
    """What is fixed already is not asked for."""

    class Users:
        def get(self, id, request):
            return id, request

        def __call__(self, id):
            return id

    def handler(db, id):
        return db, id

    assert call(functools.partial(handler, "db"), 7, id="int") == ("db", 7)
    assert call(functools.partial(handler, db="kw"), 7, id="int") == ("kw", 7)
    assert call(Users().get, 7, id="int") == (7, REQUEST)
    assert call(Users(), 7, id="int") == 7


@pytest.mark.parametrize("name", ["function", "partial", "method", "object", "partial of object"])
def test_async_is_seen_through(name):
    """An async function, its partial, a method and an async __call__ all make async plans."""

    class Thing:
        async def method(self):
            return "ok"

        async def __call__(self):
            return "ok"

    async def function():
        return "ok"

    handler = {
        "function": function,
        "partial": functools.partial(function),
        "method": Thing().method,
        "object": Thing(),
        "partial of object": functools.partial(Thing()),
    }[name]
    plan = plan_of(handler)

    assert plan.is_async
    assert asyncio.run(plan.invoke(None, ())) == "ok"


def test_a_wrapper_has_the_signature_of_what_it_wraps():
    """functools.wraps is enough for the arguments; the wire awaits what comes back."""

    def handler(request, id):
        return request, id

    @functools.wraps(handler)
    def wrapper(*args, **kwargs):
        return handler(*args, **kwargs)

    assert call(wrapper, 7, id="int") == (REQUEST, 7)


def test_an_argument_that_nothing_provides_names_route_handler_place_and_way_out():
    """The error is enough to find and mend the mistake."""

    def handler(id, db):
        return db

    with pytest.raises(RouteError) as caught:
        plan_of(handler, id="int")

    message = str(caught.value)
    assert message.startswith(f"route 'GET /x': handler {__name__}.")
    assert f"{__file__}:{handler.__code__.co_firstlineno}" in message
    assert "takes 'db', which nothing provides (the path has {id})" in message
    assert "Add {db} to the path, annotate it Request, or give it a default" in message


def test_a_request_that_is_also_a_path_parameter_is_refused():
    """One name cannot be both."""

    def handler(id: Request):
        return id

    with pytest.raises(RouteError, match="Rename one of them"):
        plan_of(handler, id="str")


def test_a_path_parameter_named_request_is_the_path_parameter():
    """The path names it; the annotation Request would still give the request."""
    assert call(lambda request: request, "v", request="str") == "v"


def test_classes_and_things_that_cannot_be_called_are_refused():
    """Making an instance per request is never what was meant."""

    class Page:
        def __init__(self):
            pass

    with pytest.raises(RouteError, match="is a class"):
        plan_of(Page)
    with pytest.raises(RouteError, match="is not callable"):
        plan_of(42)


def test_a_generator_marked_blocking_is_iterated_on_threads():
    """It stays a plain call: what it returns is an asynchronous iterator."""

    @blocking
    def parts():
        yield "a"

    plan = plan_of(parts)
    made = plan.invoke(None, ())

    assert not plan.is_async
    assert hasattr(made, "__anext__")


def test_more_arguments_than_a_plan_holds_are_refused():
    """The limit of the compiled plan is a RouteError too."""
    source = f"lambda {', '.join(f'a{i}' for i in range(20))}: None"

    with pytest.raises(RouteError, match="at most 16 path parameters"):
        plan_of(eval(source), **{f"a{i}": "str" for i in range(20)})


# --- converters --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "converter"),
    [
        (int, "int"), (float, "float"), (UUID, "uuid"), ("int", "int"), ("uuid.UUID", "uuid"),
        (UserId, "int"), (Annotated[int, "x"], "int"), (Optional[int], "int"), (int | None, "int"),  # noqa: UP045
    ],
)
def test_an_annotation_chooses_the_converter(annotation, converter):
    """`{id}` with `id: int` is `{id:int}`."""

    def handler(id):
        return id

    handler.__annotations__ = {"id": annotation}

    assert converter_overrides(target_of(handler), {"id": None}) == {"id": converter}


@pytest.mark.parametrize("annotation", [str, Any, object, "str", "Missing", None])
def test_an_annotation_without_an_opinion_leaves_a_string(annotation):
    """str, Any, nothing, and what cannot be resolved: the parameter stays text."""

    def handler(id):
        return id

    if annotation is not None:
        handler.__annotations__ = {"id": annotation}

    assert converter_overrides(target_of(handler), {"id": None}) == {}


@pytest.mark.parametrize("annotation", [str, float, "str", UUID, list, bool])
def test_an_annotation_that_contradicts_the_path_is_refused(annotation):
    """`{id:int}` makes an int, whatever the handler hopes."""

    def handler(id):
        return id

    handler.__annotations__ = {"id": annotation}

    with pytest.raises(RouteError, match=r"\{id:int\} makes int. Change one of them"):
        converter_overrides(target_of(handler), {"id": "int"})


def test_an_annotation_that_agrees_with_the_path_is_fine():
    """An int with int, UUID with uuid, str with path."""

    def handler(a: int, b: UUID, c: str, d: UserId, e: Any):
        return a, b, c, d, e

    given = {"a": "int", "b": "uuid", "c": "path", "d": "int", "e": "float"}
    assert converter_overrides(target_of(handler), given) == {}


def test_a_type_that_no_converter_makes_is_refused():
    """A bool or a list would be the text after all."""

    def handler(flag: bool):
        return flag

    with pytest.raises(RouteError, match="annotates the path parameter 'flag' as bool"):
        converter_overrides(target_of(handler), {"flag": None})


def test_a_handler_is_described_by_name_and_place():
    """module.qualname (file:line), through partials and bound methods."""

    class Thing:
        def method(self):
            pass

    line = Thing.method.__code__.co_firstlineno
    name = "test_a_handler_is_described_by_name_and_place.<locals>.Thing.method"
    expected = f"{__name__}.{name} ({__file__}:{line})"

    assert describe(Thing().method) == expected
    assert describe(functools.partial(Thing().method)) == expected
    assert describe(len) == "builtins.len"


# --- @blocking ---------------------------------------------------------------------------

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


def test_a_blocking_handler_runs_on_a_thread_in_its_requests_context():
    """It is an async plan; it sees the context, and what it sets stays inside."""

    @blocking
    def handler(id):
        seen = variable.get()
        variable.set("changed")
        return id, seen, threading.current_thread() is threading.main_thread()

    async def main():
        variable.set("mine")
        result = await plan.invoke(None, (7,))
        return result, variable.get()

    plan = plan_of(handler, id="int")

    assert plan.is_async
    assert asyncio.run(main()) == ((7, "mine", False), "mine")
    assert handler.__name__ == "handler"


def test_blocking_marks_only_what_is_synchronous():
    """An async handler on a thread would be a coroutine nobody awaits."""

    async def handler():
        pass

    with pytest.raises(TypeError, match="is async"):
        blocking(handler)


def test_an_async_wrapper_that_copied_the_mark_is_refused():
    """functools.wraps copies attributes, this one too; then the mark is on the wrong function."""

    @blocking
    def inner():
        pass

    @functools.wraps(inner)
    async def outer():
        return inner()

    with pytest.raises(RouteError, match="async and marked @blocking"):
        plan_of(outer)


def test_at_most_so_many_blocking_handlers_run_at_once():
    """The pool is bounded, counts what is unfinished, and makes no thread before the first call."""
    barrier = threading.Barrier(3, timeout=10)
    pool = BlockingPool(2)
    running = []

    @blocking
    def handler():
        running.append(1)
        barrier.wait()

    async def main():
        plan = bind(target_of(handler), {}, pool=pool)
        assert pool._executor is None
        tasks = [asyncio.ensure_future(plan.invoke(None, ())) for _ in range(4)]
        for expected in (2, 4):
            while barrier.n_waiting < 2:
                await asyncio.sleep(0.001)
            assert len(running) == expected
            assert pool.running >= 2
            await asyncio.to_thread(barrier.wait)
        await asyncio.gather(*tasks)

    asyncio.run(asyncio.wait_for(main(), 20))
    pool.close()


def test_a_stop_iteration_in_a_blocking_handler_is_an_error_and_not_a_hang():
    """A Future refuses StopIteration; without care the request would never end."""

    @blocking
    def handler():
        return next(iter(()))

    async def main():
        await asyncio.wait_for(plan_of(handler).invoke(None, ()), 10)

    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(main())
