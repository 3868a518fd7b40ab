"""nginx and HAProxy in front, with the configurations that examples/proxies/ shows."""

import contextlib
import http.client
import json
import re
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
import trustme
from ports import free_port
from worker_thread import serve_in_thread, wait_for

from fastserve import App

EXAMPLES = Path(__file__).parent.parent / "examples" / "proxies"
NGINX = """
user root; daemon off; pid {directory}/nginx.pid; error_log stderr; worker_processes 1;
events {{ worker_connections 200; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
    {site}
}}
"""
HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    retries 0
frontend web
    bind 127.0.0.1:{port} ssl crt {certificate}
    default_backend app
backend app
    server app1 {address} {sent}
"""


@pytest.fixture
def app():
    """An app that says who asked."""
    made = App()

    @made.get("/")
    def who(request):
        return {
            "client": request.client.host, "scheme": request.scheme, "url": request.url,
            "client_port": request.client.port,
        }

    @made.post("/echo")
    async def echo(request):
        return await request.body()

    return made


@contextlib.contextmanager
def running(command, port, tmp_path):
    """A program that listens on a port."""
    log = tmp_path / "proxy.log"
    with open(log, "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def listens():
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    try:
        wait_for(listens)
        yield process
    finally:
        process.terminate()
        process.wait(20)


def ask_often(connection, times=30):
    """The answers to requests that lie about their client, over one connection."""
    lies = {
        "X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "gopher",
        "X-Forwarded-Host": "evil",
        "Forwarded": "for=203.0.113.9", "CF-Connecting-IP": "203.0.113.9",
    }
    answers = []
    for _ in range(times):
        connection.request("GET", "/", headers=lies)
        reply = connection.getresponse()
        assert reply.status == 200
        answers.append(json.loads(reply.read()))
        connection.request("POST", "/echo", body=b"x" * 100_000)
        assert connection.getresponse().read() == b"x" * 100_000
    return answers


@contextlib.contextmanager
def nginx_before(nginx, where, tmp_path):
    """The example's nginx in front of an address; its port."""
    port = free_port()
    site = (EXAMPLES / "nginx.conf").read_text()
    assert "127.0.0.1:8000" in site
    site = site.replace("listen 80", f"listen 127.0.0.1:{port}").replace("127.0.0.1:8000", where)
    config = tmp_path / "nginx.conf"
    config.write_text(NGINX.format(directory=tmp_path, site=site))
    with running([nginx, "-p", str(tmp_path), "-c", str(config)], port, tmp_path):
        yield port


def client_at(source, port, context=None):
    """A client with this address, over TLS where there is a context."""
    keywords = {"timeout": 20, "source_address": (source, 0)}
    if context is None:
        client = http.client.HTTPConnection("127.0.0.1", port, **keywords)
    else:
        client = http.client.HTTPSConnection("127.0.0.1", port, context=context, **keywords)
    return contextlib.closing(client)


@pytest.mark.parametrize("upstream", ["tcp", "unix"])
def test_nginx_in_front(app, needs, tmp_path, upstream):
    """Of many clients' requests over keep-alive upstream connections, each has its client."""
    path = tmp_path / "app.sock"
    settings = {"behind": "nginx"}
    if upstream == "unix":
        settings |= {"uds": str(path), "port": None}
    with serve_in_thread(app, **settings) as served:
        where = f"unix:{path}" if upstream == "unix" else f"127.0.0.1:{served.port}"
        with nginx_before(needs("nginx"), where, tmp_path) as port:
            for source in ("127.0.0.2", "127.0.0.3"):
                with client_at(source, port) as client:
                    answers = ask_often(client)
                for answer in answers:
                    assert (answer["client"], answer["scheme"]) == (source, "http")
                    assert answer["url"] == f"http://127.0.0.1:{port}/"


def test_nginx_keeps_its_connections(app, needs, tmp_path):
    """Sixty requests over one; and who trusts nobody sees nginx, whatever it says."""
    with (
        serve_in_thread(app) as served,
        nginx_before(needs("nginx"), f"127.0.0.1:{served.port}", tmp_path) as port,
        client_at("127.0.0.2", port) as client,
    ):
        answers = ask_often(client)

    assert {answer["client"] for answer in answers} == {"127.0.0.1"}
    assert len({answer["client_port"] for answer in answers}) <= 3


@contextlib.contextmanager
def served_at(app, upstream, tmp_path, **settings):
    """The app over TCP or over a unix socket; yields its address as HAProxy writes it."""
    path = tmp_path / "app.sock"
    if upstream == "unix":
        settings |= {"uds": str(path), "port": None}
    with serve_in_thread(app, **settings) as served:
        yield f"unix@{path}" if upstream == "unix" else f"127.0.0.1:{served.port}"


@pytest.mark.parametrize("upstream", ["tcp", "unix"])
def test_haproxy_in_front(app, needs, tmp_path, upstream):
    """With its health check on /-/ready, and connections that it uses again."""
    haproxy, port = needs("haproxy"), free_port()
    with served_at(app, upstream, tmp_path, behind="haproxy") as address:
        config = tmp_path / "haproxy.cfg"
        text = (EXAMPLES / "haproxy.cfg").read_text()
        config.write_text(
            text.replace("bind :80", f"bind 127.0.0.1:{port}").replace("127.0.0.1:8000", address))
        with running([haproxy, "-db", "-f", str(config)], port, tmp_path):
            for source in ("127.0.0.2", "127.0.0.3"):
                with client_at(source, port) as client:
                    answers = ask_often(client)
                for answer in answers:
                    assert (answer["client"], answer["scheme"]) == (source, "http")
                    assert answer["url"] == f"http://127.0.0.1:{port}/"


@pytest.mark.parametrize("upstream", ["tcp", "unix"])
@pytest.mark.parametrize("sent", ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl"])
def test_haproxy_names_clients_in_proxy_headers(app, needs, tmp_path, upstream, sent):
    """Of either version, over keep-alive connections; who ended TLS is believed, fields are not."""
    haproxy, port = needs("haproxy"), free_port()
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "both.pem"))
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    settings = {
        "proxy_protocol": "required",
        "proxy_allow_ips": "unix" if upstream == "unix" else "127.0.0.1",
    }
    with served_at(app, upstream, tmp_path, **settings) as address:
        config = tmp_path / "haproxy.cfg"
        config.write_text(HAPROXY.format(
            port=port, certificate=tmp_path / "both.pem", address=address, sent=sent))
        with running([haproxy, "-db", "-f", str(config)], port, tmp_path):
            for source in ("127.0.0.2", "127.0.0.3"):
                with client_at(source, port, context) as client:
                    client.connect()
                    own_port = client.sock.getsockname()[1]
                    answers = ask_often(client, 5)
                scheme = "https" if sent == "send-proxy-v2-ssl" else "http"
                expected = {
                    "client": source, "client_port": own_port, "scheme": scheme,
                    "url": f"{scheme}://127.0.0.1:{port}/"}
                assert answers == [expected] * 5


def test_haproxy_passes_tls_on_behind_a_proxy_header(app, needs, tmp_path):
    """send-proxy-v2 with a checksum, health checks with a header of their own (LOCAL)."""
    haproxy, port = needs("haproxy"), free_port()
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "both.pem"))
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    settings = {
        "proxy_protocol": "required", "proxy_allow_ips": "127.0.0.1",
        "ssl_certfile": str(tmp_path / "both.pem"),
    }
    with serve_in_thread(app, **settings) as served:
        config = tmp_path / "haproxy.cfg"
        text = (EXAMPLES / "haproxy-tcp.cfg").read_text()
        config.write_text(
            text.replace("bind :443", f"bind 127.0.0.1:{port}")
            .replace("127.0.0.1:8000", f"127.0.0.1:{served.port}"))
        with running([haproxy, "-db", "-f", str(config)], port, tmp_path):
            sock = socket.create_connection(("127.0.0.1", port), 20, ("127.0.0.5", 0))
            own_port = sock.getsockname()[1]
            with context.wrap_socket(sock, server_hostname="localhost") as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                data = connection.recv(65536)
            answer = json.loads(data.partition(b"\r\n\r\n")[2])
            assert answer == {
                "client": "127.0.0.5", "client_port": own_port, "scheme": "https",
                "url": "https://localhost/"}


def test_curl_with_and_without_a_proxy_header(app, needs):
    """Served where it sends one (--haproxy-protocol), closed where it does not."""
    curl = needs("curl")
    settings = {"proxy_protocol": "required", "proxy_allow_ips": "127.0.0.0/8"}
    with serve_in_thread(app, **settings) as served:
        done = subprocess.run(
            [curl, "-sS", "--haproxy-protocol", f"http://127.0.0.1:{served.port}/"],
            capture_output=True, timeout=20, check=False)
        assert b'"client":"127.0.0.1"' in done.stdout, done.stderr
        done = subprocess.run(
            [curl, "-sS", f"http://127.0.0.1:{served.port}/"],
            capture_output=True, timeout=20, check=False)
        assert done.returncode in (52, 56)
        assert re.search(rb"Empty reply|reset", done.stderr)
