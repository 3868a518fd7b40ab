"""The rows of tests/faults that are quick, with real workers; and that its clients miss nothing."""

import contextlib
import itertools
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

if not sys.platform.startswith("linux"):
    pytest.skip("slots are Linux's", allow_module_level=True)

sys.path.append(str(ROOT))

from tests.faults.load import Kind, Load, run  # noqa: E402
from tests.faults.seen import Ended  # noqa: E402
from tests.faults.serving import Kill, accepted  # noqa: E402
from tests.ports import free_port  # noqa: E402

ANSWER = b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\n\r\n%s"
RESET = struct.pack("ii", 1, 0)


@pytest.fixture
def broken():
    """Start a server that does one thing wrong; its address."""
    with contextlib.ExitStack() as stack:
        def start(answer):
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            thread = threading.Thread(target=serve, args=(listener, answer), daemon=True)
            thread.start()
            stack.callback(thread.join, 30)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)     # which ends accept()
            return listener.getsockname()

        yield start


def serve(listener, answer):
    """Each connection: read a request, and let answer(socket, number, how many before) go on."""
    while True:
        try:
            client = listener.accept()[0]
        except OSError:
            return
        with client, contextlib.suppress(OSError):
            for count in itertools.count():
                number = re.search(rb"/(\d+) ", client.recv(65536))
                if number is None:
                    break
                answer(client, number[1], count)


def says(status, body=None):
    """An answer that is wrong in its status or its body."""
    def answer(client, number, count):
        text = number if body is None else body
        client.sendall(ANSWER % (status, len(text), text))

    return answer


def ends_early(client, number, count):
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + number)
    client.close()


def resets(client, number, count):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()


def answers_once(client, number, count):
    if count:
        client.close()
    else:
        says(200)(client, number, count)


def is_silent(client, number, count):
    pass


@pytest.mark.parametrize(("answer", "how"), [
    (says(503), "5xx"), (says(404), "wrong"), (says(200, b"0"), "wrong"), (ends_early, "eof"),
    (resets, "reset"), (answers_once, "stale"), (is_silent, "timeout")],
    ids=["status", "not-found", "other-body", "half", "reset", "once", "silent"])
def test_the_clients_tell_how_a_request_ended(broken, answer, how):
    """Every way that is not the right answer is counted, as what it is."""
    kind = Kind("kept", 1, 20, kept=True)
    seen = run(Load(broken(answer), (kind,), seconds=1.5, patience_s=0.5))["kept"]

    assert set(seen.by_class) == {how}
    assert seen.attempted == seen.answered + sum(seen.by_class.values())
    assert seen.failed == (0 if how == "stale" else seen.by_class[how])
    assert {ended.how for ended in seen.ended} == {how}


def test_nobody_there_is_refused():
    """And the clients do not spin."""
    seen = run(Load(("127.0.0.1", free_port()), (Kind("new", 2),), seconds=0.3))["new"]

    assert set(seen.by_class) == {"refused"}
    assert 2 <= seen.attempted < 100


def test_a_kill_explains_only_what_its_victim_had_accepted():
    """By the port of the client, and by the time."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        address = listener.getsockname()
        clients = [stack.enter_context(socket.create_connection(address)) for _ in range(3)]
        for _ in range(2):
            stack.enter_context(listener.accept()[0])
        first, second, queued = (client.getsockname()[1] for client in clients)
        kill = Kill(os.getpid(), 10.0, 10.0, accepted(os.getpid(), address))

    assert kill.ports == {first, second}
    assert kill.explains(Ended("reset", first, 9.0, 10.1))
    assert kill.explains(Ended("eof", second, 9.0, 10.1))
    assert not kill.explains(Ended("reset", queued, 9.0, 10.1))
    assert not kill.explains(Ended("reset", first, 10.5, 10.6))
    assert not kill.explains(Ended("reset", first, 5.0, 9.0))
    assert not kill.explains(Ended("wrong", first, 9.0, 10.1))


@pytest.mark.parametrize("row", ["L1", "L8", "L9", "G2", "G3"])
def test_a_row_holds_in_its_short_form(row):
    """`.ci/run faults` runs all of them."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", row],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
