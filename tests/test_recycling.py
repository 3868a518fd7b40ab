"""Workers that are replaced by requests, age and memory: one at a time, and nobody fails."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from server_process import serve_in_process
from test_supervisor import APP, Load, ask, begin, children, pids, times_of, until

from fastserve.config import Config, byte_count
from fastserve.control import ask as ask_control
from fastserve.errors import ConfigError
from fastserve.recycling import Recycling, Term, rss_bytes

linux = pytest.mark.skipif(sys.platform != "linux", reason="slots and /proc are Linux's")
HOARDING = APP + """
hoard = []

@app.get("/eat/{mib:int}")
def eat(mib: int):
    hoard.append(b"x" * (mib << 20))
    return {"pid": os.getpid()}
"""


@pytest.fixture
def start(tmp_path):
    """Start a server of the application with some flags; it has a control socket."""
    (tmp_path / "main.py").write_text(HOARDING)
    with contextlib.ExitStack() as stack:
        def start_one(*flags, workers=2):
            server = stack.enter_context(serve_in_process(
                tmp_path, "--workers", str(workers), "--control", "control.sock",
                "--graceful-timeout-s", "5", *flags, target="main.py"))
            until(lambda: server.log.count("listening on") >= workers)
            return server

        yield start_one


def status(server):
    return ask_control(
        str(server.log_path.with_name("control.sock")), {"command": "status"}, 20)


def restarts(server):
    """How often each slot's worker was replaced, by why."""
    return [slot["restarts"] for slot in status(server)["slots"]]


def config(**settings):
    return Config(workers=2, **settings)


def test_the_bounds_of_each_worker_are_drawn_anew():
    """Between the setting and the setting with its jitter; those without one are not bounds."""
    recycling = Recycling(config(
        max_requests=100, max_requests_jitter=50, max_lifetime_s=10, max_lifetime_jitter_s=5))
    terms = [recycling.begin() for _ in range(200)]
    assert {term.rss_bytes for term in terms} == {0}
    assert all(100 <= term.requests <= 150 and 10 <= term.lifetime_s <= 15 for term in terms)
    assert len({term.requests for term in terms}) > 20
    assert len({term.lifetime_s for term in terms}) > 20
    assert Recycling(config()).begin() == Term(0, 0, 0)
    assert Recycling(config(max_requests=7)).begin().requests == 7


def test_a_worker_is_due_by_requests_and_by_age():
    """And not before; the reason is one of those that are counted."""
    recycling = Recycling(config(max_requests=10_000, max_lifetime_s=3600))
    term = recycling.begin()
    assert recycling.due(term, os.getpid(), 9_999, 3599.9) is None
    assert recycling.due(term, os.getpid(), 10_000, 0) == ("max_requests", "10,000 requests")
    assert recycling.due(term, os.getpid(), 0, 3600) == ("max_lifetime", "it is 3,600 s old")


@pytest.fixture
def memory(monkeypatch):
    """What the system tells of a process, which a test may change."""
    found = {"bytes": 0}
    monkeypatch.setattr("fastserve.recycling.rss_bytes", lambda pid: found["bytes"])
    return found


@linux
def test_memory_counts_when_it_was_too_much_twice(memory):
    """One sample a second; a peak that passes is none."""
    recycling = Recycling(config(max_rss_bytes=100 << 20))
    term = recycling.begin()
    memory["bytes"] = 50 << 20
    assert recycling.due(term, 1, 0, 1.0) is None
    memory["bytes"] = 120 << 20
    assert recycling.due(term, 1, 0, 1.5) is None   # not looked at
    assert recycling.due(term, 1, 0, 2.0) is None
    memory["bytes"] = 90 << 20
    assert recycling.due(term, 1, 0, 3.0) is None
    memory["bytes"] = 130 << 20
    assert recycling.due(term, 1, 0, 4.0) is None
    assert recycling.due(term, 1, 0, 5.0) == ("max_memory", "it holds 130 MiB")


@linux
def test_who_is_too_large_from_the_start_is_left_alone(memory, caplog):
    """Its successor would be as large, and so on for ever; the log says what to do."""
    recycling = Recycling(config(max_rss_bytes=1 << 20))
    term = recycling.begin()
    memory["bytes"] = 50 << 20
    recycling.ready(term, 7, 0.1)
    assert [recycling.due(term, 7, 0, age_s) for age_s in (0.2, 2, 4, 6)] == [None] * 4
    assert caplog.text.count("raise max_rss_bytes") == 1


@linux
def test_who_grows_before_it_is_first_looked_at_is_replaced(memory, caplog):
    """It may be long until then: one worker is replaced at a time, and none during a reload."""
    recycling = Recycling(config(max_rss_bytes=40 << 20))
    term = recycling.begin()
    memory["bytes"] = 30 << 20
    recycling.ready(term, 7, 0.1)
    memory["bytes"] = 50 << 20
    assert recycling.due(term, 7, 0, 100) is None
    assert recycling.due(term, 7, 0, 101) == ("max_memory", "it holds 50 MiB")
    assert not caplog.text


@linux
def test_who_is_too_large_is_told_of_as_it_starts(start):
    """Every worker, once."""
    server = start("--max-rss-bytes", "1M")
    until(lambda: server.log.count("as it starts, more than max_rss_bytes=1048576") == 2)
    assert restarts(server) == [{}, {}]


@linux
def test_a_process_that_is_gone_holds_nothing(memory):
    """No answer is no reason."""
    recycling = Recycling(config(max_rss_bytes=1 << 20))
    term = recycling.begin()
    memory["bytes"] = None
    recycling.ready(term, 7, 0.1)
    assert [recycling.due(term, 7, 0, age_s) for age_s in (0.2, 2, 4)] == [None] * 3
    assert rss_bytes(2**22 + 1) is None
    assert rss_bytes(os.getpid()) > 1 << 20


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1000", 1000), ("64K", 65536), ("512M", 512 << 20), ("2g", 2 << 30),
     ("1 GiB", 1 << 30), ("10MB", 10 << 20)])
def test_sizes_may_have_a_unit(text, size):
    """As a flag, in the environment and in a file."""
    assert byte_count(text) == size
    if sys.platform == "linux":
        assert Config.load({"workers": 1, "max_rss_bytes": text}).max_rss_bytes == size


@pytest.mark.parametrize("text", ["", "M", "1.5G", "-1", "1T", "\u0661M", "1 0", "9" * 20])
def test_what_is_no_size_is_refused(text):
    """By name, with what would be one."""
    with pytest.raises(ValueError, match="."):
        byte_count(text)
    with pytest.raises(ConfigError, match=r"max_rss_bytes=.*512M"):
        Config.load({"workers": 1, "max_rss_bytes": text})


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"max_requests": 5}, "give workers too"),
        ({"max_lifetime_s": 5.0}, "give workers too"),
        ({"max_rss_bytes": 5}, "give workers too"),
        ({"pin_cpus": True}, "give workers too"),
        ({"workers": 2, "max_requests_jitter": 5}, "without max_requests"),
        ({"workers": 2, "max_lifetime_jitter_s": 5.0}, "without max_lifetime_s"),
        ({"workers": 2, "max_requests": -1}, "max_requests=-1"),
        ({"workers": 2, "max_rss_bytes": 1.5}, "max_rss_bytes=1.5"),
        ({"workers": 2, "max_lifetime_s": "day"}, "max_lifetime_s='day'"),
    ])
def test_settings_that_cannot_work_are_refused(settings, shown):
    """At the start, with the way out."""
    with pytest.raises(ConfigError, match=re.escape(shown)):
        Config(**settings)


class Census(threading.Thread):
    """Looks all the time at how many workers there are."""

    def __init__(self, pid) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.over = threading.Event()
        self.counts: set[int] = set()

    def run(self) -> None:
        while not self.over.wait(0.005):
            self.counts.add(len(children(self.pid)))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc_info):
        self.over.set()
        self.join(20)


@linux
@pytest.mark.parametrize("more", [(), ("--preload",)], ids=["", "preload"])
def test_all_bounds_at_once_on_all_workers_fail_nobody(start, more):
    """Checklist L14: one at a time, each successor before its predecessor goes."""
    server = start(
        "--max-requests", "25", "--max-lifetime-s", "1", "--max-lifetime-jitter-s", "0.2",
        "--max-rss-bytes", "120M", *more, workers=3)
    before = children(server.process.pid)
    with Census(server.process.pid) as census, Load(server) as load:
        for pid in range(3):
            ask(server, f"/eat/{100 + pid}")
        until(lambda: server.log.count("is replaced: ") >= 8)
        until(lambda: not before & children(server.process.pid))
    assert load.failed == []
    assert load.answered > 50
    assert census.counts <= {3, 4}, census.counts
    assert re.search(r"worker \d+ of slot \d is replaced: \d+ requests", server.log)
    assert sum(sum(each.values()) for each in restarts(server)) >= 7


@linux
@pytest.mark.parametrize(
    ("flags", "kind"),
    [(("--max-requests", "20"), "max_requests"), (("--max-lifetime-s", "3"), "max_lifetime"),
     (("--max-rss-bytes", "150M"), "max_memory")],
    ids=["requests", "age", "memory"])
def test_each_bound_replaces_a_worker(start, flags, kind):
    """And the status tells how often, and why."""
    server = start(*flags, workers=1)
    (before,) = children(server.process.pid)
    until(lambda: server.log.count("listening") == 1)
    if kind == "max_memory":
        time.sleep(1)       # its first sample is of what it holds as it starts
    for _ in range(25):
        ask(server)
    if kind == "max_memory":
        ask(server, "/eat/140")
    until(lambda: restarts(server)[0].get(kind, 0) >= 1)
    until(lambda: before not in children(server.process.pid))
    assert ask(server)[0] == 200


@linux
def test_a_worker_with_nothing_but_long_connections_is_replaced(start):
    """Those who came before are served to their end, the bound of which is graceful_timeout_s."""
    server = start("--max-lifetime-s", "3", "--max-lifetime-jitter-s", "0", workers=1)
    (before,) = children(server.process.pid)
    client = begin(server, "/slow/5.0")
    until(lambda: "is replaced: it is" in server.log)
    until(lambda: ask(server)[1]["pid"] != before)
    answer = client.getresponse()
    assert (answer.status, json.loads(answer.read())) == (200, {"pid": before, "version": "one"})
    assert "Traceback" not in server.log


@linux
def test_one_goes_only_when_the_one_before_has_gone(start):
    """Though that takes as long as it has requests."""
    server = start("--max-lifetime-s", "1.5", "--max-lifetime-jitter-s", "0", workers=2)
    first = children(server.process.pid)
    clients = [threading.Thread(target=lambda: ask(server, "/slow/3.5")) for _ in range(12)]
    for client in clients:
        client.start()
    with Census(server.process.pid) as census:
        until(lambda: server.log.count("is replaced") >= 2)
        until(lambda: not first & children(server.process.pid))
    for client in clients:
        client.join()
    assert census.counts <= {2, 3}, census.counts


@linux
def test_a_successor_that_cannot_start_is_tried_later_and_the_old_one_serves(start):
    """Less and less often: the code on disk may be broken for long."""
    server = start("--max-requests", "5", workers=1)
    (before,) = pids(server, 3)
    main = Path(server.log_path).with_name("main.py")
    main.write_text("1 / 0")
    for _ in range(5):
        ask(server)
    until(lambda: server.log.count("could not start") >= 6)
    assert pids(server, 5) == {before}
    times = times_of("could not start", server.log)
    assert times[5] - times[4] > times[1] - times[0]    # 1.6 s and 0.1 s, and starting
    assert status(server)["slots"][0]["deaths"] == 0
    main.write_text(HOARDING)
    until(lambda: before not in children(server.process.pid))
    Path(server.log_path).write_text("")    # the tracebacks in it were asked for


@linux
def test_a_reload_goes_first(start):
    """What is due waits for its end, and then is young again."""
    server = start("--max-requests", "10", workers=2)
    main = Path(server.log_path).with_name("main.py")
    main.write_text("import time; time.sleep(1)\n" + HOARDING.replace('"one"', '"two"'))
    with Load(server) as load:
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "reloaded" in server.log)
    between = server.log.partition("reloading")[2].partition("reloaded")[0]
    assert between.count("is replaced") <= 1    # one may have begun before the signal
    assert load.failed == []
    assert ask(server)[1]["version"] == "two"


@linux
def test_each_worker_has_a_processor_of_its_own(start):
    """--pin-cpus: the k-th usable one for slot k, round and round; and the log says who shares."""
    allowed = sorted(os.sched_getaffinity(0))
    count = len(allowed) + 1
    server = start("--pin-cpus", workers=count)
    pinned = {
        slot["slot"]: os.sched_getaffinity(slot["pid"]) for slot in status(server)["slots"]}
    assert pinned == {slot: {allowed[slot % len(allowed)]} for slot in range(count)}
    assert f"{count} workers share {len(allowed)} processors" in server.log
    assert os.sched_getaffinity(server.process.pid) == set(allowed)


@linux
def test_the_status_counts_what_each_worker_has(start):
    """Requests, connections, what is in flight, and what waits in the queue of its listener."""
    server = start(workers=1)
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    client.request("GET", "/slow/2.5")
    def slot():
        return status(server)["slots"][0]

    until(lambda: (slot()["requests"], slot()["connections"], slot()["in_flight"]) == (1, 1, 1))
    assert slot()["rss_bytes"] > 1 << 20
    assert slot()["queued"] == 0
    os.kill(slot()["pid"], signal.SIGSTOP)
    waiting = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(5)]
    until(lambda: slot()["queued"] == 5)
    os.kill(slot()["pid"], signal.SIGCONT)
    until(lambda: slot()["queued"] == 0)
    assert json.loads(client.getresponse().read())["pid"] == slot()["pid"]
    for each in waiting:
        each.close()
    client.close()
