"""What must hold for any bytes; called by target.c, once for each input.

The first byte says what the rest is (see `KINDS`), with wide or narrow limits, and where it
is cut. Every piece is parsed from a block of exactly its size, so that AddressSanitizer sees a
read too far.
"""

from inputs import KINDS

from fastserve._speedups.httptools_parser import HttptoolsParser
from fastserve._speedups.parser import NativeParser

NARROW = {
    "max_head_bytes": 300,
    "max_field_bytes": 100,
    "max_headers": 6,
    "max_target_bytes": 60,
    "max_chunk_extension_bytes": 30,
    "max_trailer_bytes": 50,
    "max_trailers": 3,
}
WIDE = NativeParser(), HttptoolsParser()
TIGHT = NativeParser(**NARROW), HttptoolsParser(**NARROW)
START = b"POST / HTTP/1.1\r\nHost: a\r\n"
OTHER_LINES = b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n", b"GET http://a/ HTTP/1.1\r\n"
SHORT = 300  # longer inputs are not tried byte by byte: that costs their square


def check(data):
    """Raise AssertionError where a property does not hold."""
    if not data:
        return
    choice, data = data[0], data[1:]
    parsers = TIGHT if choice & 1 else WIDE
    cut = (choice >> 3) * 3 % (len(data) + 1)
    kind = KINDS[choice >> 1 & 3]
    if kind == "stream":
        check_stream(parsers, data, cut)
    elif kind == "fields":
        check_message(parsers, "split_head", START + data, cut + len(START))
    else:
        check_message(parsers, "chunked" if kind == "chunked" else "split_head", data, cut)


def check_message(parsers, door, data, cut):
    native, llhttp = parsers
    verdict = getattr(native, door)([data])
    ways = [[data[:cut], data[cut:]]]
    if len(data) < SHORT:
        ways.append([data[index : index + 1] for index in range(len(data))])
    for pieces in ways:
        require(getattr(native, door)(pieces) == verdict, "a split changed the verdict")
    if door == "split_head":
        # What the connection sent before, here the same fields, changes nothing.
        for line in OTHER_LINES:
            before = line + data.partition(b"\n")[2]
            require(native.split_head([data], None, before) == verdict, "the memo misled")
    require(agree(verdict, getattr(llhttp, door)([data]), data), "llhttp does not agree")
    if isinstance(verdict, dict):
        require(0 < verdict["consumed"] <= len(data), "consumed more than there is")
        check_again(native, verdict)
    elif isinstance(verdict, tuple):
        require(len(verdict[0]) < verdict[1] <= len(data), "consumed more than there is")


def agree(native, llhttp, data):
    # llhttp sees no quoted strings in a list of codings: "chunked" inside of one, which is a
    # coding that nobody speaks (501), is for it a "chunked" that is not the last (400).
    return native == llhttp or (native == 501 and llhttp == 400 and b'"' in data)


def check_again(native, head):
    # What was understood, written down anew, is understood the same.
    lines = [b"%s %s HTTP/%s" % (head["method"], head["target"], head["version"].encode())]
    lines += [name + b": " + value for name, value in head["headers"]]
    again = native.head(b"\r\n".join(lines) + b"\r\n\r\n")
    if isinstance(again, dict):  # a limit may be hit: the space behind the colon may be new
        require({**again, "consumed": 0} == {**head, "consumed": 0}, "not what was written")
    else:
        require(again in (414, 431), "what was understood was refused when written anew")


def check_stream(parsers, data, cut):
    native, llhttp = (list(messages(parser, data, cut)) for parser in parsers)
    require(len(native) == len(llhttp), "llhttp does not agree")
    for ours, theirs in zip(native, llhttp, strict=True):
        require(agree(ours, theirs, data), "llhttp does not agree")
    require(list(messages(parsers[0], data, 0)) == native, "a split changed the stream")


def messages(parser, data, cut):
    # All of a connection: heads, bodies, and the verdict that ended it.
    before = None
    while data:
        head = parser.split_head([data[:cut], data[cut:]], None, before)
        yield head
        if not isinstance(head, dict):
            return
        before = data[: head["consumed"]]
        data = data[head["consumed"] :]
        if head["chunked"]:
            body = parser.chunked([data[:cut], data[cut:]])
            yield body
            if not isinstance(body, tuple):
                return
            data = data[body[1] :]
        else:
            data = data[head["content_length"] or 0 :]


def require(condition, message):
    if not condition:
        raise AssertionError(message)
