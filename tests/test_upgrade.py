"""One supervisor follows another, on the same sockets, and no client is lost."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import signal
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from server_process import is_alive
from test_metrics import counted, scrape
from test_supervisor import APP, ENVIRONMENT, Load, ask, children, until
from upgraded_process import Address, flags, started

from fastserve.listeners import Heritage
from fastserve.orders import Orders
from fastserve.upgrade import After, Before, Succession, Waiter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="slots are Linux's")

APP_WITH_ENVIRONMENT = APP + """
@app.get("/environment")
def environment():
    return [name for name in os.environ if name.startswith("_FASTSERVE")]
"""


@pytest.fixture
def code(tmp_path) -> Path:
    path = tmp_path / "main.py"
    path.write_text(APP_WITH_ENVIRONMENT)
    return path


@pytest.fixture
def settings(tmp_path) -> Path:
    """A file of settings, which a test may change."""
    path = tmp_path / "settings.toml"
    path.write_text("workers = 2\nport = 0\ngraceful_timeout_s = 2\nboot_timeout_s = 20\n")
    return path


@pytest.fixture
def server(tmp_path, code, settings):
    with started(tmp_path, "-m", "fastserve", "run", str(code), "--config", str(settings),
                 *flags(tmp_path)) as server:
        until(lambda: server.log.count("listening on") == 2)
        yield server


def upgrade(server):
    """By the signal; returns once the old supervisor has ended and another one serves."""
    before = server.pid
    server.send(signal.SIGUSR2)
    until(lambda: server.pid != before)
    until(lambda: not is_alive(before))
    until(lambda: server.status()["state"] == "serving")


@contextlib.contextmanager
def loads(server, count=2):
    """Clients that must all be answered."""
    clients = [Load(Address(server.port)) for _ in range(count)]
    with contextlib.ExitStack() as stack:
        for client in clients:
            stack.enter_context(client)
        yield
    assert [failure for client in clients for failure in client.failed] == []
    assert all(client.answered for client in clients)


def test_new_code_comes_with_a_new_supervisor_and_nobody_is_lost(server, code):
    """The answer of ctl is that it serves; the old one has ended with 0; roll back likewise."""
    before = server.pid
    port = server.port
    with loads(server):
        for version in ("two", "one"):
            code.write_text(APP_WITH_ENVIRONMENT.replace('"one"', f'"{version}"'))
            done = server.ctl("upgrade")
            assert (done.returncode, done.stderr) == (0, "")
            until(lambda before=before: server.pid != before)   # it takes the file, too
            assert server.pid == server.status()["pid"]
            until(lambda version=version: {
                ask(Address(port))[1]["version"] for _ in range(20)} == {version})
            until(lambda before=before: not is_alive(before))
            before = server.pid
            until(lambda: server.status()["state"] == "serving")
    assert server.process.wait(10) == 0
    assert ask(Address(port), "/environment")[1] == []
    server.send(signal.SIGTERM)
    until(lambda before=before: not is_alive(before))
    assert not (server.directory / "server.pid").exists()
    assert not (server.directory / "control.sock").exists()
    assert "Traceback" not in server.log


def test_the_next_one_may_have_more_workers_or_fewer(server, settings):
    """What is too much is retired only when nobody else serves it, and nothing in it is lost."""
    text = settings.read_text()
    with loads(server):
        for count in (3, 1, 2):
            settings.write_text(text.replace("workers = 2", f"workers = {count}"))
            upgrade(server)
            until(lambda count=count: len(server.status()["slots"]) == count)
            assert server.status()["workers"] == count
    listening = Path("/proc/net/tcp").read_text()
    assert listening.count(f":{server.port:04X} 00000000:0000 0A") == 2
    until(lambda: len(children(server.pid)) == 2)


def test_no_counter_goes_down(server, settings):
    """The new supervisor's workers add to what the old one's counted, whichever is asked."""
    settings.write_text(settings.read_text() + 'metrics = "/metrics"\n')
    upgrade(server)
    over, scraped = threading.Event(), []

    def look():
        while not over.is_set():
            scraped.append(scrape(server.port, types=("counter", "histogram")))

    asked = [ask(server)[0] for _ in range(20)]
    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(2):
            upgrade(server)
            asked.append(ask(server)[0])
    finally:
        over.set()
        thread.join()
    assert asked == [200] * 22
    assert len(scraped) > 10
    for before, after in itertools.pairwise(scraped):
        for key, value in before.items():
            assert after[key] >= value, key
    last = scrape(server.port)
    assert counted(last)["GET", "/", "200"] == 22
    assert last["fastserve_workers", ()] == 2


def test_a_unix_socket_and_its_file_outlive_the_supervisor(tmp_path, code):
    """The same file, for every client, and gone at the end."""
    path = tmp_path / "the.sock"
    command = ("-m", "fastserve", "run", str(code), "--workers", "2", "--graceful-timeout-s", "5",
               "--uds", str(path), *flags(tmp_path))
    with started(tmp_path, *command) as server:
        until(lambda: server.log.count("listening on") == 2)
        found = path.stat().st_ino
        upgrade(server)
        upgrade(server)
        assert path.stat().st_ino == found
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(path))
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        last = server.pid
        server.send(signal.SIGTERM)
        until(lambda: not is_alive(last))
        assert not path.exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("nonsense(", "could not start"),
        ("@app.on_startup\ndef fail():\n    raise OSError('no database')", "could not start"),
        ("import time; time.sleep(60)", "could not start"),
    ],
    ids=["does not compile", "start-up fails", "import hangs"],
)
def test_new_code_that_does_not_start_changes_nothing(server, settings, code, change, reason):
    """ctl says why, and the same workers answer all the time."""
    settings.write_text(settings.read_text().replace("20", "2"))
    code.write_text(APP + change)
    check_refused(server, reason)


def check_refused(server, reason):
    """An upgrade comes to nothing, and nobody notices."""
    before = server.status()
    files = sorted(os.listdir(server.directory))
    with loads(server):
        answer = server.ask("upgrade")
        assert answer["ok"] is False
        assert reason in answer["error"]
        until(lambda: server.status()["state"] == "serving")
    after = server.status()
    assert after["pid"] == before["pid"] == server.pid
    assert [slot["pid"] for slot in after["slots"]] == [slot["pid"] for slot in before["slots"]]
    assert "this supervisor serves on" in server.log
    assert [name for name in sorted(os.listdir(server.directory)) if "cache" not in name] \
        == [name for name in files if "cache" not in name]
    until(lambda: len(children(server.pid)) == 2)


def test_settings_that_cannot_be_change_nothing(server, settings):
    """The new supervisor does not even begin."""
    settings.write_text("workers = 0\n")
    check_refused(server, "the new supervisor ended (exit status 2)")


def test_a_server_without_workers_cannot_follow(tmp_path, code, settings):
    """There is no supervisor in it to hand over to."""
    pid_file = tmp_path / "server.pid"
    with started(tmp_path, "-m", "fastserve", "run", str(code), "--config", str(settings),
                 "--pid-file", str(pid_file)) as server:
        until(lambda: server.log.count("listening on") == 2)
        port = int(re.search(r"listening on http://127.0.0.1:(\d+)", server.log)[1])
        settings.write_text("port = 0\n")
        server.send(signal.SIGUSR2)
        until(lambda: "the upgrade failed: workers=None cannot follow a server" in server.log)
        assert server.pid == server.process.pid
        assert ask(Address(port))[0] == 200


def test_an_address_that_is_taken_changes_nothing(server, settings):
    """What the new one would open besides is opened before anything is handed over."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings.write_text(
            settings.read_text().replace("port = 0", f'bind = ["127.0.0.1:0", "127.0.0.1:{port}"]'))
        check_refused(server, f"port {port} on 127.0.0.1 is in use")


def test_a_directory_that_is_gone_changes_nothing(tmp_path, code, settings):
    """Neither does a program that cannot be run: the old one learns why."""
    here = tmp_path / "here"
    here.mkdir()
    with started(tmp_path, "-m", "fastserve", "run", str(code), "--config", str(settings),
                 *flags(tmp_path), cwd=here) as server:
        until(lambda: server.log.count("listening on") == 2)
        here.rename(tmp_path / "there")
        check_refused(server, "No such file or directory")


def test_a_new_supervisor_that_is_told_to_end_before_it_serves_is_rolled_back(server, code):
    """TERM to it, while its workers start."""
    code.write_text(APP + "import time; time.sleep(30)")
    server.send(signal.SIGUSR2)
    new = next_supervisor(server)
    assert server.ask("upgrade") == {"ok": False, "error": "an upgrade is under way"}
    assert server.ask("reload") == {"ok": False, "error": "an upgrade is under way"}
    assert server.ctl("scale", "3").returncode == 1
    os.kill(new, signal.SIGTERM)
    until(lambda: "the upgrade failed: the new supervisor" in server.log)
    until(lambda: server.status()["state"] == "serving")
    assert ask(Address(server.port))[0] == 200


def next_supervisor(server):
    """The one that starts, once its workers do."""
    found = []

    def starts():
        found[:] = [pid for waiter in children(server.pid) for pid in children(waiter)]
        return found and children(found[0])

    until(starts)
    return found[0]


def test_the_end_of_the_server_is_the_end_of_both(server, code):
    """TERM to the old one while the new one starts."""
    code.write_text(APP + "import time; time.sleep(30)")
    server.send(signal.SIGUSR2)
    new = next_supervisor(server)
    server.send(signal.SIGTERM)
    assert server.process.wait(20) == 0
    until(lambda: not is_alive(new))
    assert not (server.directory / "server.pid").exists()
    assert not (server.directory / "control.sock").exists()


def test_if_the_old_one_dies_the_new_one_takes_over(server, code):
    """At once, though it is not ready: the connections wait for it."""
    port = server.port
    code.write_text(APP.replace('"one"', '"two"') + "time.sleep(1.5)")
    server.send(signal.SIGUSR2)
    new = next_supervisor(server)
    os.kill(server.pid, signal.SIGKILL)
    server.process.wait()
    until(lambda: ask(Address(port), timeout_s=20)[1]["version"] == "two")
    assert server.pid == new == server.status()["pid"]


def test_the_link_that_was_entered_leads_to_the_new_code(tmp_path):
    """A directory `current` that is a link, as deployments have it."""
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "main.py").write_text(APP.replace('"one"', f'"{version}"'))
    current = tmp_path / "current"
    current.symlink_to("one")
    with started(
        tmp_path, "-m", "fastserve", "run", "main:app", "--workers", "1", "--port", "0",
        *flags(tmp_path), cwd=current, env={**ENVIRONMENT, "PWD": str(current)},
    ) as server:
        until(lambda: "listening on" in server.log)
        port = server.port
        current.unlink()
        current.symlink_to("two")
        upgrade(server)
        assert ask(Address(port))[1]["version"] == "two"


@pytest.mark.parametrize("how", ["a script", "--preload"])
def test_what_was_imported_before_the_workers_is_upgraded_too(tmp_path, code, how):
    """HUP brings such an application no new code; a new supervisor does."""
    code.write_text(APP + "\nif __name__ == '__main__':\n    app.run(port=0, workers=2, "
                    f"pid_file={str(tmp_path / 'server.pid')!r}, "
                    f"control={str(tmp_path / 'control.sock')!r})\n")
    command = (str(code),) if how == "a script" else (
        "-m", "fastserve", "run", str(code), "--workers", "2", "--port", "0", "--preload",
        *flags(tmp_path))
    with started(tmp_path, *command) as server:
        until(lambda: server.log.count("listening on") == 2)
        port = server.port
        code.write_text(code.read_text().replace('"one"', '"two"'))
        upgrade(server)
        assert {ask(Address(port))[1]["version"] for _ in range(10)} == {"two"}


def test_a_program_without_a_file_is_refused(tmp_path):
    """What came from standard input cannot be read a second time."""
    script = APP + (f"\napp.run(port=0, workers=1, control={str(tmp_path / 'control.sock')!r})\n")
    (tmp_path / "script").write_text(script)
    with (tmp_path / "script").open() as stdin, started(
            tmp_path, "-", stdin=stdin) as server:
        assert "read from its input" in server.ask("upgrade")["error"]
        assert server.status()["state"] == "serving"


def test_clients_that_stay_hold_up_only_the_old_one(server):
    """For graceful_timeout_s at most; another upgrade is refused until then."""
    before = server.pid
    with socket.create_connection(("127.0.0.1", server.port), 20) as client:
        client.sendall(b"GET /slow/60 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert server.ask("upgrade") == {"ok": True}
        assert "has not ended yet" in server.ask("upgrade")["error"]
        assert ask(Address(server.port))[0] == 200
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1000) == b""
    until(lambda: not is_alive(before))
    upgrade(server)


def test_a_supervisor_that_has_just_ended_is_in_nobodys_way():
    """It is looked for when it matters, not at the next turn."""
    ours, theirs = Orders.pair()
    before = Before(1, ours, Heritage())
    before.hands_on = False
    succession = Succession(SimpleNamespace(), before)
    assert "has not ended yet" in succession.problem()
    theirs.close()
    assert succession.problem() == ""
    assert succession.steers


def test_whoever_waits_for_the_new_one_may_be_killed(server, code):
    """The upgrade has failed then, and the new supervisor ends; nothing else changes."""
    code.write_text(APP + "import time; time.sleep(30)")
    server.send(signal.SIGUSR2)
    new = next_supervisor(server)
    (waiter,) = (pid for pid in children(server.pid) if new in children(pid))
    os.kill(waiter, signal.SIGKILL)
    until(lambda: "the upgrade failed: who waited for the new supervisor was killed" in server.log)
    until(lambda: not is_alive(new))
    assert server.status()["state"] == "serving"
    assert ask(Address(server.port))[0] == 200


def test_where_no_process_can_be_started_the_upgrade_fails(monkeypatch):
    """Who was to wait for it ends without a word; nobody else is touched."""
    parent, fork = os.getpid(), os.fork

    def fork_once():
        if os.getpid() != parent:
            raise OSError(errno.EAGAIN, "no more processes")
        return fork()

    monkeypatch.setattr(os, "fork", fork_once)
    before = len(os.listdir("/proc/self/fd"))
    waiter = Waiter.start(lambda: os._exit(9))
    ours, theirs = Orders.pair()
    after = After(waiter, ours, 1.0)
    os.waitpid(waiter.number, 0)
    after.ended()
    theirs.close()
    assert (waiter.pid, after.over) == (0, True)
    assert after.error == "no process could be started for the new supervisor"
    assert len(os.listdir("/proc/self/fd")) == before


def test_only_one_of_two_supervisors_steers():
    """The new one from when it is told so, or the other is gone; the old one no more."""
    ours, theirs = Orders.pair()
    before = Before(1, ours, Heritage())
    new = Succession(SimpleNamespace(), before)
    assert (new.waits, new.steers) == (True, False)
    theirs.send({"order": "take"})
    assert before.has_left_it_to_us()
    assert (new.waits, new.steers) == (False, True)
    old = Succession(SimpleNamespace(), None)
    old.after = After(SimpleNamespace(pid=1), theirs, 1.0)
    assert (old.starts, old.steers) == (True, True)
    before.tell_ready(["tcp:a:1"])
    assert old.after.listen()
    assert (old.starts, old.steers, old.after.keys) == (False, False, {"tcp:a:1"})
    ours.close()
    theirs.close()


def test_a_rotated_log_is_opened_anew(tmp_path, code):
    """USR1: by the supervisor, and by the application's own handler in each worker."""
    code.write_text(APP + """
import logging
logging.getLogger("app").addHandler(logging.FileHandler("app.log"))

@app.get("/log/{text}")
def write(text: str):
    logging.getLogger("app").warning("%s", text)
    return {}
""")
    app_log = tmp_path / "app.log"
    with started(tmp_path, "-m", "fastserve", "run", str(code), "--workers", "2", "--port", "0",
                 *flags(tmp_path)) as server:
        until(lambda: server.log.count("listening on") == 2)
        port = server.port
        app_log.rename(tmp_path / "app.log.1")
        server.send(signal.SIGUSR1)
        until(lambda: app_log.exists() and "reopened the logs" in server.log)

        def all_write_to_the_new_one():
            old = (tmp_path / "app.log.1").read_text()
            ask(Address(port), "/log/hello")
            return (tmp_path / "app.log.1").read_text() == old and "hello" in app_log.read_text()

        until(all_write_to_the_new_one)


def test_who_has_said_that_it_serves_and_died_is_not_handed_anything():
    """Its word is read behind its end: the old supervisor would leave everything to nobody."""
    ours, theirs = Orders.pair()
    after = After(SimpleNamespace(pid=0, number=0), ours, 1.0)
    theirs.send({"event": "ready", "keys": []})
    theirs.close()
    assert not after.listen()
    assert not after.over
    ours.close()


def test_who_says_that_it_serves_is_believed():
    """While it lives."""
    ours, theirs = Orders.pair()
    after = After(SimpleNamespace(pid=0, number=0), ours, 1.0)
    theirs.send({"event": "ready", "keys": ["tcp"]})
    assert after.listen()
    assert (after.over, after.keys) == (True, {"tcp"})
    for talk in (ours, theirs):
        talk.close()
