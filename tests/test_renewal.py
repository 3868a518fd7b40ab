"""Reloads, deaths and starts that meet each other, with workers that are no processes."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest
from fake_workers import make_supervisor, worker

from fastserve.config import Config
from fastserve.recycling import Reason

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="slots are Linux's")

COULD_NOT_START = 3 << 8    # as waitpid() tells it


@pytest.fixture
def supervisor(monkeypatch):
    """Two slots, whose workers all serve; who is started has yet to say that it does."""
    with make_supervisor(Config(workers=2)) as found:
        monkeypatch.setattr(
            found, "start", lambda slot, reason: worker(found, slot, reason, ready=False))
        yield found


def test_a_reload_ends_when_every_worker_that_is_wanted_serves(supervisor):
    """Also those of slots that were empty as it began."""
    empty, other = supervisor.slots
    empty.child = None
    empty.failures, empty.start_at_s = 9, time.monotonic() + 30

    assert supervisor.reload() == ""
    reloading = supervisor.renewal.reloading
    supervisor.keep()

    assert empty.child is not None, "it need not wait: the code may be mended"
    supervisor.on_ready(other.successor)
    supervisor.keep()
    assert reloading.outcome() is None
    supervisor.on_ready(empty.child)
    supervisor.keep()
    assert reloading.outcome() == {"ok": True}


def test_a_reload_fails_where_new_code_does_not_start_in_an_empty_slot(supervisor):
    """As it does where somebody serves meanwhile."""
    empty, _ = supervisor.slots
    empty.child = None
    assert supervisor.reload() == ""
    reloading = supervisor.renewal.reloading
    supervisor.keep()
    supervisor.on_death(empty.child, COULD_NOT_START)
    assert "could not start" in reloading.outcome()["error"]


def test_the_first_restart_does_not_wait_for_what_a_successor_had_to(supervisor):
    """Successors that did not start are tried later and later; who served is replaced at once."""
    slot, _ = supervisor.slots
    slot.start_at_s = time.monotonic() + 30
    slot.child.born_s -= 60
    supervisor.on_death(slot.child, signal.SIGKILL)
    supervisor.keep()
    assert slot.child is not None


def test_each_slot_has_to_fail_before_all_is_given_up(supervisor):
    """One that fails twice is not two: the other may be about to serve."""
    one, other = supervisor.slots
    for slot in supervisor.slots:
        slot.child = worker(supervisor, slot, ready=False)
    for _ in range(3):
        supervisor.on_death(one.child, COULD_NOT_START)
        assert supervisor.stop_by_s is None
        one.child = worker(supervisor, one, ready=False)
    supervisor.on_death(other.child, COULD_NOT_START)
    assert supervisor.stop_by_s is not None


def test_a_worker_may_be_ended_by_a_signal_without_a_name(supervisor):
    """The real-time ones have numbers."""
    slot, _ = supervisor.slots
    supervisor.on_death(slot.child, 40)
    assert slot.child is None


def test_a_slot_whose_worker_was_told_to_end_has_another(supervisor):
    """By somebody else, who need not tell us: nobody is sent to who accepts no more."""
    slot, _ = supervisor.slots
    before = slot.child
    before.born_s -= 60
    before.leaves = True
    supervisor.let_leave()
    supervisor.keep()
    assert before in supervisor.leaving
    assert slot.child not in (None, before)


def test_workers_that_end_themselves_are_replaced_with_patience(supervisor):
    """What is not ready has failed to start; what has hardly served waits as after a crash."""
    slot, other = supervisor.slots
    slot.child.leaves = True
    slot.failures = 3
    supervisor.let_leave()
    assert slot.start_at_s > time.monotonic()
    starting = other.child = worker(supervisor, other, ready=False)
    starting.leaves = True
    supervisor.let_leave()
    assert not starting.dismissed
    supervisor.on_death(starting, 0)
    assert other.failures == 1
    assert other.start_at_s > time.monotonic()


def test_who_drains_by_itself_has_the_time_for_it(monkeypatch):
    """drain_delay_s, which it has begun with, does not take from graceful_timeout_s."""
    config = Config(workers=1, drain_delay_s=100, graceful_timeout_s=50)
    with make_supervisor(config) as supervisor:
        (slot,) = supervisor.slots
        child = slot.child
        child.leaves = True
        supervisor.let_leave()
        assert child.kill_at_s > time.monotonic() + 140


def test_a_reload_fails_whose_new_worker_was_told_to_end(supervisor):
    """It has not come to serve, for whatever reason."""
    assert supervisor.reload() == ""
    reloading = supervisor.renewal.reloading
    supervisor.keep()
    (successor,) = [slot.successor for slot in supervisor.slots if slot.successor is not None]
    successor.leaves = True
    supervisor.let_leave()
    supervisor.on_death(successor, 0)
    assert "the new worker ended by itself" in reloading.outcome()["error"]


def test_who_covers_and_stalls_is_relieved(supervisor, monkeypatch):
    """It may not even have read that it was to accept for another."""
    first, second = supervisor.slots
    second.cover = first.child
    monkeypatch.setattr(
        supervisor.beats, "age_s", lambda cell: 5.0 if cell == first.child.cell else 0.0)
    supervisor.watchdog.turn()
    assert first.child.stalled
    assert second.cover is None


# --- the system gives no process ----------------------------------------------------------


@pytest.fixture
def poor(monkeypatch):
    """A supervisor on a machine that has no process to give, and what it had before."""
    def refuse():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with make_supervisor(Config(workers=2)) as found:
        monkeypatch.setattr(os, "fork", refuse)
        yield found


def test_a_worker_that_cannot_be_forked_is_tried_later(poor, caplog):
    """EAGAIN, for a limit of processes: the others serve on, and nothing is left behind."""
    slot, _ = poor.slots
    slot.child = None
    open_before = os.listdir("/proc/self/fd")
    block_before = poor.board.take()
    poor.board.retire(block_before)
    poor.keep()

    assert slot.child is None
    assert slot.start_at_s > time.monotonic()
    assert "no worker can be started" in caplog.text
    assert len(os.listdir("/proc/self/fd")) == len(open_before)
    assert poor.board.take() == block_before


def test_a_reload_that_can_start_nobody_fails(poor):
    """And the old workers serve on."""
    before = [slot.child for slot in poor.slots]
    assert poor.reload() == ""
    reloading = poor.renewal.reloading
    poor.keep()
    assert "no worker can be started" in reloading.outcome()["error"]
    assert poor.renewal.refusal is None
    assert [slot.child for slot in poor.slots] == before


def test_nobody_is_recycled_who_cannot_be_replaced(poor, monkeypatch):
    """It is tried later; who is due serves on."""
    (slot, _) = poor.slots
    monkeypatch.setattr(poor.renewal.recycling, "due", lambda *about: Reason("max_lifetime", "old"))
    poor.renewal.recycling.bounded = True
    poor.keep()
    assert slot.child.ready
    assert slot.start_at_s > time.monotonic()


def test_an_upgrade_that_can_start_nobody_is_refused(poor):
    """With the reason; this supervisor goes on."""
    assert "no process can be started" in poor.upgrade()
    assert poor.succession.after is None


def test_a_server_that_can_start_nobody_ends(poor):
    """As where the application does not start."""
    for slot in poor.slots:
        slot.child = None
    poor.keep()
    assert poor.status == 3


# --- a canary whose predecessor is another than it was -------------------------------------


@pytest.fixture
def trying(monkeypatch):
    """A supervisor that tries new code on its first slot."""
    with make_supervisor(Config(workers=2, canary=1)) as found:
        monkeypatch.setattr(
            found, "start", lambda slot, reason: worker(found, slot, reason, ready=False))
        yield found


def test_who_was_recycled_as_a_trial_came_does_not_stand_by(trying):
    """Its successor does, for the canary; nobody would ever tell the first one to end."""
    slot, _ = trying.slots
    recycled = slot.child
    slot.successor = worker(trying, slot, "max_lifetime", ready=False)
    assert trying.reload() == ""
    second = slot.successor
    trying.on_ready(second)
    assert recycled in trying.leaving
    trying.keep()
    trying.on_ready(slot.successor)
    assert slot.parked is second


def begin_trial(trying, when):
    """The first slot has a canary, which starts or serves: (who was there, it, the reload)."""
    slot, _ = trying.slots
    old = slot.child
    assert trying.reload() == ""
    reloading = trying.renewal.reloading
    trying.keep()
    canary = slot.successor
    if when == "it serves":
        trying.on_ready(canary)
    return old, canary, reloading


@pytest.mark.parametrize("when", ["it starts", "it serves"])
def test_a_canary_that_has_lost_its_predecessor_fails_as_others_do(trying, when):
    """The code is refused; what takes the slot has it, which the status tells."""
    slot, other = trying.slots
    old, canary, reloading = begin_trial(trying, when)
    trying.on_death(old, signal.SIGKILL)
    if when == "it starts":
        trying.on_ready(canary)
    assert slot.child is canary
    trying.keep()
    trying.on_death(canary, signal.SIGSEGV)
    assert "the canary was ended by SIGSEGV" in reloading.outcome()["error"]
    assert trying.renewal.refusal is not None
    assert other.child.reason == ""


@pytest.mark.parametrize("when", ["it starts", "it serves"])
def test_a_canary_that_was_told_to_end_proves_nothing(trying, when):
    """Its predecessor has the slot, and the code is tried nowhere else."""
    slot, _ = trying.slots
    old, canary, reloading = begin_trial(trying, when)
    canary.leaves = True
    trying.let_leave()
    if when == "it starts":
        trying.on_death(canary, 0)
    assert reloading.outcome()["ok"] is False
    assert slot.child is old
    assert slot.parked is None
    assert canary.dismissed or when == "it starts"


def test_a_refused_canary_without_a_predecessor_is_doubted(trying):
    """It serves on with the refused code: somebody must."""
    slot, _ = trying.slots
    old = slot.child
    assert trying.reload() == ""
    trying.keep()
    trying.on_ready(slot.successor)
    trying.on_death(old, signal.SIGKILL)
    trying.renewal.fail_reload("more answers are 5xx")
    assert slot.child.reason == "canary"
    assert slot.child.doubtful
