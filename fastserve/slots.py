"""The places for workers, and the processes in them, as the supervisor knows them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from fastserve.orders import Orders
from fastserve.recycling import Term

TURN_S = 0.25               # how often the silent are looked for
KILL_AFTER_S = 1.0          # from the bound of a graceful stop, or a stack dump, to SIGKILL


@dataclass(eq=False)
class Child:
    """A worker process.

    cell:       of the Beats
    block:      of the Board
    term:       how long it may serve
    reason:     why it was started, where another had served: one of readings.REASONS
    ready:      it has said that it serves
    stalled:    its loop does not turn; others accept for it
    excused_s:  of the time since it last turned, in which the supervisor did not run either
    dismissed:  it has been told to end
    leaves:     it has begun to end, whoever told it to
    deaf:       its end of the talk is closed, so it is about to end
    kill_at_s:  when it is killed if it has not ended, or become ready
    because:    what an end would be due to
    told:       what it was doing is in the log
    doubtful:   it took the code on disk after a canary had been refused
    """

    pid: int
    slot: Slot
    orders: Orders
    cell: int
    block: int
    term: Term
    born_s: float
    reason: str = ""
    ready: bool = False
    stalled: bool = False
    excused_s: float = 0.0
    dismissed: bool = False
    leaves: bool = False
    deaf: bool = False
    kill_at_s: float | None = None
    because: str = ""
    told: bool = False
    doubtful: bool = False


@dataclass(eq=False)
class Slot:
    """A place for one worker, with a listener of its own for each address.

    child:        who serves, or will
    successor:    who will take over once it is ready
    parked:       the predecessor, which stands by while the new code is tried: it accepts nothing
    cover:        the neighbour who accepts for it while nobody does
    failures:     starts that came to nothing, or to little, one after the other
    deaths:       of its workers that nobody had asked for, in all
    restarts:     workers that took the place of another, by why
    reason:       why the next one is started
    start_at_s:   not before then
    retiring:     it is the last one and too many
    retire_at_s:  when its workers are told so
    """

    index: int
    child: Child | None = None
    successor: Child | None = None
    parked: Child | None = None
    cover: Child | None = None
    failures: int = 0
    start_at_s: float = 0.0
    deaths: int = 0
    restarts: Counter[str] = field(default_factory=Counter)
    reason: str = ""
    retiring: bool = False
    retire_at_s: float | None = None

    def children(self) -> list[Child]:
        """Those who serve it, or will, or did and may again."""
        return [child for child in (self.child, self.successor, self.parked) if child is not None]

    def serves(self) -> bool:
        """Whether somebody accepts from its listeners."""
        return self.child is not None and self.child.ready and not self.child.stalled

    def is_over(self, now_s: float) -> bool:
        """Whether it is one too many, and no handshake that began before the steering is left."""
        return self.retire_at_s is not None and now_s >= self.retire_at_s

    def forget(self, child: Child) -> None:
        """It is no longer in this place; a successor moves up."""
        if self.successor is child:
            self.successor = None
        elif self.parked is child:
            self.parked = None
        elif self.child is child:
            self.child, self.successor = self.successor, None
