"""`fastserve dev`: real files, real edits, real servers; what clients see meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import pty
import py_compile
import re
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from libraries import needs_library
from server_process import ServerProcess, is_alive, tls_flags, wait_for

import fastserve
from fastserve import changes
from fastserve.changes import Watched, Watcher
from fastserve.config import Config
from fastserve.dev import Developing, directories_of, is_private
from fastserve.errors import ConfigError, MissingExtraError
from fastserve.presets import DEV_DEFAULTS, NOT_IN_DEV
from fastserve.slots import Slot
from fastserve.sources import gather
from fastserve.standin import SILENT, stand_in
from fastserve.testing import TestClient

needs_library("watchfiles")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it asks /proc for processes")

ENVIRONMENT = {
    **os.environ, "PYTHONPATH": str(Path(fastserve.__file__).parent.parent),
    "PYTHONDONTWRITEBYTECODE": ""}     # as users have it
SOON_S = 40
APP = """
import asyncio
from fastserve import App

app = App()

@app.get("/")
def home():
    return "version 00"

@app.get("/bug")
def bug():
    return 1 / 0

@app.get("/events")
async def events():
    while True:
        yield "data: version 00\\n\\n"
        await asyncio.sleep(0.05)
"""
BROKEN = {
    "a mistake": ("def (:\n", "SyntaxError"),
    "an exception": ("raise ValueError('<no database>')\n", "ValueError: &lt;no database&gt;"),
    "a failing start-up": (
        APP + "\n@app.on_startup\ndef connect(): raise OSError('no database')\n",
        "OSError: no database"),
    "a crash": ("import os\nos.abort()\n", "was ended by SIGABRT"),
    "an end": ("import os\nos._exit(7)\n", "exit status 7"),
    "a hang": ("import time\ntime.sleep(600)\n", "it was not ready within boot_timeout_s=6"),
}


def flags_for(why):
    """A short time to start where nothing else ends it; but long enough for a busy machine."""
    return ("--boot-timeout-s", "6") if why == "a hang" else ()


@pytest.fixture
def code(tmp_path) -> Path:
    """The file of the application, in a directory that is watched."""
    path = tmp_path / "src" / "main.py"
    path.parent.mkdir()
    path.write_text(APP)
    return path


def write(code, version):
    """A new version of the application: as long as any other, often within the same second."""
    code.write_text(APP.replace("version 00", f"version {version:02}"))


@pytest.fixture
def develop(tmp_path, code):
    """Start `fastserve dev` with some flags; once it serves and watches."""
    with contextlib.ExitStack() as stack:
        def start(*flags, until="listening on", **options):
            log = tmp_path / "server.log"
            command = [sys.executable, "-m", "fastserve", "dev", "main:app", "--port", "0", *flags]
            with log.open("wb") as stderr:
                process = subprocess.Popen(
                    command, cwd=code.parent, env=ENVIRONMENT, stderr=stderr, **options)
            stack.callback(end, process)
            wait_for(log, "watching", process)
            wait_for(log, until, process)
            url = wait_for(log, r"workers? for (\S+)", process)[1]
            return ServerProcess(url, log, process)

        yield start


def end(process):
    """Stop a server with all of its workers, those that hang too."""
    process.terminate()
    try:
        process.wait(SOON_S)
    finally:
        process.kill()
        process.wait()


def get(server, path="/", accept="*/*"):
    """One request on a connection of its own: (status, text)."""
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SOON_S)
    try:
        client.request("GET", path, headers={"Accept": accept})
        answer = client.getresponse()
        return answer.status, answer.read().decode()
    finally:
        client.close()


def until(condition):
    """Wait for a condition."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() < begun + SOON_S, "it did not come to pass"
        time.sleep(0.02)


def until_served(server, version):
    until(lambda: get(server) == (200, f"version {version:02}"))


def children(pid):
    """The living processes that a process has started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in found}


def workers(server):
    """The pids of all that ever served."""
    return {int(pid) for pid in re.findall(r"listening on \S+ \(pid (\d+)", server.log)}


# --- serving -----------------------------------------------------------------------------


def test_a_saved_file_is_served(develop, code):
    """With the file named in the log, and status 0 in the end."""
    server = develop()
    until_served(server, 0)

    write(code, 1)

    until_served(server, 1)
    assert "changed: main.py" in server.log
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(SOON_S) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_nobody_is_refused_during_twenty_quick_edits(develop, code, workers):
    """None refused, none reset, none answered by an error; and the last version is served."""
    server = develop("--workers", workers)
    over, answers, failed = threading.Event(), [], []

    def ask():
        while not over.is_set():
            try:
                answers.append(get(server))
            except (OSError, http.client.HTTPException) as error:
                failed.append(error)

    clients = [threading.Thread(target=ask) for _ in range(3)]
    for client in clients:
        client.start()
    for version in range(1, 21):
        write(code, version)
        time.sleep(0.1)
    until(lambda: {get(server)[1] for _ in range(10)} == {"version 20"})
    over.set()
    for client in clients:
        client.join()

    assert failed == []
    assert {status for status, _ in answers} == {200}


def test_an_edit_within_the_same_second_is_served(develop, code):
    """Bytecode of the same time and size would hide it: none is written, what is there goes."""
    server = develop()
    then = code.stat().st_mtime_ns
    until_served(server, 0)
    assert not list(code.parent.rglob("*.pyc"))
    py_compile.compile(str(code))

    code.with_name("new").write_text(APP.replace("version 00", "version 01"))
    os.utime(code.with_name("new"), ns=(then, then))
    code.with_name("new").replace(code)

    until_served(server, 1)


@pytest.mark.parametrize("why", BROKEN)
def test_what_does_not_start_leaves_the_old_code_serving(develop, code, why):
    """The terminal says why; the next edit is served."""
    server = develop(*flags_for(why))
    text, shown = BROKEN[why]

    code.write_text(text)
    until(lambda: "the reload failed" in server.log)

    assert get(server) == (200, "version 00")
    assert shown.replace("&lt;", "<").replace("&gt;", ">") in server.log
    write(code, 1)
    until_served(server, 1)


@pytest.mark.parametrize("why", BROKEN)
def test_where_nothing_has_started_the_page_says_why_and_looks_again(tmp_path, develop, code, why):
    """503 to browsers in HTML, to others in text; the mended application takes its place."""
    text, shown = BROKEN[why]
    code.write_text(text)
    server = develop(*flags_for(why))

    status, page = get(server, "/any", accept="text/html,*/*;q=0.8")

    assert status == 503
    assert '<meta http-equiv="refresh" content="1">' in page
    assert shown in page
    assert str(Path(fastserve.__file__).parent) not in page     # the user's frames alone
    assert not get(server)[1].startswith("<")
    write(code, 1)
    until_served(server, 1)


def test_the_page_tells_of_the_newest_code(develop, code):
    """Where nobody has served yet, each mistake takes the place of the one before."""
    code.write_text("def (:\n")
    server = develop()
    for why in ("an exception", "a crash", "a failing start-up", "an end"):
        text, shown = BROKEN[why]
        code.write_text(text)
        shown = shown.replace("&lt;", "<").replace("&gt;", ">")
        until(lambda shown=shown: shown in get(server)[1])
        assert get(server)[0] == 503
    write(code, 1)
    until_served(server, 1)


@pytest.mark.parametrize("serving", [True, False])
def test_newer_code_does_not_wait_for_an_import_that_hangs(develop, code, serving):
    """Whether somebody serves meanwhile or not."""
    hang = f"import time, sys\nprint('it hangs', file=sys.stderr)\ntime.sleep({10 * SOON_S})\n"
    if serving:
        server = develop("--boot-timeout-s", "600")
        code.write_text(hang)
    else:
        code.write_text(hang)
        server = develop("--boot-timeout-s", "600", until="it hangs")
    until(lambda: "it hangs" in server.log)

    write(code, 1)

    until(lambda: "listening on" in server.log)
    until_served(server, 1)


def test_an_open_stream_does_not_hold_up_the_new_code(develop, code):
    """It goes on until shortly after the new worker serves, and is ended then."""
    server = develop()
    with socket.create_connection(("127.0.0.1", server.port), SOON_S) as stream:
        stream.sendall(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200" in stream.recv(1000)

        write(code, 1)
        until_served(server, 1)

        with contextlib.suppress(ConnectionResetError):
            while stream.recv(65536):
                pass
    until(lambda: len(children(server.process.pid)) == 2)   # the worker and the watcher


def test_what_a_worker_dies_of_is_mended_at_once(develop, code):
    """However long the server has been told to wait before the next attempt."""
    server = develop()
    code.write_text(APP.replace('return "version 00"', "import os; os.abort()"))

    def dies():
        with contextlib.suppress(OSError, http.client.HTTPException):
            get(server)
        return server.log.count("SIGABRT") >= 3

    until(dies)

    write(code, 1)

    until_served(server, 1)


def test_newer_code_begins_with_no_failures():
    """The pauses between attempts are forgotten, and how many there were."""
    supervisor = object.__new__(Developing)
    slot = Slot(0, failures=7, start_at_s=float("inf"))
    supervisor.slots = [slot]
    supervisor.renewal = SimpleNamespace(reloading=None)
    supervisor.stop_by_s = 0.0

    assert supervisor.reload() == "the server stops"
    assert (slot.failures, slot.start_at_s) == (0, 0.0)


def test_a_watcher_that_ends_is_started_again(develop, code):
    """And what changes then is seen."""
    server = develop()
    (watcher,) = children(server.process.pid) - workers(server)

    os.kill(watcher, signal.SIGKILL)

    until(lambda: server.log.count("watching") == 2)
    write(code, 1)
    until_served(server, 1)


def test_all_processes_end_with_the_first(develop):
    """Even where it cannot say so: kill -9."""
    server = develop()
    left = children(server.process.pid)
    assert len(left) == 2

    server.process.kill()

    until(lambda: not any(map(is_alive, left)))


def test_a_terminal_that_is_closed_ends_the_server(develop):
    """The HUP of a closed terminal is no reload; that of an operator is."""
    controller, terminal = pty.openpty()
    server = develop(start_new_session=True,
                     preexec_fn=lambda: fcntl.ioctl(terminal, termios.TIOCSCTTY, 0))
    os.close(terminal)
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "reloaded" in server.log)

    os.close(controller)

    assert server.process.wait(SOON_S) == 0
    assert "the terminal has gone" in server.log


def test_what_is_not_the_codes_fault_is_no_page(tmp_path, develop, code):
    """A certificate that cannot be loaded: status 3, as of `run`."""
    flags = tls_flags(tmp_path)
    Path(flags[1]).write_text("nothing")
    with pytest.raises(AssertionError, match="ended with 3"):
        develop(*flags)


def test_patterns_choose_what_is_watched(develop, code):
    """--reload-include adds to *.py, --reload-exclude wins, --reload-dir says where."""
    other = code.parent.parent / "templates"
    other.mkdir()
    server = develop("--reload-dir", "../templates", "--reload-include", "*.html",
                     "--reload-exclude", "draft*")
    write(code, 1)
    (other / "draft.html").write_text("")
    (other / "page.txt").write_text("")
    (other / "page.html").write_text("")

    until_served(server, 1)
    assert re.findall("changed: (.*)", server.log) == ["../templates/page.html"]


# --- what is shown, and to whom ----------------------------------------------------------


def test_tracebacks_are_on_the_page_for_this_machine_alone(develop, code):
    """In dev the 500 page has one, unless others can reach the server."""
    server = develop()
    assert "ZeroDivisionError" in get(server, "/bug")[1]


def test_strangers_see_no_traceback(develop, code):
    """Neither of a request, nor of code that does not start."""
    server = develop("--host", "0.0.0.0")
    assert get(server, "/bug") == (500, "Internal Server Error")


@pytest.mark.parametrize(
    ("given", "private"),
    [
        ({}, True), ({"host": "localhost"}, True), ({"host": "::1"}, True), ({"uds": "s"}, True),
        ({"host": "0.0.0.0"}, False), ({"host": "::"}, False), ({"host": "example.org"}, False),
        ({"fd": 3}, False), ({"bind": ("127.0.0.1:1", "[::]:2")}, False),
        ({"forwarded_allow_ips": "127.0.0.1"}, False), ({"behind": "aws-nlb"}, False),
    ])
def test_a_server_is_private_where_only_this_machine_reaches_it(given, private):
    """Loopback addresses and unix sockets, without a proxy that others may reach."""
    assert is_private(Config.load(given)) is private


def test_a_stand_in_answers_everything_and_may_be_silent():
    """Every path and method is 503; where strangers listen the reason stays in the log."""
    with TestClient(stand_in("<secret>", shown=False)) as client:
        for method, path in (("GET", "/"), ("POST", "/a/b"), ("DELETE", "/c")):
            reply = client.request(method, path, headers={"accept": "text/html"})
            assert reply.status == 503
            assert SILENT in reply.text
            assert "secret" not in reply.text
            assert reply.headers["cache-control"] == "no-store"


# --- settings and files ------------------------------------------------------------------


def test_dev_has_defaults_of_its_own_that_whatever_is_given_overrides():
    """But what makes no sense here is off, wherever it was given."""
    config = gather(NOT_IN_DEV, {"FASTSERVE_CONTROL": "c"}, None, DEV_DEFAULTS).config
    assert (config.workers, config.log_level, config.control) == (1, "debug", "c")
    environment = {"FASTSERVE_PRELOAD": "1", "FASTSERVE_GRACEFUL_TIMEOUT_S": "5"}
    config = gather({"workers": 2, **NOT_IN_DEV}, environment, None, DEV_DEFAULTS).config
    assert (config.workers, config.graceful_timeout_s, config.preload) == (2, 5.0, False)


def test_what_makes_no_sense_here_has_no_flag(tmp_path, code):
    """And in the file, where it is for `run`, it does not count."""
    done = subprocess.run(
        [sys.executable, "-m", "fastserve", "dev", "main:app", "--preload"],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=SOON_S)
    assert done.returncode == 2
    assert "No such option" in done.stderr


def test_the_file_of_settings_is_for_dev_too(develop, code):
    """With its preload and its address."""
    (code.parent / "pyproject.toml").write_text("[tool.fastserve]\npreload = true\nworkers = 2\n")
    server = develop()
    assert "2 workers" in server.log


def test_without_watchfiles_the_error_names_the_extra(monkeypatch):
    """Before anything is opened."""
    monkeypatch.setattr(changes, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"fastserve\[dev\]"):
        Watcher(Watched(("/",)))


def test_a_directory_that_is_none_is_refused():
    """With its name."""
    with pytest.raises(ConfigError, match="reload_dir='/nowhere'"):
        Watched.below(["/nowhere"], (), ())


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("main.py", True), ("a/b/main.py", True), ("page.html", True), ("a/page.html", True),
        ("main.pyc", False), ("main.py~", False), (".main.py.swp", False), ("notes.txt", False),
        (".git/x.py", False), ("a/__pycache__/x.py", False), ("node_modules/a/x.py", False),
        ("lib/python3.11/site-packages/x.py", False), (".venv/x.py", False), ("env/x.py", False),
        ("tests/x.py", False), ("tests/a/x.py", False), ("a/tests/x.py", False),
        ("a/draft_1.py", False), ("build/lib/x.py", False), ("build/x.py", True),
        ("../main.py", False),
    ])
def test_what_matters_is_told_from_what_does_not(tmp_path, path, wanted):
    """Names by pattern; hidden and foreign directories, and virtual environments, never."""
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "pyvenv.cfg").write_text("")
    watched = Watched.below([str(tmp_path)], ["*.html"], ["tests/", "draft_*", "build/lib"])

    assert watched.wants(os.path.normpath(tmp_path / path)) is wanted


def test_a_directory_inside_of_another_is_watched_once(tmp_path):
    """And a hidden one above what is watched hides nothing."""
    inner = tmp_path / ".hidden" / "app"
    inner.mkdir(parents=True)
    assert Watched.below([str(tmp_path), str(inner)], (), ()).directories == (
        os.path.realpath(tmp_path),)
    assert Watched.below([str(inner)], (), ()).wants(os.path.realpath(inner / "main.py"))


def test_the_directory_of_a_file_elsewhere_is_watched_too(tmp_path, code, monkeypatch):
    """Beside the current one, or the one that --app-dir names."""
    monkeypatch.chdir(tmp_path)
    assert directories_of("main:app", None) == [os.getcwd()]
    assert directories_of("src/main.py:app", None) == [os.getcwd(), os.path.realpath(code.parent)]
    assert directories_of("main:app", "src") == ["src"]
