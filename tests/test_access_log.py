"""Where the access log goes: files, pipes that nobody reads, full disks, moved files, logging."""

import contextlib
import json
import logging
import os
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from libraries import needs_library
from server_process import serve_in_process, wait_for

import fastserve
from fastserve import access_log
from fastserve._speedups.journal import RecordJournal
from fastserve.access_log import AccessLog, LogWriter, Records
from fastserve.config import Config
from fastserve.errors import ConfigError

LINE = b"x" * 99 + b"\n"
PATIENCE_S = 30
HEAD = b'GET /users/7?a="b HTTP/1.1\r\nHost: a\r\nUser-Agent: curl\r\n\r\n'
ROOT = str(Path(fastserve.__file__).parent.parent)


@contextlib.contextmanager
def writing_to(target, **options):
    writer = LogWriter(str(target), **options)
    yield writer
    writer.close(PATIENCE_S)


def eventually(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


@pytest.fixture
def fifo(tmp_path):
    """A named pipe with a reader that reads when it is told to."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield str(path), reader
    with contextlib.suppress(OSError):
        os.close(reader)


def read_all(reader):
    """What is in a pipe now."""
    found = b""
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(reader, 65536):
            found += piece
    return found


def python(code, *arguments, **options):
    """Run a program of ours; it must end well and in time."""
    environment = {**os.environ, "PYTHONPATH": ROOT}
    subprocess.run([sys.executable, "-c", code, *arguments], env=environment, timeout=60,
                   check=True, **options)


def test_what_is_put_is_in_the_file(tmp_path):
    """In order, behind what was there; a file that is made is not for everybody."""
    path = tmp_path / "access.log"
    for part in range(2):
        with writing_to(path) as writer:
            for number in range(100):
                writer.put(b"%d-%d\n" % (part, number) * 3)

    assert path.read_bytes() == b"".join(
        b"%d-%d\n" % (part, number) * 3 for part in range(2) for number in range(100))
    assert not stat.S_IMODE(path.stat().st_mode) & 0o007
    assert writer.dropped == 0
    assert writer.unwritten_bytes == 0


def test_there_is_no_thread_before_there_is_a_line(tmp_path):
    """Nor after the end."""
    with writing_to(tmp_path / "log") as writer:
        assert not [each for each in threading.enumerate() if each.name == "access log"]
        writer.put(LINE)
        assert [each for each in threading.enumerate() if each.name == "access log"]
    assert not [each for each in threading.enumerate() if each.name == "access log"]


def test_a_pipe_that_nobody_reads_holds_up_nobody(fifo, caplog):
    """Up to the bound lines wait; then whole batches are dropped, counted, and told of once.

    Once somebody reads again, what waited is there, and new lines are.
    """
    path, reader = fifo
    batch = LINE * 100
    with writing_to(path, most_unwritten_bytes=100_000) as writer:
        for _ in range(100):
            writer.put(batch)
            assert writer.unwritten_bytes <= 100_000
        assert writer.dropped > 0
        assert writer.dropped % 100 == 0
        assert len(caplog.messages) == 1
        assert "bytes wait to be written" in caplog.text
        found = b""
        while writer.unwritten_bytes:
            select.select([reader], [], [], 1)
            found += read_all(reader)
        writer.put(b"last\n")
        while not found.endswith(b"last\n"):
            select.select([reader], [], [], 1)
            found += read_all(reader)

    lines = found.splitlines(keepends=True)
    assert set(lines[:-1]) == {LINE}
    assert len(lines) - 1 + writer.dropped == 100 * 100


def test_the_end_does_not_wait_for_a_pipe_that_is_stuck(fifo, caplog):
    """close() takes as long as it may; what is not written then is counted and said."""
    path, reader = fifo
    writer = LogWriter(path)
    for _ in range(40):
        writer.put(LINE * 100)
    before_s = time.monotonic()
    assert not writer.close(0.3)
    assert 0.2 < time.monotonic() - before_s < PATIENCE_S
    eventually(lambda: not [e for e in threading.enumerate() if e.name == "access log"])
    written = read_all(reader).count(b"\n")

    assert 0 < written < 4000
    assert writer.dropped == 4000 - written
    assert "the server ends" in caplog.text
    writer.put(LINE * 3)
    assert writer.dropped == 4000 - written + 3
    assert writer.close(0)


def test_a_process_ends_with_its_stdout_stuck():
    """A blocking pipe: the thread is inside of the write, and stays there."""
    code = (
        "from fastserve.access_log import LogWriter\n"
        "writer = LogWriter('-')\n"
        "for _ in range(2000): writer.put((b'x' * 99 + b'\\n') * 100)\n"
        "assert not writer.close(0.2)\n"
        "assert writer.dropped > 100_000, writer.dropped\n")
    ours, theirs = os.pipe()
    try:
        python(code, stdout=theirs)
    finally:
        os.close(theirs)
    left = b""
    while piece := os.read(ours, 65536):
        left += piece
    os.close(ours)

    assert len(left) % 100 == 0     # whole lines


def python_whose_stderr_nobody_reads(code):
    """Run it to its end, which must come though the pipe is full."""
    ours, theirs = os.pipe()
    try:
        python(code, stderr=theirs)
    finally:
        os.close(ours)
        os.close(theirs)


def test_complaints_do_not_go_into_the_pipe_that_is_stuck():
    """Where stderr is the same pipe, to complain would stop the loop."""
    code = (
        "import logging\n"
        "from fastserve import log\n"
        "from fastserve.access_log import LogWriter\n"
        "log.configure('info')\n"
        "writer = LogWriter('stderr')\n"
        "for _ in range(2000): writer.put((b'x' * 99 + b'\\n') * 100)\n"
        "writer.close(0.2)\n")
    python_whose_stderr_nobody_reads(code)


def test_the_pipe_does_not_fill_between_the_question_and_the_complaint():
    """The writer waits, or the complaint is left out: the loop must not be stuck in it."""
    code = (
        "import os, threading, time\n"
        "from fastserve import access_log, log\n"
        "log.configure('info')\n"
        "asked, write, question = threading.Event(), os.write, access_log.stderr_takes_a_line\n"
        "def write_then(fd, data):\n"
        "    asked.wait(5)\n"
        "    return write(fd, data)\n"
        "def ask():\n"
        "    takes = question()\n"
        "    asked.set()\n"
        "    time.sleep(0.5)\n"
        "    return takes\n"
        "os.write, access_log.stderr_takes_a_line = write_then, ask\n"
        "writer = access_log.LogWriter('stderr', most_unwritten_bytes=150_000)\n"
        "for _ in range(2): writer.put((b'x' * 99 + b'\\n') * 1000)\n"
        "assert writer.dropped == 1000\n"
        "writer.close(0.2)\n")
    python_whose_stderr_nobody_reads(code)


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")


@needs_full
def test_a_full_disk_costs_lines_and_says_so(caplog):
    """Once in ten seconds, however many; the writer goes on trying."""
    with writing_to("/dev/full") as writer:
        for _ in range(20):
            writer.put(LINE * 10)
        eventually(lambda: writer.unwritten_bytes == 0)

        assert writer.dropped == 200
    assert len(caplog.messages) == 1
    assert "No space left on device" in caplog.text
    assert "/dev/full" in caplog.text


@needs_full
def test_complaints_come_back(caplog, monkeypatch):
    """After the period; with how many lines there are by then."""
    monkeypatch.setattr(access_log, "COMPLAINT_PERIOD_S", 0.0)
    with writing_to("/dev/full") as writer:
        for count in (1, 2):
            writer.put(LINE)
            eventually(lambda count=count: writer.dropped == count)
    assert [re.search(r"(\d) lines", text)[1] for text in caplog.messages] == ["1", "2"]


def test_a_line_that_was_cut_by_a_full_disk_is_ended_later(tmp_path):
    """A short write leaves half of a line; its rest comes before any other, once there is room."""
    path = tmp_path / "log"
    code = (
        "import resource, sys, time\n"
        "from fastserve.access_log import LogWriter\n"
        "writer = LogWriter(sys.argv[1])\n"
        "_, most = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (250, most))\n"
        "def put(data):\n"
        "    writer.put(data)\n"
        "    while writer.unwritten_bytes: time.sleep(0.001)\n"
        "put((b'a' * 99 + b'\\n') * 4)\n"           # two, half of one, and one lost
        "put(b'b' * 99 + b'\\n')\n"                 # lost
        "assert writer.dropped == 2, writer.dropped\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))\n"
        "put(b'c' * 99 + b'\\n')\n"
        "assert writer.close(5) and writer.dropped == 2\n")
    python(code, str(path))

    assert path.read_bytes() == (b"a" * 99 + b"\n") * 3 + b"c" * 99 + b"\n"


def test_a_reader_that_went_away_may_be_followed_by_another(fifo):
    """`| tee` that was killed: lines are lost until there is one again, and nothing else is."""
    path, reader = fifo
    with writing_to(path) as writer:
        os.close(reader)
        writer.put(LINE * 5)
        eventually(lambda: writer.dropped == 5)
        second = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        writer.put(LINE)
        eventually(lambda: writer.unwritten_bytes == 0)

        assert read_all(second) == LINE
        os.close(second)


def test_a_moved_file_is_followed_by_a_new_one(tmp_path):
    """Lines from before the order are in the old one, later ones in the new one."""
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    with writing_to(path) as writer:
        writer.put(b"one\n")
        eventually(lambda: path.read_bytes() == b"one\n")
        path.rename(old)
        writer.put(b"two\n")
        writer.reopen()
        writer.put(b"three\n")

    assert old.read_bytes() == b"one\ntwo\n"
    assert path.read_bytes() == b"three\n"


def test_where_no_new_file_can_be_the_old_one_is_kept(tmp_path, caplog):
    """And the error log says why."""
    directory = tmp_path / "logs"
    directory.mkdir()
    path = directory / "access.log"
    with writing_to(path) as writer:
        writer.put(b"one\n")
        eventually(lambda: path.exists() and path.read_bytes() == b"one\n")
        kept = tmp_path / "kept"
        directory.rename(kept)
        writer.reopen()
        writer.put(b"two\n")

    assert (kept / "access.log").read_bytes() == b"one\ntwo\n"
    assert "the old file is written on: No such file or directory" in caplog.text


def test_stdout_is_not_reopened(capfd):
    """It has no path."""
    with writing_to("-") as writer:
        writer.put(b"one\n")
        writer.reopen()
        writer.put(b"two\n")

    assert capfd.readouterr().out == "one\ntwo\n"


PROCESS = (
    "import sys\n"
    "from fastserve.access_log import LogWriter\n"
    "writer = LogWriter(sys.argv[1])\n"
    "for number in range(200):\n"
    "    writer.put(b''.join(b'%s %d %d %s\\n' % (sys.argv[2].encode(), number, n, b'x' * 30 * n)"
    " for n in range(20)))\n"
    "assert writer.close(30)\n"
    "assert writer.dropped == 0\n")


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_lines_of_many_processes_stay_whole(kind, tmp_path):
    """They append to one file, or share one pipe: no line is in the middle of another."""
    path = tmp_path / "log"
    ours, theirs = os.pipe()
    environment = {**os.environ, "PYTHONPATH": ROOT}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(path) if kind == "file" else "-", str(number)],
            env=environment, stdout=theirs)
        for number in range(3)]
    os.close(theirs)
    data = b""
    while piece := os.read(ours, 65536):
        data += piece
    os.close(ours)
    assert [process.wait(60) for process in processes] == [0] * 3
    if kind == "file":
        data = path.read_bytes()

    lines = data.splitlines()
    assert len(lines) == 3 * 200 * 20
    assert all(re.fullmatch(rb"\d \d+ \d+ x*", line) for line in lines)
    for number in b"012":   # and in each one's order
        own = [line.split()[1:3] for line in lines if line[0] == number]
        assert [(int(a), int(b)) for a, b in own] == [(a, b) for a in range(200) for b in range(20)]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="there is no /proc here")
def test_signals_are_not_the_writer_s(tmp_path):
    """They reach the main thread even where the writer's would be as good to the kernel."""
    with writing_to(tmp_path / "log") as writer:
        writer.put(LINE)
        eventually(lambda: writer.unwritten_bytes == 0)
        (thread,) = [each for each in threading.enumerate() if each.name == "access log"]
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        blocked = int(re.search(r"SigBlk:\s*(\w+)", status)[1], 16)

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGALRM):
        assert blocked >> (number - 1) & 1
    assert not blocked >> (signal.SIGSEGV - 1) & 1


# From the settings.


def test_there_is_none_unless_it_is_asked_for():
    """It costs, and it holds addresses of people."""
    assert AccessLog.from_config(Config()) is None


@pytest.mark.parametrize("kind", ["directory", "nowhere", "unread pipe"])
def test_a_file_that_cannot_be_opened_is_named(kind, tmp_path):
    """Before anything is served; a pipe without a reader does not hold up the start."""
    path = tmp_path / ("no/log" if kind == "nowhere" else "log")
    if kind == "directory":
        path.mkdir()
    elif kind == "unread pipe":
        os.mkfifo(path)
    with pytest.raises(ConfigError, match=r"access_log_file='.*log': .*: give a file that"):
        AccessLog.from_config(Config(access_log="text", access_log_file=str(path)))


def test_a_closed_stdout_is_no_place_for_a_log():
    """Whatever has its number may be a client's connection."""
    code = (
        "from fastserve.access_log import AccessLog\n"
        "from fastserve.config import Config\n"
        "AccessLog.from_config(Config(access_log='json'))\n")
    done = subprocess.run(
        ["/bin/sh", "-c", '"$0" -c "$1" >&-', sys.executable, code], capture_output=True,
        env={**os.environ, "PYTHONPATH": ROOT}, timeout=60, check=False)

    assert b"ConfigError: access_log_file='-': it is closed" in done.stderr


def test_the_options_reach_the_journal(tmp_path):
    """Format, headers, sample and slow; closing writes what is left."""
    path = tmp_path / "log"
    made = AccessLog.from_config(Config(
        access_log="json", access_log_file=str(path), access_log_headers=("User-Agent",),
        access_log_sample=0.0, access_log_slow_s=1))
    made.journal.add_request(HEAD, status=503)
    made.journal.add_request(HEAD, ended_ns=2 * 10**9)
    assert path.read_bytes() == b""
    made.close(PATIENCE_S)

    (line,) = path.read_text().splitlines()
    assert json.loads(line)["headers"] == {"user-agent": "curl"}
    assert json.loads(line)["status"] == 503
    assert made.newly_dropped() == 0
    made.journal.add_request(HEAD, status=503)
    made.journal.flush()
    assert [made.newly_dropped(), made.newly_dropped()] == [1, 0]


def ask(port, *targets):
    """One connection, a request after the other; how many were answered with 200."""
    answered = 0
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        for target in targets:
            client.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            answered += client.recv(65536).startswith(b"HTTP/1.1 200")
    return answered


HELLO = """
from fastserve import App

app = App()


@app.get("/hello/{name}")
def hello(name: str):
    return name
"""


@pytest.fixture
def hello(tmp_path):
    path = tmp_path / "hello.py"
    path.write_text(HELLO)
    return str(path)


@pytest.mark.parametrize("workers", [(), ("--workers", "1")], ids=["alone", "supervised"])
def test_what_was_answered_is_logged_when_the_server_has_ended(workers, hello, tmp_path):
    """However short before its end; USR1 makes it write to the file that has the path then."""
    path = tmp_path / "access.log"
    flags = ("--access-log", "json", "--access-log-file", str(path), "--loop", "asyncio", *workers)
    with serve_in_process(tmp_path, *flags, target=hello) as server:
        assert ask(server.port, *[f"/hello/{n}" for n in range(50)]) == 50
        path.rename(tmp_path / "access.log.1")
        server.process.send_signal(signal.SIGUSR1)
        eventually(path.exists)
        assert ask(server.port, "/hello/51", "/hello/52") == 2

    old, new = [
        [json.loads(line) for line in file.read_text().splitlines()]
        for file in (tmp_path / "access.log.1", path)]
    assert [line["target"] for line in old] == [f"/hello/{n}" for n in range(50)]
    assert [line["target"] for line in new] == ["/hello/51", "/hello/52"]
    assert {line["route"] for line in old + new} == {"/hello/{name}"}
    assert {line["client"] for line in old + new} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("flags", "logged"),
    [
        ((), ["/hello/1", "/metrics", "/-/dead"]),
        (("--access-log-skip", "none"),
         ["/hello/1", "/-/live", "/-/ready", "/metrics", "/-/dead"]),
        (("--access-log-skip", "/metrics", "--access-log-skip", "/hello/{name}"),
         ["/-/live", "/-/ready", "/-/dead"]),
    ])
def test_health_checks_get_no_line(flags, logged, hello, tmp_path):
    """Unless somebody wants them; other routes may be left out; all of them are counted."""
    path = tmp_path / "access.log"
    asked = ["/hello/1", "/-/live", "/-/ready", "/metrics", "/-/dead"]
    with serve_in_process(
            tmp_path, "--access-log", "json", "--access-log-file", str(path), "--metrics", *flags,
            target=hello) as server:
        for one in asked:
            with contextlib.suppress(urllib.error.HTTPError):
                urllib.request.urlopen(f"http://127.0.0.1:{server.port}{one}", timeout=30).read()
        counted = urllib.request.urlopen(
            f"http://127.0.0.1:{server.port}/metrics", timeout=30).read().decode()
    targets = [json.loads(line)["target"] for line in path.read_text().splitlines()]
    if "/metrics" in logged:
        assert targets.pop() == "/metrics"
    assert targets == logged
    for route in ("/-/live", "/-/ready", "/hello/{name}"):
        assert re.search(
            r"fastserve_request_duration_seconds_count\{[^}]*route=\"" + re.escape(route)
            + r"\"[^}]*\} 1\.0", counted), counted


def test_what_is_left_out_is_still_logged_where_it_fails(hello, tmp_path):
    """5xx always are, whatever settings say."""
    path = tmp_path / "access.log"
    Path(hello).write_text(HELLO + """
@app.get("/sick")
def sick():
    return "no", 503
""")
    flags = ("--access-log", "text", "--access-log-file", str(path), "--access-log-skip", "/sick")
    with serve_in_process(tmp_path, *flags, target=hello) as server, \
            pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/sick", timeout=30)
    assert '"GET /sick HTTP/1.1" 503' in path.read_text()


def test_a_route_that_is_not_there_cannot_be_left_out(hello, tmp_path):
    """One line and the status of a mistake: else a typo would log for ever."""
    done = subprocess.run(
        [sys.executable, "-m", "fastserve", "run", hello, "--port", "0", "--access-log", "text",
         "--access-log-skip", "/hello/{nam}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": ROOT})
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "access_log_skip='/hello/{nam}': there is no such route" in done.stderr
    assert "Did you mean /hello/{name}?" in done.stderr


def test_all_workers_write_to_one_file(hello, tmp_path):
    """Each line is whole, each request has one; the ids of two workers differ."""
    path = tmp_path / "access.log"
    flags = ("--workers", "2", "--access-log", "logfmt", "--access-log-file", str(path))
    with serve_in_process(tmp_path, *flags, target=hello) as server:
        for _ in range(20):
            assert ask(server.port, *["/hello/x"] * 10) == 10

    lines = path.read_text().splitlines()
    assert len(lines) == 200
    assert all(re.fullmatch(r"time=\S+ client=\S+ method=GET .* request_id=\S+", line)
               for line in lines)
    assert len({line.rpartition("=")[2] for line in lines}) == 200


def test_a_server_serves_on_and_ends_with_its_stdout_stuck(hello, tmp_path):
    """`fastserve run --access-log text | less`, and nobody looks."""
    ours, theirs = os.pipe()
    command = [sys.executable, "-m", "fastserve", "run", hello, "--port", "0",
               "--access-log", "text"]
    log = tmp_path / "stderr"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command, stdout=theirs, stderr=stderr, env={**os.environ, "PYTHONPATH": ROOT})
    os.close(theirs)
    try:
        port = int(wait_for(log, r"listening on http://[\d.]+:(\d+)", process)[1])
        target = "/hello/" + "x" * 1000
        assert ask(port, *[target] * 500) == 500    # half a megabyte, and a pipe holds 64 KiB
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert "lines were dropped" in log.read_text()


@needs_full
@pytest.mark.parametrize("workers", [(), ("--workers", "1")], ids=["alone", "supervised"])
def test_lost_lines_are_counted_where_others_see_them(workers, hello, tmp_path):
    """With --metrics: so that nobody takes a log for whole that is not."""
    flags = ("--metrics", "/metrics", "--access-log", "json", "--access-log-file", "/dev/full")
    with serve_in_process(tmp_path, *flags, *workers, target=hello) as server:
        assert ask(server.port, *["/hello/x"] * 7) == 7

        def told():
            with urllib.request.urlopen(f"{server.url}/metrics", timeout=PATIENCE_S) as reply:
                found = re.search(
                    r"^fastserve_log_lines_dropped\S* ([\d.]+)", reply.read().decode(), re.M)
            return found and float(found[1]) >= 7

        eventually(told)


def test_a_worker_whose_log_cannot_be_opened_says_so(hello, tmp_path):
    """In one line that names the setting; under a supervisor, too."""
    for more in ((), ("--workers", "1")):
        command = [sys.executable, "-m", "fastserve", "run", hello, "--port", "0", "--access-log",
                   "json", "--access-log-file", str(tmp_path), *more]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, "PYTHONPATH": ROOT})

        assert done.returncode in (1, 3)
        assert f"access_log_file={str(tmp_path)!r}: Is a directory" in done.stderr
        assert "Traceback" not in done.stderr


# As records.


@pytest.fixture
def records():
    """The logger, as before behind the test."""
    found, parent = logging.getLogger("fastserve.access"), logging.getLogger("fastserve")
    parent_level = parent.level
    before = (found.level, found.disabled, found.propagate, found.handlers[:], found.filters[:])
    yield found
    (level, found.disabled, found.propagate, found.handlers, found.filters) = before
    found.setLevel(level)
    parent.setLevel(parent_level)


class Kept(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


def test_a_record_has_the_fields(records):
    """As attributes, with the time at which the request ended, and a message that cannot lie."""
    kept = Kept()
    records.addHandler(kept)
    journal = AccessLog.from_config(
        Config(access_log="logging", access_log_headers=("user-agent",))).journal
    journal.add_request(HEAD, status=201, client=b"192.0.2.1", id=b"a", body_bytes=5,
                        begun_ns=time.monotonic_ns() - 500_000_000, ended_ns=time.monotonic_ns())
    journal.add_request(None, status=400)

    first, second = kept.records
    assert first.getMessage() == r'192.0.2.1 "GET /users/7?a=\"b HTTP/1.1" 201'
    assert second.getMessage() == '- "-" 400'
    assert (first.levelname, first.name) == ("INFO", "fastserve.access")
    assert (first.method, first.target, first.status, first.body_bytes, first.request_id) == (
        "GET", '/users/7?a="b', 201, 5, "a")
    assert first.duration_s == pytest.approx(0.5, abs=0.1)
    assert first.headers == {"user-agent": "curl"}
    assert abs(first.created - time.time()) < PATIENCE_S
    assert 0 <= first.msecs < 1000
    assert second.method is None


def test_a_dictconfig_that_does_not_name_it_does_not_silence_it(records):
    """logging.config disables what exists by default; who asked for the log wants it."""
    records.disabled = True
    records.setLevel(logging.NOTSET)
    logging.getLogger("fastserve").setLevel(logging.ERROR)
    kept = Kept()
    records.addHandler(kept)
    RecordJournal(Records()).add_request(HEAD)

    assert len(kept.records) == 1


def test_a_level_that_hides_it_hides_it(records):
    """It is logging, after all."""
    kept = Kept()
    records.addHandler(kept)
    records.setLevel(logging.WARNING)
    RecordJournal(Records()).add_request(HEAD)

    assert kept.records == []


def test_a_filter_that_fails_costs_nobody_a_connection(records, caplog):
    """It is told of once, not for each request."""
    def fail(record):
        raise RuntimeError("no")

    records.addFilter(fail)
    journal = RecordJournal(Records())
    for _ in range(3):
        journal.add_request(HEAD)

    assert caplog.messages == ["logging a request failed"]


def test_structlog_takes_the_fields(records):
    """By its ProcessorFormatter with ExtraAdder, as its documentation has it."""
    needs_library("structlog")
    import structlog

    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.ExtraAdder()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    structlog.processors.JSONRenderer()])
    kept = Kept()
    records.addHandler(kept)
    RecordJournal(Records()).add_request(HEAD, status=404)

    found = json.loads(formatter.format(kept.records[0]))
    assert found["event"] == r'- "GET /users/7?a=\"b HTTP/1.1" 404'
    assert (found["status"], found["target"]) == (404, '/users/7?a="b')


def test_python_json_logger_takes_the_fields(records):
    """All that is no attribute of every record."""
    needs_library("pythonjsonlogger")
    from pythonjsonlogger.json import JsonFormatter

    kept = Kept()
    records.addHandler(kept)
    RecordJournal(Records()).add_request(HEAD, status=404)

    found = json.loads(JsonFormatter().format(kept.records[0]))
    assert (found["status"], found["target"], found["headers"]) == (404, '/users/7?a="b', {})


def test_loguru_takes_the_fields(records):
    """By a handler that hands records on; a brace in a message is no format."""
    needs_library("loguru")
    import loguru

    class Intercept(logging.Handler):
        def emit(self, record):
            loguru.logger.bind(status=record.status, duration_s=record.duration_s).log(
                record.levelname, "{}", record.getMessage())

    found = []
    records.addHandler(Intercept())
    number = loguru.logger.add(found.append, serialize=True)
    try:
        RecordJournal(Records()).add_request(HEAD.replace(b"/users/7", b"/{x}"), status=404)
    finally:
        loguru.logger.remove(number)

    record = json.loads(found[0])["record"]
    assert record["extra"]["status"] == 404
    assert record["message"] == r'- "GET /{x}?a=\"b HTTP/1.1" 404'
