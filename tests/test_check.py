"""`fastserve check`: each check finds its fault, on a machine made up of files."""

from __future__ import annotations

import datetime
import json
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
from server_process import CERTIFICATE, serve_in_process, tls_flags

import fastserve
from fastserve import App, blocking, check
from fastserve import host_checks as machine
from fastserve.config import Config
from fastserve.host_checks import ERROR, NOTE, OK, WARN, Finding, Machine
from fastserve.pidfile import PidFile

SECONDS = 60
THREE = {"proc/self/cgroup": "0::/a/b"}
HOLDS_80 = ("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid"
            "  timeout inode\n   0: 0100007F:{port:04X} 00000000:0000 0A 00000000:00000000 "
            "00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n")
UNIX = ("Num       RefCount Protocol Flags    Type St Inode Path\n"
        "0000000069722067: 00000002 00000000 {flags} 0001 01 41730531 {path}\n")


@pytest.fixture
def made_up(tmp_path):
    """A machine whose files say this."""

    def make(files=(), **facts):
        root = tmp_path / "root"
        root.mkdir(exist_ok=True)
        for name, text in dict(files).items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Machine(**{"root": root, "processors": 4, "open_files": 65536, "uid": 1000, **facts})

    return make


def only(findings) -> Finding:
    (one,) = findings
    return one


def judged(look, config, on):
    """The level of the one finding of a check, and its text."""
    one = only(look(Config.load(config), on))
    assert bool(one.mend) == (one.level != OK)
    return one.level, f"{one.found} -> {one.mend}"


# --- the machine -------------------------------------------------------------------------

MACHINES = [
    (machine.backlog, {}, {"proc/sys/net/core/somaxconn": "128"}, {}, WARN, "somaxconn=2048"),
    (machine.backlog, {}, {"proc/sys/net/core/somaxconn": "4096"}, {}, OK, "4096"),
    (machine.backlog, {}, {}, {}, OK, "backlog=2048"),
    (machine.overflow, {}, {"proc/sys/net/ipv4/tcp_abort_on_overflow": "1"}, {}, WARN, "=0"),
    (machine.overflow, {}, {"proc/sys/net/ipv4/tcp_abort_on_overflow": "0"}, {}, OK, ""),
    (machine.local_ports, {"behind": "nginx"},
     {"proc/sys/net/ipv4/ip_local_port_range": "32768\t40000"}, {}, NOTE, "7233 connections"),
    (machine.local_ports, {"behind": "nginx"},
     {"proc/sys/net/ipv4/ip_local_port_range": "32768\t60999"}, {}, OK, "60999"),
    (machine.local_ports, {}, {"proc/sys/net/ipv4/ip_local_port_range": "1 2"}, {}, OK, ""),
    (machine.open_files, {"max_connections": 5000}, {}, {"open_files": 1024}, WARN,
     "LimitNOFILE=5032"),
    (machine.open_files, {}, {}, {"open_files": 1024}, WARN, "992 connections"),
    (machine.open_files, {}, {}, {"open_files": resource.RLIM_INFINITY}, OK, "any number"),
    (machine.all_open_files, {"max_connections": 5000, "workers": 4},
     {"proc/sys/fs/file-max": "10000"}, {}, WARN, "fs.file-max=40000"),
    (machine.all_open_files, {}, {"proc/sys/fs/file-max": "10000"}, {}, OK, "10000"),
    (machine.processors, {"workers": 8}, {}, {}, WARN, "8 workers, 4 processors usable here"),
    (machine.processors, {"workers": 4}, {**THREE, "sys/fs/cgroup/a/cpu.max": "150000 100000"}, {},
     WARN, "1.5 processors of this cgroup's quota"),
    (machine.processors, {"workers": "auto"},
     {**THREE, "sys/fs/cgroup/a/cpu.max": "150000 100000"}, {}, OK, "2 workers, 1.5 processors"),
    (machine.processors, {}, {}, {}, NOTE, "--workers auto"),
    (machine.processors, {}, {}, {"processors": 1}, OK, "1 workers"),
    (machine.busy_polling, {"workers": 4, "busy_poll_us": 500}, {}, {}, OK, "for 500 us"),
    (machine.busy_polling, {"workers": 5, "busy_poll_us": 500}, {}, {}, WARN, "on 4 processors"),
    (machine.busy_polling, {"workers": "auto", "busy_poll_us": 500},
     {**THREE, "sys/fs/cgroup/a/cpu.max": "150000 100000"}, {}, WARN, "quota of 1.5"),
    (machine.throttling, {}, {
        **THREE, "sys/fs/cgroup/a/cpu.stat": "usage_usec 9\nnr_periods 100\nnr_throttled 40\n"},
     {}, WARN, "/sys/fs/cgroup/a was used up in 40 of 100"),
    (machine.throttling, {}, {
        **THREE, "sys/fs/cgroup/a/cpu.stat": "nr_periods 1000\nnr_throttled 3\n"}, {}, OK, ""),
    (machine.throttling, {}, {}, {}, OK, ""),
    (machine.memory, {"workers": 4}, {**THREE, "sys/fs/cgroup/memory.max": str(200 << 20)},
     {"rss_bytes": 50 << 20}, WARN, "200 MiB for 4 workers: each has 50 MiB"),
    (machine.memory, {"workers": 2}, {**THREE, "sys/fs/cgroup/memory.max": str(200 << 20)},
     {"rss_bytes": 50 << 20}, OK, "50 MiB at the start"),
    (machine.memory, {"workers": 2}, {**THREE, "sys/fs/cgroup/memory.max": str(200 << 20)}, {}, OK,
     "known with MODULE:APP"),
    (machine.memory, {}, {**THREE, "sys/fs/cgroup/memory.max": "max"}, {}, OK, "no limit"),
    (machine.clock, {}, {
        "sys/devices/system/clocksource/clocksource0/current_clocksource": "hpet",
        "sys/devices/system/clocksource/clocksource0/available_clocksource": "tsc hpet acpi_pm"},
     {}, WARN, "echo tsc > /sys"),
    (machine.clock, {}, {
        "sys/devices/system/clocksource/clocksource0/current_clocksource": "xen"}, {}, WARN,
     "no other"),
    (machine.clock, {}, {
        "sys/devices/system/clocksource/clocksource0/current_clocksource": "kvm-clock"}, {}, OK,
     "kvm-clock"),
    (machine.user, {}, {}, {"uid": 0}, WARN, "root"),
    (machine.user, {}, {}, {"uid": 1000}, OK, "1000"),
    (machine.user, {"user": "www", "workers": 1}, {}, {"uid": 0}, OK, "become www"),
    (machine.spreading, {}, {}, {}, OK, "one process"),
]


@pytest.mark.parametrize("case", MACHINES, ids=lambda case: case[0].__name__)
def test_a_fact_of_the_machine_is_judged(made_up, case):
    """By the settings; what cannot be read is no fault."""
    look, config, files, facts, level, says = case
    found, text = judged(look, config, made_up(files, **facts))
    assert found == level
    assert says in text


@pytest.mark.skipif(sys.platform != "linux", reason="steering is Linux's")
def test_a_kernel_that_takes_no_program_is_found(made_up, monkeypatch):
    """By trying it on a socket that belongs to no group."""
    assert judged(machine.spreading, {"workers": 2}, made_up())[0] == OK
    monkeypatch.setattr(machine.steering, "steer", lambda member, slots: False)
    assert judged(machine.spreading, {"workers": 2}, made_up())[0] == WARN


@pytest.mark.parametrize(
    ("version", "arguments", "debug", "level"),
    [
        ("3.12.4", "'--enable-optimizations' '--with-lto'", False, OK),
        ("3.12.4", "", False, OK),      # a distribution that does not tell
        ("3.12.4", "'--prefix=/usr'", False, NOTE),
        ("3.12.4", "'--enable-optimizations'", True, WARN),
        ("3.15.0", "'--enable-optimizations'", False, NOTE),
    ])
def test_the_build_of_the_interpreter_is_judged(version, arguments, debug, level):
    """A debug build, one without profile, one that this was not tried with."""
    assert only(machine.judge_python(version, arguments, debug=debug)).level == level


@pytest.mark.parametrize(("mapped", "level"), [("libpython3.11.so.1.0", NOTE), ("libc.so.6", OK)])
def test_a_record_of_another_build_tells_nothing(made_up, monkeypatch, mapped, level):
    """Debian's python has no libpython in it, but its sysconfig tells how libpython was built."""
    told = {"CONFIG_ARGS": "'--enable-shared' '--prefix=/usr'", "Py_DEBUG": 0}
    monkeypatch.setattr(machine.sysconfig, "get_config_var", told.get)
    monkeypatch.setattr(machine.sys, "version_info", (3, 11, 2))
    on = made_up({"proc/self/maps": f"7f00-7f01 r-xp 0 fe:00 1 /usr/lib/{mapped}"})
    assert judged(machine.python_build, {}, on)[0] == level


def test_development_mode_is_found(made_up, monkeypatch):
    """It runs handlers in another way."""
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    assert judged(machine.python_mode, {}, made_up())[0] == WARN


# --- addresses ---------------------------------------------------------------------------


def test_an_address_in_use_is_found_with_its_holder(made_up):
    """A stranger's is an error; one of fastserve's own a note, for it runs."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        on = made_up({"proc/net/tcp": HOLDS_80.format(port=port), "proc/12/cmdline": "nginx\0-g"})
        (on.root / "proc/12/fd").mkdir()
        (on.root / "proc/12/fd/3").symlink_to("socket:[4711]")

        level, text = judged(check.tcp_addresses, {"port": port}, on)
        assert (level, f"port {port} on 127.0.0.1 is in use by pid 12 (nginx -g)" in text) == (
            ERROR, True)
        (on.root / "proc/12/cmdline").write_text("python\0-m\0fastserve\0run")
        assert judged(check.tcp_addresses, {"port": port}, on)[0] == NOTE
    assert judged(check.tcp_addresses, {"port": port}, on)[0] == OK


def test_a_port_that_needs_privileges_or_an_address_elsewhere_is_found(made_up):
    """One finding for each address."""
    config = Config.load({"bind": ["192.0.2.1:8000", "127.0.0.1:0"]})
    found = list(check.tcp_addresses(config, made_up()))
    assert [one.level for one in found] == [ERROR, OK]
    assert "no such address" in found[0].found


@pytest.mark.skipif(sys.platform != "linux", reason="slots are Linux's")
def test_a_running_server_notices_nothing(tmp_path):
    """The check neither joins its listeners nor connects: every connection is answered."""
    import http.client

    with serve_in_process(tmp_path, "--workers", "2") as server:
        environment = {**os.environ, "PYTHONPATH": str(Path(fastserve.__file__).parent.parent)}
        command = [sys.executable, "-m", "fastserve", "check", "--port", str(server.port)]
        for _ in range(3):
            with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
                while process.poll() is None:
                    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
                    client.request("GET", "/")
                    client.getresponse().read()
                    client.close()
                text = process.stdout.read().decode()
            assert f"note   address: port {server.port} on 127.0.0.1 is in use by pid" in text


@pytest.mark.parametrize(
    ("flags", "name", "level"),
    [("00010000", "s", ERROR), ("00000000", "s", OK), ("00010000", "other", OK)])
def test_a_unix_socket_in_use_is_found(made_up, tmp_path, flags, name, level):
    """In the kernel's table: nobody connects."""
    on = made_up({"proc/net/unix": UNIX.format(flags=flags, path=tmp_path / name)})
    assert judged(check.unix_sockets, {"uds": str(tmp_path / "s")}, on)[0] == level


def test_the_directory_of_a_unix_socket_is_judged(made_up, tmp_path, monkeypatch):
    """It must be there and ours, and not everybody's."""
    path = tmp_path / "run" / "s"
    for look, config in ((check.unix_sockets, {"uds": str(path)}),
                         (check.control_socket, {"control": str(path), "workers": 1})):
        level, text = judged(look, config, made_up())
        assert (level, f"mkdir -p {path.parent}" in text) == (ERROR, True)
        path.parent.mkdir(mode=0o755)
        assert judged(look, config, made_up())[0] == OK
        path.parent.chmod(0o777)
        assert judged(look, config, made_up())[0] == WARN
        path.parent.chmod(0o1777)
        assert judged(look, config, made_up())[0] == OK
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        assert judged(look, config, made_up())[0] == ERROR
        monkeypatch.undo()
        path.parent.rmdir()
    assert judged(check.unix_sockets, {"uds": "@name"}, made_up())[0] == NOTE


def test_the_directory_of_a_log_and_its_room_are_judged(made_up, tmp_path, monkeypatch):
    """Whichever log it is; one that goes to a stream has none."""
    assert judged(check.log_files, {"access_log": "text"}, made_up())[0] == OK
    path = str(tmp_path / "logs" / "access.log")
    for config in ({"log_file": path}, {"access_log": "json", "access_log_file": path}):
        level, text = judged(check.log_files, config, made_up())
        assert (level, f"mkdir -p {tmp_path}/logs" in text) == (ERROR, True)
    (tmp_path / "logs").mkdir()
    full = os.statvfs_result((4096, 4096, 1000, 100, 100, 0, 0, 0, 0, 255))
    assert judged(check.log_files, {"log_file": path}, made_up())[0] == OK
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    level, text = judged(check.log_files, {"log_file": path}, made_up())
    assert (level, "0 MiB are free" in text) == (WARN, True)


# --- settings ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*check.WITHOUT_LIMIT])
def test_a_limit_that_is_off_is_found(made_up, name):
    """With what a client may do then, and the default."""
    level, text = judged(check.limits, {name: 0, "workers": 1}, made_up())
    assert (level, f"{name}=0: {check.WITHOUT_LIMIT[name]}" in text) == (WARN, True)
    assert judged(check.limits, {}, made_up())[0] == OK


def test_a_body_limit_that_is_none_is_found(made_up):
    """Bodies that are read whole are in memory."""
    assert judged(check.limits, {"max_body_bytes": 1 << 31}, made_up())[0] == WARN


@pytest.mark.parametrize(
    ("config", "level"),
    [
        ({"host": "0.0.0.0", "forwarded_allow_ips": "*"}, WARN),
        ({"bind": ["unix:s", "[::]:80"], "forwarded_allow_ips": "10.0.0.0/8, *"}, WARN),
        ({"host": "::", "proxy_protocol": "required", "proxy_allow_ips": "*"}, WARN),
        ({"fd": 3, "forwarded_allow_ips": "*"}, WARN),
        ({"forwarded_allow_ips": "*"}, OK),
        ({"uds": "s", "forwarded_allow_ips": "*"}, OK),
        ({"host": "0.0.0.0", "behind": "nginx"}, OK),
        ({"host": "0.0.0.0"}, OK),
    ])
def test_believing_everybody_is_found(made_up, config, level):
    """Where others than this machine reach the server."""
    assert judged(check.proxies, config, made_up())[0] == level


def test_a_library_that_cannot_be_imported_is_found(made_up, monkeypatch):
    """With the error of its import."""
    assert judged(check.libraries, {}, made_up())[0] == OK
    monkeypatch.setitem(sys.modules, "uvloop", None)
    level, text = judged(check.libraries, {}, made_up())
    assert (level, "pip install --force-reinstall uvloop" in text) == (ERROR, True)


def test_a_setting_that_lacks_its_extra_is_found(made_up, monkeypatch):
    """What it cannot do, and the extra."""
    monkeypatch.setattr(check, "find_spec", lambda name: None)
    assert judged(check.extras, {}, made_up())[0] == OK
    level, text = judged(check.extras, {"decompress_requests": True}, made_up())
    assert (level, "fastserve[compress]" in text) == (WARN, True)
    assert judged(check.extras, {"compress_responses": True}, made_up())[0] == WARN


def test_what_is_there_for_comparison_is_found(made_up):
    """--loop asyncio and its like."""
    assert judged(check.choices, {}, made_up())[0] == OK
    level, text = judged(check.choices, {"loop": "asyncio", "tasks": "asyncio"}, made_up())
    assert (level, "loop=asyncio, tasks=asyncio" in text) == (NOTE, True)


# --- TLS ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "mode", "expected"),
    [(90, 0o600, [OK]), (5, 0o600, [WARN]), (-1, 0o600, [ERROR]), (90, 0o604, [OK, WARN])])
def test_certificates_are_judged(made_up, tmp_path, days, mode, expected):
    """When they expire, and who may read the key."""
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
    issued = trustme.CA().issue_cert(
        "localhost", not_before=end - datetime.timedelta(days=100), not_after=end)
    path = tmp_path / CERTIFICATE
    issued.private_key_and_cert_chain_pem.write_to_path(str(path))
    path.chmod(mode)
    found = list(check.certificates(Config(ssl_certfile=str(path)), made_up()))
    assert [one.level for one in found] == expected


def test_a_key_that_is_anothers_is_found(made_up, tmp_path):
    """What the server would say at its start."""
    (tmp_path / "other").mkdir()
    certificate, other = tls_flags(tmp_path)[1], tls_flags(tmp_path / "other")[1]
    level, text = judged(
        check.certificates, {"ssl_certfile": certificate, "ssl_keyfile": other}, made_up())
    assert (level, "is not that of the certificate" in text) == (ERROR, True)
    assert judged(check.certificates, {}, made_up())[0] == OK


# --- the application ---------------------------------------------------------------------


def make_app():
    app = App()

    @app.get("/async", handler_timeout_s=5)
    async def an_async():
        return ""

    @app.get("/blocking", handler_timeout_s=5)
    @blocking
    def waits():
        return ""

    return app


def test_handlers_are_counted():
    """Sync ones are worth a look; no routes at all are a fault."""
    assert only(check.handlers(App(), Config())).level == WARN
    app = make_app()
    one = only(check.handlers(app, Config()))
    assert (one.level, one.found) == (OK, "2 routes: 1 async, 0 sync, 1 @blocking")
    app.get("/sync")(lambda: "")
    one = only(check.handlers(app, Config()))
    assert (one.level, "1 sync" in one.found, "GET /sync" in one.found) == (NOTE, True, True)


def test_routes_that_nothing_ends_are_found():
    """Unless the server has a limit for all."""
    app = make_app()
    assert only(check.route_limits(app, Config())).level == OK
    app.get("/endless")(lambda: "")
    one = only(check.route_limits(app, Config()))
    assert (one.level, "GET /endless" in one.found) == (NOTE, True)
    assert only(check.route_limits(app, Config(handler_timeout_s=5))).level == OK


def test_debug_pages_are_found():
    """They show tracebacks to clients."""
    assert only(check.debugging(App(), Config())).level == OK
    assert only(check.debugging(App(debug=True), Config())).level == WARN


# --- the command -------------------------------------------------------------------------


APP = """
from fastserve import App
app = App()
app.get("/taken")(lambda: "taken")
"""


@pytest.fixture
def command(tmp_path):
    """Run `fastserve check`, or another command, in a directory of its own."""
    (tmp_path / "main.py").write_text("from fastserve import App\napp = App()\n")
    (tmp_path / "routes.py").write_text(APP)

    def run(*arguments, command="check"):
        environment = {**os.environ, "PYTHONPATH": str(Path(fastserve.__file__).parent.parent),
                       "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [sys.executable, "-m", "fastserve", command, *arguments], cwd=tmp_path,
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=SECONDS)

    return run


def test_it_says_what_it_found_line_by_line(command):
    """The worst last; status 0 without an error."""
    done = command("main:app", "--port", "0", "--header-timeout-s", "0")

    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert "warn   limits: header_timeout_s=0: a client may hold a connection with half a request" \
           "  ->  header_timeout_s=10, the default" in lines
    assert "warn   application: it has no routes  ->  app.get(...), app.include(...)" in lines
    levels = [line.split()[0] for line in lines[:-1]]
    assert levels == sorted(levels, key=["ok", "note", "warn", "error"].index)
    assert lines[-1].startswith(f"{levels.count('ok')} ok, ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--uds", "none/s"], "unix socket"),
        (["main:nothing"], "application"),
        (["--max-head-bytes", "1000"], "settings"),
        (["--control", "s"], "settings"),
    ])
def test_an_error_is_status_1(command, arguments, says):
    """In what it prints for programs, too."""
    done = command("--json", *arguments)

    assert done.returncode == 1, done.stderr
    answer = json.loads(done.stdout)
    assert answer["ok"] is False
    assert says in [one["name"] for one in answer["findings"] if one["level"] == ERROR]


WONT_RUN = [
    (["--bind", "nonsense"], "bind='nonsense'"),
    (["--bind", "127.0.0.1:99999"], "bind='127.0.0.1:99999'"),
    (["--plain-bind", "foo", "--ssl-certfile", CERTIFICATE, "--port", "0"], "plain_bind='foo'"),
    (["--fd", "55"], "cannot adopt fd 55: it is not open"),
    (["--bind", "fd://0"], "cannot adopt fd 0: it is no socket"),
    (["--uds", "s", "--uds-owner", "no-such"], "uds_owner='no-such'"),
    (["--uds", "long" * 30], "a path of more than"),
    (["--uds", "@" + "long" * 30], "a path of more than"),
    (["--uds", "main.py"], "there is a file that is no socket"),
    (["--port", "0", "--workers", "1", "--control", "main.py"], "a file that is no socket"),
    (["--port", "0", "--log-file", "directory"], "directory is a directory"),
    (["--port", "0", "--access-log", "text", "--access-log-file", "directory"],
     "directory is a directory"),
    (["--port", "0", "--pid-file", "none/p"], "none: No such file"),
    (["--port", "0", "--pid-file", "main.py"], "no pid file"),
    (["--port", "0", "--metrics", "/taken"], "metrics='/taken'"),
    (["--port", "0", "--access-log", "text", "--access-log-skip", "/nope"],
     "access_log_skip='/nope'"),
    (["--port", "0", "--workers", "1", "--user", "no-such"], "user='no-such'"),
]


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets and SO_REUSEPORT groups")
@pytest.mark.parametrize(("arguments", "says"), WONT_RUN)
def test_what_run_refuses_is_an_error(command, tmp_path, arguments, says):
    """It is told as a finding that names it, nothing is left behind, and `run` does refuse it."""
    tls_flags(tmp_path)
    (tmp_path / "directory").mkdir()
    before = sorted(os.listdir(tmp_path))

    done = command("--json", "routes:app", *arguments)
    ran = command("routes:app", *arguments, command="run")

    assert (done.returncode, done.stderr) == (1, "")
    errors = [one["found"] for one in json.loads(done.stdout)["findings"] if one["level"] == ERROR]
    assert len(errors) == 1
    assert says in errors[0]
    assert ran.returncode not in (0, 2), ran.stderr
    assert "Traceback" not in ran.stderr
    assert sorted(os.listdir(tmp_path)) == before


def test_what_run_takes_is_no_error(command, tmp_path):
    """Files that are there already, a leftover, a socket of another process, pages of its own."""
    (tmp_path / "server.log").write_text("a line\n")
    (tmp_path / "server.pid").write_text("4711\n")
    with socket.socket(socket.AF_UNIX) as leftover:
        leftover.bind(str(tmp_path / "s"))
    done = command(
        "routes:app", "--uds", "s", "--log-file", "server.log", "--pid-file", "server.pid",
        "--metrics", "--access-log", "text", "--access-log-skip", "/taken")

    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "server.log").read_text() == "a line\n"
    assert (tmp_path / "server.pid").read_text() == "4711\n"


def test_a_socket_to_adopt_is_left_as_it_was(made_up):
    """Open, listening, blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = {"fd": listener.fileno()}
        assert judged(check.inherited_sockets, config, made_up())[0] == OK
        assert listener.getblocking()
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def test_the_pid_file_of_a_server_that_runs_is_a_note(made_up, tmp_path):
    """As its address is."""
    path = str(tmp_path / "p")
    held = PidFile(path)
    held.place()
    try:
        assert judged(check.pid_file, {"pid_file": path}, made_up())[0] == NOTE
    finally:
        held.remove()
    assert judged(check.pid_file, {"pid_file": path}, made_up())[0] == OK


def test_every_check_is_made():
    """A function of these rooms that takes (config, machine), or (app, config), is in a list."""
    listed = {*machine.MACHINE_CHECKS, *check.SETTING_CHECKS, *check.APP_CHECKS}
    for room in (machine, check):
        for function in vars(room).values():
            if getattr(function, "__module__", "") == room.__name__ and \
                    getattr(function, "__annotations__", {}).get("return") == "Iterator[Finding]" \
                    and not function.__name__.startswith(("_", "judge")):
                assert function in listed, function
