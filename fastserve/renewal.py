"""Successors for workers that serve: by a reload, or because they have served for long enough.

A successor serves before its predecessor is told to end, and one slot comes after the other. Where
a reload tries the new code first, the predecessors of the canaries stand by ("parked"): they accept
nothing, answer who they have, and have their slots back if the new code fails.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple

from fastserve._speedups.scoreboard import AT_REQUESTS
from fastserve.canary import Trial
from fastserve.config import Config
from fastserve.recycling import Recycling
from fastserve.reloading import Reload
from fastserve.slots import Child, Slot

if TYPE_CHECKING:
    from fastserve.supervisor import Supervisor

RELOADS = ("reload", "canary")     # of readings.REASONS

logger = logging.getLogger("fastserve")


class Refusal(NamedTuple):
    """Why the code on disk was taken back, and when, by time.monotonic()."""

    reason: str
    at_s: float


class Renewal:
    """What is under way of it, for one supervisor.

    reloading:  the reload under way
    recycled:   the last worker that was replaced for its age or size
    refusal:    of the code on disk, by a canary: nobody is recycled until a reload goes well
    """

    def __init__(self, supervisor: Supervisor, config: Config) -> None:
        self._supervisor = supervisor
        self._config = config
        self.recycling = Recycling(config)
        self.reloading: Reload | None = None
        self.recycled: Child | None = None
        self.refusal: Refusal | None = None

    def begin_reload(self, canary: int | None, canary_s: float | None) -> str:
        """Replace every worker, one at a time; why that cannot be, or nothing.

        canary, canary_s:  how many try the new code first, and for how long; None: as set
        """
        supervisor = self._supervisor
        slots = supervisor.serving_slots()
        if supervisor.resting:
            canary = 0      # nobody serves the old code
        canary = self._config.canary if canary is None else canary
        canary_s = self._config.canary_s if canary_s is None else canary_s
        if canary and canary >= len(slots):
            return (f"a canary of {canary} leaves no worker to compare it with: {len(slots)} "
                    "serve; take fewer, or none: --canary 0")
        self.end_reload("another reload came")
        trial = Trial(slots[:canary], canary_s, slots[canary:], supervisor.board) \
            if canary else None
        left = [slot for slot in supervisor.slots
                if slot.child is not None and slot not in slots[:canary]]
        logger.info("reloading %d workers", canary + len(left))
        self.reloading = Reload(left, trial, supervisor.children())
        return ""

    def fail_reload(self, error: str) -> None:
        """The new code is no good."""
        tried = self.reloading is not None and self.reloading.trial is not None
        self.end_reload(error)
        if tried:
            self.refusal = Refusal(error, time.monotonic())
            logger.warning("the new code is still on disk, and a worker that dies comes back "
                           "with it: put the old code back, and reload, or reload with better")

    def end_reload(self, error: str = "") -> None:
        """The reload under way has come to its end: well, without an error."""
        reloading = self.reloading
        if reloading is None:
            return
        if error:
            logger.error("the reload failed: %s; the workers that are left serve on", error)
        else:
            logger.info("reloaded")
            self.refusal = None
            for child in self._supervisor.children():
                child.doubtful = False
        reloading.end(error)
        self.reloading = None
        for slot in self._supervisor.slots:
            self._restore(slot)
        self._supervisor.on_reloaded()

    def doubts(self, reason: str) -> bool:
        """Whether a worker that starts now, for this reason, may have the code that was refused."""
        return self.refusal is not None and reason not in RELOADS

    def turn(self) -> None:
        """Start the next successor, if the one before serves."""
        if any(slot.successor is not None for slot in self._supervisor.slots):
            return
        if self.reloading is not None:
            self._go_on_reloading(self.reloading)
        elif self.recycling.bounded and self.refusal is None \
                and self.recycled not in self._supervisor.leaving:
            self._recycle()

    def follow(self, slot: Slot, before: Child) -> None:
        """A successor has taken a slot: its predecessor ends, or stands by."""
        if self.reloading is None or not self.reloading.tries(slot):
            self._supervisor.retire_child(before)
            return
        slot.parked = before
        self._supervisor.stop_covering(before)
        before.orders.send({"order": "park"})

    def on_failed_successor(self, slot: Slot, child: Child, how: str) -> None:
        """The old worker goes on."""
        if self.reloading is not None and child.reason in RELOADS:
            self.fail_reload(f"the new worker {how}")
        else:
            slot.failures += 1
            self._supervisor.wait_to_start(slot)

    def _go_on_reloading(self, reloading: Reload) -> None:
        trial = reloading.trial
        left, reason = (reloading.left, "reload") if trial is None else (trial.left, "canary")
        for slot in list(left):
            if slot not in self._supervisor.slots or slot.retiring \
                    or slot.child not in reloading.old:
                left.remove(slot)
            elif slot.child.ready:
                left.remove(slot)
                slot.successor = self._supervisor.start(slot, reason)
                return
        if left:
            return      # they start, with the old code perhaps, and within boot_timeout_s
        if trial is None:
            self.end_reload()
        else:
            self._go_on_trying(reloading, trial)

    def _go_on_trying(self, reloading: Reload, trial: Trial) -> None:
        """The canaries serve: wait, compare, and go on or take them back."""
        verdict = trial.turn()
        if verdict is None:
            return
        if not verdict.good:
            self.fail_reload(verdict.text)
            return
        logger.info("the canary is good: %s", verdict.text)
        reloading.trial = None
        reloading.verdict = verdict.text
        for slot in trial.slots:
            if slot.parked is not None:
                self._supervisor.leave(slot, slot.parked)

    def _restore(self, slot: Slot) -> None:
        """The predecessor, if it stands by, has its slot again."""
        parked = slot.parked
        if parked is None:
            return
        parked.orders.send({"order": "unpark"})
        for child in (slot.child, slot.successor):
            if child is not None:
                self._supervisor.leave(slot, child)
        slot.child, slot.parked = parked, None

    def _recycle(self) -> None:
        """A successor for who has served for long enough, the oldest first."""
        now_s = time.monotonic()
        serving = [
            (slot, slot.child) for slot in self._supervisor.slots
            if slot.child is not None and slot.serves() and not slot.retiring
            and now_s >= slot.start_at_s]
        for slot, child in sorted(serving, key=lambda pair: pair[1].born_s):
            requests = self._supervisor.board.number(child.block, AT_REQUESTS)
            why = self.recycling.due(child.term, child.pid, requests, now_s - child.born_s)
            if why is not None:
                logger.info("worker %d of slot %d is replaced: %s", child.pid, slot.index, why.text)
                self.recycled = child
                slot.successor = self._supervisor.start(slot, why.kind)
                return
