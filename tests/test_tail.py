"""`fastserve tail`: every request that ends is told once, or counted as missed."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from boards import add_request, add_row, block_of, put
from click.testing import CliRunner
from server_process import serve_in_process

import fastserve
from fastserve._speedups import scoreboard as layout
from fastserve.tail import Filter, Follower, as_json, as_text, tail
from fastserve.watching import duration_s, printable, shown_bytes, shown_s

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(fastserve.__file__).parent.parent)}
NASTY = "\x1b[2J\x1b]0;title\x07 a\r\nb\tc \u202e\u2028 \x9b1m \x00é"
APP = """
import asyncio, os, time
from fastserve import App, HTTPError

app = App()

@app.get("/")
def home():
    return "home"

@app.get("/users/{id}")
def user(id):
    raise HTTPError(404)

@app.get("/slow/{seconds:float}")
async def slow(seconds):
    await asyncio.sleep(seconds)
    raise HTTPError(503)

@app.get("/wait")
async def wait():
    while not os.path.exists("go-on"):
        await asyncio.sleep(0.01)
    return "waited"

@app.get("/block")
def block():
    while not os.path.exists("go-on"):
        time.sleep(0.01)
    return "blocked"
"""


def every(record):
    return True


class Tail:
    """A Follower of a board."""

    def __init__(self, board, blocks, last=0):
        self.board, self.blocks = board, blocks
        self.follower = Follower(last)

    def look(self, wants=every):
        """(numbers that ended, missed by pid)."""
        records = [self.board.requests(block) for block in self.blocks]
        ended, missed = self.follower.look([each for each in records if each], wants)
        return [record.number for record in ended], missed


def test_each_request_is_told_once_when_it_has_ended(board):
    """Not before, not again, and in the order of their ends."""
    block, _ = block_of(board)
    now_ns = time.monotonic_ns() - 10**9
    for number in range(1, 5):
        add_request(board, block, number)
    follower = Tail(board, [block], last=2)
    assert follower.look() == ([3, 4], {})
    add_request(board, block, 5, status=0, begun_ns=now_ns)
    add_request(board, block, 6, begun_ns=now_ns)
    assert follower.look() == ([6], {})
    assert follower.look() == ([], {})
    add_request(board, block, 7, begun_ns=now_ns, handler_s=0.2)
    add_request(board, block, 5, begun_ns=now_ns, handler_s=0.3)
    assert follower.look() == ([7, 5], {})


def test_what_went_by_between_two_looks_is_counted(board):
    """And what was under way when its place was taken; by worker."""
    block, _ = block_of(board, pid=17)
    add_request(board, block, 1)
    add_request(board, block, 2, status=0)
    follower = Tail(board, [block])
    assert follower.look() == ([], {})
    for number in range(3, 3 + 300):
        add_request(board, block, number)
    ended, missed = follower.look()
    assert ended == list(range(302 - 255, 303))
    assert missed == {17: 300 - 256 + 1}    # with number 2, whose end nobody will know
    assert follower.look() == ([], {})


def test_a_new_worker_in_a_block_begins_anew(board):
    """Its numbers begin at 1; what it had before the first look counts."""
    block, _ = block_of(board, pid=17)
    for number in range(1, 100):
        add_request(board, block, number)
    follower = Tail(board, [block])
    follower.look()
    board.retire(block)
    follower.look()
    assert block_of(board, pid=18)[0] == block
    for number in range(1, 4):
        add_request(board, block, number)
    assert follower.look() == ([1, 2, 3], {})


def test_filters_must_all_hold(board):
    """Duration, status or its class, route with or without its method."""
    block, _ = block_of(board)
    row = add_row(board, block, b"GET /users/{id}", {200: 1})
    add_request(board, block, 1, status=200, handler_s=0.2, row=row)
    add_request(board, block, 2, status=503, handler_s=0.01, row=row)
    add_request(board, block, 3, status=404, handler_s=0.2)
    records = board.requests(block)

    def chosen(**wanted):
        return [record.number for record in records if Filter(**wanted).wants(record)]

    assert chosen() == [1, 2, 3]
    assert chosen(slow_s=0.1) == [1, 3]
    assert chosen(statuses=("5xx",)) == [2]
    assert chosen(statuses=("4xx", "200")) == [1, 3]
    assert chosen(statuses=("400",)) == []
    assert chosen(route="/users/{id}") == chosen(route="GET /users/{id}") == [1, 2]
    assert chosen(route="POST /users/{id}") == chosen(route="/users") == []
    assert chosen(route="/users/{id}", slow_s=0.1, statuses=("2xx",)) == [1]


def test_nothing_that_a_stranger_sent_reaches_the_terminal(board):
    """Not by line, client or id, nor by a route: all on one line, without controls."""
    block, _ = block_of(board)
    sent = NASTY.encode()
    row = add_row(board, block, b"GET /" + sent, {200: 1})
    add_request(board, block, 1, row=row, line=b"GET /" + sent + b"\xff\xfe", id=sent[:30],
                client=sent[:30])
    (record,) = board.requests(block)
    for text in (as_text(record), as_json(record)):
        assert text.isprintable()
        assert "\\x1b[2J" in text or "\\u001b[2J" in text
    assert json.loads(as_json(record))["line"] == f"GET /{NASTY}\ufffd\ufffd"
    assert printable("plain é 日本") == "plain é 日本"


def test_phases_are_shown(board):
    """Of what has ended, what is being sent, and what nobody has answered."""
    block, _ = block_of(board, pid=17)
    add_request(board, block, 1, handler_s=0.0034, send_s=1.5, body_bytes=2048)
    add_request(board, block, 2, status=0)
    put(board, block, layout.AT_CURRENT, 2)
    ended, under_way = board.requests(block)
    assert "200    1.5s  (handler 3.4ms, send 1.5s)  2.0K" in as_text(ended)
    assert "(under way)" in as_text(under_way)
    add_request(board, block, 3, wait_s=0.05, handler_s=0.002, send_s=0.001)
    assert "(wait 50ms, handler 2.0ms, send 1.0ms)" in as_text(board.requests(block)[-1])
    assert "HOLDS THE LOOP" in as_text(under_way)
    assert json.loads(as_json(under_way))["handler_s"] is None


@pytest.mark.parametrize(("text", "seconds"), [
    ("100ms", 0.1), ("1.5s", 1.5), ("250us", 0.00025), ("250 µs", 0.00025), ("2m", 120.0),
    ("0s", 0.0)])
def test_durations_have_units(text, seconds):
    """As people write them."""
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "100", "ms", "-1s", "1h", "1e3s", "1,5s", "nan", "\u0661s"])
def test_a_duration_that_is_none_is_refused(text):
    """A plain number would be a guess."""
    with pytest.raises(ValueError, match="100ms"):
        duration_s(text)


@pytest.mark.parametrize("words", [
    ["--slow", "100"], ["--status", "6xx"], ["--status", "5x"], ["--status", "ok"],
    ["--last", "-1"], []])
def test_wrong_usage_says_how(words):
    """Status 2 and the option, before anything is asked."""
    given = ["--control", "nowhere.sock", *words] if words else []
    result = CliRunner().invoke(tail, given)
    assert result.exit_code == 2
    assert (words[0] if words else "--control") in result.output


def test_figures_are_short():
    """Three digits and a unit."""
    assert [shown_s(each) for each in (None, 0, 8.5e-7, 2.34e-5, 3.44e-3, 0.99951, 12.3)] == [
        "-", "0", "0.8us", "23us", "3.4ms", "1000ms", "12s"]
    assert [shown_bytes(each) for each in (None, 0, 999, 1000, 5 << 20, 1 << 40)] == [
        "-", "0B", "999B", "1.0K", "5.0M", "1024G"]


# Against a real server.


def serving(directory):
    if sys.platform != "linux":
        pytest.skip("slots are Linux's")
    (directory / "main.py").write_text(APP)
    return serve_in_process(
        directory, "--workers", "1", "--control", "c.sock", "--graceful-timeout-s", "2",
        target="main.py")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Where the control socket of the server is."""
    return tmp_path_factory.mktemp("tail")


@pytest.fixture(scope="module")
def server(directory):
    with serving(directory) as server:
        yield server


class Following:
    """`fastserve tail FLAGS` and what it printed."""

    def __init__(self, directory, *flags):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fastserve", "tail", "--control", "c.sock", *flags],
            cwd=directory, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True)
        self.lines, self.errors = [], []
        for stream, kept in (
                (self.process.stdout, self.lines), (self.process.stderr, self.errors)):
            threading.Thread(target=self.keep, args=(stream, kept)).start()

    @staticmethod
    def keep(stream, kept):
        for line in stream:
            kept.append(line.rstrip("\n"))
        stream.close()

    def until(self, condition):
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, (self.lines, self.errors)
            time.sleep(0.02)

    def end(self):
        """The exit status behind a Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)

    def close(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def follow(directory):
    """Start `fastserve tail` with some flags; it ends with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *flags, at=directory: stack.enter_context(
            contextlib.closing(Following(at, *flags)))


def get(server, *paths):
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    for path in paths:
        client.request("GET", path)
        client.getresponse().read()
    client.close()


def test_requests_are_printed_as_they_end(server, follow):
    """Those that the filters want; Ctrl-C is a good end."""
    get(server, "/")    # the others begin with this one, so that they have looked
    everything = follow("--last", "1")
    slow = follow("--last", "0", "--slow", "50ms", "--status", "5xx", "--json")
    routed = follow("--route", "/users/{id}", "--last", "0")
    everything.until(lambda: everything.lines)
    deadline = time.monotonic() + 20
    while not routed.lines:     # it says nothing of what was before it
        assert time.monotonic() < deadline
        get(server, "/users/1")
        time.sleep(0.1)
    while not slow.lines:
        assert time.monotonic() < deadline
        get(server, "/slow/0.2")
    get(server, "/?a=1", "/slow/0.1", "/users/7", "/slow/0", "/nowhere")
    everything.until(lambda: any('"GET /nowhere"' in line for line in everything.lines))
    slow.until(lambda: "/slow/0.1" in slow.lines[-1])
    routed.until(lambda: any("/users/7" in line for line in routed.lines))

    assert "200" in everything.lines[0]
    assert '"GET /"' in everything.lines[0]
    shown = "\n".join(everything.lines)
    assert shown.count('"GET /?a=1"') == shown.count('"GET /slow/0.1"') == 1
    found = json.loads(slow.lines[-1])
    assert (found["status"], found["route"]) == (503, "/slow/{seconds:float}")
    assert 0.09 <= found["handler_s"] <= found["duration_s"] < 20   # timers may be a little early
    assert all("GET /users/{id}" in line for line in routed.lines)
    assert [each.end() for each in (everything, slow, routed)] == [0, 0, 0]


def test_what_runs_now_is_printed(server, directory):
    """The oldest first; the one whose handler has the loop is named; then it ends."""
    deadline = time.monotonic() + 20

    def now():
        done = subprocess.run(
            [sys.executable, "-m", "fastserve", "tail", "--control", "c.sock", "--under-way"],
            cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, timeout=30,
            check=True)
        return done.stdout.splitlines()

    threads = [
        threading.Thread(target=get, args=(server, path)) for path in ("/wait?7", "/block?8")]
    try:
        threads[0].start()
        while not (lines := now()):
            assert time.monotonic() < deadline
        assert len(lines) == 1
        assert '"GET /wait?7"' in lines[0]
        threads[1].start()
        while "HOLDS THE LOOP" not in "".join(lines := now()):
            assert time.monotonic() < deadline
        assert len(lines) == 2
        assert "HOLDS" not in lines[0]
        assert '"GET /block?8"' in lines[1]
    finally:
        (directory / "go-on").touch()
        for thread in threads:
            thread.join()


def test_too_many_between_two_looks_are_counted(server, follow):
    """It was stopped for a while."""
    get(server, "/")
    follower = follow()
    follower.until(lambda: follower.lines)
    follower.process.send_signal(signal.SIGSTOP)
    get(server, *["/"] * 600)
    follower.process.send_signal(signal.SIGCONT)
    follower.until(lambda: follower.errors)
    assert "requests went by between two looks" in follower.errors[0]
    assert follower.end() == 0


def test_it_ends_with_the_server_and_says_so(tmp_path, follow):
    """And without one it does not begin."""
    with serving(tmp_path) as server:
        get(server, "/")
        follower = follow(at=tmp_path)
        follower.until(lambda: follower.lines)
    assert follower.process.wait(30) == 1
    follower.until(lambda: follower.errors)
    assert follower.errors == [
        line for line in follower.errors if line.startswith("fastserve: control='c.sock': ")]
    assert follow(at=tmp_path).process.wait(30) == 1


def test_a_reader_that_has_enough_is_no_error(server, directory):
    """`fastserve tail | head -1`."""
    get(server, *["/"] * 20)
    done = subprocess.run(
        f"{sys.executable} -m fastserve tail --control c.sock | head -1", shell=True,
        cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
