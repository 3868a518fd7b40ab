"""One reload: who is left to be replaced, whether the new code is tried first, how it came out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastserve.canary import Trial
from fastserve.control import Answer, refused
from fastserve.slots import Child, Slot


class Reload:
    """A reload under way, or its outcome.

    left:   the slots whose workers are to be replaced, once the trial is over
    trial:  of the new code on some slots; None: there is none, or it went well
    old:    the workers there were when it began: who comes later has the new code
    """

    def __init__(self, left: list[Slot], trial: Trial | None, old: Iterable[Child]) -> None:
        self.left = left
        self.trial = trial
        self.old = frozenset(old)
        self.verdict = ""
        self._error = ""
        self._over = False

    def tries(self, slot: Slot) -> bool:
        """Whether the predecessor in a slot stands by."""
        return self.trial is not None and slot in self.trial.slots

    def end(self, error: str) -> None:
        """It is over; without an error it went well."""
        self._over = True
        self._error = error

    def outcome(self) -> Answer | None:
        """The answer to who asked for it."""
        if not self._over:
            return None
        if self._error:
            return refused(self._error)
        return {"ok": True, "canary": self.verdict} if self.verdict else {"ok": True}


def order_of(canary: Any, canary_s: Any) -> tuple[int | None, float | None]:
    """How an order for a reload wants the new code to be tried; None: as set.

    Raises ValueError.
    """
    if canary is not None and (
            isinstance(canary, bool) or not isinstance(canary, int) or canary < 0):
        raise ValueError(f"canary={canary!r}: must be a number of workers")
    if canary_s is not None and (
            isinstance(canary_s, bool) or not isinstance(canary_s, (int, float))
            or not 0.1 <= canary_s <= 86400):
        raise ValueError(f"canary_s={canary_s!r}: must be from 0.1 to 86400 seconds")
    return canary, canary_s
