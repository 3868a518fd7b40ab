"""cli.py, target.py and worker.py as users meet them: real processes, sockets and signals."""

import contextlib
import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import click
import pytest

import fastserve
from fastserve import cli
from fastserve.config import Config
from fastserve.options import GroupedOption
from fastserve.presets import NOT_IN_DEV

DEADLINE_S = 30
APP = """
    import asyncio, os, sys
    from fastserve import App, Request

    app = App()
    begun = asyncio.Event()

    @app.get("/")
    def home():
        return "home"

    @app.get("/pid")
    def pid():
        return str(os.getpid())

    @app.get("/slow/{seconds:float}")
    async def slow(seconds):
        print("slow begins", file=sys.stderr, flush=True)
        await asyncio.sleep(seconds)
        return "slow"

    @app.post("/stuck")
    async def stuck():
        print("stuck begins", file=sys.stderr, flush=True)
        try:
            await asyncio.Event().wait()
        finally:
            print("stuck ends", file=sys.stderr, flush=True)

    @app.on_shutdown
    def closing():
        print("hook: shutdown", file=sys.stderr, flush=True)
"""


class Server:
    """A `fastserve` process and what it wrote to stderr."""

    def __init__(self, process, log):
        self.process = process
        self._log = log

    @property
    def log(self):
        return self._log.read_text()

    def until(self, pattern):
        """Wait for a line in the log; its match."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            match = re.search(pattern, self.log)
            if match:
                return match
            if self.process.poll() is not None:
                match = re.search(pattern, self.log)
                assert match, f"ended with {self.process.returncode}:\n{self.log}"
                return match
            time.sleep(0.01)
        raise AssertionError(f"no {pattern!r} in:\n{self.log}")

    @property
    def port(self):
        return int(self.until(r"listening on http://[\d.]+:(\d+)").group(1))

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), DEADLINE_S)

    def ask(self, path="/", method="GET"):
        with self.connect() as client:
            return exchange(client, path, method)

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self):
        return self.process.wait(DEADLINE_S)


def exchange(client, path="/", method="GET"):
    """Send one request and read until the server closes."""
    client.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return read_all(client)


def read_all(client):
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(65536):
            data += piece
    return data.decode()


def environment():
    # `python -m fastserve` in another directory must find the package that is tested
    root = str(Path(fastserve.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": root, "COLUMNS": "80"}


@pytest.fixture
def write(tmp_path):
    """Write a module into the test's directory."""

    def write_it(name, source=APP):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
        return path

    return write_it


@pytest.fixture
def command(tmp_path):
    """Run a fastserve command to its end, in the test's directory."""

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "fastserve", *arguments],
            cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=DEADLINE_S)

    return run


@pytest.fixture
def start(tmp_path):
    """Start a process in the test's directory; it is gone when the test is over."""
    servers = []

    def start_it(*arguments, python=False, **options):
        log = tmp_path / f"log{len(servers)}"
        program = [sys.executable] if python else [sys.executable, "-m", "fastserve"]
        with open(log, "w") as stderr:
            process = subprocess.Popen(
                [*program, *arguments], cwd=tmp_path, env=environment(), stderr=stderr, **options)
        servers.append(Server(process, log))
        return servers[-1]

    yield start_it
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait()


def one_line(done, status=1):
    """A failure is one line of ours and no traceback of ours."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("fastserve: "), done.stderr
    assert str(Path(fastserve.__file__).parent) not in done.stderr
    return done.stderr.splitlines()[-1].removeprefix("fastserve: ")


# --- MODULE:APP --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", ["main:app", "main", "main.py", "main.py:app", "./main.py", "pkg.inner:app",
               "pkg/inner.py", "main:holder.app"])
def test_an_application_is_found_by_module_or_by_file(write, command, target):
    """Dotted or with slashes, `:app` by default, from the current directory."""
    write("main.py", APP + "\n    class holder: pass\n    holder.app = app\n")
    write("pkg/__init__.py", "")
    write("pkg/inner.py")

    done = command("routes", target)

    assert done.returncode == 0, done.stderr
    assert "/slow/{seconds:float}" in done.stdout


def test_a_file_may_have_the_name_of_a_standard_module_and_import_its_neighbours(write, command):
    """`examples/json.py` is the file that was named."""
    write("examples/json.py", "import neighbour\nfrom fastserve import App\napp = App()\n")
    write("examples/neighbour.py", "")

    assert command("routes", "examples/json.py").returncode == 0


def test_a_factory_is_called_and_an_app_dir_is_searched(write, command):
    """--factory and --app-dir, as in uvicorn."""
    write("src/main.py", "from fastserve import App\ndef make():\n    return App()\n")

    assert command("routes", "main:make", "--factory", "--app-dir", "src").returncode == 0
    assert "to call it, add --factory" in one_line(
        command("routes", "main:make", "--app-dir", "src"))


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nowhere:app", "there is no module 'nowhere' in "),
        ("nowhere.py", "there is no file 'nowhere.py' in "),
        ("main:missing", "'main' has no attribute 'missing'; it has app"),
        ("main:os", "main:os is module, not a fastserve.App"),
        ("main.sub:app", "there is no module 'main.sub' in "),
    ],
)
def test_a_target_that_is_not_there_is_one_line(write, command, target, says):
    """Exit status 1, and the line says what was looked for."""
    write("main.py")

    assert one_line(command("run", target)).startswith(says)


@pytest.mark.parametrize(
    ("source", "says", "shows"),
    [
        ("x = 1\n1 / 0\n", "importing 'main' failed: ZeroDivisionError", 'main.py", line 2'),
        ("def f(:\n", "importing 'main' failed: SyntaxError", 'main.py", line 1'),
        ("import no_such_thing\n", "importing 'main' failed: ModuleNotFoundError", "line 1"),
        ("raise SystemExit(5)\n", "importing 'main' failed: SystemExit: 5", "line 1"),
        (
            "from fastserve import App\napp = App()\n@app.get('/')\ndef f(db): ...\n",
            "importing 'main' failed: RouteError: route 'GET /'", 'main.py", line',
        ),
    ],
)
def test_a_module_that_fails_shows_its_own_frames_and_one_line(write, command, source, says, shows):
    """The user's traceback from the user's file on, nothing of ours before it."""
    write("main.py", source)

    done = command("run", "main:app")
    lines = done.stderr.splitlines()

    assert done.returncode == 1
    assert lines[-1].startswith(f"fastserve: {says}")
    assert shows in done.stderr
    assert str(Path(fastserve.__file__).parent) not in done.stderr
    first_file = next(line for line in lines if line.lstrip().startswith("File"))
    assert "main.py" in first_file


# --- usage -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["run"], ["run", "main:app", "--no-such"], ["run", "main:app", "--port", "x"], ["jump"],
     ["run", "main:app", "--port", "70000"], ["run", "main:app", "--uds", "a", "--fd", "3"],
     ["run", ":app"], ["run", "main:"], ["run", "a:b:c"], ["run", "main:app", "--http", "h3"],
     ["run", "main:app", "--uds-mode", "999"]])
def test_wrong_usage_is_status_2(write, command, arguments):
    """Click says what is wrong, with the way to the help page."""
    write("main.py")

    done = command(*arguments)

    assert done.returncode == 2, done.stderr
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_the_help_fits_on_a_screen(command):
    """24 lines of 80 columns, with each command and what it is for, whole."""
    lines = command("--help").stdout.splitlines()

    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert not any("..." in line or "\\b" in line for line in lines[1:])
    named = [line.split()[0] for line in lines[lines.index("Commands:") + 1:]]
    assert named[:6] == ["run", "dev", "check", "config", "routes", "ctl"]


@pytest.mark.parametrize("name", ["run", "dev", "check", "config"])
def test_every_option_is_in_a_group(name):
    """In that of its setting; the groups are in the order of the settings."""
    door = cli.main.commands[name]
    shown = door.get_help(click.Context(door, info_name=name))
    titles = [setting.metadata["group"] for setting in dataclasses.fields(Config)]
    without = NOT_IN_DEV if name == "dev" else ()

    for option in door.params:
        grouped = isinstance(option, GroupedOption)
        assert grouped or isinstance(option, click.Argument), option
    for setting in dataclasses.fields(Config):
        flag = "--" + setting.name.replace("_", "-")
        assert (f"  {flag}" in shown) == (setting.name not in without), flag
    positions = [shown.index(f"\n{title}:") for title in dict.fromkeys(titles)]
    assert positions == sorted(positions)


@pytest.mark.parametrize(
    ("arguments", "way_out"),
    [
        (["run"], "fastserve run --help"),
        (["rnu", "main:app"], "fastserve --help"),
        (["run", "main:app", "--prot", "1"], "--port"),
        (["run", "main:app", "--loop", "trio"], "'uvloop', 'asyncio'"),
        (["run", "app.py:app:x"], "examples: main:app, app/main.py"),
        (["run", "main:app", "--preload"], "give workers too"),
        (["run", "main:app", "--config", "none.toml"], "there is no such file"),
        (["dev"], "fastserve dev --help"),
        (["check", "a:b:c"], "examples: main:app, app/main.py"),
    ])
def test_wrong_usage_names_the_way_out(command, arguments, way_out):
    """What could have been meant, what there is, or where it stands."""
    done = command(*arguments)

    assert done.returncode == 2
    assert way_out in done.stderr


def test_the_version_names_what_a_bug_report_needs(command):
    """fastserve, CPython, the libraries, the compiler."""
    pattern = (r"fastserve [\d.]+ \(CPython 3\.[\w.+]+, uvloop [\d.]+, httptools [\d.]+, "
               r"orjson [\d.]+, Cython 3[\w.]+\)\n")

    assert re.fullmatch(pattern, command("--version").stdout)


def test_routes_are_listed_as_a_table(write, command):
    """Methods, path, name, handler with its place."""
    path = write("main.py")
    lines = command("routes", "main:app").stdout.splitlines()

    assert lines[0].split() == ["METHODS", "PATH", "NAME", "HANDLER"]
    assert lines[1].split()[:3] == ["GET", "/", "home"]
    assert f"main.home ({path}:" in lines[1]


# --- serving -----------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_server_answers_and_stops_with_status_0(write, start, loop):
    """It prints where it listens, and the shutdown hook runs once."""
    write("main.py")
    server = start("run", "main:app", "--port", "0", "--loop", loop)

    assert server.ask().endswith("\r\n\r\nhome")
    server.signal(signal.SIGTERM)

    assert server.wait() == 0
    assert server.log.count("hook: shutdown") == 1
    assert "Traceback" not in server.log


def test_a_unix_socket_is_served_and_removed(write, start, tmp_path, needs):
    """--uds to curl and to plain sockets, over our own transport; nobody has an address."""
    write("main.py", APP + """
    @app.get("/client")
    def client(request: Request):
        return f"{request.client!r} {request.scheme}"
    """)
    server = start("run", "main:app", "--uds", "s.sock", "--uds-mode", "600")
    server.until("listening on unix:s.sock")

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s.sock"))
        assert exchange(client, "/client").endswith("Address(host='', port=0) http")
    done = subprocess.run(
        [needs("curl"), "-sS", "--unix-socket", "s.sock", "http://any/", "http://any/pid"],
        cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.stdout == f"home{server.process.pid}"
    assert (tmp_path / "s.sock").stat().st_mode & 0o777 == 0o600
    server.signal(signal.SIGINT)

    assert server.wait() == 0
    assert not (tmp_path / "s.sock").exists()


def test_a_killed_server_leaves_a_socket_that_its_successor_replaces(write, start, tmp_path):
    """kill -9: the file stays, and is nobody's."""
    write("main.py")
    server = start("run", "main:app", "--uds", "s.sock")
    server.until("listening on")
    server.signal(signal.SIGKILL)
    server.wait()
    assert (tmp_path / "s.sock").exists()

    start("run", "main:app", "--uds", "s.sock").until("listening on")

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s.sock"))
        assert exchange(client).endswith("home")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="abstract sockets are Linux's")
def test_an_abstract_socket_is_served(write, start, needs):
    """--uds @NAME, and curl's --abstract-unix-socket."""
    write("main.py")
    name = f"fastserve-cli-{os.getpid()}"
    start("run", "main:app", "--uds", f"@{name}").until(f"listening on unix:@{name}")
    done = subprocess.run(
        [needs("curl"), "-sS", "--abstract-unix-socket", name, "http://any/"],
        capture_output=True, text=True, timeout=DEADLINE_S)

    assert done.stdout == "home"


def test_several_binds_and_an_inherited_socket_are_served(write, start):
    """--bind may be repeated, and fd://N adopts what the parent opened."""
    write("main.py")
    with socket.create_server(("127.0.0.1", 0)) as parent:
        server = start(
            "run", "main:app", "--bind", "127.0.0.1:0", "--bind", f"fd://{parent.fileno()}",
            pass_fds=[parent.fileno()])
        assert server.ask().endswith("home")
        with socket.create_connection(parent.getsockname(), DEADLINE_S) as client:
            assert exchange(client).endswith("home")


def test_a_port_in_use_is_one_line_and_status_1(write, command):
    """Before the application's start-up, so that nothing must be undone."""
    write("main.py")
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        said = one_line(command("run", "main:app", "--port", str(port)))

    assert said == f"port {port} on 127.0.0.1 is in use"


def test_what_is_in_flight_finishes_and_nothing_new_begins(write, start):
    """SIGTERM while a request runs: it is answered, the idle connection is closed, status 0."""
    write("main.py")
    server = start("run", "main:app", "--port", "0")
    with server.connect() as busy, server.connect() as idle:
        idle.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(65536).endswith(b"home")
        busy.sendall(b"GET /slow/2 HTTP/1.1\r\nHost: x\r\n\r\n")
        server.until("slow begins")

        server.signal(signal.SIGTERM)

        assert read_all(idle) == ""
        reply = read_all(busy)
        assert reply.endswith("slow")
        assert "connection: close" in reply.lower()
    assert server.wait() == 0
    assert server.log.count("hook: shutdown") == 1


def test_the_graceful_timeout_bounds_the_waiting(write, start):
    """A handler that never ends is cancelled, the lifespan still shuts down, status 0."""
    write("main.py")
    server = start("run", "main:app", "--port", "0", "--graceful-timeout-s", "0.2")
    with server.connect() as client:
        client.sendall(b"POST /stuck HTTP/1.1\r\nHost: x\r\n\r\n")
        server.until("stuck begins")
        server.signal(signal.SIGTERM)

        assert server.wait() == 0
    assert "dropping 1 connections with 1 requests in flight" in server.log
    assert server.log.index("stuck ends") < server.log.index("hook: shutdown")


def test_a_second_signal_does_not_wait(write, start):
    """Ctrl-C twice: now."""
    write("main.py")
    server = start("run", "main:app", "--port", "0", "--graceful-timeout-s", "600")
    with server.connect() as client:
        client.sendall(b"POST /stuck HTTP/1.1\r\nHost: x\r\n\r\n")
        server.until("stuck begins")
        server.signal(signal.SIGINT)
        server.until("SIGINT: stopping\n")
        server.signal(signal.SIGINT)

        assert server.wait() == 0
    assert server.log.count("hook: shutdown") == 1


def test_a_blocking_handler_that_never_returns_does_not_hold_the_process(write, start):
    """Nothing can stop a thread; the process leaves it behind."""
    write("main.py", """
        import sys, threading
        from fastserve import App, blocking
        app = App()

        @app.get("/")
        @blocking
        def stuck():
            print("begun", file=sys.stderr, flush=True)
            threading.Event().wait()
    """)
    server = start("run", "main:app", "--port", "0", "--graceful-timeout-s", "0.1")
    with server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        server.until("begun")
        server.signal(signal.SIGTERM)

        assert server.wait() == 0
    assert "1 @blocking handlers still run; leaving them" in server.log


START_UP = {
    "hook": "app = App()\n@app.on_startup\nasync def f(): raise ValueError('no database')\n",
    "lifespan": "async def f(app):\n    raise ValueError('no database')\n    yield\n"
                "app = App(lifespan=f)\n",
}


@pytest.mark.parametrize("kind", START_UP)
def test_a_failing_start_up_is_status_3_with_the_reason(write, command, kind):
    """The user's frames in the log, one line with the reason, and never an accept."""
    write("main.py", "from fastserve import App\n" + START_UP[kind])

    done = command("run", "main:app", "--port", "0")

    assert done.returncode == 3
    assert "start-up failed: ValueError: no database" in done.stderr
    assert 'main.py", line' in done.stderr
    assert "fastserve/" not in done.stderr
    assert "listening" not in done.stderr


def test_a_signal_during_start_up_ends_it(write, start):
    """What the lifespan opened is closed; status 0."""
    write("main.py", """
        import asyncio, sys
        from fastserve import App

        async def lifespan(app):
            try:
                print("opening", file=sys.stderr, flush=True)
                await asyncio.sleep(600)
                yield
            finally:
                print("closed", file=sys.stderr, flush=True)

        app = App(lifespan=lifespan)
    """)
    server = start("run", "main:app", "--port", "0")
    server.until("opening")
    server.signal(signal.SIGTERM)

    assert server.wait() == 0
    assert "closed" in server.log
    assert "listening" not in server.log


def test_a_failing_shutdown_is_status_1_with_the_users_frames(write, start):
    """It was served, and something could not be put away."""
    write("main.py", "from fastserve import App\napp = App()\n"
                     "@app.on_shutdown\ndef f(): raise ValueError('dirty')\n")
    server = start("run", "main:app", "--port", "0")
    server.until("listening")
    server.signal(signal.SIGTERM)

    assert server.wait() == 1
    assert "shutdown failed: ValueError: dirty" in server.log
    assert 'main.py", line' in server.log


def test_app_run_from_a_script_does_the_same(write, start):
    """Python main.py; after the signal it goes on behind app.run()."""
    write("main.py", APP + "\n    app.run(port=0)\n    print('behind', file=sys.stderr)\n")
    server = start("main.py", python=True)

    assert server.ask().endswith("home")
    server.signal(signal.SIGINT)

    assert server.wait() == 0
    assert "behind" in server.log


@pytest.mark.parametrize(
    ("call", "status", "says"),
    [
        ("app.run(prot=1)", 1, "prot=1: there is no such setting. Did you mean port?"),
        ("app.run(port=-1)", 1, "port=-1: must be a whole number"),
        ("app.on_startup(lambda: 1 / 0)\napp.run(port=0)", 3, "start-up failed: ZeroDivisionError"),
    ],
)
def test_app_run_exits_with_the_status_of_the_command(write, start, call, status, says):
    """One line, no traceback of ours."""
    write("main.py", f"from fastserve import App\napp = App()\n{call}\n")
    server = start("main.py", python=True)

    assert server.wait() == status
    assert says in server.log
    assert "fastserve/" not in server.log


def test_an_unguarded_app_run_is_inert_under_the_command(write, command):
    """`fastserve routes` and `fastserve run` import the module; its app.run() waits for nobody."""
    write("main.py", "from fastserve import App\napp = App()\napp.run(port=1)\n")

    assert command("routes", "main.py").returncode == 0
