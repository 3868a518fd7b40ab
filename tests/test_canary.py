"""Reloads that try the new code on one worker first: by the rule, and with real servers."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from fake_workers import make_supervisor, worker
from server_process import serve_in_process
from test_supervisor import APP, ENVIRONMENT, Load, ask, children, until

from fastserve.canary import Trial, judge
from fastserve.config import Config
from fastserve.control import ask as ask_control
from fastserve.errors import ConfigError
from fastserve.readings import BUCKETS, LIMITS_S, Series
from fastserve.recycling import Recycling
from fastserve.reloading import order_of
from fastserve.status import lines

linux = pytest.mark.skipif(sys.platform != "linux", reason="slots are Linux's")


def series(fast=0, slow=0, errors=0, slow_s=0.2):
    """What a side has answered: so many in half a millisecond, and so many slowly."""
    buckets = [0] * BUCKETS
    for count, seconds in ((fast, 0.0005), (slow, slow_s)):
        at = next(index for index, limit in enumerate(LIMITS_S) if seconds < limit)
        buckets[at] += count
    statuses = {"200": fast + slow - errors, "500": errors // 2, "503": errors - errors // 2}
    return Series("", "", fast + slow, 0.0, 0, tuple(buckets), statuses)


@pytest.mark.parametrize(
    ("new", "old"),
    [
        (series(), series()),
        (series(), series(1000)),
        (series(1000), series(1000)),
        (series(2, errors=2), series(1000)),                    # two are no three
        (series(1000, errors=9), series(1000)),                 # no 1 % more
        (series(500, errors=60), series(5000, errors=500)),     # no more than chance makes
        (series(500, errors=50), series(500, errors=500)),      # better than before
        (series(19, slow=19), series(19)),                      # too few answers
        (series(960, slow=40, slow_s=0.005), series(1000)),     # slower, by nothing to speak of
        (series(990, slow=5), series(1000)),                    # one in two hundred
        (series(480, slow=19), series(480, slow=1)),            # too few for a percentile
        (series(0, slow=100, slow_s=0.3), series(0, slow=100, slow_s=0.2)),     # not twice
    ])
def test_what_is_not_clearly_worse_is_good(new, old):
    """And the verdict says how much there was."""
    verdict = judge(new, old)
    assert verdict.good, verdict.text
    shown = f"{new.count:,} answers" if new.count else "canary: no answers"
    assert shown in verdict.text


@pytest.mark.parametrize(
    ("new", "old", "why"),
    [
        (series(3, errors=3), series(), "5xx"),
        (series(3, errors=3), series(1000), "5xx"),
        (series(300, errors=4), series(1000, errors=1), "5xx"),
        (series(500, errors=120), series(5000, errors=500), "5xx"),
        (series(0, slow=20), series(20), "median"),
        (series(900, slow=100), series(1000), "99th percentile"),
        (series(0, slow=1000, slow_s=0.6), series(0, slow=1000, slow_s=0.2), "median"),
    ])
def test_what_is_clearly_worse_fails(new, old, why):
    """With the figures of both sides."""
    verdict = judge(new, old)
    assert not verdict.good
    assert why in verdict.text.partition(":")[0]
    assert f"{new.count:,} answers" in verdict.text


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"canary": 1}, "give workers too"),
        ({"workers": 1, "canary": 1}, "leaves none to compare with"),
        ({"workers": 4, "canary": 4}, "leaves none to compare with"),
        ({"workers": 2, "canary": 1, "preload": True}, "preload excludes them"),
        ({"workers": 2, "canary": -1}, "canary=-1"),
        ({"workers": 2, "canary_s": 0.0}, "canary_s=0.0"),
    ])
def test_settings_that_cannot_work_are_refused(settings, shown):
    """At the start, with the way out."""
    with pytest.raises(ConfigError, match=re.escape(shown)):
        Config(**settings)


@pytest.mark.parametrize(
    "order", [("1", None), (True, None), (-1, None), (1.5, None), (1, "20"), (1, 0), (1, True)])
def test_orders_that_make_no_sense_are_refused(order):
    """Whoever wrote them to the control socket."""
    with pytest.raises(ValueError, match="canary"):
        order_of(*order)


def ctl(server, *arguments):
    """What `fastserve ctl` prints and returns."""
    return subprocess.run(
        [sys.executable, "-m", "fastserve", "ctl", "--control", "control.sock", *arguments],
        cwd=server.log_path.parent, capture_output=True, text=True, timeout=60, env=ENVIRONMENT)


def status(server):
    return ask_control(
        str(server.log_path.with_name("control.sock")), {"command": "status"}, 20)


def workers(server):
    """The pids that serve, by slot."""
    return [slot["pid"] for slot in status(server)["slots"]]


@pytest.fixture
def start(tmp_path):
    """Start a server of the application with some flags; it has a control socket."""
    (tmp_path / "main.py").write_text(APP)
    with contextlib.ExitStack() as stack:
        def start_one(*flags, workers=3):
            server = stack.enter_context(serve_in_process(
                tmp_path, "--workers", str(workers), "--control", "control.sock",
                "--graceful-timeout-s", "20", *flags, target="main.py"))
            until(lambda: server.log.count("listening on") >= workers)
            # A worker says so in the log a moment before it tells the supervisor.
            until(lambda: all(slot["state"] == "serving" for slot in status(server)["slots"]))
            return server

        yield start_one


@pytest.fixture
def deploy(tmp_path):
    """Put another version of the application on disk."""
    def change(before='"one"', after='"two"'):
        assert before in APP
        (tmp_path / "main.py").write_text(APP.replace(before, after))

    return change


class Traffic(Load):
    """Requests that may be answered 5xx: what counts is that all are answered."""

    def __init__(self, server, pause_s=0.0) -> None:
        super().__init__(server)
        self.pause_s = pause_s
        self.statuses: set[int] = set()

    def run(self) -> None:
        while not self.over.wait(self.pause_s):
            client = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
            try:
                client.request("GET", "/")
                answer = client.getresponse()
                answer.read()
                self.statuses.add(answer.status)
                self.answered += 1
            except Exception as error:
                self.failed.append(repr(error))
            finally:
                client.close()


@linux
def test_good_code_is_tried_and_then_taken_everywhere(start, deploy):
    """The answer has the figures; meanwhile the status tells of a canary; nobody fails."""
    server = start()
    before = workers(server)
    deploy()
    answers = []
    with Traffic(server, 0.02) as load:     # too few for a percentile, which a busy machine makes
        asking = threading.Thread(target=lambda: answers.append(
            ctl(server, "reload", "--canary", "1", "--canary-s", "4")))
        asking.start()
        until(lambda: status(server)["state"] == "canary")
        until(lambda: (status(server).get("canary") or {"left_s": None})["left_s"] is not None)
        trying = status(server)
        served = {ask(server)[1]["pid"] for _ in range(12)}
        assert status(server)["state"] == "canary"
        asking.join()
    assert load.failed == []
    assert load.statuses == {200}
    assert trying["slots"][0]["parked"] == before[0]
    assert [slot["pid"] for slot in trying["slots"]][1:] == before[1:]
    assert before[0] not in served      # it accepts nothing
    assert trying["canary"]["slots"] == [0]
    assert f"parked {before[0]}" in "\n".join(lines(trying))
    assert "canary in slots 0" in "\n".join(lines(trying))
    assert answers[0].returncode == 0, answers[0].stderr
    assert re.search(r"canary: [\d,]+ answers, 0 of them 5xx", answers[0].stdout)
    assert not set(before) & set(workers(server))
    assert ask(server)[1]["version"] == "two"
    until(lambda: len(children(server.process.pid)) == 3)
    assert [slot["restarts"] for slot in status(server)["slots"]] == [
        {"canary": 1}, {"reload": 1}, {"reload": 1}]


BROKEN = {
    "5xx": ('return {"pid": os.getpid(), "version": VERSION}\n\n@app.get("/slow',
            'return {}, 500\n\n@app.get("/slow', "more answers are 5xx"),
    "slow": ('def home():', 'def home():\n    time.sleep(0.05)', "answers take longer"),
    "dies": ('def home():', 'def home():\n    os._exit(9)', "the canary ended"),
    "hangs": ('def home():', 'def home():\n    time.sleep(2.5)', "the canary stalls"),
    "does not start": ('app = App()', 'app = None.app', "could not start"),
}


@linux
@pytest.mark.parametrize("how", BROKEN)
def test_bad_code_is_taken_back(start, deploy, how):
    """Its predecessor stood by, and has its place again; the others never saw it."""
    server = start()
    before = workers(server)
    deploy(*BROKEN[how][:2])
    loads = [Traffic(server) for _ in range(3)]
    with contextlib.ExitStack() as stack:
        for load in loads:
            stack.enter_context(load)
        failed = ctl(server, "reload", "--canary", "1", "--canary-s", "4")
    lost = [error for load in loads for error in load.failed]
    assert failed.returncode == 1
    assert BROKEN[how][2] in failed.stderr
    assert workers(server) == before
    if how == "dies":
        assert 1 <= len(lost) <= 3      # what the victim had read
    else:
        assert lost == []
    if how == "hangs":
        until(lambda: status(server)["leaving"] == [])
    for _ in range(20):
        assert ask(server)[1]["version"] == "one"
    until(lambda: children(server.process.pid) == set(before))
    assert status(server)["state"] == "serving"
    server.log_path.write_text("")      # a traceback in it was asked for


@linux
def test_connections_of_the_predecessor_are_served_while_it_stands_by(start, deploy):
    """Kept-alive ones, before, during and after; what is new goes to the canary and the others."""
    server = start(workers=2)
    before = workers(server)
    clients = {}
    while len(clients) < 2:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        client.request("GET", "/")
        pid = re.search(rb'"pid":(\d+)', client.getresponse().read())[1]
        if pid in clients:
            client.close()
        else:
            clients[pid] = client
    mine = clients[str(before[0]).encode()]

    def version():
        mine.request("GET", "/")
        return re.search(rb'"version":"(\w+)"', mine.getresponse().read())[1]

    deploy(*BROKEN["5xx"][:2])
    asking = threading.Thread(target=lambda: ctl(
        server, "reload", "--canary", "1", "--canary-s", "3"))
    asking.start()
    until(lambda: "parked" in status(server)["slots"][0])
    assert version() == b"one"
    with Traffic(server) as load:
        until(lambda: 500 in load.statuses)
        assert version() == b"one"
        asking.join()
    assert workers(server) == before
    assert version() == b"one"
    until(lambda: before[0] in {ask(server)[1]["pid"] for _ in range(10)})
    for client in clients.values():
        client.close()


@pytest.fixture
def supervisor():
    """One that has two slots, with nobody behind their workers."""
    with make_supervisor(Config(workers=2, canary=1)) as found:
        yield found


@linux
@pytest.mark.parametrize(
    "how", ["park", "leave"], ids=["stands by", "is told to end"])
def test_who_accepts_no_more_covers_for_nobody(supervisor, how):
    """Another neighbour is to accept for the slot that nobody serves."""
    first, second = supervisor.slots
    child = first.child
    second.cover = child
    assert supervisor.reload() == ""
    if how == "park":
        first.child = worker(supervisor, first, "canary")
        supervisor.renewal.follow(first, child)
    else:
        supervisor.leave(first, child)
    assert second.cover is None
    assert child.orders.orders == ["release", "park" if how == "park" else "stop"]


@linux
def test_who_was_told_to_end_is_not_ready_any_more(supervisor):
    """Its word was on the way when it was told: the bound that it was given stays."""
    (slot, _) = supervisor.slots
    child = slot.child
    supervisor.leave(slot, child)
    kill_at_s = child.kill_at_s
    supervisor.on_ready(child)
    assert kill_at_s is not None
    assert child.kill_at_s == kill_at_s
    assert slot.child is None


@linux
def test_nobody_is_recycled_while_the_new_code_is_tried(supervisor, monkeypatch):
    """It would be with the new code, among those that it is compared with."""
    started = []
    monkeypatch.setattr(
        supervisor, "start", lambda slot, reason: started.append((slot.index, reason)))
    supervisor.renewal.recycling = Recycling(Config(workers=2, max_lifetime_s=1))
    for slot in supervisor.slots:
        slot.child.term.lifetime_s = 1e-9
    assert supervisor.reload() == ""
    supervisor.renewal.reloading.trial.left.clear()
    supervisor.renewal.turn()
    assert started == []
    supervisor.renewal.end_reload()
    supervisor.renewal.turn()
    assert started == [(0, "max_lifetime")]


@linux
def test_a_successor_that_failed_is_not_tried_again_at_once(supervisor, monkeypatch):
    """Its slot waits, and another that is due has its turn."""
    started = []
    monkeypatch.setattr(supervisor, "start", lambda slot, reason: started.append(slot.index))
    supervisor.renewal.recycling = Recycling(Config(workers=2, max_lifetime_s=1))
    for slot in supervisor.slots:
        slot.child.term.lifetime_s = 1e-9
    first = supervisor.slots[0]
    first.failures = 8
    supervisor.renewal.on_failed_successor(first, first.child, "could not start")
    assert first.start_at_s > time.monotonic() + 5
    supervisor.renewal.turn()
    assert started == [1]


@linux
def test_a_sibling_that_was_replaced_is_compared_no_more(supervisor, monkeypatch):
    """What took its place has the new code, and perhaps its block of the board."""
    answered = {supervisor.slots[1].child.block: series(10)}
    monkeypatch.setattr(supervisor.board, "worker", lambda block: SimpleNamespace(
        total=lambda: answered.get(block, series())))
    trial = Trial(supervisor.slots[:1], 5.0, supervisor.slots[1:], supervisor.board)
    sibling = supervisor.slots[1].child
    answered[sibling.block] = series(30)
    assert trial.counts()[1].count == 20
    answered[sibling.block] = series(3)
    supervisor.slots[1].child = None
    assert trial.counts()[1].count == 0


@linux
def test_workers_that_rested_have_nobody_to_be_compared_with(supervisor):
    """A reload starts them, and tries nothing."""
    for slot in supervisor.slots:
        slot.child = None
    assert "leaves no worker" in supervisor.reload()
    supervisor.resting = True
    assert supervisor.reload() == ""
    assert supervisor.renewal.reloading.trial is None


@linux
def test_a_signal_tries_as_it_was_set(start, deploy):
    """HUP with canary and canary_s; a lone worker has nobody to be compared with."""
    server = start("--canary", "1", "--canary-s", "0.5", workers=2)
    deploy()
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "reloaded" in server.log)
    assert "the canary is good: canary: no answers" in server.log
    assert ctl(server, "scale", "1").returncode == 0
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "leaves no worker to compare it with" in server.log)
    assert ctl(server, "reload", "--canary", "0").returncode == 0
    assert ctl(server, "reload", "--canary", "1").returncode == 1
    assert ctl(server, "status", "--canary", "1").returncode == 2


@linux
@pytest.mark.parametrize("how", ["stop", "parked dies", "another reload", "scaled down"])
def test_a_trial_may_be_cut_short(start, deploy, how):
    """By whatever comes; in the end there are as many workers as there should be."""
    server = start("--canary", "1", "--canary-s", "60")
    before = workers(server)
    deploy()
    server.process.send_signal(signal.SIGHUP)
    until(lambda: (status(server).get("canary") or {"left_s": None})["left_s"] is not None)
    if how == "stop":
        server.process.terminate()
        assert server.process.wait(10) == 0
        return
    if how == "parked dies":
        os.kill(before[0], signal.SIGKILL)
        until(lambda: f"worker {before[0]} of slot 0 was ended" in server.log)
        canary = workers(server)[0]
        until(lambda: "parked" not in status(server)["slots"][0])
        assert workers(server)[0] == canary
        assert ctl(server, "reload", "--canary", "0").returncode == 0
    elif how == "another reload":
        assert ctl(server, "reload", "--canary", "0").returncode == 0
        assert "another reload came" in server.log
        assert not set(before) & set(workers(server))
    else:
        assert ctl(server, "scale", "1").returncode == 0
        assert ctl(server, "reload", "--canary", "0").returncode == 0
    wanted = 1 if how == "scaled down" else 3
    until(lambda: len(children(server.process.pid)) == wanted)
    assert ask(server)[1]["version"] == "two"


@linux
def test_a_worker_is_not_recycled_into_code_that_failed(start, deploy):
    """Until a reload goes well."""
    server = start("--max-requests", "10", workers=2)
    deploy(*BROKEN["5xx"][:2])
    asking = threading.Thread(target=lambda: ctl(
        server, "reload", "--canary", "1", "--canary-s", "20"))
    asking.start()
    until(lambda: status(server)["state"] == "canary")
    with Traffic(server):
        asking.join()
    for _ in range(60):
        assert ask(server)[1]["version"] == "one"
    time.sleep(1)
    assert "is replaced" not in server.log.partition("the reload failed")[2]
    deploy()
    assert ctl(server, "reload", "--canary", "0").returncode == 0
    for _ in range(40):
        ask(server)
    until(lambda: "is replaced" in server.log.partition("the reload failed")[2])


@linux
def test_who_comes_back_with_refused_code_is_told_of(start, deploy):
    """In the log and in the status, worker by worker, until a reload goes well."""
    server = start(workers=3)
    assert "refused" not in status(server)
    deploy(*BROKEN["does not start"][:2])
    assert ctl(server, "reload", "--canary", "1", "--canary-s", "5").returncode == 1
    deploy()        # nobody reloads
    refused = status(server)["refused"]
    assert "could not start" in refused["reason"]
    assert refused["ago_s"] >= 0
    assert not any("doubtful" in slot for slot in status(server)["slots"])
    victim = workers(server)[1]
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(children(server.process.pid)) == 3 and victim not in workers(server)
          and all(slot["state"] == "serving" for slot in status(server)["slots"]))
    found = status(server)
    assert ["doubtful" in slot for slot in found["slots"]] == [False, True, False]
    shown = "\n".join(lines(found))
    assert re.search(r"the code on disk was refused .*: .*could not start", shown)
    assert re.search(r"slot 1: .*took the code on disk after a canary was refused", shown)
    came = found["slots"][1]["pid"]
    assert re.search(rf"worker {came} of slot 1 .*a canary was refused", server.log)
    assert ctl(server, "reload", "--canary", "0").returncode == 0
    found = status(server)
    assert "refused" not in found
    assert not any("doubtful" in slot for slot in found["slots"])
    server.log_path.write_text("")      # a traceback in it was asked for


@linux
def test_only_a_reload_that_goes_well_lifts_a_refusal(supervisor):
    """Not one that fails, nor one that is cut short."""
    assert supervisor.reload() == ""
    supervisor.renewal.fail_reload("more answers are 5xx")
    for canary in (0, 1):
        assert supervisor.reload(canary) == ""
        supervisor.renewal.end_reload("another reload came")
        assert supervisor.renewal.refusal is not None
    assert supervisor.reload(0) == ""
    supervisor.renewal.fail_reload("the new worker could not start")
    assert supervisor.renewal.refusal.reason == "more answers are 5xx"
    assert supervisor.reload(0) == ""
    supervisor.renewal.end_reload()
    assert supervisor.renewal.refusal is None
