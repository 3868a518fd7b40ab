"""app.py: registration, what it refuses, the lifespan, and the whole way through the protocol."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from fastserve import App, FastserveError, Request, Response, RouteError, Router
from fastserve.testing import TestClient


@pytest.fixture
def app():
    return App()


def test_every_return_value_of_the_contract_is_answered(app):
    """str, bytes, JSON, None, tuples and Response."""
    values = {
        "str": ("hi", 200, "text/plain; charset=utf-8", b"hi"),
        "bytes": (b"\x00", 200, "application/octet-stream", b"\x00"),
        "dict": ({"a": 1}, 200, "application/json", b'{"a":1}'),
        "list": ([1], 200, "application/json", b"[1]"),
        "none": (None, 204, None, b""),
        "pair": (("made", 201), 201, "text/plain; charset=utf-8", b"made"),
        "triple": (("made", 201, {"x-a": "1"}), 201, "text/plain; charset=utf-8", b"made"),
        "response": (Response(b"r", 202), 202, "application/octet-stream", b"r"),
    }
    for name, (value, *_) in values.items():
        app.get(f"/{name}", name=name)(lambda value=value: value)

    with TestClient(app) as client:
        for name, (_, status, kind, body) in values.items():
            reply = client.get(f"/{name}")
            assert (reply.status, reply.headers.get("content-type"), reply.body) == (
                status, kind, body)
        assert client.get("/triple").headers["x-a"] == "1"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
def test_each_method_has_its_decorator(app, method):
    """app.get, app.post and so on give the handler back unchanged."""

    def handler(request):
        return Response(b"", 200, {"x-method": request.method})

    assert getattr(app, method.lower())("/x")(handler) is handler
    with TestClient(app) as client:
        assert client.request(method, "/x").headers["x-method"] == method


def test_head_options_404_and_405_answer_by_themselves(app):
    """Nobody has to write these handlers."""
    app.get("/x")(lambda: "body")

    with TestClient(app) as client:
        head = client.head("/x")
        assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "4")
        assert client.options("/x").headers["allow"] == "GET, HEAD, OPTIONS"
        assert client.post("/x").headers["allow"] == "GET, HEAD, OPTIONS"
        assert client.post("/x").status == 405
        assert client.get("/y").status == 404


def test_an_annotation_converts_the_parameter(app):
    """`{id}` with `id: int` is an int, and what is none is a 404."""

    @app.get("/users/{id}", name="user")
    async def user(request: Request, id: int):
        return {"id": id + 1}

    with TestClient(app) as client:
        assert client.get("/users/7").json() == {"id": 8}
        assert client.get("/users/x").status == 404
    assert app.url_for("user", id=7) == "/users/7"
    with pytest.raises(RouteError, match="id='x'"):
        app.url_for("user", id="x")


def test_a_router_is_included_under_its_prefixes(app):
    """Parameters of a prefix reach the handler too."""
    router = Router(prefix="/users")

    @router.get("/{id:int}")
    def user(org: str, id: int):
        return [org, id]

    app.include(router, prefix="/{org}")

    with TestClient(app) as client:
        assert client.get("/acme/users/7").json() == ["acme", 7]
    assert [route.path for route in app.routes] == ["/{org}/users/{id:int}"]


def test_a_handler_that_cannot_be_bound_leaves_no_route_behind(app):
    """All or nothing: after the error the path is free."""
    with pytest.raises(RouteError, match="takes 'db', which nothing provides"):
        app.get("/x")(lambda db: db)

    assert app.routes == ()
    app.get("/x")(lambda: "ok")


def test_routes_that_become_the_same_by_annotation_are_refused_at_registration(app):
    """`{a}` with int and `{b:int}` are the same path."""

    @app.get("/{a}")
    def first(a: int):
        return a

    with pytest.raises(RouteError, match="matches the same requests"):
        app.get("/{b:int}")(lambda b: b)

    app.get("/{b}")(lambda b: b)    # str: another path
    assert len(app.routes) == 2


def test_an_application_that_started_cannot_be_changed(app):
    """What is added too late would be ignored: refuse it."""
    app.build_router()

    with pytest.raises(RouteError, match="after the application started"):
        app.get("/x")(lambda: "late")
    with pytest.raises(RouteError, match="after the application started"):
        app.include(Router())
    with pytest.raises(FastserveError, match="after the application started"):
        app.on_startup(lambda: None)
    with pytest.raises(FastserveError, match="after the application started"):
        app.exception_handler(ValueError)(lambda request, error: "")


def test_the_body_limit_of_a_route_is_its_own(app):
    """max_body_bytes on the decorator."""

    @app.post("/small", max_body_bytes=3)
    async def small(request: Request):
        return await request.body()

    with TestClient(app) as client:
        assert client.post("/small", content=b"abc").body == b"abc"
        assert client.post("/small", content=b"abcd").status == 413


def test_an_unguarded_app_run_does_nothing_while_a_door_imports_it(app):
    """`fastserve run` serves the application itself."""
    from fastserve.app import imported_by_a_door

    with imported_by_a_door():
        assert app.run(nonsense=True) is None


# --- lifespan ----------------------------------------------------------------------------


def run_lifespan(app):
    async def main():
        async with app.lifespan_context():
            pass

    asyncio.run(main())


def test_start_up_and_shutdown_keep_their_order_and_happen_once():
    """Lifespan, start-up hooks, shutdown hooks in reverse, lifespan."""
    seen = []

    @asynccontextmanager
    async def lifespan(app):
        seen.append("in")
        yield {"db": "open"}
        seen.append("out")

    app = App(lifespan=lifespan)

    @app.on_startup
    def first():
        seen.append(("first", app.state.db))

    @app.on_startup
    async def second():
        seen.append("second")

    app.on_shutdown(lambda: seen.append("A"))

    @app.on_shutdown
    async def b():
        seen.append("B")

    with TestClient(app):
        assert seen == ["in", ("first", "open"), "second"]

    assert seen == ["in", ("first", "open"), "second", "B", "A", "out"]


def test_a_lifespan_may_take_the_app_or_nothing_and_be_a_plain_generator():
    """Three ways to write the same."""
    seen = []

    @asynccontextmanager
    async def nothing():
        seen.append("nothing")
        yield

    async def generator(app):
        seen.append(type(app))
        yield {"x": 1}

    async def bare():
        seen.append("bare")
        yield

    for lifespan in (nothing, generator, bare):
        app = App(lifespan=lifespan)
        run_lifespan(app)

    assert seen == ["nothing", App, "bare"]


def test_a_lifespan_that_yields_no_dict_or_is_none_is_refused():
    """A TypeError with what to do."""

    async def wrong(app):
        yield 42

    with pytest.raises(TypeError, match="yield a dict or nothing"):
        run_lifespan(App(lifespan=wrong))
    with pytest.raises(TypeError, match="async context manager"):
        run_lifespan(App(lifespan=lambda: 42))


def test_a_hook_that_fails_stops_the_start_and_the_lifespan_still_ends():
    """What was opened is closed; the shutdown hooks of what never started do not run."""
    seen = []

    @asynccontextmanager
    async def lifespan():
        try:
            yield
        finally:
            seen.append("closed")

    app = App(lifespan=lifespan)
    app.on_startup(lambda: 1 / 0)
    app.on_shutdown(lambda: seen.append("hook"))

    with pytest.raises(ZeroDivisionError):
        run_lifespan(app)
    assert seen == ["closed"]


def test_every_shutdown_hook_runs_even_where_one_fails(app, caplog):
    """The first failure is raised at the end, the second is logged."""
    seen = []

    @app.on_shutdown
    def last():
        seen.append("last")
        raise ValueError("second")

    @app.on_shutdown
    def first():
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        run_lifespan(app)
    assert seen == ["last"]
    assert "a second shutdown hook failed" in caplog.text


def test_a_task_group_may_live_in_the_lifespan():
    """Entering and leaving happen in one task, as anyio's cancel scopes need."""
    import anyio

    seen = []

    async def lifespan(app):
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            yield
            group.cancel_scope.cancel()
        seen.append("closed")

    app = App(lifespan=lifespan)
    app.get("/")(lambda: "ok")

    with TestClient(app) as client:
        assert client.get("/").text == "ok"
    assert seen == ["closed"]
