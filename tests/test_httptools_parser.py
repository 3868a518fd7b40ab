"""What is particular to the second backend; test_parser.py has what both must do."""

import pytest

from fastserve._speedups.httptools_parser import HttptoolsParser
from fastserve._speedups.parser import NativeParser, Parser

HOST = b" / HTTP/1.1\r\nHost: a\r\n"


def test_both_are_parsers():
    """The protocol holds either of them as a Parser."""
    assert issubclass(HttptoolsParser, Parser)
    assert issubclass(NativeParser, Parser)


def test_one_parser_reads_many_heads():
    """Nothing of a head is left when the next begins, whether it was good, bad or cut short."""
    parser = HttptoolsParser()
    good = b"GET" + HOST + b"\r\n"
    for other in (good, b"\n", b"GET" + HOST, b"GET" + HOST + b"X\r\n", b"POST / HTTP"):
        parser.head(other)
        assert parser.head(good)["headers"] == [(b"Host", b"a")]


def test_limits_reach_the_connections():
    """The parser of a connection has the limits of the one it was made from."""
    assert HttptoolsParser(max_headers=1).head(b"GET" + HOST + b"X: y\r\n\r\n") == 431


@pytest.mark.parametrize(
    "method", [b"FOO", b"SOURCE", b"DESCRIBE", b"PRI", b"get", b"QUERY", b"M-SEARCH"]
)
def test_methods_that_llhttp_refuses_are_methods(method):
    """A list of methods is what llhttp knows; HTTP has none (RFC 9110 section 9.1)."""
    assert HttptoolsParser().head(method + HOST + b"\r\n")["method"] == method


def test_a_tab_behind_a_value_is_white_space():
    """With a HTAB behind it, llhttp would not know the coding (RFC 9110 section 5.6.3)."""
    head = HttptoolsParser().head(b"POST" + HOST + b"Transfer-Encoding: chunked\t\r\n\r\n")
    assert head["chunked"]


def test_an_upgrade_beside_a_body_keeps_the_body():
    """Where llhttp ends HTTP at the head, we read the body (RFC 9110 section 7.8)."""
    fields = b"Connection: upgrade\r\nUpgrade: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    head = HttptoolsParser().head(b"POST" + HOST + fields)
    assert (head["chunked"], head["upgrade"]) == (True, False)


def test_a_body_in_single_bytes_is_found_by_llhttp_too():
    """Each piece that the rules consume, llhttp reads as the same data."""
    data = b'3;a="b"\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n'
    pieces = [bytes((byte,)) for byte in data]
    assert HttptoolsParser().chunked(pieces) == (b"abcde", len(data))
