"""The compiled router agrees with the reference, whatever the routes and the paths."""

import string

from hypothesis import given, settings
from hypothesis import strategies as st
from reference.router import Router as ReferenceRouter

from fastserve._speedups.plan import Plan
from fastserve._speedups.router import Router

UUIDS = ("12345678-1234-5678-9abc-1234567890ab", "ABCDEF00-0000-0000-0000-000000000000")
TEXTS = ("", "a", "b", "ab", "abcdefgh", "abcdefghi", "1", "-7", "1.5", "é", "a/b", ".", "%", "+1")
NUMBERS = ("0", "-0", "007", "9223372036854775807", "9223372036854775808",
           "-9223372036854775808", "-9223372036854775809", "9" * 19, "9" * 20, "9" * 65,
           "-1.25", "1.", ".1", "1e5", "-")
METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "TRACE", "PURGE", "BAN", "*")

literals = st.sampled_from([text.encode() for text in TEXTS if "/" not in text])
parameters = st.sampled_from(["int", "uuid", "float", "str"]).map(lambda kind: (kind,))


@st.composite
def tables(draw):
    """Routes as (pattern, methods), each method of a path once."""
    patterns = draw(st.lists(
        st.tuples(st.lists(st.one_of(literals, parameters), max_size=4), st.booleans()),
        min_size=1, max_size=14))
    taken, table = set(), []
    for parts, rest in patterns:
        shape = (*parts, ("path",)) if rest or not parts else tuple(parts)
        methods = draw(st.lists(st.sampled_from(METHODS), min_size=1, max_size=3, unique=True))
        methods = [method for method in methods if (shape, method) not in taken]
        taken.update((shape, method) for method in methods)
        if methods:
            named = tuple(
                part if isinstance(part, bytes) else (part[0], f"p{index}")
                for index, part in enumerate(shape))
            table.append((named, methods))
    return table


def escape(text, choices):
    """Percent-encode what must be, and the bytes that the bits of `choices` say."""
    out = bytearray()
    for index, byte in enumerate(text):
        chosen = choices >> (index % 64) & 1
        if chosen or byte in b"%/" or byte < 0x21:
            out += (b"%%%02X" if index % 2 else b"%%%02x") % byte
        else:
            out.append(byte)
    return bytes(out)


@st.composite
def paths(draw, table):
    """Mostly paths that come near a route; some that are anything at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=40).map(lambda raw: b"/" + raw.replace(b"\0", b"")))
    pattern = draw(st.sampled_from(table))[0] if table else ()
    segments = []
    for part in pattern:
        fitting = {
            "int": NUMBERS, "float": NUMBERS, "uuid": UUIDS, "str": TEXTS, "path": TEXTS,
        }
        if isinstance(part, bytes) and draw(st.integers(0, 5)):
            segments.append(part)
        elif isinstance(part, bytes):
            segments.append(draw(st.sampled_from(TEXTS)).encode())
        else:
            segments.append(draw(st.sampled_from(fitting[part[0]])).encode())
    segments += [text.encode() for text in draw(st.lists(st.sampled_from(TEXTS), max_size=2))]
    choices = draw(st.one_of(st.just(0), st.integers(0, 2**64 - 1)))
    path = b"".join(b"/" + escape(segment, choices) for segment in segments)
    broken = draw(st.integers(0, 19))
    if broken == 0:
        path += draw(st.sampled_from([b"%", b"%4", b"%zz", b"%00", b"%FF", b"%C3", b"\xff", b"/"]))
    return path


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_compiled_and_reference_agree(data):
    """Same plan, same values of the same types, same Allow, same refusals."""
    table = data.draw(tables())
    compiled, reference = Router(), ReferenceRouter()
    for pattern, methods in table:
        names = [part[1] for part in pattern if isinstance(part, tuple)]
        plan = Plan(lambda *values: values, range(len(names)), param_names=names)
        compiled.add(pattern, methods, plan)
        reference.add(pattern, methods, plan)
    compiled.freeze()
    for _ in range(6):
        path = data.draw(paths(table))
        method = data.draw(st.sampled_from((*METHODS[:-1], "SEARCH")))

        expected = reference.find(method, path)

        found = compiled.find(method, path)
        assert found == expected, (path, method)
        if not isinstance(found, int) and found[0] is not None:
            assert [type(value) for value in found[1]] == [type(value) for value in expected[1]]


@settings(max_examples=100, deadline=None)
@given(st.sets(st.text(string.ascii_letters + "/", max_size=40), max_size=200))
def test_every_static_path_is_found_and_no_other(texts):
    """The hash table holds what was put in: keys of every length, prefixes of one another."""
    plans = {f"/{text}".encode(): Plan(len, (), param_names=()) for text in texts}
    router = Router()
    for path, plan in plans.items():
        router.add(path[1:].split(b"/") if path.count(b"/") <= 64 else [b""], ["GET"], plan)
    router.freeze()
    for path, plan in plans.items():
        assert router.find("GET", path)[0] is plan
        for near in (path[:-1], path + b"x", path + b"/", path.swapcase()):
            found = router.find("GET", near)
            assert found == 404 if near and near not in plans else found != 404 or near == b""
