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
from fastserve.births import CannotStart
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
        for slot in supervisor.slots:
            if slot.child is None:      # the code may be mended: it need not wait any longer
                slot.failures, slot.start_at_s = 0, 0.0
        logger.info("reloading %d workers", canary + len(left))
        self.reloading = Reload(left, trial, supervisor.children())
        return ""

    def takes_at_most_s(self) -> float:
        """How long the reload under way may take."""
        if self.reloading is None:
            return 0.0
        trial = self.reloading.trial
        starts = sum(1 if slot.serves() else 2      # one, perhaps, that has begun with the old code
                     for slot in self._supervisor.slots if not slot.retiring)
        return starts * self._config.boot_timeout_s + (0 if trial is None else trial.lasts_s)

    def fail_reload(self, error: str) -> None:
        """The new code is no good."""
        tried = self.reloading is not None and self.reloading.trial is not None
        if tried:
            self.refusal = Refusal(error, time.monotonic())
        self.end_reload(error)
        if tried:
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
        for slot in self._supervisor.slots:
            if slot.parked is not None:
                self._restore(slot, slot.parked)
            elif error and slot.child is not None and self.tries(slot.child):
                slot.child.doubtful = True      # its predecessor has ended meanwhile
        reloading.end(error)
        self.reloading = None
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
        if slot.child is None or not self.tries(slot.child):
            self._supervisor.retire_child(before)
            return
        slot.parked = before
        self._supervisor.stop_covering(before)
        before.orders.send({"order": "park"})

    def tries(self, child: Child) -> bool:
        """Whether a worker is a canary, with the new code on trial."""
        return self.reloading is not None and self.reloading.tries(child.slot) \
            and child.reason == "canary" and not self.was_before(child)

    def was_before(self, child: Child) -> bool:
        """Whether a worker is older than the reload under way."""
        return self.reloading is not None and child in self.reloading.old

    def takes_back(self, child: Child, canary: str, new: str) -> bool:
        """Whether the end of who had a slot ends the reload, and a predecessor has the slot again.

        canary, new:  what to say of it, where it was one or the other
        """
        if self.tries(child):
            has_predecessor = child.slot.parked is not None
            self.fail_reload(canary)
            return has_predecessor
        if self.reloading is not None and child not in self.reloading.old and not child.ready:
            self.fail_reload(new)
        return False

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
                try:
                    slot.successor = self._supervisor.start(slot, reason)
                except CannotStart as error:
                    self.end_reload(str(error))     # which says nothing about the code
                return
        if left:
            return      # they start, with the old code perhaps, and within boot_timeout_s
        if trial is None:
            if all(slot.child is not None and slot.child.ready
                   for slot in self._supervisor.slots if not slot.retiring):
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

    def _restore(self, slot: Slot, parked: Child) -> None:
        """The predecessor, which stood by, has its slot again."""
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
                try:
                    slot.successor = self._supervisor.start(slot, why.kind)
                except CannotStart as error:
                    logger.error("%s; worker %d serves on", error, child.pid)
                    slot.failures += 1
                    self._supervisor.wait_to_start(slot)
                return
