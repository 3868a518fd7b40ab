"""tls.py: what is spoken, what is refused, and what a mistake is told; by real handshakes."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import trustme
from server_process import serve_in_process
from server_process import wait_for as wait_for_log
from worker_thread import serve_in_thread, wait_for

from fastserve import App
from fastserve.config import Config
from fastserve.errors import ConfigError
from fastserve.tls import Certificates, bad_names_unreported


class Files:
    """An authority and certificates of it, as files."""

    def __init__(self, directory):
        self.directory = directory
        self.ca = trustme.CA()
        self.cafile = str(directory / "ca.pem")
        self.ca.cert_pem.write_to_path(self.cafile)
        self.cert, self.key = self.issue("server", "localhost", "127.0.0.1")

    def issue(self, stem, *names, ca=None):
        """Write a certificate for these names; the paths of it and of its key."""
        made = (ca or self.ca).issue_cert(*names)
        cert, key = self.directory / f"{stem}.pem", self.directory / f"{stem}.key"
        made.private_key_pem.write_to_path(str(key))
        chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
        cert.write_bytes(chain)
        return str(cert), str(key)

    def settings(self, **more):
        return {"ssl_certfile": self.cert, "ssl_keyfile": self.key, **more}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def own_files(tmp_path):
    """Certificates that a test may change."""
    return Files(tmp_path)


@pytest.fixture(params=["uvloop", "asyncio"])
def loop_name(request):
    return request.param


def app():
    made = App()

    @made.get("/")
    def home(request):
        cert = request.client_cert
        spoken = request.ssl_object
        return {
            "scheme": request.scheme, "url": request.url, "client": request.client.host,
            "subject": cert and dict(pair[0] for pair in cert["subject"]).get("commonName"),
            "version": spoken and spoken.version(),
        }

    @made.post("/echo")
    async def echo(request):
        return await request.body()

    @made.get("/large")
    def large():
        return b"x" * 3_000_000

    @made.get("/slow")
    async def slow():
        await asyncio.sleep(0.3)
        return "slow"

    return made


def client_context(files, **options):
    context = ssl.create_default_context(cafile=files.cafile)
    for name, value in options.items():
        setattr(context, name, value)
    return context


def connect(served, files, name="localhost", context=None):
    """A TLS connection to a server."""
    sock = socket.create_connection(("127.0.0.1", served.port), 20)
    try:
        return (context or client_context(files)).wrap_socket(sock, server_hostname=name)
    except BaseException:
        sock.close()
        raise


def ask(connection, target="/", method="GET", body=b"", close=False):
    """Send one request and read its answer: status and body."""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    ends = "Connection: close\r\n" if close else ""
    connection.sendall(
        f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n{length}{ends}\r\n".encode() + body)
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536) or pytest.fail(f"it ended behind {data!r}")
    head, _, rest = data.partition(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(rest) < size:
        rest += connection.recv(65536) or pytest.fail(f"it ended after {len(rest)} bytes")
    return int(head.split()[1]), rest


def names_of(connection):
    return {value for kind, value in connection.getpeercert()["subjectAltName"]}


# --- what is spoken ----------------------------------------------------------------------


def test_requests_and_large_bodies_pass(files, loop_name):
    """Both ways, over one connection; the request knows that it is encrypted."""
    with (
        serve_in_thread(app(), loop=loop_name, **files.settings()) as served,
        connect(served, files) as connection,
    ):
        status, body = ask(connection)
        assert status == 200
        assert b'"scheme":"https","url":"https://localhost/"' in body
        assert b'"subject":null,"version":"TLSv1.3"' in body
        assert ask(connection, "/echo", "POST", b"y" * 300_000) == (200, b"y" * 300_000)
        assert ask(connection, "/large", close=True) == (200, b"x" * 3_000_000)
        assert connection.recv(1) == b""    # with a close_notify: else this would raise


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_versions_and_ciphers_are_modern(files, version):
    """TLS 1.2 and 1.3, forward secret and authenticated, http/1.1 by ALPN, no compression."""
    context = client_context(
        files, minimum_version=ssl.TLSVersion[version], maximum_version=ssl.TLSVersion[version])
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        serve_in_thread(app(), **files.settings()) as served,
        connect(served, files, context=context) as connection,
    ):
        assert connection.version() == version.replace("_", ".")
        assert connection.selected_alpn_protocol() == "http/1.1"
        assert connection.compression() is None
        name = connection.cipher()[0]
        assert name.startswith(("ECDHE-", "TLS_")), name
        assert ask(connection)[0] == 200


def test_old_versions_and_weak_ciphers_are_refused(files):
    """TLS 1.1, and every cipher of TLS 1.2 without forward secrecy or with CBC."""
    old = client_context(files, maximum_version=ssl.TLSVersion.TLSv1_2)
    with pytest.warns(DeprecationWarning, match="TLSv1 is deprecated"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    weak = client_context(files, maximum_version=ssl.TLSVersion.TLSv1_2)
    weak.set_ciphers("AES128-GCM-SHA256:ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA:AES128-SHA")
    with serve_in_thread(app(), **files.settings()) as served:
        for context in (old, weak):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                connect(served, files, context=context)
    only_new = client_context(files, maximum_version=ssl.TLSVersion.TLSv1_2)
    with (
        serve_in_thread(app(), **files.settings(ssl_min_version="TLSv1.3")) as served,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        connect(served, files, context=only_new)


def test_ciphers_can_be_chosen(files):
    """As OpenSSL names them."""
    context = client_context(files, maximum_version=ssl.TLSVersion.TLSv1_2)
    chosen = "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
    settings = files.settings(ssl_ciphers=chosen)
    with (
        serve_in_thread(app(), **settings) as served,
        connect(served, files, context=context) as connection,
    ):
        assert "CHACHA20" in connection.cipher()[0]


def test_clients_cannot_renegotiate(files, needs):
    """It is a way to make a server work for nothing (CVE-2011-1473); s_client asks by R."""
    with serve_in_thread(app(), **files.settings()) as served:
        done = subprocess.run(
            [needs("openssl"), "s_client", "-connect", f"127.0.0.1:{served.port}", "-tls1_2",
             "-legacy_renegotiation"],
            input=b"R\n", capture_output=True, timeout=20, check=False)
        with connect(served, files) as connection:
            assert ask(connection)[0] == 200

    assert b"RENEGOTIATING" in done.stdout + done.stderr
    assert b"no renegotiation" in done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments", [["--tlsv1.2", "--tls-max", "1.2"], ["--tlsv1.3"], ["--http1.0"]])
def test_curl_is_served(files, needs, loop_name, arguments):
    """With the certificate verified."""
    with serve_in_thread(app(), loop=loop_name, **files.settings()) as served:
        done = subprocess.run(
            [needs("curl"), "-sS", "--cacert", files.cafile, *arguments,
             "--data-binary", "some bytes", f"https://localhost:{served.port}/echo"],
            capture_output=True, timeout=20, check=False)

    assert (done.stdout, done.stderr) == (b"some bytes", b"")


# --- certificates by host name -----------------------------------------------------------


def test_a_certificate_is_chosen_by_the_name_that_is_asked_for(files, loop_name):
    """Exactly, by a wildcard for one label, without case; else the default one."""
    shop = files.issue("shop", "shop.example")
    wild = files.issue("wild", "*.example.org")
    settings = files.settings(ssl_sni=[
        f"shop.example={shop[0]}:{shop[1]}", f"*.example.org={wild[0]}:{wild[1]}"])
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.load_verify_locations(files.cafile)
    anybody.check_hostname = False
    with serve_in_thread(app(), loop=loop_name, **settings) as served:
        for name, expected in [
            ("shop.example", "shop.example"), ("SHOP.example", "shop.example"),
            ("a.example.org", "*.example.org"), ("a.b.example.org", "localhost"),
            ("example.org", "localhost"), ("elsewhere.example", "localhost"), (None, "localhost"),
        ]:
            with connect(served, files, name, anybody) as connection:
                assert expected in names_of(connection), name
                assert ask(connection)[0] == 200


# --- client certificates -----------------------------------------------------------------


def client_with(files, stem, ca=None):
    cert, key = files.issue(stem, f"{stem}@example.org", ca=ca)
    context = client_context(files)
    context.load_cert_chain(cert, key)
    return context


def test_client_certificates_may_be_asked_for(files, loop_name):
    """request.client_cert is the verified one, None for a client without."""
    settings = files.settings(ssl_ca_certs=files.cafile, ssl_cert_reqs="optional")
    made = App()

    @made.get("/")
    def who(request):
        found = request.client_cert
        return None if found is None else [list(pair) for pair in found["subjectAltName"]]

    with serve_in_thread(made, loop=loop_name, **settings) as served:
        with connect(served, files, context=client_with(files, "alice")) as connection:
            assert ask(connection) == (200, b'[["email","alice@example.org"]]')
        with connect(served, files) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 204")
        stranger = client_with(files, "mallory", ca=trustme.CA())
        assert answer_to(served, files, context=stranger) == b""


def answer_to(served, files, name="localhost", context=None):
    """What a client is answered; b"" for none. In TLS 1.3 its own handshake may succeed."""
    try:
        with connect(served, files, name, context) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            return connection.recv(100)
    except (ssl.SSLError, ConnectionError):
        return b""


def test_client_certificates_may_be_required(files, loop_name):
    """Without one no request is read, for every certificate that names can choose."""
    shop = files.issue("shop2", "shop.example")
    settings = files.settings(
        ssl_ca_certs=files.cafile, ssl_cert_reqs="required",
        ssl_sni=f"shop.example={shop[0]}:{shop[1]}")
    with serve_in_thread(app(), loop=loop_name, **settings) as served:
        for name in ("localhost", "shop.example"):
            with connect(served, files, name, client_with(files, "bob")) as connection:
                assert ask(connection)[0] == 200
            assert answer_to(served, files, name) == b""


# --- reload ------------------------------------------------------------------------------


def serial_of(connection):
    return connection.getpeercert()["serialNumber"]


def test_new_certificates_are_taken_up_while_connections_go_on(own_files, loop_name, caplog):
    """By their files alone; who is connected stays, who comes gets the new one."""
    caplog.set_level(logging.INFO, "fastserve")
    files = own_files
    with (
        serve_in_thread(app(), loop=loop_name, **files.settings()) as served,
        connect(served, files) as old,
    ):
        before = serial_of(old)
        files.issue("server", "localhost", "127.0.0.1")
        wait_for(lambda: "reloaded the certificates" in caplog.text)
        assert ask(old)[0] == 200
        with connect(served, files) as new:
            assert serial_of(new) != before
            assert ask(new)[0] == 200
        assert ask(old)[0] == 200


def test_certificates_that_do_not_load_leave_the_old_ones(own_files, caplog):
    """One line in the log however long it lasts, and the next good ones are taken."""
    files = own_files
    certificates = Certificates(Config(**files.settings()))
    first = certificates.context
    with open(files.cert, "w") as broken:
        broken.write("nonsense")
    for _ in range(5):
        certificates.check()

    assert certificates.context is first
    assert caplog.text.count("the old ones stay") == 1
    assert "holds no certificate" in caplog.text or "are no certificate and key" in caplog.text
    os.unlink(files.key)
    for _ in range(5):
        certificates.check()
    assert caplog.text.count("the old ones stay") == 2
    files.issue("server", "localhost")
    for _ in range(3):
        certificates.check()
    assert certificates.context is not first
    second = certificates.context
    for _ in range(3):
        certificates.check()
    assert certificates.context is second


def test_files_that_are_being_written_are_left_alone(own_files, caplog):
    """They are read when they have not changed from one look to the next."""
    files = own_files
    certificates = Certificates(Config(**files.settings()))
    first = certificates.context
    for size in range(1, 5):
        with open(files.cert, "w") as half:
            half.write("x" * size)
        certificates.check()
    assert (certificates.context, caplog.text) == (first, "")
    files.issue("server", "localhost")
    certificates.check()
    certificates.check()
    assert certificates.context is not first


def test_a_key_that_comes_behind_its_certificate_is_waited_for(own_files, caplog):
    """The files are looked at once a second, and a change of this second is left for the next."""
    files = own_files
    certificates = Certificates(Config(**files.settings()))
    first, old_key = certificates.context, Path(files.key).read_bytes()
    certificates.tick(100.0)
    files.issue("server", "localhost")
    new_key = Path(files.key).read_bytes()
    Path(files.key).write_bytes(old_key)
    for now_s in (100.5, 100.75, 101.0, 101.25, 101.5, 101.75):
        certificates.tick(now_s)
    Path(files.key).write_bytes(new_key)
    for now_s in (102.0, 102.5, 102.9):
        certificates.tick(now_s)
        assert certificates.context is first
    certificates.tick(103.0)
    assert certificates.context is not first
    assert "cannot reload" not in caplog.text


def test_the_worker_looks_at_the_files_as_often_as_it_should(own_files, monkeypatch):
    """By tick(), at its own clock, and not at each of its ticks."""
    looks = []
    with serve_in_thread(app(), **own_files.settings()) as served:
        worker = served.worker
        monkeypatch.setattr(worker.certificates, "tick", looks.append)
        monkeypatch.setattr(worker.certificates, "check", lambda: looks.append("at each"))
        wait_for(lambda: len(looks) >= 3)
    assert all(isinstance(now_s, float) for now_s in looks)
    assert looks == sorted(looks)


def test_a_link_that_points_elsewhere_is_a_change(own_files, tmp_path):
    """As certbot and Kubernetes renew."""
    files = own_files
    other = files.issue("other", "localhost")
    for name, target in (("live.pem", files.cert), ("live.key", files.key)):
        os.symlink(target, tmp_path / name)
    certificates = Certificates(Config(
        ssl_certfile=str(tmp_path / "live.pem"), ssl_keyfile=str(tmp_path / "live.key")))
    first = certificates.context
    for name, target in (("live.pem", other[0]), ("live.key", other[1])):
        os.unlink(tmp_path / name)
        os.symlink(target, tmp_path / name)
    certificates.check()
    certificates.check()

    assert certificates.context is not first


def test_the_worker_reloads_when_it_is_told_to(own_files, caplog):
    """For a signal, or a program that knows."""
    caplog.set_level(logging.INFO, "fastserve")
    with serve_in_thread(app(), **own_files.settings()) as served:
        first = served.worker.certificates.context
        served.call(served.worker.reload_certificates)
        assert served.worker.certificates.context is not first


# --- strangers ---------------------------------------------------------------------------


STRANGERS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"", b"\x00" * 5000,
    b"\x16\x03\x01\xff\xff" + b"\x00" * 70_000,
    b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", b"\x80\x2e\x01\x00\x02", b"SSH-2.0-x\r\n",
    b"\x15\x03\x01\x00\x02\x02\x28", b"\x17\x03\x03\x00\x10" + b"a" * 16,
]


def test_what_is_no_handshake_is_closed_without_noise(files, loop_name, caplog):
    """Plain HTTP, half a handshake, a reset; nothing above a debug line, no traceback."""
    caplog.set_level(logging.DEBUG)
    with serve_in_thread(app(), loop=loop_name, log_level="debug", **files.settings()) as served:
        for sent in STRANGERS:
            with socket.create_connection(("127.0.0.1", served.port), 20) as stranger:
                try:
                    stranger.sendall(sent)
                    stranger.shutdown(socket.SHUT_WR)
                    while stranger.recv(1000):
                        pass
                except OSError:     # it may be closed at any time
                    pass
            with socket.create_connection(("127.0.0.1", served.port), 20) as stranger:
                stranger.sendall(sent[:3])
                stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        with connect(served, files) as connection:
            assert ask(connection)[0] == 200

    loud = [record for record in caplog.records if record.levelno > logging.INFO]
    assert loud == []
    assert "Traceback" not in caplog.text
    assert 1 <= caplog.text.count("did not open") <= 2 * len(STRANGERS)


def hello_for(name):
    """A ClientHello that asks for a host by these bytes."""
    usual = "x" * len(name)
    client, sent = ssl.create_default_context(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        client.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=usual).do_handshake()
    hello = sent.read()
    assert hello.count(usual.encode()) == 1
    return hello.replace(usual.encode(), name)


def test_host_names_that_are_no_ascii_are_refused_without_noise(files, loop_name, tmp_path):
    """A handshake that fails as any other: nothing on stderr but what is logged, at any rate."""
    hello = hello_for(b"\xff\xfe\n\x1b[31m.example")
    flags = ("--ssl-certfile", files.cert, "--ssl-keyfile", files.key, "--loop", loop_name,
             "--ssl-sni", f"localhost={files.cert}:{files.key}", "--log-level", "debug")
    with serve_in_process(tmp_path, *flags) as served:
        for _ in range(100):
            with socket.create_connection(("127.0.0.1", served.port), 20) as stranger:
                stranger.sendall(hello)
                with contextlib.suppress(ConnectionError):
                    while stranger.recv(1000):
                        pass
        with connect(served, files) as connection:
            assert connection.version()
    assert "did not open" in served.log
    assert "Exception ignored" not in served.log
    assert "UnicodeDecodeError" not in served.log


def test_reports_of_others_are_left_to_others(monkeypatch):
    """And the hook that was there is back at the end, unless another came meanwhile."""
    reports = []
    monkeypatch.setattr(sys, "unraisablehook", reports.append)

    def report(error, where, message=None):
        found = SimpleNamespace(
            exc_type=type(error), exc_value=error, exc_traceback=None, object=where,
            err_msg=message)
        sys.unraisablehook(found)
        return found

    no_ascii = UnicodeDecodeError("ascii", b"\xff", 0, 1, "ordinal not in range(128)")
    no_utf_8 = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    before = sys.unraisablehook
    with bad_names_unreported():
        report(no_ascii, b"\xff")
        report(no_ascii, None, "Exception ignored in ssl servername callback")
        expected = [
            report(no_ascii, print), report(no_ascii, None, "Exception ignored in something"),
            report(no_utf_8, b"\xff"), report(KeyError(), b"\xff"), report(KeyError(), None)]
    assert reports == expected
    assert sys.unraisablehook is before
    with bad_names_unreported():
        sys.unraisablehook = print
    assert sys.unraisablehook is print


def test_a_handshake_that_does_not_end_is_ended(files, loop_name):
    """At its deadline, which bytes do not move."""
    settings = files.settings(handshake_timeout_s=0.5)
    with (
        serve_in_thread(app(), loop=loop_name, **settings) as served,
        socket.create_connection(("127.0.0.1", served.port), 20) as stranger,
    ):
        begun = time.monotonic()
        stranger.sendall(b"\x16\x03\x01")
        time.sleep(0.2)
        with contextlib.suppress(ConnectionError):      # it may have ended meanwhile
            stranger.sendall(b"\x02")
            assert stranger.recv(100) == b""
        assert time.monotonic() - begun < 10


def test_the_oldest_handshake_gives_way(files, loop_name):
    """Who comes and speaks is served, however many sit there."""
    with serve_in_thread(app(), loop=loop_name, max_handshakes=3, **files.settings()) as served:
        sitting = [socket.create_connection(("127.0.0.1", served.port), 20) for _ in range(3)]
        with connect(served, files) as connection:
            assert ask(connection)[0] == 200
        assert sitting[0].recv(1) == b""
        for stranger in sitting:
            stranger.close()


def test_a_client_that_half_closes_is_no_reason_to_warn(files, loop_name, caplog):
    """close_notify in the middle of a handler ends the connection, quietly."""
    with serve_in_thread(app(), loop=loop_name, **files.settings()) as served:
        connection = connect(served, files)
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        connection.settimeout(5)
        try:
            connection.unwrap().close()
        except OSError:
            connection.close()
        with connect(served, files) as second:
            assert ask(second, "/slow") == (200, b"slow")

    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


def test_a_client_that_leaves_does_not_interrupt_what_cleans_up(files, loop_name):
    """The close_notify and the end of the connection cancel a handler once."""
    made, log = App(), []

    @made.get("/")
    async def handler():
        log.append("begun")
        try:
            await asyncio.sleep(600)
        finally:
            try:
                await asyncio.sleep(0.2)
                log.append("cleaned up")
            except asyncio.CancelledError:
                log.append("interrupted")
                raise

    with serve_in_thread(made, loop=loop_name, **files.settings()) as served:
        with connect(served, files) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            wait_for(lambda: log)
            with contextlib.suppress(OSError):
                connection.unwrap()
        wait_for(lambda: len(log) == 2)

    assert log == ["begun", "cleaned up"]


def test_stopping_does_not_wait_for_handshakes(files, loop_name):
    """Who has not come through has asked for nothing."""
    with serve_in_thread(app(), loop=loop_name, **files.settings()) as served:
        stranger = socket.create_connection(("127.0.0.1", served.port), 20)
        stranger.sendall(b"\x16")
        with connect(served, files) as connection:
            assert ask(connection)[0] == 200
        begun = time.monotonic()
    assert time.monotonic() - begun < 5
    assert stranger.recv(1) == b""
    stranger.close()


@pytest.mark.parametrize("header", [
    b"PROXY TCP4 203.0.113.9 198.51.100.1 4711 443\r\n",
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x09\xc6\x33\x64\x01\x12\x67\x01\xbb",
])
def test_a_proxy_header_comes_before_the_handshake(files, loop_name, header):
    """In one segment with it or byte by byte; it is taken to the byte."""
    settings = files.settings(proxy_protocol="required", proxy_allow_ips="127.0.0.0/8")
    with serve_in_thread(app(), loop=loop_name, **settings) as served:
        for pieces in ([header], [header[at:at + 1] for at in range(len(header))]):
            sock = socket.create_connection(("127.0.0.1", served.port), 20)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                sock.sendall(piece)
            with client_context(files).wrap_socket(sock, server_hostname="localhost") as connection:
                for _ in range(2):
                    status, body = ask(connection)
                    assert status == 200
                    assert b'"client":"203.0.113.9"' in body
        sock = socket.create_connection(("127.0.0.1", served.port), 20)
        sock.sendall(header + b"GET / HTTP/1.1\r\n\r\n")
        assert b"HTTP" not in sock.recv(1000)
        sock.close()


def test_a_header_and_the_hello_may_share_a_segment(files, loop_name):
    """Neither loses a byte to the other."""
    header = b"PROXY TCP4 203.0.113.9 198.51.100.1 4711 443\r\n"
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context(files).wrap_bio(incoming, outgoing, server_hostname="localhost")
    settings = files.settings(proxy_protocol="required", proxy_allow_ips="127.0.0.1")
    with (
        serve_in_thread(app(), loop=loop_name, **settings) as served,
        socket.create_connection(("127.0.0.1", served.port), 20) as sock,
    ):
        before = header
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(before + outgoing.read())
                before = b""
                incoming.write(sock.recv(65536))
        client.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        sock.sendall(outgoing.read())
        body = b""
        while b"203.0.113.9" not in body:
            incoming.write(sock.recv(65536) or pytest.fail(body))
            try:
                body += client.read(65536)
            except ssl.SSLWantReadError:
                pass


# --- plain HTTP beside it ----------------------------------------------------------------


def ask_plainly(port, preface=b""):
    with socket.create_connection(("127.0.0.1", port), 20) as plain:
        plain.sendall(preface)
        status, body = ask(plain, close=True)
    return status, json.loads(body)


def ask_encrypted(port, files):
    sock = socket.create_connection(("127.0.0.1", port), 20)
    with client_context(files).wrap_socket(sock, server_hostname="localhost") as connection:
        status, body = ask(connection)
    return status, json.loads(body)


def test_plain_http_is_spoken_where_that_was_asked_for(files, loop_name):
    """plain_bind: one server, https on one port and http on the other."""
    settings = files.settings(loop=loop_name, plain_bind=("127.0.0.1:0",))
    with serve_in_thread(app(), **settings) as served:
        with connect(served, files) as connection:
            encrypted = json.loads(ask(connection)[1])
        _, plain = ask_plainly(served.listeners[1].socket.getsockname()[1])
    assert (encrypted["scheme"], plain["scheme"]) == ("https", "http")
    assert plain["version"] is None


def test_plain_http_may_follow_a_proxy_header(files, loop_name):
    """The PROXY protocol is for every listener."""
    settings = files.settings(
        loop=loop_name, plain_bind=("127.0.0.1:0",), proxy_protocol="required",
        proxy_allow_ips="127.0.0.1")
    with serve_in_thread(app(), **settings) as served:
        port = served.listeners[1].socket.getsockname()[1]
        _, plain = ask_plainly(port, b"PROXY TCP4 192.0.2.7 192.0.2.8 5000 80\r\n")
    assert (plain["scheme"], plain["client"]) == ("http", "192.0.2.7")


def test_who_covers_for_a_hung_worker_speaks_what_its_ports_speak(files, tmp_path):
    """TLS on one and plain HTTP on the other, also in the place of a neighbour."""
    (tmp_path / "main.py").write_text(
        "from fastserve import App\napp = App()\n"
        "@app.get('/')\ndef home(request): return {'scheme': request.scheme}\n")
    flags = ("--workers", "2", "--ssl-certfile", files.cert, "--ssl-keyfile", files.key,
             "--plain-bind", "127.0.0.1:0", "--stall-soft-s", "0.5")
    with serve_in_process(tmp_path, *flags, target="main:app") as server:
        found = wait_for_log(server.log_path, r"listening on https://127.0.0.1:(\d+), "
                             r"http://127.0.0.1:(\d+) \(pid \d+, slot 0", server.process)
        encrypted, plain = map(int, found.groups())
        hung = int(wait_for_log(server.log_path, r"\(pid (\d+), slot 1", server.process)[1])
        os.kill(hung, signal.SIGSTOP)
        try:    # half of them wait in its queues until it is covered
            with ThreadPoolExecutor(24) as pool:
                answers = [(pool.submit(ask_plainly, plain),
                            pool.submit(ask_encrypted, encrypted, files)) for _ in range(12)]
            for one, other in answers:
                assert one.result() == (200, {"scheme": "http"})
                assert other.result() == (200, {"scheme": "https"})
        finally:
            os.kill(hung, signal.SIGCONT)


# --- users' mistakes ---------------------------------------------------------------------


def encrypted_key(files, password=b"secret"):
    from cryptography.hazmat.primitives import serialization

    with open(files.key, "rb") as file:
        key = serialization.load_pem_private_key(file.read(), None)
    path = files.directory / "encrypted.key"
    path.write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password)))
    return str(path)


def test_an_encrypted_key_is_opened_with_its_password(files):
    """ssl_keyfile_password; nobody is ever asked on the terminal, and nobody else is shown it."""
    config = Config(**files.settings(
        ssl_keyfile=encrypted_key(files), ssl_keyfile_password="secret"))
    Certificates(config)
    assert "secret" not in repr(config)
    for given in ("wrong", None):
        bad = files.settings(ssl_keyfile=encrypted_key(files), ssl_keyfile_password=given)
        expected = "does not open the key" if given else "is encrypted: give ssl_keyfile_password"
        with pytest.raises(ConfigError, match=expected) as caught:
            Certificates(Config(**bad))
        assert "wrong" not in str(caught.value)


def test_certificate_and_key_may_share_a_file(files):
    """As haproxy and certbot's fullchain tools make it."""
    both = files.directory / "both.pem"
    with open(files.cert, "rb") as cert, open(files.key, "rb") as key:
        both.write_bytes(cert.read() + key.read())

    Certificates(Config(ssl_certfile=str(both)))


def test_a_mistake_is_told_by_name(files, tmp_path):
    """At start-up, with the setting and the file."""
    other = files.issue("another", "localhost")
    junk = tmp_path / "junk.pem"
    junk.write_text("nonsense")
    for wrong, expected in [
        ({"ssl_certfile": "/no/such.pem"}, "ssl_certfile: cannot read /no/such.pem: No such file"),
        ({"ssl_keyfile": "/no/such.key"}, "ssl_keyfile: cannot read /no/such.key: No such file"),
        ({"ssl_certfile": str(tmp_path)}, "ssl_certfile: cannot read .*: Is a directory"),
        ({"ssl_keyfile": other[1]}, "ssl_certfile: the key in .*another.key is not that of"),
        ({"ssl_keyfile": str(junk)}, "are no certificate and key, in PEM"),
        ({"ssl_certfile": str(junk)}, "are no certificate and key, in PEM"),
        ({"ssl_keyfile": None}, "holds no certificate with its key"),
        ({"ssl_ciphers": "NONSENSE"}, "ssl_ciphers='NONSENSE' matches no cipher"),
        ({"ssl_ca_certs": "/no/ca", "ssl_cert_reqs": "required"}, "ssl_ca_certs: cannot read /no"),
        ({"ssl_ca_certs": str(junk), "ssl_cert_reqs": "optional"}, "ssl_ca_certs: .* holds no"),
        ({"ssl_sni": ("a b=x",)}, "must be HOST=CERT or HOST=CERT:KEY"),
        ({"ssl_sni": ("=x",)}, "must be HOST=CERT"), ({"ssl_sni": ("a",)}, "must be HOST=CERT"),
        ({"ssl_sni": ("*=x",)}, "must be HOST=CERT"), ({"ssl_sni": ("a.*.b=x",)}, "must be HOST="),
        ({"ssl_sni": ("a=/no/x:/no/y",)}, "ssl_sni='a=/no/x:/no/y': cannot read /no/x"),
        ({"ssl_sni": (f"a={files.cert}:/no/y",)}, "ssl_sni=.*: cannot read /no/y"),
        ({"ssl_sni": (f"a={files.cert}:{other[1]}",)}, "ssl_sni=.*the key in .* is not that of"),
        ({"ssl_sni": (f"a={files.cert}:{files.key}",) * 2}, "a has a certificate already"),
    ]:
        with pytest.raises(ConfigError, match=expected):
            Certificates(Config(**files.settings(**wrong)))


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"ssl_keyfile": "k"}, "ssl_keyfile='k' is for TLS, which needs ssl_certfile"),
        ({"plain_bind": ("a:1",)}, "plain_bind=.* is for TLS, which needs ssl_certfile"),
        ({"ssl_keyfile_password": "p"}, r"ssl_keyfile_password=\.\.\. is for TLS"),
        ({"ssl_sni": ("a=b",)}, "ssl_sni=.* is for TLS"), ({"ssl_ciphers": "x"}, "is for TLS"),
        ({"ssl_min_version": "TLSv1.3"}, "is for TLS"), ({"ssl_ca_certs": "x"}, "is for TLS"),
        ({"ssl_certfile": "c", "ssl_cert_reqs": "required"}, "give ssl_ca_certs"),
        ({"ssl_certfile": "c", "ssl_ca_certs": "x"}, "give ssl_cert_reqs"),
        ({"ssl_cert_reqs": "maybe"}, "must be one of none, optional, required"),
        ({"ssl_min_version": "SSLv3"}, "must be one of TLSv1.2, TLSv1.3"),
    ],
)
def test_settings_that_do_nothing_alone_are_refused(wrong, expected):
    """Nothing is silently ignored, and no password is shown."""
    with pytest.raises(ConfigError, match=expected):
        Config(**wrong)


def test_the_command_line_serves_tls(files, tmp_path):
    """`fastserve run --ssl-certfile ...` says https; a mistake is one line and status 1."""
    (tmp_path / "main.py").write_text(
        "from fastserve import App\napp = App()\n@app.get('/')\ndef home(): return 'home'\n")
    import fastserve

    root = os.path.dirname(os.path.dirname(fastserve.__file__))
    command = [sys.executable, "-m", "fastserve", "run", "main:app", "--port", "0"]
    options = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": root}, "text": True}
    process = subprocess.Popen(
        [*command, "--ssl-certfile", files.cert, "--ssl-keyfile", files.key],
        stderr=subprocess.PIPE, **options)
    line = next(line for line in process.stderr if "listening" in line)
    process.terminate()
    rest = process.communicate(timeout=20)[1]
    assert "listening on https://127.0.0.1:" in line, line + rest
    assert process.returncode == 0
    done = subprocess.run(
        [*command, "--ssl-certfile", files.cert, "--ssl-keyfile", "/no/such"],
        capture_output=True, timeout=20, check=False, **options)
    assert done.returncode == 1
    assert done.stderr == (
        "fastserve: ssl_keyfile: cannot read /no/such: No such file or directory\n")
