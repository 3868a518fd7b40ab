"""Looks for workers whose loop does not turn: others accept for them, and who stays so is killed.

Who stopped us, a pause of the container or a machine without time for anybody, may have stopped
them too: while we were late is not held against them.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from typing import TYPE_CHECKING

from fastserve.slots import KILL_AFTER_S, TURN_S, Child, Slot

if TYPE_CHECKING:
    from fastserve.supervisor import Supervisor

logger = logging.getLogger("fastserve")


class Watchdog:
    """That of one supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._watched_s = time.monotonic()

    def turn(self) -> None:
        """Look at every worker that serves."""
        now_s = time.monotonic()
        since_s, self._watched_s = now_s - self._watched_s, now_s
        late_s = max(since_s - TURN_S, 0.0)
        for slot in self._supervisor.slots:
            child = slot.child
            if child is None or not child.ready or child.dismissed:
                continue
            age_s = self._supervisor.beats.age_s(child.cell)
            child.excused_s = late_s + (child.excused_s if age_s > since_s else 0.0)
            self._look_at(slot, child, age_s - child.excused_s)

    def _look_at(self, slot: Slot, child: Child, age_s: float) -> None:
        """age_s: of the last turn of its loop."""
        supervisor = self._supervisor
        soft, hard = supervisor.config.stall_soft_s, supervisor.config.stall_hard_s
        if soft and age_s > soft and not child.stalled:
            child.stalled = True
            logger.warning(
                "worker %d of slot %d: no turn of its loop for %.1f s; others accept for it",
                child.pid, slot.index, age_s)
            supervisor.stop_covering(child)
            if supervisor.renewal.tries(child):
                supervisor.renewal.fail_reload("the canary stalls: its loop does not turn")
                return
        elif child.stalled and age_s <= soft:
            child.stalled = False
            logger.warning("worker %d of slot %d: its loop turns again", child.pid, slot.index)
        if child.told and child.kill_at_s is not None and age_s <= hard:
            child.told, child.because, child.kill_at_s = False, "", None
            logger.warning(
                "worker %d of slot %d: it turned in time, and stays", child.pid, slot.index)
        if hard and age_s > hard and child.kill_at_s is None and not child.told:
            child.because = f"its loop had not turned for {age_s:.0f} s"
            child.told = True
            logger.error(
                "worker %d of slot %d: %s; its stacks follow%s", child.pid, slot.index,
                child.because, supervisor.recorder.account(child.block))
            child.kill_at_s = time.monotonic() + KILL_AFTER_S
            os.kill(child.pid, signal.SIGUSR2)      # see stacks.py
