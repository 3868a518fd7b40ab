"""Why a worker ended, in words, from real exit statuses."""

from __future__ import annotations

import os
import signal

import pytest

from fastserve.deaths import OomKills, explain


def status_of(action):
    """What waitpid() tells of a child that does something."""
    pid = os.fork()
    if pid == 0:
        action()
        os._exit(99)
    return os.waitpid(pid, 0)[1]


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "ended by itself"), (1, "failed"), (3, "could not start"), (7, "ended")],
)
def test_an_exit_status_has_its_meaning(code, words):
    """And its number."""
    status = status_of(lambda: os._exit(code))
    assert explain(status, "", False) == f"{words} (exit status {code})"


def test_a_signal_has_its_name_and_what_it_was_sent_for():
    """Ours has a reason; another's SIGKILL is somebody's, or the kernel's for memory."""
    status = status_of(lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert explain(status, "its loop stood", False) == "was ended by SIGKILL: its loop stood"
    assert explain(status, "", True) == "was ended by SIGKILL: out of memory"
    assert "kill -9" in explain(status, "", False)
    status = status_of(lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert explain(status, "", False) == "was ended by SIGTERM"


def test_kills_for_memory_are_counted_once(tmp_path):
    """As the file of the cgroup tells them; without one there are none."""
    kills = OomKills()
    kills._path = tmp_path / "memory.events"
    assert not kills.more()
    kills._path.write_text("low 0\noom 1\noom_kill 2\n")
    assert kills.more()
    assert not kills.more()
