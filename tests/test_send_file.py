"""Channel.send_file: files over every way to move bytes."""

import asyncio
import hashlib
import os
import random

import pytest
import uvloop
from support import Bench, read_replies, request, running_loop

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
