"""The multi-dicts of requests and responses."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve._speedups.multidict import Headers, MultiDict, MutableHeaders


def test_a_multidict_keeps_every_pair_in_order():
    """[] and get() give the first value, getlist() all, items() every pair."""
    d = MultiDict([("a", "1"), ("b", "2"), ("a", "3")])

    assert d["a"] == "1"
    assert d.get("a") == "1"
    assert d.get("z") is None
    assert d.get("z", "?") == "?"
    assert d.getlist("a") == ["1", "3"]
    assert d.getlist("z") == []
    assert d.items() == [("a", "1"), ("b", "2"), ("a", "3")]
    assert d.keys() == ["a", "b"]
    assert d.values() == ["1", "2", "3"]
    assert "a" in d
    assert "z" not in d
    assert 7 not in d
    assert list(d) == ["a", "b"]
    assert len(d) == 2
    assert d == MultiDict([("a", "1"), ("b", "2"), ("a", "3")])
    assert dict(d) == {"a": "1", "b": "2"}
    with pytest.raises(KeyError, match="z"):
        d["z"]


def test_header_names_have_no_case():
    """RFC 9110 section 5.1."""
    headers = Headers([("Content-Type", "a"), ("X-Y", "b")])

    assert headers["content-type"] == headers["CONTENT-TYPE"] == "a"
    assert "x-y" in headers
    assert headers.keys() == ["content-type", "x-y"]


def test_response_headers_can_be_changed():
    """Set replaces whatever the case, add keeps, del removes all."""
    headers = MutableHeaders({"X-A": "1"})
    headers["x-a"] = "2"
    headers.add("X-A", "3")
    assert headers.getlist("X-a") == ["2", "3"]
    assert headers.setdefault("x-a", "4") == "2"
    assert headers.setdefault("x-b", "4") == "4"
    assert headers.pop("x-b") == "4"
    assert headers.pop("x-b", "gone") == "gone"
    del headers["X-A"]
    assert "x-a" not in headers
    assert len(headers) == 0
    with pytest.raises(KeyError):
        del headers["x-a"]
    with pytest.raises(KeyError):
        headers["x-a"]


def test_response_headers_take_pairs_and_multidicts():
    """A list of pairs and another multi-dict add every field; a mapping sets."""
    assert MutableHeaders([("a", "1"), ("a", "2")]).getlist("a") == ["1", "2"]
    assert MutableHeaders(MultiDict([("a", "1"), ("a", "2")])).getlist("a") == ["1", "2"]
    assert MutableHeaders({"a": "1", "A": "2"}).getlist("a") == ["2"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", "a\r\nset-cookie: b", "line break"),
        ("x", "a\nb", "line break"),
        ("x", "a\rb", "line break"),
        ("x", "a\0b", "control character"),
        ("x", "a\x7fb", "control character"),
        ("x", "\u20ac", "Latin-1"),
        ("x\r\ny", "a", "holds"),
        ("x y", "a", "holds"),
        ("x:", "a", "holds"),
        ("", "a", "empty"),
        ("\xe9", "a", "ASCII"),
    ],
)
def test_what_cannot_be_a_header_is_refused_when_set(name, value, message):
    """No control byte gets into a head (CVE-2023-49082, PYSEC-2020-150); the error names it."""
    with pytest.raises(ValueError, match=message):
        MutableHeaders({name: value})
    headers = MutableHeaders()
    with pytest.raises(ValueError, match=message):
        headers[name] = value
    with pytest.raises(ValueError, match=message):
        headers.add(name, value)
    assert headers.items() == []


@pytest.mark.parametrize(("name", "value"), [("x", 1), ("x", b"a"), (b"x", "a"), ("x", None)])
def test_headers_are_text(name, value):
    """Names and values are str; anything else is a TypeError that says so."""
    with pytest.raises(TypeError, match="is a str"):
        MutableHeaders({name: value})


def test_surrounding_white_space_is_dropped():
    """It is not part of a field value (RFC 9110 section 5.5)."""
    assert MutableHeaders({"x": " a b\t"})["x"] == "a b"


@given(st.text(), st.text())
def test_no_pair_of_texts_smuggles_a_line(name, value):
    """Whatever is accepted renders as exactly one line."""
    try:
        headers = MutableHeaders({name: value})
    except ValueError:
        return
    ((name, value),) = headers.items()
    line = f"{name}: {value}"
    assert len(line.encode("latin-1").splitlines()) <= 1 or "\x85" in line
    assert not set(line) & {"\r", "\n", "\0"}


@given(st.lists(st.tuples(st.text(), st.text())))
def test_a_query_is_decoded_as_it_was_encoded(query_of, pairs):
    """Names and values survive urlencode and our decoding."""
    pairs = [(name, value) for name, value in pairs if name or value]
    assert query_of(urlencode(pairs, errors="replace").encode()).items() == parse_qsl(
        urlencode(pairs, errors="replace"), keep_blank_values=True
    )


@pytest.mark.parametrize(
    ("query", "pairs"),
    [
        (b"", []),
        (b"&&", []),
        (b"a", [("a", "")]),
        (b"a=", [("a", "")]),
        (b"=b", [("", "b")]),
        (b"a=b=c", [("a", "b=c")]),
        (b"a=1&a=2", [("a", "1"), ("a", "2")]),
        (b"a=b%20c+d", [("a", "b c d")]),
        (b"a%3Db=c%26d", [("a=b", "c&d")]),
        (b"a=%", [("a", "%")]),
        (b"a=%4", [("a", "%4")]),
        (b"a=%4g", [("a", "%4g")]),
        (b"a=%E2%82%AC", [("a", "\u20ac")]),
        (b"a=%FF", [("a", "\ufffd")]),
        (b"a;b=1;c", [("a;b", "1;c")]),
    ],
)
def test_odd_queries(query_of, query, pairs):
    """Nothing raises; a broken escape stays, bad UTF-8 is replaced, ";" is no separator."""
    assert query_of(query).items() == pairs


@given(st.text("ab=&%+24;", max_size=20), st.text("ab=&%+24; $", max_size=3))
def test_a_name_is_found_in_place(query_of, query, name):
    """Looked up in the bytes as they came, a name has its first value of the list, or none."""
    pairs = query_of(query.encode()).items()
    for wanted in (name, *dict(pairs)):
        first = next((value for key, value in pairs if key == wanted), None)
        assert query_of(query.encode()).get(wanted) == first


@pytest.fixture(scope="module")
def query_of():
    """The query of a real request, by its bytes."""
    import asyncio

    from support import Bench, request, running_loop

    from fastserve import App, Request

    app = App()
    seen = []

    @app.get("/")
    def handler(request: Request):
        seen.append(request.query)

    with running_loop(asyncio.new_event_loop) as loop:
        bench = Bench(app, loop, "fake", max_target_bytes=60_000, max_head_bytes=100_000)
        link = bench.connect()

        def query_of(query: bytes):
            link.send(request("/?" + query.decode()))
            return seen.pop()

        yield query_of
        bench.close()
