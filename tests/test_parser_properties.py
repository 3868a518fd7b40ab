"""What holds for any bytes: three readers agree, and no split changes a verdict."""

from itertools import pairwise

import httptools
import pytest
import wire_cases
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from reference import parser as reference

from fastserve._speedups.httptools_parser import HttptoolsParser
from fastserve._speedups.parser import NativeParser

HEADS = [
    case.data
    for file in ("heads", "framing")
    for case in wire_cases.load(file)
    if len(case.data) < 500
]
BODIES = [case.data for case in wire_cases.load("chunked") if len(case.data) < 500]
LIMITS = {
    "max_head_bytes": 300,
    "max_field_bytes": 100,
    "max_headers": 6,
    "max_target_bytes": 60,
    "max_chunk_extension_bytes": 30,
    "max_trailer_bytes": 50,
    "max_trailers": 3,
}
NATIVE, LLHTTP = NativeParser(), HttptoolsParser()
SMALL_NATIVE, SMALL_LLHTTP = NativeParser(**LIMITS), HttptoolsParser(**LIMITS)

SPICE = st.sampled_from([
    b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b",", b";", b"=", b'"', b"\\", b"\0", b"\x0b",
    b"\x7f", b"\x80", b"\xff", b"#", b"?", b"%", b"/", b"*", b"@", b"[", b"]", b"0", b"1", b"f",
    b"Host: a\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"chunked",
    b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"X: y\r\n", b"\r\n\r\n", b"HTTP/1.1",
    b"Upgrade: x\r\nConnection: upgrade\r\n", b"CONNECT", b"OPTIONS", b"http://", b"0\r\n\r\n",
])  # fmt: skip


@st.composite
def spoiled(draw, corpus):
    """A wire case with up to four edits."""
    data = draw(st.sampled_from(corpus))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.integers(0, 6)))
        middle = draw(st.one_of(SPICE, st.just(b""), st.just(data[start:stop] * 2)))
        data = data[:start] + middle + data[stop:]
    return data


FIELD = st.one_of(
    st.tuples(
        st.sampled_from([
            b"Host", b"host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Expect",
            b"Upgrade", b"Content-Type", b"Authorization", b"X", b"Cookie",
        ]),
        st.sampled_from([b":", b": ", b":\t ", b" :"]),
        st.sampled_from([
            b"", b"a", b"a:80", b"[::1]", b"5", b"0", b"chunked", b"gzip, chunked", b"close",
            b"keep-alive", b"upgrade", b"keep-alive, Upgrade", b"100-continue", b"x y\t\xe9",
        ]),
        st.sampled_from([b"\r\n", b" \r\n", b"\t\r\n", b"\n"]),
    ).map(b"".join),
    st.binary(max_size=20).map(lambda noise: noise + b"\r\n"),
)  # fmt: skip
MADE_HEADS = st.tuples(
    st.sampled_from([b"", b"\r\n"]),
    st.sampled_from([b"GET", b"POST", b"OPTIONS", b"FOO", b"M-SEARCH", b"CONNECT"]),
    st.sampled_from([b" / ", b" /a?b=%20 ", b" * ", b" http://a ", b" http://a:1/b ", b" a:1 "]),
    st.sampled_from([b"HTTP/1.1\r\n", b"HTTP/1.0\r\n", b"HTTP/1.1\r\nHost: a\r\n"]),
    st.lists(FIELD, max_size=6).map(b"".join),
    st.sampled_from([b"\r\n", b"\r\n", b"\r\nrest", b""]),
).map(b"".join)
EXTENSION = st.sampled_from([b"", b"", b"", b";a", b";a=b", b';a="b;\\""', b";", b" "])
MADE_BODIES = st.tuples(
    st.lists(
        st.tuples(st.binary(min_size=1, max_size=40), EXTENSION).map(
            lambda chunk: b"%x%s\r\n%s\r\n" % (len(chunk[0]), chunk[1], chunk[0])
        ),
        max_size=4,
    ).map(b"".join),
    st.sampled_from([b"0\r\n", b"000\r\n", b"0;a\r\n", b""]),
    st.lists(FIELD, max_size=4).map(b"".join),
    st.sampled_from([b"\r\n", b"\r\nrest", b"", b"\n"]),
).map(b"".join)

ANY_HEAD = st.one_of(spoiled(HEADS), MADE_HEADS, st.binary(max_size=60))
ANY_BODY = st.one_of(spoiled(BODIES), MADE_BODIES, st.binary(max_size=30))
OFTEN = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)


def cut(data, places):
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges)]


CUTS = st.lists(st.integers(0, 1000), max_size=8)


@OFTEN
@given(data=ANY_HEAD, places=CUTS)
def test_heads_are_read_alike(data, places):
    """Both parsers, given a head in pieces, say what the reference says of the whole."""
    expected = reference.head(data)
    pieces = cut(data, places)
    assert NATIVE.split_head(pieces) == expected
    assert LLHTTP.split_head(pieces) == expected
    if isinstance(expected, dict):
        assert 0 < expected["consumed"] <= len(data)


@OFTEN
@given(data=ANY_HEAD, places=CUTS)
def test_heads_are_read_alike_near_the_limits(data, places):
    """The same where every limit is small enough to be hit."""
    expected = reference.head(data, **LIMITS)
    pieces = cut(data, places)
    assert SMALL_NATIVE.split_head(pieces) == expected
    assert SMALL_LLHTTP.split_head(pieces) == expected


@OFTEN
@given(data=ANY_BODY, places=CUTS)
def test_bodies_are_read_alike(data, places):
    """Both parsers, given a body in pieces, say what the reference says of the whole."""
    expected = reference.chunked(data)
    pieces = cut(data, places)
    assert NATIVE.chunked(pieces) == expected
    assert LLHTTP.chunked(pieces) == expected
    if isinstance(expected, tuple):
        assert len(expected[0]) < expected[1] <= len(data)


@OFTEN
@given(data=ANY_BODY, places=CUTS)
def test_bodies_are_read_alike_near_the_limits(data, places):
    """The same where every limit is small enough to be hit."""
    expected = reference.chunked(data, **LIMITS)
    pieces = cut(data, places)
    assert SMALL_NATIVE.chunked(pieces) == expected
    assert SMALL_LLHTTP.chunked(pieces) == expected


class Listener:
    def __init__(self):
        self.url, self.body, self.fields, self.complete = b"", b"", [], False

    def on_url(self, url):
        self.url += url

    def on_header(self, name, value):
        self.fields.append((name, value.rstrip(b"\t ")))

    def on_body(self, body):
        self.body += body

    def on_message_complete(self):
        self.complete = True


@OFTEN
@given(data=ANY_HEAD)
def test_llhttp_reads_what_we_accept(data):
    """A head that we accept, plain httptools accepts with the same meaning.

    Except for methods it does not know, a HTAB behind a value, which it keeps, and an Upgrade
    beside a body, which it takes for the end of HTTP.
    """
    head = NATIVE.head(data)
    assume(isinstance(head, dict) and head["method_id"] and b"\t\r\n" not in data)
    listener = Listener()
    llhttp = httptools.HttpRequestParser(listener)
    upgraded = False
    try:
        llhttp.feed_data(data[: head["consumed"]])
    except httptools.HttpParserUpgrade:
        upgraded = True
    assert llhttp.get_method() == head["method"]
    assert llhttp.get_http_version() == head["version"]
    assert listener.url == head["target"]
    assert listener.fields == head["headers"]
    assert upgraded or not head["upgrade"]
    if not upgraded:
        assert listener.complete == (not head["chunked"] and not head["content_length"])


@OFTEN
@given(data=ANY_BODY)
def test_llhttp_decodes_what_we_accept(data):
    """A chunked body that we accept, plain httptools decodes to the same bytes."""
    body = NATIVE.chunked([data])
    assume(isinstance(body, tuple))
    listener = Listener()
    llhttp = httptools.HttpRequestParser(listener)
    llhttp.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    llhttp.feed_data(data[: body[1]])
    assert (listener.body, listener.complete) == (body[0], True)


@pytest.mark.parametrize("corpus", [HEADS, BODIES], ids=["heads", "bodies"])
def test_the_corpus_is_not_empty(corpus):
    """The properties start from the wire cases, which are there."""
    assert len(corpus) > 100
