"""What we accept, h11 and llhttp accept with the same meaning: for as long as one likes.

    python tests/fuzz/differential.py --seconds 3600 --seed 7

Requests are made by rules, or by spoiling the wire cases; each goes to the native parser, to
the plain-Python reference, and, where it is accepted, to h11 and to plain httptools. A
difference that is not in the list of known ones is printed, and ends the run with status 1.
The same seed makes the same requests.
"""

import argparse
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import h11
import httptools
import wire_cases
from reference import parser as reference

from fastserve._speedups.parser import NativeParser

NATIVE = NativeParser()
SPICE = [
    b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b",", b";", b"=", b'"', b"\\", b"\0", b"\x0b", b"_",
    b"\x7f", b"\x80", b"\xff", b"#", b"?", b"%", b"/", b"*", b"@", b"[", b"]", b"0", b"1", b"f",
    b"Host: a\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"chunked",
    b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"X: y\r\n", b"\r\n\r\n", b"HTTP/1.1",
    b"Upgrade: x\r\nConnection: upgrade\r\n", b"CONNECT", b"OPTIONS", b"http://", b"0\r\n\r\n",
]  # fmt: skip
NAMES = [
    b"Host", b"host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Expect", b"X-A",
    b"Upgrade", b"Content-Type", b"Authorization", b"X_A", b"Cookie", b"Range", b"User-Agent",
]  # fmt: skip
VALUES = [
    b"", b"a", b"a:80", b"[::1]", b"5", b"0", b"chunked", b"gzip, chunked", b"close", b"05",
    b"keep-alive", b"upgrade", b"keep-alive, Upgrade", b"100-continue", b"x y\t\xe9", b"5, 5",
]  # fmt: skip
METHODS = [b"GET", b"POST", b"OPTIONS", b"FOO", b"CONNECT", b"HEAD", b"PUT"]
TARGETS = [b"/", b"/a?b=%20", b"*", b"http://a", b"http://a:1/b", b"a:1", b"/%00", b"//b"]


def corpus():
    """The wire cases that are short enough to be spoiled often; bodies get a head."""
    start = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    for file in ("heads", "framing", "families", "chunked"):
        for case in wire_cases.load(file):
            if len(case.data) < 600:
                yield start + case.data if file == "chunked" else case.data


def make(choose, seeds):
    """One request, or what is nearly one."""
    if choose.random() < 0.5:
        data = choose.choice(seeds)
        for _ in range(choose.randrange(5)):
            start = choose.randrange(len(data) + 1)
            stop = min(len(data), start + choose.randrange(7))
            middle = choose.choice([choose.choice(SPICE), b"", data[start:stop] * 2])
            data = data[:start] + middle + data[stop:]
        return data
    lines = [b"%s %s HTTP/1.%d" % (
        choose.choice(METHODS), choose.choice(TARGETS), choose.random() < 0.9)]  # fmt: skip
    if choose.random() < 0.9:
        lines.append(b"Host: a")
    for _ in range(choose.randrange(5)):
        lines.append(choose.choice(NAMES) + choose.choice([b":", b": ", b":\t"])
                     + choose.choice(VALUES) + choose.choice([b"", b" "]))  # fmt: skip
    body = b""
    for _ in range(choose.randrange(4)):
        size = choose.randrange(1, 30)
        extension = choose.choice([b"", b"", b";a", b";a=b", b';a="b;\\""', b";"])
        body += b"%x%s\r\n%s\r\n" % (size, extension, choose.randbytes(size))
    body += choose.choice([b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"0;a\r\n\r\n", b"hello", b""])
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def read_by_h11(data):
    """(method, target, headers, body) of one request, as h11 reads it, or the reason why not."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    request, body = None, b""
    try:
        connection.receive_data(data)
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                headers = [(bytes(name), bytes(value)) for name, value in request.headers]
                return request.method, request.target, headers, body
            elif event in (h11.NEED_DATA, h11.PAUSED):
                return "incomplete"
    except h11.RemoteProtocolError as error:
        return str(error)


class Listener:
    def __init__(self):
        self.url, self.body, self.fields = b"", b"", []
        self.in_head, self.complete = True, False

    def on_url(self, url):
        self.url += url

    def on_header(self, name, value):
        if self.in_head:  # llhttp's trailers come the same way; whoever keeps them merges them
            self.fields.append((name.lower(), value.rstrip(b"\t ")))

    def on_headers_complete(self):
        self.in_head = False

    def on_body(self, body):
        self.body += body

    def on_message_complete(self):
        self.complete = True


def read_by_llhttp(data):
    """The same by plain httptools."""
    listener = Listener()
    machine = httptools.HttpRequestParser(listener)
    try:
        machine.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        return str(error)
    if not listener.complete:
        return "incomplete"
    return machine.get_method(), listener.url, listener.fields, listener.body


def difference(data):
    """None, or what differs; ("refused", ...) where there is nothing to compare."""
    (messages, end), size = first_message(data)
    if not messages:
        expected = reference.head(data)
        if not isinstance(expected, dict) and (expected or "incomplete") != end:
            return f"the reference says {expected}, we say {end}"
        return ("refused", end)
    head, body = messages[0]
    if head != reference.head(data):
        return "the reference reads another head"
    headers = [(name.lower(), value) for name, value in head["headers"]]
    ours = head["method"], head["target"], headers, body
    message = data[:size].removeprefix(b"\r\n")
    for reader, known in ((read_by_h11, known_of_h11), (read_by_llhttp, known_of_llhttp)):
        theirs = reader(message)
        if theirs != ours and not known(head, headers, message, theirs):
            return f"{reader.__name__}: {theirs}\nours: {ours}"
    return ("accepted", None)


def first_message(data):
    """The first message and how it ended, and the number of bytes it took."""
    head = NATIVE.head(data)
    if not isinstance(head, dict):
        return ([], head or "incomplete"), 0
    if head["chunked"]:
        found = NATIVE.chunked([data[head["consumed"] :]])
        expected = reference.chunked(data[head["consumed"] :])
        if found != expected:
            raise AssertionError(f"the reference decodes {expected}, we {found}: {data}")
        if not isinstance(found, tuple):
            return ([], found or "incomplete"), 0
        return ([(head, found[0])], None), head["consumed"] + found[1]
    size = head["content_length"] or 0
    body = data[head["consumed"] : head["consumed"] + size]
    if len(body) < size:
        return ([], "incomplete"), 0
    return ([(head, body)], None), head["consumed"] + size


def known_of_h11(head, headers, message, theirs):
    """What h11 refuses or does otherwise, and may."""
    if isinstance(theirs, str):
        return (
            # Stricter: a length of more than 20 digits; HTTP/1.0 with an expectation is read.
            re.search(rb"(?i)\ncontent-length:[ \t]*[0-9]{21}", message) is not None
            # Chunk sizes are read to 20 digits there; extensions may hold no HTAB in quotes.
            or (head["chunked"] and b'"' in message)
            or any(bytes((byte,)) >= b"\x80" for _, value in headers for byte in value)
        )
    # h11 spells the one length it accepts without leading zeros or in lower case.
    method, target, fields, _ = theirs
    single = {b"content-length", b"transfer-encoding"}
    plain = [(name, value) for name, value in headers if name not in single]
    return (method, target) == (head["method"], head["target"]) and plain == [
        (name, value) for name, value in fields if name not in single
    ]


def known_of_llhttp(head, headers, message, theirs):
    """What llhttp refuses or does otherwise, and may."""
    return (
        head["method_id"] == 0  # it has a list of methods
        or b"\t\r\n" in message  # it keeps a HTAB behind a value, and knows no "chunked" with it
        # It takes an Upgrade for the end of HTTP, whatever body comes with it.
        or any(name == b"upgrade" for name, _ in headers)
    )


def run(seconds, seed, most=None):
    """Compare for so long, or so many; the counts, and the differences."""
    choose = random.Random(seed)
    seeds = list(corpus())
    counts, found = Counter(), []
    until = time.monotonic() + seconds
    while time.monotonic() < until and not (most and sum(counts.values()) >= most):
        data = make(choose, seeds)
        outcome = difference(data)
        if isinstance(outcome, str):
            found.append((data, outcome))
            counts["different"] += 1
            if len(found) == 10:
                break
        else:
            counts[outcome[0]] += 1
    return counts, found


def main():
    """Parse the arguments, compare, report."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=60)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    counts, found = run(options.seconds, options.seed)
    for data, outcome in found:
        print(f"{data!r}\n{outcome}\n")
    print(", ".join(f"{counts[kind]} {kind}" for kind in ("accepted", "refused", "different")))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
