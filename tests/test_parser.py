"""Both parsers against the wire cases and the plain-Python reference."""

import pytest
import wire_cases
from reference import parser as reference

from fastserve._speedups.head import Method
from fastserve._speedups.httptools_parser import HttptoolsParser
from fastserve._speedups.parser import NativeParser

BACKENDS = [NativeParser, HttptoolsParser]
HEADS = wire_cases.load("heads") + wire_cases.load("framing")
BODIES = wire_cases.load("chunked")
HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
OTHER_LINES = [
    b"GET / HTTP/1.1\r", b"GET / HTTP/1.0\r", b"POST /longer?query HTTP/1.1\r",
    b"GET http://a/ HTTP/1.1\r", b"GET http://b HTTP/1.0\r", b"OPTIONS * HTTP/1.1\r",
]  # fmt: skip


@pytest.fixture(params=BACKENDS, ids=["native", "httptools"])
def backend(request):
    return request.param


@pytest.fixture
def parser(backend):
    return backend()


@pytest.fixture(scope="module")
def guard_page():
    return wire_cases.GuardPage()


def one_byte_at_a_time(data):
    return [data[index : index + 1] for index in range(len(data))]


@pytest.mark.parametrize("case", HEADS, ids=repr)
def test_head(backend, case, guard_page):
    """A head means what its case says, or is refused with its status, however it arrives."""
    verdict = wire_cases.replay(backend(**case.limits).split_head, case, guard_page)
    if case.meaning is None:
        assert verdict == case.status
    else:
        assert isinstance(verdict, dict), verdict
        assert {key: verdict[key] for key in case.meaning} == case.meaning
        assert verdict["consumed"] == len(case.data)


@pytest.mark.parametrize("case", HEADS, ids=repr)
def test_what_came_before_changes_nothing(backend, case, guard_page):
    """The same fields behind any other request line left nothing that a head is judged by."""
    parser = backend(**case.limits)
    verdict = parser.head(case.data)
    first_line, _, fields = case.data.removeprefix(b"\r\n").partition(b"\n")
    for line in (first_line, *OTHER_LINES):
        for between in (fields, b"Host: a\r\n\r\n", fields.replace(b"a", b"b")):
            before = line + b"\n" + between
            assert parser.split_head([case.data], guard_page, before) == verdict, before
            if not case.incomplete:
                more = [case.data + before]
                assert parser.split_head(more, guard_page, before) == verdict, before
    for pieces in wire_cases.splits(case.data):
        assert parser.split_head(pieces, guard_page, case.data) == verdict, pieces


@pytest.mark.parametrize("case", HEADS, ids=repr)
def test_head_by_the_reference(case):
    """The oracle reads every case as the case says: the two cannot drift apart."""
    verdict = reference.head(case.data, **case.limits)
    assert NativeParser(**case.limits).head(case.data) == verdict
    if case.meaning is None:
        assert verdict == case.status
    else:
        assert {key: verdict[key] for key in case.meaning} == case.meaning


@pytest.mark.parametrize("case", BODIES, ids=repr)
def test_chunked_body(backend, case, guard_page):
    """A chunked body holds what its case says, or is refused, however it arrives."""
    verdict = wire_cases.replay(backend(**case.limits).chunked, case, guard_page)
    if case.body is None:
        assert verdict == case.status
    else:
        assert verdict == (case.body, len(case.data))


@pytest.mark.parametrize("case", BODIES, ids=repr)
def test_chunked_body_by_the_reference(case):
    """The oracle decodes every case as the case says."""
    expected = case.status if case.body is None else (case.body, len(case.data))
    assert reference.chunked(case.data, **case.limits) == expected


@pytest.mark.parametrize("method", list(Method)[1:])
def test_known_methods_have_numbers(parser, method):
    """A known method is told by number, so that routing need not compare its bytes."""
    name = method.name.removeprefix("METHOD_").encode()
    if method is Method.METHOD_CONNECT:
        assert parser.head(name + b" a:1 HTTP/1.1\r\nHost: a\r\n\r\n") == 501
    else:
        assert parser.head(name + b" / HTTP/1.1\r\nHost: a\r\n\r\n")["method_id"] == method


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_in_every_place(backend, byte, guard_page):
    """Each of the 256 bytes is allowed, or not, in each place as the reference has it."""
    one = bytes((byte,))
    parser = backend()
    heads = [
        b"@ET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET@/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET @ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /@ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /0123456789abcdef@ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /?@ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://@/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a@/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/@.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.@\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1@Host: a\r\n\r\n",
        b"GET / HTTP/1.1\r@Host: a\r\n\r\n",
        HEAD + b"@: x\r\n\r\n",
        HEAD + b"X@: x\r\n\r\n",
        HEAD + b"X@x\r\n\r\n",
        HEAD + b"X:@x\r\n\r\n",
        HEAD + b"X: x@\r\n\r\n",
        HEAD + b"X: 0123456789abcdef@0123456789abcdef\r\n\r\n",
        HEAD + b"X: x\r@\r\n\r\n",
        HEAD + b"\r@\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: @\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a:@\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [@::]\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: %4@\r\n\r\n",
        POST + b"Content-Length: @\r\n\r\n",
        POST + b"Transfer-Encoding: chunked@\r\n\r\n",
        POST + b"Transfer-Encoding: @chunked\r\n\r\n",
        POST + b"Transfer-Encoding: gzip;a=@\r\n\r\n",
        POST + b'Transfer-Encoding: gzip;a="@"\r\n\r\n',
        POST + b"Connection: @close\r\n\r\n",
        POST + b"Connection: close@\r\n\r\n",
        POST + b"Expect: 100@continue\r\n\r\n",
        POST + b"Content@Length: 5\r\n\r\n",
        POST + b"Transfer@Encoding: chunked\r\n\r\n",
    ]
    for template in heads:
        data = template.replace(b"@", one)
        assert parser.head(data, guard_page) == reference.head(data), data
    for template in [
        b"@\r\nhello\r\n0\r\n\r\n",
        b"1@\r\nx\r\n0\r\n\r\n",
        b"1\r@x\r\n0\r\n\r\n",
        b"1\r\nx@\n0\r\n\r\n",
        b"1\r\nx\r@0\r\n\r\n",
        b"1;@\r\nx\r\n0\r\n\r\n",
        b"1;a@\r\nx\r\n0\r\n\r\n",
        b"1;a=@\r\nx\r\n0\r\n\r\n",
        b'1;a="@"\r\nx\r\n0\r\n\r\n',
        b'1;a="\\@"\r\nx\r\n0\r\n\r\n',
        b"0\r\n@\r\n\r\n",
        b"0\r\nX@y\r\n\r\n",
        b"0\r\nX: @\r\n\r\n",
        b"0\r\n\r@",
    ]:
        data = template.replace(b"@", one)
        assert parser.chunked([data], guard_page) == reference.chunked(data), data


EDGES = [2**bits + offset for bits in (8, 15, 16, 31, 32, 63, 64) for offset in (-1, 0, 1)]


@pytest.mark.parametrize("number", EDGES)
def test_lengths_at_the_edges_of_integers(parser, number):
    """A length is exact up to 2^63 - 1 and refused beyond: nothing wraps."""
    largest = 2**63 - 1
    head = parser.head(POST + b"Content-Length: %d\r\n\r\n" % number)
    assert head == 400 if number > largest else head["content_length"] == number
    body = parser.chunked([b"%x\r\n" % number, b"some"])
    assert body == (400 if number > largest else None)


@pytest.mark.parametrize("size", [2**8 - 1, 2**8, 2**15, 2**16 - 1, 2**16, 2**16 + 1])
def test_chunks_at_the_edges_of_integers(parser, size):
    """A chunk is as long as its size says, however many bytes that takes to count."""
    data = b"%x\r\n%s\r\n0\r\n\r\n" % (size, b"x" * size)
    for cut in (1, 7, size // 2, size + 5, len(data) - 1):
        assert parser.chunked([data[:cut], data[cut:]]) == (b"x" * size, len(data))


@pytest.mark.parametrize("size", [2**8, 2**15, 2**16, 2**17])
@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_values_at_the_edges_of_integers(backend, size, offset):
    """A value is read whole wherever its size crosses that of a C integer."""
    parser = backend(max_head_bytes=2**20, max_field_bytes=2**20, max_target_bytes=2**20)
    value = b"v" * (size + offset)
    head = parser.head(HEAD + b"X: " + value + b"\r\nY: z\r\n\r\n")
    assert head["headers"] == [(b"Host", b"a"), (b"X", value), (b"Y", b"z")]
    head = parser.head(b"GET /%s?q HTTP/1.1\r\nHost: a\r\n\r\n" % value)
    assert (head["path"], head["query"]) == (b"/" + value, b"q")


@pytest.mark.parametrize("count", [255, 256, 257, 32768, 65535])
def test_counts_at_the_edges_of_integers(backend, count):
    """As many fields as the limit says are read, and one more is refused."""
    parser = backend(max_head_bytes=2**20, max_headers=count)
    fields = b"X:\r\n" * (count - 1)
    assert len(parser.head(HEAD + fields + b"\r\n")["headers"]) == count
    assert parser.head(HEAD + fields + b"X:\r\n\r\n") == 431


@pytest.mark.parametrize(
    "bound",
    [
        ("max_head_bytes", 100, 431, lambda n: HEAD + b"X: %s\r\n\r\n" % (b"x" * (n - 32))),
        ("max_field_bytes", 50, 431, lambda n: HEAD + b"X: %s\r\n\r\n" % (b"x" * (n - 5))),
        ("max_headers", 5, 431, lambda n: HEAD + b"X: y\r\n" * (n - 1) + b"\r\n"),
        ("max_target_bytes", 20, 414, lambda n: HEAD.replace(b"/ ", b"/" * n + b" ") + b"\r\n"),
    ],
)
def test_limits_of_heads_at_the_edge(backend, bound, guard_page):
    """Exactly the limit passes and one more does not, whole and byte by byte."""
    name, edge, status, make = bound
    parser = backend(**{name: edge})
    for size, passes in ((edge - 1, True), (edge, True), (edge + 1, False)):
        data = make(size)
        for pieces in ([data], one_byte_at_a_time(data)):
            verdict = parser.split_head(pieces, guard_page)
            assert isinstance(verdict, dict) if passes else verdict == status


@pytest.mark.parametrize(
    "bound",
    [
        (
            "max_chunk_extension_bytes", 40, 400,
            lambda n: b"1;%s\r\nx\r\n0;aaaa\r\n\r\n" % (b"a" * (n - 6)),
        ),
        ("max_trailer_bytes", 40, 431, lambda n: b"0\r\nX: %s\r\n\r\n" % (b"x" * (n - 7))),
        ("max_trailers", 4, 431, lambda n: b"0\r\n" + b"X: y\r\n" * n + b"\r\n"),
    ],
)  # fmt: skip
def test_limits_of_bodies_at_the_edge(backend, bound, guard_page):
    """Exactly the limit passes and one more does not, whole and byte by byte."""
    name, edge, status, make = bound
    parser = backend(**{name: edge})
    for size, passes in ((edge - 1, True), (edge, True), (edge + 1, False)):
        data = make(size)
        for pieces in ([data], one_byte_at_a_time(data)):
            verdict = parser.chunked(pieces, guard_page)
            assert isinstance(verdict, tuple) if passes else verdict == status


@pytest.mark.parametrize("start", [b"GET /", b"\r\nGET /", HEAD + b"X: ", HEAD + b"X", HEAD + b" "])
def test_an_unfinished_line_is_refused_at_its_limit(backend, start):
    """A line without an end is refused when no end could come in time, not later."""
    parser = backend(max_target_bytes=36, max_field_bytes=100)
    status = 431 if b"Host" in start else 414
    line = start.rpartition(b"\n")[2]
    data = start + b"a" * (100 - len(line))
    assert parser.head(data[:-1]) is None
    assert parser.head(data) == status
    assert parser.split_head(one_byte_at_a_time(data)) == status
    assert parser.split_head(one_byte_at_a_time(data[:-1])) is None


@pytest.mark.parametrize(
    ("door", "start"),
    [("split_head", b"GET /aaaa"), ("split_head", HEAD + b"X: aaaa"), ("chunked", b"1;aaaa")],
)
def test_an_unfinished_line_is_not_searched_twice(parser, guard_page, door, start):
    """Resuming looks for the LF in the new bytes only, or a slow line costs its square.

    The bytes seen before are changed behind the parser's back: it must not notice.
    """

    def place(data):
        return guard_page(data if data == start else data.replace(b"aaaa", b"a\naa"))

    assert getattr(parser, door)([start, b"bbbb"], place) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_head_bytes", 1),
        ("max_head_bytes", 2**30 + 1),
        ("max_field_bytes", 0),
        ("max_headers", 65536),
        ("max_target_bytes", 0),
        ("max_chunk_extension_bytes", 2**30 + 1),
        ("max_trailer_bytes", 1),
        ("max_trailers", 65536),
    ],
)
def test_limits_that_could_not_work_are_refused(backend, name, value):
    """A limit outside of what the parser's integers hold is an error that names it."""
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        backend(**{name: value})


def test_repeat_head_gives_the_verdict(parser):
    """The door for measuring does the same work."""
    data = HEAD + b"\r\n"
    assert parser.repeat_head(data, 3) == len(data)
    assert parser.repeat_head(b"\n", 1) == -400
