"""Channel.send_file: files over every way to move bytes."""

import asyncio
import hashlib
import os
import random
import socket
import ssl

import pytest
import trustme
import uvloop
from support import Bench, read_replies, request, running_loop
from worker_thread import serve_in_thread, wait_for

from fastserve import App, FileResponse

LARGE = 8 * 1024 * 1024
KINDS = [
    ("fake", asyncio.new_event_loop), ("socket", asyncio.new_event_loop),
    ("socket", uvloop.new_event_loop), ("reader", asyncio.new_event_loop),
    ("loop", asyncio.new_event_loop), ("loop", uvloop.new_event_loop),
]


@pytest.fixture
def folder(tmp_path):
    """large.bin of LARGE random bytes, small.txt, and both old enough for strong tags."""
    for name, content in (
        ("large.bin", random.Random(1).randbytes(LARGE)), ("small.txt", b"small"),
    ):
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (1e9, 1e9))
    return tmp_path


def app_of(folder):
    app = App()
    app.static("/static", folder)

    @app.get("/file/{name}")
    async def file(name: str):
        return FileResponse(folder / name)

    @app.get("/hello")
    def hello():
        return "Hello"

    return app


@pytest.fixture(params=KINDS, ids=lambda p: f"{p[0]}-{'uvloop' if p[1] is not asyncio.new_event_loop else 'asyncio'}")  # noqa: E501
def bench(request, folder):
    kind, factory = request.param
    with running_loop(factory) as loop:
        bench = Bench(app_of(folder), loop, kind)
        bench.folder = folder
        yield bench
        bench.close()


def open_files(folder):
    """The descriptors that this process has on files of a folder."""
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            continue
        if target.startswith(f"{folder}/"):
            found.append(target)
    return found


def test_a_large_file_arrives_whole_and_is_closed(bench):
    """Byte for byte, and no descriptor stays open."""
    link = bench.connect()
    link.send(request("/static/large.bin"))
    bench.wait_for(lambda: read_replies(link.received)[0] != [])
    reply = link.reply()

    content = (bench.folder / "large.bin").read_bytes()
    assert reply.headers["content-length"] == str(LARGE)
    assert hashlib.sha256(reply.body).digest() == hashlib.sha256(content).digest()
    bench.wait_for(lambda: not open_files(bench.folder), turns=200)


def test_answers_around_a_file_keep_their_order(bench):
    """Those gathered before it leave first, those behind it wait for its end."""
    link = bench.connect()
    link.send(request("/hello") + request("/static/large.bin") + request("/static/small.txt")
              + request("/file/large.bin", Range="bytes=10-19") + request("/hello"))
    bench.wait_for(lambda: len(read_replies(link.received)[0]) == 5)
    content = (bench.folder / "large.bin").read_bytes()

    assert [len(reply.body) for reply in link.replies()] == [5, LARGE, 5, 10, 5]
    assert link.replies()[3].body == content[10:20]


def test_parts_of_a_file_arrive_between_their_heads(bench):
    """multipart/byteranges of a file that is not kept in memory."""
    link = bench.connect()
    link.send(request("/static/large.bin", Range=f"bytes=0-4,{LARGE // 2}-{LARGE - 1},-3"))
    bench.wait_for(lambda: read_replies(link.received)[0] != [])
    reply = link.reply()
    boundary = reply.headers["content-type"].partition("boundary=")[2].encode()
    content = (bench.folder / "large.bin").read_bytes()

    *parts, end = reply.body.split(b"--" + boundary)[1:]
    assert end == b"--\r\n"
    assert [part.partition(b"\r\n\r\n")[2][:-2] for part in parts] == [
        content[:5], content[LARGE // 2:], content[-3:]]


def test_a_client_that_leaves_costs_no_descriptor(bench):
    """What is held for a body is let go when nobody reads it."""
    link = bench.connect()
    link.send(request("/static/large.bin"))
    link.drop()

    bench.wait_for(lambda: not open_files(bench.folder))


@pytest.mark.parametrize("kind", ["socket", "reader", "loop"])
def test_a_file_that_shrinks_ends_the_connection(folder, kind):
    """It cannot become what its head said, and nothing else may take its place."""
    app = App()

    @app.get("/")
    async def home():
        os.truncate(folder / "large.bin", LARGE)
        response = FileResponse(folder / "large.bin")
        prepared = response.prepare

        class Late(FileResponse):
            def prepare(self, request):
                found = prepared(request)
                os.truncate(folder / "large.bin", 100_000)
                return found

        return Late(folder / "large.bin")

    with running_loop(asyncio.new_event_loop) as loop:
        bench = Bench(app, loop, kind)
        try:
            link = bench.connect()
            link.send(request() + request())
            bench.wait_for(lambda: link.closed)
            head, _, body = link.received.partition(b"\r\n\r\n")
        finally:
            bench.close()

    assert b"Content-Length: %d" % LARGE in head
    assert len(body) == 100_000


@pytest.mark.parametrize(("kind", "factory"), [k for k in KINDS if k[0] != "fake"])
def test_a_reader_that_pauses_holds_the_file_back_and_gets_all_of_it(folder, kind, factory):
    """What a slow client costs is bounded by the kernel's buffers, not by the file."""
    with running_loop(factory) as loop:
        bench = Bench(app_of(folder), loop, kind)
        try:
            link = bench.connect()
            bench.links.remove(link)        # nobody reads
            link.socket.send(request("/static/large.bin") + request("/hello"))
            for _ in range(40):
                bench.turn()
            assert open_files(folder), "all of it went somewhere"
            bench.links.append(link)
            bench.wait_for(lambda: len(read_replies(link.received)[0]) == 2)
            assert hashlib.sha256(link.replies()[0].body).digest() == hashlib.sha256(
                (folder / "large.bin").read_bytes()).digest()
        finally:
            bench.close()


@pytest.mark.parametrize(("kind", "factory"), KINDS)
def test_what_is_not_in_memory_is_read_on_a_thread_and_sent(folder, kind, factory):
    """The page cache is emptied of the file first; it arrives whole all the same."""
    path = folder / "large.bin"
    digest = hashlib.sha256(path.read_bytes()).digest()
    with running_loop(factory) as loop:
        bench = Bench(app_of(folder), loop, kind)
        jobs = []
        plain = loop.run_in_executor
        loop.run_in_executor = lambda *job: jobs.append(job) or plain(*job)
        try:
            link = bench.connect()
            link.send(request("/static/large.bin", method="HEAD"))
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
            link.send(request("/static/large.bin"))
            bench.wait_for(lambda: len(read_replies(link.received, ["HEAD"])[0]) == 2)
            assert hashlib.sha256(link.replies("HEAD")[1].body).digest() == digest
        finally:
            bench.close()
            loop.run_until_complete(loop.shutdown_default_executor())
    assert jobs, "the loop waited for the disk"


HUGE = 256 * 1024 * 1024
SLACK = 48 * 1024 * 1024        # of this process's memory, for all but the file
TURNS = 400


@pytest.fixture(params=["uvloop", "asyncio"])
def over_tls(request, folder, tmp_path_factory):
    """A worker that speaks TLS, and connect() for a client of it."""
    ca = trustme.CA()
    issued = ca.issue_cert("localhost")
    keys = tmp_path_factory.mktemp("keys")
    issued.private_key_pem.write_to_path(str(keys / "key.pem"))
    (keys / "cert.pem").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    context = ssl.create_default_context()
    ca.configure_trust(context)
    clients = []

    def connect():
        plain = socket.create_connection(("127.0.0.1", served.port), timeout=20)
        clients.append(context.wrap_socket(plain, server_hostname="localhost"))
        return clients[-1]

    with serve_in_thread(app_of(folder), loop=request.param, ssl_certfile=str(keys / "cert.pem"),
                 ssl_keyfile=str(keys / "key.pem")) as served:
        try:
            yield served, connect
        finally:
            for client in clients:
                client.close()


def make_huge(folder):
    """More than all the buffers on the way hold; it takes no room on the disk."""
    with open(folder / "huge.bin", "wb") as file:
        file.truncate(HUGE)


def resident():
    """The bytes of memory that this process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_a_file_over_tls_is_the_file(over_tls, folder):
    """Whole, a range of it, several ranges, and what follows on the same connection."""
    _, connect = over_tls
    client = connect()
    content = (folder / "large.bin").read_bytes()
    client.sendall(
        request("/static/large.bin") + request("/static/large.bin", Range="bytes=1000000-6999999")
        + request("/static/large.bin", Range=f"bytes=0-4,{LARGE // 2}-{LARGE - 1}")
        + request("/hello", Connection="close"))
    received = b"".join(iter(lambda: client.recv(1 << 20), b""))
    whole, part, parts, hello = read_replies(received)[0]

    assert hashlib.sha256(whole.body).digest() == hashlib.sha256(content).digest()
    assert (part.status, part.body == content[1_000_000:7_000_000]) == (206, True)
    boundary = parts.headers["content-type"].partition("boundary=")[2].encode()
    assert [each.partition(b"\r\n\r\n")[2][:-2]
            for each in parts.body.split(b"--" + boundary)[1:-1]] == [
        content[:5], content[LARGE // 2:]]
    assert hello.body == b"Hello"


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from /proc")
def test_a_slow_reader_over_tls_costs_no_memory(over_tls, folder):
    """A file waits on its disk for a client that does not read, and closes when that one leaves."""
    served, connect = over_tls
    make_huge(folder)
    client = connect()
    before = resident()
    client.sendall(request("/static/huge.bin"))
    assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
    for _ in range(TURNS):
        served.call(int)        # a turn of its loop, in which it could send more
    assert resident() - before < SLACK
    assert open_files(folder), "all of it went somewhere"
    client.close()

    wait_for(lambda: not open_files(folder))


def test_a_client_over_tls_that_leaves_in_the_middle_closes_the_file(over_tls, folder):
    """Without a close_notify, while the file is being sent."""
    _, connect = over_tls
    make_huge(folder)
    client = connect()
    client.sendall(request("/static/huge.bin"))
    assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
    assert open_files(folder)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.close()

    wait_for(lambda: not open_files(folder))
