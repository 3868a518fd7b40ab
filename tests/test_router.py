"""The compiled router: what finds what, what it costs, what it owns."""

import ctypes
import gc
import mmap
import re
import sys
import weakref
from pathlib import Path
from uuid import UUID

import pytest

from fastserve._speedups import router as router_module
from fastserve._speedups.plan import Plan
from fastserve._speedups.router import Router

ROOM = Path(router_module.__file__).parent
AN_ID = "12345678-1234-5678-9abc-1234567890aB"


def plan(*names):
    return Plan(lambda *values: values, range(len(names)), param_names=names)


def pattern(text):
    """"/a/{int:x}" as the compiled router takes it."""
    return tuple(
        tuple(part[1:-1].split(":")) if part[:1] == "{" else part.encode()
        for part in text[1:].split("/")
    )


def routes(*lines):
    """A frozen router, and its plans by line: "GET,POST /a/{int:x}"."""
    router, plans = Router(), {}
    for line in lines:
        methods, text = line.split(" ")
        parts = pattern(text)
        plans[line] = plan(*(part[1] for part in parts if isinstance(part, tuple)))
        router.add(parts, methods.split(","), plans[line])
    router.freeze()
    return router, {id(made): line for line, made in plans.items()}


def ask(lines, path, method="GET"):
    """(line, *values) of what answers, or what find() returned instead."""
    router, names = routes(*lines)
    found = router.find(method, path)
    if isinstance(found, int) or found[0] is None:
        return found
    return (names[id(found[0])], *found[1])


# --- which path ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", [b"/a", b"/a/", b"//a", b"/a//", b"/a/b", b"/A", b"/", b""])
def test_a_static_path_answers_itself_only(path):
    """Matching is exact: slashes count, case counts, nothing is redirected."""
    texts = ["/a", "/a/", "//a", "/a//", "/"]
    expected = (path or b"/").decode()

    found = ask([f"GET {text}" for text in texts], path)

    assert found == ((f"GET {expected}",) if expected in texts else 404)


@pytest.mark.parametrize("path", [b"*", b"a", b"http://h/a", b" /a"])
def test_a_target_that_is_no_path_is_not_found(path):
    """Only what begins with a slash can match, even against a catch-all."""
    assert ask(["GET /{path:p}"], path) == 404


@pytest.mark.parametrize(("path", "line"), [
    (b"/x/me", "GET /x/me"),
    (b"/x/12", "GET /x/{int:a}"),
    (b"/x/" + AN_ID.encode(), "GET /x/{uuid:a}"),
    (b"/x/1.5", "GET /x/{float:a}"),
    (b"/x/you", "GET /x/{str:a}"),
    (b"/x/", "GET /x/{path:a}"),
    (b"/x/you/too", "GET /x/{path:a}"),
])
def test_literal_then_typed_then_text_then_rest(path, line):
    """At one segment the order is literal, int, uuid, float, str, path, however it was added."""
    lines = ["GET /x/{path:a}", "GET /x/{str:a}", "GET /x/{float:a}", "GET /x/{uuid:a}",
             "GET /x/{int:a}", "GET /x/me"]

    assert ask(lines, path)[0] == line


def test_a_dead_end_is_left_again():
    """A branch that fits here and leads nowhere later does not hide another one."""
    lines = ["GET /a/b/c", "GET /a/{int:x}/c", "GET /{str:x}/7/d", "GET /{path:p}"]

    assert ask(lines, b"/a/7/c") == ("GET /a/{int:x}/c", 7)
    assert ask(lines, b"/a/7/d") == ("GET /{str:x}/7/d", "a")
    assert ask(lines, b"/a/7/e") == ("GET /{path:p}", "a/7/e")


def test_a_path_deeper_than_every_route_is_not_found():
    """Segments beyond the deepest route are only of interest to a catch-all."""
    assert ask(["GET /{str:a}/{str:b}"], b"/1/2/3") == 404
    assert ask(["GET /{str:a}/{str:b}"], b"/1/2/") == 404
    assert ask(["GET /{str:a}/{path:b}"], b"/1" + b"/2" * 5000) == (
        "GET /{str:a}/{path:b}", "1", "/".join("2" * 5000))


def test_a_parameter_is_never_empty_but_a_catch_all_may_be():
    """`{x}` does not take an empty segment; `{p:path}` does, but needs its slash."""
    assert ask(["GET /a/{str:x}"], b"/a/") == 404
    assert ask(["GET /a/{str:x}/b"], b"/a//b") == 404
    assert ask(["GET /a/{path:x}"], b"/a/") == ("GET /a/{path:x}", "")
    assert ask(["GET /a/{path:x}"], b"/a") == 404


def test_dots_are_names_like_any_other():
    """Nothing is normalised: whoever opens files looks out for dots."""
    assert ask(["GET /a", "GET /{path:p}"], b"/b/../a") == ("GET /{path:p}", "b/../a")


# --- conversion ------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "value"), [
    ("0", 0), ("-0", 0), ("007", 7), ("-12", -12),
    ("9223372036854775807", 2**63 - 1), ("9223372036854775808", None),
    ("-9223372036854775808", -(2**63)), ("-9223372036854775809", None),
    ("9999999999999999999", None), ("00000000000000000001", None), ("0000000000000000001", 1),
    ("", None), ("-", None), ("+1", None), ("1_0", None), ("1.0", None), ("1e3", None),
    (" 1", None), ("1%20", None), ("--1", None), ("%D9%A1", None), ("%31%32", 12),
])
def test_int(text, value):
    """An int is an optional minus and at most 19 ASCII digits that fit 64 bits."""
    found = ask(["GET /{int:x}"], f"/{text}".encode())

    assert found == (404 if value is None else ("GET /{int:x}", value))


@pytest.mark.parametrize(("text", "value"), [
    ("0", 0.0), ("1.5", 1.5), ("-1.50", -1.5), ("00.10", 0.1), ("0.1", 0.1),
    ("9" * 64, float("9" * 64)), ("9" * 65, None),
    (".5", None), ("5.", None), ("-", None), ("-.5", None), ("+1", None), ("1e3", None),
    ("nan", None), ("inf", None), ("1,5", None), ("1.5.1", None), ("", None), ("1_0", None),
])
def test_float(text, value):
    """A float is plain decimal notation, and so always finite."""
    found = ask(["GET /{float:x}"], f"/{text}".encode())

    assert found == (404 if value is None else ("GET /{float:x}", value))
    assert value is None or isinstance(found[1], float)


def test_uuid():
    """A UUID is the real thing: equal, hashable, printable, unpickled like any other."""
    (_, value) = ask(["GET /{uuid:x}"], f"/{AN_ID}".encode())

    assert type(value) is UUID
    assert value == UUID(AN_ID)
    assert hash(value) == hash(UUID(AN_ID))
    assert str(value) == AN_ID.lower()
    assert value.is_safe is UUID(AN_ID).is_safe


@pytest.mark.parametrize("text", [
    AN_ID.replace("-", ""), "{" + AN_ID + "}", "urn:uuid:" + AN_ID, AN_ID[:-1], AN_ID + "0",
    AN_ID[:-1] + "g", AN_ID.replace("-", "_"), AN_ID[:7] + "-" + AN_ID[8:],
])
def test_what_is_not_a_canonical_uuid_is_not_found(text):
    """Only 8-4-4-4-12: one resource, one spelling."""
    assert ask(["GET /{uuid:x}"], f"/{text}".encode()) == 404


# --- escapes ---------------------------------------------------------------------------------


def test_literals_are_compared_decoded():
    """An escape that nobody needed does not hide a route, nor does one that was needed."""
    assert ask(["GET /a"], b"/%61") == ("GET /a",)
    assert ask(["GET /café"], b"/caf%C3%A9") == ("GET /café",)
    assert ask(["GET /café"], b"/caf%c3%a9") == ("GET /café",)
    assert ask(["GET /café"], "/café".encode()) == ("GET /café",)


def test_an_escaped_slash_stays_in_its_segment():
    """Decoding comes after splitting, and once."""
    assert ask(["GET /{str:x}", "GET /a/b"], b"/a%2Fb") == ("GET /{str:x}", "a/b")
    assert ask(["GET /{str:x}"], b"/%252F") == ("GET /{str:x}", "%2F")
    assert ask(["GET /{path:x}"], b"/a%2Fb/c") == ("GET /{path:x}", "a/b/c")


@pytest.mark.parametrize("path", [
    b"/%", b"/a%", b"/%4", b"/%zz", b"/%4g", b"/%g4", b"/%%41", b"/a/%", b"/%00", b"/a%00b",
    b"/1/2/3/4/5/%", b"/%-1", b"/%+1",
])
def test_a_broken_escape_is_malformed_whatever_the_routes(path):
    """Cut, not hexadecimal, or a NUL: 400, also where no route would have looked."""
    assert ask(["GET /{path:p}"], path) == 400
    assert ask(["GET /a"], path) == 400


def test_a_parameter_that_is_not_utf8_is_malformed():
    """Text is UTF-8 or a 400: no surrogates, no overlong forms, no replacement characters."""
    for broken in (b"%FF", b"%C3", b"%ED%A0%80", b"%C0%AF", b"\xff"):
        assert ask(["GET /{str:x}"], b"/" + broken) == 400
        assert ask(["GET /a/{path:x}"], b"/a/b/" + broken) == 400
        assert ask(["GET /{int:x}"], b"/" + broken) == 404


def test_long_escaped_paths_are_decoded_too():
    """Beyond the stack's room the decoded copy lives on the heap."""
    for size in (340, 341, 342, 1024, 5000):
        assert ask(["GET /{str:x}"], b"/" + b"%41" * size) == ("GET /{str:x}", "A" * size)
        assert ask(["GET /{str:x}"], b"/" + b"%41" * size + b"%") == 400


# --- methods ---------------------------------------------------------------------------------


def test_head_is_answered_by_get():
    """HEAD without a plan of its own runs GET's."""
    assert ask(["GET /a"], b"/a", "HEAD") == ("GET /a",)
    assert ask(["GET /a", "HEAD /a"], b"/a", "HEAD") == ("HEAD /a",)
    assert ask(["GET /a", "* /a"], b"/a", "HEAD") == ("GET /a",)
    assert ask(["POST /a", "* /a"], b"/a", "HEAD") == ("* /a",)


def test_a_specific_method_wins_over_every_method():
    """`*` answers what is left, tokens nobody has heard of included."""
    lines = ["* /a", "GET /a", "PURGE /a"]

    assert ask(lines, b"/a", "GET") == ("GET /a",)
    assert ask(lines, b"/a", "PURGE") == ("PURGE /a",)
    assert ask(lines, b"/a", "POST") == ("* /a",)
    assert ask(lines, b"/a", "get") == ("* /a",)
    assert ask(lines, b"/a", "OPTIONS") == ("* /a",)


@pytest.mark.parametrize(("lines", "allow"), [
    (["GET /a"], "GET, HEAD, OPTIONS"),
    (["POST /a"], "POST, OPTIONS"),
    (["PURGE,DELETE /a", "BAN /a", "GET /a"], "GET, HEAD, DELETE, OPTIONS, BAN, PURGE"),
    (["OPTIONS,TRACE /a"], "OPTIONS, TRACE"),
])
def test_allow_lists_what_answers(lines, allow):
    """The value of Allow holds HEAD with GET, and always OPTIONS."""
    assert ask(lines, b"/a", "SEARCH") == (None, allow)


def test_the_path_chooses_before_the_method():
    """/users/me without POST is a 405 though /users/{name} has one."""
    lines = ["GET /users/me", "POST /users/{str:name}"]

    assert ask(lines, b"/users/me", "POST") == (None, "GET, HEAD, OPTIONS")


def test_method_numbers_are_the_parsers():
    """The router repeats the numbers of head.Method, to load without the parser."""
    if not (ROOM / "router.pyx").exists():
        pytest.skip("the installed package carries no sources to read")
    declared = dict(re.findall(r"METHOD_([A-Z]+) = (\d+)", (ROOM / "head.pxd").read_text()))
    source = (ROOM / "router.pyx").read_text()
    block = source[source.index("    OTHER = 0"):source.index("# What Allow says")]
    own = dict(re.findall(r'^    ([A-Z]+) = (\d+)', block, re.M))
    own |= dict(re.findall(r'"([A-Z]+)": (\d+)', block))

    assert own == declared
    assert f"METHOD_COUNT = {len(declared)} " in (ROOM / "router.pxd").read_text()


# --- mistakes of the caller ------------------------------------------------------------------


@pytest.mark.parametrize(("parts", "methods", "names", "message"), [
    ((), ["GET"], (), "segments"),
    ((b"a",) * 65, ["GET"], (), "segments"),
    ((b"a/b",), ["GET"], (), "slash"),
    ((b"a\0",), ["GET"], (), "NUL"),
    ((("hex", "x"),), ["GET"], ("x",), "hex"),
    ((("path", "x"), b"a"), ["GET"], ("x",), "last"),
    ((("str", "x"),), ["GET"], (), "parameters"),
    ((("str", "x"),), ["GET"], ("y",), "parameters"),
    ((b"a",), ["GET"], ("x",), "parameters"),
    ((b"taken",), ["GET"], (), "GET"),
    ((b"taken",), ["PURGE"], (), "PURGE"),
    ((b"taken",), ["*"], (), "every method"),
    ((b"a",), [], (), "method"),
])
def test_what_cannot_be_added(parts, methods, names, message):
    """The tables are built from what was checked: nothing unchecked reaches the C side."""
    router = Router()
    router.add((b"taken",), ["GET", "PURGE"], plan())
    router.add((b"taken",), ["*"], plan())

    with pytest.raises(ValueError, match=message):
        router.add(parts, methods, plan(*names))


def test_seventeen_parameters_are_too_many():
    """A match has room for sixteen values."""
    sixteen = [f"str:x{number}" for number in range(16)]
    path = "".join(f"/{{{part}}}" for part in sixteen)

    assert len(ask([f"GET {path}"], b"/v" * 16)) == 17
    with pytest.raises(ValueError, match="at most 16"):
        Router().add([*pattern(path), ("str", "y")], ["GET"], plan(*"abcdefghijklmnop"))


def test_a_router_is_built_once():
    """No route after freeze(), no match before it."""
    router = Router()
    with pytest.raises(RuntimeError, match="freeze"):
        router.find("GET", b"/")
    router.freeze()
    router.freeze()
    assert router.find("GET", b"/") == 404
    with pytest.raises(RuntimeError, match="frozen"):
        router.add((b"",), ["GET"], plan())


def test_sixty_four_segments():
    """The deepest pattern there may be is found, and one segment more is not."""
    lines = ["GET " + "/a" * 63 + "/{str:x}"]

    assert ask(lines, b"/a" * 64) == (lines[0], "a")
    assert ask(lines, b"/a" * 65) == 404
    assert ask(lines, b"/%61" * 64) == (lines[0], "a")
    assert ask(lines, b"/%61" * 65) == 404


# --- cost ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [10, 1000, 10_000])
def test_cost_does_not_grow_with_the_routes(count):
    """Ten thousand routes below one node: as many nodes visited as with ten, short probes."""
    router, _ = routes(
        *(f"GET /api/things{number}" for number in range(count)),
        *(f"GET /api/items{number}/{{int:id}}" for number in range(count)),
    )

    assert router.find("GET", f"/api/things{count - 1}".encode())[1] == ()
    assert router.find("GET", f"/api/items{count - 1}/5".encode())[1] == (5,)
    assert router.effort(f"/api/things{count - 1}".encode()) == 0
    assert router.effort(f"/api/items{count - 1}/5".encode()) == 4
    assert router.effort(b"/api/missing/5") == 2
    assert router.shape()["static_paths"] == count
    assert router.shape()["longest_probe"] <= 40


def test_a_match_visits_each_node_at_most_once():
    """The worst request costs no more than the tree is large."""
    kinds = ("int", "float", "str")
    lines = {f"GET /{{{a}:a}}/{{{b}:b}}/{{{c}:c}}/end" for a in kinds for b in kinds for c in kinds}
    router, _ = routes(*lines)

    assert router.effort(b"/1/2/3/no") == 1 + 3 + 9 + 27
    assert router.effort(b"/1" * 5000) <= router.shape()["nodes"]


# --- memory ----------------------------------------------------------------------------------


def test_nothing_is_left_behind():
    """Every value made for a match is given back: found, refused half-way, or malformed."""
    router, _ = routes("GET /a/{str:x}/{uuid:y}/{float:f}/{int:z}", "GET /{str:x}/{path:p}")
    paths = [
        f"/a/some%20text/{AN_ID}/{2.5}/123456789".encode(),
        f"/a/some text/{AN_ID}/2.5/x".encode(),
        b"/some text/" + b"%41" * 2000,
        b"/some text/%ff",
        b"/some text/" + b"%41" * 2000 + b"%ff",
        b"/some text/" + b"%41" * 2000 + b"%",
    ]

    def exercise():
        for path in paths:
            router.find("GET", path)
            router.find("PUT", path)
            router.match_many("GET", path, 200)

    exercise()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(5):
        exercise()
    gc.collect()
    assert sys.getallocatedblocks() - before < 100


def test_the_caller_of_find_owns_its_values_once():
    """A value lives exactly as long as the tuple that holds it."""
    router, _ = routes("GET /{str:x}")
    values = router.find("GET", b"/some-long-text-of-its-own")[1]
    control = ("".join(["some-long-text-", "of-its-own"]),)

    assert sys.getrefcount(values[0]) == sys.getrefcount(control[0])


def test_plans_live_and_die_with_the_router():
    """The tables hold bare pointers; the router owns what they point to, cycles included."""
    class Handler:
        def __call__(self):
            return None

    handler = Handler()
    router = Router()
    router.add((b"",), ["GET"], Plan(handler, ()))
    router.add((b"a",), ["*"], Plan(handler, ()))
    router.add((b"b",), ["PURGE"], Plan(handler, ()))
    router.freeze()
    gc.collect()
    assert router.find("GET", b"/")[0].handler is handler
    assert router.find("POST", b"/a")[0].handler is handler

    handler.router = router     # a cycle, as the App makes one
    gone = weakref.ref(handler)
    del handler, router
    gc.collect()
    assert gone() is None


@pytest.fixture
def at_the_edge():
    """Puts bytes where the byte behind them cannot be read."""
    page = mmap.PAGESIZE
    area = mmap.mmap(-1, 4 * page)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    anchor = ctypes.c_char.from_buffer(area)
    last = ctypes.addressof(anchor) + 3 * page
    assert libc.mprotect(last, page, 0) == 0

    def put(data):
        area[3 * page - len(data):3 * page] = data
        return memoryview(area)[3 * page - len(data):3 * page]

    yield put
    assert libc.mprotect(last, page, mmap.PROT_READ | mmap.PROT_WRITE) == 0
    del anchor


def test_nothing_is_read_behind_the_path(at_the_edge):
    """One byte too far would be a crash here, not a maybe."""
    router, _ = routes(
        "GET /", "GET /a", "GET /12345678901", "GET /n/{int:x}", "GET /f/{float:x}",
        "GET /u/{uuid:x}", "GET /s/{str:x}/", "GET /p/{path:x}")
    whole = [b"/12345678901234567890", b"/n/-9223372036854775808", b"/f/-1.25",
             f"/u/{AN_ID}".encode(), b"/s/%41%42/", b"/p/a/%C3%A9/b", b"/p/\xc3\xa9", b"/%61"]

    for path in whole:
        for size in range(len(path) + 1):
            with at_the_edge(path[:size]) as view:
                found = router.find("GET", view)
            expected = router.find("GET", path[:size])
            assert found == expected
