"""The PROXY protocol: headers as data, however they arrive; and read from real sockets."""

import asyncio
import contextlib
import logging
import socket

import pytest
import uvloop
from support import Bench, SocketLink, running_loop
from wire_cases import WIRE, encode, flatten, splits, tomllib
from worker_thread import serve_in_thread

from fastserve import App
from fastserve.config import Config
from fastserve.entrance import Entrance, Opening
from fastserve.proxy_protocol import V2_START, NoHeader, Source, crc32c, measure, parse

BEHIND = b"GET /who HTTP/1.1\r\nHost: a\r\n\r\n"
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n"


def v2_of(items):
    """The bytes of a `v2` list."""
    parts = [flatten(item).replace(" ", "") for item in items]
    rest = parts[3] if len(parts) == 4 else "".join(parts[2:])
    length = parts[2] if len(parts) == 4 else f"{len(rest.replace('CRC', '00000000')) // 2:04x}"
    whole = parts[0] + parts[1] + length + rest
    zeroed = V2_START + bytes.fromhex(whole.replace("CRC", "00000000"))
    return V2_START + bytes.fromhex(whole.replace("CRC", f"{crc32c(zeroed):08x}"))


def cases():
    for table in tomllib.loads((WIRE / "proxy.toml").read_text())["case"]:
        for variant in table.get("variants", [""]):
            put = flatten(variant)
            if "v2" in table:
                data = v2_of([flatten(item).replace("@", put) for item in table["v2"]])
            else:
                data = encode(flatten(table["input"]).replace("@", put))
            yield pytest.param(table, data, id=f"{table['name']}-{put[:30]!r}")


class Pieces:
    """A socket that has received what it was fed."""

    def __init__(self):
        self.data = b""

    def recv(self, size, flags=0):
        if not self.data:
            raise BlockingIOError
        taken = self.data[:size]
        if not flags & socket.MSG_PEEK:
            self.data = self.data[size:]
        return taken


def verdict(pieces):
    """What comes of a header that arrives in these pieces, and what is left of them."""
    sock = Pieces()
    opening = Opening(None, sock, None)
    source, left = None, list(pieces)
    while left:
        sock.data += left.pop(0)
        try:
            source = opening.read_header()
        except (NoHeader, EOFError):
            return "refused", b""
        if source is not None:
            break
        assert sock.data == b"", "what is peeked at and not taken is told of again and again"
    return source, sock.data + b"".join(left)


@pytest.mark.parametrize(("table", "data"), list(cases()))
def test_a_header_means_the_same_however_it_arrives(table, data):
    """Whole, byte by byte and cut anywhere; and what is behind it stays, to the byte."""
    if table.get("refused"):
        expected = "refused"
    elif table.get("incomplete"):
        expected = None
    elif table.get("nobody"):
        expected = Source()
    else:
        expected = Source(tuple(table["peer"]), table.get("encrypted", False))

    for pieces in splits(data):
        assert verdict(pieces) == (expected, b""), pieces
    if isinstance(expected, Source):
        assert verdict([data + BEHIND]) == (expected, BEHIND)
        assert verdict([data[:-1], data[-1:] + BEHIND]) == (expected, BEHIND)


def test_the_checksum_is_that_of_castagnoli():
    """The check value of the CRC catalogue."""
    assert crc32c(b"123456789") == 0xE3069283


def test_every_bit_of_a_header_counts_under_a_checksum():
    """One flipped bit and it is refused; but for those that say that there is a checksum."""
    good = v2_of(["21", "11", "c0000207 c6336401 1267 01bb 03 0004 CRC"])
    told = parse(good).peer
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(NoHeader):
            if measure(bytes(bad)) == (len(bad), True):
                assert parse(bytes(bad)).peer == told
                assert bit // 8 == good.index(b"\x03\x00\x04")


# --- real sockets ------------------------------------------------------------------------


def who_app():
    app = App()

    @app.get("/who")
    def who(request):
        return [request.client.host, request.client.port, request.scheme]

    return app


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request):
    with running_loop(request.param) as made:
        yield made


@pytest.fixture
def bench(loop):
    """bench(**settings): a Bench whose connections come through an Entrance."""
    made = []

    def make(**settings):
        settings.setdefault("proxy_allow_ips", "127.0.0.1")
        bench = Bench(who_app(), loop, "fake")
        bench.entrance = Entrance(loop, bench.engine, Config(**settings), None)
        bench.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        bench.listener.setblocking(False)
        bench.address = bench.listener.getsockname()
        bench.engine.listen_for(bench.listener, bench.entrance.accept)
        made.append(bench)
        return bench

    yield make
    for bench in made:
        bench.entrance.close()
        bench.close()


@pytest.mark.parametrize("header", [V1, v2_of(["21", "11", "c0000207 c6336401 1267 01bb"])])
@pytest.mark.parametrize("how", ["whole", "bytewise", "cut"])
def test_a_request_behind_a_header_has_the_address_that_it_tells(bench, header, how):
    """In one segment with the request, byte by byte, and cut in the middle."""
    served = bench(proxy_protocol="required")
    data = header + BEHIND
    pieces = {
        "whole": [data],
        "bytewise": [data[at:at + 1] for at in range(len(data))],
        "cut": [data[:20], data[20:]],
    }[how]
    link = SocketLink(served)
    link.send(*pieces)

    assert link.reply().body == b'["192.0.2.7",4711,"http"]'
    link.send(BEHIND)
    assert len(link.replies()) == 2
    assert not served.engine.opening


def test_a_header_that_names_nobody_leaves_the_peer(bench):
    """LOCAL is the proxy itself; a health check of it is served."""
    link = SocketLink(bench(proxy_protocol="required"))
    link.send(v2_of(["20", "00"]) + BEHIND)

    host, port = link.socket.getsockname()
    assert link.reply().body == f'["{host}",{port},"http"]'.encode()


def test_a_header_may_tell_of_tls(bench):
    """request.scheme is what the client spoke to the proxy."""
    link = SocketLink(bench(proxy_protocol="required"))
    link.send(v2_of(["21", "11", "c0000207 c6336401 1267 01bb 20 0005 01 00000000"]) + BEHIND)

    assert link.reply().body == b'["192.0.2.7",4711,"https"]'


@pytest.mark.parametrize(
    "sent", [BEHIND, b"PROXY TCP4 x\r\n" + BEHIND, V2_START + b"\xff" * 4, b"\x16\x03\x01"])
def test_who_must_send_a_header_and_does_not_is_closed(bench, sent):
    """Without a word, and without a request reaching the application."""
    served = bench(proxy_protocol="required")
    link = SocketLink(served)
    link.send(sent)

    served.wait_for(lambda: link.closed)
    assert link.received == b""
    assert (served.engine.requests_total, served.entrance.waiting) == (0, {})


def test_other_peers_are_closed_where_a_header_is_required(bench):
    """A stranger who knows the port cannot say who he is."""
    served = bench(proxy_protocol="required", proxy_allow_ips="10.0.0.0/8, unix")
    link = SocketLink(served)
    served.wait_for(lambda: link.closed)

    assert served.engine.requests_total == 0


def test_a_header_may_be_optional(bench):
    """From an allowed peer both ways are served; PUT and an empty line begin like headers."""
    served = bench(proxy_protocol="optional")
    for sent, expected in [
        ([V1 + BEHIND], b'["192.0.2.7",4711,"http"]'),
        ([BEHIND], b'"http"]'),
        ([b"\r", b"\n", BEHIND], b'"http"]'),
        ([b"P", b"R", b"OPFIND /who HTTP/1.1\r\nHost: a\r\n\r\n"], b"Method Not Allowed"),
    ]:
        link = SocketLink(served)
        link.send(*sent)
        assert link.reply().body.endswith(expected), sent
        assert (b"192.0.2.7" in link.received) == (V1 in sent[0])


def test_an_optional_header_of_a_stranger_is_a_bad_request(bench):
    """It is never read as a header, so nobody is impersonated."""
    served = bench(proxy_protocol="optional", proxy_allow_ips="10.0.0.0/8")
    for header in (V1, v2_of(["21", "11", "c0000207 c6336401 1267 01bb"])):
        link = SocketLink(served)
        link.send(header + BEHIND)
        assert link.reply().status == 400


def test_a_header_that_does_not_come_ends_at_the_deadline(bench):
    """A connection that says nothing, and one that stops in the middle."""
    served = bench(proxy_protocol="required", handshake_timeout_s=0.2)
    links = [SocketLink(served), SocketLink(served)]
    links[1].send(V1[:10])
    assert not links[0].closed
    served.loop.run_until_complete(asyncio.sleep(0.3))

    served.wait_for(lambda: all(link.closed for link in links))
    assert not served.engine.opening


def test_the_oldest_gives_way_when_too_many_wait(bench):
    """Those who wait on purpose lose to those who come."""
    served = bench(proxy_protocol="required", max_handshakes=3)
    links = [SocketLink(served) for _ in range(5)]

    served.wait_for(lambda: links[1].closed)
    assert [link.closed for link in links] == [True, True, False, False, False]
    for link in links[2:]:
        link.send(V1 + BEHIND)
        assert link.reply().status == 200


def test_a_reset_in_the_middle_is_nothing(bench, caplog):
    """The connection is forgotten; at most a debug line is written."""
    served = bench(proxy_protocol="required")
    for sent in (b"", V1[:9]):
        link = SocketLink(served)
        link.send(sent)
        link.drop()
    served.wait_for(lambda: not served.engine.opening)

    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


def test_a_flood_of_bad_headers_is_a_few_lines_a_second(bench, caplog):
    """Logging is no way to fill a disk from afar."""
    caplog.set_level(logging.DEBUG, "fastserve")
    served = bench(proxy_protocol="required")
    served.entrance._second = float("inf")  # a second that does not end
    for _ in range(30):
        link = SocketLink(served)
        link.send(b"nonsense")
        served.wait_for(lambda link=link: link.closed)
        link.socket.close()
        served.links.remove(link)

    lines = [record for record in caplog.records if "did not open" in record.getMessage()]
    assert len(lines) == 10


def test_nothing_is_left_of_a_stopped_entrance(bench):
    """Who has not come through when the server stops is closed."""
    served = bench(proxy_protocol="required")
    link = SocketLink(served)
    served.entrance.close()

    served.wait_for(lambda: link.closed)
    assert not served.engine.opening


def test_a_server_that_stops_closes_who_still_owes_a_header():
    """A worker waits for none of them, and leaves no descriptor behind."""
    settings = {"proxy_protocol": "required", "proxy_allow_ips": "127.0.0.1"}
    with serve_in_thread(who_app(), **settings) as served:
        client = socket.create_connection(("127.0.0.1", served.port), 20)
        client.sendall(b"PROXY ")
        with socket.create_connection(("127.0.0.1", served.port), 20) as other:
            other.sendall(V1 + BEHIND)
            assert b"192.0.2.7" in other.recv(65536)
    assert client.recv(1) == b""
    client.close()
