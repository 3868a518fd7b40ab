"""What the kernel is asked for: strace counts it in a real server."""

from __future__ import annotations

import collections
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import read_replies, request

ROOT = Path(__file__).parent.parent
CALL = re.compile(r"^\d+ +(\w+)\((\d+)[,)]")


@pytest.fixture
def traced(tmp_path, needs, request):
    """A server under strace: its address, its process, and stop(), which gives the calls made.

    They are by descriptor, the first argument. The fixture's parameter is further options.
    """
    options = getattr(request, "param", ())
    strace = needs("strace")
    log = tmp_path / "calls"
    server = subprocess.Popen(
        [
            *(strace, "-f", "-qq", "-o", str(log)),
            *("-e", "trace=network,read,write,writev,epoll_ctl,epoll_pwait"),
            *(sys.executable, "-m", "fastserve", "run", "examples/hello.py", "--port", "0"),
            *options,
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    said, found = "", None
    while found is None:
        line = server.stderr.readline()
        said += line
        found = re.search(r"listening on http://([\d.]+):(\d+)", line)
        if not line:
            pytest.fail(f"the server did not start: {said}")

    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
    pid = int(children)

    def stop() -> dict[int, list[str]]:
        os.kill(pid, signal.SIGINT)
        server.wait(20)
        calls = collections.defaultdict(list)
        for call in map(CALL.match, log.read_text().splitlines()):
            if call:
                calls[int(call[2])].append(call[1])
        return calls

    try:
        yield (found[1], int(found[2])), pid, stop
    finally:
        server.kill()
        server.wait()
        server.stderr.close()


def ask(client: socket.socket, data: bytes, count: int) -> None:
    """Send one batch, read its replies."""
    client.sendall(data)
    received = b""
    while len(read_replies(received)[0]) < count:
        received += client.recv(1 << 16)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="strace is Linux's")
def test_one_recv_and_one_send_per_batch(traced):
    """A read batch, of one request or of sixteen, costs one recv and one send, nothing else."""
    address, pid, stop = traced
    os.kill(pid, signal.SIGSTOP)    # so that the first request is there at the accept
    with socket.create_connection(address) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(request("/"))
        os.kill(pid, signal.SIGCONT)
        ask(client, b"", 1)
        for _ in range(19):
            ask(client, request("/"), 1)
        for _ in range(20):
            ask(client, request("/json") * 16, 16)
    calls = stop()

    connections = [names for names in calls.values() if names.count("sendto") >= 40]
    assert len(connections) == 1
    counted = collections.Counter(connections[0])
    assert counted["sendto"] == 40
    assert counted["recvfrom"] == 41  # and the end of input
    assert set(counted) <= {"sendto", "recvfrom"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="strace is Linux's")
def test_a_connection_costs_no_other_calls(traced):
    """Accepting sets no options: one accept4, one registration, the request, the end."""
    address, _, stop = traced
    for _ in range(10):
        with socket.create_connection(address) as client:
            ask(client, request("/", Connection="close"), 1)
    calls = stop()

    every = collections.Counter(name for names in calls.values() for name in names)
    assert every["setsockopt"] <= 20  # of the listener and the loop, not per connection
    assert every["getpeername"] == 0
    assert every["getsockname"] <= 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="strace is Linux's")
def test_a_quick_client_with_one_request_is_not_registered(traced):
    """Its request is there when it is accepted: accept4, recv, send, close, and no epoll_ctl."""
    address, pid, stop = traced
    os.kill(pid, signal.SIGSTOP)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address)) for _ in range(40)]
        for client in clients:
            client.sendall(request("/", Connection="close"))
        os.kill(pid, signal.SIGCONT)
        for client in clients:
            ask(client, b"", 1)
    calls = stop()

    every = collections.Counter(name for names in calls.values() for name in names)
    assert every["sendto"] == 40
    assert every["recvfrom"] < 50       # the loop has a few of its own
    assert every["epoll_ctl"] < 40      # of the loop and its listeners


@pytest.mark.parametrize(("traced", "least", "most"), [
    ((), 1, 50), (("--busy-poll-us", "200000"), 60, 1_000_000)], indirect=["traced"])
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="strace is Linux's")
def test_a_server_that_polls_asks_the_kernel_again_and_again(traced, least, most):
    """--busy-poll-us: between one request and the next the loop turns many times, or a few."""
    address, _, stop = traced
    with socket.create_connection(address) as client:
        ask(client, request("/"), 1)
        time.sleep(0.25)
        ask(client, request("/"), 1)
    calls = stop()

    turns = max(names.count("epoll_pwait") for names in calls.values())
    assert least <= turns <= most
