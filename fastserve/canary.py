"""A reload that is tried on a few workers first: how they do beside those with the old code.

The rule, in full. The new code fails at once when one of its workers dies, stalls or does not
start; and when its answers with a 5xx status are more than its siblings' share of them would be,
by at least ERRORS, by more than ERROR_SHARE of its answers, and by more than chance makes
(DEVIATIONS standard deviations). At the end of its time it fails when its answers take more than
SLOWER times as long as its siblings', and more than SLOWER_S longer: the median, where each side
has given MEDIAN_OF answers, or the 99th percentile, where each has given P99_OF. Otherwise it
passes, with little traffic too: the verdict says how much there was.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Any, NamedTuple

from fastserve.readings import Series
from fastserve.shm import SharedBoard
from fastserve.slots import Slot

ERRORS, ERROR_SHARE, DEVIATIONS = 3, 0.01, 3.0
SLOWER, SLOWER_S = 2.0, 0.010
MEDIAN_OF, P99_OF = 20, 500     # of fewer, a few decide

logger = logging.getLogger("fastserve")


class Verdict(NamedTuple):
    """What came out, and the sentence that says so with numbers."""

    good: bool
    text: str


class Trial:
    """The new code on some slots, while their predecessors stand by.

    slots:    who tries it
    lasts_s:  how long, from when all of them serve
    others:   the slots that go on with the old code
    """

    def __init__(
        self, slots: list[Slot], lasts_s: float, others: list[Slot], board: SharedBoard
    ) -> None:
        self.slots = slots
        self.left = list(slots)     # not yet replaced
        self.lasts_s = lasts_s
        self.until_s: float | None = None
        self._board = board
        self._before = {
            slot.child: board.worker(slot.child.block).total()
            for slot in others if slot.child is not None}

    def turn(self) -> Verdict | None:
        """All of them serve: what comes of it, once that is known."""
        now_s = time.monotonic()
        if self.until_s is None:
            self.until_s = now_s + self.lasts_s
            logger.info("canary: %d workers have the new code, for %g s at first",
                        len(self.slots), self.lasts_s)
        if any(slot.child is None or slot.retiring for slot in self.slots):
            return Verdict(False, "the canary's place was taken away")
        new, old = self.counts()
        if now_s >= self.until_s or fails_more(new, old):
            return judge(new, old)
        return None

    def counts(self) -> tuple[Series, Series]:
        """What the new code and the old have answered meanwhile."""
        new = old = Series("", "")
        for slot in self.slots:
            if slot.child is not None and slot.child.reason == "canary":
                new = new.plus(self._board.worker(slot.child.block).total())
        for child, before in self._before.items():
            if child.slot.child is child:   # a worker that replaced it would have the new code
                old = old.plus(self._board.worker(child.block).total().minus(before))
        return new, old

    def status(self) -> dict[str, Any]:
        """What operators see of it."""
        new, old = self.counts()
        left_s = None if self.until_s is None else round(self.until_s - time.monotonic(), 3)
        return {
            "slots": [slot.index for slot in self.slots],
            "left_s": left_s,
            "canary": figures(new),
            "siblings": figures(old),
        }


def judge(new: Series, old: Series) -> Verdict:
    """Whether the new code does as well as the old."""
    shown = f"canary: {_shown(new)}; siblings: {_shown(old)}"
    if fails_more(new, old):
        return Verdict(False, f"more answers are 5xx: {shown}")
    for name, part, enough in (("median", 0.5, MEDIAN_OF), ("99th percentile", 0.99, P99_OF)):
        if min(new.count, old.count) >= enough:
            now_s, then_s = new.quantile_s(part) or 0.0, old.quantile_s(part) or 0.0
            if now_s > SLOWER * then_s and now_s > then_s + SLOWER_S:
                return Verdict(False, f"answers take longer, by the {name}: {shown}")
    return Verdict(True, shown)


def fails_more(new: Series, old: Series) -> bool:
    """Whether the new code answers with 5xx more often, by more than chance."""
    expected = _share(old) * new.count
    more = new.errors() - expected
    return (more >= ERRORS and more > ERROR_SHARE * new.count
            and more > DEVIATIONS * math.sqrt(expected))


def figures(counts: Series) -> dict[str, Any]:
    """For programs."""
    return {
        "requests": counts.count,
        "errors": counts.errors(),
        "median_s": counts.quantile_s(0.5),
        "p99_s": counts.quantile_s(0.99),
    }


def _share(counts: Series) -> float:
    return counts.errors() / counts.count if counts.count else 0.0


def _shown(counts: Series) -> str:
    if not counts.count:
        return "no answers"
    return (f"{counts.count:,} answers, {counts.errors():,} of them 5xx ({_share(counts):.1%}), "
            f"median {(counts.quantile_s(0.5) or 0) * 1e3:.3g} ms, "
            f"p99 {(counts.quantile_s(0.99) or 0) * 1e3:.3g} ms")
