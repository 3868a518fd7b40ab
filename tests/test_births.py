"""Workers that begin or end in a bad moment: real processes, signals, logs that take nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import socket
import ssl
import struct
import subprocess
import sys
import termios

import pytest
from server_process import ServerProcess, is_alive, serve_in_process, tls_flags, wait_for
from test_supervisor import APP, BOTH_LISTEN, ENVIRONMENT, ask, begin, children, pids, until

from fastserve.control import ask as ask_control
from fastserve.forking import fork, hear_again

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="slots are Linux's")

GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "main.py"
    path.write_text(APP)
    return path


@pytest.fixture
def start(tmp_path, code):
    """Start a server of the application with some flags."""
    with contextlib.ExitStack() as stack:
        def start_one(*flags, workers=2):
            server = stack.enter_context(serve_in_process(
                tmp_path, "--workers", str(workers), "--graceful-timeout-s", "20", *flags,
                target=str(code)))
            until(lambda: server.log.count("listening on") >= workers)
            return server

        yield start_one


# --- the fork -----------------------------------------------------------------------------


@pytest.mark.parametrize(("hears", "status"), [(False, 7), (True, -signal.SIGTERM)])
def test_a_signal_meets_a_forked_process_that_is_ready_for_it(hears, status):
    """And before that neither the child nor, through what it inherited, the parent."""
    reading, waking = os.pipe()
    os.set_blocking(waking, False)
    before = signal.signal(signal.SIGTERM, lambda *about: None)
    signal.set_wakeup_fd(waking)

    def become():
        os.kill(os.getpid(), signal.SIGTERM)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if hears:
            hear_again()
        os._exit(7)

    try:
        _, ended = os.waitpid(fork(become), 0)
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, before)
        os.close(waking)
    assert os.waitstatus_to_exitcode(ended) == status
    assert os.read(reading, 1) == b""
    os.close(reading)
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_worker_that_imports_is_not_ended_by_what_is_for_all(start, code, tmp_path):
    """USR1 to all processes of a service, as who rotates logs sends it."""
    server = start()
    begun = tmp_path / "begun"
    code.write_text(f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\n"
                    "time.sleep(1)\n" + APP)
    before = children(server.process.pid)
    server.process.send_signal(signal.SIGHUP)
    until(begun.exists)
    for pid in children(server.process.pid) - before:
        os.kill(pid, signal.SIGUSR1)
        os.kill(pid, signal.SIGUSR2)
    until(lambda: "reloaded" in server.log)
    assert "SIGUSR" not in server.log


# --- the end ------------------------------------------------------------------------------


def test_what_an_application_leaves_behind_does_not_make_its_worker_the_parent(
        start, code, tmp_path):
    """A log handler that cannot be closed: the files of the server stay where they are."""
    code.write_text(APP + """
import logging

class Handler(logging.NullHandler):
    def flush(self):
        raise RuntimeError("the loop is closed")

handler = Handler()
""")
    control, pid_file = tmp_path / "control.sock", tmp_path / "server.pid"
    server = start("--control", str(control), "--pid-file", str(pid_file))
    before = children(server.process.pid)
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "reloaded" in server.log)
    until(lambda: not any(map(is_alive, before)))
    assert control.exists()
    assert pid_file.exists()
    assert ask(server)[0] == 200


def test_a_worker_that_somebody_ends_is_replaced_at_once(start):
    """TERM to it alone: it answers what it has, and nobody new waits for that."""
    server = start()
    slow = begin(server, "/slow/4")
    until(lambda: ask(server)[0] == 200)
    before = children(server.process.pid)
    for pid in before:
        os.kill(pid, signal.SIGTERM)
    until(lambda: len(children(server.process.pid) - before) == 2)
    assert not before & pids(server, 20)
    assert slow.getresponse().status == 200
    slow.close()
    until(lambda: not before & children(server.process.pid))
    assert server.log.count("was told to end by somebody else") == 2


def wait_until_one_leaves(tmp_path):
    """Until a worker has been told to end, in the middle of a reload."""
    until(lambda: ask_control(
        str(tmp_path / "control.sock"), {"command": "status"}, 20)["leaving"])


def test_who_has_connected_is_not_dropped_by_a_reload(start, tmp_path):
    """A PROXY header in two pieces, the second of which comes when the worker is told to end."""
    server = start("--proxy-protocol", "required", "--proxy-allow-ips", "127.0.0.1",
                   "--control", str(tmp_path / "control.sock"))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 20))
                   for _ in range(8)]
        for client in clients:
            client.sendall(b"PROXY TCP4 192.0.2.1 ")
        server.process.send_signal(signal.SIGHUP)
        wait_until_one_leaves(tmp_path)
        for client in clients:
            client.sendall(b"192.0.2.2 1 2\r\n" + GET)
        for client in clients:
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")


def test_a_handshake_is_not_dropped_by_a_reload(start, tmp_path):
    """Half a ClientHello, and the other half when the worker is told to end."""
    server = start(*tls_flags(tmp_path), "--control", str(tmp_path / "control.sock"), workers=1)
    arriving, leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cafile=server.ca_path)
    talk = context.wrap_bio(arriving, leaving, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", server.port), 20) as client:
        with pytest.raises(ssl.SSLWantReadError):
            talk.do_handshake()
        hello = leaving.read()
        client.sendall(hello[:100])
        server.process.send_signal(signal.SIGHUP)
        wait_until_one_leaves(tmp_path)
        client.sendall(hello[100:])
        while True:
            try:
                talk.do_handshake()
                break
            except ssl.SSLWantReadError:
                client.sendall(leaving.read())
                data = client.recv(65536)
                assert data, "the connection was closed inside of the handshake"
                arriving.write(data)
        talk.write(GET)
        client.sendall(leaving.read())
        assert client.recv(65536)


# --- start-up -----------------------------------------------------------------------------


def test_one_that_waits_for_another_is_waited_for(tmp_path, code):
    """Of workers that migrate a database one has the lock, for longer than the others try."""
    code.write_text(APP + f"""
@app.on_startup
async def migrate():
    try:
        os.close(os.open({str(tmp_path / "lock")!r}, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        if not os.path.exists({str(tmp_path / "done")!r}):
            raise RuntimeError("another one migrates")
    else:
        await asyncio.sleep(2)
        open({str(tmp_path / "done")!r}, "w").close()
""")
    with serve_in_process(tmp_path, "--workers", "2", target=str(code)) as server:
        until(lambda: len(pids(server)) == 2)
        assert "another one migrates" in server.log
        server.log_path.write_text("")      # its traceback was asked for


# --- logs that take nothing ---------------------------------------------------------------


@contextlib.contextmanager
def served_into_a_pipe(code, log, *flags):
    """A server whose stderr is a pipe; what it says until both workers listen is in the log."""
    environment = {name: value for name, value in ENVIRONMENT.items()
                   if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
            [sys.executable, "-m", "fastserve", "run", str(code), "--workers", "2", "--port", "0",
             *flags], stderr=subprocess.PIPE, env=environment, start_new_session=True) as process:
        try:
            text = ""
            while text.count("listening on") < 2:
                text += process.stderr.readline().decode()
            log.write_text(text)
            yield ServerProcess(wait_for(log, BOTH_LISTEN, process)[1], log, process)
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_a_stderr_whose_reader_has_gone_ends_nothing(code, tmp_path):
    """`fastserve run | tee log`, and tee is killed: workers are still replaced."""
    with served_into_a_pipe(code, tmp_path / "log") as server:
        pid = server.process.pid
        server.process.stderr.close()
        for _ in range(2):
            before = children(pid)
            os.kill(min(before), signal.SIGKILL)
            until(lambda before=before: len(children(pid) - before) == 1)
            until(lambda: len(pids(server)) == 2)


def test_a_stderr_that_nobody_reads_holds_up_nothing(code, tmp_path):
    """The pipe is full, and the reader stands still: the server works, reloads and stops."""
    with served_into_a_pipe(code, tmp_path / "log") as server:
        pid = server.process.pid
        writing = os.open(f"/proc/{pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, b"x" * 4096)
        os.close(writing)
        before = children(pid)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: not before & children(pid))
        assert ask(server)[0] == 200


def test_a_log_file_that_cannot_be_made_anew_ends_nothing(code, tmp_path):
    """Its directory has another name now: what is logged goes on where it went."""
    logs = tmp_path / "logs"
    logs.mkdir()
    with subprocess.Popen(
            [sys.executable, "-m", "fastserve", "run", str(code), "--workers", "2", "--port", "0",
             "--log-file", str(logs / "log")], env=ENVIRONMENT, start_new_session=True) as process:
        try:
            url = wait_for(logs / "log", BOTH_LISTEN, process)[1]
            moved = logs.rename(tmp_path / "old") / "log"
            server = ServerProcess(url, moved, process)
            os.kill(min(children(process.pid)), signal.SIGKILL)
            until(lambda: "was ended by SIGKILL" in server.log)
            process.send_signal(signal.SIGUSR1)
            until(lambda: "cannot open a log file anew" in server.log)
            until(lambda: len(children(process.pid)) == 2)
            assert ask(server)[0] == 200
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()


# --- a terminal ---------------------------------------------------------------------------


def test_a_window_of_another_size_stops_nobody(code, tmp_path):
    """The terminal tells the processes in front by WINCH, which is no order to rest there."""
    controller, terminal = pty.openpty()
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "fastserve", "run", str(code), "--workers", "2",
             "--port", "0"], stderr=stderr, env=ENVIRONMENT, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(terminal, termios.TIOCSCTTY, 0))
    try:
        os.close(terminal)
        server = ServerProcess(wait_for(log, BOTH_LISTEN, process)[1], log, process)
        before = children(process.pid)
        fcntl.ioctl(controller, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        process.send_signal(signal.SIGTTIN)     # is acted on behind it
        until(lambda: len(children(process.pid)) == 3)
        assert before < children(process.pid)
        assert ask(server)[0] == 200
        assert "resting" not in server.log
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(controller)
