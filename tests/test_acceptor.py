"""acceptor.pyx: whatever accept4() says, accepting goes on; and never more than the limit."""

import asyncio
import contextlib
import errno
import logging
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from support import Bench, request, running_loop

from fastserve import App

ROOT = Path(__file__).parent.parent
DEADLINE_S = 20
SHIM = r"""
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <errno.h>
    #include <fcntl.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <sys/epoll.h>
    #include <sys/socket.h>
    #include <unistd.h>

    /* The number in the file $FAULTS.NAME; each such fault adds a byte to $FAULTS.calls. */
    static int fault(const char *name)
    {
        char path[4096], text[16] = {0};
        int fd;
        snprintf(path, sizeof path, "%s.%s", getenv("FAULTS"), name);
        if ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0) return 0;
        if (read(fd, text, sizeof text - 1) < 0) text[0] = 0;
        close(fd);
        snprintf(path, sizeof path, "%s.calls", getenv("FAULTS"));
        fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (write(fd, "x", 1) < 0) abort();
        close(fd);
        return atoi(text);
    }
    int accept4(int fd, struct sockaddr *address, socklen_t *size, int flags)
    {
        int (*real)(int, struct sockaddr *, socklen_t *, int) = dlsym(RTLD_NEXT, "accept4");
        int code = fault("accept4");
        if (code) { errno = code; return -1; }
        return real(fd, address, size, flags);
    }
    int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
    {
        int (*real)(int, int, int, struct epoll_event *) = dlsym(RTLD_NEXT, "epoll_ctl");
        int code = operation == EPOLL_CTL_ADD ? fault("epoll_ctl") : 0;
        if (code) { errno = code; return -1; }
        return real(epoll, operation, fd, event);
    }
"""

linux_only = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="accept4 and prlimit are Linux's")


class Server:
    """`fastserve run examples/hello.py` on a free port, and what it wrote."""

    def __init__(self, log: Path, *options: str, **environment: str):
        self.log_path = log
        with open(log, "w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fastserve", "run", "examples/hello.py", "--port", "0",
                 *options],
                cwd=ROOT, stderr=stderr, env={**os.environ, **environment})
        deadline = time.monotonic() + DEADLINE_S
        while not (found := re.search(r"http://127.0.0.1:(\d+)", self.log)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"the server did not start:\n{self.log}")
            time.sleep(0.01)
        self.address = ("127.0.0.1", int(found[1]))
        if sys.platform.startswith("linux"):
            self.idle_descriptors = self.descriptors

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    @property
    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ask(self, timeout_s: float = 5) -> socket.socket:
        """Connect and send a request."""
        client = socket.create_connection(self.address, timeout_s)
        client.sendall(request("/"))
        return client

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()
            self.process.wait()
        assert status == 0, self.log


def is_answered(client: socket.socket, timeout_s: float) -> bool:
    client.settimeout(timeout_s)
    try:
        return client.recv(65536).startswith(b"HTTP/1.1 200 ")
    except TimeoutError:
        return False


# --- errors of accept4 -------------------------------------------------------------------


class Faults:
    """Errors that the shim gives the server while they are set."""

    def __init__(self, base: Path):
        self.base = base

    @contextlib.contextmanager
    def of(self, call: str, code: int):
        path = Path(f"{self.base}.{call}")
        ready = Path(f"{self.base}.new")
        ready.write_text(str(code))
        ready.rename(path)
        try:
            yield
        finally:
            path.unlink()

    @property
    def count(self) -> int:
        path = Path(f"{self.base}.calls")
        return path.stat().st_size if path.exists() else 0


@pytest.fixture(scope="module")
def faulty(tmp_path_factory, request):
    """A server whose system calls fail on demand: (server, faults)."""
    place = tmp_path_factory.mktemp("faults")
    source, shim = place / "shim.c", place / "shim.so"
    source.write_text(textwrap.dedent(SHIM))
    try:
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-o", str(shim), str(source), "-ldl"], check=True)
    except FileNotFoundError:
        if request.config.getoption("--require-all"):
            pytest.fail("cc is not installed")
        pytest.skip("cc is not installed")
    preload = f"{os.environ.get('LD_PRELOAD', '')} {shim}".strip()
    with Server(place / "log", LD_PRELOAD=preload, FAULTS=str(place / "fault")) as server:
        yield server, Faults(place / "fault")


ERRORS = [
    errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EPROTO, errno.ECONNABORTED,
    errno.EPERM, errno.ENETDOWN, errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP, errno.EIO, 200,
]


@linux_only
@pytest.mark.parametrize("code", ERRORS, ids=lambda code: errno.errorcode.get(code, str(code)))
def test_accepting_goes_on_behind_every_error_of_accept4(faulty, code):
    """libuv d185607a8, CVE-2026-46015: what went wrong once left clients in the queue for ever.

    Here they wait, without spinning, and are served within a second of the error's end.
    """
    server, faults = faulty
    before = faults.count
    with faults.of("accept4", code):
        client = server.ask()
        with client:
            deadline = time.monotonic() + DEADLINE_S
            while faults.count == before:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(0.25)
            assert faults.count - before <= 500     # without a rest it would be many thousands
            assert not is_answered(client, 0.01)
            Path(f"{faults.base}.accept4").rename(f"{faults.base}.over")
            assert is_answered(client, 4)
            Path(f"{faults.base}.over").rename(f"{faults.base}.accept4")
    assert server.log.count("cannot accept connections") <= 2


@linux_only
def test_a_connection_that_cannot_be_watched_is_closed(faulty):
    """epoll_ctl fails (fs.epoll.max_user_watches): no descriptor is kept that nobody reads."""
    server, faults = faulty
    with faults.of("epoll_ctl", errno.ENOSPC), server.ask() as client:
        client.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            while client.recv(1000):    # what it had sent by then may still be answered
                pass
        deadline = time.monotonic() + 5     # a client of the test before may not have left yet
        while server.descriptors > server.idle_descriptors:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    with server.ask() as client:
        assert is_answered(client, 4)


@linux_only
def test_out_of_descriptors_the_queue_is_kept_and_served_when_one_is_free(tmp_path):
    """RLIMIT_NOFILE met: no client is dropped, no spinning, one line in the log."""
    with Server(tmp_path / "log") as server, contextlib.ExitStack() as stack:
        most = server.descriptors + 3
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

        def allow(count):
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (count, hard))

        allow(most)
        clients = [stack.enter_context(server.ask()) for _ in range(8)]
        assert all(is_answered(client, 5) for client in clients[:3])
        cpu_s = server.cpu_s
        assert not is_answered(clients[3], 1.2)
        assert server.cpu_s - cpu_s < 0.2

        begun = time.monotonic()
        for left, served in zip(clients[:4], clients[3:7], strict=True):
            left.close()
            assert is_answered(served, 5)
        assert time.monotonic() - begun < 1.4   # by the timer it is half a second for each
        allow(most + 9)
        assert is_answered(clients[7], 4)
        assert server.log.count("cannot accept connections: Too many open files") == 1


# --- the limit of connections ------------------------------------------------------------


@contextlib.contextmanager
def benches(kind):
    """A function that makes a Bench with the settings given."""
    with running_loop(asyncio.new_event_loop) as loop, contextlib.ExitStack() as stack:

        def make(**settings):
            app = App()
            app.get("/")(lambda: "home")
            bench = Bench(app, loop, kind, **settings)
            stack.callback(bench.close)
            return bench

        yield make


@pytest.fixture(params=["socket", "reader", "loop"])
def make_bench(request):
    with benches(request.param) as make:
        yield make


def ask(link):
    link.send(request("/"))
    return bool(link.received)


def test_the_surplus_waits_until_five_per_cent_have_left(make_bench):
    """max_connections over every transport; accepting begins again at 95 %, not at each end."""
    bench = make_bench(max_connections=40)
    links = [bench.connect() for _ in range(44)]

    assert [ask(link) for link in links] == [True] * 40 + [False] * 4
    assert bench.engine.connections == 40
    links[0].drop()
    bench.turn()
    assert bench.engine.connections == 39
    assert not links[40].received
    links[1].drop()
    bench.turn()
    assert [bool(link.received) for link in links[40:]] == [True, True, False, False]
    assert bench.engine.connections == 40


def test_a_limit_of_one_serves_one_after_the_other(make_bench):
    """The smallest limit there is."""
    bench = make_bench(max_connections=1)
    first, second = bench.connect(), bench.connect()

    assert (ask(first), ask(second)) == (True, False)
    first.drop()
    bench.turn()
    assert second.reply().status == 200


def test_the_limit_is_told_once_in_ten_seconds(make_bench, caplog):
    """However often it is met."""
    bench = make_bench(max_connections=2)
    for _ in range(10):
        links = [bench.connect() for _ in range(3)]
        bench.turn()
        for link in links:
            link.drop()

    lines = [record.getMessage() for record in caplog.records if "the limit" in record.getMessage()]
    assert lines == ["2 connections are open, the limit: new ones wait in the queue"]


def test_stopping_while_full_leaves_the_queue_alone(make_bench):
    """It is the kernel's, and perhaps another worker's; and nothing is accepted again."""
    bench = make_bench(max_connections=2)
    links = [bench.connect() for _ in range(3)]
    bench.engine.stop_listening()
    for link in links[:2]:
        link.drop()

    assert not ask(links[2])
    assert bench.engine.connections == 0


@pytest.fixture(params=["socket", "reader"])
def rejecting(request):
    """A Bench that has the one connection that it may have."""
    with benches(request.param) as make:
        bench = make(max_connections=1, when_full="reject", retry_after_s=3)
        assert ask(bench.connect())
        yield bench


def test_the_surplus_is_told_to_come_again(rejecting):
    """when_full="reject": 503, Retry-After, Connection: close, at once and without a request."""
    link = rejecting.connect()

    reply = link.reply()
    assert (reply.status, reply.reason) == (503, "Service Unavailable")
    assert reply.headers["retry-after"] == "3"
    assert reply.headers["connection"] == "close"
    assert link.closed
    assert rejecting.engine.connections == 1


def test_the_surplus_reads_its_answer_though_it_is_still_sending(rejecting):
    """Its bytes are read and thrown away: closing would reset the answer."""
    with socket.create_connection(rejecting.address, timeout=5) as client:
        for _ in range(10):
            client.sendall(b"x" * 10_000)
            rejecting.turn()
        received = client.recv(65536)
        assert received.startswith(b"HTTP/1.1 503 ")
        assert client.recv(65536) == b""


def test_the_surplus_is_read_only_so_far(rejecting):
    """Who never stops is dropped."""
    with socket.create_connection(rejecting.address, timeout=5) as client:
        for _ in range(1000):
            try:
                client.sendall(b"x" * 10_000)
            except ConnectionError:
                return
            rejecting.turn()
    raise AssertionError("ten megabytes were read")


def test_the_surplus_costs_few_descriptors(rejecting):
    """Sixteen at a time may finish reading; one more takes the place of the oldest."""
    before = len(os.listdir("/proc/self/fd"))
    clients = []
    for _ in range(40):
        client = socket.create_connection(rejecting.address, timeout=5)
        clients.append(client)
        rejecting.turn()
    assert len(os.listdir("/proc/self/fd")) - before == 40 + 16
    for client in clients:
        assert client.recv(65536).startswith(b"HTTP/1.1 503 ")
        client.close()
    rejecting.turn()
    assert len(os.listdir("/proc/self/fd")) == before


def test_accepting_begins_again_behind_rejections(rejecting):
    """When there is room, the next is served."""
    rejecting.links[0].drop()
    rejecting.turn()
    assert ask(link := rejecting.connect())
    assert link.reply().status == 200


@pytest.fixture
def loop_bench():
    with benches("loop") as make:
        yield make


def test_the_surplus_of_the_loops_transports_is_closed(loop_bench):
    """Those are TLS: plain bytes would say nothing."""
    bench = loop_bench(max_connections=1, when_full="reject")
    assert ask(bench.connect())
    link = bench.connect()

    assert link.closed
    assert link.received == b""


def test_mistakes_cannot_make_the_log_grow(loop_bench, caplog):
    """Ten tracebacks in ten seconds, whatever goes wrong in each new connection."""
    bench = loop_bench()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        bench.engine.listen_on_loop(listener, no_such_option=True)
        caplog.set_level(logging.ERROR)
        for _ in range(25):
            with socket.create_connection(listener.getsockname(), timeout=5) as client:
                bench.turn()
                assert client.recv(1) == b""
        bench.engine.stop_listening()

    assert len(caplog.records) == 10


# --- what the process may open -----------------------------------------------------------


@linux_only
def test_the_limit_comes_from_the_open_files_that_are_allowed(tmp_path):
    """The soft limit is raised to the hard one; 32 descriptors stay for everything else."""
    script = (
        "import resource, sys, runpy\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 100))\n"
        "sys.argv = ['fastserve', 'run', 'examples/hello.py', '--port', '0', "
        "'--log-level', 'debug', *sys.argv[1:]]\n"
        "runpy.run_module('fastserve', run_name='__main__')\n")
    for options, says in [
        ((), "at most 68 connections, of 100 open files"),
        (("--max-connections", "500"), "max_connections=500 is more than the limit of 100 open"),
    ]:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *options], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        lines = []
        while "listening" not in (line := process.stderr.readline()):
            assert line, lines
            lines.append(line)
        process.terminate()
        lines.append(process.communicate(timeout=DEADLINE_S)[1])
        said = "".join(lines)
        assert "raised the limit of open files from 64 to 100" in said
        assert says in said


@linux_only
def test_more_clients_than_descriptors_wait_and_are_served(tmp_path):
    """The derived limit keeps a worker from ever running out."""
    options = ("--max-connections", "20")
    with Server(tmp_path / "log", *options) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.ask()) for _ in range(30)]
        assert all(is_answered(client, 5) for client in clients[:20])
        assert not is_answered(clients[20], 0.2)
        for client in clients[:10]:
            client.close()
        assert all(is_answered(client, 5) for client in clients[20:])
