"""Fuzz what a handler sees of a request with atheris: properties, headers, query, cookies.

    pip install atheris && python tests/fuzz/objects.py -max_total_time=600 [CORPUS]

Wheels of atheris exist for CPython 3.11 to 3.13 on Linux. Arguments are libFuzzer's. Each
input becomes the parts of a request (path, query, cookies, values) that the parser accepts; it
goes to an application in memory. What the handler reads has to be consistent, and no exception
may come of it. The parser itself is fuzzed by run.py, which sees into C.
"""

import asyncio
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

with atheris.instrument_imports(include=["fastserve"]):
    from support import Bench

    from fastserve import App, Request


NOT_IN_TARGET = bytes(byte for byte in range(256) if not 0x21 <= byte <= 0x7E or byte in b"#")
NOT_IN_VALUE = bytes(byte for byte in range(256) if (byte < 0x20 and byte != 9) or byte == 0x7F)


def compose(data):
    """A request of an input's lines: the path, the query, then cookies and values in turn."""
    path, query, *values = [*data[:4000].split(b"\n"), b"", b""][:40]
    target = b"/" + path.translate(None, NOT_IN_TARGET + b"?")
    if query:
        target += b"?" + query.translate(None, NOT_IN_TARGET)
    fields = b"".join(
        (b"Cookie: ", b"X-%d: " % index)[index % 2] + value.translate(None, NOT_IN_VALUE) + b"\r\n"
        for index, value in enumerate(values)
    )
    return b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n"


@atheris.instrument_func
def look(request):
    """Everything there is to read, compared with itself."""
    assert request.path[:1] in ("/", "*")
    assert request.raw_path[:1] in (b"/", b"*")
    names = [name for name, _ in request.headers.items()]
    for name in request.headers:
        assert request.headers[name.upper()] == request.headers.getlist(name)[0]
        assert names.count(name) == len(request.headers.getlist(name))
    for name in request.query:
        assert request.query[name] == request.query.getlist(name)[0]
    fresh = type(request.query)(request.query.items())
    assert fresh == request.query
    for name, value in request.cookies.items():
        assert name == name.strip(" \t")
        assert isinstance(value, str)
    if "host" in request.headers:
        assert request.headers["host"] in request.url or not request.headers["host"]
    assert repr(request).isprintable()


def main():
    """Make the application and hand its door to libFuzzer."""
    loop = asyncio.new_event_loop()
    app = App()
    wrong = []

    @app.route("/{rest:path}", methods=["*"])
    def everything(request: Request, rest: str):
        try:
            look(request)
        except Exception as error:
            wrong.append(error)
        return b"ok"

    bench = Bench(app, loop, "fake")

    def check(data):
        link = bench.connect()
        link.protocol.data_received(compose(data))
        link.drop()
        if wrong:
            raise wrong[0]

    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
