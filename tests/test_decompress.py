"""decompress.py: request bodies that were sent compressed, and those that are meant to burst."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from support import Bench, request, running_loop

from fastserve import App, HTTPError, Request, RouteError
from fastserve import decompress as room

brotli = pytest.importorskip("brotli", reason="the extra `compress` is not installed")
if sys.version_info >= (3, 14):
    from compression import zstd
else:
    zstd = pytest.importorskip("backports.zstd", reason="the extra `compress` is not installed")

COMPRESS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd.compress,
}
KINDS = ["fake", "socket", "reader", "loop"]
TEXT = json.dumps([{"id": i, "name": f"name {i}"} for i in range(500)]).encode()


def make_app():
    app = App()

    @app.post("/body")
    async def body(request: Request):
        content = await request.body()
        assert await request.body() is content
        return content

    @app.post("/json")
    async def decoded(request: Request):
        return len(await request.json())

    @app.post("/stream")
    async def stream(request: Request):
        return sum([len(piece) async for piece in request.stream()])

    @app.post("/form")
    async def form(request: Request):
        return [len(value) for value in (await request.form()).values()]

    @app.post("/off", decompress_requests=False)
    async def off(request: Request):
        return await request.body()

    return app


@pytest.fixture
def loop():
    with running_loop(asyncio.new_event_loop) as loop:
        yield loop


def post(target, body, coding, **headers):
    return request(target, method="POST", body=body, Content_Encoding=coding, **headers)


def ask(loop, data, pieces=None, app=None, **settings):
    """The reply to one request; `pieces` cuts it into reads of that many bytes."""
    settings.setdefault("decompress_requests", True)
    bench = Bench(app or make_app(), loop, "fake", **settings)
    link = bench.connect()
    try:
        link.trickle(data, pieces or len(data))
        bench.wait_for(lambda: link.received)
        return link.reply()
    finally:
        bench.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("coding", COMPRESS)
def test_a_compressed_body_is_decoded(loop, coding, kind):
    """By body(), json(), stream() and form(), on any transport, and the next request is seen."""
    bench = Bench(make_app(), loop, kind, decompress_requests=True)
    link = bench.connect()
    body = COMPRESS[coding](TEXT)
    fields = COMPRESS[coding](b"a=" + b"x" * 1000)
    link.send(
        post("/body", body, coding) + post("/json", body, coding) + post("/stream", body, coding)
        + post("/form", fields, coding, Content_Type="application/x-www-form-urlencoded")
        + request("/off", method="POST", body=b"plain"))
    bench.wait_for(lambda: link.received.endswith(b"plain"))

    assert [reply.body for reply in link.replies()] == [
        TEXT, b"500", b"%d" % len(TEXT), b"[1000]", b"plain"]
    bench.close()


@pytest.mark.parametrize("coding", COMPRESS)
def test_a_compressed_body_is_decoded_however_it_is_cut(loop, coding):
    """One byte at a time, chunked, and in two at every place."""
    text = TEXT[:3000]
    body = COMPRESS[coding](text)
    data = post("/body", body, coding)
    chunked = data[: -len(body)].replace(
        b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked"
    ) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)

    assert ask(loop, data, pieces=1).body == text
    assert ask(loop, chunked, pieces=1).body == text
    for cut in range(1, len(body)):
        decoder = room.Decoder(coding if coding != "x-gzip" else "gzip", 100)
        out = b""
        for piece in (body[:cut], body[cut:]):
            decoder.feed(piece)
            while more := decoder.read():
                out += more
        decoder.finish()
        assert out == text, cut


@pytest.mark.parametrize("coding", COMPRESS)
@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 131072, 1_000_000])
def test_a_body_of_any_size_is_decoded(loop, coding, size):
    """Also where the pieces fit exactly."""
    text = bytes(range(251)) * (size // 251 + 1)
    body = COMPRESS[coding](text[:size])
    assert ask(loop, post("/body", body, coding), max_decompression_ratio=9999).body == text[:size]


def test_what_is_off_is_passed_through(loop):
    """Without the setting, or on a route that says so, a body stays as it was sent."""
    body = gzip.compress(b"x" * 100)

    assert ask(loop, post("/body", body, "gzip"), decompress_requests=False).body == body
    assert ask(loop, post("/body", b"any", "exotic"), decompress_requests=False).body == b"any"
    assert ask(loop, post("/off", body, "gzip")).body == body


def test_a_route_may_ask_for_it_alone(loop):
    """decompress_requests=True on a route, with middleware around it."""
    app = App()

    @app.middleware
    async def around(request: Request, call_next):
        return await call_next(request)

    @app.post("/on", decompress_requests=True)
    async def on(request: Request):
        return await request.body()

    body = gzip.compress(b"x" * 100)
    reply = ask(loop, post("/on", body, "gzip"), app=app, decompress_requests=False)
    assert reply.body == b"x" * 100


def test_a_route_option_that_cannot_be_is_refused():
    """By name, when the route is added."""
    with pytest.raises(RouteError, match="decompress_requests='gzip': give True or False"):
        App().post("/", decompress_requests="gzip")


@pytest.mark.parametrize("coding", ["", "identity", "Identity, ,"])
def test_no_coding_is_no_coding(loop, coding):
    """`identity` is not a coding to undo."""
    for target in ("/body", "/stream"):
        assert ask(loop, post(target, b"abc", coding)).body in (b"abc", b"3")
        assert ask(loop, post(target, b"abc", coding), pieces=30).body in (b"abc", b"3")


@pytest.mark.parametrize(
    "coding", ["compress", "gzip, br", "br,br", "gzip, gzip", "aes128gcm", "gzip;q=1", "\"gzip\""])
@pytest.mark.parametrize("target", ["/body", "/json", "/stream", "/form"])
def test_a_coding_that_is_not_known_is_415(loop, coding, target):
    """And more than one is too; the answer says what would do (RFC 9110 section 15.5.16)."""
    reply = ask(loop, post(target, b"abc", coding,
                           Content_Type="application/x-www-form-urlencoded"))

    assert reply.status == 415
    assert reply.headers["accept-encoding"] == "gzip, deflate, br, zstd"


def test_two_fields_of_codings_are_two_codings(loop):
    """They are one list (RFC 9110 section 5.3)."""
    data = post("/body", b"abc", "gzip").replace(
        b"Content-Encoding: gzip", b"Content-Encoding: gzip\r\nContent-Encoding: br")
    assert ask(loop, data).status == 415


def test_without_the_extra_there_are_gzip_and_deflate(loop, monkeypatch):
    """br and zstd are a 415 then, which says so."""
    for name in ("brotli", "backports.zstd", "compression.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    room.codings.cache_clear()
    try:
        reply = ask(loop, post("/body", b"abc", "br"))
        assert (reply.status, reply.headers["accept-encoding"]) == (415, "gzip, deflate")
        assert ask(loop, post("/body", gzip.compress(b"abc"), "gzip")).body == b"abc"
    finally:
        room.codings.cache_clear()


@pytest.mark.parametrize("coding", COMPRESS)
def test_a_body_that_is_cut_or_goes_on_is_400(loop, coding):
    """Truncated anywhere, garbage before or behind, a wrong checksum: at once and by bytes."""
    body = COMPRESS[coding](TEXT[:500])
    broken = [body[:-1], body[: len(body) // 2], body[:1], body + b"\0", body + b"x" * 100,
              b"x" + body, TEXT[:100]]
    if coding in ("gzip", "deflate"):
        broken.append(body[:-2] + bytes([body[-2] ^ 1]) + body[-1:])
    for at, bad in enumerate(broken):
        for target in ("/body", "/stream"):
            for pieces in (None, 1):
                reply = ask(loop, post(target, bad, coding), pieces)
                assert reply.status == 400, (at, target, pieces)
                assert b"body" in reply.body


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_several_members_are_one_body(loop, coding):
    """As `cat a.gz b.gz` makes them, and some tools do for every block."""
    body = b"".join(COMPRESS[coding](bytes([65 + i]) * 1000) for i in range(16))
    expected = b"".join(bytes([65 + i]) * 1000 for i in range(16))

    for pieces in (None, 1, 7):
        assert ask(loop, post("/body", body, coding), pieces).body == expected


def decode(coding, pieces):
    """What a Decoder makes of these pieces, in a bounded number of steps."""
    decoder = room.Decoder(coding, 10_000)
    out = []
    for piece in pieces:
        decoder.feed(piece)
        while more := decoder.read():
            out.append(more)
            assert len(out) < 10_000
    decoder.finish()
    return b"".join(out)


def bounded(coding):
    """A begin() of frames that fail when they are asked more often than any body needs."""
    begin = room.codings()[coding]

    def begin_bounded():
        frame = begin()
        inner, left = frame.decode, [10_000]

        def step(data):
            left[0] -= 1
            assert left[0], "the decoder spins"
            return inner(data)

        frame.decode = step
        return frame

    return begin_bounded


@pytest.fixture
def no_spinning(monkeypatch):
    """A decoder that makes no progress fails instead of running for ever."""
    frames = {coding: bounded(coding) for coding in room.codings()}
    monkeypatch.setattr(room, "codings", lambda: frames)


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_member_behind_a_large_one_is_decoded(no_spinning, coding):
    """Also when the large one's last piece was cut at the limit of the output."""
    body = COMPRESS[coding](b"x" * 200_000) + COMPRESS[coding](b"y")

    assert decode(coding, [body]) == b"x" * 200_000 + b"y"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_junk_behind_a_large_body_is_400(no_spinning, coding):
    """Also when the body's last piece was cut at the limit of the output."""
    for junk in (b"\0", b"junk" * 10, b"j" * 40_000):
        with pytest.raises(HTTPError) as caught:
            decode(coding, [COMPRESS[coding](b"x" * 200_000) + junk])
        assert caught.value.status == 400, junk[:10]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("seed", range(25))
def test_decoding_ends_whatever_the_sizes_and_cuts(no_spinning, coding, seed):
    """Members of sizes around the limits, cut anywhere, with junk behind or not."""
    draw = random.Random(seed)
    edges = (0, 1, 100, room.INPUT_BYTES, room.OUTPUT_BYTES, 2 * room.OUTPUT_BYTES, 200_000)
    count = draw.randrange(1, 5) if coding in room.CONCATENATED else 1
    texts = []
    for _ in range(count):
        size = max(0, draw.choice(edges) + draw.randrange(-2, 3))
        texts.append(draw.choice((b"x" * size, draw.randbytes(size))))
    junk = draw.choice((b"", b"", b"\0", b"junk" * 20))
    body = b"".join(COMPRESS[coding](text) for text in texts) + junk
    cuts = sorted(draw.randrange(len(body) + 1) for _ in range(draw.randrange(4)))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]

    if junk:
        with pytest.raises(HTTPError):
            decode(coding, pieces)
    else:
        assert decode(coding, pieces) == b"".join(texts)


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_body_of_many_small_members_is_400(loop, coding):
    """Each costs something to begin, and brings nothing."""
    body = COMPRESS[coding](b"") * 1000
    for pieces in (None, 7):
        reply = ask(loop, post("/body", body, coding), pieces)
        assert (reply.status, reply.body) == (
            400, f"the {coding} body is in too many pieces".encode())


@pytest.mark.parametrize("coding", ["deflate", "br"])
def test_what_cannot_be_concatenated_is_400(loop, coding):
    """A second stream is garbage behind the first."""
    body = COMPRESS[coding](b"abc") * 2
    for pieces in (None, 1):
        assert ask(loop, post("/body", body, coding), pieces).status == 400


@pytest.mark.parametrize("coding", COMPRESS)
def test_the_body_limit_is_of_what_comes_out(loop, coding):
    """413 at the limit; what is at it is read."""
    body = COMPRESS[coding](b"x" * 10_000)
    for target in ("/body", "/json", "/form"):
        for pieces in (None, 1):
            reply = ask(loop, post(
                target, body, coding, Content_Type="application/x-www-form-urlencoded"),
                pieces, max_body_bytes=9_999)
            assert (reply.status, reply.body) == (413, b"the body is larger than 9999 bytes")
    assert ask(loop, post("/body", body, coding), max_body_bytes=10_000).status == 200


@pytest.mark.parametrize("coding", COMPRESS)
def test_a_body_that_grows_too_much_is_413(loop, coding):
    """The ratio holds where a stream has no limit of its own."""
    body = COMPRESS[coding](b"\0" * 20_000_000)
    for pieces in (None, 1000):
        reply = ask(loop, post("/stream", body, coding), pieces)
        assert (reply.status, reply.body) == (
            413, b"the body decodes to more than 100 times its size")
    reply = ask(loop, post("/stream", body, coding), max_decompression_ratio=10_000)
    expected = 413 if len(body) < 2000 else 200
    assert reply.status == expected


@pytest.mark.parametrize("window_log", range(10, 25))
def test_a_brotli_window_is_bounded(loop, window_log):
    """Its size stands in the first byte; more than 4 MiB is a 413."""
    body = brotli.compress(TEXT * 100, lgwin=window_log, quality=5)
    assert room._brotli_window_log(body[0]) == window_log

    reply = ask(loop, post("/body", body, "br"), max_body_bytes=1 << 24,
                max_decompression_ratio=10_000)
    assert reply.status == (200 if window_log <= 22 else 413)


def test_a_zstd_window_is_bounded(loop):
    """RFC 9659: 8 MiB, whatever the frame says."""
    parameter = zstd.CompressionParameter
    for window_log, status in ((23, 200), (24, 400)):
        compressor = zstd.ZstdCompressor(
            options={parameter.window_log: window_log, parameter.compression_level: 1})
        body = compressor.compress(TEXT) + compressor.flush()
        assert ask(loop, post("/body", body, "zstd")).status == status


def test_decoding_lets_others_have_the_loop(loop):
    """A body that is at hand and decodes to much does not hold the loop until it is done."""
    app = make_app()
    bench = Bench(app, loop, "fake", decompress_requests=True, max_decompression_ratio=10_000)
    link = bench.connect()
    turns = []

    def count():
        if not link.received:
            turns.append(None)
            loop.call_soon(count)

    loop.call_soon(count)
    link.send(post("/stream", gzip.compress(b"\0" * 32_000_000), "gzip"))
    bench.wait_for(lambda: link.received)

    assert link.reply().body == b"32000000"
    assert len(turns) > 16
    bench.close()


BOMB = """
import asyncio, sys
sys.path.insert(0, {tests!r})
from support import Bench, request
from fastserve import App, Request
from fastserve.decompress import codings
codings()

app = App()

@app.post("/body", max_body_bytes={limit})
async def body(request: Request):
    return len(await request.body())

@app.post("/stream")
async def stream(request: Request):
    return sum([len(piece) async for piece in request.stream()])

def peak():
    # Of this program alone: ru_maxrss begins with that of the process it was forked from.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

loop = asyncio.new_event_loop()
bench = Bench(app, loop, "fake", decompress_requests=True, max_decompression_ratio={ratio})

def ask(data):
    link = bench.connect()
    link.send(data)
    bench.wait_for(lambda: link.received)
    return link.reply().status

with open({bomb!r}, "rb") as file:
    data = request({target!r}, method="POST", body=file.read(), Content_Encoding={coding!r})
ask(request({target!r}, method="POST", body=b"x", Content_Encoding={coding!r}))
before = peak()
status = ask(data)
print(status, peak() - before)
"""


def bomb_of(coding, size):
    """A gigabyte of zeros, in little memory; the checksum is wrong, nobody comes that far."""
    block = b"\0" * (1 << 20)
    if coding == "br":
        compressor = brotli.Compressor(quality=1)
        pieces = [compressor.process(block) for _ in range(size >> 20)]
        return b"".join(pieces) + compressor.finish()
    if coding == "zstd":
        compressor = zstd.ZstdCompressor()
        pieces = [compressor.compress(block) for _ in range(size >> 20)]
        return b"".join(pieces) + compressor.flush()
    # A full flush forgets what came before: every block becomes the same bytes.
    compressor = zlib.compressobj(6, zlib.DEFLATED, 31 if coding == "gzip" else 15)
    head = compressor.compress(block) + compressor.flush(zlib.Z_FULL_FLUSH)
    again = compressor.compress(block) + compressor.flush(zlib.Z_FULL_FLUSH)
    return head + again * ((size >> 20) - 1) + compressor.flush()


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_bomb_stops_at_the_limit(tmp_path, coding):
    """1 GB stops with the memory of the limit and 4 MB, by its size or by its ratio.

    The limit is small for zstd, which keeps a window as large as what came out; br fills its
    window of 4 MiB first.
    """
    window = 4 * 1024 * 1024 if coding == "br" else 0
    bomb = tmp_path / "bomb"
    bomb.write_bytes(bomb_of(coding, 1 << 30))
    limit = (8 if coding in ("gzip", "deflate") else 1) * 1024 * 1024
    for target, ratio in (("/body", 10_000), ("/body", 100), ("/stream", 100)):
        code = BOMB.format(tests=str(Path(__file__).parent), limit=limit, ratio=ratio,
                           coding=coding, bomb=str(bomb), target=target)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                              check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        status, grown = map(int, done.stdout.split())
        assert status == 413
        assert grown * 1024 <= (
            limit if target == "/body" else 0) + window + 4 * 1024 * 1024
