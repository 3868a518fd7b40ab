"""proxy.py and networks.py: who is believed, about what; through the whole protocol."""

import pytest
from support import Bench, FakeLink, request

from fastserve import App
from fastserve.config import Config
from fastserve.networks import Networks
from fastserve.presets import PRESETS
from fastserve.proxy import MAX_HOPS, ForwardedFields

PROXY = "192.0.2.7"     # FakeTransport's peer
TRUSTED = f"{PROXY}, 10.0.0.0/8, 2001:db8::/32"


@pytest.fixture
def loop():
    import asyncio

    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def ask(loop):
    """ask(headers, **settings): what a request says of itself, from PROXY or `peer`."""
    app = App()

    @app.get("/{rest:path}")
    def told(request):
        client = request.client
        return [client.host, client.port, request.scheme, request.url]

    benches = []

    def ask_it(headers=(), peer=(PROXY, 4711), **settings):
        settings.setdefault("forwarded_allow_ips", TRUSTED)
        bench = Bench(app, loop, "fake", forwarded=ForwardedFields.from_config(Config(**settings)))
        benches.append(bench)
        link = FakeLink(bench)
        link.transport._extra["peername"] = peer
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        link.send(f"GET /x?y=1 HTTP/1.1\r\nHost: inside:8000\r\n{lines}\r\n".encode("latin-1"))
        reply = link.reply()
        assert reply.status == 200
        import json

        host, port, scheme, url = json.loads(reply.body)
        return (f"{host}:{port}" if port else host), scheme, url

    yield ask_it
    for bench in benches:
        bench.close()


DIRECT = (f"{PROXY}:4711", "http", "http://inside:8000/x?y=1")


@pytest.mark.parametrize(
    ("given", "client"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        (["203.0.113.9:99"], "203.0.113.9:99"),
        (["2001:dead::1"], "2001:dead::1"),
        (["[2001:dead::1]:99"], "2001:dead::1:99"),
        (["::ffff:203.0.113.9"], "203.0.113.9"),
        # what a client wrote itself stands to the left of what the proxy saw
        (["6.6.6.6, 203.0.113.9"], "203.0.113.9"),
        (["6.6.6.6", "203.0.113.9"], "203.0.113.9"),
        (["6.6.6.6,7.7.7.7 ,\t203.0.113.9 "], "203.0.113.9"),
        # through proxies that are trusted too
        (["203.0.113.9, 10.1.2.3"], "203.0.113.9"),
        (["6.6.6.6, 203.0.113.9, 2001:db8::5, 10.1.2.3:80"], "203.0.113.9"),
        (["10.1.2.3"], "10.1.2.3"),
        (["10.1.2.3, 10.1.2.4"], "10.1.2.3"),
        # what is no address ends the walk: the last one known is the client
        (["6.6.6.6, unknown, 10.1.2.3"], "10.1.2.3"),
        (["6.6.6.6, "], f"{PROXY}:4711"),
        ([","], f"{PROXY}:4711"),
        ([""], f"{PROXY}:4711"),
        (["6.6.6.6, unknown"], f"{PROXY}:4711"),
        (["203.0.113.9:65536"], f"{PROXY}:4711"),
        (["203.0.113.9:-1"], f"{PROXY}:4711"),
        (["203.0.113.09"], f"{PROXY}:4711"),
        (["203.0.113"], f"{PROXY}:4711"),
        (["203.0.113.9/8"], f"{PROXY}:4711"),
        (["2001:dead::1%eth0"], f"{PROXY}:4711"),
        (["[2001:dead::1"], f"{PROXY}:4711"),
        (["[203.0.113.9%]"], f"{PROXY}:4711"),
        (["localhost"], f"{PROXY}:4711"),
        (["\u00b2.1.1.1"], f"{PROXY}:4711"),
        (["1" * 4000], f"{PROXY}:4711"),
        (["," * 4000], f"{PROXY}:4711"),
    ],
)
def test_the_client_is_the_first_from_the_right_who_is_not_trusted(ask, given, client):
    """And never a word of the client's own, nor a 500."""
    assert ask([("X-Forwarded-For", value) for value in given])[0] == client


def test_a_chain_of_proxies_has_a_bound(ask):
    """Beyond it nobody looks."""
    hops = [f"10.0.{at // 256}.{at % 256}" for at in range(500)]
    client, _, _ = ask([("X-Forwarded-For", ",".join(["203.0.113.9", *hops]))])

    assert client == hops[-MAX_HOPS]


def test_a_stranger_is_not_believed(ask):
    """Whatever he sends; nor is anybody when nobody is named, which is the default."""
    lies = [
        ("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil"), ("X-Forwarded-Port", "1"),
        ("Forwarded", "for=203.0.113.9;proto=https;host=evil"), ("CF-Connecting-IP", "203.0.113.9"),
    ]
    assert ask(lies, forwarded_allow_ips="10.0.0.0/8") == DIRECT
    assert ask(lies, forwarded_allow_ips="") == DIRECT
    assert ask(lies, forwarded_allow_ips="unix") == DIRECT


def test_a_name_with_underscores_is_another_field_cve_2024_45614(ask):
    """CVE-2024-45614: X_Forwarded_For must not overwrite, or count as, the proxy's field."""
    assert ask([("X_Forwarded_For", "6.6.6.6"), ("X_FORWARDED_PROTO", "https")]) == DIRECT
    for lines in (
        [("X-Forwarded-For", "203.0.113.9"), ("X_Forwarded_For", "6.6.6.6")],
        [("X_Forwarded_For", "6.6.6.6"), ("X-Forwarded-For", "203.0.113.9")],
    ):
        assert ask(lines)[0] == "203.0.113.9"


@pytest.mark.parametrize(
    ("peer", "networks", "believed"),
    [
        ("", "unix", True), ("", "127.0.0.1", False), ("", "*", True), (PROXY, "*", True),
        (("::ffff:192.0.2.7", 1, 0, 0), PROXY, True),
        (("fe80::1%eth0", 1, 0, 2), "fe80::/10", True),
        (("2001:db8::1", 1, 0, 0), "2001:db8::/32", True), ((PROXY, 1), "192.0.2.8/32", False),
        ((PROXY, 1), "192.0.2.0/29", True), ((PROXY, 1), " 10.0.0.0/8 ,192.0.2.7 ", True),
    ],
)
def test_whom_to_trust_is_a_list_of_networks(ask, peer, networks, believed):
    """Of both families, mapped addresses as what they are, and unix sockets by that word."""
    peer = (peer, 1) if peer == PROXY else peer
    client, _, _ = ask([("X-Forwarded-For", "203.0.113.9")], peer, forwarded_allow_ips=networks)

    assert (client == "203.0.113.9") is believed


@pytest.mark.parametrize(
    "text", ["localhost", "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "unix:/x", "a,*"])
def test_what_is_no_network_is_refused(text):
    """With the way out."""
    with pytest.raises(ValueError, match="is no network|write 10.0.0.0/8 or 10.0.0.1"):
        Networks(text)


@pytest.mark.parametrize(
    ("given", "scheme"),
    [
        (["https"], "https"), (["HTTPS"], "https"), (["wss"], "https"), (["ws"], "http"),
        (["http"], "http"), (["gopher"], "http"), ([""], "http"), (["https "], "https"),
        (["https\t,http"], "http"), (["https", "http"], "http"), (["http, https"], "https"),
        (["javascript:alert(1)//"], "http"),
    ],
)
def test_the_scheme_is_what_the_proxy_wrote(ask, given, scheme):
    """The last of a list, since what is before it may be the client's; nonsense is nothing."""
    assert ask([("X-Forwarded-Proto", value) for value in given])[1] == scheme


def test_lists_are_read_side_by_side(ask):
    """The scheme that counts is that of the proxy that saw the client."""
    lines = [("X-Forwarded-For", "203.0.113.9, 10.1.2.3"), ("X-Forwarded-Proto", "https, http")]
    assert ask(lines)[1] == "https"
    assert ask([lines[0], ("X-Forwarded-Proto", "gopher, https, http")])[1] == "https"
    assert ask([lines[0], ("X-Forwarded-Proto", "https")])[1] == "https"


ALL = "x-forwarded-for,x-forwarded-proto,x-forwarded-host,x-forwarded-port"


@pytest.mark.parametrize(
    ("lines", "url"),
    [
        ([("Host", "shop.example")], "http://shop.example/x?y=1"),
        ([("Host", "shop.example:8443"), ("Port", "1")], "http://shop.example:8443/x?y=1"),
        ([("Host", "shop.example"), ("Port", "8443")], "http://shop.example:8443/x?y=1"),
        ([("Host", "[2001:db8::1]"), ("Port", "81")], "http://[2001:db8::1]:81/x?y=1"),
        ([("Host", "[2001:db8::1]:82"), ("Port", "81")], "http://[2001:db8::1]:82/x?y=1"),
        ([("Host", "a"), ("Port", "443"), ("Proto", "https")], "https://a/x?y=1"),
        ([("Host", "a"), ("Port", "80")], "http://a/x?y=1"),
        ([("Host", "evil, shop.example")], "http://shop.example/x?y=1"),
        ([("Port", "81")], "http://inside:8000/x?y=1"),
        ([("Host", "user@evil")], "http://inside:8000/x?y=1"),
        ([("Host", "evil/path")], "http://inside:8000/x?y=1"),
        ([("Host", "a b")], "http://inside:8000/x?y=1"),
        ([("Host", "a:b")], "http://inside:8000/x?y=1"),
        ([("Host", "")], "http://inside:8000/x?y=1"),
        ([("Host", "\u00e4")], "http://inside:8000/x?y=1"),
        ([("Host", "a" * 300)], "http://inside:8000/x?y=1"),
        ([("Host", "a"), ("Port", "0")], "http://a/x?y=1"),
        ([("Host", "a"), ("Port", "65536")], "http://a/x?y=1"),
        ([("Host", "a"), ("Port", "\u00b2")], "http://a/x?y=1"),
        ([("Host", "a"), ("Port", "+81")], "http://a/x?y=1"),
    ],
)
def test_the_url_is_the_one_that_the_client_used(ask, lines, url):
    """Host and port where they are believed and make sense."""
    lines = [(f"X-Forwarded-{name}", value) for name, value in lines]

    assert ask(lines, forwarded_headers=ALL)[2] == url
    assert "inside:8000" in ask(lines)[2]   # not believed by default


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["for=203.0.113.9;proto=https;host=shop.example"],
         ("203.0.113.9", "https", "https://shop.example/x?y=1")),
        (['For="[2001:dead::1]:99" ; Proto=http'],
         ("2001:dead::1:99", "http", "http://inside:8000/x?y=1")),
        (['for="203.0.113.9:99";by=_me'], ("203.0.113.9:99", "http", DIRECT[2])),
        (["for=6.6.6.6, for=203.0.113.9"], ("203.0.113.9", "http", DIRECT[2])),
        (["for=6.6.6.6", "for=203.0.113.9"], ("203.0.113.9", "http", DIRECT[2])),
        (["for=203.0.113.9;proto=https, for=10.1.2.3;proto=http"],
         ("203.0.113.9", "https", "https://inside:8000/x?y=1")),
        (["for=203.0.113.9, for=10.1.2.3;proto=https"],
         ("203.0.113.9", "https", "https://inside:8000/x?y=1")),
        (["for=6.6.6.6, for=unknown;proto=https"],
         (f"{PROXY}:4711", "https", "https://inside:8000/x?y=1")),
        (["for=6.6.6.6, for=_hidden"], DIRECT),
        (["for=6.6.6.6, proto=https"], (f"{PROXY}:4711", "https", "https://inside:8000/x?y=1")),
        (['host="a\\"b"'], DIRECT),
        (['for="203\\.0.113.9"'], ("203.0.113.9", "http", DIRECT[2])),
        (['for="6.6.6.6, for=203.0.113.9'], DIRECT),          # a quote that does not end
        (['for="6.6.6.6', "for=203.0.113.9"], ("203.0.113.9", "http", DIRECT[2])),
        (["for=203.0.113.9;for=6.6.6.6"], DIRECT),
        (["for=203.0.113.9:99"], DIRECT),                     # a colon needs quotes
        (["for = 203.0.113.9"], DIRECT),
        (["for=203.0.113.9 proto=https"], DIRECT),
        ([";;;"], DIRECT), ([""], DIRECT), (["="], DIRECT), (["for="], DIRECT),
        (["\u00e4=1"], DIRECT),
    ],
)
def test_the_field_of_rfc_7239(ask, given, expected):
    """Quoted or not, over several fields; what is malformed says nothing."""
    lines = [("Forwarded", value) for value in given]

    assert ask(lines, forwarded_headers="forwarded") == expected
    assert ask(lines) == DIRECT     # not believed by default


def test_reading_forwarded_is_linear():
    """No input makes it read again and again (advisories of this kind: CVE-2020-5236)."""
    import time

    reader = ForwardedFields(Networks("*"), ("forwarded",))

    class Headers:
        def __init__(self, value):
            self.value = value

        def getlist(self, name):
            return [self.value]

    pieces = (" ", "\t", ";", ",", "a", 'a="', '"', '\\"', "a=b;", "a=b,", 'a="\\a', "for=1.1.1.1,")
    for piece in pieces:
        begun = time.process_time()
        reader.read(Headers(piece * (200_000 // len(piece))))
        reader.read(Headers('a="' + piece * (200_000 // len(piece)) + "\x00"))
        assert time.process_time() - begun < 5     # quadratic would take hours


@pytest.mark.parametrize(
    ("given", "client"),
    [
        (["203.0.113.9"], "203.0.113.9"), (["2001:dead::1"], "2001:dead::1"),
        (["203.0.113.9", "6.6.6.6"], f"{PROXY}:4711"), (["6.6.6.6, 203.0.113.9"], f"{PROXY}:4711"),
        (["x"], f"{PROXY}:4711"), ([], f"{PROXY}:4711"),
    ],
)
def test_cloudflare_names_one_address(ask, given, client):
    """More than one, and it is not Cloudflare who speaks."""
    lines = [("CF-Connecting-IP", value) for value in given] + [("X-Forwarded-For", "6.6.6.6")]

    assert ask(lines, forwarded_headers="cf-connecting-ip,x-forwarded-proto")[0] == client


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_believes_its_proxy_and_nobody_else(ask, name):
    """From where its proxy connects, the fields that it writes; from elsewhere nothing."""
    config = Config.load({"behind": name})
    inside = {"nginx": "127.0.0.1", "haproxy": "127.0.0.1", "aws-alb": "10.0.3.4",
              "cloudflare": "173.245.48.5", "traefik": "172.17.0.2"}
    reader = ForwardedFields.from_config(config)
    if name == "aws-nlb":
        assert (reader, config.proxy_protocol) == (None, "required")
        return
    assert reader.trusts(inside[name])
    assert not reader.trusts("203.0.113.9")
    assert reader.trusts("") == ("unix" in config.forwarded_allow_ips)
    settings = {"forwarded_allow_ips": PROXY, "forwarded_headers": config.forwarded_headers}
    field = "CF-Connecting-IP" if name == "cloudflare" else "X-Forwarded-For"
    client, scheme, _ = ask([(field, "203.0.113.9"), ("X-Forwarded-Proto", "https")], **settings)
    assert (client, scheme) == ("203.0.113.9", "https")


def test_the_answer_is_kept_for_the_request_and_not_for_the_connection(loop):
    """Two requests of one connection may be two clients'; an absolute target is its own URL."""
    app = App()
    reader = ForwardedFields(Networks(PROXY), ("x-forwarded-for",))

    @app.get("/")
    def told(request):
        assert request.client is request.client
        return request.client.host, 200, {"x-url": request.url}

    bench = Bench(app, loop, "fake", forwarded=reader)
    link = FakeLink(bench)
    for client in ("203.0.113.1", "203.0.113.2"):
        link.send(request("/", X_Forwarded_For=client))
    link.send(request("/"))
    link.send(b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n")

    assert [reply.body for reply in link.replies()] == [
        b"203.0.113.1", b"203.0.113.2", b"192.0.2.7", b"192.0.2.7"]
    assert link.replies()[3].headers["x-url"] == "http://a/"
    bench.close()
