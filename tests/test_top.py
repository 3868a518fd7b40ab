"""`fastserve top`: what a server does now, in a terminal, as text and as JSON."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest
from boards import add_request, add_row, block_of, put, set_row
from server_process import serve_in_process

import fastserve
from fastserve._speedups import scoreboard as layout
from fastserve.top import Sample, frame, lines_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="slots are Linux's")

ENVIRONMENT = {
    **os.environ, "PYTHONPATH": str(Path(fastserve.__file__).parent.parent), "TERM": "xterm"}
COMMAND = [sys.executable, "-m", "fastserve", "top", "--control", "c.sock"]
APP = """
import os, time
from fastserve import App, HTTPError

app = App()

@app.get("/")
def home():
    return "home"

@app.get("/boom")
def boom():
    raise HTTPError(500)

@app.get("/block")
def block():
    while not os.path.exists("go-on"):
        time.sleep(0.01)
    return "blocked"
"""


class Directly:
    """What Watched is, without a server."""

    def __init__(self, board):
        self.read, self.requests = board.read, board.requests


def later(board, before, seconds=2.0):
    """A look so much after another."""
    after = Sample.take(Directly(board))
    return Sample(before.at_s + seconds, after.reading, after.held, after.cpu_s)


def test_rates_are_of_the_interval(board):
    """By route over all workers, and by worker; a new worker's count from nothing."""
    first, writer = block_of(board, slot=0)
    row = add_row(board, first, b"GET /", {200: 100})
    before = Sample.take(Directly(board))
    set_row(board, first, row, b"GET /", {200: 106, 404: 2}, seconds=0.001)
    writer.tick(0.5, {layout.AT_CONNECTIONS: 3, layout.AT_DRAINING: 1, layout.AT_BYTES_OUT: 2048})
    second, _ = block_of(board, slot=1)
    add_row(board, second, b"GET /", {500: 4}, seconds=0.1)
    add_row(board, second, b"GET /b", {200: 2}, seconds=0.1)

    shown = frame(before, later(board, before), "rate")
    assert shown.rates.requests_s == 7
    assert (shown.rates.errors_4xx_s, shown.rates.errors_5xx_s) == (1, 2)
    assert shown.sent_bytes_s == 1024
    home, other = shown.routes
    assert (home.route, home.rates.requests_s, home.rates.errors_5xx_s) == ("/", 6, 2)
    assert 0.0005 < home.rates.p50_s < 0.002
    assert 0.05 < home.rates.p99_s < home.rates.longest_s < 0.2
    assert (other.route, other.rates.requests_s) == ("/b", 1)
    one, two = shown.workers
    assert (one.slot, one.state, one.connections, one.rates.requests_s) == (0, "draining", 3, 4)
    assert (two.slot, two.state, two.rates.requests_s) == (1, "serving", 3)
    assert one.lag_s == 0.5
    assert one.rss_bytes > 2**20


def test_routes_are_sorted(board):
    """By what was asked for, the highest first; without requests they are not shown."""
    block, _ = block_of(board)
    before = Sample.take(Directly(board))
    add_row(board, block, b"GET /often", {200: 100}, seconds=0.001)
    add_row(board, block, b"GET /slow", {200: 10}, seconds=1)
    add_row(board, block, b"GET /bad", {500: 2, 404: 5}, seconds=0.002)
    add_row(board, block, b"GET /never", {})
    after = later(board, before)

    def first(sort):
        return [line.route for line in frame(before, after, sort).routes]

    assert first("rate") == ["/often", "/slow", "/bad"]
    assert first("p99") == ["/slow", "/bad", "/often"]
    assert first("errors") == ["/bad", "/often", "/slow"]


def test_who_ended_takes_nothing_away(board):
    """A worker that retired between two looks: its requests count, and no rate is below 0."""
    block, _ = block_of(board)
    row = add_row(board, block, b"GET /", {200: 100})
    before = Sample.take(Directly(board))
    set_row(board, block, row, b"GET /", {200: 110})
    board.retire(block)
    shown = frame(before, later(board, before), "rate")
    assert shown.rates.requests_s == 5
    assert shown.workers == ()
    assert "\n".join(lines_of(shown, sort="rate"))


def test_a_held_loop_is_named_and_nothing_is_obeyed(board):
    """With the request that holds it, escaped."""
    block, _ = block_of(board, pid=17)
    row = add_row(board, block, b"GET /\x1b[31m{id}", {200: 1})
    add_request(board, block, 9, status=0, row=row, line=b"GET /\x1b]0;x\x07\r\n\x9b",
                begun_ns=time.monotonic_ns() - 2 * 10**9)
    put(board, block, layout.AT_CURRENT, 9)
    before = Sample.take(Directly(board))
    set_row(board, block, row, b"GET /\x1b[31m{id}", {200: 9})
    shown = frame(before, later(board, before), "rate")
    assert shown.workers[0].state == "held"
    text = lines_of(shown, sort="rate")
    assert all(line.isprintable() for line in text)
    (held,) = [line for line in text if "is held for" in line]
    assert held.startswith("worker 17 is held for 2.")
    assert '"GET /\\x1b]0;x\\x07\\r\\n' in held


# Against a real server.


@contextlib.contextmanager
def serving(directory):
    (directory / "main.py").write_text(APP)
    with serve_in_process(
            directory, "--workers", "2", "--control", "c.sock", "--graceful-timeout-s", "2",
            target="main.py") as server:
        deadline = time.monotonic() + 30
        while server.log.count("listening on") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield server


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Where the control socket of the server is."""
    return tmp_path_factory.mktemp("top")


@pytest.fixture(scope="module")
def server(directory):
    with serving(directory) as server:
        yield server


@pytest.fixture
def load(server):
    """Clients that ask until the end of the test."""
    over = threading.Event()

    def ask():
        while not over.is_set():
            for path in ("/", "/", "/boom"):
                client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
                client.request("GET", path)
                client.getresponse().read()
                client.close()

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    over.set()
    thread.join()


def top(directory, *flags, status=0):
    done = subprocess.run([*COMMAND, *flags], cwd=directory, env=ENVIRONMENT, capture_output=True,
                          text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


@pytest.mark.usefixtures("load")
def test_one_look_as_text_and_as_json(server, directory):
    """Every worker and every route that was asked for; no escape sequences."""
    text = top(directory, "--once", "--interval-s", "0.5")
    assert "\x1b" not in text
    assert f"fastserve {server.process.pid} " in text
    assert "GET /boom" in text
    found = json.loads(top(directory, "--once", "--json", "--interval-s", "0.5"))
    assert [worker["slot"] for worker in found["workers"]] == [0, 1]
    assert all(worker["rss_bytes"] > 2**20 for worker in found["workers"])
    routes = {route["route"]: route["rates"] for route in found["routes"]}
    assert routes["/boom"]["errors_5xx_s"] == routes["/boom"]["requests_s"] > 0
    assert routes["/"]["errors_5xx_s"] == 0
    assert found["rates"]["requests_s"] == pytest.approx(
        sum(worker["rates"]["requests_s"] for worker in found["workers"]))


@pytest.mark.usefixtures("server")
def test_without_a_terminal_it_prints_on(directory):
    """One table below the other, until Ctrl-C; a reader that leaves is no error."""
    process = subprocess.Popen(
        [*COMMAND, "--interval-s", "0.1", "--json"], cwd=directory, env=ENVIRONMENT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert lines[0]["at_s"] < lines[1]["at_s"] < lines[2]["at_s"]
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert process.stderr.read() == ""
    process.stdout.close()
    process.stderr.close()
    done = subprocess.run(
        f"{' '.join(COMMAND)} --interval-s 0.1 | head -1", shell=True, cwd=directory,
        env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_without_a_server_it_says_so(tmp_path):
    """Status 1 and one line."""
    assert "control='c.sock': " in top(tmp_path, "--once", status=1)


class Terminal:
    """`fastserve top` in a pseudo-terminal."""

    def __init__(self, directory):
        self.master, slave = pty.openpty()
        self.resize(100, 30)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(
            [*COMMAND, "--interval-s", "0.2"], cwd=directory,
            env={key: value for key, value in ENVIRONMENT.items()
                 if key not in ("COLUMNS", "LINES")},
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        self.output = ""

    def resize(self, columns, rows):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, condition):
        """Read until what came fulfils a condition."""
        deadline = time.monotonic() + 30
        while not condition(self.output):
            assert time.monotonic() < deadline, self.output
            if select.select([self.master], [], [], 0.1)[0]:
                self.output += os.read(self.master, 65536).decode()

    def key(self, key):
        self.output = ""
        os.write(self.master, key.encode())

    def end(self):
        """Its exit status; the terminal must be as it was."""
        self.until(lambda output: "\x1b[?1049l" in output)
        status = self.process.wait(30)
        assert termios.tcgetattr(self.slave) == self.before
        assert self.output.count("\x1b[?25h") == 1      # the cursor is back
        return status

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.slave)
        os.close(self.master)


@pytest.fixture
def terminal(server, directory):
    """A terminal in which top runs; it ends with the test."""
    with contextlib.closing(Terminal(directory)) as terminal:
        yield terminal


@pytest.mark.usefixtures("load")
def test_in_a_terminal_it_shows_keys_work_and_q_ends_it(terminal):
    """One frame over the other, as large as the terminal is, which is given back."""
    shown = terminal
    shown.until(lambda output: "(by rate)" in output and "GET /boom" in output)
    assert shown.output.startswith("\x1b[?1049h")
    shown.key("s")
    shown.until(lambda output: "(by p99)" in output)
    shown.output = ""
    shown.resize(40, 6)
    os.kill(shown.process.pid, signal.SIGWINCH)
    shown.until(lambda output: output.count("\x1b[H") > 3)
    last = shown.output.split("\x1b[H")[-2]
    assert last.count("\x1b[K") == 6
    for sequence in ("\x1b[K", "\x1b[J", "\x1b[1m", "\x1b[0m"):
        last = last.replace(sequence, "")
    assert len(last.split("\r\n")) == 6
    assert max(len(line) for line in last.split("\r\n")) <= 40
    shown.key("q")
    assert shown.end() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_gives_the_terminal_back_too(terminal, number):
    """Ctrl-C, or a kill."""
    terminal.until(lambda output: "SLOT" in output)
    terminal.output = ""
    os.kill(terminal.process.pid, number)
    assert terminal.end() == 0


def test_the_end_of_the_server_gives_the_terminal_back_and_says_so(tmp_path):
    """Status 1, on the screen that was there before."""
    with contextlib.ExitStack() as stack:
        with serving(tmp_path):
            shown = stack.enter_context(contextlib.closing(Terminal(tmp_path)))
            shown.until(lambda output: "SLOT" in output)
        shown.until(lambda output: "fastserve: control=" in output)
        assert shown.output.index("\x1b[?1049l") < shown.output.index("fastserve: control=")
        assert shown.end() == 1


def test_a_handler_that_holds_a_loop_is_named(server, directory):
    """While it does."""
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    client.request("GET", "/block?7")
    deadline = time.monotonic() + 20
    try:
        while "is held for" not in (text := top(directory, "--once", "--interval-s", "0.1")):
            assert time.monotonic() < deadline
    finally:
        (directory / "go-on").touch()
    assert '"GET /block?7"' in text
    assert "held" in text
    client.getresponse().read()
    client.close()
