"""Our entry breaks none of the arena's rules on a real PostgreSQL, and wrong servers do."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from server_process import interrupt_without_database, wait_for
from worker_thread import serve_in_thread
from wrong_arena import WRONG, make

asyncpg = pytest.importorskip("asyncpg")
for name in ("brotli", "cachetools", "trustme"):
    pytest.importorskip(name)

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.httparena import cli, data, profiles, verify  # noqa: E402
from benchmarks.httparena.wire import Connection, Target, ask, request  # noqa: E402
from benchmarks.process import free_port  # noqa: E402

FOLDER = ROOT / "benchmarks" / "httparena"
LISTENING = r"listening on https://127\.0\.0\.1:(\d+), http://127\.0\.0\.1:(\d+) \(pid"
ROWS = 3000
START_S = STOP_S = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the arena mounts."""
    made = tmp_path_factory.mktemp("arena")
    data.write(made, brotli_quality=1)
    return made


@pytest.fixture(scope="module")
def database(postgres_url: str) -> str:
    """A PostgreSQL with the arena's table."""
    asyncio.run(data.fill(postgres_url, ROWS))
    return postgres_url


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks", "httparena", *arguments]


@contextmanager
def served(
    directory: Path, folder: Path, *flags: str, end: signal.Signals = signal.SIGTERM
) -> Iterator[Target]:
    """`python -m benchmarks httparena FLAGS`, which must end well when it is told to."""
    log_path = directory / "arena.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command("--port", "0", "--data", str(folder), *flags), cwd=ROOT, stderr=log)
    try:
        found = wait_for(log_path, LISTENING, process)
        yield Target(int(found[2]), int(found[1]), folder / "data")
        process.send_signal(end)
        assert process.wait(STOP_S) == 0
        assert "Traceback" not in log_path.read_text()
    finally:
        process.kill()
        process.wait()


# --- our entry -----------------------------------------------------------------------------


def test_our_entry_breaks_no_rule(
    folder: Path, database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every profile, and the noise; then the same by the command line."""
    def asked(*arguments: str) -> int:
        parser = argparse.ArgumentParser()
        cli.add_arguments(parser)
        return cli.run(parser.parse_args(arguments))

    with served(tmp_path, folder, "--database", database) as target:
        assert verify.verify(target) == []
        port, tls_port = str(target.port), str(target.tls_port)
        assert asked("--verify", port, "--tls-port", tls_port, "--data", str(folder),
                     "--profiles", "pipelined,json-tls") == 0
        assert capsys.readouterr().out == "2 profiles: 0 failures\n"
        assert asked("--verify", tls_port, "--profiles", "pipelined") == 1
        assert re.fullmatch(
            r"pipelined: an answer to pipeline: .+\npipelined: answers come in order: .+\n"
            r"1 profiles: 2 failures; files were compared with themselves only \(--data\)\n",
            capsys.readouterr().out)


def test_several_workers_share_what_they_keep(
    folder: Path, database: str, tmp_path: Path, needs: Callable[[str], str]
) -> None:
    """By Redis: the rules of CRUD hold whichever worker is asked. Ctrl-C ends them all."""
    pytest.importorskip("redis")
    needs("redis-server")
    flags = ("--workers", "2", "--database", database)
    with served(tmp_path, folder, *flags, end=signal.SIGINT) as target:
        for _ in range(3):
            assert verify.verify(target, ["crud"]) == []


@contextmanager
def bare_entry(directory: Path, folder: Path, **environment: str) -> Iterator[Target]:
    """`fastserve run app.py` as the image starts it, with this environment."""
    log_path = directory / "entry.log"
    given = {**os.environ, "PYTHONPATH": str(ROOT), "DATA_DIR": str(folder / "data"), **environment}
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "fastserve", "run", str(FOLDER / "app.py"), "--port", "0"],
            env=given, stderr=log)
    try:
        port = int(wait_for(log_path, r"listening on http://\S+:(\d+) \(pid", process)[1])
        yield Target(port, 0, folder / "data")
    finally:
        process.terminate()
        process.wait(STOP_S)


def test_the_entry_serves_the_rest_without_a_database(folder: Path, tmp_path: Path) -> None:
    """As in the profiles that have none: an empty range, 503 for the items, and no traceback."""
    with bare_entry(tmp_path, folder) as target:
        assert verify.verify(target, ["baseline", "json"]) == []
        assert ask(target, request("/async-db")).body == b'{"items":[],"count":0}'
        assert ask(target, request("/crud/items/1")).status == 503
    assert "Traceback" not in (tmp_path / "entry.log").read_text()


def test_the_entry_finds_a_database_that_comes_late(
    folder: Path, database: str, tmp_path: Path
) -> None:
    """The first requests are answered without it; those after a second are not."""
    real = int(re.search(r":(\d+)/", database)[1])      # type: ignore[index]
    port = free_port()
    late = database.replace(f":{real}/", f":{port}/")
    with bare_entry(tmp_path, folder, DATABASE_URL=late, DATABASE_MAX_CONN="4", WORKERS="2",
                    REDIS_URL="") as target:
        assert ask(target, request("/async-db")).body == b'{"items":[],"count":0}'
        with forwarded(port, real):
            deadline = time.monotonic() + START_S
            while ask(target, request("/crud/items/1")).status != 200:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert verify.verify(target, ["async-db"]) == []


@contextmanager
def forwarded(port: int, real: int) -> Iterator[None]:
    """What connects to `port` reaches `real`."""
    loop = asyncio.new_event_loop()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65536):
                writer.write(piece)
        except OSError:
            pass
        finally:
            writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", real)
        await asyncio.gather(pump(reader, to_writer), pump(to_reader, writer))

    server = loop.run_until_complete(asyncio.start_server(connect, "127.0.0.1", port))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield
    finally:
        def stop() -> None:
            server.close()
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.call_later(0.1, loop.stop)

        loop.call_soon_threadsafe(stop)
        thread.join()
        loop.close()


MISTAKES = [
    ("/baseline11", None, None), ("/baseline11?a=1&b=x", None, None),
    ("/baseline11?a=1&b=1", b"x", None), ("/json/5?m=x", None, None), ("/json/x", None, None),
    (f"/json/5?m={2**31}", None, None),
    ("/async-db?limit=x", None, None), ("/async-db?min=1.5", None, None),
    ("/crud/items?page=x", None, None), ("/crud/items?category=%00", None, None),
    (f"/crud/items/{2**40}", None, None), ("/crud/items/x", None, None),
    ("/crud/items", b"no JSON", None), ("/crud/items", b"[]", None),
    ("/crud/items", b'{"id":1,"name":"x","category":"y","price":1}', None),
    ("/crud/items", b'{"id":99999999999,"name":"x","category":"y","price":1,"quantity":1}', None),
    ("/crud/items", b'{"id":3,"name":"\\u0000","category":"y","price":1,"quantity":1}', None),
    ("/crud/items/1", b'{"name":"x","price":"1","quantity":1}', "PUT"),
    (f"/crud/items/{2**40}", b'{"name":"x","price":1,"quantity":1}', "PUT"),
]


def test_mistakes_of_clients_are_theirs(folder: Path, database: str, tmp_path: Path) -> None:
    """400 or 404, never an error of the server's; what is too far is moved to what there is."""
    with bare_entry(tmp_path, folder, DATABASE_URL=database, REDIS_URL="") as target:
        for path, body, method in MISTAKES:
            status = ask(target, request(path, body, method)).status
            assert status in (400, 404), (path, body, status)
        for count, shown in ((-1, 0), (99, 50)):
            assert json.loads(ask(target, request(f"/json/{count}")).body)["count"] == shown
        assert json.loads(ask(target, request(f"/crud/items?page={2**50}")).body)["items"] == []
    assert "Traceback" not in (tmp_path / "entry.log").read_text()


# --- the verification ------------------------------------------------------------------------


@contextmanager
def toy(folder: Path, wrong: str | None) -> Iterator[Target]:
    certs = folder / "certs"
    settings = {"ssl_certfile": str(certs / "server.crt"), "ssl_keyfile": str(certs / "server.key"),
                "plain_bind": ("127.0.0.1:0",)}
    with serve_in_thread(make(folder / "data", wrong), **settings) as thread:
        plain = thread.listeners[1].socket.getsockname()[1]
        yield Target(plain, thread.port, folder / "data")


def test_a_server_that_is_right_passes(folder: Path) -> None:
    """Whoever wrote it: the wrong ones below differ from this one in what they are named after."""
    with toy(folder, None) as target:
        assert verify.verify(target) == []


@pytest.mark.parametrize("wrong", WRONG)
def test_a_server_that_is_wrong_does_not_pass(folder: Path, wrong: str) -> None:
    """Each rule finds what breaks it."""
    with toy(folder, wrong) as target:
        problems = verify.verify(target, [WRONG[wrong]])
    assert problems, f"{wrong} was not found"
    assert {problem.profile for problem in problems} == {WRONG[wrong]}


@contextmanager
def bare_server(
    answer: Callable[[bytes], bytes], context: ssl.SSLContext | None = None
) -> Iterator[int]:
    """A server that answers whatever comes, as often as something comes; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            try:
                if context is not None:
                    sock = context.wrap_socket(sock, server_side=True)
                while data := sock.recv(1_000_000):
                    sock.sendall(answer(data))
            except OSError:
                pass
            finally:
                sock.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def reply(body: bytes, kind: bytes = b"text/plain") -> bytes:
    return (b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (kind, len(body), body))


def test_answers_out_of_order_are_found() -> None:
    """Sixteen that are right, but for their order."""
    def backwards(data: bytes) -> bytes:
        sums = re.findall(rb"GET /baseline11\?a=(\d+)&", data)
        return b"".join(map(reply, reversed(sums))) or reply(b"ok") * data.count(b"GET /pipeline")

    with bare_server(backwards) as port:
        problems = verify.verify(Target(port, 0), ["pipelined"])
    assert [problem.what for problem in problems] == ["GET /baseline11, pipelined"]


def test_noise_that_is_welcome_is_found() -> None:
    """A server that says 200 to anything, and one that dies of it."""
    with bare_server(lambda data: reply(b"ok")) as port:
        found = {problem.what for problem in verify.verify(Target(port, 0), ["noise"])}
    assert {"binary", "a NUL in the path", "a bare CR"} <= found
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    problems = verify.verify(Target(port, 0), ["noise"])
    assert "no connection to port" in problems[0].reason


def test_tls_without_alpn_or_beside_plain_http_is_found(folder: Path) -> None:
    """The port of TLS speaks http/1.1, says so, and speaks nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certs" / "server.crt", folder / "certs" / "server.key")
    with bare_server(lambda data: reply(b"{}", b"application/json"), context) as port:
        problems = verify.verify(Target(0, port), ["json-tls"])
    assert problems[0].what == "ALPN"
    with bare_server(lambda data: reply(b"{}", b"application/json")) as port:
        problems = verify.verify(Target(0, port), ["json-tls"])
    assert problems[-1].what == "plain HTTP on the port of TLS"


def test_each_answer_is_read_to_its_own_end(folder: Path) -> None:
    """Several on one connection, by length and by chunks."""
    answers = [reply(b"one"), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
               b"1\r\nt\r\n2\r\nwo\r\n0\r\n\r\n", reply(b"three")]
    with bare_server(lambda data: b"".join(answers)) as port, Connection(Target(port, 0)) as one:
        one.send(request("/"))
        assert [one.answer().body for _ in answers] == [b"one", b"two", b"three"]


# --- the command, and the arena's form -------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--profiles", "json,jsn"], 2, "jsn unknown; there are: baseline"),
        (["--port", "x"], 2, "'x' is no port"),
        (["--database", "mysql://x"], 2, "is no URL like postgresql://"),
        (["--database", "postgresql://u:secret@127.0.0.1:1/x"], 1, "--database postgresql://u:***@"),
        (["--data", "/proc/no"], 1, "--data /proc/no"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], status: int, says: str, tmp_path: Path, folder: Path
) -> None:
    """The value and the way out; no traceback, no password."""
    if "--data" not in arguments:
        arguments = [*arguments, "--data", str(folder)]
    if "--database" not in arguments:
        arguments = [*arguments, "--database", "postgresql://u@127.0.0.1:1/x"]
    done = subprocess.run(command("--port", "0", *arguments), cwd=ROOT, capture_output=True,
                          text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_the_data_is_the_same_each_time_and_of_the_arenas_shape(
    folder: Path, tmp_path: Path
) -> None:
    """50 items, 20 files of the sizes it names, siblings for text that undo to it."""
    import gzip

    import brotli

    assert data.dataset() == data.dataset() == json.loads(
        (folder / "data" / "dataset.json").read_text())
    assert len(data.dataset()) == 50
    assert list(data.rows(5)) == list(data.rows(5))
    static = folder / "data" / "static"
    assert len(data.STATIC_FILES) == 20
    for name in data.TEXT_FILES:
        plain = (static / name).read_bytes()
        assert abs(len(plain) - data.TEXT_FILES[name] * 1024) < 100
        assert brotli.decompress((static / f"{name}.br").read_bytes()) == plain
        assert gzip.decompress((static / f"{name}.gz").read_bytes()) == plain
    json.loads((static / "manifest.json").read_text())
    data.write(tmp_path, brotli_quality=1)
    again = tmp_path / "data" / "static" / "app.js"
    assert again.read_bytes() == (static / "app.js").read_bytes()


def test_the_images_file_names_what_is_there() -> None:
    """What it copies is in the folder, and whatever the application imports is copied."""
    copied: set[str] = set()
    for line in (FOLDER / "Dockerfile").read_text().replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["COPY"] and not words[1].startswith("--from"):
            copied |= set(words[1:-1])
    for name in copied:
        assert name == "*.whl" or (FOLDER / name).exists(), name
    modules = {path.stem for path in FOLDER.glob("*.py")}
    for name in copied & {f"{module}.py" for module in modules}:
        wanted = set(re.findall(r"^(?:from|import) (\w+)", (FOLDER / name).read_text(), re.M))
        assert {f"{module}.py" for module in wanted & modules} <= copied, name
    script = (FOLDER / "entrypoint.sh").read_text()
    assert subprocess.run(["sh", "-n", str(FOLDER / "entrypoint.sh")], check=False).returncode == 0
    for flag in set(re.findall(r" (--[a-z-]+)", script.partition("cert=")[2])):
        assert flag[2:].replace("-", "_") in settings_of_fastserve(), flag


def settings_of_fastserve() -> dict[str, Any]:
    from fastserve.config import Config

    return Config.__dataclass_fields__


def test_the_entry_is_described_in_the_arenas_form() -> None:
    """Every field it reads; the profiles are those that it serves over HTTP/1.1, all of them."""
    meta = json.loads((FOLDER / "meta.json").read_text())
    assert set(meta) == {"display_name", "language", "type", "engine", "description", "repo",
                         "enabled", "tests", "maintainers"}
    assert (meta["type"], meta["language"], meta["enabled"]) == ("production", "Python", True)
    assert set(meta["tests"]) == set(profiles.MEASURED)


def test_the_careful_pool_is_that_of_the_other_suite() -> None:
    """The image holds one folder, so there are two files; they are one."""
    other = FOLDER.parent / "techempower" / "careful_pool.py"
    assert (FOLDER / "careful_pool.py").read_bytes() == other.read_bytes()


@pytest.mark.parametrize(("most", "workers", "size"), [
    (256, 64, 3), (256, 1, 32), (256, 4, 32), (256, 16, 14), (100, 256, 1)])
def test_workers_share_the_connections(
    monkeypatch: pytest.MonkeyPatch, most: int, workers: int, size: int
) -> None:
    """Never more than there may be, but for one each."""
    monkeypatch.syspath_prepend(str(FOLDER))
    try:
        import store

        assert store.pool_size(most, workers) == size
    finally:
        sys.modules.pop("store", None)
        sys.modules.pop("careful_pool", None)


def test_a_database_that_does_not_answer_can_be_interrupted(folder: Path) -> None:
    """SIGINT ends the wait for a connection at once, with the status of that signal."""
    ended = interrupt_without_database("httparena", "--port", "0", "--data", str(folder))
    assert ended == (128 + signal.SIGINT, b"")
