"""Patterns, routes and routers: what is refused, when, and how it says so."""

import enum
import functools
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve._speedups.plan import Plan
from fastserve.errors import RouteError
from fastserve.routing import Param, PathPattern, Router, compile_routes

AN_ID = UUID("12345678-1234-5678-9abc-1234567890ab")


def handler():
    return "one"


def other():
    return "two"


def compiled(*routers):
    pairs = [
        (route, Plan(route.endpoint, (), param_names=tuple(route.pattern.params), route=route))
        for router in routers for route in router.routes
    ]
    return compile_routes(pairs)


def answers(router, method, path):
    found = compiled(router).find(method, path)
    return found[0].handler if isinstance(found, tuple) and found[0] else found


# --- patterns ----------------------------------------------------------------------------


def test_a_pattern_is_text_and_parameters():
    """A parameter is one whole segment; without a converter it is a str."""
    pattern = PathPattern.parse("/users/{id:int}/{what}/{p:path}")

    assert pattern.segments == (
        "users", Param("id", "int"), Param("what"), Param("p", "path"))
    assert pattern.params == {"id": "int", "what": None, "p": "path"}
    assert pattern.compiled() == (b"users", ("int", "id"), ("str", "what"), ("path", "p"))


@pytest.mark.parametrize(("text", "segments"), [
    ("/", ("",)), ("//", ("", "")), ("/a/", ("a", "")), ("/café", ("café",)), ("/100%", ("100%",)),
    ("/a b", ("a b",)), ("/.", (".",)), ("/{größe}", (Param("größe"),)),
])
def test_text_stands_for_itself(text, segments):
    """Slashes split, nothing is dropped, nothing is decoded."""
    assert PathPattern.parse(text).segments == segments


@pytest.mark.parametrize(("text", "problem"), [
    ("", "does not start with '/'"),
    ("users", "write '/users'"),
    ("*", "does not start with '/'"),
    ("/{id", "unbalanced braces in '{id'"),
    ("/id}", "unbalanced braces in 'id}'"),
    ("/{{id}}", "unbalanced braces"),
    ("/{a/b}", "unbalanced braces in '{a'"),
    ("/v{id}", "more than a parameter in 'v{id}'"),
    ("/{id}.json", "take it apart in the handler"),
    ("/{a}{b}", "more than a parameter"),
    ("/{a}-{b}", "more than a parameter"),
    ("/{id:integer}", "unknown converter 'integer': there are str, int, float, uuid, path"),
    ("/{id:}", "unknown converter ''"),
    ("/{id:int:x}", "unknown converter 'int:x'"),
    ("/{id: int}", "unknown converter ' int'"),
    ("/{id}/{id}", "names the parameter 'id' twice"),
    ("/{id}/x/{id:int}", "names the parameter 'id' twice"),
    ("/{}", "a parameter '', which cannot name an argument"),
    ("/{2nd}", "'2nd'"),
    ("/{a-b}", "'a-b'"),
    ("/{class}", "'class'"),
    ("/{ id}", "' id'"),
    ("/{p:path}/x", "put it last"),
    ("/{p:path}/", "put it last"),
    ("/" + "/".join(f"{{p{number}}}" for number in range(17)), "17 parameters, more than 16"),
    ("/a" * 65, "65 segments, more than 64"),
    ("/a?b=1", "the query is no part of a route"),
    ("/a#b", "the query is no part of a route"),
    ("/caf%C3%A9", "write the character itself"),
    ("/a\n", "control character"),
    ("/a\0", "control character"),
    ("/\ud800", "not valid Unicode"),
])
def test_a_pattern_that_cannot_be(text, problem):
    """The error names the route, what is wrong with it, and the way out."""
    with pytest.raises(RouteError) as caught:
        PathPattern.parse(text)

    assert str(caught.value).startswith(f"route {text!r} ")
    assert problem in str(caught.value)


@pytest.mark.parametrize("text", [None, b"/a", 1])
def test_a_pattern_is_a_str(text):
    """Bytes and other things are refused by name."""
    with pytest.raises(RouteError, match="not a str"):
        Router().get(text)


def test_an_annotation_may_choose_a_converter():
    """A bare parameter takes a converter later; one that has its own keeps it."""
    pattern = PathPattern.parse("/{a}/{b:int}")

    assert pattern.with_converters({"a": "uuid"}).params == {"a": "uuid", "b": "int"}
    assert pattern.with_converters({"b": "int"}).params == {"a": None, "b": "int"}
    assert pattern.with_converters({}) is pattern
    with pytest.raises(RouteError, match=r"\{b:int\}, which cannot also be 'str'"):
        pattern.with_converters({"b": "str"})
    with pytest.raises(RouteError, match="no parameter 'c'"):
        pattern.with_converters({"c": "int"})
    with pytest.raises(RouteError, match="unknown converter 'bool'"):
        pattern.with_converters({"a": "bool"})


# --- routes ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete", "head", "options"])
def test_each_method_has_its_decorator(method):
    """The decorator gives the function back as it was."""
    router = Router()

    assert getattr(router, method)("/a", name="n", max_body_bytes=5)(handler) is handler
    (route,) = router.routes
    assert (route.path, route.methods, route.name) == ("/a", (method.upper(),), "n")
    assert route.endpoint is handler
    assert route.options == {"max_body_bytes": 5}
    assert answers(router, method.upper(), b"/a") is handler


def test_a_route_says_what_it_is():
    """What is left out has the values that mean "the server's"."""
    router = Router()
    router.route("/a/{x}", methods=["GET", "PURGE"])(handler)
    (route,) = router.routes

    assert route.label == "GET,PURGE /a/{x}"
    assert route.name == "handler"
    assert route.options == {}
    with pytest.raises(AttributeError):
        route.path = "/b"
    with pytest.raises(TypeError):
        route.options["max_body_bytes"] = 1
    assert route.with_converters({}) is route
    assert route.with_converters({"x": "int"}).pattern.params == {"x": "int"}


def test_standard_methods_may_be_written_small():
    """Tokens are case-sensitive; for those that everybody knows we know what is meant."""
    router = Router()
    router.route("/", methods=["get", "Post", "purge", "GET"])(handler)

    assert router.routes[0].methods == ("GET", "POST", "purge")


@pytest.mark.parametrize(("methods", "problem"), [
    ("GET", "give a list"), ([], "no methods"), (["GE T"], "'GE T'"), ([""], "''"),
    ([None], "None"), (["GÉT"], "no token"), (["GET\n"], "no token"),
    (["*", "GET"], "give it alone"),
])
def test_methods_are_tokens(methods, problem):
    """What no request line can say is refused (RFC 9110 section 5.6.2)."""
    with pytest.raises(RouteError, match=r"^route '/a' ") as caught:
        Router().route("/a", methods=methods)

    assert problem in str(caught.value)


@pytest.mark.parametrize("options", [
    {"max_body_byte": 1}, {"max_body_bytes": -1}, {"max_body_bytes": 1.5},
    {"max_body_bytes": True}, {"max_body_bytes": "1 MiB"}, {"cancel_on_disconnect": 1},
    {"handler_timeout_s": -1}, {"handler_timeout_s": "1s"}, {"handler_timeout_s": True},
])
def test_options_are_checked(options):
    """A misspelt option or an impossible value is refused by name."""
    with pytest.raises(RouteError, match=f"^route '/a' .*{next(iter(options))}"):
        Router().get("/a", **options)


def test_only_what_can_be_called_handles():
    """A handler that is none is refused where it is registered."""
    with pytest.raises(RouteError, match="cannot be called"):
        Router().get("/a")("handler")
    Router().get("/a")(functools.partial(handler))


# --- conflicts ---------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [
    ("/a", "/a"), ("/", "/"), ("/a/{x:int}", "/a/{y:int}"), ("/{p:path}", "/{q:path}"),
])
def test_one_method_of_one_path_has_one_handler(first, second):
    """The error names both routes and both handlers; names of parameters do not matter."""
    router = Router()
    router.route(first, methods=["GET", "PUT"])(handler)

    with pytest.raises(RouteError) as caught:
        router.route(second, methods=["POST", "PUT"])(other)

    message = str(caught.value)
    assert f"'PUT {first}'" in message
    assert f"'PUT {second}'" in message
    assert "test_routing.handler (" in message
    assert "test_routing.other (" in message
    assert len(router.routes) == 1
    router.post(second)(other)


def test_bare_parameters_clash_when_the_server_starts():
    """Until then an annotation may still tell `{id}` from `{name}`."""
    router = Router()
    router.get("/{id}")(handler)
    router.get("/{name}")(other)

    with pytest.raises(RouteError, match=r"'GET /\{name\}' of .* 'GET /\{id\}' of "):
        compiled(router)

    router.routes[0] = router.routes[0].with_converters({"id": "int"})
    assert answers(router, "GET", b"/1") is handler
    assert answers(router, "GET", b"/x") is other


@pytest.mark.parametrize("paths", [
    ("/a", "/a/"), ("/a", "//a"), ("/{x:int}", "/{x:float}"), ("/{x}", "/{x:path}"), ("/a", "/A"),
    ("/{x}", "/str"),
])
def test_different_shapes_do_not_clash(paths):
    """Two patterns are one only if every segment is."""
    router = Router()
    for path in paths:
        router.get(path)(handler)

    compiled(router)


def test_every_method_and_one_method_go_together():
    """`*` takes what the others leave; two `*` clash."""
    router = Router()
    router.route("/a", methods=["*"])(handler)
    router.get("/a")(other)

    assert answers(router, "GET", b"/a") is other
    assert answers(router, "POST", b"/a") is handler
    with pytest.raises(RouteError, match=r"'\* /a'"):
        router.route("/a", methods=["*"])(other)


def test_a_route_taken_back_is_no_longer_in_the_way():
    """Whoever takes a route out of `routes` may register another in its place."""
    router = Router()
    router.get("/a")(handler)
    router.routes.clear()

    router.get("/a")(other)

    assert answers(router, "GET", b"/a") is other


# --- prefixes ----------------------------------------------------------------------------


def test_routers_nest():
    """Prefixes add up, may hold parameters, and leave the first router as it was."""
    items = Router("/items")
    items.get("")(handler)
    items.get("/{id:int}", name="item")(other)
    version = Router("/v1")
    version.include(items)
    root = Router()
    root.include(version, prefix="/{tenant}")

    assert [route.path for route in root.routes] == [
        "/{tenant}/v1/items", "/{tenant}/v1/items/{id:int}"]
    assert [route.path for route in items.routes] == ["/items", "/items/{id:int}"]
    assert answers(root, "GET", b"/me/v1/items") is handler
    assert answers(root, "GET", b"/me/v1/items/5") is other
    assert root.url_for("item", tenant="me", id=5) == "/me/v1/items/5"


@pytest.mark.parametrize(("prefix", "problem"), [
    ("api", "write '/api'"), ("/api/", "write '/api'"), ("/", "write ''"), (None, "not a str"),
    ("/{x", "unbalanced"), ("/{x:what}", "unknown converter"),
])
def test_a_prefix_that_cannot_be(prefix, problem):
    """Refused before a route hides the cause."""
    with pytest.raises(RouteError, match="prefix|route") as caught:
        Router(prefix)
    assert problem in str(caught.value)
    with pytest.raises(RouteError, match="prefix|route"):
        Router().include(Router(), prefix=prefix)


def test_a_prefix_and_its_routes_are_one_pattern():
    """What is wrong only in the sum is found in the sum."""
    with pytest.raises(RouteError, match="'id' twice"):
        Router("/{id}").get("/{id}")
    with pytest.raises(RouteError, match="put it last"):
        Router("/{p:path}").get("/x")
    with pytest.raises(RouteError, match="does not start with '/'"):
        Router("/api").get("x")


def test_an_included_router_is_complete():
    """A route added afterwards would be missing where it was included, so it is refused."""
    inner, outer = Router(), Router()
    inner.get("/a")(handler)
    outer.include(inner, prefix="/x")
    outer.include(inner, prefix="/y")

    with pytest.raises(RouteError, match="add every route, then include"):
        inner.get("/b")(handler)
    with pytest.raises(RouteError, match="include itself"):
        outer.include(outer)


def test_including_is_all_or_nothing():
    """A clash in the middle leaves nothing behind."""
    inner, outer = Router(), Router()
    outer.get("/b")(handler)
    inner.get("/a")(other)
    inner.get("/b")(other)

    with pytest.raises(RouteError, match="GET /b"):
        outer.include(inner)

    assert [route.path for route in outer.routes] == ["/b"]
    inner.get("/c")(other)


# --- url_for -----------------------------------------------------------------------------


class Float64(float):
    """Shows itself as numpy's does."""

    def __repr__(self):
        return f"np.float64({float(self)})"


class Number(enum.IntEnum):
    THREE = 3


@pytest.mark.parametrize(("path", "params", "url"), [
    ("/", {}, "/"),
    ("/a/", {}, "/a/"),
    ("/café/100%", {}, "/caf%C3%A9/100%25"),
    ("/{x}", {"x": "a/b?c#d%é"}, "/a%2Fb%3Fc%23d%25%C3%A9"),
    ("/f/{x:path}", {"x": "a/b c//"}, "/f/a/b%20c//"),
    ("/f/{x:path}", {"x": ""}, "/f/"),
    ("/{x:int}", {"x": -7}, "/-7"),
    ("/{x:float}", {"x": 1e-7}, "/0.0000001"),
    ("/{x:float}", {"x": 3}, "/3"),
    ("/{x:float}", {"x": Float64(1.5)}, "/1.5"),
    ("/{x:float}", {"x": Number.THREE}, "/3"),
    ("/{x:int}", {"x": Number.THREE}, "/3"),
    ("/{x:uuid}", {"x": AN_ID}, f"/{AN_ID}"),
    ("/{x:uuid}", {"x": str(AN_ID)}, f"/{AN_ID}"),
    ("/{name}", {"name": "n"}, "/n"),
    ("/{self}", {"self": "n"}, "/n"),
])
def test_url_for_writes_the_path(path, params, url):
    """Values are escaped by their converter; a path keeps its slashes."""
    router = Router()
    router.get(path, name="it")(handler)

    assert router.url_for("it", **params) == url


@pytest.mark.parametrize(("path", "params", "problem"), [
    ("/{x}", {}, "'/{x}' needs the parameter 'x'"),
    ("/{x}", {"x": "a", "y": 1}, "has no parameter 'y'"),
    ("/{x}", {"x": ""}, "x='' is empty"),
    ("/{x}", {"x": 5}, "is of type int, not str"),
    ("/{x}", {"x": None}, "is of type NoneType, not str"),
    ("/{x}", {"x": "a\0"}, "NUL"),
    ("/{x}", {"x": "\ud800"}, "not valid Unicode"),
    ("/{x}", {"x": ".."}, "no client would send"),
    ("/f/{x:path}", {"x": "a/../b"}, "no client would send"),
    ("/{x:path}", {"x": "/evil.example"}, "another host"),
    ("/{x:int}", {"x": "5"}, "not int"),
    ("/{x:int}", {"x": True}, "not int"),
    ("/{x:int}", {"x": 2**63}, "64 bits"),
    ("/{x:float}", {"x": float("inf")}, "not finite"),
    ("/{x:float}", {"x": 1e300}, "64 characters"),
    ("/{x:float}", {"x": 10**400}, "64 characters"),
    ("/{x:uuid}", {"x": "abc"}, "not a UUID"),
])
def test_url_for_refuses_what_the_route_would_not_take(path, params, problem):
    """The message names the route's name, the parameter, its value and what is wrong."""
    router = Router()
    router.get(path, name="it")(handler)

    with pytest.raises(RouteError) as caught:
        router.url_for("it", **params)

    assert str(caught.value).startswith("url_for('it'): ")
    assert problem in str(caught.value)


def test_url_for_needs_one_path():
    """A name of two paths is ambiguous, of two methods of one path it is not."""
    router = Router()
    router.get("/a")(handler)
    router.post("/a")(handler)
    assert router.url_for("handler") == "/a"

    router.get("/b")(handler)
    with pytest.raises(RouteError, match="'/a' and '/b' have this name"):
        router.url_for("handler")
    with pytest.raises(RouteError, match="no route has this name"):
        router.url_for("nobody")


@given(
    text=st.text(min_size=1), rest=st.text(), number=st.integers(-(2**63), 2**63 - 1),
    real=st.floats(allow_nan=False, allow_infinity=False), unique=st.uuids())
def test_what_url_for_writes_the_router_takes_back(text, rest, number, real, unique):
    """Either it refuses, or the same values come out of the compiled router."""
    router = Router()
    router.get("/x/{number:int}/{real:float}/{unique:uuid}/{text}/{rest:path}")(handler)
    values = {"number": number, "real": real, "unique": unique, "text": text, "rest": rest}
    try:
        url = router.url_for("handler", **values)
    except RouteError:
        return

    found = compiled(router).find("GET", url.encode("ascii"))

    assert found[1] == (number, real, unique, text, rest)
