"""The entries that are compared: each can be started as the registry says, and obeys the rules."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

pytest.importorskip("asyncpg")
pytest.importorskip("cachetools")

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import workers  # noqa: E402
from benchmarks.__main__ import main  # noqa: E402
from benchmarks.entries import ENTRIES  # noqa: E402
from benchmarks.probe import ask  # noqa: E402
from benchmarks.process import free_port  # noqa: E402
from benchmarks.servers import SERVERS, Server  # noqa: E402
from benchmarks.techempower.verify import verify  # noqa: E402
from benchmarks.venvs import describe  # noqa: E402

APPS = ROOT / "benchmarks" / "peers" / "techempower"
FLAT = (APPS, ROOT / "benchmarks" / "techempower")
CLIENTS = 16
PATIENCE_S = 20.0
DISTRIBUTIONS = {"sqlalchemy[asyncio]": "sqlalchemy", "psycopg2-binary": "psycopg2"}


def app_of(entry: Server) -> Path:
    """The file of the application that an entry's command names."""
    words = shlex.split(entry.command)
    for word in words:
        if word.endswith(".py") and not word.endswith("fastpysgi_run.py"):
            return ROOT / word
    for word in reversed(words):
        path = APPS / f"{word.partition(':')[0]}.py"
        if path.exists():
            return path
    raise AssertionError(f"{entry.name} names no application: {entry.command}")


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=list(ENTRIES))
def test_an_entry_can_be_started_as_it_is_registered(entry: Server) -> None:
    """Its application and every folder and script that its command names exist, and compile."""
    path = app_of(entry)
    compile(path.read_text(), str(path), "exec", dont_inherit=True)
    assert entry.command.count("{port}") == 1
    assert entry.title
    assert entry.package
    for word in shlex.split(entry.command):
        if word.startswith("benchmarks/"):
            assert (ROOT / word).exists(), word


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=list(ENTRIES))
def test_an_entry_installs_what_it_imports(entry: Server) -> None:
    """Each module that its application imports, directly or not, is ours, Python's or required."""
    needed: set[str] = set()
    waiting = [app_of(entry)]
    if "fastpysgi_run.py" in entry.command:
        waiting.append(APPS / "fastpysgi_run.py")
    seen = set(waiting)
    while waiting:
        text = waiting.pop().read_text()
        for name in re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE):
            ours = [folder / f"{name}.py" for folder in FLAT if (folder / f"{name}.py").exists()]
            waiting += [path for path in ours if path not in seen]
            seen.update(ours)
            if not ours and name not in sys.stdlib_module_names:
                needed.add(name)
    installed = {DISTRIBUTIONS.get(name, name.partition("[")[0]) for name in entry.requires}
    assert needed <= installed | {"fastserve", "uvloop", "orjson"}


def test_an_environment_has_one_list_of_requirements() -> None:
    """Entries and servers that share a name of an environment ask for the same packages."""
    known: dict[str, tuple[str, ...]] = {}
    for server in (*SERVERS.values(), *ENTRIES.values()):
        if server.venv:
            assert known.setdefault(server.venv, server.requires) == server.requires, server.name


def test_every_application_of_a_peer_is_registered() -> None:
    """No file in the folder is left over: it is an entry, or what entries have in common."""
    names = {app_of(entry) for entry in ENTRIES.values()}
    imported = set()
    for path in APPS.glob("*.py"):
        imported |= set(re.findall(r"^from (\w+)", path.read_text(), re.MULTILINE))
    left = {path.name for path in APPS.glob("*.py") if path not in names
            and path.stem not in imported}
    assert left == {"fastpysgi_run.py"}


def test_a_usual_row_stands_beside_a_careful_one_and_says_what_it_is() -> None:
    """`-usual` is what was published, as its note says; its peer has a row at its best, too."""
    for name, entry in ENTRIES.items():
        if name.endswith("-usual"):
            peer = name.removesuffix("-usual")
            assert {peer, f"{peer}-careful"} & set(ENTRIES)
            assert "published" in entry.note


def test_a_peer_obeys_the_rules_of_the_suite(postgres_url: str) -> None:
    """The entry whose packages the tests have is started by its command, and verified."""
    pytest.importorskip("aiohttp")
    port = free_port()
    command = [sys.executable, *shlex.split(ENTRIES["aiohttp"].command.format(port=port))]
    variables = {**os.environ, "DATABASE_URL": postgres_url, "POOL_SIZE": "2"}
    with subprocess.Popen(command, cwd=ROOT, env=variables) as server:
        try:
            wait_for(port, server)
            assert verify(port, database_url=postgres_url, concurrency=CLIENTS) == []
        finally:
            server.terminate()


@pytest.mark.parametrize(("module", "way", "entry"), [
    ("careful", "Database", "asgi_careful"),
    ("pipelined", "Database", "asgi_careful"),
    ("usual", "Resetting", "asgi_usual"),
    ("usual", "Batching", "asgi_usual"),
])
def test_what_the_entries_share_obeys_the_rules(
    module: str, way: str, entry: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each way to ask the database, behind a bare ASGI server, is verified."""
    for folder in FLAT:
        monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    monkeypatch.setenv("POOL_SIZE", "2")
    database = getattr(importlib.import_module(module), way)()
    make = importlib.import_module(entry).Entry
    app = make(database) if entry == "asgi_careful" else make(database, orjson.dumps)
    with served(app) as port:
        assert verify(port, database_url=postgres_url, concurrency=CLIENTS) == []


def wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    """Return once it answers."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        assert server.poll() is None, "it ended"
        try:
            ask(port, b"GET /json HTTP/1.1\r\nHost: x\r\n\r\n")
        except OSError:
            assert time.monotonic() < deadline, "it does not answer"
            time.sleep(0.05)
        else:
            return


@contextmanager
def served(app: Any) -> Iterator[int]:
    """The port of an ASGI application, which runs in a thread with a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(PATIENCE_S)

    try:
        steps = asyncio.Queue[str]()
        done = asyncio.Queue[str]()
        life = asyncio.run_coroutine_threadsafe(live(app, steps, done), loop)
        run(steps.put("lifespan.startup"))
        assert run(done.get()) == "lifespan.startup.complete"
        server = run(asyncio.start_server(partial(answer, app), "127.0.0.1", 0))
        yield server.sockets[0].getsockname()[1]
        loop.call_soon_threadsafe(server.close)
        run(steps.put("lifespan.shutdown"))
        life.result(PATIENCE_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def live(app: Any, steps: asyncio.Queue[str], done: asyncio.Queue[str]) -> None:
    """The application's start-up and shut-down."""
    async def receive() -> dict[str, str]:
        return {"type": await steps.get()}

    async def send(message: dict[str, str]) -> None:
        await done.put(message["type"])

    await app({"type": "lifespan"}, receive, send)


async def answer(
    app: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """One request of a connection."""
    line, *_ = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    path, _, query = line.split()[1].partition(b"?")
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    await app({"type": "http", "path": path.decode(), "query_string": query}, None, send)
    start, body = messages
    fields = {b"server": b"stub", b"date": formatdate(usegmt=True).encode(),
              b"content-length": b"%d" % len(body["body"]), **dict(start["headers"])}
    head = b"".join(b"%b: %b\r\n" % field for field in fields.items())
    writer.write(b"HTTP/1.1 %d OK\r\nConnection: close\r\n%b\r\n%b"
                 % (start["status"], head, body["body"]))
    await writer.drain()
    writer.close()


def test_a_server_that_does_not_start_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It says what the server's last words were, and the bench ends with 1, not a traceback."""
    monkeypatch.setitem(workers.FLAGS, "one worker, metrics", ["--no-such-flag"])
    monkeypatch.setattr(workers, "ALONE", "one worker, metrics")
    monkeypatch.setattr(sys, "argv", ["benchmarks", "workers", "--rounds", "1"])
    cores = os.sched_getaffinity(0)
    try:
        assert main() == 1
    finally:
        os.sched_setaffinity(0, cores)
    shown = capfd.readouterr().err
    assert "--no-such-flag" in shown
    assert "Traceback" not in shown


def test_how_a_python_is_linked_is_seen_and_not_believed() -> None:
    """Whether libpython is shared is what the process says; a record of another build is none."""
    told = describe(sys.executable, "pip")
    linked = "libpython" in Path("/proc/self/maps").read_text()
    assert told["shared"] == ("yes" if linked else "no")
    recorded = "--enable-shared" in told["config_args"]
    unknown = recorded != linked and "--enable-optimizations" not in told["config_args"]
    assert (told["pgo"] == "not recorded") == unknown
