"""The benches' clients do not flatter: waiting counts from when a request was due, faults count."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from benchmarks.native import build

REQUEST = b"GET / HTTP/1.1\r\nHost: bench.example\r\n\r\n"
WORLD = '1:"randomNumber":{:}'


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the clients are built."""
    return tmp_path_factory.mktemp("programs")


class Server:
    """Answers with what `answer` gives for the how-manieth request of all; None closes."""

    def __init__(self, answer: Callable[[int], bytes | None], wait_s: float = 0.0) -> None:
        self.answer = answer
        self.wait_s = wait_s
        self.requests = 0
        self.under_way = 0
        self.most_under_way = 0
        self.port = 0
        self._up = threading.Event()
        self._down = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    async def _run(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._up.set()
        await self._down.wait()
        # The client has ended, so every connection does. Those in the queue are accepted first:
        # asyncio loses one that it accepts while its server closes.
        await asyncio.sleep(0.02)
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=10)
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.requests += 1
                self.under_way += 1
                self.most_under_way = max(self.most_under_way, self.under_way)
                answer = self.answer(self.requests)
                if self.wait_s:
                    await asyncio.sleep(self.wait_s)
                self.under_way -= 1
                writer.write(answer or b"")
                if answer is None or b"Connection: close" in answer or b"cut off" in answer:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def __enter__(self) -> Server:
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._down.set)
        self._thread.join(10)
        self._loop.close()


def plain(body: bytes, head: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body)


def chunked(*parts: bytes) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (*parts, b""))
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body


def pace(
    programs: Path,
    server: Server,
    *,
    rate_per_s: float = 0,
    connections: int = 4,
    depth: int = 1,
    seconds: float = 0.3,
    check: str = "same",
    postmaster: int = 0,
) -> dict[str, Any]:
    request = programs / "request"
    request.write_bytes(REQUEST)
    command = [build("pace", programs), server.port, request, connections, depth, rate_per_s, 0.1,
               seconds, check, postmaster, os.getpid()]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_stall_costs_every_request_that_was_due_meanwhile(programs: Path) -> None:
    """Of 600 a second a stall of 0.4 s meets 240, and 4 connections hide none of them."""

    def answer(number: int) -> bytes:
        if number == 200:
            time.sleep(0.4)
        return plain(b"Hello")

    with Server(answer) as server:
        got = pace(programs, server, rate_per_s=600, seconds=1.2)
    assert got["answered"]
    assert got["p999_us"] > 350_000
    assert got["p90_us"] > 100_000      # were only the 4 counted that were sent: 0.6 % of all
    assert got["queued"] > 100


def test_the_schedule_does_not_depend_on_the_answers(programs: Path) -> None:
    """As many requests are due at a server that is too slow as at one that is not."""
    with Server(lambda _: plain(b"Hello")) as fast, Server(
        lambda _: plain(b"Hello"), wait_s=0.1
    ) as slow:
        at_once = pace(programs, fast, rate_per_s=400, seconds=0.5)
        late = pace(programs, slow, rate_per_s=400, seconds=0.5, connections=1)
    assert at_once["due"] == late["due"]
    assert 130 < at_once["due"] < 270
    assert at_once["dropped"] == 0
    assert late["dropped"] > late["due"] / 2
    assert late["p50_us"] > 1_000_000   # those that were never answered count with their wait


def test_never_more_are_under_way_than_there_are_connections(programs: Path) -> None:
    with Server(lambda _: plain(b"Hello"), wait_s=0.02) as server:
        got = pace(programs, server, rate_per_s=1000, connections=3)
    assert server.most_under_way == 3
    assert got["queued"] > got["due"] / 2
    assert got["errors"] == 0


def test_a_closed_loop_keeps_every_connection_busy(programs: Path) -> None:
    with Server(lambda _: plain(b"Hello"), wait_s=0.02) as server:
        got = pace(programs, server, connections=5)
    assert server.most_under_way == 5
    assert 0 < got["answered"] <= 5 * 0.4 / 0.02
    assert got["p50_us"] >= 20_000 * 0.98  # a bucket is 1.6 % wide
    assert (got["errors"], got["mismatched"], got["bad_status"]) == (0, 0, 0)


def test_pipelined_requests_are_answered_in_one_piece_or_many(programs: Path) -> None:
    with Server(lambda _: plain(b"Hello")) as server:
        got = pace(programs, server, depth=16, connections=2, seconds=1.0)
    assert got["answered"] >= 16
    assert (got["errors"], got["mismatched"]) == (0, 0)


def test_bodies_may_differ_where_their_shape_is_asked_for(programs: Path) -> None:
    """Numbers, white space, the order of names and the framing are the server's own."""

    def answer(number: int) -> bytes:
        body = json.dumps({"id": number, "randomNumber": number**3}).encode()
        return (plain(body), plain(b" " + body + b"\n"), chunked(body[:9], body[9:]),
                plain(b'{"randomNumber":7,"id":1}', b"content-type: text/json\r\n"))[number % 4]

    with Server(answer) as server:
        got = pace(programs, server, check=WORLD, seconds=1.0)
    assert got["answered"] > 10
    assert (got["errors"], got["mismatched"], got["bad_status"]) == (0, 0, 0)


@pytest.mark.parametrize("body", [
    b'{"id":1,"randomNumber":7', b'{"id":1}', b'[{"id":1,"randomNumber":7}]', b"",
    b'{"id":1,"randomNumber":7,"randomNumber":8}', b'oops {"randomNumber":7}'])
def test_a_body_of_another_shape_is_counted(programs: Path, body: bytes) -> None:
    with Server(lambda number: plain(b'{"randomNumber":1}' if number % 2 else body)) as server:
        got = pace(programs, server, check=WORLD, connections=1)
    assert got["errors"] == 0
    assert abs(got["mismatched"] - server.requests / 2) <= 1


def test_another_body_than_the_first_is_counted(programs: Path) -> None:
    with Server(lambda number: plain(b"Hello" if number % 5 else b"Hullo")) as server:
        got = pace(programs, server, connections=1)
    assert abs(got["mismatched"] - server.requests / 5) <= 1


def test_a_status_other_than_200_is_counted(programs: Path) -> None:
    wrong = plain(b"Hello").replace(b"200 OK", b"500 No")
    with Server(lambda number: plain(b"Hello") if number % 3 else wrong) as server:
        got = pace(programs, server, connections=1, rate_per_s=300)
    assert abs(got["bad_status"] - server.requests // 3) <= 1
    assert (got["mismatched"], got["errors"]) == (0, 0)


@pytest.mark.parametrize("answer", [
    None,
    b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\ncut off",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ncut off\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\ncut off\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ncut off..0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nHello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nHello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nHello",
    b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nHello",
    b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nHello",
    plain(b"Hello") + b"more",
])
def test_an_answer_that_is_cut_off_or_malformed_is_an_error(
    programs: Path, answer: bytes | None
) -> None:
    """Every second answer is; the client begins anew, and an answer that is right still counts."""
    with Server(lambda number: plain(b"Hello") if number % 2 else answer) as server:
        got = pace(programs, server, connections=1, seconds=0.5)
    assert got["errors"] > 1
    assert abs(got["errors"] - server.requests / 2) <= 2
    assert got["mismatched"] == 0


@pytest.mark.parametrize("rate_per_s", [0, 100])
def test_a_connection_that_is_closed_in_good_order_is_no_error(
    programs: Path, rate_per_s: float
) -> None:
    """Nothing more is asked for on it: the next request has another."""
    with Server(lambda _: plain(b"Hello", b"Connection: close\r\n")) as server:
        got = pace(programs, server, rate_per_s=rate_per_s, seconds=1.0)
    assert got["errors"] == 0
    assert got["answered"] > 10


@contextmanager
def family() -> Iterator[subprocess.Popen[bytes]]:
    """A process that sleeps, with a child that does not."""
    busy = "import sys; print(flush=True)\nwhile True: pass"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True,
                               stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_the_cpu_of_the_database_is_that_of_its_children_too(programs: Path) -> None:
    with Server(lambda _: plain(b"Hello"), wait_s=0.01) as server, family() as database:
        got = pace(programs, server, postmaster=database.pid, seconds=0.5)
    assert got["database_ns"] > 20_000_000
    assert 0 < got["cpu_ns"] < got["wall_ns"] * 2


def test_the_client_of_fixed_answers_counts_those_that_differ(programs: Path) -> None:
    """`load` compares the bodies of answers that come in one piece."""
    request = programs / "request"
    request.write_bytes(REQUEST)
    with Server(lambda number: plain(b"Hello" if number < 20 else b"Hullo")) as server:
        command = [build("load", programs), "keep", server.port, request, 2, 1, 0.1, 1.0,
                   os.getpid()]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60,
                              check=True)
    got = json.loads(done.stdout)
    assert got["mismatched"] > 0
    assert got["errors"] == 0
    assert got["cpu_ns"] > 0


def test_a_wrong_use_is_told(programs: Path) -> None:
    done = subprocess.run([build("pace", programs)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "see the head of pace.c\n")
